"""Simulated search: the real coordinator and dispatch on a virtual clock, over learning curves instead of training."""

import math
import tempfile
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from threading import Event

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StoreConfig, StudyConfig
from hpo.messages import Assignment, Decision, Dimensions, Ending, Milestone, Outcome, Probe, Report, Timed
from hpo.runners.callbacks import SearchCallback
from hpo.runners.dispatch import Dispatch
from hpo.runners.replay.curves import LAST_RUNG, TRAIN_ROWS, CurveSource, passes_of
from hpo.runners.replay.worker_pool import SIMULATION_START, ReplayWorkerPool, VirtualClock, steps_of
from hpo.search.coordinator import Coordinator
from hpo.search.forecasts import fitted_costs
from hpo.search.preflight import refuse_unfit_search, space_of_study
from hpo.search.study_opening import leading
from hpo.search.trial_costs import Workload, cheapest, dearest
from hpo.search.warm_start import absolute
from hpo.space.search_space import SearchSpace

LISTEN_SECONDS = 60.0
"""For how long the dispatch listens at a time: nobody steers a simulated search from outside."""
PROGRESS_SECONDS = 600.0
"""Between two messages of a worker in training, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """The best trial from a moment on."""

    found_at: float
    """Seconds from the start."""
    score: float
    """Its score on validation."""
    true_score: float
    """What its configuration scores, free of the noise of its seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSearch:
    """The result of a search."""

    best_score: float | None
    """The winner's score on validation; None where no trial completed."""
    true_score: float | None
    """What the winner's configuration scores, free of the noise of its seed."""
    found_at: float | None
    """Seconds from the start until the winner was found."""
    begun: int
    """Trials that were begun."""
    completed: int
    pruned: int
    """Trials pruned at a rung, or not trainable."""
    busy_share: float
    """Share of the workers' time in which they trained, 0 to 1."""
    seconds: float
    """What the search took."""
    given_seconds: float | None
    """What it was given; None without a deadline."""
    winners: tuple[Winner, ...] = ()
    """Each best completed trial, as they came."""
    incumbents: tuple[Winner, ...] = ()
    """Each trial that scored highest, completed or unfinished, as they came: what `hpo best` would have shown."""


def simulate(
    config: StudyConfig, source: CurveSource, *, metric: str = "score", starts_at: float = SIMULATION_START
) -> SimulatedSearch:
    """Run the search that `config` describes along the curves of `source`, over a store that is thrown away.

    Neither the model nor the examples that it names are read. Without `compute.workers` there is one worker.

    Args:
        config: the study.
        source: what each trial would show.
        metric: what the source's scores are called.
        starts_at: when the search begins, in seconds since 1970.

    Raises:
        ConfigurationError: a space or a budget that cannot be.
    """
    space = space_of_study(config)
    refuse_unfit_search(config, space)
    clock, workers = VirtualClock(starts_at), config.compute.workers or 1
    progress_every = min(PROGRESS_SECONDS, 60 * config.compute.hang_minutes / 2)
    pool = ReplayWorkerPool(workers, source, clock, metric=metric, progress_every=progress_every)
    record = _Record(clock, source)
    with (
        tempfile.TemporaryDirectory(prefix="hpo-simulated-") as folder,
        leading(_stored_in(folder, absolute(config)), space, data_fingerprint="replay", clock=clock) as coordinator,
    ):
        coordinator.begin(metric=metric, versions={})
        _expect(coordinator, source, config, space)
        Dispatch(
            coordinator,
            pool,
            record,
            Event(),
            compute=config.compute,
            clock=clock,
            ticks=clock,
            listens_seconds=LISTEN_SECONDS,
            steers_every=math.inf,
        ).run()
        deadline = coordinator.limits.deadline
    seconds = clock() - starts_at
    best = record.winners[-1] if record.winners else None
    return SimulatedSearch(
        best_score=best.score if best else None,
        true_score=best.true_score if best else None,
        found_at=best.found_at if best else None,
        begun=len(record.assignments),
        completed=record.count(Ending.COMPLETED),
        pruned=record.count(Ending.PRUNED, Ending.DIVERGED, Ending.INFEASIBLE),
        busy_share=pool.trained_seconds / (workers * seconds) if seconds else 0.0,
        seconds=seconds,
        given_seconds=None if deadline is None else deadline - starts_at,
        winners=tuple(record.winners),
        incumbents=tuple(record.incumbents),
    )


