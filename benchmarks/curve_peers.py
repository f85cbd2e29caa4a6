"""Searches without hpo, for `curves.py`: Optuna's pruners under its default TPE, Ray's ASHA, and two bounds.

Each asks a study in memory, on the virtual clock of its workers, with the library's own defaults. A pruner's step is a
16th (`EVALUATIONS`) of the longest trial. Optuna's tools hand over the best completed trial. Ray hands over the trial
whose last result is best, whether it was stopped, completed or trains still, and tells TPE the last result of each as
that of a completed trial. Promotion ASHA (Li et al. 2020, algorithm 2) pauses what is not promoted; of each that is
paused TPE sees its last result, as that of a pruned trial, and what is handed over is as in Ray's.
"""

import copy
import heapq
import itertools
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import SimpleNamespace
from typing import Any, Protocol

import optuna
from curve_responses import Responses, Trained
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from hpo.messages import Milestone
from hpo.search.pruners import evenly_spaced, milestones
from hpo.search.samplers import FixedTrials, derived_seed
from hpo.space.search_space import SearchSpace
from hpo.store.optuna_adapter import storage_of

EVALUATIONS = 16
"""Of the longest trial, spread evenly: a pruner may act at each of them, or at some."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What a method would hand over from a moment on."""

    moment: float
    """Seconds since the search began."""
    worth: float
    """What its configuration is worth."""


class Then(Enum):
    """What becomes of a trial after an evaluation that is not its last."""

    GOES_ON = 1
    STOPS = 2
    PAUSES = 3


class Rule(Protocol):
    """Stops or pauses trials, and says what is handed over."""

    hands_over_what_trains: bool
    knows_worth: bool
    """Whether what trains is ranked by what it is worth, not by its scores."""

    def judge(self, trial: optuna.Trial, evaluation: int, score: float) -> Then:
        """Return what becomes of a trial."""
        ...

    def resumed(self) -> int | None:
        """Return which paused trial a free worker goes on with; None for a new one."""
        ...

    def tell(self, study: optuna.Study, trial: optuna.Trial, last: float | None, score: float | None) -> None:
        """Tell the study that a trial is over: its last result, and its score if it was trained to its end."""
        ...


class OptunaRule:
    """One of Optuna's pruners: what it stops is PRUNED, and what is handed over was completed."""

    hands_over_what_trains = knows_worth = False

    def judge(self, trial: optuna.Trial, evaluation: int, score: float) -> Then:
        """Ask the study's pruner."""
        trial.report(score, evaluation)
        return Then.STOPS if trial.should_prune() else Then.GOES_ON

    def resumed(self) -> int | None:
        """Return None."""
        return None

    def tell(self, study: optuna.Study, trial: optuna.Trial, last: float | None, score: float | None) -> None:
        """Tell COMPLETE with its score, or PRUNED."""
        if score is None:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, score)


class ClairvoyantRule(OptunaRule):
    """Knows at a trial's first evaluation what it is worth, and trains none beyond it."""

    hands_over_what_trains = knows_worth = True

    def judge(self, _trial: optuna.Trial, _evaluation: int, _score: float) -> Then:
        """Stop it."""
        return Then.STOPS


class RayRule(OptunaRule):
    """Ray's own scheduler object, and what its OptunaSearch tells TPE."""

    hands_over_what_trains = True

    def __init__(self) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler

        self._scheduler = AsyncHyperBandScheduler(
            time_attr="evaluation", metric="score", mode="max", max_t=EVALUATIONS
        )  # fmt: skip
        self._added: set[int] = set()

    def judge(self, trial: optuna.Trial, evaluation: int, score: float) -> Then:
        """Ask the scheduler."""
        named: Any = SimpleNamespace(trial_id=str(trial.number))
        controller: Any = None
        if trial.number not in self._added:
            self._scheduler.on_trial_add(controller, named)
            self._added.add(trial.number)
        said = self._scheduler.on_trial_result(controller, named, {"evaluation": evaluation, "score": score})
        return Then.STOPS if said == self._scheduler.STOP else Then.GOES_ON

    def tell(self, study: optuna.Study, trial: optuna.Trial, last: float | None, score: float | None) -> None:
        """Tell its last result as that of a completed trial."""
        study.tell(trial, last, state=TrialState.PRUNED if last is None else TrialState.COMPLETE)


