"""What is known of trials to come: what they will take in time, and how many rows of a batch fit at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.messages import Outcome, Progress, Report
from hpo.search.assignments import last_rung, maximum_passes
from hpo.search.costs import Costs, Seen
from hpo.space.search_space import SearchSpace
from hpo.store.records import AttemptRecord, Reached
from hpo.training.passes import MemoryKey, Size, memory_key, size_of

LEAST_DONE = 0.05
"""Share of a trial from which its pace tells what all of it takes: its first steps are slow."""
MOST_OF_A_SIZE = 64
"""Trials of a size, the last seen, among which the most alike are looked for."""


@dataclass(frozen=True, slots=True)
class _Begun:
    attempt: int
    hyperparameters: Hyperparameters
    seconds_before: float
    """What the attempts before it had taken."""


@dataclass(slots=True)
class Expectations:
    """Learned from the store at the start, then from each report; so a proposal costs no reading of all of them."""

    config: StudyConfig
    space: SearchSpace
    expected: Sequence[Seen] = ()
    """What a probe said, until trials have."""
    _begun: dict[int, _Begun] = field(default_factory=dict)
    """Trial -> its newest attempt."""
    _seen: dict[int, Seen] = field(default_factory=dict)
    """Trial -> how far it came, in what time."""
    _expected: dict[int, float | None] = field(default_factory=dict)
    """Trial -> what all of it takes, as was expected when it last began or reported."""
    _last_seen: dict[Size, dict[int, Seen]] = field(default_factory=dict)
    """Of each size the last of these."""
    _rows: dict[MemoryKey, int] = field(default_factory=dict)
    _has_report: bool = False
    _most_passes: float = field(init=False)

    def __post_init__(self) -> None:
        self._most_passes = maximum_passes(self.space)

    @property
    def seen(self) -> list[Seen]:
        """How far each trial came, in what time."""
        return list(self._seen.values())

    def learn(self, reached: Iterable[Reached], short_of_memory: Iterable[AttemptRecord]) -> None:
        """Take in what earlier runs have stored."""
        for one in reached:
            self._has_report = True
            self._see(one.trial, Hyperparameters(**one.configuration), one.rung, one.seconds)
        for record in short_of_memory:
            if record.rows_at_once is not None:
                self._lower(Hyperparameters(**record.configuration), record.rows_at_once)

    def begun(self, trial: int, attempt: int, hyperparameters: Hyperparameters) -> None:
        """Take in what an attempt trains; told twice, nothing changes."""
        known, seen = self._begun.get(trial), self._seen.get(trial)
        if known is None or known.attempt != attempt:
            self._begun[trial] = _Begun(attempt, hyperparameters, seen.seconds if seen else 0.0)
            self._expected[trial] = self.seconds(hyperparameters)

    def reported(self, report: Report) -> None:
        """Take in how far a trial has come."""
        if (begun := self._begun.get(report.trial)) is not None:
            self._has_report = True
            self._see(report.trial, begun.hyperparameters, report.rung, report.seconds)
            self._expected[report.trial] = self.seconds(begun.hyperparameters)

    def progressed(self, progress: Progress) -> None:
        """Take in the pace of a trial, until one has been evaluated."""
        done = progress.examples_seen / max(1, progress.examples_total)
        begun = self._begun.get(progress.trial)
        if begun is not None and done >= LEAST_DONE and not self._has_report:
            self._see_share(progress.trial, begun.hyperparameters, done, progress.seconds)
            self._expected[progress.trial] = self.seconds(begun.hyperparameters)

    def ended(self, outcome: Outcome) -> None:
        """Take in how many rows went at once."""
        begun = self._begun.get(outcome.trial)
        if outcome.rows_at_once is not None and begun is not None:
            self._lower(begun.hyperparameters, outcome.rows_at_once)

    def rows_at_once(self, hyperparameters: Hyperparameters) -> int | None:
        """Return how many rows of a batch go through the model at once; None for all."""
        return self._rows.get(memory_key(hyperparameters))

    def seconds(self, hyperparameters: Hyperparameters) -> float | None:
        """Return what a trial will take from its start to its end; None where nothing is known."""
        seen = self._last_seen.get(size_of(hyperparameters)) or self._seen
        costs = Costs(list(seen.values()), self.expected)
        return costs.seconds(hyperparameters, self._work(hyperparameters, 1.0))

    def seconds_left(self, trial: int, hyperparameters: Hyperparameters) -> float:
        """Return what a trial, which may have come some way, will still take; 0 where nothing is known."""
        return self._left(trial, hyperparameters, self.seconds(hyperparameters))

    def seconds_of_attempt(self, trial: int) -> float:
        """Return what a trial's running attempt will have taken at its end: what it has, and what it still will.

        0 where nothing is known. The store counts an attempt's seconds once it is over.
        """
        if (begun := self._begun.get(trial)) is None:
            return 0.0
        seen = self._seen.get(trial)
        taken = seen.seconds - begun.seconds_before if seen else 0.0
        # One that began anew tells its own seconds alone, at first fewer than were taken before it.
        spent = taken if seen is None or taken >= 0 else seen.seconds
        # Expected anew of every trial in training, that would be most of what a proposal costs.
        whole = self._expected.get(trial) or self.seconds(begun.hyperparameters)
        return spent + self._left(trial, begun.hyperparameters, whole)

    def _left(self, trial: int, hyperparameters: Hyperparameters, whole: float | None) -> float:
        """Return what is left of the `whole` that a trial takes."""
        if whole is None:
            return 0.0
        seen = self._seen.get(trial)
        done = seen.rung / self._work(hyperparameters, 1.0) if seen else 0.0
        return whole * max(0.0, 1.0 - done)

    def _see(self, trial: int, hyperparameters: Hyperparameters, rung: int, seconds: float) -> None:
        self._see_share(trial, hyperparameters, rung / last_rung(self.config, self.space, hyperparameters), seconds)

    def _see_share(self, trial: int, hyperparameters: Hyperparameters, done: float, seconds: float) -> None:
        work = self._work(hyperparameters, done)
        seen = Seen(hyperparameters=hyperparameters, rung=work, seconds=seconds)
        of_size = self._last_seen.setdefault(size_of(hyperparameters), {})
        for known in (self._seen, of_size):
            known.pop(trial, None)  # The last seen is to be at the end.
            known[trial] = seen
        if len(of_size) > MOST_OF_A_SIZE:
            del of_size[next(iter(of_size))]

    def _work(self, hyperparameters: Hyperparameters, done: float) -> int:
        """Return passes over the texts, of a trial that is so far done, per mille of those of the longest trial.

        Its rungs say the same, but for trials in folds, which all end at 1000.
        """
        passes = hyperparameters.epochs * hyperparameters.data_fraction
        return max(1, round(1000 * done * passes / self._most_passes))

    def _lower(self, hyperparameters: Hyperparameters, rows: int) -> None:
        key = memory_key(hyperparameters)
        self._rows[key] = min(rows, self._rows.get(key, rows))
