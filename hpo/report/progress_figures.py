"""Progress figures of a search: the best score over time, and every trial's learning curve."""

from collections.abc import Sequence
from itertools import accumulate, cycle, groupby
from typing import TYPE_CHECKING

from hpo.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    VIOLET,
    empty_figure,
    plotly_text,
    score_axis,
    value_text,
)
from hpo.report.report_data import ReportData
from hpo.store.history import Evaluation
from hpo.store.results import TrialResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DASHES = ("dot", "dashdot", "longdash")
"""Of the baselines' lines."""
FAR_BELOW = 2.0
"""How many times as far below the lowest trial as the best line is above it."""
UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def over_time(data: ReportData) -> "Figure | str":
    """Draw the score of each finished trial, the best so far, and what the winner has to beat."""
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
    """Draw the score of every trial over the examples it had seen; pruned and failed ones faintly."""
    trials = {trial.number: trial for trial in data.results.trials}
    curves = {number: told for number, told in curves_of(data).items() if number in trials}
    if not curves:
        return "No trial has been evaluated yet, so there are no learning curves."
    figure = empty_figure(420, xaxis={"title": seen_title(data)})
    figure.update_yaxes(**score_axis(data.results.metric))
    recommended = data.recommended
    for name, states, look in (
        ("pruned or failed", ("PRUNED", "FAIL"), {"color": GREY, "width": 1, "opacity": 0.35}),
        ("completed", ("COMPLETE",), {"color": BLUE, "width": 1.4, "opacity": 0.6}),
        ("in training or waiting", ("RUNNING", "WAITING"), {"color": GREEN, "width": 1.4, "opacity": 0.8}),
    ):
        kept = [told for number, told in curves.items() if trials[number].state in states]
        _add_lines(figure, kept, name, **look)  # type: ignore[arg-type]
    if recommended is not None and recommended.number in curves:
        _add_lines(
            figure, [curves[recommended.number]], f"trial {recommended.number}", color=ORANGE, width=3, opacity=1.0
        )
    return figure


def curves_of(data: ReportData) -> dict[int, list[Evaluation]]:
    """Return trial -> its evaluations, of those that have any."""
    return {number: list(told) for number, told in groupby(data.history.evaluations, key=lambda one: one.trial)}


def seen_title(data: ReportData) -> str:
    """Return the title of an axis on which an evaluation is where its rung is, in per cent."""
    seen = "folds that were scored, the last their mean" if data.in_folds else "longest trial that was seen"
    return f"share of the {seen}, in %"


def _add_lines(
    figure: "Figure", curves: Sequence[Sequence[Evaluation]], name: str, *, color: str, width: float, opacity: float
) -> None:
    """Add all `curves` as one trace, with gaps in between: a trace of each would be slow to draw and heavy."""
    if not curves:
        return
    lines, lonely = ([told for told in curves if (len(told) > 1) == several] for several in (True, False))
    for mode, kept in (("lines", lines), ("markers", lonely)):
        points: list[tuple[float | None, float | None, str]] = []
        for told in kept:
            points += [
                (one.rung / 10, one.score, f"trial {one.trial}, epoch {one.epoch:.2g}: {value_text(one.score)}")
                for one in told
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

    What is far below all trials would press them together: it is in the legend, to be switched on.

    Args:
        figure: of scores over time.
        data: the study.
        ends: of the time axis.
        lowest: score of a completed trial.
    """
    default, verdict = data.results.default, data.verdict
    lines: list[tuple[str, float, str, str]] = []
    if default is not None and default.state == "COMPLETE" and default.score is not None:
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
