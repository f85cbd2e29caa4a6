"""Optuna's private names: there as expected, refused in a sentence where not, and used in one file alone."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna import Study
from optuna.distributions import FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from hpo.errors import StoreUnavailableError
from hpo.search import study_opening  # noqa: F401 (all classes derived from Optuna's)
from hpo.store import optuna_adapter
from hpo.store.database import open_database
from hpo.store.optuna_adapter import (
    TESTED,
    FrozenStudy,
    PassingStorage,
    TrialModel,
    differences,
    storage_of,
    studies_in,
)
from hpo.store.study_store import StudyStore

ROOT = Path(__file__).parents[2]
ADAPTER = Path(optuna_adapter.__file__)


def test_the_installed_optuna_is_one_that_is_tested() -> None:
    assert differences() == []
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"optuna{TESTED}" in dependencies
    least, below = re.findall(r"\d+(?:\.\d+)*", TESTED)
    assert optuna.__version__.startswith((f"{least}.", least)), "the upper bound is the minor version after the tested"
    assert below == f"{least}.1"


Change = Callable[[pytest.MonkeyPatch], None]


def renamed(owner: type, name: str) -> Change:
    return lambda patch: patch.delattr(owner, name)


def takes_otherwise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RDBStorage, "get_all_trials", lambda self, study_id, states: [])


def takes_sessions_elsewhere(patch: pytest.MonkeyPatch) -> None:
    def create_new_trial(self: RDBStorage, study_id: int, template_trial: FrozenTrial | None = None) -> None: ...

    patch.setattr(RDBStorage, "_create_new_trial", create_new_trial)


def another_column(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(optuna_adapter.COLUMNS, TrialModel, "trial_id ordinal")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (renamed(RDBStorage, "_create_new_trial"), "RDBStorage._create_new_trial"),
        (renamed(RDBStorage, "_get_trials"), "RDBStorage._get_trials"),
        (takes_otherwise, "RDBStorage.get_all_trials"),
        (takes_sessions_elsewhere, "RDBStorage._create_new_trial"),
        (another_column, "TrialModel.ordinal"),
    ],
)
def test_what_optuna_has_otherwise_is_found(monkeypatch: pytest.MonkeyPatch, change: Change, named: str) -> None:
    change(monkeypatch)
    assert differences() == [named]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("del optuna.storages.RDBStorage._create_new_trial", "in RDBStorage._create_new_trial: pip"),
        ("import optuna.study._frozen as module; del module.FrozenStudy", "in cannot import name 'FrozenStudy'"),
    ],
)
def test_another_optuna_is_refused_with_a_sentence(change: str, said: str) -> None:
    begun = f"import optuna, optuna.storages; {change}; from hpo.cli.main import main; main()"
    command = [sys.executable, "-c", begun, "studies", "--store", "nowhere.db"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert said in ended.stderr
    assert f"Optuna {optuna.__version__} is installed" in ended.stderr
    assert "Traceback" not in ended.stderr


# -- what is done with them


@pytest.fixture
def store(database_url: str) -> Iterator[StudyStore]:
    database = open_database(database_url)
    yield StudyStore(database, "s", RandomSampler(seed=0), HyperbandPruner())
    database.close()


def test_the_trial_that_is_asked_for_begins_and_no_other(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Optuna itself would hand out first, and by whatever name it looks for that."""
    monkeypatch.delattr(Study, "_pop_waiting_trial_id")
    with store.transaction():
        first, second = (store.trials.enqueue({"x": value}) for value in (0.25, 0.75))
        trial = store.trials.ask(second)
        assert trial.number == second
        assert trial.suggest_float("x", 0, 1) == 0.75
        assert store.trials.ask(None).number == 2
    with store.transaction():
        states = [trial.state for trial in store.trials.get_all()]
    assert states == [TrialState.WAITING, TrialState.RUNNING, TrialState.RUNNING]
    assert first == 0


