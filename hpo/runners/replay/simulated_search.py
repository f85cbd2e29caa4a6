"""Simulated search: the real coordinator and dispatch over learning curves on a virtual clock; compared settings."""

import itertools
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean, stdev
from threading import Event
from typing import Any

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import FOLD_PRUNERS, StoreConfig, StudyConfig
from hpo.errors import ConfigurationError, TrainingError
from hpo.messages import Assignment, Decision, Dimensions, Ending, Milestone, Outcome, Probe, Report, Timed
from hpo.runners.callbacks import SearchCallback
from hpo.runners.dispatch import Dispatch
from hpo.runners.replay.curves import TRAIN_ROWS, CurveSource
from hpo.runners.replay.worker_pool import SIMULATION_START, ReplayWorkerPool, VirtualClock, steps_of
from hpo.search.coordinator import Coordinator
from hpo.search.forecasts import fitted_costs
from hpo.search.preflight import refuse_unfit_search, space_of_study
from hpo.search.pruners import LAST_RUNG, passes_of
from hpo.search.study_opening import leading
from hpo.search.trial_sizes import Workload, cheapest, dearest
from hpo.search.warm_start import absolute
from hpo.space.search_space import SearchSpace

LISTEN_SECONDS = 60.0
"""Longest wait of the dispatch for messages: no user commands arrive in a simulated search."""
PROGRESS_SECONDS = 600.0
"""Longest time between two messages of a training worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """A trial that scored higher than all before it."""

    found_at: float
    """Seconds since the start of the search."""
    score: float
    """Its score on validation."""
    true_score: float
    """Score of its configuration without the noise of one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSearch:
    """The result of a search."""

    best_score: float | None
    """The winner's score on validation; None if no trial completed."""
    true_score: float | None
    """Score of the winner's configuration without the noise of one seed."""
    found_at: float | None
    """Seconds from the start until the winner completed."""
    begun: int
    """Number of started trials."""
    completed: int
    pruned: int
    """Trials pruned at a rung, or not trainable."""
    busy_share: float
    """Share of the workers' time in which they trained, 0 to 1."""
    seconds: float
    """Duration of the search."""
    given_seconds: float | None
    """Time from the start to the deadline; None without one."""
    winners: tuple[Winner, ...] = ()
    """Successive best completed trials."""
    incumbents: tuple[Winner, ...] = ()
    """Successive best trials, completed or unfinished: those that `hpo best` would have shown."""


def simulate(
    config: StudyConfig,
    source: CurveSource,
    *,
    metric: str = "score",
    starts_at: float = SIMULATION_START,
    until: Callable[[Winner], bool] = lambda _: False,
) -> SimulatedSearch:
    """Run the search of `config` over the curves of `source`, in a temporary store.

    The model and the examples of `config` are not read. Without `compute.workers` there is one worker.

    Args:
        config: the study.
        source: learning curves of its trials.
        metric: name of the source's scores.
        starts_at: start of the search, in seconds since 1970.
        until: returns true for an incumbent that ends the search.

    Raises:
        ConfigurationError: an invalid space or budget.
    """
    space = space_of_study(config)
    refuse_unfit_search(config, space)
    clock, workers = VirtualClock(starts_at), config.compute.requested_workers or 1
    progress_every = min(PROGRESS_SECONDS, 60 * config.compute.hang_minutes / 2)
    pool = ReplayWorkerPool(
        workers, source, clock, metric=metric, progress_every=progress_every, pruner=config.pruner
    )  # fmt: skip
    stop = Event()
    record = _Record(clock, source, lambda winner: stop.set() if until(winner) else None)
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
            stop,
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
    """Record of a search: its assignments, its endings, and its best trials with their times."""

    def __init__(self, clock: VirtualClock, source: CurveSource, on_incumbent: Callable[[Winner], None]) -> None:
        self._clock, self._source, self._began, self._on_incumbent = clock, source, clock(), on_incumbent
        self.assignments: dict[int, Assignment] = {}
        self.winners: list[Winner] = []
        self.incumbents: list[Winner] = []
        self._incumbent: tuple[int, float] | None = None
        """Trial and score of the newest incumbent."""
        self._scores: dict[int, float] = {}
        self._endings: dict[int, Ending] = {}

    def assigned(self, assignment: Assignment) -> None:
        """Record an assignment."""
        self.assignments[assignment.trial] = assignment

    def reported(self, report: Report, decision: Decision) -> None:  # noqa: ARG002
        """Record a new highest score."""
        self._scores[report.trial] = report.score
        self._keep_incumbent()

    def ended(self, outcome: Outcome) -> None:
        """Record the ending of a trial, and a new best one."""
        self._endings[outcome.trial] = outcome.ending
        if outcome.ending is Ending.COMPLETED and outcome.best is not None:
            score = self._scores[outcome.trial] = outcome.best.score
            if not self.winners or score > self.winners[-1].score:
                self.winners.append(self._winner(outcome.trial, score))
        elif outcome.ending is not Ending.PAUSED:
            self._scores.pop(outcome.trial, None)
        self._keep_incumbent()

    def count(self, *endings: Ending) -> int:
        """Return the number of trials with one of these endings."""
        return sum(ending in endings for ending in self._endings.values())

    def _keep_incumbent(self) -> None:
        highest = max(self._scores.items(), key=itemgetter(1), default=None)
        if highest is not None and highest != self._incumbent:
            self._incumbent = highest
            self.incumbents.append(self._winner(*highest))
            self._on_incumbent(self.incumbents[-1])

    def _winner(self, trial: int, score: float) -> Winner:
        true_score = self._source.true_score(self.assignments[trial])
        return Winner(found_at=self._clock() - self._began, score=score, true_score=true_score)


