"""Trial proposals: the next trial to train, waiting or new, that fits into the remaining time."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.messages import Capacity
from hpo.search.budget import has_stalled, noise_floor
from hpo.search.forecasts import Forecasts
from hpo.search.grid_sampler import ENUMERATIONS, EnumeratingSampler
from hpo.search.pruners import PromotionPruner, build_pruner, promotion_rungs
from hpo.search.samplers import (
    SAMPLERS,
    PerTrialSampler,
    derived_seed,
    fixed_sampler,
    sampler_of,
    seed_of,
    startup_trials,
)
from hpo.search.upcoming_trial import RandomDraws, proposed_parameters
from hpo.space.domains import Value
from hpo.space.fitting import fitted_portfolio
from hpo.space.search_space import SearchSpace
from hpo.store.study_store import RUNGS_ATTRIBUTE, StudyStore
from hpo.store.trial_cache import is_default
from hpo.store.trials import AttemptRecord

MAX_DEFERRED = 8
"""Most proposals deferred for lack of time; after that, one that fits is drawn at random."""
REPEAT_DEFAULT_AFTER_TRIALS = 20
USED_UP = "Every combination of the space was tried."
TOO_LITTLE_TIME = "The time that is left is too short for another trial."


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRequest:
    """A worker's request for a trial."""

    name: str
    """At most 64 characters; a repeated request gets the same attempt."""
    capacity: Capacity
    seconds: float
    """Most seconds that a trial may take; infinite without a deadline."""
    avoids: Callable[[int], bool]
    """True if a trial is to be tried on another worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowProposal:
    """Result that asks the caller to run `propose` outside the transaction, and then to repeat the request."""

    propose: Callable[[], None]


class Proposer(Protocol):
    """Source of the next trial: the `Proposals` of a search, or the runs of a confirmation."""

    @property
    def ended_because(self) -> str | None:
        """Reason that there is nothing more to train, other than the number of trials."""

    def begin(self) -> None:
        """Enqueue the first trials of a new study."""

    def next(self, request: TrialRequest) -> AttemptRecord | SlowProposal | None:
        """Start an attempt at the first trial that fits; None if there is none."""

    def would_resume(self, trial: int, seconds: float) -> bool:
        """Return true if a running trial, were it paused now, would be the next to begin, with `seconds` left."""

    def with_weights(self) -> set[int]:
        """Return the finished trials whose weights are still needed."""


@dataclass(slots=True)
class Proposals:
    """Proposals of a search, within the store's open transaction; its own state is only a cache."""

    store: StudyStore
    space: SearchSpace
    config: StudyConfig
    forecasts: Forecasts
    ended_because: str | None = None
    """Reason that there is nothing more to train, other than the number of trials."""
    _deferred: dict[int, Hyperparameters] = field(default_factory=dict)
    """Trials that did not fit into the remaining time."""
    _proposed: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Next trial -> parameters that a slow sampler has proposed for it."""
    _draws: RandomDraws | None = None
    """Random configurations for the next trial."""
    _sampler: str = field(init=False)
    """Name of the proposer."""
    _pruner: BasePruner = field(init=False)

    def __post_init__(self) -> None:
        self._sampler, self._pruner = sampler_of(self.config, self.space), build_pruner(self.config)

    def begin(self) -> None:
        """Enqueue the default configuration, and then those of the portfolio."""
        self.store.study.enqueue_trial(self._default())
        for values in published(self.config, self.space):
            self.store.trials.enqueue(self.space.sampled(values), proposed_by="portfolio")

    def next(self, request: TrialRequest) -> AttemptRecord | SlowProposal | None:
        """Start an attempt at the first trial that fits; None if there is none."""
        if self._lacks_noise():
            self.store.study.enqueue_trial(self._default())
        waits = self.store.trials.get_all(TrialState.WAITING)
        must_train = self._must_train(request.seconds)
        paused = {trial.number for trial in waits if trial.intermediate_values}
        # Forget deferred trials that were pruned, and those of a transaction that was rolled back.
        numbers = {trial.number for trial in waits}
        self._deferred = {number: known for number, known in self._deferred.items() if number in numbers}
        self.ended_because = None
        for waiting, sampler in self._candidates(waits, request, must_train):
            if waiting is None and sampler is None and (slow := self._slow_proposal()):
                return slow
            proposed = None if waiting is not None else self._proposed.get(self.store.trials.count())
            trial = self.store.trials.ask(waiting, sampler or (None if proposed is None else fixed_sampler(proposed)))
            if sampler is not None:
                self.store.trials.set_attributes(trial.number, {"proposed_by": "random"})
            values = self.space.suggest(trial)
            hyperparameters = self.space.hyperparameters(values)
            forced = must_train and (not paused or waiting in paused)
            if forced or self.forecasts.fits(trial.number, hyperparameters, request.seconds):
                return self._begun(trial.number, hyperparameters, request)
            self._defer(trial.number, hyperparameters)
        if self._deferred and self.ended_because is None:
            self.ended_because = TOO_LITTLE_TIME
        return None

    def would_resume(self, trial: int, seconds: float) -> bool:
        """Return true if a running trial, were it paused now, would be the next to begin; nothing is written."""
        if self._lacks_noise() or self._may_propose(seconds):
            return False
        waits = [*self.store.trials.get_all(TrialState.WAITING), self.store.trials.get(trial)]
        forced = self._must_train(seconds, besides=trial)
        for one in (*self._promoted(waits), *self._promoted_last(waits, seconds)):
            known = self._hyperparameters(one)
            if known is None or (forced and one.intermediate_values) or self.forecasts.fits(one.number, known, seconds):
                return one.number == trial
        return False

    def with_weights(self) -> set[int]:
        """Return the best trials so far, as many as have their weights kept."""
        return {number for _, number in self.store.trials.statistics().best(weights_kept(self.config))}

    def _candidates(
        self, waits: Sequence[FrozenTrial], request: TrialRequest, must_train: bool
    ) -> Iterator[tuple[int | None, BaseSampler | None]]:
        """Yield the waiting trials, started ones first, and then None for each new trial to propose.

        Each comes with the sampler to use, None for the study's own.
        """
        yield from self._resumed(self._promoted(waits), request, must_train)
        allowed = self._allowed()
        if self._has_stalled():
            patience = self.config.budget.patience
            self.ended_because = f"The last {patience} trials brought no improvement above the noise floor."
            yield from self._resumed(self._promoted_last(waits, request.seconds), request, must_train)
            return
        while len(self._deferred) < MAX_DEFERRED and allowed > 0 and not self._has_tried_all():
            yield None, None
            allowed -= 1
        if self._has_tried_all():
            self.ended_because = None if self._deferred else USED_UP
        elif allowed > 0 and (short := self._random_draw(self.store.trials.count(), request.seconds)):
            yield None, short
        yield from self._resumed(self._promoted_last(waits, request.seconds), request, must_train)

    def _resumed(
        self, trials: Sequence[FrozenTrial], request: TrialRequest, must_train: bool
    ) -> Iterator[tuple[int, None]]:
        """Yield the trials that this worker may train and that, as far as is known, fit."""
        for number in [trial.number for trial in trials]:
            known = None if must_train else self._deferred.get(number)
            if not request.avoids(number) and (known is None or self.forecasts.fits(number, known, request.seconds)):
                yield number, None

    def _held_back(self, waits: Sequence[FrozenTrial], at_least: int = 0) -> list[FrozenTrial]:
        """Return the paused trials that are not promoted, the most promising first."""
        if not isinstance(self._pruner, PromotionPruner):
            return []
        return self._pruner.held_back(waits, self.store.trials.get_all(), at_least=at_least)

    def _promoted(self, waits: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the waiting trials that begin or resume before any new one, started ones first."""
        held = {trial.number for trial in self._held_back(waits)}
        # A trial that has started has its seed among its attributes.
        return sorted(
            (trial for trial in waits if trial.number not in held), key=lambda trial: "seed" not in trial.user_attrs
        )

    def _promoted_last(self, waits: Sequence[FrozenTrial], seconds: float) -> list[FrozenTrial]:
        """Return the paused trials to resume if no new trial starts.

        With a deadline all; without one, or if patience ends the search, the default, and at each rung one more of the
        best than are confirmed.
        """
        best = 1 + self.config.confirmation.finalists
        held = self._held_back(waits, best) if math.isinf(seconds) or self._has_stalled() else []
        return [trial for trial in self._held_back(waits) if trial not in held or is_default(trial)]

    def _allowed(self) -> float:
        """Return the number of trials that the budget has left."""
        most = self.config.budget.most_trials
        return math.inf if most is None else most - self.store.trials.count()

    def _may_propose(self, seconds: float) -> bool:
        """Return true if a new trial may begin within that many seconds."""
        if self._allowed() <= 0 or self._has_stalled() or self._has_tried_all():
            return False
        return len(self._deferred) < MAX_DEFERRED or bool(self._random_draw(self.store.trials.count(), seconds))

    def _hyperparameters(self, waiting: FrozenTrial) -> Hyperparameters | None:
        """Return what a waiting trial trains; None if the sampler has to propose a part of it."""
        try:
            values = self.space.suggest(FixedTrial(waiting.params or waiting.system_attrs.get("fixed_params", {})))
        except ValueError:
            return None
        return self.space.hyperparameters(values)

    def _slow_proposal(self) -> SlowProposal | None:
        """Return the request to run a slow sampler first; None if it has run, or if the sampler is fast."""
        number = self.store.trials.count()
        if not SAMPLERS[self._sampler].takes_long or number in self._proposed:
            return None
        study, trials = self.store.study, self.store.trials.get_all()

        def propose() -> None:
            self._proposed = {number: proposed_parameters(study, trials, number, self.space)}

        return SlowProposal(propose=propose)

    def _random_draw(self, number: int, seconds: float) -> BaseSampler | None:
        """Return a sampler that proposes the first of `MAX_DRAWS` random configurations that fits; None if none fits.

        Draws that do not fit are not stored, so that no later run has to train them. They are kept while `number` is
        the next trial: near a deadline every idle worker asks for it, and they are the same for all.
        """
        if self._sampler in ENUMERATIONS:
            return None
        if self._draws is None or self._draws.number != number:
            self._draws = RandomDraws(number, derived_seed(self.config.seed, "short", number), self.space)
        for parameters, hyperparameters in self._draws:
            if self.forecasts.fits(number, hyperparameters, seconds):
                return fixed_sampler(parameters)
        return None

    def _begun(self, number: int, hyperparameters: Hyperparameters, request: TrialRequest) -> AttemptRecord:
        self._deferred.pop(number, None)
        attempt = self.store.attempts.latest(number) + 1
        return begin_attempt(
            self.store, request, self.forecasts, hyperparameters, trial=number, attempt=attempt,
            seed=seed_of(self.config, number, hyperparameters), score_to_beat=self._score_to_beat(),
            proposed_by=self._proposer(number) if attempt == 1 else None,
            rungs=promotion_rungs(self.config, self.space, hyperparameters),
        )  # fmt: skip

    def _must_train(self, seconds: float, besides: int | None = None) -> bool:
        """Return true if a trial starts whatever its forecast: none has completed, none runs, and there is time left.

        A forecast may be far off on a busy machine, and a trial that does not end in time is paused and resumed. If
        some are paused, one of them is resumed rather than a new one begun.

        Args:
            seconds: that are left.
            besides: a running trial that does not count.
        """
        trials = self.store.trials
        runs = any(trial.number != besides for trial in trials.get_all(TrialState.RUNNING))
        return not runs and not trials.statistics().states[TrialState.COMPLETE] and seconds > 0

    def _defer(self, number: int, hyperparameters: Hyperparameters) -> None:
        """Defer a trial until forecasts are lower or to the next run; it keeps its parameters."""
        if number not in self._deferred:
            self.store.events.add("too_long", number)
        self._deferred[number] = hyperparameters
        self.store.trials.set_waiting(number)

    def _score_to_beat(self) -> float | None:
        """Return the lowest score among the trials whose weights are kept; None while more can be kept."""
        kept = weights_kept(self.config)
        best = self.store.trials.statistics().best(kept)
        return best[-1][0] if len(best) == kept else None

    def _has_tried_all(self) -> bool:
        """Return true if an enumerating sampler has tried every combination."""
        sampler = self.store.study.sampler
        return isinstance(sampler, EnumeratingSampler) and sampler.next_untried(self.store.trials.get_all()) is None

    def _default(self) -> dict[str, Any]:
        return self.space.sampled(self.space.default_values())

    def _lacks_noise(self) -> bool:
        """Return true if the default is trained on a second seed now, to measure the noise that `budget.patience` uses.

        Not early, when a new configuration is more likely to improve the score; nor if the space has the seed as a
        parameter, or every combination is tried once.
        """
        patience, search = self.config.budget.patience, self.config.search
        if patience is None or self.store.trials.statistics().states.total() < max(
            patience, REPEAT_DEFAULT_AFTER_TRIALS
        ):
            return False
        default, most = self.space.default_values(), self.config.budget.most_trials
        if not search.repeat_default or self._sampler in ENUMERATIONS or "seed" in default:
            return False
        trials = self.store.trials.get_all()
        known = sum(trial.system_attrs.get("fixed_params") == self._default() for trial in trials)
        return known == 1 and (most is None or len(trials) < most)

    def _has_stalled(self) -> bool:
        patience = self.config.budget.patience
        if patience is None:
            return False
        statistics = self.store.trials.statistics()
        return has_stalled(statistics.bests, noise_floor(statistics.default_values), patience)

    def _proposer(self, number: int) -> str:
        """Return the name of what proposed a trial that is about to start."""
        trial = self.store.trials.get(number)
        if (known := trial.user_attrs.get("proposed_by")) is not None:
            return str(known)
        fixed = trial.system_attrs.get("fixed_params")
        if fixed is not None:
            return "default" if fixed == self._default() else "enqueued"
        name = self._sampler
        waits_for, ended = SAMPLERS[name].waits_for, self.store.trials.statistics().states
        sampler = self.store.study.sampler
        earlier = sampler.earlier if isinstance(sampler, PerTrialSampler) else ()
        learned_from = sum(ended[state] for state in waits_for) + sum(len(one.trials) for one in earlier)
        if TrialState.PRUNED in waits_for:
            learned_from += sum(bool(one.intermediate_values) for one in self.store.trials.get_all(TrialState.WAITING))
        start_up = waits_for and learned_from < startup_trials(self.config)
        return "start-up" if start_up else name