def test_a_trial_that_another_program_has_just_begun_is_not_begun_twice(store: StudyStore) -> None:
    with store.transaction():
        waiting = store.trials.enqueue({"x": 0.5})
    with store.transaction():
        assert [trial.number for trial in store.trials.get_all(TrialState.WAITING)] == [waiting]
        store.database.storage.set_trial_state_values(store.trials._row(waiting), TrialState.RUNNING)
        with pytest.raises(StoreUnavailableError, match="Trial 0 waits no more"):
            store.trials.ask(waiting)


def test_a_sampler_sees_all_trials_of_the_study_whatever_the_pruner(store: StudyStore) -> None:
    """Hyperband's study of one bracket would show it some."""
    seen: list[int] = []

    class Looks(RandomSampler):
        def before_trial(self, study: Study, trial: FrozenTrial) -> None:
            seen.append(len(study.get_trials(deepcopy=False)))

    with store.transaction():
        for _ in range(5):
            store.study.tell(store.trials.ask(None).number, 0.5)
        store.trials.ask(None, Looks())
    assert seen == [6]


def test_a_storage_over_another_passes_on_all_that_it_does_not_do_itself() -> None:
    class Over(PassingStorage):  # type: ignore[misc]
        def __init__(self, backend: BaseStorage) -> None:
            self.backend = backend

    below = InMemoryStorage()
    study_id = below.create_new_study([StudyDirection.MAXIMIZE], "s")
    study = optuna.load_study(study_name="s", storage=Over(below), sampler=RandomSampler(), pruner=NopPruner())
    trial = study.ask({"x": FloatDistribution(0, 1)})
    study.tell(trial, 0.5)
    assert isinstance(trial, Trial)
    assert storage_of(study).backend is below  # type: ignore[attr-defined]
    assert below.get_all_trials(study_id) == study.trials
    assert {number: one.study_name for number, one in studies_in(below).items()} == {study_id: "s"}


# -- no other file has any


def private_names() -> set[str]:
    """Return the private attributes of Optuna's classes that its objects are made of."""
    owners = (Study, Trial, FrozenTrial, FrozenStudy, BaseStorage, RDBStorage, TrialModel, InMemoryStorage)
    set_in = {
        name
        for owner in owners
        for method in vars(owner).values()
        if inspect.isfunction(method)
        for name in inspect.unwrap(method).__code__.co_names
    }
    names = set_in | {name for owner in owners for name in dir(owner)}
    return {name for name in names if re.match(r"_[a-z]", name)}


def uses(source: str, private: set[str]) -> list[str]:
    """Return private names of Optuna that a module imports, reads of something else than `self`, or overrides."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "optuna":
            path = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            found += [name for name in path if name.startswith("_")]
        if isinstance(node, ast.Attribute) and node.attr in private and ast.unparse(node.value) not in ("self", "cls"):
            found.append(node.attr)
    return found


def derived(owner: type) -> Iterator[type]:
    for one in owner.__subclasses__():
        yield one
        yield from derived(one)


def overrides(base: type, private: set[str]) -> set[str]:
    """Return private names of Optuna's that a class of hpo's, derived from `base`, has of its own."""
    ours = [one for one in derived(base) if one.__module__.startswith("hpo.")]
    assert ours, base
    return {name for one in ours for name in vars(one) if name in private and hasattr(base, name)} - {"_abc_impl"}


def test_no_other_file_uses_a_private_name_of_optunas() -> None:
    private = private_names()
    assert {"_storage", "_study_id", "_trial_id", "_get_trials", "_pop_waiting_trial_id", "_thread_local"} <= private
    assert uses(ADAPTER.read_text(), private), "the search finds none where there are some"
    others = [path for path in (ROOT / "hpo").rglob("*.py") if path != ADAPTER and "optuna" in path.read_text()]
    assert len(others) > 20
    found = {path.name: named for path in others if (named := uses(path.read_text(), private))}
    assert found == {}
    assert overrides(RDBStorage, private) == {"_get_trials"}
    assert overrides(BaseStorage, private) == overrides(BaseSampler, private) == overrides(BasePruner, private) == set()
