"""Score figures: best score over time, learning curves, lead over others (forest plot), confusion matrix, slices."""

from collections.abc import Sequence
from itertools import accumulate, cycle, groupby
from statistics import fmean
from typing import TYPE_CHECKING

from hpo.config.tasks import facts_of
from hpo.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    VIOLET,
    axis_title,
    bars,
    empty_figure,
    named,
    plotly_text,
    score_axis,
    value_text,
)
from hpo.report.report_data import ReportData
from hpo.store.results import Evaluation, TrialResult
from hpo.verdict.wording import amount, is_share

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DASHES = ("dot", "dashdot", "longdash")
"""Dashes of the baselines' lines."""
FAR_BELOW = 2.0
"""Ratio above which a line is hidden: its distance below the lowest trial, over that of the best line above it."""
UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
NO_VERDICT = "Nothing was confirmed, so there are no differences to show."
MOST_WRITTEN = 15
"""Largest number of classes for which the cells of a confusion matrix have text."""
MOST_SLICES = 30
NO_TRIAL = "No trial has completed yet, so nothing was scored."
TRANSPARENT = "rgba(59,125,216,0)"


def over_time(data: ReportData) -> "Figure | str":
    """Draw the score of each completed trial over time, the best so far, and the default and baselines."""
    finished = _finished(data)
    if not finished:
        return "No trial has completed yet, so there is no score over time."
    last = max(finished[-1][0], _since(data, data.state.now) if data.led_by else 0.0)
    unit, seconds = next(((name, size) for name, size in UNITS if last >= 2 * size), UNITS[-1])
    figure = empty_figure(380, xaxis={"title": f"{unit} since the first trial began"})
    figure.update_yaxes(**score_axis(data.results.metric))
    times = [ended / seconds for ended, _ in finished]
    scores = [trial.score or 0.0 for _, trial in finished]
    best = list(accumulate(scores, max))
    text = [f"trial {trial.number}: {value_text(trial.score)}" for _, trial in finished]
    figure.add_scatter(
        x=times, y=scores, text=text, hoverinfo="text", mode="markers", name="completed trials",
        marker={"color": GREY, "size": 6},
    )  # fmt: skip
    figure.add_scatter(
        x=[*times, last / seconds], y=[*best, best[-1]], mode="lines", name="best so far", hoverinfo="skip",
        line={"color": BLUE, "shape": "hv", "width": 2.5},
    )  # fmt: skip
    _add_references(figure, data, (0.0, last / seconds), min(scores))
    return figure


def learning_curves(data: ReportData) -> "Figure | str":
    """Draw the score of every trial over the examples seen; pruned and failed trials are faint."""
    trials = {trial.number: trial for trial in data.results.trials}
    curves = {number: curve for number, curve in curves_of(data).items() if number in trials}
    if not curves:
        return "No trial has been evaluated yet, so there are no learning curves."
    figure = empty_figure(420, xaxis={"title": seen_title(data)})
    figure.update_yaxes(**score_axis(data.results.metric))
    recommended = data.recommended
    for name, states, style in (
        ("pruned or failed", ("PRUNED", "FAIL"), {"color": GREY, "width": 1, "opacity": 0.35}),
        ("completed", ("COMPLETE",), {"color": BLUE, "width": 1.4, "opacity": 0.6}),
        ("in training or waiting", ("RUNNING", "WAITING"), {"color": GREEN, "width": 1.4, "opacity": 0.8}),
    ):
        kept = [curve for number, curve in curves.items() if trials[number].state in states]
        _add_lines(figure, kept, name, **style)  # type: ignore[arg-type]
    if recommended is not None and recommended.number in curves:
        _add_lines(
            figure, [curves[recommended.number]], f"trial {recommended.number}", color=ORANGE, width=3, opacity=1.0
        )
    return figure


def curves_of(data: ReportData) -> dict[int, list[Evaluation]]:
    """Return trial -> its evaluations, for trials that have any."""
    return {number: list(curve) for number, curve in groupby(data.history.evaluations, key=lambda one: one.trial)}


def seen_title(data: ReportData) -> str:
    """Return the title of an axis of rungs, in per cent."""
    seen = "folds that were scored, the last their mean" if data.in_folds else "longest trial that was seen"
    return f"share of the {seen}, in %"


def _add_lines(
    figure: "Figure", curves: Sequence[Sequence[Evaluation]], name: str, *, color: str, width: float, opacity: float
) -> None:
    """Add all `curves` as one trace with gaps, because a trace for each would be slow to draw and large."""
    if not curves:
        return
    lines, single = ([curve for curve in curves if (len(curve) > 1) == several] for several in (True, False))
    for mode, kept in (("lines", lines), ("markers", single)):
        points: list[tuple[float | None, float | None, str]] = []
        for curve in kept:
            points += [
                (one.rung / 10, one.score, f"trial {one.trial}, epoch {one.epoch:.2g}: {value_text(one.score)}")
                for one in curve
            ]
            points.append((None, None, ""))  # A gap.
        if points:
            x, y, text = zip(*points[:-1], strict=True)
            figure.add_scatter(
                x=x, y=y, text=text, hoverinfo="text", name=name, mode=mode, opacity=opacity,
                line={"color": color, "width": width}, marker={"color": color},
                legendgroup=name, showlegend=mode == "lines" or not lines,
            )  # fmt: skip