def begin_attempt(
    store: StudyStore, request: TrialRequest, forecasts: Forecasts, hyperparameters: Hyperparameters, *,
    trial: int, attempt: int, seed: int, score_to_beat: float | None, proposed_by: str | None,
    confirms: int | None = None, rungs: Sequence[int] = (),
) -> AttemptRecord:  # fmt: skip
    """Record the start of an attempt, and return it; None for `proposed_by` keeps the recorded one."""
    record = AttemptRecord(
        trial=trial, attempt=attempt, configuration=hyperparameters.to_mapping(), seed=seed,
        score_to_beat=score_to_beat, micro_batch_size=forecasts.micro_batch_size(hyperparameters), ended=False,
        confirms=confirms,
    )  # fmt: skip
    capacity = request.capacity
    store.attempts.begin(record, request=request.name, worker=capacity.worker, device=capacity.device)
    store.events.add("begun", trial, attempt, worker=capacity.worker)
    attributes: dict[str, Any] = {"learning_rate": hyperparameters.learning_rate, "seed": seed}
    attributes |= {RUNGS_ATTRIBUTE: rungs} if rungs else {}
    store.trials.set_attributes(
        trial, attributes if proposed_by is None else {**attributes, "proposed_by": proposed_by}
    )
    return record


def published(config: StudyConfig, space: SearchSpace) -> list[dict[str, Value]]:
    """Return the published configurations that a search tries, at most a quarter of its trials."""
    most = config.budget.most_trials
    return fitted_portfolio(space)[: None if most is None else most // 4] if config.search.portfolio else []


def weights_kept(config: StudyConfig) -> int:
    """Return the number of best trials whose weights are kept during the search: at least one, to score the winner."""
    return max(1, config.store.keep_weights or 0)
