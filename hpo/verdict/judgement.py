"""Computation of the verdict and the recommendation, on demand, from the stored runs of the confirmation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from hpo.messages import Ending, HeldOutEvaluation
from hpo.metrics.registry import limits_of
from hpo.store.results import ConfirmingRun, StudyResults
from hpo.verdict.comparison import COVERAGE, Runs, SeedNoise, difference, interval_of, seed_noise
from hpo.verdict.findings import BaselineScore, Confirmed, Difference, Interval, Verdict
from hpo.verdict.selection_bias import ScoreNoise, deviation_over_rows, simulated_selection_bias
from hpo.verdict.sequential_halving import NO_SCORE, Race, RaceState, distinct, winner_of
from hpo.verdict.wording import sentences

LIKELY = 0.9
"""Coverage of the interval that must be above 0 for the winner to be recommended instead of the default, as compared in
docs/verdict.md. To be called better, the whole 95% interval must be above 0."""
MUCH_LESS_TIME = 2 / 3
"""Largest share of the winner's training time at which an indistinguishable configuration is recommended instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchScores:
    """Scores by which a search chose the finalists."""

    scores: tuple[float, ...] = ()
    """Scores of all trials that could have been chosen, including pruned ones."""
    unseen: bool = True
    """True if the verdict is on rows that the search never saw."""
    rows: float = 1.0
    """Number of rows that the search chose by, divided by the number of rows of the verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Recommendation from the runs of a race."""

    winner: int
    """The finalist that won the race."""
    recommended: int
    """The trial to take."""
    runs: Mapping[int, Runs]
    """Trial -> the runs that count: for the winner, if possible, without those that decided the race."""
    left_out: int
    """Number of the winner's runs that do not count."""
    selection_bias: Mapping[int, float]
    """Trial -> the estimated bias of its mean score, in the unit of the metric."""
    noise: SeedNoise

    def lead(self, trial: int, against: int, coverage: float = COVERAGE) -> tuple[float, Interval]:
        """Return the lead of one trial over another, and its interval."""
        bias = self.selection_bias[trial] - self.selection_bias[against]
        return difference(self.runs[trial], self.runs[against], self.noise, bias, coverage)


def recommend(
    race: Race, state: RaceState, runs: Mapping[int, Runs], seconds: Mapping[int, float], search: SearchScores
) -> Recommendation | None:
    """Return the recommendation; None if no finalist has a run, or no trial has two, which the noise of seeds needs.

    The default is recommended unless the winner is likely better. A faster finalist replaces the winner if it is not
    distinguishable from it, scores lower by at most the noise of seeds, and is also likely better than the default.

    Args:
        race: the race.
        state: progress of the race, on the rows that decide it.
        runs: trial -> its runs on the rows of the verdict, in the order of `state`.
        seconds: trial -> mean training time of a run.
        search: scores that the finalists were chosen by.
    """
    raced = [trial for trial in race.finalists if trial in runs]
    if not raced or not seed_noise(list(runs.values())).degrees:
        return None
    winner, rounds = winner_of(race, state, raced)
    decided = sum(score != NO_SCORE for score in state.ended[winner][:rounds])
    counted, left_out = _without_deciding_runs(runs, winner, decided)
    noise = seed_noise(list(counted.values()))
    bias = simulated_selection_bias(
        search.scores, _noise_of_search(list(runs.values()), noise, search), len(raced), rounds,
        unseen=search.unseen, left_out=left_out == decided,
    )  # fmt: skip
    biases = dict.fromkeys(raced, bias.others) | {winner: bias.winner}
    found = Recommendation(
        winner=winner,
        recommended=winner,
        runs={trial: counted[trial] for trial in race.entrants if trial in runs},
        left_out=left_out,
        selection_bias={trial: biases.get(trial, 0.0) for trial in runs},
        noise=noise,
    )
    return replace(found, recommended=_recommended(found, race.default, seconds, raced))


