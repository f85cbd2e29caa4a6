"""A tally of the finished trials of a study, kept as they end: no verb goes through all of them."""

import bisect
from collections import Counter
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState


@dataclass(slots=True)
class TrialStatistics:
    """Of a study whose value is maximised."""

    states: Counter[TrialState] = field(default_factory=Counter)
    """How many trials ended so."""
    bests: list[float | None] = field(default_factory=list)
    """The best value of those that hpo trained to their end, after each trial that ended, in the order in which they
    did; None until there was one."""
    default_values: list[float] = field(default_factory=list)
    """Of trials of the default configuration."""
    _ranked: list[tuple[float, int]] = field(default_factory=list)
    """(value turned round, trial) of those that hpo trained to their end, rising."""

    def add(self, trial: FrozenTrial, *, trained: bool) -> None:
        """Take in a trial that has just ended; `trained` says whether hpo trained it to its end."""
        self.states[trial.state] += 1
        best = self.bests[-1] if self.bests else None
        if trained and trial.state == TrialState.COMPLETE:
            value = trial.values[0]
            best = value if best is None else max(best, value)
            bisect.insort(self._ranked, (-value, trial.number))
            if trial.user_attrs.get("proposed_by") == "default":
                self.default_values.append(value)
        self.bests.append(best)

    def best(self, most: int) -> list[tuple[float, int]]:
        """Return (value, trial) of the best that hpo trained to their end, the best first; of equals the earlier."""
        return [(-turned, trial) for turned, trial in self._ranked[:most]]
