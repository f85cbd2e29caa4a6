"""Intervals of single scores: one that was read on the test split, and one of a run under another seed."""

import numpy as np
from scipy.special import stdtrit

from hpo.metrics.registry import limits_of
from hpo.store.results import StudyResults, TestEvaluation, TrialResult
from hpo.verdict.comparison import COVERAGE, Runs, SeedNoise, interval_of, seed_noise
from hpo.verdict.findings import Interval


def interval_of_test(look: TestEvaluation) -> Interval | None:
    """Return the 95% interval, over rows, of what a model scored on the test split; None without a jackknife."""
    if not look.deviations:
        return None
    run = Runs(np.array([look.scores.objective]), np.array([look.deviations]), seeded=False, of_a_unit=look.of_a_unit)
    return interval_of(run, SeedNoise(0.0, 0.0, 0)).within(*limits_of(look.scores.metric))


def under_another_seed(results: StudyResults, trial: TrialResult) -> Interval | None:
    """Return where a trial scores in 95% of cases, on the rows that the search chose by, if its seed is another.

    The prediction interval of one more normal observation (Hahn and Meeker 1991): about the mean of its runs on fresh
    seeds, or where it has none about its score, with the variance over seeds pooled over all that was confirmed, or of
    the default's two seeds in the search. None where no configuration has two seeds.
    """
    scores: dict[int, list[float]] = {}
    for run in results.confirmation:
        scores.setdefault(run.confirms, []).append(run.validation.objective)
    noise = seed_noise([_unread(of_trial) for of_trial in scores.values()])
    if not noise.degrees:
        noise = seed_noise([_unread(_of_default(results))])
    if not noise.degrees or trial.score is None:
        return None
    own = scores.get(trial.number, [trial.score])
    half = float(stdtrit(noise.degrees, (1 + COVERAGE) / 2)) * (noise.variance * (1 + 1 / len(own))) ** 0.5
    middle = float(np.mean(own))
    return Interval(low=middle - half, high=middle + half).within(*limits_of(results.metric))


def _of_default(results: StudyResults) -> list[float]:
    return [trial.score or 0.0 for trial in results.leaderboard if trial.proposed_by == "default"]


def _unread(scores: list[float]) -> Runs:
    return Runs(np.array(scores), np.zeros((len(scores), 1)))