class PromotionRule(OptunaRule):
    """ASHA by promotion: each trial pauses at a rung, and resumes when it is among the best quarter there."""

    hands_over_what_trains = True
    factor = 4

    def __init__(self) -> None:
        self._rungs: dict[int, dict[int, float]] = {1: {}, 4: {}}
        self._promoted: dict[int, set[int]] = {1: set(), 4: set()}
        self.paused: set[int] = set()

    def judge(self, trial: optuna.Trial, evaluation: int, score: float) -> Then:
        """Pause at a rung."""
        trial.report(score, evaluation)
        if evaluation not in self._rungs:
            return Then.GOES_ON
        self._rungs[evaluation][trial.number] = score
        self.paused.add(trial.number)
        return Then.PAUSES

    def resumed(self) -> int | None:
        """Return what is promoted, from the highest rung at which something is."""
        for rung in sorted(self._rungs, reverse=True):
            ranked = sorted(self._rungs[rung], key=self._rungs[rung].__getitem__, reverse=True)
            for trial in ranked[: len(ranked) // self.factor]:
                if trial not in self._promoted[rung] and trial in self.paused:
                    self._promoted[rung].add(trial)
                    self.paused.discard(trial)
                    return trial
        return None


class PausedAreSeen(TPESampler):
    """TPE to which a paused trial is a pruned one."""

    def __init__(self, seed: int, rule: Any) -> None:
        super().__init__(seed=seed)
        self._rule = rule

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Propose one parameter."""
        known, paused = study.get_trials(deepcopy=False), self._rule.paused
        seen = [_as_pruned(one) if one.number in paused else one for one in known]
        view = optuna.load_study(study_name=study.study_name, storage=FixedTrials(storage_of(study), seen))
        return super().sample_independent(view, trial, param_name, param_distribution)


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state = TrialState.PRUNED
    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A method of another tool."""

    name: str
    pruner: Callable[[], BasePruner | None] = lambda: None
    rule: Callable[[], Rule] = OptunaRule
    sampler: Callable[[int, Any], BaseSampler] = lambda seed, _rule: TPESampler(seed=seed)


PEERS = (
    Peer(name="Optuna TPE, median", pruner=MedianPruner),
    Peer(name="Optuna TPE, successive halving", pruner=SuccessiveHalvingPruner),
    Peer(name="Optuna TPE, Hyperband", pruner=HyperbandPruner),
    Peer(name="Ray's ASHA over TPE", rule=RayRule),
    Peer(name="promotion ASHA over TPE", rule=PromotionRule, sampler=PausedAreSeen),
    Peer(name="random", sampler=lambda seed, _rule: RandomSampler(seed=seed)),
)
CLAIRVOYANT = Peer(
    name="clairvoyant, random", rule=ClairvoyantRule, sampler=lambda seed, _rule: RandomSampler(seed=seed)
)
"""No peer: what no pruning of random trials could better."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A trial in training: what it shows, and when."""

    trial: optuna.Trial
    shows: Trained
    worth: float
    began: float
    """When it began, had it never been paused."""
    milestones: Sequence[Milestone]
    said: int = 0
    last: float | None = None
    """Its last result."""

    @property
    def share(self) -> float:
        """Of the whole trial that is trained at its next evaluation."""
        return self.milestones[self.said].rung / self.milestones[-1].rung

    @property
    def due(self) -> float:
        """When it says its next thing."""
        return self.began + min(self.share, self.shows.ends) * self.shows.seconds

    def said_so(self, score: float) -> "_Running":
        """Return it after an evaluation."""
        return replace(self, said=self.said + 1, last=score)

    def resumed(self, since: float, now: float) -> "_Running":
        """Return it as it goes on now, paused since then."""
        return replace(self, began=self.began + now - since)


@dataclass(slots=True)
class _Search:
    """One search of a peer's."""

    responses: Responses
    space: SearchSpace
    rule: Rule
    study: optuna.Study
    seed: int
    handed: list[Handed] = field(default_factory=list)
    _scores: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Trial -> score and worth of what it would hand over."""
    _paused: dict[int, tuple[float, _Running]] = field(default_factory=dict)
    """Trial -> since when it is paused."""

    def next(self, now: float) -> _Running:
        """Resume a trial, or begin one."""
        number = self.rule.resumed()
        if number is not None:
            since, paused = self._paused.pop(number)
            return paused.resumed(since, now)
        trial = self.study.ask()
        values, longest = self.space.suggest(trial), float(self.space.largest("epochs"))
        points = milestones(
            passes=float(str(values["epochs"])), maximum_passes=longest, common=evenly_spaced(EVALUATIONS),
            full_reports=1,
        )  # fmt: skip
        shows = self.responses.trained(values, derived_seed(self.seed, "trial", trial.number))
        return _Running(trial, shows, self.responses.worth(values), now, points)

    def heard(self, running: _Running, now: float) -> _Running | None:
        """Take what a trial says now; return it as it goes on, None where it does not."""
        trial, share, milestone = running.trial, running.share, running.milestones[running.said]
        if not running.shows.reaches(share):
            self.rule.tell(self.study, trial, running.last, None)
            return None
        score = running.shows.score(share)
        if share == 1 or self.rule.hands_over_what_trains:
            self._scores[trial.number] = running.worth if self.rule.knows_worth else score, running.worth
            self.handed.append(Handed(now, max(self._scores.values())[1]))
        if share == 1:
            self.rule.tell(self.study, trial, score, score)
            return None
        evaluation = round(milestone.rung * EVALUATIONS / 1000)
        then = self.rule.judge(trial, evaluation, score)
        if then is Then.STOPS:
            self.rule.tell(self.study, trial, score, None)
        elif then is Then.PAUSES:
            self._paused[trial.number] = now, running.said_so(score)
        return running.said_so(score) if then is Then.GOES_ON else None


def search(
    peer: Peer, responses: Responses, space: SearchSpace, *, seed: int, workers: int, seconds: float,
    until: Callable[[float], bool] = lambda _worth: False,
) -> list[Handed]:  # fmt: skip
    """Return what `peer` would hand over in the course of a search; the default of `space` comes first.

    Args:
        peer: the method.
        responses: what trials show.
        space: the space.
        seed: of the search.
        workers: side by side.
        seconds: what the search has.
        until: whether what is handed over now ends the search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    rule = peer.rule()
    study = optuna.create_study(
        study_name=str(seed), direction="maximize", sampler=peer.sampler(seed, rule), pruner=peer.pruner()
    )  # fmt: skip
    study.enqueue_trial(space.sampled(space.default_values()))
    going = _Search(responses, space, rule, study, seed)
    order = itertools.count()
    coming: list[tuple[float, int, _Running | None]] = [(0.0, next(order), None) for _ in range(workers)]
    while coming[0][0] <= seconds and not (going.handed and until(going.handed[-1].worth)):
        now, _, running = heapq.heappop(coming)
        goes_on = (running and going.heard(running, now)) or going.next(now)
        heapq.heappush(coming, (goes_on.due, next(order), goes_on))
    return going.handed
