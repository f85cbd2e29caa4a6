"""Comparison of settings by simulated searches: the same seeds under each, so that they differ by the setting alone."""

import itertools
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Any

from hpo.config.study_file import FOLD_PRUNERS, StudyConfig
from hpo.errors import ConfigurationError, TrainingError
from hpo.runners.replay.curves import CurveSource
from hpo.runners.replay.simulated_search import SimulatedSearch, simulate

SHIPPED = "search.pruner=asynchronous_median,median,successive_halving,hyperband,none"
SHIPPED_FOR_FOLDS = f"search.pruner={','.join(name for name in FOLD_PRUNERS if name != 'threshold')}"
"""What is compared where nothing else is asked for; `threshold` needs a score that nobody knows beforehand."""
BEYOND_NOISE = 2.0
"""Standard errors of a difference from which it counts."""

Setting = tuple[str, ...]
"""Overrides such as `search.pruner=none`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over searches."""

    mean: float
    error: float
    """Its standard error; NaN of a single search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingResult:
    """A setting and its searches, in the order of their seeds."""

    setting: Setting
    searches: tuple[SimulatedSearch, ...]

    def mean_of(self, value: Callable[[SimulatedSearch], float | None]) -> Estimate | None:
        """Return the mean of a value over the searches that have it; None where none has."""
        values = [found for search in self.searches if (found := value(search)) is not None]
        return estimate(values) if values else None


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of at least one value, and its standard error."""
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
    """Simulate `searches` searches under each setting, with the seeds that follow the study's own.

    Args:
        configs: setting -> the study under it.
        source_of: seed of a search -> its curves; where `jobs` is above 1, something that can be pickled.
        searches: how many of each, at least 1.
        metric: what the curves' scores are called.
        jobs: processes that simulate side by side.
        starts_at: when each search begins, in seconds since 1970.
        on_done: is called after each search with how many are done, and how many there are.

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
    """Return which setting to choose, and whether it is better beyond the noise, in a sentence.

    Of those with a winner in the most searches, it is the one whose winners are truly best in the mean. Its distance to
    the next is taken search by search, since both had the same seeds.
    """
    found = [sum(search.true_score is not None for search in one.searches) for one in results]
    if max(found) == 0:
        return "No search has completed a trial, so there is nothing to choose by; give budget.time or trials more."
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
    """Return a mean as `0.0300 ± 0.0100`; without the error where a single search has none."""
    error = "" if math.isnan(estimated.error) else f" ± {estimated.error:.{digits}f}"
    return f"{estimated.mean:.{digits}f}{error}"


def setting_text(setting: Setting) -> str:
    """Return a setting as it is written on the command line."""
    return " ".join(setting) or "the study as it is"


def _true(result: SettingResult) -> Estimate:
    true_scores = result.mean_of(lambda search: search.true_score)
    assert true_scores is not None, "only those are ranked that have found something"
    return true_scores


def _simulated(
    config: StudyConfig, source_of: Callable[[int], CurveSource], metric: str, starts_at: float
) -> SimulatedSearch:
    return simulate(config, source_of(config.seed), metric=metric, starts_at=starts_at)


@contextmanager
def _mapping(jobs: int) -> Iterator[Callable[..., Any]]:
    """Yield a `map` over so many processes, in which searches come in the order of their studies."""
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool.map
        except BrokenProcessPool:
            raise TrainingError(
                "A process that simulated searches was killed, as the kernel does where memory is short; give --jobs a "
                "smaller number."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
