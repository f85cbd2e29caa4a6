"""Sentences of a verdict: a sentence for every way it can come out, each with its figure."""

from dataclasses import replace
from typing import Any

import pytest

from hpo.verdict.findings import BaselineScore, Confirmed, Difference, Interval, Verdict
from hpo.verdict.wording import amount, sentences

DEFAULT, WINNER, OTHER = 0, 7, 4


def confirmed(
    trial: int, score: float, *, seeds: int = 3, seconds: float = 100.0, search_score: float = 0.92
) -> Confirmed:
    return Confirmed(
        trial=trial, is_default=trial == DEFAULT, scores=(score,) * seeds, score=score,
        interval=Interval(low=score - 0.01, high=score + 0.01), search_score=search_score, seconds=seconds,
    )  # fmt: skip


def apart(against: str, other: int | None, low: float, high: float, trial: int = WINNER) -> Difference:
    middle, interval = (low + high) / 2, Interval(low=low, high=high)
    return Difference(trial=trial, against=against, against_trial=other, difference=middle, interval=interval)


AHEAD = apart("the default", DEFAULT, 0.01, 0.03)
UNSURE = apart("the default", DEFAULT, -0.01, 0.03)
BEHIND = apart("the default", DEFAULT, -0.03, -0.01)


def verdict(*differences: Difference, **rest: Any) -> Verdict:
    fields: dict[str, Any] = {
        "metric": "macro_f1", "rows": 2000, "unseen": True, "selection_bias": 0.0, "seed_noise": 0.006,
        "confirmed": (confirmed(WINNER, 0.90), confirmed(DEFAULT, 0.88)), "baselines": (), "differences": differences,
        "best_of_search": 0.92, "winner": WINNER, "recommended": WINNER, "sentences": (),
    }  # fmt: skip
    return Verdict(**fields | rest)


def said(*differences: Difference, **rest: Any) -> str:
    return " ".join(sentences(verdict(*differences, **rest)))


def test_a_winner_beats_the_default_by_so_much() -> None:
    assert sentences(verdict(AHEAD))[0] == "Trial 7 beats the default by 2.0 macro F1 points [1.0, 3.0]."


def test_the_default_beats_the_winner_by_so_much() -> None:
    first = sentences(verdict(BEHIND, recommended=DEFAULT))[0]

    name = "trial 7, the best of the search except the default,"
    assert first == f"The default beats {name} by 2.0 macro F1 points [1.0, 3.0]."


def test_a_winner_that_is_taken_though_not_beyond_doubt_is_likely_better() -> None:
    assert "Trial 7 is likely better than the default, by 1.0 macro F1 points [-1.0, 3.0]" in said(UNSURE)


def test_a_winner_that_is_not_taken_is_not_distinguishable_from_the_default() -> None:
    whole = said(UNSURE, recommended=DEFAULT)

    assert "Trial 7, the best of the search except the default, is not distinguishable from the default" in whole
    assert "Take the default, trial 0." in whole


@pytest.mark.parametrize(
    ("default", "best", "name"),
    [
        (0.92, 0.94, "the best of the search"),
        (0.95, 0.94, "the best of the search except the default"),
        (0.92, 0.97, "the best finalist on fresh seeds"),
    ],
)
def test_a_winner_is_called_what_it_was_in_the_search(default: float, best: float, name: str) -> None:
    both = (confirmed(WINNER, 0.9, search_score=0.94), confirmed(DEFAULT, 0.9, search_score=default))
    first = sentences(verdict(BEHIND, confirmed=both, recommended=DEFAULT, best_of_search=best))[0]
    assert first.startswith(f"The default beats trial 7, {name}, by")


def test_without_a_default_nothing_is_said_against_it() -> None:
    whole = said(confirmed=(confirmed(WINNER, 0.90),))

    assert "Trial 7 won; the default was not confirmed" in whole
    assert "Take trial 7." in whole