def _without_deciding_runs(runs: Mapping[int, Runs], winner: int, decided: int) -> tuple[Mapping[int, Runs], int]:
    """Return the runs that count, and the number of the winner's that do not; all count if too few would be left.

    Runs that decided the race are biased upwards. They would also make the noise of seeds look smaller, because high
    scores of one configuration are close to each other.
    """
    if decided < len(runs[winner].scores):
        others = {**runs, winner: runs[winner].after(decided)}
        if seed_noise(list(others.values())).degrees:
            return others, decided
    return runs, 0


def _noise_of_search(runs: Sequence[Runs], noise: SeedNoise, search: SearchScores) -> ScoreNoise:
    """Return the noise of a score on the rows that the search chose by."""
    shrunk = search.rows**-0.5
    return ScoreNoise(
        rows=shrunk * deviation_over_rows(runs, noise),
        passing=shrunk * (noise.variance - noise.lasting) ** 0.5,
        lasting=noise.lasting**0.5,
    )


def _recommended(found: Recommendation, default: int | None, seconds: Mapping[int, float], raced: Sequence[int]) -> int:
    def beats_default(trial: int) -> bool:
        return default is None or found.lead(trial, default, LIKELY)[1].low > 0

    def is_as_good(trial: int) -> bool:
        lead, interval = found.lead(found.winner, trial)
        # The interval of a single run is very wide, so the score itself must be close too.
        return interval.low <= 0 and lead <= found.noise.variance**0.5 and beats_default(trial)

    if default is not None and not beats_default(found.winner):
        return default
    much_less = MUCH_LESS_TIME * seconds[found.winner]
    faster = [trial for trial in raced if trial != found.winner and seconds[trial] <= much_less]
    return min(filter(is_as_good, faster), key=seconds.__getitem__, default=found.winner)


def verdict_on(results: StudyResults) -> Verdict | None:
    """Return the verdict; None if no finalist was confirmed, or no configuration has two runs."""
    by_trial: dict[int, list[ConfirmingRun]] = {}
    for run in sorted(results.confirmation, key=lambda run: run.trial):
        by_trial.setdefault(run.confirms, []).append(run)
    runs = {trial: _runs_of([run.held_out for run in of_trial]) for trial, of_trial in by_trial.items()}
    seconds = {trial: fmean(run.seconds for run in of_trial) for trial, of_trial in by_trial.items()}
    race = _race(results)
    found = recommend(race, _race_state(results), runs, seconds, _search_scores(results))
    return None if found is None else _verdict(results, race, seconds, found)


def _verdict(results: StudyResults, race: Race, seconds: Mapping[int, float], found: Recommendation) -> Verdict:
    scores = {trial.number: trial.score or 0.0 for trial in results.leaderboard}
    low, high = limits_of(results.metric)
    confirmed = [
        Confirmed(
            trial=trial,
            is_default=trial == race.default,
            scores=tuple(runs.scores.tolist()),
            left_out=found.left_out if trial == found.winner else 0,
            score=min(high, max(low, runs.mean - found.selection_bias[trial])),
            interval=interval_of(runs, found.noise, found.selection_bias[trial]).within(low, high),
            search_score=scores.get(trial),
            seconds=seconds[trial],
        )
        for trial, runs in found.runs.items()
    ]
    baselines = {name: _runs_of([held_out], seeded=False) for name, held_out in results.baselines.items()}
    on_rows = results.confirmation[0].held_out.scores
    verdict = Verdict(
        metric=results.metric,
        rows=on_rows.rows,
        unseen=results.confirmed_on_unseen,
        selection_bias=found.selection_bias[found.winner],
        seed_noise=found.noise.variance**0.5,
        confirmed=tuple(sorted(confirmed, key=lambda one: -one.score)),
        baselines=tuple(
            BaselineScore(name=name, score=runs.mean, interval=interval_of(runs, found.noise).within(low, high))
            for name, runs in baselines.items()
        ),
        differences=_differences(race, found, baselines, high - low),
        best_of_search=max([scores[found.winner], *(scores[trial.number] for trial in distinct(results))]),
        winner=found.winner,
        recommended=found.recommended,
        sentences=(),
        failures=dict(Counter(run.confirms for run in results.failed_runs)),
        unfinished=results.unfinished_runs,
        has_test_split=results.has_test_split,
        tested=tuple(one.trial for one in results.test),
        class_rows={label: round(row["support"]) for label, row in on_rows.per_class.items()},
        best_epochs=results.configuration.get("evaluation", {}).get("folds") is None,
    )
    return replace(verdict, sentences=sentences(verdict))


