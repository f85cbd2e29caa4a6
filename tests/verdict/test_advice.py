"""Advice on the next search: each sentence where there is something to say, and none where there is not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpo.messages import Ending
from hpo.store.results import StudyResults
from hpo.verdict.advice import advice
from tests.verdict.confirmed import confirming, numbered, study, trial

RANDOM = np.random.default_rng(0)
NUMBERS = (
    "dropout", "attention_dropout", "l1_strength", "l2_strength", "data_fraction", "label_smoothing", "warmup_ratio",
    "token_masking", "word_swap", "layerwise_rate_decay",
)  # fmt: skip
BY_CHANCE = ("at its lower end", "at its upper end", "rank correlation", "explains by itself")
SPREAD = [0.7 + 0.004 * ((place * 7) % 20) for place in range(20)]
"""Twenty scores in no order, the best at place 17."""


def range_of(low: float, high: float, distribution: str = "uniform", **rest: Any) -> dict[str, Any]:
    return {"distribution": distribution, "min": low, "max": high} | rest


def told(trials: list[Any], **rest: Any) -> str:
    return " ".join(advice(study(trials, **rest)))


def test_of_an_empty_study_and_of_one_trial_there_is_nothing_to_say() -> None:
    assert advice(study([])) == ()
    assert advice(study([trial(0, 0.8)])) == ()


def test_of_a_search_in_which_nothing_goes_with_anything_there_is_nothing_to_say() -> None:
    values = {"dropout": RANDOM.random(20).tolist()}

    assert told(numbered(values, SPREAD, train_score=[score + 0.03 for score in SPREAD])) == ""


def test_overfitting_is_told_with_what_narrows_the_gap() -> None:
    dropout = [place / 40 for place in range(20)]
    train = [score + 0.2 - value / 4 for score, value in zip(SPREAD, dropout, strict=True)]

    whole = told(numbered({"dropout": dropout, "l1_strength": [0.0] * 20}, SPREAD, train_score=train))

    assert "it overfits" in whole
    assert whole.startswith(
        "Trial 17 scores 0.8698 on training rows and 0.7760 on validation, 9.4 macro F1 points apart"
    )
    assert "Over 20 completed trials the gap is smaller with more dropout (-1.00), by rank correlation." in whole
    assert "l1_strength" not in whole


def test_overfitting_of_a_few_trials_is_told_without_correlations() -> None:
    few = numbered({"dropout": [0.1, 0.2, 0.3]}, [0.8, 0.81, 0.82], train_score=[0.95, 0.94, 0.93])

    assert told(few) == (
        "Trial 2 scores 0.9300 on training rows and 0.8200 on validation, 11.0 macro F1 points apart "
        "(median of the best quarter of trials: 11.0): it overfits."
    )


def test_a_gap_that_few_rows_bring_by_chance_is_no_overfitting() -> None:
    """Of 60 rows on either side the gap of shares of 0.75 and 0.85 has a standard deviation of 7.2 points."""
    for train, overfits in ((0.85, False), (0.93, True)):
        [one] = numbered({}, [0.75], train_score=[train])
        assert one.validation is not None
        few = replace(one, validation=replace(one.validation, rows=60))
        assert ("it overfits" in told([few])) is overfits
        many = replace(one, validation=replace(one.validation, rows=5000))
        assert ("it overfits" in told([many])) is True
        assert ("it overfits" in told([many], configuration={"evaluation": {"rung_rows": 30}})) is overfits


def test_underfitting_is_told_but_not_at_the_ceiling() -> None:
    low = numbered({}, [0.80, 0.81], train_score=[0.80, 0.812])
    high = numbered({}, [0.98, 0.97], train_score=[0.982, 0.975])

    assert "it underfits" in told(low)
    assert told(high) == ""


def test_a_gap_of_a_metric_that_is_no_share_is_not_judged() -> None:
    trials = numbered({}, [-0.8, -0.7], train_score=[-0.1, -0.1])

    assert advice(study(trials, metric="neg_log_loss")) == ()


def test_an_end_of_a_range_at_which_the_best_lie_is_named() -> None:
    space = {"l2_strength": range_of(1e-4, 0.1, "log_uniform_values", default=0.01)}
    best = sorted(range(20), key=lambda place: -SPREAD[place])[:4]
    values = [0.08 if place in best else 0.001 for place in range(20)]

    assert "4 of the best 5 trials have l2_strength at its upper end, 0.1, of 0.0001 … 0.1, log-uniform, and" in told(
        numbered({"l2_strength": values}, SPREAD), space=space
    )


def test_what_is_at_the_end_of_a_plain_range_may_be_in_the_middle_of_a_log_one() -> None:
    best = sorted(range(20), key=lambda place: -SPREAD[place])[:8]
    values = [0.001 + 0.00002 * place if place in best else 0.05 for place in range(20)]
    trials = numbered({"l2_strength": values}, SPREAD)

    plain = told(trials, space={"l2_strength": range_of(0.0005, 0.1, default=0.01)})
    log = told(trials, space={"l2_strength": range_of(1e-5, 0.1, "log_uniform_values", default=0.01)})

    assert "5 of the best 5 trials have l2_strength at its lower end, 0.0005" in plain
    assert "end" not in log


def searched_at_random(random: np.random.Generator) -> StudyResults:
    """Return a search over ten ranges in which nothing matters: scores and gaps are noise."""
    space = {name: range_of(0.05, 0.45, default=0.1) for name in NUMBERS}
    values = {name: random.uniform(0.05, 0.45, 40).tolist() for name in NUMBERS}
    scored = (0.8 + 0.01 * random.standard_normal(40)).tolist()
    train = [score + 0.06 + 0.01 * noise for score, noise in zip(scored, random.standard_normal(40), strict=True)]
    return study(numbered(values, scored, train_score=train), space=space)


def test_chance_alone_brings_advice_in_at_most_one_search_of_twenty() -> None:
    """Whether of ends, of what the score or the gap goes with, or of data: all taken together."""
    brought = []
    for seed in range(60):
        said = advice(searched_at_random(np.random.default_rng(seed)))
        brought.append(any(words in sentence for sentence in said for words in BY_CHANCE))

    assert np.mean(brought) <= 0.05


def test_a_sampler_that_proposes_more_of_what_scored_high_by_chance_brings_no_advice_on_ends() -> None:
    """It crowds at an end, so the best are found there too, and so are the worst."""
    random = np.random.default_rng(0)
    brought = []
    for _ in range(100):
        values = [*random.uniform(0.05, 0.45, 10), *np.where(random.random(30) < 0.8, 0.44, 0.2)]
        trials = numbered({"dropout": [float(value) for value in values]}, random.normal(0.8, 0.01, 40).tolist())
        brought.append("upper end" in told(trials, space={"dropout": range_of(0.05, 0.45, default=0.1)}))

    assert np.mean(brought) <= 0.05


def test_trials_at_an_end_are_compared_with_those_that_were_pruned_elsewhere() -> None:
    at_end = numbered({"l2_strength": [0.08] * 14}, SPREAD[:14])
    elsewhere = [
        trial(14 + place, 0.5, state="PRUNED", ending="pruned", rung=200, parameters={"l2_strength": 0.001})
        for place in range(14)
    ]
    space = {"l2_strength": range_of(1e-4, 0.1, "log_uniform_values", default=0.01)}

    assert "5 of the best 5 trials have l2_strength at its upper end" in told([*at_end, *elsewhere], space=space)
    assert "end" not in told(at_end, space=space)


def test_the_natural_end_of_a_range_is_not_named() -> None:
    values = [0.0001 * place for place in range(20)]

    assert "end" not in told(numbered({"dropout": values}, SPREAD), space={"dropout": range_of(0, 0.5, default=0.1)})


def test_whole_numbers_are_at_an_end_where_those_there_rank_higher_than_the_others() -> None:
    space = {"epochs": {"min": 2, "max": 4, "default": 3}}
    best = sorted(range(20), key=lambda place: -SPREAD[place])[:5]
    all_at_end = [4 if place in best else 3 for place in range(20)]
    three_of_five = [4 if place in best[:3] or (place not in best and place % 2) else 3 for place in range(20)]

    assert "5 of the best 5 trials have epochs at its upper end, 4" in told(
        numbered({"epochs": all_at_end}, SPREAD), space=space
    )
    assert "end" not in told(numbered({"epochs": three_of_five}, SPREAD), space=space)


def test_the_last_third_is_compared_with_the_noise_of_seeds() -> None:
    rising = [trial(number, 0.5 + number / 100) for number in range(18)]
    level = [trial(number, 0.5 + min(number, 10) / 100) for number in range(18)]
    runs = confirming(0, [0.5, 0.51]), confirming(17, [0.67, 0.68])

    assert "The last third of 18 trials gained 6.0 macro F1 points, where seeds alone move a score by 0.7" in " ".join(
        advice(study(rising, *runs))
    )
    assert "gained 0.0 macro F1 points" in " ".join(advice(study(level, *runs)))
    assert "hardly find better ones" in " ".join(advice(study(level, *runs)))


def test_without_a_confirmation_two_seeds_of_the_default_tell_the_noise() -> None:
    default = trial(0, 0.50)
    again = trial(1, 0.53, configuration=default.configuration)
    others = [trial(number, 0.55) for number in range(2, 18)]

    assert "where two seeds of the default differ by 3.0 macro F1 points" in told([default, again, *others])
    assert "last third" not in told([default, *others])


def test_what_the_score_goes_with_is_named_with_a_caution_where_trials_are_few() -> None:
    names = ["adamw" if score > 0.74 else "sgd" for score in SPREAD]
    values = {"optimizer": names, "dropout": RANDOM.random(20).tolist()}

    whole = told(numbered(values, SPREAD))

    assert "ranks of 20 trials that each hyperparameter explains by itself: optimizer (" in whole
    assert "dropout" not in whole
    assert "with so few trials this is rough" in whole


def test_trials_paused_at_shares_of_their_own_length_are_compared_with_completed_ones() -> None:
    """Five complete, which score lower than those that were pruned early: who came further ranks higher."""
    values = {"optimizer": ["adamw"] * 5 + ["sgd"] * 15, "epochs": [2, 6] * 10}
    ended = [
        replace(one, state="PRUNED", ending=Ending.PAUSED, rung=62 * one.configuration["epochs"] // 6)
        if one.number > 4 else one
        for one in numbered(values, [0.4, 0.5, 0.45, 0.55, 0.6, *SPREAD[5:]])
    ]  # fmt: skip
    assert told(ended) == ""
    promoted = [replace(one, rungs=(62 * one.configuration["epochs"] // 6,)) for one in ended]
    assert "ranks of 20 trials that each hyperparameter explains by itself: optimizer (" in told(promoted)
    assert "epochs" not in told(promoted)


def test_a_best_value_in_the_middle_is_found_as_well() -> None:
    rates = np.linspace(0, 1, 60)
    trials = numbered({"dropout": rates.tolist()}, (0.8 - (rates - 0.5) ** 2).tolist())

    whole = told(trials)

    assert "explains by itself: dropout (" in whole
    assert "rough" not in whole


def test_more_data_is_advised_where_scores_rise_with_it() -> None:
    shares = [0.5 + score / 10 for score in SPREAD]
    against = [0.9 - score / 10 for score in SPREAD]

    assert "scores rise with data_fraction (rank correlation +1.00)" in told(
        numbered({"data_fraction": shares}, SPREAD)
    )
    assert "rise with data_fraction" not in told(numbered({"data_fraction": against}, SPREAD))


@pytest.mark.parametrize("value", [None, "auto"])
def test_values_that_are_no_numbers_go_with_nothing(value: object) -> None:
    trials = numbered({"dropout": [value] * 20}, SPREAD, train_score=[score + 0.1 for score in SPREAD])

    assert "by rank correlation" not in told(trials)