def _stored_in(folder: str, config: StudyConfig) -> StudyConfig:
    # Without audit and confirmation: a comparison of searches already shows the cost of a pruner.
    confirmation = config.confirmation.model_copy(update={"finalists": 0, "audit": 0.0})
    store = StoreConfig(url=f"sqlite:///{Path(folder, 'hpo.db')}")
    return config.model_copy(update={"store": store, "confirmation": confirmation})


def _expect(coordinator: Coordinator, source: CurveSource, config: StudyConfig, space: SearchSpace) -> None:
    """Pass the coordinator the costs of the extremes of the space, as the start of a real search does."""
    # A row counts as one token, and no row as scored: the seconds of a step include evaluation.
    workload = Workload(config=config, space=space, dimensions=Dimensions(train_rows=TRAIN_ROWS, layers=12))
    probes = {values: _probe(source, values) for values in (dearest(space), cheapest(space))}
    fitting = {values: probe for values, probe in probes.items() if probe.feasible}
    coordinator.expect(fitted_costs(workload, fitting), 0.0)


def _probe(source: CurveSource, hyperparameters: Hyperparameters) -> Probe:
    """Return the cost of a step: that of a whole trial, evaluations included, divided by its steps."""
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


SHIPPED = "search.pruner=promotion,asynchronous_median,median,successive_halving,hyperband,none"
SHIPPED_FOR_FOLDS = f"search.pruner={','.join(name for name in FOLD_PRUNERS if name != 'threshold')}"
"""Settings compared by default, without `threshold`, which needs a score that is unknown before the search."""
BEYOND_NOISE = 2.0
"""Standard errors that a difference must exceed to be called beyond the noise."""

