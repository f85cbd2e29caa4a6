"""Confirmation runs: a race of the best trials over fresh seeds, which proposes runs as a sampler proposes trials.

The runs are trials of a separate study, led by a coordinator like a search; each has the parameters of the trial that
it confirms.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.search.forecasts import Forecasts
from hpo.search.proposals import TOO_LITTLE_TIME, TrialRequest, begin_attempt
from hpo.search.samplers import derived_seed
from hpo.space.domains import Value
from hpo.space.search_space import SearchSpace
from hpo.store.study_store import CONFIRMS_ATTRIBUTE, METRIC_ATTRIBUTE, UNSEEN_ATTRIBUTE, StudyStore
from hpo.store.trials import AttemptRecord
from hpo.verdict.sequential_halving import NO_SCORE, Race, RaceState, next_trial

SEED_ATTRIBUTE = "race_seed"
"""Index of a run's seed in the race, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A trial of the search that is trained again."""

    parameters: Mapping[str, Value]
    """Its parameters in Optuna's form."""
    hyperparameters: Hyperparameters


@dataclass(slots=True)
class ConfirmationRuns:
    """Proposals of a confirmation, within the store's open transaction: runs of its entrants."""

    store: StudyStore
    space: SearchSpace
    config: StudyConfig
    forecasts: Forecasts
    search: str
    """Name of the study that is confirmed."""
    race: Race
    entrants: Mapping[int, Entrant]
    """Trial of the search -> entrant of the race."""
    unseen: bool
    """True if the runs are judged on rows that the search never saw."""
    ended_because: str | None = None
    """Reason that there is nothing more to train, other than the end of the race; empty if there is none."""

    def begin(self) -> None:
        """Record which study this one confirms."""
        self.store.study.set_user_attr(CONFIRMS_ATTRIBUTE, self.search)
        self.store.study.set_user_attr(UNSEEN_ATTRIBUTE, self.unseen)

    def next(self, request: TrialRequest) -> AttemptRecord | None:
        """Start an attempt at a waiting run, or at the next run of the race; None if none fits into the time."""
        self.ended_because = None
        for trial in self._candidates(request):
            entrant = self.entrants[trial.user_attrs[CONFIRMS_ATTRIBUTE]]
            if self.forecasts.fits(trial.number, entrant.hyperparameters, request.seconds):
                return self._begun(trial, entrant.hyperparameters, request)
            self.ended_because = TOO_LITTLE_TIME
        return None

    def would_resume(self, trial: int, seconds: float) -> bool:  # noqa: ARG002 - no run is paused before its end.
        """Return false."""
        return False

    def with_weights(self) -> set[int]:
        """Return the first run of each configuration; its weights score the test split if it is recommended."""
        over = self.store.trials.get_all(TrialState.COMPLETE)
        return {trial.number for trial in over if trial.user_attrs.get(SEED_ATTRIBUTE) == 0}

    def _candidates(self, request: TrialRequest) -> Iterator[FrozenTrial]:
        """Yield the waiting runs, then the next run of the race, which is recorded as waiting."""
        waiting = self.store.trials.get_all(TrialState.WAITING)
        known = [trial for trial in waiting if trial.user_attrs.get(CONFIRMS_ATTRIBUTE) in self.entrants]
        yield from (trial for trial in known if not request.avoids(trial.number))
        # A waiting run did not fit into the time: another seed of that configuration would not fit either.
        if not known:
            confirms = next_trial(self.race, self._race_state())
            if confirms is not None:
                yield self._enqueued(confirms)

    def _enqueued(self, confirms: int) -> FrozenTrial:
        number = self.store.trials.enqueue(self.entrants[confirms].parameters)
        seed = self._race_state().begun.get(confirms, 0)
        self.store.trials.set_attributes(number, {CONFIRMS_ATTRIBUTE: confirms, SEED_ATTRIBUTE: seed})
        return self.store.trials.get(number)

    def _begun(self, trial: FrozenTrial, hyperparameters: Hyperparameters, request: TrialRequest) -> AttemptRecord:
        self.space.suggest(self.store.trials.ask(trial.number))
        confirms, seed = trial.user_attrs[CONFIRMS_ATTRIBUTE], trial.user_attrs[SEED_ATTRIBUTE]
        return begin_attempt(
            self.store, request, self.forecasts, hyperparameters, trial=trial.number,
            attempt=self.store.attempts.latest(trial.number) + 1,
            seed=derived_seed(self.config.seed, "confirmation", seed),
            # The weights of each configuration's first run are kept until the test split is read.
            score_to_beat=None if seed == 0 else math.inf, proposed_by=f"trial {confirms}", confirms=confirms,
        )  # fmt: skip

    def _race_state(self) -> RaceState:
        """Return the state of the race."""
        metric = self.store.study.user_attrs[METRIC_ATTRIBUTE]
        begun: dict[int, int] = {}
        scores: dict[int, dict[int, float]] = {}
        for trial in self.store.trials.get_all():
            confirms = trial.user_attrs.get(CONFIRMS_ATTRIBUTE)
            if confirms is None:
                continue
            begun[confirms] = begun.get(confirms, 0) + 1
            if trial.state.is_finished():
                complete = trial.state == TrialState.COMPLETE
                score = trial.user_attrs[f"validation_{metric}"] if complete else NO_SCORE
                scores.setdefault(confirms, {})[trial.user_attrs[SEED_ATTRIBUTE]] = score
        return RaceState(ended={trial: _as_far_as_known(of_seed) for trial, of_seed in scores.items()}, begun=begun)


def _as_far_as_known(of_seed: Mapping[int, float]) -> list[float]:
    """Return the scores of seeds 0, 1, ... up to the first unfinished one."""
    known: list[float] = []
    while len(known) in of_seed:
        known.append(of_seed[len(known)])
    return known
