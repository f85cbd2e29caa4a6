"""HTML report: one file that loads nothing from the network and runs only its own scripts."""

import base64
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hpo.config.parsing import write_yaml
from hpo.report import tables
from hpo.report.drawing import value_text
from hpo.report.figures import FIGURES
from hpo.report.report_data import ReportData

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MARK = "<!DOCTYPE html><!-- a report of hpo -->"
"""Start of every report."""
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""Content security policy: nothing is loaded, and only scripts with these digests run, so none from a label."""


def page(data: ReportData) -> str:
    """Return the report on a study as HTML."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), files("hpo.report").joinpath("page.js").read_text(encoding="utf-8")]
    loader = PackageLoader("hpo.report", package_path="")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"dated": tables.dated, "value_text": value_text}
    text = environment.get_template("page.html.jinja").render(
        mark=Markup(MARK),
        policy=POLICY.format(scripts=" ".join(map(_digest, scripts))),
        plotly=Markup(scripts[0]),
        script=Markup(scripts[1]),
        style=Markup(files("hpo.report").joinpath("page.css").read_text(encoding="utf-8")),
        figures={name: _embedded(draw(data)) for name, draw in FIGURES.items()},
        data=data,
        tables=tables,
        configuration=write_yaml(data.results.configuration),
        space=write_yaml(data.results.space) if data.results.space else "",
        measurements=write_yaml(data.results.measurements) if data.results.measurements else "",
    )
    # A label may contain a lone surrogate, which UTF-8 cannot encode.
    return text.encode("utf-8", "replace").decode("utf-8")


def _digest(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _embedded(figure: "Figure | str") -> str | Markup:
    """Return a figure as JSON that is safe inside a script element; return a sentence unchanged."""
    if isinstance(figure, str):
        return figure
    # More digits are invisible, and make the file of a large study larger.
    content = json.loads(figure.to_json(), parse_float=lambda digits: float(f"{float(digits):.6g}"))
    content["layout"].pop("template", None)  # The page has its own templates, for light and dark.
    text = json.dumps(content, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
