"""The verdict on a search, from what its confirmation has stored; computed anew whenever it is asked for."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from hpo.messages import Reading
from hpo.store.results import ConfirmingRun, StudyResults
from hpo.verdict.choice import Choice, choose
from hpo.verdict.comparison import Runs, SeedNoise, difference, interval_of
from hpo.verdict.findings import Confirmed, Difference, Interval, Rung, Verdict
from hpo.verdict.luck import bias_of_choice
from hpo.verdict.race import NO_SCORE, Course, Race
from hpo.verdict.wording import is_share, sentences

LIMITS: Mapping[str, tuple[float, float]] = {"matthews": (-1.0, 1.0), "neg_calibration_error": (-1.0, 0.0)}
"""Between which a metric is, where that is not 0 and 1."""


def judged(results: StudyResults) -> Verdict | None:
    """Return the verdict; None where no finalist was confirmed, or none of what was has two runs."""
    runs = {trial: _runs(of_trial) for trial, of_trial in _by_trial(results).items()}
    race, course = _race(results), _course(results)
    bias = 0.0 if results.confirmed_on_unseen else _bias(results, race, runs)
    seconds = {trial: fmean(run.seconds for run in of_trial) for trial, of_trial in _by_trial(results).items()}
    choice = choose(race, course, runs, seconds, bias)
    return None if choice is None else _verdict(results, race, runs, seconds, choice, bias)


def _verdict(
    results: StudyResults,
    race: Race,
    runs: Mapping[int, Runs],
    seconds: Mapping[int, float],
    choice: Choice,
    bias: float,
) -> Verdict:
    scores = {trial.number: trial.score or 0.0 for trial in results.trials}
    confirmed = [
        Confirmed(
            trial=trial,
            is_default=trial == race.default,
            scores=tuple(of_trial.scores.tolist()),
            score=of_trial.mean,
            interval=_possible(results.metric, interval_of(of_trial, choice.noise)),
            lucky=scores[trial],
            seconds=seconds[trial],
        )
        for trial, of_trial in runs.items()
    ]
    ladder = {name: _baseline(reading) for name, reading in results.baselines.items()}
    verdict = Verdict(
        metric=results.metric,
        rows=results.confirmation[0].reading.scores.rows,
        unseen=results.confirmed_on_unseen,
        bias=bias,
        seed_noise=choice.noise.variance**0.5,
        confirmed=tuple(sorted(confirmed, key=lambda one: -one.score)),
        ladder=tuple(
            Rung(name=name, score=runs_of.mean, interval=_possible(results.metric, interval_of(runs_of, choice.noise)))
            for name, runs_of in ladder.items()
        ),
        differences=(*_from_trials(race, choice), *_from_baselines(runs[choice.winner], ladder, choice.noise, bias)),
        winner=choice.winner,
        recommended=choice.recommended,
        sentences=(),
        failures=dict(Counter(run.confirms for run in results.failed_runs)),
    )
    return replace(verdict, sentences=sentences(verdict))


def _possible(metric: str, interval: Interval) -> Interval:
    """Return the part of an interval in which the metric can be."""
    low, high = LIMITS.get(metric, (0.0, 1.0)) if is_share(metric) else (-math.inf, math.inf)
    return Interval(low=max(low, interval.low), high=min(high, interval.high))


def _from_trials(race: Race, choice: Choice) -> list[Difference]:
    return [
        Difference(
            than="the default" if trial == race.default else f"trial {trial}",
            trial=trial,
            points=points,
            interval=interval,
        )
        for trial, (points, interval) in choice.differences.items()
    ]


def _from_baselines(winner: Runs, ladder: Mapping[str, Runs], noise: SeedNoise, bias: float) -> list[Difference]:
    found = []
    for name, runs in ladder.items():
        points, interval = difference(winner, runs, noise, bias)
        found.append(Difference(than=name, trial=None, points=points, interval=interval))
    return found


def _by_trial(results: StudyResults) -> dict[int, list[ConfirmingRun]]:
    found: dict[int, list[ConfirmingRun]] = {}
    for run in sorted(results.confirmation, key=lambda run: run.trial):
        found.setdefault(run.confirms, []).append(run)
    return found


def _runs(of_trial: Sequence[ConfirmingRun]) -> Runs:
    return Runs(
        np.array([run.reading.scores.objective for run in of_trial]),
        np.array([run.reading.deviations for run in of_trial]),
    )


def _baseline(reading: Reading) -> Runs:
    return Runs(np.array([reading.scores.objective]), np.array([reading.deviations]), seeded=False)


def _race(results: StudyResults) -> Race:
    """Return the race as far as it was run: who took part in it."""
    took_part = {run.confirms for run in results.confirmation} | {run.confirms for run in results.failed_runs}
    of_default = None if results.default is None else results.default.number
    default = of_default if any(run.confirms == of_default for run in results.confirmation) else None
    ranked = [trial.number for trial in results.leaderboard]
    finalists = tuple(number for number in ranked if number in took_part and number != of_default)
    return Race(finalists=finalists, default=default, runs=len(results.confirmation), seeds=len(results.confirmation))


def _course(results: StudyResults) -> Course:
    """Return how the race went, by the rows that the search chose by: the others are for the verdict alone."""
    scores = {(run.confirms, run.trial): run.validation.objective for run in results.confirmation}
    scores |= {(run.confirms, run.trial): NO_SCORE for run in results.failed_runs}
    ended: dict[int, list[float]] = {}
    for trial, run in sorted(scores):
        ended.setdefault(trial, []).append(scores[trial, run])
    return Course(ended=ended, begun={trial: len(of_trial) for trial, of_trial in ended.items()})


def _bias(results: StudyResults, race: Race, runs: Mapping[int, Runs]) -> float:
    """Return by how much the winner is likely overrated on rows that the search chose by."""
    scores = [trial.score for trial in results.leaderboard if trial.score is not None]
    return bias_of_choice(scores, [runs[trial] for trial in race.finalists if trial in runs], list(runs.values()))
