"""Warm start: what a study takes over of earlier ones, that its sampler learns from it, and nothing else sees it."""

import json
import math
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, create_trial
from sqlalchemy.engine import make_url

from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError
from hpo.messages import Assignment, Ending
from hpo.runners.replay.generated_curves import GeneratedCurves
from hpo.runners.replay.simulated_search import simulate
from hpo.search.samplers import EarlierTrials
from hpo.search.study_opening import leading
from hpo.space.search_space import SearchSpace
from hpo.store.database import open_database
from hpo.store.results import read_results
from hpo.store.status import read_status
from tests.search.scripted import CPU, ended, everything, led, plain_trials, rows, search, study_at, train

BEST_RATE = 1e-4
RATE = {"learning_rate": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-3, "default": 3e-6}}
HALF_BY_CHANCE = 0.75
"""Decades off the best rate, two from one end of three and one from the other: half of all rates are nearer."""
ONCE = {"rungs": 0, "full_reports": 1}
EARLIER: dict[str, Any] = {"study": "earlier", "space": RATE, "evaluation": ONCE, "budget": {"trials": 40}}


def decades_off(rate: float) -> float:
    return abs(math.log10(rate / BEST_RATE))


def score(assignment: Assignment, _rung: int = 0) -> float:
    return 0.9 - 0.2 * decades_off(assignment.hyperparameters.learning_rate)


def on_other_examples(assignment: Assignment, _rung: int = 0) -> float:
    """Score as a study of harder examples does: less, and best at the same rate."""
    return score(assignment) - 0.3


