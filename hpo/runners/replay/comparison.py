"""Compares settings of a search by simulated nights: the same seeds under each, so that they differ by the setting."""

import itertools
import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

from hpo.config.study_file import FOLD_PRUNERS, StudyConfig
from hpo.errors import ConfigurationError, TrainingError
from hpo.runners.replay.curves import CurveSource
from hpo.runners.replay.simulated_search import SimulatedSearch, simulate
from hpo.runners.replay.workforce import EVENING

SHIPPED = "search.pruner=asynchronous_median,median,successive_halving,hyperband,none"
SHIPPED_FOR_FOLDS = f"search.pruner={','.join(name for name in FOLD_PRUNERS if name != 'threshold')}"
"""What is compared where nothing else is asked for; `threshold` needs a score that nobody knows beforehand."""
BEYOND_NOISE = 2.0
"""Standard errors of a difference from which it counts."""

Setting = tuple[str, ...]
"""Overrides such as `search.pruner=none`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over nights."""

    mean: float
    error: float
    """Its standard error; NaN of a single night."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A setting and its nights, in the order of their seeds."""

    setting: Setting
    nights: tuple[SimulatedSearch, ...]

    def over_nights(self, what: Callable[[SimulatedSearch], float | None]) -> Estimate | None:
        """Return the mean of `what` over the nights that have it; None where none has."""
        values = [value for night in self.nights if (value := what(night)) is not None]
        return estimate(values) if values else None


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of at least one value, and the standard error of it."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(mean=fmean(values), error=error)


def settings_of(vary: Sequence[str]) -> list[Setting]:
    """Return every combination of `vary`, each a dotted path and its values: `search.pruner=median,none`.

    Raises:
        ConfigurationError: one that is not written so, or a path that is there twice.
    """
    choices: dict[str, list[str]] = {}
    for one in vary:
        path, separator, values = (part.strip() for part in one.partition("="))
        listed = [value.strip() for value in values.split(",")]
        if not path or not separator or not all(listed) or path in choices:
            raise ConfigurationError(
                f"--vary is a dotted path and its values, each path once, as in "
                f"search.pruner=median,none, but got {one!r}."
            )
        choices[path] = list(dict.fromkeys(listed))
    named = ([f"{path}={value}" for value in listed] for path, listed in choices.items())
    return list(itertools.product(*named))


def compare(
    configs: Mapping[Setting, StudyConfig],
    source_of: Callable[[int], CurveSource],
    *,
    nights: int,
    metric: str = "score",
    jobs: int = 1,
    starts_at: float = EVENING,
    told: Callable[[int, int], None] = lambda done, all_: None,  # noqa: ARG005
) -> list[Compared]:
    """Simulate `nights` nights under each setting, with the seeds that follow the study's own.

    Args:
        configs: setting -> the study under it.
        source_of: seed of a night -> its curves; where `jobs` is above 1, something that can be pickled.
        nights: how many of each, at least 1.
        metric: what the curves' scores are called.
        jobs: processes that simulate side by side.
        starts_at: when each night begins, in seconds since 1970.
        told: is called after each night with how many are done, and how many there are.

    Raises:
        ConfigurationError: a study that cannot be run.
        TrainingError: one of the processes was killed.
    """
    numbered = itertools.product(configs.values(), range(nights))
    studies = [config.model_copy(update={"seed": config.seed + night}) for config, night in numbered]
    simulated = partial(_simulated, source_of=source_of, metric=metric, starts_at=starts_at)
    done: list[SimulatedSearch] = []
    with _mapping(jobs) as mapped:
        for night in mapped(simulated, studies):
            done.append(night)
            told(len(done), len(studies))
    return [
        Compared(setting=setting, nights=tuple(done[nights * number : nights * (number + 1)]))
        for number, setting in enumerate(configs)
    ]


def verdict(compared: Sequence[Compared]) -> str:
    """Return which setting to choose, and whether it is better beyond the noise, in a sentence.

    Of those with a winner in the most nights, it is the one whose winners are truly best in the mean. Its distance to
    the next is taken night by night, since both had the same seeds.
    """
    found = [sum(night.true_score is not None for night in one.nights) for one in compared]
    if max(found) == 0:
        return "No night has completed a trial, so there is nothing to choose by; give budget.time or trials more."
    able = [one for one, count in zip(compared, found, strict=True) if count == max(found)]
    ranked = sorted(able, key=lambda one: -_true(one).mean)
    best, chosen = ranked[0], f"Choose {spoken_setting(ranked[0].setting)}: true score {_true(ranked[0]).mean:.4f}"
    if len(ranked) == 1:
        return f"{chosen}, {'the only one' if len(compared) == 1 else 'the only one with a winner in so many nights'}."
    gain = estimate([one - other for one, other in _together(best, ranked[1])] or [math.nan])
    beyond = gain.mean > BEYOND_NOISE * gain.error
    judged = "beyond the noise" if beyond else "within the noise, so that one would do as well"
    return f"{chosen}, {spoken_estimate(gain, 4)} above {spoken_setting(ranked[1].setting)}, which is {judged}."


def spoken_estimate(estimated: Estimate, digits: int) -> str:
    """Return a mean as `0.0300 ± 0.0100`; without the error where a single night has none."""
    error = "" if math.isnan(estimated.error) else f" ± {estimated.error:.{digits}f}"
    return f"{estimated.mean:.{digits}f}{error}"


def spoken_setting(setting: Setting) -> str:
    """Return a setting as it is written on the command line."""
    return " ".join(setting) or "the study as it is"


def _true(compared: Compared) -> Estimate:
    of_nights = compared.over_nights(lambda night: night.true_score)
    assert of_nights is not None, "only those are ranked that have found something"
    return of_nights


def _together(one: Compared, other: Compared) -> Iterator[tuple[float, float]]:
    """Yield the true scores of the nights in which both found something."""
    for mine, theirs in zip(one.nights, other.nights, strict=True):
        if mine.true_score is not None and theirs.true_score is not None:
            yield mine.true_score, theirs.true_score


def _simulated(
    config: StudyConfig, source_of: Callable[[int], CurveSource], metric: str, starts_at: float
) -> SimulatedSearch:
    return simulate(config, source_of(config.seed), metric=metric, starts_at=starts_at)


@contextmanager
def _mapping(
    jobs: int,
) -> Iterator[Callable[[Callable[[StudyConfig], SimulatedSearch], Sequence[StudyConfig]], Iterable[SimulatedSearch]]]:
    """Return a `map` over so many processes, in which nights come in the order of their studies."""
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool.map
        except BrokenProcessPool:
            raise TrainingError(
                "A process that simulated nights was killed, as the kernel does where memory is short; give --jobs a "
                "smaller number."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
