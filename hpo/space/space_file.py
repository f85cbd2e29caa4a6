"""Space files in YAML; those in `search_spaces/` are shipped and found by name."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.config.parsing import read_yaml_mapping
from hpo.errors import SpaceError, nearest
from hpo.space.portfolio import PORTFOLIO
from hpo.space.search_space import SearchSpace

KEYS = ("description", "parameters", PORTFOLIO)
"""Keys of a space file."""
_PACKAGE = Path(__file__).parents[1]

# What a W&B sweep file says besides its parameters, and where that goes here.
_ELSEWHERE = {
    "method": ", it belongs under `search: {sampler: ...}` of the study file",
    "metric": ", it belongs under `task: {metric: ...}` of the study file",
    "early_terminate": ", it belongs under `search: {pruner: ...}` of the study file",
    "run_cap": ", it belongs under `budget: {trials: ...}` of the study file",
    "name": ": a space is called by its file's name",
    "program": ": hpo itself trains",
    "command": ": hpo itself trains",
}


def shipped_spaces() -> dict[str, Path]:
    """Return the shipped files by name: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "search_spaces"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_space(name_or_path: str) -> dict[str, Any]:
    """Return what stands under `parameters:` in a space file, as it is written, and beside it its `portfolio`.

    Args:
        name_or_path: name of a shipped space, or the path of a file.

    Raises:
        SpaceError: neither of the two, or a file with other keys than `KEYS`.
        ConfigurationError: a file that cannot be read or is not YAML.
    """
    content = _read_file(name_or_path)
    return {**content["parameters"], **{key: content[key] for key in (PORTFOLIO,) if key in content}}


def space_description(name_or_path: str) -> str:
    """Return the line `description:` of a space file; empty where it has none."""
    return str(_read_file(name_or_path).get("description", ""))


def load_space(name_or_path: str) -> SearchSpace:
    """Return the shipped space of that name, or that of the file; raises as `read_space` does."""
    return SearchSpace.from_mapping(read_space(name_or_path), Path(name_or_path).stem)


def space_of(space: str | Mapping[str, Any], name: str = "of the study") -> SearchSpace:
    """Return the space that a study file names, or holds itself, then called `name`; raises as `load_space` does."""
    if isinstance(space, str):
        return load_space(space)
    if "parameters" in space:
        raise SpaceError("In a study file hyperparameters stand right below `space:`; take `parameters:` out.")
    return SearchSpace.from_mapping(space, name)


def _read_file(name_or_path: str) -> dict[str, Any]:
    """Return the content of a space file, known to hold parameters and nothing foreign."""
    path = _find(name_or_path)
    content = read_yaml_mapping(path)
    foreign = [f"take {key!r} out{_ELSEWHERE[key]}" for key in content if key in _ELSEWHERE]
    if foreign:
        raise SpaceError(
            f"{path}: a space holds parameters only; {'; '.join(foreign)}. Or run the sweep itself: "
            f"hpo run {shlex.quote(str(path))} --model PATH_OR_HUB_ID --train FILE."
        )
    unknown = [key for key in content if key not in KEYS]
    if "parameters" not in content:
        hint = f", but starts with {unknown[0]!r}; indent the parameters below it" if unknown else ""
        raise SpaceError(f"{path} must hold the hyperparameters to search under `parameters:`{hint}.")
    if unknown:
        raise SpaceError(*(f"{path}: unknown key {key!r}. {nearest(str(key), KEYS)}" for key in unknown))
    if not isinstance(content["parameters"], dict):
        raise SpaceError(
            f"{path}: parameters must map hyperparameters to their values, but is {content['parameters']!r}."
        )
    return content


def _find(name_or_path: str) -> Path:
    shipped = shipped_spaces()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise SpaceError(
            f"No search space {name_or_path!r}: it is neither a shipped one nor a file. "
            f"{nearest(name_or_path, shipped)}"
        )
    return path
