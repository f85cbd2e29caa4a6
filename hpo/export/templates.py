"""Templates of exports: Jinja files of scripts and Markdown in this folder, and their rendering."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hpo.config.parsing import write_yaml

MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#"})


def rendered(template: str, **values: Any) -> str:
    """Return a template rendered with these values."""
    loader = PackageLoader("hpo.export", package_path="")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"repr": repr, "yaml": write_yaml, "markdown": markdown}
    return environment.get_template(template).render(values)


def markdown(text: str) -> str:
    """Return `text` escaped so that Markdown shows it unchanged."""
    return " ".join(text.split()).translate(MARKS)
