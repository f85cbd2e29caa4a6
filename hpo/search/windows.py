"""What a sampler sees of a long study: the best trials and an even part of the others, no more however long it is."""

import copy
import heapq
from collections.abc import Container, Sequence
from dataclasses import dataclass

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

LEARNED_FROM = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How many trials that completed or were given up are seen, at most."""

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


class SeenStudy(Study):
    """A study through a window, its trials read once: TPE reads them anew for every group of parameters."""

    def __init__(self, study: Study, window: Window) -> None:
        # Hyperband's study of one bracket hides most of its attributes.
        vars(self).update(object.__getattribute__(study, "__dict__"))
        self._seen = window.of(study._get_trials(deepcopy=False))

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002 (what was read once is used always)
    ) -> list[FrozenTrial]:
        seen = [trial for trial in self._seen if states is None or trial.state in states]
        return copy.deepcopy(seen) if deepcopy else seen
