"""The verdict on a search, from what its confirmation has stored; computed anew whenever it is asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from hpo.messages import Reading
from hpo.metrics.classification import limits_of
from hpo.store.results import ConfirmingRun, StudyResults
from hpo.verdict.choice import Choice, choose
from hpo.verdict.comparison import Runs, difference, interval_of
from hpo.verdict.entrants import distinct
from hpo.verdict.findings import Confirmed, Difference, Interval, Rung, Verdict
from hpo.verdict.luck import bias_of_choice
from hpo.verdict.race import NO_SCORE, Course, Race
from hpo.verdict.wording import sentences


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
    low, high = limits = limits_of(results.metric)
    apart = (low - high, high - low)
    confirmed = [
        Confirmed(
            trial=trial,
            is_default=trial == race.default,
            scores=tuple(of_trial.scores.tolist()),
            score=of_trial.mean,
            interval=_within(limits, interval_of(of_trial, choice.noise)),
            lucky=scores[trial],
            seconds=seconds[trial],
        )
        for trial, of_trial in runs.items()
    ]
    ladder = {name: _as_runs([reading], seeded=False) for name, reading in results.baselines.items()}
    compared = (*_from_trials(race, choice), *_from_baselines(race, choice, runs, ladder, bias))
    verdict = Verdict(
        metric=results.metric,
        rows=results.confirmation[0].reading.scores.rows,
        unseen=results.confirmed_on_unseen,
        bias=bias,
        seed_noise=choice.noise.variance**0.5,
        confirmed=tuple(sorted(confirmed, key=lambda one: -one.score)),
        ladder=tuple(
            Rung(name=name, score=of_rung.mean, interval=_within(limits, interval_of(of_rung, choice.noise)))
            for name, of_rung in ladder.items()
        ),
        differences=tuple(replace(one, interval=_within(apart, one.interval)) for one in compared),
        best_of_search=max([scores[choice.winner], *(scores[trial.number] for trial in distinct(results))]),
        winner=choice.winner,
        recommended=choice.recommended,
        sentences=(),
        failures=dict(Counter(run.confirms for run in results.failed_runs)),
        unfinished=results.unfinished_runs,
        has_test_split=results.has_test_split,
    )
    return replace(verdict, sentences=sentences(verdict))


def _within(limits: tuple[float, float], interval: Interval) -> Interval:
    """Return the part of an interval in which what it is about can be."""
    low, high = limits
    return Interval(low=max(low, interval.low), high=min(high, interval.high))


def _from_trials(race: Race, choice: Choice) -> list[Difference]:
    return [
        Difference(
            of=choice.winner,
            than="the default" if trial == race.default else f"trial {trial}",
            trial=trial,
            points=points,
            interval=interval,
        )
        for trial, (points, interval) in choice.differences.items()
    ]


def _from_baselines(
    race: Race, choice: Choice, runs: Mapping[int, Runs], ladder: Mapping[str, Runs], bias: float
) -> list[Difference]:
    found = []
    for trial in dict.fromkeys((choice.winner, choice.recommended)):
        for name, of_rung in ladder.items():
            # The default was not chosen for its luck.
            luck = 0.0 if trial == race.default else bias
            points, interval = difference(runs[trial], of_rung, choice.noise, luck)
            found.append(Difference(of=trial, than=name, trial=None, points=points, interval=interval))
    return found


def _by_trial(results: StudyResults) -> dict[int, list[ConfirmingRun]]:
    found: dict[int, list[ConfirmingRun]] = {}
    for run in sorted(results.confirmation, key=lambda run: run.trial):
        found.setdefault(run.confirms, []).append(run)
    return found


def _runs(of_trial: Sequence[ConfirmingRun]) -> Runs:
    return _as_runs([run.reading for run in of_trial])


def _as_runs(readings: Sequence[Reading], *, seeded: bool = True) -> Runs:
    return Runs(
        np.array([reading.scores.objective for reading in readings]),
        np.array([reading.deviations for reading in readings]),
        seeded=seeded,
        of_a_unit=max(reading.of_a_unit for reading in readings),
    )


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
