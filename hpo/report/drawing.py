"""Plotting helpers: colours for light and dark pages, text escaped for plotly, axes, an empty figure."""

import html
import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from hpo.metrics.registry import limits_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BLUE, ORANGE, GREEN, RED, VIOLET, GREY = "#3b7dd8", "#d9822b", "#2f9e6e", "#d9534f", "#8b6fd0", "#8a8f98"
SERIES = (BLUE, ORANGE, GREEN, VIOLET, RED, "#2a9db0", "#b5892e", "#c05a9b", "#6b8e3d", GREY)
RISING = ("#8a8f98", "#7c8bb0", "#6f86c9", "#b08a6f", "#d9822b")
"""Colours from the worst score to the best."""
LOGARITHMIC = {"type": "log", "dtick": 1, "exponentformat": "power"}
"""Settings of an axis with powers of ten."""
LONGEST_TEXT = 40
NO_LETTERS = ("Cc", "Cf", "Cs", "Cn")
"""Unicode categories that XML may forbid: control, format, surrogate and unassigned."""


def empty_figure(height: int, **layout: Any) -> "Figure":
    """Return an empty figure, `height` pixels high and as wide as its container."""
    from plotly.graph_objects import Figure

    margin = {"l": 10, "r": 10, "t": 30, "b": 10}
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}
    return Figure(layout={"height": height, "margin": margin, "legend": legend, "hovermode": "closest"} | layout)


def plotly_text(text: object, longest: int = LONGEST_TEXT) -> str:
    """Return the user's text cut to `longest`, with characters such as `<` escaped, because plotly has markup."""
    return html.escape(plain_text(text, longest), quote=False)  # Plotly does not decode `&quot;`.


def plain_text(text: object, longest: int = LONGEST_TEXT) -> str:
    """Return the user's text cut to `longest`, with a middle dot for each character of `NO_LETTERS`."""
    plain = "".join("·" if unicodedata.category(letter) in NO_LETTERS else letter for letter in str(text))
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def value_text(value: object, digits: int = 4) -> str:
    """Return a hyperparameter's value or a score as text; floats have at most `digits` significant digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def named(names: Sequence[str]) -> dict[str, Any]:
    """Return the settings of an axis with these names at 0, 1, 2 ..."""
    return {"tickvals": list(range(len(names))), "ticktext": names, "automargin": True}


def bars(names: Sequence[str], values: Sequence[float], texts: Sequence[str], xaxis: dict[str, Any]) -> "Figure":
    """Return a figure with a horizontal bar for each name, the first on top, with these texts on the bars."""
    figure = empty_figure(90 + 26 * len(names), xaxis=xaxis)
    figure.add_bar(
        y=list(range(len(names))), x=values, text=texts, orientation="h", marker={"color": BLUE}, hoverinfo="skip",
    )  # fmt: skip
    return figure.update_yaxes(**named(names), autorange="reversed")


def axis_title(name: str) -> str:
    """Return a name such as `macro_f1` in words."""
    return plotly_text(name.replace("_", " "))


def score_axis(metric: str) -> dict[str, Any]:
    """Return the settings of an axis of scores, limited to the range of the metric."""
    low, high = limits_of(metric)
    margin = (high - low) / 50
    within = {"minallowed": low - margin, "maxallowed": high + margin} if math.isfinite(margin) else {}
    return {"title": axis_title(metric), **within}


def is_number(value: object) -> TypeGuard[float]:
    """Return true if `value` can be placed on a numeric axis."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Scale:
    """Axis for the values of one hyperparameter: numeric, linear or logarithmic, or categorical."""

    def __init__(self, values: Sequence[object]) -> None:
        """Create the axis of at least one value."""
        numbers = [float(value) for value in values if is_number(value)]
        self.names: tuple[str, ...] = ()
        """Names in order along a categorical axis; none on a numeric one."""
        if len(numbers) < len(values):
            self.names = tuple(sorted({value_text(value) for value in values}))
        self.ends = (0.0, float(len(self.names) - 1)) if self.names else (min(numbers), max(numbers))
        # Logarithmic for positive values if the largest is at least 20 times the smallest.
        self.logarithmic = not self.names and 0 < 20 * self.ends[0] <= self.ends[1]

    def place(self, value: object) -> float:
        """Return the coordinate of `value`: the number itself, or the index of its name."""
        if self.names:
            return float(self.names.index(value_text(value)))
        assert is_number(value)
        return float(value)

    def share(self, value: object) -> float:
        """Return the relative position of `value` on the axis, 0 to 1; 0.5 if all values are equal."""
        places = (*self.ends, self.place(value))
        low, high, here = map(math.log, places) if self.logarithmic else places
        return 0.5 if high <= low else min(1.0, max(0.0, (here - low) / (high - low)))

    def axis(self) -> dict[str, Any]:
        """Return the settings of a plotly axis for the coordinates of `place`."""
        if self.names:
            shown = [plotly_text(name, 20) for name in self.names]
            room = [-0.5, len(shown) - 0.5]
            return {**named(shown), "type": "linear", "range": room}
        return dict(LOGARITHMIC) if self.logarithmic else {"type": "linear"}
