"""Trial pictures: learning curve and confusion matrix as SVG, which optuna-dashboard shows as artifacts of a trial.

A picture contains no script, whatever a label contains. Text is not drawn as paths, because browsers have fonts for all
languages. The background is white on light and dark pages.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from xml.etree.ElementTree import Element, SubElement, tostring

from hpo.report.drawing import BLUE, GREY, ORANGE, plain_text
from hpo.report.report_data import ReportData
from hpo.report.score_figures import curves_of, seen_title

KIND = "image/svg+xml"
FINISHED = ("COMPLETE", "PRUNED", "FAIL")
"""States of trials with pictures: for other trials optuna-dashboard offers to delete them, and never reloads them."""
WIDTH, HEIGHT = 480, 360
"""Pixels of a picture."""
LEFT, TOP, RIGHT, BOTTOM = 70, 30, 460, 300
"""Edges of the plot of a learning curve."""
CORNER, SIDE = 140, 220
"""Left edge of a confusion matrix, which leaves space for the names, and its width and height."""
DARK = (8, 81, 156)
"""Red, green and blue of a cell with all rows of its label."""
MOST_WRITTEN = 8
"""Largest number of classes for which the cells of a confusion matrix have text."""
MOST_NAMED = 30
HALF = 50


def artifacts_of(data: ReportData) -> dict[int, list[dict[str, str | None]]]:
    """Return finished trial -> its pictures, as artifacts in the format of optuna-dashboard's pages.

    An identifier is the number of the trial, a hyphen, and the index of the picture in `DRAWN`.
    """
    there = {
        "learning_curve": {one.trial for one in data.history.evaluations},
        "confusion_matrix": {one.number for one in data.results.trials if one.validation and one.validation.confusion},
    }
    return {
        one.number: [
            {
                "artifact_id": f"{one.number}-{place}",
                "filename": f"{name.replace('_', '-')}-{one.number}.svg",
                "mimetype": KIND,
                "encoding": None,
            }
            for place, name in enumerate(DRAWN)
            if one.number in there[name]
        ]
        for one in data.results.trials
        if one.state in FINISHED
    }


def picture(data: ReportData, name: str, trial: int) -> bytes:
    """Return a picture of a trial as SVG; `name` is one of `DRAWN`."""
    size = {"width": str(WIDTH), "height": str(HEIGHT), "viewBox": f"0 0 {WIDTH} {HEIGHT}"}
    font = {"font-family": "sans-serif", "font-size": "11"}
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, **font})
    _add(svg, "rect", width=WIDTH, height=HEIGHT, fill="#ffffff")
    DRAWN[name](svg, data, trial)
    return tostring(svg)


def _add(svg: Element, tag: str, **attributes: float | str) -> Element:
    """Add an element; `_` in a name of an attribute becomes `-`, and floats are rounded to a tenth of a pixel."""
    spelled = {
        name.replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    return SubElement(svg, tag, spelled)


def _write(
    svg: Element, text: object, x: float, y: float, anchor: str = "middle", turned: int = 0, fill: str = "#000000"
) -> None:
    """Write a text whose middle, start or end (`anchor`) is at a point, turned clockwise by some degrees."""
    turn = {"transform": f"rotate({turned} {x:.1f} {y:.1f})"} if turned else {}
    _add(svg, "text", x=x, y=y, text_anchor=anchor, fill=fill, **turn).text = str(text)


def ticks_between(low: float, high: float) -> list[float]:
    """Return 4 to 11 round numbers in `low` to `high`: consecutive multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * of for of in (5, 2, 1) if (high - low) / (power * of) >= 4)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def axis_ends(scores: Iterable[float]) -> tuple[float, float]:
    """Return the ends of an axis of scores, with a margin so that they differ."""
    known = list(scores)
    low, high = min(known), max(known)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _learning_curve(svg: Element, data: ReportData, trial: int) -> None:
    """Draw the learning curve of a trial, together with that of the recommended trial."""
    colors = {trial: BLUE}
    if data.recommended is not None:
        colors[data.recommended.number] = ORANGE
    curves = curves_of(data)
    drawn = {number: curves[number] for number in colors if number in curves}
    low, high = axis_ends(one.score for evaluations in drawn.values() for one in evaluations)

    def place(percent: float, score: float) -> tuple[float, float]:
        return LEFT + percent / 100 * (RIGHT - LEFT), BOTTOM - (score - low) / (high - low) * (BOTTOM - TOP)

    for percent in range(0, 101, 20):
        x, _ = place(percent, low)
        _add(svg, "line", x1=x, y1=TOP, x2=x, y2=BOTTOM, stroke=GREY, stroke_opacity=0.25)
        _write(svg, percent, x, BOTTOM + 16)
    for score in ticks_between(low, high):
        _, y = place(0, score)
        _add(svg, "line", x1=LEFT, y1=y, x2=RIGHT, y2=y, stroke=GREY, stroke_opacity=0.25)
        _write(svg, f"{score:.4g}", LEFT - 6, y + 4, "end")
    for order, (number, evaluations) in enumerate(drawn.items()):
        places = [place(one.rung / 10, one.score) for one in evaluations]
        for (x1, y1), (x2, y2) in pairwise(places):
            _add(svg, "line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colors[number], stroke_width=2)
        for x, y in places:
            _add(svg, "circle", cx=x, cy=y, r=3, fill=colors[number])
        _write(svg, f"trial {number}", LEFT + 90 * order, TOP - 10, "start", fill=colors[number])
    _write(svg, seen_title(data), (LEFT + RIGHT) / 2, BOTTOM + 40)
    _write(svg, data.results.metric.replace("_", " "), 18, (TOP + BOTTOM) / 2, turned=-90)


def _confusion_matrix(svg: Element, data: ReportData, trial: int) -> None:
    """Draw the predicted labels of each label's validation examples, in per cent of that label's examples."""
    scores = next(one.validation for one in data.results.trials if one.number == trial)
    assert scores is not None, "the trial has a confusion matrix"
    classes = len(scores.confusion)
    cell = SIDE / classes
    _add(svg, "rect", x=CORNER, y=TOP, width=SIDE, height=SIDE, fill="none", stroke=GREY)
    if classes <= MOST_NAMED:
        for order, label in enumerate(scores.per_class):
            name, middle = plain_text(label, 16), (order + 0.5) * cell
            _write(svg, name, CORNER - 6, TOP + middle + 4, "end")
            _write(svg, name, CORNER + middle + 4, TOP + SIDE + 12, "end", turned=-45)
    _write(svg, "predicted, in %", CORNER + SIDE / 2, HEIGHT - 8)
    _write(svg, "label", 16, TOP + SIDE / 2, turned=-90)
    for row, counts in enumerate(scores.confusion):
        for column, count in enumerate(counts):
            share = count / max(1, sum(counts))
            x, y = CORNER + column * cell, TOP + row * cell
            shade = ",".join(f"{255 - (255 - part) * share:.0f}" for part in DARK)
            _add(svg, "rect", x=x, y=y, width=cell, height=cell, fill=f"rgb({shade})")
            if classes <= MOST_WRITTEN:
                color = "#ffffff" if 100 * share > HALF else "#000000"
                _write(svg, f"{100 * share:.0f}", x + cell / 2, y + cell / 2 + 4, fill=color)


DRAWN: Mapping[str, Callable[[Element, ReportData, int], None]] = {
    "learning_curve": _learning_curve,
    "confusion_matrix": _confusion_matrix,
}
"""Name of a picture -> the function that draws it."""
