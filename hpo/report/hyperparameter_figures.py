"""Hyperparameter figures of the completed trials: parallel coordinates, slices, importances, rates by optimizer."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hpo.report.drawing import (
    BLUE,
    GREY,
    ORANGE,
    RISING,
    SERIES,
    Scale,
    axis_title,
    bars,
    empty_figure,
    plotly_text,
    score_axis,
    value_text,
)
from hpo.report.report_data import ReportData
from hpo.store.optuna_adapter import quiet_optuna
from hpo.store.results import TrialResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLUMNS = 3
UNUSED_PLACE = -0.12
"""Position of a trial on the axis of a hyperparameter that it does not have."""
MOST_NAMES = 9
FEWEST_TRIALS = 4
SURE_TRIALS = 40
"""Completed trials below which importances come with a caution."""


def varied(trials: Sequence[TrialResult]) -> tuple[str, ...]:
    """Return the hyperparameters that the search varied and that took more than one value in `trials`."""
    names = dict.fromkeys(name for trial in trials for name in trial.sampled)
    return tuple(name for name in names if len({value_text(trial.configuration.get(name)) for trial in trials}) > 1)


def parallel_coordinates(data: ReportData) -> "Figure | str":
    """Draw each completed trial as a line through the values of its hyperparameters to its score."""
    trials = data.results.leaderboard
    names = varied(trials)
    if len(trials) < 2 or not names:
        return _too_little(trials)
    figure = empty_figure(460, xaxis={"visible": False}, yaxis={"visible": False, "range": [-0.32, 1.16]})
    scales = {name: Scale([trial.configuration.get(name) for trial in _having(trials, name)]) for name in names}
    scores = Scale([trial.score for trial in trials])
    for band in range(len(RISING)):
        chosen = [trial for trial in reversed(trials) if _band(scores.share(trial.score)) == band]
        _add_paths(figure, chosen, scales, scores, band)
    _add_axes(figure, scales, scores, data.results.metric)
    return figure


def slices(data: ReportData) -> "Figure | str":
    """Draw the score of completed trials against each hyperparameter that the search varied."""
    from plotly.subplots import make_subplots

    trials = data.results.leaderboard
    names = varied(trials)
    if len(trials) < 2 or not names:
        return _too_little(trials)
    rows = -(-len(names) // COLUMNS)
    titles = [axis_title(name) for name in names]
    grid = make_subplots(
        rows, COLUMNS, shared_yaxes=True, subplot_titles=titles, vertical_spacing=0.28 / rows, horizontal_spacing=0.04
    )
    grid.update_layout(empty_figure(60 + 210 * rows).layout, showlegend=False)
    recommended = data.recommended
    for place, name in enumerate(names):
        cell = {"row": place // COLUMNS + 1, "col": place % COLUMNS + 1}
        having = _having(trials, name)
        scale = Scale([trial.configuration.get(name) for trial in having])
        chosen = [trial is recommended for trial in having]
        marker = {"color": [ORANGE if one else BLUE for one in chosen], "size": [10 if one else 6 for one in chosen]}
        grid.add_scatter(**_points(having, name, scale), marker=marker, opacity=0.75, **cell)
        grid.update_xaxes(scale.axis(), **cell)
    return grid


def learning_rate_by_optimizer(data: ReportData) -> "Figure | str":
    """Draw the score of completed trials against the actual peak learning rate, with a colour for each optimizer."""
    trials = [
        trial for trial in data.results.leaderboard if {"learning_rate", "optimizer"} <= trial.configuration.keys()
    ]
    rates = [float(trial.configuration["learning_rate"]) for trial in trials]
    if len(set(rates)) < 2:
        return "Fewer than two learning rates have completed, so there is nothing to compare."
    scale = Scale(rates)
    figure = empty_figure(380, xaxis=scale.axis() | {"title": "peak learning rate"})
    figure.update_yaxes(**score_axis(data.results.metric))
    for place, optimizer in enumerate(sorted({trial.configuration["optimizer"] for trial in trials}, key=str)):
        chosen = [trial for trial in trials if trial.configuration["optimizer"] == optimizer]
        marker = {"color": SERIES[place % len(SERIES)], "size": 8, "symbol": place // len(SERIES)}
        points = _points(chosen, "learning_rate", scale)
        figure.add_scatter(**points, marker=marker, name=plotly_text(optimizer), showlegend=True)
    return figure


def importances(data: ReportData) -> "Figure | str":
    """Draw the share of the difference between completed trials that each hyperparameter explains (PED-ANOVA)."""
    shares = _importances(data)
    if isinstance(shares, str):
        return shares
    ordered = sorted(shares.items(), key=lambda pair: -pair[1])
    names = [axis_title(name.removesuffix("_multiplier")) for name, _ in ordered]
    values, texts = [share for _, share in ordered], [f"{share:.0%}" for _, share in ordered]
    figure = bars(names, values, texts, {"title": "share of the importance", "rangemode": "tozero"})
    if (trials := len(data.history.completed)) < SURE_TRIALS:
        caution = f"From only {trials} trials: read this as a hint."
        figure.update_layout(title={"text": caution, "font": {"size": 13}, "x": 0, "xanchor": "left"})
    return figure


def _importances(data: ReportData) -> dict[str, float] | str:
    """Return hyperparameter -> share of the importance, or the reason that there is none.

    A relative learning rate is represented by its multiplier.
    """
    import optuna

    trials = data.history.completed
    if len(trials) < FEWEST_TRIALS:
        return f"Importances need at least {FEWEST_TRIALS} completed trials; there are {len(trials)}."
    if len({trial.values[0] for trial in trials}) < 2:
        return "All completed trials score the same, so no hyperparameter is more important than another."
    try:
        with warnings.catch_warnings(), quiet_optuna():
            warnings.simplefilter("ignore")  # PED-ANOVA is experimental in Optuna.
            study = optuna.create_study(direction="maximize")
            study.add_trials(trials)
            shares = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError) as error:
        return f"Importances could not be computed from these trials: {error}"
    known = {name: share for name, share in shares.items() if share == share}
    return known or "The search varied no hyperparameter, so none has an importance."


def _too_little(trials: Sequence[TrialResult]) -> str:
    if len(trials) < 2:
        return "Fewer than two trials have completed, so there is nothing to compare."
    return "The completed trials differ in no hyperparameter that the search varied, so there is nothing to compare."


def _having(trials: Sequence[TrialResult], name: str) -> list[TrialResult]:
    """Return the trials for which the hyperparameter was drawn, because the others do not use it."""
    return [trial for trial in trials if name in trial.sampled]


def _pointed(trial: TrialResult, name: str | None = None) -> str:
    """Return the hover text of a trial, with the value of the hyperparameter `name`."""
    value = "" if name is None else f"{axis_title(name)} {plotly_text(value_text(trial.configuration.get(name)))}, "
    return f"trial {trial.number}: {value}score {value_text(trial.score)}"


def _points(trials: Sequence[TrialResult], name: str, scale: Scale) -> dict[str, Any]:
    """Return the settings of a plotly scatter of scores over a hyperparameter."""
    x = [scale.place(trial.configuration.get(name)) for trial in trials]
    y = [trial.score or 0.0 for trial in trials]
    text = [_pointed(trial, name) for trial in trials]
    return {"x": x, "y": y, "text": text, "mode": "markers", "hoverinfo": "text"}


def _band(share: float) -> int:
    return min(len(RISING) - 1, int(share * len(RISING)))


def _add_paths(
    figure: "Figure", trials: Sequence[TrialResult], scales: dict[str, Scale], scores: Scale, band: int
) -> None:
    """Add trials of one band of scores as one trace, with gaps in between."""
    if not trials:
        return
    points: list[tuple[float | None, float | None, str]] = []
    for trial in trials:
        for place, (name, scale) in enumerate(scales.items()):
            crossing = scale.share(trial.configuration.get(name)) if name in trial.sampled else UNUSED_PLACE
            points.append((place, crossing, _pointed(trial, name)))
        points += [(len(scales), scores.share(trial.score), _pointed(trial)), (None, None, "")]
    x, y, text = zip(*points[:-1], strict=True)
    figure.add_scatter(
        x=x, y=y, text=text, mode="lines", hoverinfo="text", showlegend=False,
        line={"color": RISING[band], "width": 1 + band / 2}, opacity=0.35 + 0.13 * band,
    )  # fmt: skip


def _add_axes(figure: "Figure", scales: dict[str, Scale], scores: Scale, metric: str) -> None:
    """Add a vertical line for each axis, with its ticks and its name below."""
    for place, (name, scale) in enumerate([*scales.items(), (metric, scores)]):
        figure.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": GREY, "width": 1}, layer="below")
        label = {"x": place, "showarrow": False, "bgcolor": "rgba(127,127,127,0.12)", "font": {"size": 10}}
        for share, text in _ticks(scale):
            figure.add_annotation(y=share, text=text, **label)
        upright = {"textangle": -30, "xanchor": "right", "yanchor": "top", "font": {"size": 11}}
        figure.add_annotation(x=place, y=-0.14, text=axis_title(name), showarrow=False, **upright)


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    """Return (position on the axis, text) of ticks: the ends of a numeric axis, or names (the ends if many)."""
    if not scale.names:
        low, high = scale.ends
        return [(0.5, value_text(low))] if low == high else [(0.0, value_text(low)), (1.0, value_text(high))]
    shown = scale.names if len(scale.names) <= MOST_NAMES else (scale.names[0], scale.names[-1])
    return [(scale.share(name), plotly_text(name, 16)) for name in shown]
