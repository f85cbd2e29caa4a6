"""Verdict on studies that were made by hand."""

from dataclasses import replace

import pytest
from scipy.stats import binomtest

from hpo.messages import Ending
from hpo.store.results import FailedRun, StudyResults
from hpo.verdict.findings import Verdict
from hpo.verdict.judgement import verdict_on
from tests.verdict.confirmed import confirming, held_out, study, trial

TRIALS = [trial(0, 0.80), trial(1, 0.85), trial(2, 0.90), trial(3, 0.88)]
CONFIRMED = confirming(0, [0.800, 0.802, 0.801]), confirming(2, [0.880, 0.882, 0.881]), confirming(3, [0.86])


def verdict(results: StudyResults) -> Verdict:
    found = verdict_on(results)
    assert found is not None
    return found


def test_a_confirmed_search_has_a_winner_and_differences_in_their_order() -> None:
    baselines = {"majority class": held_out(0.4), "TF-IDF and logistic regression": held_out(0.7)}

    found = verdict(study(TRIALS, *CONFIRMED, baselines=baselines))

    assert (found.winner, found.recommended, found.metric, found.rows) == (2, 2, "macro_f1", 400)
    assert [one.against for one in found.differences] == ["the default", "trial 3", *baselines]
    assert found.differences[0].difference == pytest.approx(0.8815 - 0.801), "the run that decided the race is left out"
    assert found.differences[0].decision == "better"
    assert [(one.name, one.score) for one in found.baselines] == [
        (name, held.scores.objective) for name, held in baselines.items()
    ]
    assert found.sentences[0].startswith("Trial 2 beats the default by 8.0 macro F1 points")


def test_what_was_confirmed_is_ranked_by_its_confirmed_score_beside_that_of_the_search() -> None:
    found = verdict(study(TRIALS, *CONFIRMED))

    assert [one.trial for one in found.confirmed] == [2, 3, 0]
    best, _, default = found.confirmed
    assert (best.score, best.search_score, best.scores) == (pytest.approx(0.8815), 0.90, (0.882, 0.881))
    assert best.left_out == 1
    assert default.is_default
    assert best.interval.low < best.score < best.interval.high


def test_seed_noise_is_pooled_over_what_has_several_seeds_that_decided_nothing() -> None:
    assert verdict(study(TRIALS, *CONFIRMED)).seed_noise == pytest.approx((2.5e-6 / 3) ** 0.5)


@pytest.mark.parametrize(
    "runs",
    [(), (confirming(0, [0.8, 0.81]),), (confirming(0, [0.8]), confirming(2, [0.9]))],
    ids=["nothing", "only the default", "no two seeds of anything"],
)
def test_there_is_none_where_too_little_was_confirmed(runs: tuple[list, ...]) -> None:  # type: ignore[type-arg]
    assert verdict_on(study(TRIALS, *runs)) is None


def test_without_the_default_it_says_so() -> None:
    found = verdict(study(TRIALS, *CONFIRMED[1:]))

    assert found.recommended == 2
    assert "the default was not confirmed" in found.sentences[0]


def test_the_winner_is_who_won_on_the_rows_of_the_search() -> None:
    """The other rows are for the verdict alone: chosen by them, they would flatter."""
    better_unseen = [
        replace(run, validation=replace(run.validation, values={"macro_f1": 0.7}))
        for run in confirming(3, [0.95, 0.95])
    ]

    assert verdict(study(TRIALS, CONFIRMED[0], CONFIRMED[1], better_unseen)).winner == 2


def test_a_trial_that_was_confirmed_counts_though_a_later_one_repeats_it() -> None:
    repeated = [*TRIALS, trial(9, 0.95, configuration=TRIALS[2].configuration)]

    assert verdict(study(repeated, *CONFIRMED)).winner == 2


