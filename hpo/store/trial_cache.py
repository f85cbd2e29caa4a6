"""Cache of Optuna's trials of one study: read once, then updated by every write through it.

Optuna's own cache reads every unfinished trial with all of its rows at every read; with many trials in training that is
most of the cost of a method. Here one query per transaction finds the trials that others have changed, and only those
are read.
"""

import bisect
import copy
import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.messages import Ending
from hpo.store.optuna_adapter import (
    UNFINISHED,
    JoiningStorage,
    PassingStorage,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    row_of,
)
from hpo.store.tables import STUDY, TO_TRIAL, TRIAL, attempts

_STATE = sa.select(
    sa.cast(TrialModel.trial_id, sa.String(16)) + sa.literal_column("' '") + sa.cast(TrialModel.state, sa.String(16))
).where(TrialModel.study_id == STUDY)
_EACH = sa.union(_STATE.where(UNFINISHED), _STATE.where(TrialModel.number >= TRIAL)).subquery()
STATES = sa.select(sa.func.aggregate_strings(_EACH.c[0], ","))
"""Row and state of trials that are unfinished, and of all from `TRIAL` on: one long text is read faster than rows."""
_TRAINED = (
    sa.select(attempts.c.trial)
    .where(attempts.c.study_id == STUDY, attempts.c.ending == str(Ending.COMPLETED))
    .where(attempts.c.trial.between(TRIAL, TO_TRIAL))
)
"""Numbers of the trials, from `TRIAL` to another, that hpo trained to their end."""


def is_default(trial: FrozenTrial) -> bool:
    """Return true for a trial of the default configuration."""
    return trial.user_attrs.get("proposed_by") == "default"


@dataclass(slots=True)
class TrialStatistics:
    """Statistics of the finished trials of a study, updated as they end, so that no call reads all trials."""

    states: Counter[TrialState] = field(default_factory=Counter)
    """Number of trials by final state."""
    bests: list[float | None] = field(default_factory=list)
    """The best value of trials that hpo trained to their end, after each ended trial in order; None until there was
    one."""
    default_values: list[float] = field(default_factory=list)
    """Values of the completed trials of the default configuration, in order."""
    _ranked: list[tuple[float, int]] = field(default_factory=list)
    """(negated value, trial) of those that hpo trained to their end, ascending."""

    def add(self, trial: FrozenTrial, *, trained: bool) -> None:
        """Add a trial that has just ended; `trained` is true if hpo trained it to its end."""
        self.states[trial.state] += 1
        best = self.bests[-1] if self.bests else None
        if trained and trial.state == TrialState.COMPLETE:
            value = trial.values[0]
            best = value if best is None else max(best, value)
            bisect.insort(self._ranked, (-value, trial.number))
            if is_default(trial):
                self.default_values.append(value)
        self.bests.append(best)

    def best(self, most: int) -> list[tuple[float, int]]:
        """Return (value, trial) of the best trials that hpo trained to their end; of equal ones the earlier first."""
        return [(-turned, trial) for turned, trial in self._ranked[:most]]


