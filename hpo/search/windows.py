"""Trial windows of a sampler: the best trials of a long study and an even part of the others."""

import copy
import heapq
from collections.abc import Container, Sequence
from dataclasses import dataclass

import optuna
from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.store.optuna_adapter import PassingStorage, storage_of

LEARNED_FROM = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How many trials that completed or were pruned are seen, at most."""

    best: int
    others: int
    """Spread evenly over all that ended, as many of the early ones as of the late."""

    def of(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return those of `trials` that are seen, in their order; what trains or waits is always."""
        ended = [trial for trial in trials if trial.state in LEARNED_FROM]
        if len(ended) <= self.best + self.others:
            return list(trials)
        complete = (trial for trial in ended if trial.state == TrialState.COMPLETE)
        best = heapq.nlargest(self.best, complete, key=lambda trial: trial.values[0])
        # From the newest on backwards, so that it is among them.
        others = (ended[-1 - place * len(ended) // self.others] for place in range(self.others))
        seen = {trial.number for trial in (*best, *others)}
        return [trial for trial in trials if trial.number in seen or not trial.state.is_finished()]


class FixedTrials(PassingStorage):  # type: ignore[misc]
    """A study's storage in which there are these trials and no others."""

    def __init__(self, backend: BaseStorage, trials: Sequence[FrozenTrial]) -> None:
        self.backend, self.trials = backend, trials

    def get_all_trials(
        self, _study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return those in one of `states`, or all."""
        shown = [trial for trial in self.trials if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown


def windowed_study(study: Study, window: Window) -> Study:
    """Return a study through a window, its trials read once: TPE reads them anew for every group of parameters."""
    seen = window.of(study.get_trials(deepcopy=False))
    return optuna.load_study(study_name=study.study_name, storage=FixedTrials(storage_of(study), seen))