def test_the_best_of_the_search_need_not_have_been_confirmed() -> None:
    assert verdict(study(TRIALS, *CONFIRMED)).best_of_search == 0.90
    assert verdict(study([*TRIALS, trial(9, 0.95)], *CONFIRMED)).best_of_search == 0.95
    repeated = [*TRIALS, trial(9, 0.99, configuration=TRIALS[0].configuration)]
    assert verdict(study(repeated, *CONFIRMED)).best_of_search == 0.90


@pytest.mark.parametrize(
    ("data", "has"),
    [({"test": None, "test_fraction": 0.0}, False), ({"test_fraction": 0.2}, True), ({"test": "test.csv"}, True)],
)
def test_a_study_without_a_test_split_is_told_so(data: dict[str, object], has: bool) -> None:
    found = verdict(study(TRIALS, *CONFIRMED, configuration={"data": data}))
    assert any("There is no test split" in sentence for sentence in found.sentences) is not has


def test_selection_bias_of_the_rows_is_taken_off_only_where_the_search_chose_by_them() -> None:
    uneven = [
        confirming(of, [score, score + 0.002], deviations=(0.01, sign * 0.01))
        for of, score, sign in ((0, 0.88, 1), (2, 0.885, -1), (3, 0.882, 1))
    ]
    equal = [trial(number, 0.88 + number / 1000) for number in range(20)]

    unseen, seen = (verdict(study(equal, *uneven, confirmed_on_unseen=unseen)) for unseen in (True, False))

    assert unseen.selection_bias == 0
    assert seen.selection_bias > 0
    assert unseen.differences[0].difference - seen.differences[0].difference == pytest.approx(seen.selection_bias)
    taken, was = (next(one for one in of.confirmed if one.trial == of.winner) for of in (seen, unseen))
    assert was.score - taken.score == pytest.approx(seen.selection_bias)
    assert was.interval.low - taken.interval.low == pytest.approx(seen.selection_bias)
    assert was.scores == taken.scores
    default = next(one for one in seen.confirmed if one.is_default)
    assert seen.differences[0].difference == pytest.approx(taken.score - default.score)


def test_pruned_trials_might_have_been_chosen_too_but_not_what_cannot_be_trained() -> None:
    runs = [
        confirming(of, [score, score + 0.002], deviations=(0.01, sign * 0.01))
        for of, score, sign in ((0, 0.88, 1), (2, 0.885, -1), (3, 0.882, 1))
    ]
    few = [trial(number, 0.88 + number / 1000) for number in range(6)]

    def bias(ending: Ending, score: float | None = 0.5) -> float:
        cut = [trial(number, score, state="PRUNED", ending=str(ending)) for number in range(6, 40)]
        return verdict(study([*few, *cut], *runs, confirmed_on_unseen=False)).selection_bias

    alone = verdict(study(few, *runs, confirmed_on_unseen=False)).selection_bias
    assert bias(Ending.PRUNED) > 1.3 * alone > 0
    assert bias(Ending.DIVERGED) == bias(Ending.INFEASIBLE) == bias(Ending.PRUNED, None) == alone


def test_the_same_study_is_judged_the_same_again() -> None:
    results = study(TRIALS, *CONFIRMED, confirmed_on_unseen=False)

    assert verdict_on(results) == verdict_on(results)


def test_trials_that_did_not_complete_stay_out() -> None:
    pruned = trial(5, 0.99, state="PRUNED", ending=str(Ending.PRUNED))

    assert verdict(study([*TRIALS, pruned], *CONFIRMED)).winner == 2


def failed(*of: int) -> tuple[FailedRun, ...]:
    return tuple(FailedRun(trial=50 + place, confirms=trial) for place, trial in enumerate(of))


def test_runs_without_a_score_are_said_and_not_passed_over() -> None:
    found = verdict(study(TRIALS, *CONFIRMED, failed_runs=failed(2, 1, 1)))

    assert found.failures == {1: 2, 2: 1}
    assert "failed or were pruned, which no score includes: 2 of 2 of trial 1; 1 of 4 of trial 2." in " ".join(
        found.sentences
    )
    assert not verdict(study(TRIALS, *CONFIRMED)).failures


