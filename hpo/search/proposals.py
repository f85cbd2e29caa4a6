"""Proposals, and which trial is trained next: one that waits, or a new one, if there is still time for it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.messages import Capacity
from hpo.search.ahead import Wanted, given, proposed_ahead, short_draw
from hpo.search.assignments import seed_of
from hpo.search.budget import has_stalled
from hpo.search.costs import Expectations
from hpo.search.enumeration import ENUMERATIONS, EnumeratingSampler
from hpo.search.samplers import SAMPLERS, derived_seed, sampler_of, startup_trials
from hpo.space.search_space import SearchSpace
from hpo.store.records import AttemptRecord
from hpo.store.studies import StudyStore

MOST_PUT_ASIDE = 8
"""Proposals that wait because they take longer than there is time; where there are as many, no more are asked for, and
one that fits is drawn at random."""
REPEAT_DEFAULT_AFTER_TRIALS = 20
USED_UP = "Every combination of the space was tried."
TOO_LITTLE_TIME = "The time that is left is too short for another trial."


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a worker that asks can be given."""

    seconds: float
    """What a trial may take at most; infinite without a deadline."""
    avoids: Callable[[int], bool]
    """Whether a trial is to be tried on another worker."""


class Proposing(Protocol):
    """Who says what is trained next: a search's `Proposals`, or the race of a confirmation."""

    @property
    def ended_because(self) -> str | None:
        """Why there is nothing more to train, where that is not for the number of trials."""

    def begin(self) -> None:
        """Put into a new study what it begins with."""

    def next(self, request: str, capacity: Capacity, room: Room) -> AttemptRecord | Wanted | None:
        """Begin an attempt at the first trial that fits; None if there is none."""

    def with_weights(self) -> set[int]:
        """Return the trials that are over and whose weights are needed still."""


