"""The plain Optuna callable refuses before training, and survives what its caller does."""

from pathlib import Path

import optuna
import pytest

from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError, SpaceError
from hpo.objective import FineTuneObjective
from tests.models import tiny_study

optuna.logging.set_verbosity(optuna.logging.WARNING)


def of_space(model: Path, texts: Path, **space: object) -> StudyConfig:
    small = {"learning_rate": {"value": 0.01}, "epochs": {"value": 1}, "max_length": {"value": 16}}
    return tiny_study(model, texts, space=small | space)


def ask() -> optuna.Trial:
    return optuna.create_study(direction="maximize").ask()


def test_what_some_trial_could_not_train_is_refused_at_the_first_call_and_at_the_next(tiny_bert: Path, texts: Path):
    objective = FineTuneObjective(of_space(tiny_bert, texts, kept_layers={"values": [1, 3]}))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="kept_layers is 3, but the model has 2 layers; use at most 2"):
            objective(ask())


def test_what_is_no_study_is_told_in_a_sentence(tiny_bert: Path, texts: Path):
    with pytest.raises(ConfigurationError, match=r"FineTuneObjective takes a study, but got a dict; read one with hpo"):
        FineTuneObjective(of_space(tiny_bert, texts).model_dump())  # type: ignore[arg-type]


def test_what_folds_cannot_do_is_refused_when_it_is_made(tiny_bert: Path, texts: Path):
    config = of_space(tiny_bert, texts, schedule={"value": "reduce_on_plateau"})
    FineTuneObjective(config)
    folds = config.evaluation.model_copy(update={"folds": 3})
    with pytest.raises(SpaceError, match="schedule reduce_on_plateau would never see a score"):
        FineTuneObjective(config.model_copy(update={"evaluation": folds}))


def test_it_trains_on_after_a_store_that_failed(tiny_bert: Path, texts: Path, monkeypatch: pytest.MonkeyPatch):
    objective = FineTuneObjective(of_space(tiny_bert, texts))

    def fail(*_: object) -> None:
        raise OSError("The store is gone.")

    with monkeypatch.context() as broken:
        broken.setattr(optuna.Trial, "report", fail)
        # Held, with its frames, as a notebook holds the last error.
        with pytest.raises(OSError, match="store is gone") as held:
            objective(ask())
    assert held.value
    assert 0 <= objective(ask()) <= 1
