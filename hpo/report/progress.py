"""Figures of how a search went: the best score over time, and every trial's learning curve."""

from collections.abc import Sequence
from itertools import accumulate, cycle, groupby
from typing import TYPE_CHECKING

from hpo.report.drawing import BLUE, GREEN, GREY, ORANGE, RED, VIOLET, blank, rounded, safe, score_axis, spelled
from hpo.report.report_data import ReportData
from hpo.store.history import Evaluation
from hpo.store.results import TrialResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Point = tuple[float, float, str]
"""Place on both axes, and what is said when it is pointed at."""
GAP = (None, None, "")
DASHES = ("dot", "dashdot", "longdash")
"""Of the baselines' lines."""
FAR_BELOW = 2.0
"""How many times as far below the lowest trial as the best line is above it."""
UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def over_time(material: ReportData) -> "Figure | str":
    """Draw the score of each finished trial, the best so far, and what the winner has to beat."""
    finished = _finished(material)
    if not finished:
        return "No trial has completed yet, so there is no score over time."
    last = max(finished[-1][0], _since(material, material.state.now) if material.led_by else 0.0)
    unit, seconds = next(((name, size) for name, size in UNITS if last >= 2 * size), UNITS[-1])
    figure = blank(380, xaxis={"title": f"{unit} since the first trial began"})
    figure.update_yaxes(**score_axis(material.results.metric))
    times = [rounded(ended / seconds) for ended, _ in finished]
    scores = [rounded(trial.score or 0.0) for _, trial in finished]
    best = list(accumulate(scores, max))
    text = [f"trial {trial.number}: {spelled(trial.score)}" for _, trial in finished]
    figure.add_scatter(
        x=times, y=scores, text=text, hoverinfo="text", mode="markers", name="completed trials",
        marker={"color": GREY, "size": 6},
    )  # fmt: skip
    figure.add_scatter(
        x=[*times, rounded(last / seconds)], y=[*best, best[-1]], mode="lines", name="best so far", hoverinfo="skip",
        line={"color": BLUE, "shape": "hv", "width": 2.5},
    )  # fmt: skip
    _add_ladder(figure, material, (0.0, rounded(last / seconds)), min(scores))
    return figure


def learning_curves(material: ReportData) -> "Figure | str":
    """Draw the score of every trial over the examples it had seen; those that were given up are drawn faintly."""
    trials = {trial.number: trial for trial in material.results.trials}
    curves = {number: told for number, told in curves_of(material).items() if number in trials}
    if not curves:
        return "No trial has been evaluated yet, so there are no learning curves."
    figure = blank(420, xaxis={"title": seen_title(material)})
    figure.update_yaxes(**score_axis(material.results.metric))
    taken = material.taken
    for name, states, look in (
        ("given up or failed", ("PRUNED", "FAIL"), {"color": GREY, "width": 1, "opacity": 0.35}),
        ("completed", ("COMPLETE",), {"color": BLUE, "width": 1.4, "opacity": 0.6}),
        ("in training or waiting", ("RUNNING", "WAITING"), {"color": GREEN, "width": 1.4, "opacity": 0.8}),
    ):
        kept = [told for number, told in curves.items() if trials[number].state in states]
        _add_lines(figure, kept, name, **look)  # type: ignore[arg-type]
    if taken is not None and taken.number in curves:
        _add_lines(figure, [curves[taken.number]], f"trial {taken.number}", color=ORANGE, width=3, opacity=1.0)
    return figure


def curves_of(material: ReportData) -> dict[int, list[Evaluation]]:
    """Return trial -> its evaluations, of those that have any."""
    return {number: list(told) for number, told in groupby(material.course.evaluations, key=lambda one: one.trial)}


def seen_title(material: ReportData) -> str:
    """Return the title of an axis on which an evaluation is where its rung is, in per cent."""
    seen = "folds that were scored, the last their mean" if material.in_folds else "longest trial that was seen"
    return f"share of the {seen}, in %"


def _add_lines(
    figure: "Figure", curves: Sequence[Sequence[Evaluation]], name: str, *, color: str, width: float, opacity: float
) -> None:
    """Add all `curves` as one trace, with gaps in between: a trace of each would be slow to draw and heavy."""
    if not curves:
        return
    lines, lonely = ([told for told in curves if (len(told) > 1) == several] for several in (True, False))
    for mode, kept in (("lines", lines), ("markers", lonely)):
        points = [point for told in kept for point in (*(_point(one) for one in told), GAP)][:-1]
        if points:
            x, y, text = zip(*points, strict=True)
            figure.add_scatter(
                x=x, y=y, text=text, hoverinfo="text", name=name, mode=mode, opacity=opacity,
                line={"color": color, "width": width}, marker={"color": color},
                legendgroup=name, showlegend=mode == "lines" or not lines,
            )  # fmt: skip


def _point(one: Evaluation) -> Point:
    return one.rung / 10, rounded(one.score), f"trial {one.trial}, epoch {one.epoch:.2g}: {spelled(one.score)}"


def _finished(material: ReportData) -> list[tuple[float, TrialResult]]:
    """Return (seconds since the first trial began, trial) of completed trials, in the order in which they ended."""
    completed = material.results.leaderboard
    timed = [(_since(material, one.ended_at), one) for one in completed if one.ended_at is not None]
    return sorted(timed, key=lambda pair: (pair[0], pair[1].number))


def _since(material: ReportData, moment: float) -> float:
    return max(0.0, (moment - (material.course.begun_at or moment)))


def _add_ladder(figure: "Figure", material: ReportData, ends: tuple[float, float], lowest: float) -> None:
    """Add lines for the default, each baseline, and the confirmed score with its interval.

    What is far below all trials would press them together: it is in the legend, to be switched on.

    Args:
        figure: of scores over time.
        material: the study.
        ends: of the time axis.
        lowest: score of a completed trial.
    """
    default, verdict = material.results.default, material.verdict
    lines: list[tuple[str, float, str, str]] = []
    if default is not None and default.state == "COMPLETE" and default.score is not None:
        lines.append(("the default", default.score, RED, "dash"))
    ladder = [(one.name, one.score) for one in verdict.baselines] if verdict else _baselines(material)
    lines += [(name, score, VIOLET, dash) for (name, score), dash in zip(ladder, cycle(DASHES), strict=False)]
    if verdict is not None:
        taken = verdict.by_trial[verdict.recommended]
        lines.append((f"trial {taken.trial}, confirmed", taken.score, GREEN, "solid"))
        low, high = rounded(taken.interval.low), rounded(taken.interval.high)
        figure.add_hrect(y0=low, y1=high, fillcolor=GREEN, opacity=0.15, line_width=0)
    far = lowest - FAR_BELOW * max(score - lowest for _, score, _, _ in lines) if lines else lowest
    for name, score, color, dash in lines:
        figure.add_scatter(
            x=list(ends), y=[rounded(score)] * 2, mode="lines", name=f"{safe(name)} {spelled(score)}",
            line={"color": color, "dash": dash, "width": 1.5}, hoverinfo="name",
            visible="legendonly" if score < far else True,
        )  # fmt: skip


def _baselines(material: ReportData) -> list[tuple[str, float]]:
    return [(name, held_out.scores.objective) for name, held_out in material.results.baselines.items()]
