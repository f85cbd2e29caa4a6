"""Score figures of the trial to take: lead over others (forest plot), confusion matrix, scores by group and length."""

from statistics import fmean
from typing import TYPE_CHECKING

from hpo.config.tasks import facts_of
from hpo.report.drawing import BLUE, GREY, ORANGE, axis_title, bars, empty_figure, named, plotly_text
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


MOST_WRITTEN = 15
"""Classes up to which each cell of a confusion matrix is written out."""
MOST_SLICES = 30
NO_TRIAL = "No trial has completed yet, so nothing was scored."
TRANSPARENT = "rgba(59,125,216,0)"


def confusion_matrix(data: ReportData) -> "Figure | str":
    """Draw which labels the examples of each label were taken for, in per cent of that label's examples."""
    found = data.recommended_scores
    if found is None:
        return NO_TRIAL
    counts, labels = found.scores.confusion, tuple(found.scores.per_class)
    if not counts:
        return "The scores of this study have no confusion matrix."
    names = [plotly_text(label, 24) for label in labels] or [f"class {place}" for place in range(len(counts))]
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    places = list(range(len(names)))
    figure = empty_figure(min(900, 170 + 34 * len(names)), xaxis={"title": "taken for"}, yaxis={"title": "label"})
    figure.add_heatmap(
        z=shares, x=places, y=places, zmin=0, zmax=100, colorscale=[[0, TRANSPARENT], [1, BLUE]], hoverinfo="text",
        text=[[_cell(names, row, column, counts[row]) for column in places] for row in places], xgap=1, ygap=1,
        texttemplate="%{z:.0f}" if len(names) <= MOST_WRITTEN else None, colorbar={"title": "%", "thickness": 12},
    )  # fmt: skip
    ticks = named(names) | {"showgrid": False, "zeroline": False}
    figure.update_xaxes(**ticks)
    figure.update_yaxes(**ticks, autorange="reversed")
    return figure


def by_group(data: ReportData) -> "Figure | str":
    """Draw scores in each group of examples, the worst first."""
    if data.results.configuration.get("data", {}).get("group_column") is None:
        return "The examples have no groups; data.group_column names a column of them."
    return _of_slices(data, "group")


def by_length(data: ReportData) -> "Figure | str":
    """Draw scores on short and on long examples."""
    return _of_slices(data, "length")


def _of_slices(data: ReportData, by: str) -> "Figure | str":
    found = data.recommended_scores
    if found is None:
        return NO_TRIAL
    slices = [one for one in found.slices if one.by == by]
    if not slices:
        return f"Scores by {by} are taken when a trial is confirmed or read on the test split; this one was neither."
    if by == "group":
        largest = sorted(slices, key=lambda one: -one.rows)[:MOST_SLICES]
        slices = sorted(largest, key=lambda one: one.score)
    # Whatever the metric is.
    metric = next(name for name in facts_of(data.results.configuration).slices if name in found.scores.values)
    names, scores = [f"{plotly_text(one.name)} ({one.rows})" for one in slices], [one.score for one in slices]
    figure = bars(names, scores, [f"{score:.3f}" for score in scores], {"title": axis_title(metric)})
    return figure.add_vline(x=found.scores.values[metric], line={"dash": "dot", "width": 1.5, "color": ORANGE})


def _cell(names: list[str], row: int, column: int, counts: tuple[int, ...]) -> str:
    return f"{names[row]} taken for {names[column]}: {counts[column]} of {sum(counts)}"