class _Record(SearchCallback):
    """Keeps what a search is judged by."""

    def __init__(self, clock: VirtualClock, source: CurveSource) -> None:
        self._clock, self._source, self._began = clock, source, clock()
        self.assignments: dict[int, Assignment] = {}
        self.winners: list[Winner] = []
        self.incumbents: list[Winner] = []
        self._incumbent: tuple[int, float] | None = None
        """Trial and score of the last of them."""
        self._scores: dict[int, float] = {}
        self._endings: dict[int, Ending] = {}

    def assigned(self, assignment: Assignment) -> None:
        """Keep what was assigned."""
        self.assignments[assignment.trial] = assignment

    def reported(self, report: Report, decision: Decision) -> None:  # noqa: ARG002
        """Keep which trial scores highest."""
        self._scores[report.trial] = report.score
        self._keep_incumbent()

    def ended(self, outcome: Outcome) -> None:
        """Keep how a trial ended, and when the best of them did."""
        self._endings[outcome.trial] = outcome.ending
        if outcome.ending is Ending.COMPLETED and outcome.best is not None:
            score = self._scores[outcome.trial] = outcome.best.score
            if not self.winners or score > self.winners[-1].score:
                self.winners.append(self._winner(outcome.trial, score))
        elif outcome.ending is not Ending.PAUSED:
            self._scores.pop(outcome.trial, None)
        self._keep_incumbent()

    def count(self, *endings: Ending) -> int:
        """Return how many trials ended in one of these ways."""
        return sum(ending in endings for ending in self._endings.values())

    def _keep_incumbent(self) -> None:
        highest = max(self._scores.items(), key=itemgetter(1), default=None)
        if highest is not None and highest != self._incumbent:
            self._incumbent = highest
            self.incumbents.append(self._winner(*highest))

    def _winner(self, trial: int, score: float) -> Winner:
        true_score = self._source.true_score(self.assignments[trial])
        return Winner(found_at=self._clock() - self._began, score=score, true_score=true_score)


def _stored_in(folder: str, config: StudyConfig) -> StudyConfig:
    # What a pruner costs is seen by comparing searches; an audited trial would blur that.
    confirmation = config.confirmation.model_copy(update={"finalists": 0, "audit": 0.0})
    store = StoreConfig(url=f"sqlite:///{Path(folder, 'hpo.db')}")
    return config.model_copy(update={"store": store, "confirmation": confirmation})


def _expect(coordinator: Coordinator, source: CurveSource, config: StudyConfig, space: SearchSpace) -> None:
    """Let the coordinator know, as at a real start, what the extremes of the space cost."""
    # Of each row a token is counted, and nothing is scored: a step has those seconds too.
    workload = Workload(config=config, space=space, dimensions=Dimensions(train_rows=TRAIN_ROWS, layers=12))
    probes = {values: _probe(source, values) for values in (dearest(space), cheapest(space))}
    fitting = {values: probe for values, probe in probes.items() if probe.feasible}
    coordinator.expect(fitted_costs(workload, fitting), 0.0)


def _probe(source: CurveSource, hyperparameters: Hyperparameters) -> Probe:
    """Return what a step costs where a whole trial, evaluations included, is spread evenly over its steps."""
    whole = Assignment(
        trial=0,
        attempt=1,
        hyperparameters=hyperparameters,
        seed=0,
        milestones=(Milestone(rung=LAST_RUNG, full=True),),
        maximum_passes=passes_of(hyperparameters),
    )
    curve = source.curve(whole)
    seconds = curve.seconds / steps_of(hyperparameters)
    timed = (Timed(trained_tokens=hyperparameters.batch_size, updates=1, seconds=seconds),)
    return Probe(feasible=curve.ending is not Ending.INFEASIBLE, timed=timed)
