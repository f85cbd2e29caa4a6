"""The verdict on a search, from what its confirmation has stored; computed anew whenever it is asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from hpo.messages import Ending, HeldOutEvaluation, Scores
from hpo.metrics.registry import limits_of
from hpo.store.results import ConfirmingRun, StudyResults, TrialResult
from hpo.verdict.comparison import Runs, difference, interval_of
from hpo.verdict.entrants import distinct
from hpo.verdict.findings import Confirmed, Difference, Rung, Verdict
from hpo.verdict.race import NO_SCORE, Race, RaceState
from hpo.verdict.recommendation import Recommendation, Searched, choose
from hpo.verdict.wording import sentences


def judged(results: StudyResults) -> Verdict | None:
    """Return the verdict; None where no finalist was confirmed, or none of what was has two runs."""
    by_trial, race, course = _by_trial(results), _race(results), _course(results)
    runs = {trial: _as_runs([run.held_out for run in of_trial]) for trial, of_trial in by_trial.items()}
    seconds = {trial: fmean(run.seconds for run in of_trial) for trial, of_trial in by_trial.items()}
    choice = choose(race, course, runs, seconds, _searched(results))
    return None if choice is None else _verdict(results, race, seconds, choice)


def _verdict(results: StudyResults, race: Race, seconds: Mapping[int, float], choice: Recommendation) -> Verdict:
    scores = {trial.number: trial.score or 0.0 for trial in results.trials}
    low, high = limits_of(results.metric)
    confirmed = [
        Confirmed(
            trial=trial,
            is_default=trial == race.default,
            scores=tuple(of_trial.scores.tolist()),
            left_out=choice.left_out if trial == choice.winner else 0,
            score=min(high, max(low, of_trial.mean - choice.selection_bias[trial])),
            interval=interval_of(of_trial, choice.noise, choice.selection_bias[trial]).within(low, high),
            lucky=scores[trial],
            seconds=seconds[trial],
        )
        for trial, of_trial in choice.runs.items()
    ]
    ladder = {name: _as_runs([held_out], seeded=False) for name, held_out in results.baselines.items()}
    compared = (*_from_trials(race, choice), *_from_baselines(choice, ladder))
    verdict = Verdict(
        metric=results.metric,
        rows=results.confirmation[0].held_out.scores.rows,
        unseen=results.confirmed_on_unseen,
        bias=choice.selection_bias[choice.winner],
        seed_noise=choice.noise.variance**0.5,
        confirmed=tuple(sorted(confirmed, key=lambda one: -one.score)),
        ladder=tuple(
            Rung(name=name, score=of_rung.mean, interval=interval_of(of_rung, choice.noise).within(low, high))
            for name, of_rung in ladder.items()
        ),
        differences=tuple(replace(one, interval=one.interval.within(low - high, high - low)) for one in compared),
        best_of_search=max([scores[choice.winner], *(scores[trial.number] for trial in distinct(results))]),
        winner=choice.winner,
        recommended=choice.recommended,
        sentences=(),
        failures=dict(Counter(run.confirms for run in results.failed_runs)),
        unfinished=results.unfinished_runs,
        has_test_split=results.has_test_split,
        tested=tuple(look.trial for look in results.test),
        class_rows=_class_rows(results.confirmation[0].held_out.scores),
        best_epochs=results.configuration.get("evaluation", {}).get("folds") is None,
    )
    return replace(verdict, sentences=sentences(verdict))


def _class_rows(scores: Scores) -> dict[str, int]:
    return {label: round(row["support"]) for label, row in scores.per_class.items()}


def _from_trials(race: Race, choice: Recommendation) -> list[Difference]:
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


def _from_baselines(choice: Recommendation, ladder: Mapping[str, Runs]) -> list[Difference]:
    found = []
    for trial in dict.fromkeys((choice.winner, choice.recommended)):
        for name, of_rung in ladder.items():
            points, interval = difference(choice.runs[trial], of_rung, choice.noise, choice.selection_bias[trial])
            found.append(Difference(of=trial, than=name, trial=None, points=points, interval=interval))
    return found


def _by_trial(results: StudyResults) -> dict[int, list[ConfirmingRun]]:
    found: dict[int, list[ConfirmingRun]] = {}
    for run in sorted(results.confirmation, key=lambda run: run.trial):
        found.setdefault(run.confirms, []).append(run)
    return found


def _as_runs(held_out_evaluations: Sequence[HeldOutEvaluation], *, seeded: bool = True) -> Runs:
    return Runs(
        np.array([held_out.scores.objective for held_out in held_out_evaluations]),
        np.array([held_out.deviations for held_out in held_out_evaluations]),
        seeded=seeded,
        of_a_unit=max(held_out.of_a_unit for held_out in held_out_evaluations),
    )


def _race(results: StudyResults) -> Race:
    """Return the race as far as it was run: who took part in it."""
    took_part = {run.confirms for run in results.confirmation} | {run.confirms for run in results.failed_runs}
    of_default = None if results.default is None else results.default.number
    default = of_default if any(run.confirms == of_default for run in results.confirmation) else None
    ranked = [trial.number for trial in results.leaderboard]
    finalists = tuple(number for number in ranked if number in took_part and number != of_default)
    return Race(finalists=finalists, default=default, runs=len(results.confirmation), seeds=len(results.confirmation))


def _course(results: StudyResults) -> RaceState:
    """Return how the race went, by the rows that the search chose by: the others are for the verdict alone."""
    scores = {(run.confirms, run.trial): run.validation.objective for run in results.confirmation}
    scores |= {(run.confirms, run.trial): NO_SCORE for run in results.failed_runs}
    ended: dict[int, list[float]] = {}
    for trial, run in sorted(scores):
        ended.setdefault(trial, []).append(scores[trial, run])
    return RaceState(ended=ended, begun={trial: len(of_trial) for trial, of_trial in ended.items()})


def _searched(results: StudyResults) -> Searched:
    """Return how the finalists were found.

    What was given up was in question too, and its last score is of less training. It counts as a completed trial at
    the lower quartile: in searches of which the luck is known that tells it best, and seldom as too little.
    """
    scores = [trial.score for trial in results.leaderboard if trial.score is not None]
    begun = sum(trial.state in ("PRUNED", "RUNNING") and _might_have_won(trial) for trial in results.trials)
    cut = [float(np.quantile(scores, 0.25))] * begun if scores else []
    first = results.confirmation[0] if results.confirmation else None
    return Searched(
        scores=(*scores, *cut),
        unseen=results.confirmed_on_unseen,
        rows=first.validation.rows / first.held_out.scores.rows if first else 1.0,
    )


def _might_have_won(trial: TrialResult) -> bool:
    """Return whether a trial that did not complete was scored, and is not one that cannot be trained."""
    return trial.score is not None and trial.ending not in (Ending.DIVERGED, Ending.INFEASIBLE)
