"""Intervals of single scores: of one on the test split, and of a run under another seed."""

import numpy as np
from scipy.special import stdtrit

from hpo.metrics.registry import limits_of
from hpo.store.results import StudyResults, TestEvaluation, TrialResult
from hpo.verdict.comparison import COVERAGE, Runs, SeedNoise, interval_of, seed_noise
from hpo.verdict.findings import Interval


def interval_of_test(test: TestEvaluation) -> Interval | None:
    """Return the 95% interval, over rows, of a score on the test split; None without a jackknife."""
    held_out = test.held_out
    if not held_out.deviations:
        return None
    scores, deviations = np.array([held_out.scores.objective]), np.array([held_out.deviations])
    run = Runs(scores, deviations, seeded=False, of_a_unit=held_out.of_a_unit)
    return interval_of(run, SeedNoise(0.0, 0.0, 0)).within(*limits_of(held_out.scores.metric))


def under_another_seed(results: StudyResults, trial: TrialResult) -> Interval | None:
    """Return where a trial scores in 95% of cases under another seed, on the rows that the search chose by.

    The prediction interval of one more normal observation (Hahn and Meeker 1991): about the mean of its runs on fresh
    seeds, or where it has none about its score, with the variance over seeds pooled over all that was confirmed, or of
    the default's two seeds in the search. None where no configuration has two seeds.
    """
    scores: dict[int, list[float]] = {}
    for run in results.confirmation:
        scores.setdefault(run.confirms, []).append(run.validation.objective)
    of_default = [trial.score or 0.0 for trial in results.leaderboard if trial.proposed_by == "default"]
    noise = seed_noise([_without_rows(of_trial) for of_trial in scores.values()])
    if not noise.degrees:
        noise = seed_noise([_without_rows(of_default)])
    if not noise.degrees or trial.score is None:
        return None
    own = scores.get(trial.number, [trial.score])
    half = float(stdtrit(noise.degrees, (1 + COVERAGE) / 2)) * (noise.variance * (1 + 1 / len(own))) ** 0.5
    middle = float(np.mean(own))
    return Interval(low=middle - half, high=middle + half).within(*limits_of(results.metric))


def _without_rows(scores: list[float]) -> Runs:
    """Return scores as runs of which the deviations over rows are not known."""
    return Runs(np.array(scores), np.zeros((len(scores), 1)))
