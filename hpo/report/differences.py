"""Forest plot of a verdict: by how much the winner scores higher than default, other finalists and baselines."""

from statistics import fmean
from typing import TYPE_CHECKING

from hpo.report.drawing import BLUE, GREY, empty_figure, named, plotly_text
from hpo.report.report_data import ReportData
from hpo.verdict.wording import amount, is_share

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NO_VERDICT = "Nothing was confirmed, so there are no differences to show."


def differences(data: ReportData) -> "Figure | str":
    """Draw each difference with its 95% interval, and a dot for each seed of the winner; right of 0 it is better."""
    verdict = data.verdict
    if verdict is None:
        return NO_VERDICT
    scale = 100 if is_share(verdict.metric) else 1
    found = [one for one in verdict.differences if one.trial == verdict.winner]
    unit = f"{plotly_text(verdict.metric.replace('_', ' '))} points" if scale == 100 else plotly_text(verdict.metric)
    title = f"trial {verdict.winner} scores higher by, in {unit}"
    figure = empty_figure(
        110 + 40 * len(found), xaxis={"title": title, "zeroline": True, "zerolinewidth": 2}, showlegend=False
    )
    for place, one in enumerate(found):
        scores = verdict.by_trial[one.trial].scores
        # Around the difference, which is that of their mean.
        seeds = [scale * (one.difference + score - fmean(scores)) for score in scores]
        figure.add_scatter(
            x=seeds, y=[place] * len(seeds), mode="markers", hoverinfo="x", marker={"color": GREY, "size": 6},
        )  # fmt: skip
    middles = [scale * one.difference for one in found]
    figure.add_scatter(
        x=middles, y=list(range(len(found))), mode="markers", hoverinfo="text",
        text=[f"{amount(verdict.metric, one.difference)}: {one.decision}" for one in found],
        marker={"color": BLUE, "size": 11, "symbol": "square"},
        error_x={
            "symmetric": False, "thickness": 2, "color": BLUE,
            "array": [scale * (one.interval.high - one.difference) for one in found],
            "arrayminus": [scale * (one.difference - one.interval.low) for one in found],
        },
    )  # fmt: skip
    names = [plotly_text(one.against) for one in found]
    return figure.update_yaxes(**named(names), autorange="reversed")
