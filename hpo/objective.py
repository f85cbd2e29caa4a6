"""Optuna objective: `study.optimize(FineTuneObjective(config, space))`, without the rest of hpo's search."""

import threading
from functools import partial

import optuna
from optuna.pruners import HyperbandPruner, PatientPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.study import StudyDirection

from hpo.config.study_file import StudyConfig
from hpo.data.labels import TARGET_TYPES
from hpo.data.splits import load_splits
from hpo.errors import ConfigurationError, TrainingError
from hpo.messages import Action, Assignment, Ending, Outcome, Progress, Report, WorkerSettings
from hpo.search.outcomes import CONSTRAINT, UNTRAINABLE, VIOLATED, outcome_attributes
from hpo.search.preflight import demands_of, refuse_no_study, refuse_unfit_of_folds, space_of_study
from hpo.search.pruners import trial_milestones, with_evaluation_defaults
from hpo.search.samplers import seed_of
from hpo.search.trial_sizes import dearest
from hpo.space.search_space import SearchSpace
from hpo.training.device import with_dtype
from hpo.training.worker import Worker, open_worker, train

OF_LEARNING_CURVES = (PercentilePruner, SuccessiveHalvingPruner, HyperbandPruner, PatientPruner)
"""Optuna's pruners, including MedianPruner, that treat a trial's steps as a learning curve."""


class FineTuneObjective:
    """Optuna objective that fine-tunes a model and returns its score on validation, to be maximised.

    Scores are reported at rungs (examples seen, in per mille of the longest trial), so every pruner of Optuna works.
    With `evaluation.folds` they are reported after each fold, which needs a pruner that does not treat steps as a
    learning curve, such as Wilcoxon's. Model and data are read once, at the first call; calls from several threads
    train one after another.

        study = optuna.create_study(direction="maximize")
        study.optimize(FineTuneObjective(load_config(Path("study.yaml"))), n_trials=20)
    """

    def __init__(self, config: StudyConfig, space: SearchSpace | None = None) -> None:
        """Take a study's configuration, and its space if that is not the one of `config.space`.

        Raises:
            ConfigurationError: `config` is no study.
            SpaceError: the space does not allow the study's folds.
        """
        refuse_no_study("FineTuneObjective", config)
        self._config = config
        self._space = space or space_of_study(config)
        refuse_unfit_of_folds(config, self._space)
        self._worker: Worker | None = None
        self._turn = threading.Lock()

    def __call__(self, trial: optuna.Trial) -> float:
        """Return the score of the trial's best full evaluation.

        Raises:
            ConfigurationError: the study minimises, or its pruner treats folds as a learning curve.
            optuna.TrialPruned: the trial was pruned, or cannot be trained, which is marked by a violated constraint.
            TrainingError: training failed, with the reason.
            HpoError: the model or the data cannot be used.
        """
        self._refuse_unfit_study(trial.study)
        with self._turn:
            outcome = self._trained(trial)
        for name, value in outcome_attributes(outcome).items():
            trial.set_user_attr(name, value)
        if outcome.ending in UNTRAINABLE:
            trial.set_constraint(CONSTRAINT, VIOLATED)
        if outcome.ending in UNTRAINABLE or outcome.ending is Ending.PRUNED:
            raise optuna.TrialPruned(outcome.reason)
        if outcome.ending is not Ending.COMPLETED or outcome.best is None:
            raise TrainingError(f"Trial {trial.number} {outcome.ending}: {outcome.reason}")
        return outcome.best.validation.objective

    def _refuse_unfit_study(self, study: optuna.Study) -> None:
        if self._config.compute.ranks_of_trial > 1:
            raise ConfigurationError(
                f"compute.ranks is {self._config.compute.ranks_of_trial}, but FineTuneObjective trains only in this "
                "process; leave compute.ranks and compute.gpus_per_trial out, or search with hpo run."
            )
        if study.directions != [StudyDirection.MAXIMIZE]:
            raise ConfigurationError(
                "Higher scores are better, but the Optuna study minimises; create it with "
                'create_study(direction="maximize").'
            )
        if self._config.evaluation.folds and isinstance(study.pruner, OF_LEARNING_CURVES):
            raise ConfigurationError(
                f"With evaluation.folds a trial's steps are folds, but {type(study.pruner).__name__} judges learning "
                "curves; give create_study a WilcoxonPruner, a ThresholdPruner or a NopPruner."
            )

    def _trained(self, trial: optuna.Trial) -> Outcome:
        """Train one trial, and ask Optuna's pruner at every rung that may prune."""
        worker = self._opened()
        hyperparameters = self._space.hyperparameters(self._space.suggest(trial))
        trial.set_user_attr("learning_rate", hyperparameters.learning_rate)
        seed = seed_of(self._config, trial.number, hyperparameters)
        trial.set_user_attr("seed", seed)
        assignment = Assignment(
            trial=trial.number, attempt=1, hyperparameters=hyperparameters, seed=seed,
            milestones=trial_milestones(self._config, self._space, hyperparameters),
            maximum_passes=self._space.maximum_passes(),
        )  # fmt: skip
        return train(worker, assignment, partial(_answer, trial))

    def _opened(self) -> Worker:
        if self._worker is None:
            config = self._config
            kind, folds = TARGET_TYPES[config.task.name], config.evaluation.folds
            splits = load_splits(config.data, config.seed, kind, folds=folds)
            self._config = with_dtype(with_evaluation_defaults(config, self._space, splits), self._space)
            worker = open_worker(self._config, splits)
            worker.refuse_unfit(demands_of(self._space))
            worker.use(WorkerSettings(precision=worker.measure(dearest(self._space)).precision))
            # Only now, because the next call must not use a worker that was refused.
            self._worker = worker
        return self._worker


def _answer(trial: optuna.Trial, message: Report | Progress) -> Action:
    if isinstance(message, Progress):
        return Action.CONTINUE
    trial.report(message.validation.objective, message.rung)
    return Action.STOP if message.decides and trial.should_prune() else Action.CONTINUE