def test_those_that_are_not_distinguishable_from_what_is_taken_are_named() -> None:
    three = (confirmed(WINNER, 0.9), confirmed(OTHER, 0.89), confirmed(5, 0.89), confirmed(DEFAULT, 0.88))
    rest = [apart(f"trial {trial}", trial, -0.01, 0.02) for trial in (OTHER, 5)]

    assert "Take trial 7, though it is not distinguishable from trial 4 and trial 5." in said(
        AHEAD, *rest, confirmed=three
    )


def test_a_faster_one_is_taken_for_the_share_of_the_time() -> None:
    three = (confirmed(WINNER, 0.9), confirmed(OTHER, 0.89, seconds=25.0), confirmed(DEFAULT, 0.88))
    rest = apart("trial 4", OTHER, -0.01, 0.02)

    whole = said(AHEAD, rest, confirmed=three, recommended=OTHER)

    assert "Trial 7 is not distinguishable from trial 4, which trains in 25% of the time: take trial 4." in whole
    assert "Trained again on 3 fresh seeds trial 4 scores" in whole


@pytest.mark.parametrize(
    ("search_score", "held"), [(0.92, "2.0 macro F1 points less"), (0.89, "1.0 macro F1 points more")]
)
def test_the_confirmed_score_is_compared_with_that_of_the_search(search_score: float, held: str) -> None:
    both = (confirmed(WINNER, 0.90, search_score=search_score), confirmed(DEFAULT, 0.88))

    assert f"scores 0.9000 [0.8900, 0.9100], {held} than its {search_score:.4f} in the search" in said(
        AHEAD, confirmed=both
    )


def test_the_best_baseline_says_whether_it_was_worth_it() -> None:
    baselines = tuple(
        BaselineScore(name=name, score=score, interval=Interval(low=score - 0.01, high=score + 0.01))
        for name, score in (("majority class", 0.4), ("TF-IDF and logistic regression", 0.85))
    )
    beaten = apart("TF-IDF and logistic regression", None, 0.04, 0.06)
    unbeaten = apart("TF-IDF and logistic regression", None, -0.01, 0.06)

    assert "worth it: trial 7 beats TF-IDF and logistic regression by 5.0 macro F1" in said(
        AHEAD, beaten, baselines=baselines
    )
    whole = said(AHEAD, unbeaten, baselines=baselines)
    assert (
        "may not have been worth it: trial 7 cannot be shown to beat TF-IDF and logistic regression (0.8500)" in whole
    )


def test_where_the_default_is_taken_it_is_compared_with_baselines() -> None:
    baselines = (BaselineScore(name="majority class", score=0.86, interval=Interval(low=0.84, high=0.88)),)
    both = (apart("majority class", None, 0.01, 0.03), apart("majority class", None, -0.01, 0.03, trial=DEFAULT))

    whole = said(UNSURE, *both, baselines=baselines, recommended=DEFAULT)

    assert "the default cannot be shown to beat majority class (0.8600); the difference is 1.0" in whole


def test_it_says_which_rows_it_is_about() -> None:
    assert "on 2,000 validation rows that the search never saw" in said(AHEAD)
    whole = said(AHEAD, unseen=False, rows=400, selection_bias=0.004)
    assert "on the 400 rows that the search chose by" in whole
    assert (
        "By simulation 0.4 macro F1 points of the winner's mean are selection bias, and were subtracted from" in whole
    )
    assert "The winner has no runs but those that decided the race; by simulation 0.4 macro" in said(
        AHEAD, selection_bias=0.004
    )
    none = said(AHEAD, unseen=False, rows=400, selection_bias=0.0004)
    assert "rows that the search chose by; by simulation their selection bias is negligible." in none


def test_on_rows_that_chose_the_epochs_it_says_that_the_default_was_chosen_too() -> None:
    """But where folds are scored at their end, and where the rows are others."""
    told = "Each run, the default's too, is scored at its best epoch on these rows"

    assert told in said(AHEAD, unseen=False)
    assert told not in said(AHEAD, unseen=False, best_epochs=False)
    assert told not in said(AHEAD)


