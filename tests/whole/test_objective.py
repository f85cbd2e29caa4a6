"""The plain Optuna callable over a tiny model: it scores as a search does, and tells Optuna what was not trained."""

import optuna
import pytest

from hpo.config.study_file import StudyConfig
from hpo.errors import TrainingError
from hpo.objective import FineTuneObjective
from hpo.runners.run import run
from tests.whole.test_run import with_changes

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_the_plain_objective_gives_what_the_search_gives_for_the_same_configuration(config: StudyConfig) -> None:
    searched = run(with_changes(config, budget={"trials": 1}))
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    study.enqueue_trial({"learning_rate": 1e-2, "batch_size": 8})
    study.optimize(FineTuneObjective(config), n_trials=2)
    assert study.trials[0].value == searched.trials[0].score
    assert study.trials[0].user_attrs["learning_rate"] == 1e-2
    assert list(study.trials[0].intermediate_values) == [250, 500, 750, 1000]
    assert study.trials[1].state.name == "COMPLETE"


def test_the_plain_objective_asks_optunas_pruner_and_prunes(config: StudyConfig) -> None:
    class Always(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return True

    # Batches of 2 make 20 steps before the end, which is the least that may decide.
    small = with_changes(config, space={**dict(config.space), "batch_size": {"value": 2}})  # type: ignore[arg-type]
    study = optuna.create_study(direction="maximize", pruner=Always())
    study.optimize(FineTuneObjective(small), n_trials=1)
    assert study.trials[0].state.name == "PRUNED"
    assert max(study.trials[0].intermediate_values) < 1000


def test_the_plain_objective_tells_optuna_of_what_cannot_be_trained(config: StudyConfig) -> None:
    space = {**dict(config.space), "learning_rate": {"value": 1e9}}  # type: ignore[arg-type]
    study = optuna.create_study(direction="maximize")
    study.optimize(FineTuneObjective(with_changes(config, space=space)), n_trials=1)
    assert study.trials[0].state.name == "PRUNED"
    assert study.trials[0].constraints == {"trainable": 1.0}


def test_a_trial_that_fails_after_a_full_report_is_no_score_of_the_plain_objective(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = FineTuneObjective(config)
    study = optuna.create_study(direction="maximize")
    taken = []

    def failing_late(training: object, loss: object) -> None:
        taken.append(loss)
        if len(taken) > 12:
            raise RuntimeError("device lost")

    monkeypatch.setattr("hpo.training.optimizer_step.OptimizerStep.take", failing_late)
    study.optimize(objective, n_trials=1, catch=(TrainingError,))
    assert study.trials[0].state.name == "FAIL"