def _finished(data: ReportData) -> list[tuple[float, TrialResult]]:
    """Return (seconds since the first trial began, trial) of completed trials, in the order in which they ended."""
    completed = data.results.leaderboard
    timed = [(_since(data, one.ended_at), one) for one in completed if one.ended_at is not None]
    return sorted(timed, key=lambda pair: (pair[0], pair[1].number))


def _since(data: ReportData, moment: float) -> float:
    return max(0.0, (moment - (data.history.begun_at or moment)))


def _add_references(figure: "Figure", data: ReportData, ends: tuple[float, float], lowest: float) -> None:
    """Add lines for the default, each baseline, and the confirmed score with its interval.

    A line far below all trials would compress the axis, so it is hidden until its entry in the legend is clicked.

    Args:
        figure: the figure of scores over time.
        data: the study.
        ends: ends of the time axis.
        lowest: lowest score of a completed trial.
    """
    default, verdict = data.results.completed_default, data.verdict
    lines: list[tuple[str, float, str, str]] = []
    if default is not None and default.score is not None:
        lines.append(("the default", default.score, RED, "dash"))
    lines += [
        (name, score, VIOLET, dash) for (name, score, _), dash in zip(data.baselines, cycle(DASHES), strict=False)
    ]
    if verdict is not None:
        recommended = verdict.by_trial[verdict.recommended]
        lines.append((f"trial {recommended.trial}, confirmed", recommended.score, GREEN, "solid"))
        low, high = recommended.interval.low, recommended.interval.high
        figure.add_hrect(y0=low, y1=high, fillcolor=GREEN, opacity=0.15, line_width=0)
    far = lowest - FAR_BELOW * max(score - lowest for _, score, _, _ in lines) if lines else lowest
    for name, score, color, dash in lines:
        figure.add_scatter(
            x=list(ends), y=[score] * 2, mode="lines", name=f"{plotly_text(name)} {value_text(score)}",
            line={"color": color, "dash": dash, "width": 1.5}, hoverinfo="name",
            visible="legendonly" if score < far else True,
        )  # fmt: skip


def differences(data: ReportData) -> "Figure | str":
    """Draw the winner's difference to each other configuration with its 95% interval, and a dot for each seed."""
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
        # Each seed's deviation from the mean is added to the difference, which is that of the mean.
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


def confusion_matrix(data: ReportData) -> "Figure | str":
    """Draw the predicted labels of the examples of each label, in per cent of that label's examples."""
    found = data.recommended_scores
    if found is None:
        return NO_TRIAL
    counts, labels = found.scores.confusion, tuple(found.scores.per_class)
    if not counts:
        return "The scores of this study have no confusion matrix."
    names = [plotly_text(label, 24) for label in labels]
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    places = list(range(len(names)))
    figure = empty_figure(min(900, 170 + 34 * len(names)), xaxis={"title": "predicted"}, yaxis={"title": "label"})
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
    """Draw the scores of the groups of examples, the lowest first."""
    if data.results.configuration.get("data", {}).get("group_column") is None:
        return "The examples have no groups; data.group_column names a column of them."
    return _of_slices(data, "group")


def by_length(data: ReportData) -> "Figure | str":
    """Draw scores by the length of the examples."""
    return _of_slices(data, "length")


def _of_slices(data: ReportData, by: str) -> "Figure | str":
    found = data.recommended_scores
    if found is None:
        return NO_TRIAL
    slices = [one for one in found.slices if one.by == by]
    if not slices:
        return f"Scores by {by} are computed when a trial is confirmed or tested; this one was neither."
    if by == "group":
        largest = sorted(slices, key=lambda one: -one.rows)[:MOST_SLICES]
        slices = sorted(largest, key=lambda one: one.score)
    # The metric of slices may differ from the study's metric.
    metric = next(name for name in facts_of(data.results.configuration).slices if name in found.scores.values)
    names, scores = [f"{plotly_text(one.name)} ({one.rows})" for one in slices], [one.score for one in slices]
    figure = bars(names, scores, [f"{score:.3f}" for score in scores], {"title": axis_title(metric)})
    return figure.add_vline(x=found.scores.values[metric], line={"dash": "dot", "width": 1.5, "color": ORANGE})


def _cell(names: list[str], row: int, column: int, counts: tuple[int, ...]) -> str:
    return f"{names[row]} predicted as {names[column]}: {counts[column]} of {sum(counts)}"