class TrialCache(PassingStorage):  # type: ignore[misc]
    """Optuna's storage for one study, which replaces its cache. A trial in it is never changed, only replaced.

    A write counts as done at once; after a rollback the whole cache must be cleared.
    """

    def __init__(self, backend: JoiningStorage, name: str) -> None:
        """Find the study `name` in the storage."""
        self.backend = backend
        self.study_id = backend.get_study_id_from_name(name)
        self._directions = backend.get_study_directions(self.study_id)
        self._in_transaction = False
        self.forget()

    def forget(self) -> None:
        """Clear the cache."""
        self.changed: set[int] = set()
        """Trials that were created or changed their states, and are to be copied into our own table."""
        self._trials: dict[int, FrozenTrial] = {}
        self._numbers: dict[int, int] = {}
        self._unfinished: dict[int, str] = {}
        self._unread: set[int] = set()
        self._statistics = TrialStatistics()
        self._distributions: dict[str, BaseDistribution] = {}
        self._params: dict[int, dict[str, tuple[float, BaseDistribution]]] = defaultdict(dict)
        self._is_read = self._is_current = False
        # The first unknown trial; later ones may be known, because another process may create one just before one of
        # ours.
        self._known_to = 0

    def within(self, transaction: bool) -> None:
        """Note that a transaction begins or has ended: others may have written until now, or may write from now on."""
        self._in_transaction, self._is_current = transaction, False

    # -- what is read

    def statistics(self) -> TrialStatistics:
        """Return statistics of the finished trials."""
        self._read()
        return self._statistics

    def count(self) -> int:
        """Return how many trials there are."""
        self._read()
        return len(self._trials)

    def get_study_id_from_name(self, study_name: str) -> int:  # noqa: ARG002
        """Return the number of the study."""
        return self.study_id

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:  # noqa: ARG002
        """Return the directions of the study, which never change."""
        return self._directions

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in one of `states`, or all, by number."""
        assert study_id == self.study_id, "a cache is of one study"
        self._read()
        if states is None:
            trials = list(self._trials.values())
        elif any(state in states for state in TrialState if state.is_finished()):
            trials = [trial for trial in self._trials.values() if trial.state in states]
        else:
            unfinished = (self._trials[number] for number in sorted(self._unfinished))
            trials = [trial for trial in unfinished if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return one trial; in a transaction as last known, because whoever writes it checks its row first."""
        if not self._in_transaction or trial_id in self._unread or trial_id not in self._numbers:
            self._read()
        number = self._numbers.get(trial_id)
        return self.backend.get_trial(trial_id) if number is None else self._trials[number]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """Return the number of a trial's row."""
        known = self._trials.get(trial_number)
        return row_of(known) if known else self.backend.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    # -- what is written

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial."""
        trial = self.backend.begin_trial(study_id, template_trial)
        self.changed.add(trial.number)
        if template_trial is None and self._is_read:
            self._take([trial])
        else:
            self._unread.add(row_of(trial))
        return row_of(trial)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter; in a transaction, those of a trial are written together."""
        known = self._distributions.get(param_name)
        if known is None or not self._in_transaction:
            self.backend.set_trial_param(trial_id, param_name, param_value_internal, distribution)
            self._distributions[param_name] = distribution
        else:
            check_distribution_compatibility(known, distribution)
            self._params[trial_id][param_name] = param_value_internal, distribution
        self._add(trial_id, "params", {param_name: distribution.to_external_repr(param_value_internal)})
        self._add(trial_id, "distributions", {param_name: distribution})

    def write_params(self) -> None:
        """Write the parameters that were set and are not written yet."""
        params, self._params = self._params, defaultdict(dict)
        for trial_id, values in params.items():
            rows = [
                {"param_name": name, "param_value": value, "distribution_json": distribution_to_json(distribution)}
                for name, (value, distribution) in values.items()
            ]
            self.backend.write(TrialParamModel, "param_name", trial_id, rows)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set a state, its time and the final values of the trial."""
        self.write_params()
        trial, now = copy.copy(self.get_trial(trial_id)), datetime.now()
        if not self.backend.set_state(trial_id, state, values, now):
            return False
        trial.state, trial.values = state, trial.values if values is None else values
        if state == TrialState.RUNNING:
            trial.datetime_start = now
        elif state.is_finished():
            trial.datetime_complete = now
        self._take([trial])
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set the value at a step."""
        self.backend.set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._add(trial_id, "intermediate_values", {step: intermediate_value})

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute."""
        self.set_attributes(trial_id, {key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's own."""
        self.backend.set_trial_system_attr(trial_id, key, value)
        self._add(trial_id, "system_attrs", {key: value})

    def set_attributes(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        rows = [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
        self.backend.write(TrialUserAttributeModel, "key", trial_id, rows)
        self._add(trial_id, "user_attrs", attributes)

    # -- how it is kept

    def _read(self) -> None:
        """Read what others may have changed, once per transaction, and the trials that must be read again."""
        if not self._is_read:
            self._take(self.backend.read(self.study_id))
            self._is_read, self._unread = True, set()
        elif not self._is_current:
            self._unread |= self._changed()
        if self._unread:
            self.write_params()
            self._take(self.backend.read(self.study_id, self._unread))
            self._unread = set()
        self._is_current = self._in_transaction
        while self._known_to in self._trials:
            self._known_to += 1

    def _changed(self) -> set[int]:
        """Return the rows of trials that differ from the cache."""
        [(found,)] = self.backend.execute(STATES, {"of_study": self.study_id, "of_trial": self._known_to})
        now = found.split(",") if found else ()
        return {int(one.split()[0]) for one in {*self._unfinished.values()}.symmetric_difference(now)}

    def _take(self, trials: Iterable[FrozenTrial]) -> None:
        """Add trials as they were read."""
        ended = []
        for trial in trials:
            number = trial.number
            self.changed.add(number)
            if trial.state.is_finished() and (number not in self._trials or number in self._unfinished):
                ended.append(trial)
            in_order = number in self._trials or number > next(reversed(self._trials), -1)
            self._trials[number] = trial
            if not in_order:
                self._trials = dict(sorted(self._trials.items()))
            self._numbers[row_of(trial)] = number
            self._unfinished.pop(number, None)
            if not trial.state.is_finished():
                self._unfinished[number] = f"{row_of(trial)} {trial.state.name}"
        trained = self._trained([trial.number for trial in ended if trial.state == TrialState.COMPLETE])
        for trial in sorted(ended, key=lambda one: (one.datetime_complete or datetime.min, one.number)):
            self._statistics.add(trial, trained=trial.number in trained)

    def _trained(self, complete: Sequence[int]) -> set[int]:
        """Return the trials that completed because hpo trained them, not because another program told them."""
        if not complete:
            return set()
        parameters = {"of_study": self.study_id, "of_trial": min(complete), "to_trial": max(complete)}
        return {trial for (trial,) in self.backend.execute(_TRAINED, parameters)}

    def _add(self, trial_id: int, field: str, values: Mapping[Any, Any]) -> None:
        """Replace a trial by one in which `values` are added to a field."""
        number = self._numbers.get(trial_id)
        if number is not None:
            trial = copy.copy(self._trials[number])
            setattr(trial, field, getattr(trial, field) | values)
            self._trials[number] = trial
