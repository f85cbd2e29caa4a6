"""Figures of how the trial to take does: which labels it confuses, and on which texts it does worse."""

from typing import TYPE_CHECKING

from hpo.config.tasks import facts_of
from hpo.report.drawing import BLUE, axis_title, blank, rounded, safe
from hpo.report.report_data import ReportData

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_WRITTEN = 15
"""Classes up to which each cell of a confusion matrix is written out."""
MOST_SLICES = 30
NO_TRIAL = "No trial has completed yet, so nothing was scored."
TRANSPARENT = "rgba(59,125,216,0)"


def confusion_matrix(material: ReportData) -> "Figure | str":
    """Draw what the texts of each label were taken for, in per cent of that label's texts."""
    judged = material.judged
    if judged is None:
        return NO_TRIAL
    counts, labels = judged.scores.confusion, tuple(judged.scores.per_class)
    if not counts:
        return "The scores of this study hold no confusion matrix."
    names = [safe(label, 24) for label in labels] or [f"class {place}" for place in range(len(counts))]
    shares = [[rounded(100 * count / max(1, sum(row))) for count in row] for row in counts]
    places = list(range(len(names)))
    figure = blank(min(900, 170 + 34 * len(names)), xaxis={"title": "taken for"}, yaxis={"title": "label"})
    figure.add_heatmap(
        z=shares, x=places, y=places, zmin=0, zmax=100, colorscale=[[0, TRANSPARENT], [1, BLUE]], hoverinfo="text",
        text=[[_cell(names, row, column, counts[row]) for column in places] for row in places], xgap=1, ygap=1,
        texttemplate="%{z:.0f}" if len(names) <= MOST_WRITTEN else None, colorbar={"title": "%", "thickness": 12},
    )  # fmt: skip
    ticks = {"tickvals": places, "ticktext": names, "automargin": True, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**ticks)
    figure.update_yaxes(**ticks, autorange="reversed")
    return figure


def by_group(material: ReportData) -> "Figure | str":
    """Draw scores in each group of texts, the worst first."""
    if material.results.configuration.get("data", {}).get("group_column") is None:
        return "The texts have no groups; data.group_column names a column of them."
    return _of_slices(material, "group")


def by_length(material: ReportData) -> "Figure | str":
    """Draw scores on short and on long texts."""
    return _of_slices(material, "length")


def _of_slices(material: ReportData, by: str) -> "Figure | str":
    judged = material.judged
    if judged is None:
        return NO_TRIAL
    slices = [one for one in judged.slices if one.by == by]
    if not slices:
        return f"Scores by {by} are taken when a trial is confirmed or read on the test split; this one was neither."
    if by == "group":
        largest = sorted(slices, key=lambda one: -one.rows)[:MOST_SLICES]
        slices = sorted(largest, key=lambda one: one.score)
    names = [f"{safe(one.name)} ({one.rows})" for one in slices]
    places = list(range(len(names)))
    # Whatever the objective is.
    metric = next(name for name in facts_of(material.results.configuration).slices if name in judged.scores.values)
    figure = blank(90 + 26 * len(names), xaxis={"title": axis_title(metric)})
    figure.add_bar(
        y=places, x=[rounded(one.score) for one in slices], orientation="h", marker={"color": BLUE}, hoverinfo="skip",
        text=[f"{one.score:.3f}" for one in slices],
    )  # fmt: skip
    figure.add_vline(x=rounded(judged.scores.values[metric]), line={"dash": "dot", "width": 1.5, "color": "#d9822b"})
    figure.update_yaxes(tickvals=places, ticktext=names, automargin=True, autorange="reversed")
    return figure


def _cell(names: list[str], row: int, column: int, counts: tuple[int, ...]) -> str:
    return f"{names[row]} taken for {names[column]}: {counts[column]} of {sum(counts)}"
