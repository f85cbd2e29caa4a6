"""What one writes without hpo: Optuna's pruners under its default TPE, and Ray's ASHA rule over it, for `curves.py`.

Each asks a study in memory, on the virtual clock of its workers, with the library's own defaults. A pruner's step is a
16th (`EVALUATIONS`) of the longest trial. Optuna's tools hand over the best completed trial. Ray hands over the trial
whose last result is best, whether it was stopped, completed or trains still, and tells TPE the last result of each as
that of a completed trial. What is handed over is a configuration, judged as it is when it is trained to its end.
"""

import heapq
import itertools
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import optuna
from curve_tables import Row, Table, Values, handed_over, parse_duration, score_at
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from hpo.messages import Milestone
from hpo.search.pruners import milestones
from hpo.space.search_space import SearchSpace

EVALUATIONS = 16
"""Of the longest trial, spread evenly: a pruner may act at each of them, or at some."""
FULL_REPORTS = 4
"""Evaluations at which a trial's score may be taken, in each trial, spread evenly over its own length."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What a method would hand over from a moment on."""

    moment: float
    """Seconds since the search began."""
    judged: float


class Rule(Protocol):
    """Gives trials up, and says what is handed over."""

    def stops(self, trial: optuna.Trial, evaluation: int, score: float) -> bool:
        """Return whether a trial is given up at an evaluation, which is not its last."""
        ...

    def tell(self, study: optuna.Study, trial: optuna.Trial, last: float | None, score: float | None) -> None:
        """Tell the study that a trial is over: its last result, and its score if it was trained to its end."""
        ...

    hands_over_what_trains: bool


class OptunaRule:
    """One of Optuna's pruners: what it stops is PRUNED, and what is handed over was completed."""

    hands_over_what_trains = False

    def stops(self, trial: optuna.Trial, evaluation: int, score: float) -> bool:
        """Ask the study's pruner."""
        trial.report(score, evaluation)
        return trial.should_prune()

    def tell(self, study: optuna.Study, trial: optuna.Trial, last: float | None, score: float | None) -> None:
        """Tell COMPLETE with its score, or PRUNED."""
        if score is None:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, score)


class RayRule:
    """Ray's own scheduler object, and what its OptunaSearch tells TPE."""

    hands_over_what_trains = True

    def __init__(self) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler

        self._scheduler = AsyncHyperBandScheduler(
            time_attr="evaluation", metric="score", mode="max", max_t=EVALUATIONS
        )  # fmt: skip
        self._added: set[int] = set()

    def stops(self, trial: optuna.Trial, evaluation: int, score: float) -> bool:
        """Ask the scheduler."""
        named: Any = SimpleNamespace(trial_id=str(trial.number))
        controller: Any = None
        if trial.number not in self._added:
            self._scheduler.on_trial_add(controller, named)
            self._added.add(trial.number)
        said = self._scheduler.on_trial_result(controller, named, {"evaluation": evaluation, "score": score})
        return bool(said == self._scheduler.STOP)

    def tell(self, study: optuna.Study, trial: optuna.Trial, last: float | None, score: float | None) -> None:
        """Tell its last result as that of a completed trial."""
        study.tell(trial, last, state=TrialState.PRUNED if last is None else TrialState.COMPLETE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A method of another tool."""

    name: str
    pruner: Callable[[], BasePruner | None] = lambda: None
    rule: Callable[[], Rule] = OptunaRule
    sampler: Callable[[int], BaseSampler] = lambda seed: TPESampler(seed=seed)


PEERS = (
    Peer(name="Optuna TPE, median", pruner=MedianPruner),
    Peer(name="Optuna TPE, successive halving", pruner=SuccessiveHalvingPruner),
    Peer(name="Optuna TPE, Hyperband", pruner=HyperbandPruner),
    Peer(name="Ray's ASHA over TPE", rule=RayRule),
)


@dataclass(slots=True)
class _Running:
    """A trial in training: what it says, and when."""

    trial: optuna.Trial
    row: Row
    begun: float
    seconds: float
    """Of the whole trial."""
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
        return self.begun + min(1.0, self.share / self.row.shares[-1]) * self.seconds


@dataclass(slots=True)
class _Search:
    """One search of a peer's."""

    table: Table
    space: SearchSpace
    rule: Rule
    study: optuna.Study
    handed: list[Handed] = field(default_factory=list)
    _scores: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Trial -> searched and judged score of what it would hand over."""

    def ask(self, now: float) -> _Running:
        """Begin a trial."""
        trial = self.study.ask()
        values: Values = self.space.suggest(trial)
        row, longest = self.table.near(values), float(self.space.largest("epochs"))
        points = milestones(
            passes=values["epochs"], maximum_passes=longest, rungs=EVALUATIONS, full_reports=FULL_REPORTS
        )
        return _Running(trial, row, now, parse_duration(row, values), points)

    def goes_on(self, running: _Running, now: float) -> bool:
        """Take what a trial says now; return whether it goes on."""
        row, share, milestone = running.row, running.share, running.milestones[running.said]
        if row.diverged and share >= row.shares[-1]:
            self.rule.tell(self.study, running.trial, running.last, None)
            return False
        running.last = score_at(row.searched, row, share)
        if self.rule.hands_over_what_trains:
            self._hand_over(running.trial, (running.last, handed_over(row, running.milestones)[1]), now)
        if share == 1:
            scores = handed_over(row, running.milestones)
            if not self.rule.hands_over_what_trains:
                self._hand_over(running.trial, scores, now)
            self.rule.tell(self.study, running.trial, running.last, scores[0])
            return False
        running.said += 1
        evaluation = milestone.rung * EVALUATIONS / 1000
        # Full evaluations of a trial with other epochs may lie between them.
        common = abs(evaluation - round(evaluation)) < EVALUATIONS / 1000
        stops = common and self.rule.stops(running.trial, round(evaluation), running.last)
        if stops:
            self.rule.tell(self.study, running.trial, running.last, None)
        return not stops

    def _hand_over(self, trial: optuna.Trial, scores: tuple[float, float], now: float) -> None:
        self._scores[trial.number] = scores
        self.handed.append(Handed(now, max(self._scores.values())[1]))


def search(peer: Peer, table: Table, *, seed: int, workers: int, seconds: float) -> list[Handed]:
    """Return what `peer` would hand over, in the course of a search of so many seconds; the default comes first."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    space = table.search_space()
    study = optuna.create_study(
        study_name=str(seed), direction="maximize", sampler=peer.sampler(seed), pruner=peer.pruner()
    )  # fmt: skip
    study.enqueue_trial(space.sampled(space.default_values()))
    going = _Search(table, space, peer.rule(), study)
    order = itertools.count()
    coming: list[tuple[float, int, _Running | None]] = [(0.0, next(order), None) for _ in range(workers)]
    while coming[0][0] <= seconds:
        now, _, running = heapq.heappop(coming)
        if running is None or not going.goes_on(running, now):
            running = going.ask(now)
        heapq.heappush(coming, (running.due, next(order), running))
    return going.handed


def judged_at(handed: Sequence[Handed], moment: float, otherwise: float = math.nan) -> float:
    """Return the judged score of what is handed over at a moment; `otherwise` where there is nothing yet."""
    return next((one.judged for one in reversed(handed) if one.moment <= moment), otherwise)