def _differences(
    race: Race, found: Recommendation, baselines: Mapping[str, Runs], span: float
) -> tuple[Difference, ...]:
    """Compare the winner with all confirmed trials, then the winner and the recommended trial with the baselines."""
    winner = found.winner
    names = {trial: "the default" if trial == race.default else f"trial {trial}" for trial in found.runs}
    compared = [(winner, names[trial], trial, found.lead(winner, trial)) for trial in found.runs if trial != winner]
    leads = [
        (trial, name, None, difference(found.runs[trial], runs, found.noise, found.selection_bias[trial]))
        for trial in dict.fromkeys((winner, found.recommended))
        for name, runs in baselines.items()
    ]
    return tuple(
        Difference(
            trial=trial, against=name, against_trial=other, difference=lead, interval=interval.within(-span, span)
        )
        for trial, name, other, (lead, interval) in (*compared, *leads)
    )


def _runs_of(held_out_evaluations: Sequence[HeldOutEvaluation], *, seeded: bool = True) -> Runs:
    return Runs(
        np.array([held_out.scores.objective for held_out in held_out_evaluations]),
        np.array([held_out.deviations for held_out in held_out_evaluations]),
        seeded=seeded,
        of_a_unit=max(held_out.of_a_unit for held_out in held_out_evaluations),
    )


def _race(results: StudyResults) -> Race:
    """Return the race with the trials that took part in it."""
    took_part = {run.confirms for run in results.confirmation} | {run.confirms for run in results.failed_runs}
    of_default = None if results.default is None else results.default.number
    default = of_default if any(run.confirms == of_default for run in results.confirmation) else None
    ranked = [trial.number for trial in results.leaderboard]
    finalists = tuple(number for number in ranked if number in took_part and number != of_default)
    return Race(finalists=finalists, default=default, runs=len(results.confirmation), seeds=len(results.confirmation))


def _race_state(results: StudyResults) -> RaceState:
    """Return the state of the race, on the rows that the search chose by; other rows are only for the verdict."""
    scores = {(run.confirms, run.trial): run.validation.objective for run in results.confirmation}
    scores |= {(run.confirms, run.trial): NO_SCORE for run in results.failed_runs}
    ended: dict[int, list[float]] = {}
    for trial, run in sorted(scores):
        ended.setdefault(trial, []).append(scores[trial, run])
    return RaceState(ended=ended, begun={trial: len(of_trial) for trial, of_trial in ended.items()})


def _search_scores(results: StudyResults) -> SearchScores:
    """Return the scores that the finalists were chosen by.

    A pruned trial could have been chosen too, but its last score is from less training. It counts as a completed trial
    with the lower quartile of the scores, which in simulated searches estimated the selection bias best, and seldom
    too low.
    """
    scores = [trial.score for trial in results.leaderboard if trial.score is not None]
    cut = (trial for trial in results.trials if trial.state in ("PRUNED", "RUNNING") and trial.score is not None)
    pruned = sum(trial.ending not in (Ending.DIVERGED, Ending.INFEASIBLE) for trial in cut)
    first = results.confirmation[0] if results.confirmation else None
    return SearchScores(
        scores=(*scores, *([float(np.quantile(scores, 0.25))] * pruned if scores else ())),
        unseen=results.confirmed_on_unseen,
        rows=first.validation.rows / first.held_out.scores.rows if first else 1.0,
    )