Setting = tuple[str, ...]
"""Overrides such as `search.pruner=none`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over searches."""

    mean: float
    error: float
    """Standard error of the mean; NaN for a single search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingResult:
    """A setting and its searches, in the order of their seeds."""

    setting: Setting
    searches: tuple[SimulatedSearch, ...]

    def mean_of(self, value: Callable[[SimulatedSearch], float | None]) -> Estimate | None:
        """Return the mean of a value over the searches that have it; None if none has."""
        values = [found for search in self.searches if (found := value(search)) is not None]
        return estimate(values) if values else None


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of at least one value, and its standard error."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(mean=fmean(values), error=error)


def settings_of(vary: Sequence[str]) -> list[Setting]:
    """Return every combination of `vary`, each a dotted path and its values: `search.pruner=median,none`.

    Raises:
        ConfigurationError: one has another form, or a path occurs twice.
    """
    choices: dict[str, list[str]] = {}
    for one in vary:
        path, separator, values = (part.strip() for part in one.partition("="))
        listed = [value.strip() for value in values.split(",")]
        if not path or not separator or not all(listed) or path in choices:
            raise ConfigurationError(
                f"--vary takes a dotted path and its values, each path once, as in "
                f"search.pruner=median,none, but got {one!r}."
            )
        choices[path] = list(dict.fromkeys(listed))
    return list(itertools.product(*([f"{path}={value}" for value in listed] for path, listed in choices.items())))


def compare(
    configs: Mapping[Setting, StudyConfig],
    source_of: Callable[[int], CurveSource],
    *,
    searches: int,
    metric: str = "score",
    jobs: int = 1,
    starts_at: float,
    on_done: Callable[[int, int], None],
) -> list[SettingResult]:
    """Simulate `searches` searches under each setting, with consecutive seeds from the study's own.

    Args:
        configs: setting -> the study under it.
        source_of: seed of a search -> its curves; must be picklable if `jobs` is above 1.
        searches: number of searches per setting, at least 1.
        metric: name of the curves' scores.
        jobs: number of parallel processes.
        starts_at: start of each search, in seconds since 1970.
        on_done: called after each search with the number of finished ones and of all.

    Raises:
        ConfigurationError: a study that cannot be run.
        TrainingError: one of the processes was killed.
    """
    numbered = itertools.product(configs.values(), range(searches))
    studies = [config.model_copy(update={"seed": config.seed + number}) for config, number in numbered]
    simulated = partial(_simulated, source_of=source_of, metric=metric, starts_at=starts_at)
    done: list[SimulatedSearch] = []
    with _mapping(jobs) as mapped:
        for search in mapped(simulated, studies):
            done.append(search)
            on_done(len(done), len(studies))
    return [
        SettingResult(setting=setting, searches=tuple(done[searches * number : searches * (number + 1)]))
        for number, setting in enumerate(configs)
    ]


def recommendation(results: Sequence[SettingResult]) -> str:
    """Return a sentence with the setting to choose and whether its lead over the next is beyond the noise.

    Among the settings with a winner in most searches, it has the highest mean true score. The lead is the mean
    difference of pairs of searches with the same seed.
    """
    found = [sum(search.true_score is not None for search in one.searches) for one in results]
    if max(found) == 0:
        return "No search completed a trial, so no setting can be recommended; raise budget.time or budget.trials."
    able = [one for one, count in zip(results, found, strict=True) if count == max(found)]
    ranked = sorted(able, key=lambda one: -_true(one).mean)
    best, chosen = ranked[0], f"Choose {setting_text(ranked[0].setting)}: true score {_true(ranked[0]).mean:.4f}"
    if len(ranked) == 1:
        return f"{chosen}, {'the only one' if len(results) == 1 else 'the only one with a winner in so many searches'}."
    pairs = zip(best.searches, ranked[1].searches, strict=True)
    both = [(one.true_score, other.true_score) for one, other in pairs]
    gain = estimate([one - other for one, other in both if one is not None and other is not None] or [math.nan])
    is_beyond = gain.mean > BEYOND_NOISE * gain.error
    judged = "beyond the noise" if is_beyond else "within the noise, so that one would do as well"
    return f"{chosen}, {estimate_text(gain, 4)} above {setting_text(ranked[1].setting)}, which is {judged}."


def estimate_text(estimated: Estimate, digits: int) -> str:
    """Return a mean as `0.0300 ± 0.0100`; without the error for a single search."""
    error = "" if math.isnan(estimated.error) else f" ± {estimated.error:.{digits}f}"
    return f"{estimated.mean:.{digits}f}{error}"


def setting_text(setting: Setting) -> str:
    """Return a setting as it is written on the command line."""
    return " ".join(setting) or "the study as it is"


def _true(result: SettingResult) -> Estimate:
    true_scores = result.mean_of(lambda search: search.true_score)
    assert true_scores is not None, "only settings with a winner are ranked"
    return true_scores


def _simulated(
    config: StudyConfig, source_of: Callable[[int], CurveSource], metric: str, starts_at: float
) -> SimulatedSearch:
    return simulate(config, source_of(config.seed), metric=metric, starts_at=starts_at)


@contextmanager
def _mapping(jobs: int) -> Iterator[Callable[..., Any]]:
    """Yield a `map` over `jobs` processes, whose results have the order of the arguments."""
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool.map
        except BrokenProcessPool:
            raise TrainingError(
                "A process that simulated searches was killed, perhaps because memory ran out; give --jobs a smaller "
                "number."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
