"""Optional packages: every extra named exists; what needs a missing package is refused, with what installs it."""

import re
import subprocess
import sys
import tomllib
from importlib import util
from pathlib import Path

import pytest

from hpo.config.optional_packages import EXTRAS, refuse_missing
from hpo.config.parsing import read_model
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError
from hpo.search.preflight import refuse_unfit_search
from hpo.space.space_file import space_of

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OFFERED = PROJECT["optional-dependencies"]


def lacking(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Let a module look as if it were not installed."""
    found = util.find_spec
    monkeypatch.setattr("hpo.config.optional_packages.find_spec", lambda name: None if name == module else found(name))


@pytest.mark.parametrize("package", EXTRAS)
def test_an_extra_brings_the_package_that_it_is_named_for(package: str) -> None:
    extra, _ = EXTRAS[package]
    assert package in {re.split(r"[<>=\[]", need)[0] for need in OFFERED[extra]}


def test_every_extra_that_a_message_or_a_page_names_exists_and_is_one_of_all() -> None:
    files = [*(ROOT / "hpo").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = {extra for file in files for extra in re.findall(r"llm-hpo\[([a-z]+)\]", file.read_text())}
    assert named <= set(OFFERED)
    together = re.findall(r"\[(.*)\]", OFFERED["all"][0])[0].split(",")
    # The dashboard brings the report's, and weights in 4 bits bring libraries of CUDA.
    assert set(OFFERED) - {"all", "dev"} == {*together, "report", "quantized"}


def test_a_study_as_it_is_without_further_words_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.config.optional_packages.find_spec", lambda name: None)
    config = read_model(StudyConfig, {"study": "s", "model": {"name": "m"}, "data": {"train": "t.csv"}}, "study")
    for space in ("decoder_lora", "encoder", "encoder_lora", "encoder_small"):
        refuse_unfit_search(config, space_of(space))


ALL_MODULES_WITHOUT = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

missing = sys.argv[1].split()

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
import hpo
for module in pkgutil.walk_packages(hpo.__path__, "hpo."):
    try:
        module.name.endswith("__main__") or importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name)
"""
"""Program that prints each module of hpo that cannot be imported without the packages in its argument."""


def test_only_what_a_missing_package_is_for_imports_it() -> None:
    modules = [name.replace("-", "_") for name in EXTRAS] + ["datasets", "nbformat", "pyarrow"]
    command = [sys.executable, "-c", ALL_MODULES_WITHOUT, " ".join(modules)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    allowed = re.compile(r"hpo.store.postgresql psycopg|hpo.dashboard.* optuna_dashboard|hpo.runners.ray.* ray")
    assert [line for line in found if not allowed.fullmatch(line)] == []
    assert "hpo.store.postgresql psycopg" in found


@pytest.mark.parametrize(
    ("module", "given", "said"),
    [
        ("cmaes", {"search": {"sampler": "cmaes"}}, "search.sampler cmaes needs cmaes: .*'llm-hpo.samplers.'"),
        (
            "schedulefree",
            {"space": "optimizers_and_schedules"},
            "Optimizer schedule_free_adamw of space optimizers_and_schedules needs schedulefree",
        ),
    ],
)
def test_a_search_that_needs_a_missing_package_is_refused_before_it_begins(
    module: str, given: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"study": "s", "model": {"name": "m"}, "data": {"train": "t.csv"}, "space": "encoder", **given}
    config = read_model(StudyConfig, content, "study")
    space = space_of(config.space)
    refuse_unfit_search(config, space)
    lacking(monkeypatch, module)
    with pytest.raises(ConfigurationError, match=said):
        refuse_unfit_search(config, space)


def test_what_is_installed_is_not_refused() -> None:
    refuse_missing("plotly", "hpo report")
