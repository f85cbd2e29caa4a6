"""Trials of a study, as Optuna has them: proposed, scored at rungs, told and put back."""

from collections.abc import Mapping
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from hpo.errors import StoreUnavailableError
from hpo.store.optuna_adapter import StudyModel, TrialModel, TrialValueModel
from hpo.store.tables import STUDY, TO_TRIAL, TRIAL, StudyRows, trials
from hpo.store.trial_cache import TrialCache, TrialStatistics

_NUMBERED = sa.and_(TrialModel.study_id == STUDY, TrialModel.number == trials.c.trial)
_VALUE = sa.and_(TrialValueModel.trial_id == TrialModel.trial_id, TrialValueModel.objective == 0)
_AS_TEXT = sa.cast(TrialModel.state, sa.String(16))
_CHANGED = (
    sa.update(trials)
    .where(trials.c.study_id == STUDY, sa.text("hpo_trials.state IN ('RUNNING', 'WAITING')"))
    .where(trials.c.trial.between(TRIAL, TO_TRIAL))
    .where(sa.exists().where(_NUMBERED, trials.c.state != _AS_TEXT))
    .values(
        state=sa.select(_AS_TEXT).where(_NUMBERED).scalar_subquery(),
        score=sa.select(TrialValueModel.value).join(TrialModel, _VALUE).where(_NUMBERED).scalar_subquery(),
    )
)
"""Copies what Optuna has of the trials from `TRIAL` to `TO_TRIAL` that were unfinished."""
_NEW = sa.text(
    "INSERT INTO hpo_trials (study_id, trial, state, score) "
    "SELECT trials.study_id, trials.number, CAST(trials.state AS VARCHAR(16)), trial_values.value FROM trials "
    "LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id AND trial_values.objective = 0 "
    "WHERE trials.study_id = :of_study AND trials.number > "
    "(SELECT coalesce(max(trial), -1) FROM hpo_trials WHERE study_id = :of_study) ON CONFLICT DO NOTHING"
)
"""Copies the trials that came since, which another process may do at the same time."""
_GONE = sa.delete(trials).where(trials.c.study_id.not_in(sa.select(StudyModel.study_id)))
"""Forgets the trials of studies that were deleted with Optuna's own tools."""


class Trials:
    """Trials of one study, in a transaction."""

    def __init__(self, rows: StudyRows, cache: TrialCache, study: optuna.Study, pruner: BasePruner) -> None:
        self._rows, self._cache, self._study, self._pruner = rows, cache, study, pruner

    # -- what is read

    def get_all(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in one of `states`, or all, by number; not to be changed.

        Finished ones make it a list as long as the study: where a few of them are asked for, see `statistics`.
        """
        return self._study.get_trials(deepcopy=False, states=states or None)

    def get(self, number: int) -> FrozenTrial:
        """Return one trial, not to be changed."""
        return self._cache.get_trial(self._row(number))

    def count(self) -> int:
        """Return how many trials the study has."""
        return self._cache.count()

    def statistics(self) -> TrialStatistics:
        """Return statistics of the finished trials."""
        return self._cache.statistics()

    # -- what is written

    def enqueue(self, parameters: Mapping[str, Any], **attributes: Any) -> int:
        """Make a trial that waits with these parameters and user attributes, and return its number."""
        self._study.enqueue_trial(dict(parameters), user_attrs=attributes)
        # Optuna holds the study's row from there to the end of the transaction, so no later one can have been made.
        return self._cache.count() - 1

    def ask(self, waiting: int | None, sampler: BaseSampler | None = None) -> Trial:
        """Return a trial to suggest parameters for, running from now on: one that waits, or a new one.

        Args:
            waiting: the trial's number; None for a new one.
            sampler: in the place of the study's own; None for that.
        """
        # By no pruner: all that Hyperband's would do is to hide trials from the sampler.
        study = optuna.load_study(
            study_name=self._study.study_name, storage=self._cache, sampler=sampler or self._study.sampler,
            pruner=NopPruner(),
        )  # fmt: skip
        if waiting is None:
            return Trial(study, self._cache.create_new_trial(self._rows.study_id))
        row = self._row(waiting)
        if not self._cache.set_trial_state_values(row, TrialState.RUNNING):
            raise StoreUnavailableError(f"Trial {waiting} waits no more: another program has begun it.")
        return Trial(study, row)

    def set_intermediate_value(self, trial: int, rung: int, score: float) -> None:
        """Give Optuna a score at a rung; that of a later attempt replaces that of an earlier one."""
        self._cache.set_trial_intermediate_value(self._row(trial), rung, score)

    def should_prune(self, trial: int) -> bool:
        """Ask the study's pruner about `trial`, whose newest score it was given.

        An enqueued trial, such as the default, is never pruned: the others are compared with it.
        """
        judged = self.get(trial)
        return "fixed_params" not in judged.system_attrs and bool(self._pruner.prune(self._study, judged))

    def set_attributes(self, trial: int, attributes: Mapping[str, Any]) -> None:
        """Set user attributes of a trial that has not finished, all by one statement."""
        self._cache.set_attributes(self._row(trial), attributes)

    def set_constraint(self, trial: int, name: str, value: float) -> None:
        """Set a constraint of a running trial; above 0 it is violated."""
        Trial(self._study, self._row(trial)).set_constraint(name, value)

    def set_waiting(self, trial: int) -> None:
        """Put a running trial back among those that wait; it keeps its parameters and is handed out first."""
        self._cache.set_trial_state_values(self._row(trial), TrialState.WAITING)

    def record_states(self) -> None:
        """Copy the states of trials into our own table, where some may differ from before."""
        if changed := self._cache.changed:
            self._rows.execute(_CHANGED, of_trial=min(changed), to_trial=max(changed))
            self._rows.execute(_NEW)
            self._cache.changed = set()

    def forget_deleted_studies(self) -> None:
        """Delete from our own table the trials of studies that were deleted with Optuna's own tools."""
        self._rows.execute(_GONE)

    def _row(self, number: int) -> int:
        """Return the number that the row of a trial has in Optuna's table."""
        return self._cache.get_trial_id_from_study_id_trial_number(self._rows.study_id, number)