@pytest.fixture(scope="module")
def earlier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a study of 40 trials at random rates."""
    path = tmp_path_factory.mktemp("earlier") / "old.db"
    with led(study_at(f"sqlite:///{path}", **EARLIER)) as coordinator:
        search(coordinator, score)
    return path


@pytest.fixture
def reference(earlier_file: Path) -> str:
    return f"{earlier_file}#earlier"


def started(config: StudyConfig) -> tuple[str, ...]:
    """Begin a study and return what is said of it."""
    assert isinstance(config.space, dict)
    space = SearchSpace.from_mapping(config.space, "scripted")
    with leading(config, space, data_fingerprint="fingerprint") as coordinator:
        return tuple(coordinator.begin(metric="macro_f1", versions={}))


def rates(url: str) -> list[float]:
    return [trial.params["learning_rate"] for trial in plain_trials(url)]


def learned(url: str, **changes: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "space": RATE, "search": {"sampler": "tpe", "pruner": "none", "startup_trials": 12}, "evaluation": ONCE,
        "budget": {"trials": 10},
    }  # fmt: skip
    return study_at(url, **values | changes)


# -- what is tried first


def test_the_best_are_tried_after_the_default_the_best_first(sqlite_url: str, reference: str) -> None:
    with led(learned(sqlite_url, warm_start=reference)) as coordinator:
        search(coordinator, score)
    [best] = rows(sqlite_url, "SELECT detail FROM hpo_events WHERE kind = 'warm_start'")
    taken = json.loads(best[0])["trials"]
    ranked = sorted(taken, key=lambda one: -one["score"])
    assert rates(sqlite_url)[:4] == [3e-6, *(one["parameters"]["learning_rate"] for one in ranked[:3])]
    proposed = [trial.user_attrs["proposed_by"] for trial in plain_trials(sqlite_url)]
    assert proposed == ["default", *["warm_start"] * 3, *["tpe"] * 6]


def test_several_workers_get_them_before_anything_that_the_sampler_proposes(database_url: str, reference: str) -> None:
    with led(learned(database_url, warm_start=reference)) as coordinator:
        given = [coordinator.next_assignment(f"worker-{number}", CPU) for number in range(5)]
    assert None not in given
    assert [trial.user_attrs["proposed_by"] for trial in plain_trials(database_url)] == [
        "default", *["warm_start"] * 3, "tpe",
    ]  # fmt: skip
    assert len(set(rates(database_url))) == 5


# -- what the sampler learns


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_sampler_proposes_rates_near_the_best_of_the_earlier_study(
    tmp_path: Path, reference: str, sampler: str
) -> None:
    """Without it all ten would be drawn at random, half of them more than 0.75 decades off.

    On examples that are harder, so that every score is lower, it proposes the same.
    """
    proposed = []
    for file, curve in (("same.db", score), ("harder.db", on_other_examples)):
        searched = {"sampler": sampler, "pruner": "none", "startup_trials": 12}
        config = learned(f"sqlite:///{tmp_path / file}", warm_start=reference, search=searched)
        with led(config) as coordinator:
            search(coordinator, curve)
        proposed.append(rates(config.store.url)[4:])
    assert median(map(decades_off, proposed[0])) < HALF_BY_CHANCE / 3
    assert proposed[1] == pytest.approx(proposed[0])


def earlier_trials(*pairs: tuple[float, float]) -> EarlierTrials:
    """Return trials of an earlier study, (x, score) each."""
    return EarlierTrials([of_one(x, value, number) for number, (x, value) in enumerate(pairs, -len(pairs))])


def of_one(x: float, value: float, number: int, *, enqueued: bool = False) -> FrozenTrial:
    trial = create_trial(value=value, params={"x": x}, distributions={"x": FloatDistribution(0, 1)})
    trial.number = number
    trial.system_attrs = {"fixed_params": {"x": x}} if enqueued else {}
    return trial


def test_scores_are_shifted_by_what_both_studies_have_trained() -> None:
    earlier = earlier_trials((0.1, 0.5), (0.2, 0.8), (0.2, 0.9), (0.3, 0.7))
    own = [of_one(0.1, 0.4, 0, enqueued=True), of_one(0.2, 0.65, 1, enqueued=True), of_one(0.9, 0.2, 2)]
    # 0.4 instead of 0.5, 0.65 instead of the mean of 0.8 and 0.9.
    assert [trial.values[0] for trial in earlier.beside(own)] == pytest.approx(
        [score + (-0.1 - 0.2) / 2 for score in (0.5, 0.8, 0.9, 0.7)]
    )
    assert [trial.values[0] for trial in earlier.beside(own[2:])] == [0.5, 0.8, 0.9, 0.7]
    assert [trial.values[0] for trial in earlier.trials] == [0.5, 0.8, 0.9, 0.7], "they are left as they are"


def test_a_sampler_that_learns_nothing_still_has_the_best_tried(sqlite_url: str, reference: str) -> None:
    [said] = started(study_at(sqlite_url, space=RATE, warm_start=reference))
    assert "Sampler random does not learn from them; tpe and gp do." in said
    assert said.endswith("The best 3 of them are tried after the default.")
    assert len(plain_trials(sqlite_url)) == 4


# -- what is left out


WIDER = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-7, "max": 1e-2, "default": 3e-6},
    "epochs": {"min": 1, "max": 3, "default": 2},
    "label_smoothing": {"min": 0.0, "max": 0.2, "default": 0.1},
}


def test_trials_outside_the_space_and_those_that_did_not_complete_are_counted(database_url: str) -> None:
    """Of seven trials one is pruned, and three have 3 epochs; `dropout` is new and `label_smoothing` is gone."""
    with led(study_at(database_url, study="old", space=WIDER, budget={"trials": 7})) as coordinator:
        for number in range(6):
            given = {"epochs": 3 if number >= 3 else 1, "learning_rate": 1e-5 * (number + 1)}
            coordinator._store.study.enqueue_trial(given | {"label_smoothing": 0.05})
        for number in range(7):
            assignment = coordinator.next_assignment(f"r{number}", CPU)
            assert assignment is not None
            if number == 1:
                coordinator.finish(ended(assignment, Ending.PRUNED))
            else:
                train(coordinator, assignment, score)
    narrow = RATE | {"epochs": {"min": 1, "max": 2, "default": 2}, "dropout": {"min": 0.0, "max": 0.2, "default": 0.15}}
    [said] = started(learned(database_url, study="new", space=narrow, warm_start="old"))
    assert said == (
        "3 of 7 trials of old are used: 3 had values outside the space (epochs), 1 did not complete. "
        "The best 2 of them are tried after the default."
    )
    [(detail,)] = rows(database_url, "SELECT detail FROM hpo_events WHERE kind = 'warm_start'")
    taken = [one["parameters"] for one in json.loads(detail)["trials"]]
    assert [one["dropout"] for one in taken] == [0.15] * 3, "what is new has its default"
    assert [one["epochs"] for one in taken] == [2, 1, 1]
    assert all(one.keys() == {"learning_rate", "epochs", "dropout"} for one in taken), "what is gone is dropped"


def test_an_earlier_study_of_which_nothing_fits_is_said_to_give_nothing(sqlite_url: str, reference: str) -> None:
    high = {"learning_rate": {"distribution": "log_uniform_values", "min": 0.1, "max": 1.0, "default": 0.3}}
    [said] = started(learned(sqlite_url, space=high, warm_start=reference))
    assert "0 of 40 trials of" in said
    assert "40 had values outside the space (learning_rate)" in said
    assert len(plain_trials(sqlite_url)) == 1


# -- where it is kept


def test_what_was_taken_over_is_no_trial_of_the_study(database_url: str, reference: str) -> None:
    with led(learned(database_url, warm_start=reference)) as coordinator:
        search(coordinator, score)
        assert coordinator.standing().finished == 10
    with closing(open_database(database_url)) as database:
        results, status = read_results(database), read_status(database)
    assert len(results.trials) == len(results.leaderboard) == status.standing.completed == 10
    assert len(plain_trials(database_url)) == 10
    assert any("trials of" in str(event.detail.get("reason")) for event in status.events) or len(status.events) == 10


def test_a_study_resumes_as_it_would_have_gone_on_after_the_earlier_store_is_gone(
    tmp_path: Path, earlier_file: Path
) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes(earlier_file.read_bytes())
    config = learned(f"sqlite:///{tmp_path / 'new.db'}", warm_start=f"{copy}#earlier")
    with led(config) as coordinator:
        for number in range(5):
            assignment = coordinator.next_assignment(f"r{number}", CPU)
            assert assignment is not None
            train(coordinator, assignment, score)
    for file in tmp_path.glob("copy.db*"):
        file.unlink()
    for resumed in (config, config.model_copy(update={"warm_start": ()})):
        assert started(resumed) == ()
    with led(config) as coordinator:
        search(coordinator, score, name="rest")
    whole = learned(f"sqlite:///{tmp_path / 'whole.db'}", warm_start=f"{earlier_file}#earlier")
    with led(whole) as coordinator:
        search(coordinator, score)
    assert rates(config.store.url) == rates(whole.store.url)


def test_another_store_by_its_url_whose_password_is_told_nowhere(sqlite_url: str, postgresql_url: str) -> None:
    with led(study_at(postgresql_url, **EARLIER)) as coordinator:
        search(coordinator, score)
    secret = "hunter2-of-the-store"
    url = make_url(postgresql_url).set(password=secret).render_as_string(hide_password=False)
    [said] = started(learned(sqlite_url, warm_start=f"{url}#earlier"))
    assert said.startswith("40 of 40 trials of postgresql+psycopg://")
    with pytest.raises(ConfigurationError) as error:
        started(learned(sqlite_url, study="another", warm_start=f"{url}#earlyer"))
    assert secret not in said + str(error.value) + repr(everything(sqlite_url))


def test_a_study_takes_over_a_second_one_when_it_is_asked_for_it_later(sqlite_url: str, reference: str) -> None:
    with led(study_at(sqlite_url, **EARLIER | {"study": "second", "seed": 7})) as coordinator:
        search(coordinator, score)
    assert len(started(learned(sqlite_url, warm_start=[reference, f"sqlite:///{reference}"]))) == 1
    assert len(started(learned(sqlite_url, warm_start=[reference, "second"]))) == 1
    assert started(learned(sqlite_url, warm_start=[reference, "second"])) == ()
    with led(learned(sqlite_url)) as coordinator:
        learned_from = coordinator._store.study.sampler.earlier
    numbers = [trial.number for one in learned_from for trial in one.trials]
    assert numbers == list(range(-80, 0)), "each has a number of its own, as a window tells trials apart"


def test_a_simulated_search_is_warm_started_from_the_store_of_the_study_file(earlier_file: Path) -> None:
    config = learned(f"sqlite:///{earlier_file}", budget={"trials": 5})
    cold, warm = (
        simulate(config.model_copy(update={"warm_start": names}), GeneratedCurves(0), metric="macro_f1")
        for names in ((), ("earlier",))
    )
    assert warm.begun == cold.begun == 5
    assert warm.winners != cold.winners


# -- what is refused


def refused(config: StudyConfig, **words: Any) -> str:
    before = everything(config.store.url)["hpo_studies"]
    with pytest.raises(ConfigurationError) as error, led(config, **words):
        pass
    assert everything(config.store.url)["hpo_studies"] == before
    return str(error.value)


def test_a_study_that_is_not_there_is_refused_with_the_names_that_are(sqlite_url: str, reference: str) -> None:
    for name in ("first", "second"):
        with led(study_at(sqlite_url, study=name)):
            pass
    assert refused(learned(sqlite_url, warm_start="secnd")) == (
        "warm_start cannot take over secnd: The store holds no study 'secnd'. Did you mean 'second'? "
        "Known: first, second."
    )
    assert "earlier" in refused(learned(sqlite_url, warm_start=reference.replace("#earlier", "#later")))
    assert "There is no store" in refused(learned(sqlite_url, warm_start="nowhere.db#earlier"))
    unknown = refused(learned(sqlite_url, warm_start="http://host#earlier"))
    assert unknown.startswith("warm_start cannot take over a study earlier: A store of the kind 'http'")
    folder, _, file = sqlite_url.rpartition("/")
    for itself in ("scripted", f"{sqlite_url}#scripted", f"{folder}/./{file}#scripted"):
        assert "which is this study itself" in refused(learned(sqlite_url, warm_start=itself))


def test_a_study_of_another_metric_or_task_is_refused(sqlite_url: str, reference: str) -> None:
    said = refused(learned(sqlite_url, warm_start=reference), objective="accuracy")
    assert "a study of classification by macro_f1, but this one is of classification by accuracy" in said
    said = refused(learned(sqlite_url, warm_start=reference, task={"name": "regression"}), objective="r2")
    assert "but this one is of regression by r2" in said


def test_names_are_given_alone_or_as_a_list() -> None:
    content = {"study": "s", "model": {"name": "m"}, "data": {"train": "t.csv"}}
    for given in ("a", ["a"]):
        assert load_config(values=content | {"warm_start": given}).warm_start == ("a",)
    with pytest.raises(ConfigurationError) as error:
        load_config(values=content | {"warm_start": [{"postgresql://u:secret@h/db#a": 1}]})
    assert "secret" not in str(error.value)
