"""A whole night on a virtual clock: the real coordinator and dispatch over curves instead of training."""

import math
import tempfile
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from threading import Event

from hpo.config.study_file import StoreConfig, StudyConfig
from hpo.messages import Assignment, Decision, Ending, Outcome, Report
from hpo.runners.check.short_check import workload_of
from hpo.runners.dispatch import Dispatch
from hpo.runners.replay.curves import CurveSource
from hpo.runners.replay.faults import ReplayFaults
from hpo.runners.replay.workforce import EVENING, SPEAKS_EVERY_SECONDS, ReplayWorkforce, VirtualClock
from hpo.runners.watcher import Watcher, Watchers
from hpo.runners.workforce import LeadWorker
from hpo.search.coordinator import Coordinator
from hpo.search.extremes import cheapest, dearest
from hpo.search.forecasts import fitted_costs
from hpo.search.leading import leading
from hpo.search.preflight import refuse_unfit_search, space_of_study
from hpo.space.search_space import SearchSpace

LOOKS_EVERY_SECONDS = 60.0
"""How long a simulated night waits for somebody to speak: nobody asks anything of it from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """What a search would hand over from a moment on: the best trial completed by then."""

    found_at: float
    """Seconds from the start."""
    score: float
    """Its score on validation."""
    true_score: float
    """What its configuration scores apart from the luck of its seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSearch:
    """What a search came to."""

    best_score: float | None
    """The winner's score on validation; None where no trial was completed."""
    true_score: float | None
    """What the winner's configuration scores apart from the luck of its seed."""
    found_at: float | None
    """Seconds from the start until the winner was found."""
    begun: int
    """Trials that were begun."""
    completed: int
    pruned: int
    """Trials given up at a rung, or not trainable."""
    busy_share: float
    """Share of the workers' time in which they trained, 0 to 1."""
    seconds: float
    """What the search took."""
    given_seconds: float | None
    """What it was given; None without a deadline."""
    winners: tuple[Winner, ...] = ()
    """In the course of the search, rising in score."""
    incumbents: tuple[Winner, ...] = ()
    """In the course of the search: the trial that scores highest by then, completed or unfinished."""


def simulate(
    config: StudyConfig,
    source: CurveSource,
    *,
    metric: str = "score",
    faults: ReplayFaults | None = None,
    starts_at: float = EVENING,
    watcher: Watcher | None = None,
) -> SimulatedSearch:
    """Run the search that `config` describes along the curves of `source`, over a store that is thrown away.

    Neither the model nor the texts that it names are read. Without `compute.workers` there is one worker.

    Args:
        config: the study.
        source: what each trial would show.
        metric: what the source's scores are called.
        mishaps: what goes wrong; None for nothing.
        starts_at: when the night begins, in seconds since 1970.
        watcher: is told of everything too.

    Raises:
        ConfigurationError: a space or a budget that cannot be.
        TrainingError: with `faults`, where training fails whatever is tried.
    """
    space = space_of_study(config)
    refuse_unfit_search(config, space)
    clock = VirtualClock(starts_at)
    workers = config.compute.workers or 1
    workforce = ReplayWorkforce(
        workers,
        source,
        clock,
        # An assignment that is asked for when a worker is free knows most, and here it takes no time to come.
        ahead=0,
        faults=faults,
        metric=metric,
        speaks_every=min(SPEAKS_EVERY_SECONDS, 60 * config.compute.hang_minutes / 2),
    )
    diary = _Diary(clock)
    with (
        tempfile.TemporaryDirectory(prefix="hpo-night-") as folder,
        leading(_stored_in(folder, config), space, data_fingerprint="replay", clock=clock) as coordinator,
    ):
        coordinator.begin(objective=metric, versions={})
        _expect(coordinator, workforce.lead, config, space)
        Dispatch(
            coordinator,
            workforce,
            Watchers(watcher or Watcher(), diary),
            Event(),
            compute=config.compute,
            clock=clock,
            ticks=clock,
            listens_seconds=LOOKS_EVERY_SECONDS,
            steers_every=math.inf,
        ).run()
        deadline = coordinator.limits.deadline
    seconds = clock() - starts_at
    winners, incumbents = (
        tuple(
            Winner(found_at=moment - starts_at, score=score, true_score=source.true_score(diary.assignments[trial]))
            for moment, score, trial in found
        )
        for found in (diary.winners, diary.incumbents)
    )
    best = winners[-1] if winners else None
    return SimulatedSearch(
        best_score=best.score if best else None,
        true_score=best.true_score if best else None,
        found_at=best.found_at if best else None,
        begun=len(diary.assignments),
        completed=diary.count(Ending.COMPLETED),
        pruned=diary.count(Ending.PRUNED, Ending.DIVERGED, Ending.INFEASIBLE),
        busy_share=workforce.trained_seconds / (workers * seconds) if seconds else 0.0,
        seconds=seconds,
        given_seconds=None if deadline is None else deadline - starts_at,
        winners=winners,
        incumbents=incumbents,
    )


class _Diary(Watcher):
    """Keeps what a night is judged by."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.assignments: dict[int, Assignment] = {}
        self.winners: list[tuple[float, float, int]] = []
        """(moment, score, trial) of each that was the best when it completed."""
        self.incumbents: list[tuple[float, float, int]] = []
        """(moment, score, trial) of each that scored highest, completed or unfinished."""
        self._scores: dict[int, float] = {}
        self._endings: dict[int, Ending] = {}

    def assigned(self, assignment: Assignment) -> None:
        """Keep what was assigned."""
        self.assignments[assignment.trial] = assignment

    def reported(self, report: Report, decision: Decision) -> None:  # noqa: ARG002
        """Keep which trial leads."""
        self._scores[report.trial] = report.score
        self._lead()

    def ended(self, outcome: Outcome) -> None:
        """Keep how a trial ended, and when the best of them did."""
        self._endings[outcome.trial] = outcome.ending
        if outcome.ending is Ending.COMPLETED and outcome.best is not None:
            score = outcome.best.validation.objective
            if not self.winners or score > self.winners[-1][1]:
                self.winners.append((self._clock(), score, outcome.trial))
            self._scores[outcome.trial] = score
        elif outcome.ending is not Ending.PAUSED:
            self._scores.pop(outcome.trial, None)
        self._lead()

    def _lead(self) -> None:
        leads = max(self._scores.items(), key=itemgetter(1), default=None)
        if leads is not None and (not self.incumbents or (leads[1], leads[0]) != self.incumbents[-1][1:]):
            self.incumbents.append((self._clock(), leads[1], leads[0]))

    def count(self, *endings: Ending) -> int:
        """Return how many trials ended last in one of these ways."""
        return sum(ending in endings for ending in self._endings.values())


def _stored_in(folder: str, config: StudyConfig) -> StudyConfig:
    # What a pruner costs is seen by comparing nights; a trial that it gives up and is trained on would blur that.
    confirmation = config.confirmation.model_copy(update={"finalists": 0, "audit": 0.0})
    store = StoreConfig(url=f"sqlite:///{Path(folder, 'hpo.db')}")
    return config.model_copy(update={"store": store, "confirmation": confirmation})


def _expect(coordinator: Coordinator, lead: LeadWorker, config: StudyConfig, space: SearchSpace) -> None:
    """Let the coordinator know, as at a real start, what the ends of the space cost."""
    probes = {end: lead.probe(end, 1) for end in (dearest(space), cheapest(space))}
    fitting = {end: probe for end, probe in probes.items() if probe.feasible}
    coordinator.expect(fitted_costs(workload_of(lead, config, space), fitting), 0.0)