def test_a_finalist_whose_first_run_failed_has_fallen_behind_whatever_a_later_one_scored() -> None:
    """It had gone ahead to its second seed: taken for its first, that would put out who won on more seeds."""
    trials = [*TRIALS, trial(4, 0.87)]
    runs = confirming(0, [0.8] * 5), confirming(1, [0.85, 0.80]), confirming(3, [0.84] * 5), confirming(4, [0.7])
    ahead = [replace(run, trial=run.trial + 100) for run in confirming(2, [0.95])]

    assert verdict(study(trials, *runs, ahead, failed_runs=failed(2))).winner == 3


def test_a_default_none_of_whose_runs_has_a_score_was_not_confirmed() -> None:
    found = verdict(study(TRIALS, *CONFIRMED[1:], failed_runs=failed(0, 0)))

    assert found.recommended == 2
    assert "the default was not confirmed" in found.sentences[0]


def test_where_all_runs_of_who_is_left_have_failed_another_may_win() -> None:
    found = verdict(study(TRIALS, CONFIRMED[0], confirming(3, [0.9]), failed_runs=failed(2, 3)))

    assert found.winner == 3


def test_an_interval_does_not_go_beyond_what_the_metric_can_be() -> None:
    found = verdict(study(TRIALS, confirming(0, [0.2, 1.0]), confirming(2, [0.9, 1.0])))

    assert {(one.interval.low, one.interval.high) for one in found.confirmed} == {(0.0, 1.0)}
    assert [(one.interval.low, one.interval.high) for one in found.differences] == [(-1.0, 1.0)]


def test_what_was_always_right_may_be_wrong_as_often_as_so_many_rows_would_not_show() -> None:
    """The known answer is Clopper and Pearson's, of no error in 400 rows."""
    flawless = [confirming(of, [1.0, 1.0], deviations=(0.0, 0.0), of_a_unit=1 / 400) for of in (0, 2)]

    found = verdict(study(TRIALS, *flawless))

    bound = 1 - float(binomtest(400, 400).proportion_ci(0.95, "exact").low)
    assert bound == pytest.approx(0.0092, abs=1e-4)
    for one in found.confirmed:
        assert (1 - one.interval.low, one.interval.high) == (pytest.approx(bound, rel=0.01), 1.0)
    [against_default] = found.differences
    assert (-against_default.interval.low, against_default.interval.high) == (pytest.approx(bound, rel=0.01),) * 2


def test_baselines_are_compared_with_the_winner_and_what_is_taken() -> None:
    """Here the default: it is taken as it is, so no selection bias is taken off."""
    like = [confirming(of, [0.88, 0.90]) for of in (0, 2)]

    found = verdict(study(TRIALS, *like, baselines={"majority class": held_out(0.4)}, confirmed_on_unseen=False))

    assert (found.winner, found.recommended) == (2, 0)
    winner, taken = (one for one in found.differences if one.against == "majority class")
    assert (winner.trial, taken.trial) == (2, 0)
    assert taken.difference == pytest.approx(0.49)
    assert winner.difference == pytest.approx(0.49 - found.selection_bias)


def test_a_default_that_the_search_did_not_train_to_its_end_has_no_score_in_the_search() -> None:
    """Its last score is from early in its training, so nothing is compared with it."""
    early = (trial(0, 0.27, state="PRUNED", ending="paused"), *TRIALS[1:])
    like = [confirming(of, [0.88, 0.90]) for of in (0, 2)]

    found = verdict(study(early, *like))

    assert (found.recommended, found.default and found.default.search_score) == (0, None)
    whole = " ".join(found.sentences)
    assert "Trial 0, which the search did not train to its end, scores 0.8900" in whole
    assert "0.27" not in whole
