"""Pictures of single trials, which optuna-dashboard shows as their artifacts: SVG, drawn when a page asks for one.

A picture runs nothing, whatever stands in a label. Text in it is text, for the browser has letters of all languages.
It is on white, for light pages and dark ones.
"""

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib import style
from matplotlib.figure import Figure

from hpo.report.drawing import BLUE, GREY, ORANGE, plain_text
from hpo.report.material import Material
from hpo.report.progress import curves_of, seen_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "image/svg+xml"
FINISHED = ("COMPLETE", "PRUNED", "FAIL")
"""Of others optuna-dashboard would offer to delete the pictures, and it asks for none twice."""
INCHES = (4.8, 3.6)
STYLE = ("default", {"svg.fonttype": "none"})
"""Matplotlib's own settings, whatever the user's are: theirs may be dark, or take labels for TeX."""
MOST_WRITTEN = 8
"""Classes up to which each cell of a confusion matrix is written out."""
MOST_NAMED = 30
HALF = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of one trial."""

    trial: int
    name: str
    """One of `DRAWN`."""

    @property
    def identifier(self) -> str:
        """What optuna-dashboard's pages ask for it by: of hexadecimal digits and hyphens, its own in the study."""
        return f"{self.trial}-{list(DRAWN).index(self.name)}"

    @property
    def artifact(self) -> dict[str, str | None]:
        """What these pages are told of it."""
        file = f"{self.name.replace('_', '-')}-{self.trial}.svg"
        return {"artifact_id": self.identifier, "filename": file, "mimetype": KIND, "encoding": None}

    def drawn(self, material: Material) -> bytes:
        """Return it as SVG. Not for several threads at once: settings of matplotlib are for all of them."""
        written = io.BytesIO()
        with style.context(STYLE), warnings.catch_warnings():
            # From the letters that it knows itself matplotlib only takes how wide a text is.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure = Figure(figsize=INCHES, layout="constrained")
            DRAWN[self.name](figure.add_subplot(), material, self.trial)
            figure.savefig(written, format="svg")
        return written.getvalue()


def pictures_of(material: Material) -> dict[int, list[Picture]]:
    """Return finished trial -> the pictures that can be drawn of it."""
    there = {
        "learning_curve": {one.trial for one in material.course.evaluations},
        "confusion_matrix": {
            one.number for one in material.results.trials if one.validation and one.validation.confusion
        },
    }
    return {
        one.number: [Picture(trial=one.number, name=name) for name in DRAWN if one.number in there[name]]
        for one in material.results.trials
        if one.state in FINISHED
    }


def _learning_curve(axes: "Axes", material: Material, trial: int) -> None:
    """Draw the score of a trial over the examples it had seen, with that of the trial to take."""
    curves = curves_of(material)
    colors = {trial: BLUE}
    if material.taken is not None:
        colors[material.taken.number] = ORANGE
    for number, color in colors.items():
        if number in curves:
            places, scores = zip(*((one.rung / 10, one.score) for one in curves[number]), strict=True)
            axes.plot(places, scores, color=color, marker=".", label=f"trial {number}")
    axes.set_xlabel(seen_title(material))
    axes.set_ylabel(material.results.metric.replace("_", " "), parse_math=False)
    axes.grid(color=GREY, alpha=0.25)
    axes.legend()


def _confusion_matrix(axes: "Axes", material: Material, trial: int) -> None:
    """Draw what validation's texts of each label were taken for, in per cent of that label's texts."""
    scores = next(one.validation for one in material.results.trials if one.number == trial)
    assert scores is not None, "there is a confusion matrix of it"
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in scores.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(shares) <= MOST_WRITTEN:
        for row, said in enumerate(shares):
            for column, share in enumerate(said):
                color = "white" if share > HALF else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color)
    if len(shares) <= MOST_NAMED:
        names = [plain_text(label, 16) for label in scores.per_class]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlabel("taken for, in %")
    axes.set_ylabel("label")


DRAWN: "Mapping[str, Callable[[Axes, Material, int], None]]" = {
    "learning_curve": _learning_curve,
    "confusion_matrix": _confusion_matrix,
}
"""Name -> what draws it of a trial."""