@dataclass(slots=True)
class Proposals:
    """Proposes inside the store's open transaction; what it remembers only saves asking again."""

    store: StudyStore
    space: SearchSpace
    config: StudyConfig
    expectations: Expectations
    ended_because: str | None = None
    """Why there is nothing more to train, where that is not for the number of trials."""
    _put_aside: dict[int, Hyperparameters] = field(default_factory=dict)
    """Trials that were too long for the time that was left."""
    _proposed: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Trial that is next -> what a sampler that takes long has proposed for it."""
    _sampler: str = field(init=False)
    """Name of the one that proposes."""

    def __post_init__(self) -> None:
        self._sampler = sampler_of(self.config, self.space)

    def begin(self) -> None:
        """Enqueue the default configuration."""
        self.store.study.enqueue_trial(self._default())

    def next(self, request: str, capacity: Capacity, room: Room) -> AttemptRecord | Wanted | None:
        """Begin an attempt at the first trial that fits; None if there is none."""
        if self._lacks_noise():
            self.store.study.enqueue_trial(self._default())
        waits = self.store.trials(TrialState.WAITING)
        must_train = self._must_train(room)
        # Proposals that somebody gave up, and those of a transaction that was lost, are forgotten: they never were.
        numbers = {trial.number for trial in waits}
        self._put_aside = {number: known for number, known in self._put_aside.items() if number in numbers}
        self.ended_because = None
        for waiting, sampler in self._candidates(waits, room, must_train):
            if waiting is None and sampler is None and (wanted := self._wanted()):
                return wanted
            ahead = None if waiting is not None else self._proposed.get(self.store.size())
            trial = self.store.ask(waiting, sampler or (None if ahead is None else given(ahead)))
            if sampler is not None:
                self.store.set_attributes(trial.number, {"proposed_by": "random"})
            values = self.space.suggest(trial)
            hyperparameters = self.space.hyperparameters(values)
            if must_train or self._fits(trial.number, hyperparameters, room):
                return self._begun(trial.number, hyperparameters, request, capacity)
            self._put_back(trial.number, hyperparameters)
        if self._put_aside and self.ended_because is None:
            self.ended_because = TOO_LITTLE_TIME
        return None

    def with_weights(self) -> set[int]:
        """Return the best so far, as many as are kept."""
        return {number for _, number in self.store.tally().best(weights_kept(self.config))}

    def _candidates(
        self, waits: Sequence[FrozenTrial], room: Room, must_train: bool
    ) -> Iterator[tuple[int | None, BaseSampler | None]]:
        """Yield the trials that wait, those that were begun first, and then None for each new one to propose.

        Beside it stands the sampler that is asked, None for the study's own.
        """
        # What was begun has its seed among its attributes.
        for number in [trial.number for trial in sorted(waits, key=lambda trial: "seed" not in trial.user_attrs)]:
            known = None if must_train else self._put_aside.get(number)
            if not room.avoids(number) and (known is None or self._fits(number, known, room)):
                yield number, None
        most = self.config.budget.most_trials
        allowed = math.inf if most is None else most - self.store.size()
        if self._has_stalled():
            return
        while len(self._put_aside) < MOST_PUT_ASIDE:
            if self._has_tried_all():
                self.ended_because = None if self._put_aside else USED_UP
                return
            if allowed <= 0:
                return
            yield None, None
            allowed -= 1
        if allowed > 0 and (short := self._short_draw(self.store.size(), room)):
            yield None, short

    def _wanted(self) -> Wanted | None:
        """Return that a sampler which takes long is to propose first; None where it has, or takes no time."""
        number = self.store.size()
        if not SAMPLERS[self._sampler].takes_long or number in self._proposed:
            return None
        study, trials = self.store.study, self.store.trials()

        def propose() -> None:
            self._proposed = {number: proposed_ahead(study, trials, number, self.space)}

        return Wanted(propose=propose)

    def _short_draw(self, number: int, room: Room) -> BaseSampler | None:
        if self._sampler in ENUMERATIONS:
            return None
        seed = derived_seed(self.config.seed, "short", number)
        return short_draw(self.space, seed, lambda drawn: self._fits(number, drawn, room))

    def _begun(self, number: int, hyperparameters: Hyperparameters, request: str, capacity: Capacity) -> AttemptRecord:
        self._put_aside.pop(number, None)
        record = AttemptRecord(
            trial=number,
            attempt=self.store.latest_attempt(number) + 1,
            configuration=hyperparameters.to_mapping(),
            seed=seed_of(self.config, number, hyperparameters),
            score_to_beat=self._score_to_beat(),
            micro_batch_size=self.expectations.micro_batch_size(hyperparameters),
            ended=False,
        )
        self.store.begin_attempt(record, request=request, worker=capacity.worker, device=capacity.device)
        self.store.add_event("begun", record.trial, record.attempt, worker=capacity.worker)
        attributes: dict[str, Any] = {"learning_rate": hyperparameters.learning_rate, "seed": record.seed}
        if record.attempt == 1:
            attributes["proposed_by"] = self._proposer(number)
        self.store.set_attributes(record.trial, attributes)
        return record

    def _must_train(self, room: Room) -> bool:
        """Return whether a trial begins however long it may take: none has completed, none runs, there is time left.

        A forecast may be wrong by far on a busy machine, and what does not end in time is paused and gone on with.
        """
        nothing = not self.store.tally().states[TrialState.COMPLETE] and not self.store.trials(TrialState.RUNNING)
        return nothing and room.seconds > 0

    def _fits(self, number: int, hyperparameters: Hyperparameters, room: Room) -> bool:
        return math.isinf(room.seconds) or self.expectations.seconds_left(number, hyperparameters) <= room.seconds

    def _put_back(self, number: int, hyperparameters: Hyperparameters) -> None:
        """Let a trial wait for shorter ones to be known, or for the next run; it keeps its parameters."""
        if number not in self._put_aside:
            self.store.add_event("too_long", number)
        self._put_aside[number] = hyperparameters
        self.store.set_waiting(number)

    def _score_to_beat(self) -> float | None:
        """Return the score of the last of those trials whose weights are kept; None while there is room."""
        kept = weights_kept(self.config)
        best = self.store.tally().best(kept)
        return best[-1][0] if len(best) == kept else None

    def _has_tried_all(self) -> bool:
        """Return whether the sampler tries every combination once, and has."""
        sampler = self.store.study.sampler
        return isinstance(sampler, EnumeratingSampler) and sampler.enumeration.following(self.store.trials()) is None

    def _default(self) -> dict[str, Any]:
        return self.space.sampled(self.space.default_values())

    def _lacks_noise(self) -> bool:
        """Return whether the default is to be trained on a second seed now: where `budget.patience` goes by its noise.

        Early that would cost a trial that may improve. Not where the space names the seed, nor where each combination
        is tried once.
        """
        patience, search = self.config.budget.patience, self.config.search
        if patience is None or self.store.tally().states.total() < max(patience, REPEAT_DEFAULT_AFTER_TRIALS):
            return False
        default, most = self.space.default_values(), self.config.budget.most_trials
        if not search.repeat_default or self._sampler in ENUMERATIONS or "seed" in default:
            return False
        trials = self.store.trials()
        known = sum(trial.system_attrs.get("fixed_params") == self._default() for trial in trials)
        return known == 1 and (most is None or len(trials) < most)

    def _has_stalled(self) -> bool:
        patience = self.config.budget.patience
        if patience is None:
            return False
        tally = self.store.tally()
        stalled = has_stalled(tally.bests, noise_floor(tally.default_values), patience)
        if stalled:
            self.ended_because = f"The last {patience} trials brought no improvement above the noise floor."
        return stalled

    def _proposer(self, number: int) -> str:
        """Return who proposed a trial that is about to begin."""
        trial = self.store.trial(number)
        if (known := trial.user_attrs.get("proposed_by")) is not None:
            return str(known)
        fixed = trial.system_attrs.get("fixed_params")
        if fixed is not None:
            return "default" if fixed == self._default() else "enqueued"
        name = self._sampler
        waits_for, ended = SAMPLERS[name].waits_for, self.store.tally().states
        start_up = waits_for and sum(ended[state] for state in waits_for) < startup_trials(self.config)
        return "start-up" if start_up else name


def weights_kept(config: StudyConfig) -> int:
    """Return of how many of the best trials the weights are kept while the search runs: the winner's are scored."""
    return max(1, config.store.keep_weights or 0)


def noise_floor(default_scores: Sequence[float]) -> float:
    """Return how far the default configuration's scores on two seeds are apart; 0 where it was not trained on two."""
    return max(default_scores) - min(default_scores) if len(default_scores) > 1 else 0.0
