"""Every entry of a registry has its known answer in a test and its row in the docs; what a space can name is in one."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from hpo.config.hyperparameters import Hyperparameters, MethodName, OptimizerName, ScheduleName
from hpo.config.study_file import PrunerName, SearchConfig
from hpo.config.tasks import TASK_FACTS, TaskConfig
from hpo.data.labels import TARGET_TYPES
from hpo.data.readers.formats import FORMATS
from hpo.data.readers.text_files import COMPRESSIONS
from hpo.metrics import classification, multi_label, regression
from hpo.metrics.registry import METRICS
from hpo.model.methods import METHODS
from hpo.search.pruners import PRUNERS
from hpo.search.samplers import SAMPLERS
from hpo.space.space_file import load_space, shipped_spaces
from hpo.tasks.registry import TASKS
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.schedules import SCHEDULES

ROOT = Path(__file__).parents[2]
# Registry -> the test module whose KNOWN_ANSWERS prove its entries.
PROVED_IN: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "optimizers": (OPTIMIZERS, "training/test_optimizers.py"),
    "schedules": (SCHEDULES, "training/test_schedules.py"),
    "methods": (METHODS, "model/test_methods.py"),
    "samplers": (SAMPLERS, "search/test_samplers.py"),
    "pruners": (PRUNERS, "search/test_pruners.py"),
    "metrics": (classification.METRICS, "metrics/test_classification_scores.py"),
    "metrics of numbers": (regression.METRICS, "metrics/test_regression_scores.py"),
    "metrics of several labels": (multi_label.METRICS, "metrics/test_multi_label_scores.py"),
    "formats": (FORMATS, "data/test_data_formats.py"),
    "compressions": (COMPRESSIONS, "data/test_archives.py"),
}
# It prunes none; tests of their own prove which trials wait.
SETS_ASIDE = {"promotion"}
# Hyperparameters that are how a trial is run rather than what is searched.
NOT_SEARCHED = {"early_stopping_patience", "seed"}


@pytest.mark.parametrize("kind", PROVED_IN)
def test_every_entry_has_a_known_answer_and_no_answer_is_of_nothing(kind: str) -> None:
    registry, module = PROVED_IN[kind]
    assert loaded(ROOT / "tests" / module).KNOWN_ANSWERS.keys() == registry.keys() - SETS_ASIDE


@pytest.mark.parametrize("kind", PROVED_IN)
def test_every_entry_says_what_it_is_and_where_it_comes_from(kind: str) -> None:
    registry, _ = PROVED_IN[kind]
    for name, entry in registry.items():
        assert entry.description, name
        assert entry.source, name
        assert "\n" not in entry.description + entry.source, name


@pytest.mark.parametrize("kind", PROVED_IN)
def test_every_entry_has_a_row_in_the_docs(kind: str) -> None:
    registry, _ = PROVED_IN[kind]
    rows = (ROOT / "docs" / "vocabulary.md").read_text(encoding="utf-8").splitlines()
    for name, entry in registry.items():
        assert any(row.startswith(f"| `{name}` |") and entry.source in row for row in rows), name


def test_the_docs_are_what_their_script_makes_of_the_code() -> None:
    pages = loaded(ROOT / "docs" / "make_pages.py").PAGES
    assert {path.name for path in pages} == {"architecture.md", "vocabulary.md", "study-file.md", "names.md"}
    for path, make in pages.items():
        assert make() == path.read_text(encoding="utf-8"), f"{path.name} is out of date; run: make docs"


def test_a_pipe_in_a_cell_does_not_end_it() -> None:
    rows = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8").splitlines()
    (separator,) = (row for row in rows if row.startswith("| `data.label_separator` |"))
    assert separator.endswith(r" | \| |")


@pytest.mark.parametrize(("field", "names"), [("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("method", METHODS)])
def test_every_entry_that_a_space_can_name_is_in_a_shipped_one(field: str, names: Iterable[str]) -> None:
    offered: set[object] = set()
    for space in shipped_spaces():
        for parameter in load_space(space).parameters:
            spec = parameter.to_mapping()
            offered |= set(spec.get("values", [spec.get("value")])) if parameter.name == field else set()
    assert set(names) - offered == set()


def test_every_hyperparameter_is_in_a_shipped_space() -> None:
    named = {parameter.name for space in shipped_spaces() for parameter in load_space(space).parameters}
    assert Hyperparameters.model_fields.keys() - named == NOT_SEARCHED


@pytest.mark.parametrize(
    ("names", "registry"),
    [
        (OptimizerName, OPTIMIZERS),
        (ScheduleName, SCHEDULES),
        (MethodName, METHODS),
        (SearchConfig.model_fields["sampler"].annotation, SAMPLERS),
    ],
)
def test_what_may_be_written_is_what_there_is(names: Any, registry: Mapping[str, Any]) -> None:
    assert set(get_args(names)) == registry.keys()


@pytest.mark.parametrize("registry", [TASKS, TASK_FACTS, TARGET_TYPES, METRICS])
def test_every_task_that_may_be_written_is_in_every_registry_of_tasks(registry: Mapping[str, Any]) -> None:
    heads = set(get_args(TaskConfig.model_fields["head"].annotation)) - {"classifier"}
    beside = heads if registry in (TASKS, TASK_FACTS) else set()
    assert set(get_args(TaskConfig.model_fields["name"].annotation)) | beside == registry.keys()


def test_every_pruner_may_be_written_and_auto_beside_them() -> None:
    assert set(get_args(PrunerName)) == {"auto", *PRUNERS}


def loaded(path: Path) -> ModuleType:
    """Return the module in the file `path`, whatever folders Python knows."""
    spec = importlib.util.spec_from_file_location(f"of_vocabulary_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