def test_it_says_where_the_test_split_was_first_read_for_another_trial_than_the_one_to_take() -> None:
    told = "The test split was first read for trial 5, not for trial 7"

    assert told in said(AHEAD, tested=(5,))
    assert told in said(AHEAD, tested=(5, 7))
    assert "first read" not in said(AHEAD, tested=(7, 5))


def test_classes_of_few_rows_are_warned_of_where_the_metric_counts_them() -> None:
    rows = {"rare": 9, "enough": 10, "many": 300, "absent": 0}
    told = "Classes with fewer than 10 of the scored rows: 'rare' (9). A single row changes"

    assert told in said(AHEAD, class_rows=rows)
    assert told not in said(AHEAD, class_rows={"enough": 10})
    assert told not in said(AHEAD, class_rows=rows, metric="accuracy")


def test_runs_that_decided_the_race_are_said_to_be_left_out() -> None:
    told = said(AHEAD, confirmed=(replace(confirmed(WINNER, 0.90), left_out=1), confirmed(DEFAULT, 0.88)))

    assert "; the run that decided between the finalists is left out." in told


def test_without_a_test_split_it_says_what_cannot_be_said() -> None:
    assert "test split" not in said(AHEAD)
    whole = said(AHEAD, has_test_split=False)
    assert "so the recommended trial has no score on examples that played no part in choosing it" in whole


def test_a_verdict_that_may_change_yet_says_so() -> None:
    assert "not finished" not in said(AHEAD)
    assert "1 run of the confirmation has started but not finished." in said(AHEAD, unfinished=1)
    assert "2 runs of the confirmation have started but not finished." in said(AHEAD, unfinished=2)


def test_few_seeds_come_with_what_would_say_more() -> None:
    one = (confirmed(WINNER, 0.90, seeds=1), confirmed(DEFAULT, 0.88, seeds=2))

    assert said(AHEAD).endswith("Seeds alone move a score by 0.6 macro F1 points (standard deviation).")
    assert "with only 1 seed of trial 7 this is rough: hpo confirm" in said(AHEAD, confirmed=one)
    both = (confirmed(WINNER, 0.90, seeds=2), confirmed(DEFAULT, 0.88, seeds=2))
    assert "with only 2 seeds of each this is rough: hpo confirm" in said(AHEAD, confirmed=both)
    assert "on 1 fresh seed trial 7" in said(AHEAD, confirmed=one)


def test_too_few_seeds_leave_it_undecided_and_the_first_sentence_says_what_to_do() -> None:
    both = (confirmed(WINNER, 0.90, seeds=2), confirmed(DEFAULT, 0.88, seeds=2))
    first, second, *others = sentences(verdict(UNSURE, confirmed=both, recommended=DEFAULT))

    assert first == "Undecided: 2 seeds of each are too few; hpo confirm confirmation.runs=12 trains more."
    assert second == (
        "Until then, take the default, trial 0: trial 7, the best of the search except the default, is not "
        "distinguishable from it, with a difference of 1.0 macro F1 points [-1.0, 3.0]."
    )
    assert "hpo confirm" not in " ".join(others)
    for seeds, said_of in ((1, "1 seed of trial 7 is too few"), (3, "Trial 7, the best of the search")):
        one = (confirmed(WINNER, 0.90, seeds=seeds), confirmed(DEFAULT, 0.88, seeds=3))
        assert said_of in sentences(verdict(UNSURE, confirmed=one, recommended=DEFAULT))[0]
    assert "Undecided" not in said(UNSURE, confirmed=both)
    assert "Undecided" not in said(BEHIND, confirmed=both, recommended=DEFAULT)


def test_of_a_metric_that_is_no_share_the_unit_is_its_own() -> None:
    assert "by 0.0200 of neg log loss [0.0100, 0.0300]" in said(AHEAD, metric="neg_log_loss")
    assert "by 0.0200 of my cost [0.0100, 0.0300]" in said(AHEAD, metric="my_cost")
    assert amount("accuracy", 0.0123) == "1.2 accuracy points"


def test_what_was_said_before_does_not_matter() -> None:
    once = verdict(AHEAD)

    assert sentences(replace(once, sentences=("Something else.",))) == sentences(once)
