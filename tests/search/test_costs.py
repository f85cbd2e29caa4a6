"""What a trial will take: by hand, as laws, and better than a quantile on a spread as searches have it."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Probe
from hpo.search.costs import MOST_ALIKE, Costs, Seen, expected_seconds

FULL = Hyperparameters(method="full", batch_size=16)
HEAD = Hyperparameters(method="head", batch_size=16)


def seen(hyperparameters: Hyperparameters, seconds: float, rung: int = 1000) -> Seen:
    """Return that a trial came to `rung` in so many seconds."""
    return Seen(hyperparameters=hyperparameters, rung=rung, seconds=seconds)


# -- by hand


def test_nothing_is_known_of_nothing() -> None:
    assert Costs([]).seconds(FULL, 1000) is None


def test_a_trial_takes_in_proportion_to_its_length() -> None:
    """Ten minutes to a quarter of the longest trial are forty to its end, and twenty to the end of one half as long."""
    costs = Costs([seen(FULL, 600, rung=250)])
    assert costs.seconds(FULL, 1000) == 2400
    assert costs.seconds(FULL, 500) == 1200


def test_of_trials_that_are_alike_the_dearest_of_the_last_four_tells() -> None:
    assert Costs([seen(FULL, seconds) for seconds in (900, 130, 100, 120, 110)]).seconds(FULL, 1000) == 130


@pytest.mark.parametrize(
    ("others", "seconds"),
    [
        ([(HEAD, 10), (Hyperparameters(max_length=256), 900), (FULL, 300)], 300),
        ([(HEAD, 10), (Hyperparameters(max_length=256), 900)], 900),
        ([(HEAD, 10), (Hyperparameters(method="top_layers"), 90)], 90),
    ],
)
def test_the_same_size_tells_before_the_same_method_and_that_before_all(
    others: list[tuple[Hyperparameters, float]], seconds: float
) -> None:
    assert Costs([seen(values, took) for values, took in others]).seconds(FULL, 1000) == seconds


def of_batch(batch_size: int) -> Hyperparameters:
    return Hyperparameters(batch_size=batch_size)


def of_layers(kept_layers: int | None) -> Hyperparameters:
    return Hyperparameters(kept_layers=kept_layers)


@pytest.mark.parametrize(
    ("alike", "unlike", "asked"),
    [
        (of_batch(8), of_batch(64), of_batch(16)),
        (of_layers(4), of_layers(12), of_layers(5)),
        (of_layers(None), of_layers(4), of_layers(None)),
        (
            Hyperparameters(method="top_layers", trained_layers=2),
            Hyperparameters(method="top_layers", trained_layers=8),
            Hyperparameters(method="top_layers", trained_layers=3),
        ),
        (Hyperparameters(optimizer="lion"), Hyperparameters(optimizer="muon"), Hyperparameters(optimizer="lion")),
        (Hyperparameters(data_fraction=0.25), Hyperparameters(), Hyperparameters(data_fraction=0.3)),
    ],
)
def test_within_a_size_those_tell_that_are_most_alike(
    alike: Hyperparameters, unlike: Hyperparameters, asked: Hyperparameters
) -> None:
    rates = [seen(alike, 100) for _ in range(MOST_ALIKE)]
    assert Costs([*rates, *[seen(unlike, 900)] * 9]).seconds(asked, 1000) == 100
    assert Costs([*[seen(alike, 100)] * (MOST_ALIKE - 1), seen(unlike, 900)]).seconds(asked, 1000) == 900


def test_a_probe_speaks_for_a_size_until_a_trial_of_it_was_seen() -> None:
    """A first trial that is cheap, of the head alone, must not make a full one look as cheap."""
    probed = [seen(FULL, 800), seen(HEAD, 20)]
    assert Costs([], probed).seconds(FULL, 1000) == 800
    assert Costs([], probed).seconds(Hyperparameters(method="top_layers"), 1000) == 800
    assert Costs([seen(HEAD, 30)], probed).seconds(FULL, 1000) == 800
    assert Costs([seen(HEAD, 10)], probed).seconds(HEAD, 1000) == 10
    assert Costs([seen(FULL, 500)], probed).seconds(FULL, 1000) == 500


def test_a_probe_that_said_too_much_of_a_trial_is_taken_to_say_too_much_of_the_others() -> None:
    """The machine was busy: a trial of the head took half of what was told, so a full one takes half of it too."""
    probed = [seen(FULL, 800), seen(HEAD, 20)]
    assert Costs([seen(HEAD, 10)], probed).seconds(FULL, 1000) == 400
    assert Costs([seen(HEAD, 10), seen(HEAD, 15)], probed).seconds(FULL, 1000) == 600


def test_a_probe_says_what_steps_and_evaluations_take() -> None:
    probe = Probe(
        feasible=True,
        rows_at_once=None,
        seconds_per_step=0.5,
        rows_per_step=16,
        seconds_per_scored_row=0.01,
        peak_memory_bytes=0,
        checkpoint_bytes=0,
        weights_bytes=0,
        first_loss=0.7,
    )
    assert expected_seconds(probe, steps=100, scored_rows=300) == 53.0


# -- laws

configurations = st.builds(
    Hyperparameters,
    method=st.sampled_from(["full", "top_layers", "head"]),
    batch_size=st.sampled_from([4, 8, 16, 64]),
    epochs=st.integers(1, 6),
    max_length=st.sampled_from([64, 128]),
    kept_layers=st.none() | st.integers(2, 12),
    optimizer=st.sampled_from(["adamw", "sgd", "lion"]),
    data_fraction=st.sampled_from([0.25, 1.0]),
)
sightings = st.builds(seen, configurations, st.floats(0.1, 1e5), st.integers(1, 1000))
many = st.lists(sightings, max_size=8)
few = st.lists(sightings, max_size=2)


@settings(deadline=None)
@given(many, few, configurations, st.integers(1, 1000), st.sampled_from([0.5, 2.0, 1024.0]))
def test_devices_that_are_so_many_times_slower_take_so_many_times_as_long(
    trials: list[Seen], probed: list[Seen], asked: Hyperparameters, last_rung: int, times: float
) -> None:
    before = Costs(trials, probed).seconds(asked, last_rung)
    slower = [[replace(one, seconds=times * one.seconds) for one in ones] for ones in (trials, probed)]
    assert Costs(*slower).seconds(asked, last_rung) == (None if before is None else times * before)


@settings(deadline=None)
@given(many, few, configurations, st.integers(1, 1000), sightings)
def test_a_dearer_trial_never_lowers_what_is_expected(
    trials: list[Seen], probed: list[Seen], asked: Hyperparameters, last_rung: int, another: Seen
) -> None:
    """Unless it was faster than the probe said of it: then the probe said too much of others too."""
    said = Costs((), probed).seconds(another.hyperparameters, another.rung)
    assume(said is None or another.seconds > said * (1 + 1e-9))
    before = Costs(trials, probed).seconds(asked, last_rung)
    if before is not None and another.rate * last_rung >= before:
        after = Costs([*trials, another], probed).seconds(asked, last_rung)
        assert after is not None
        assert after >= before


@settings(deadline=None)
@given(many, few, configurations, st.integers(1, 1000), st.data())
def test_had_a_trial_taken_longer_no_less_were_expected(
    trials: list[Seen], probed: list[Seen], asked: Hyperparameters, last_rung: int, data: st.DataObject
) -> None:
    dearer = [replace(one, seconds=one.seconds * data.draw(st.floats(1, 9))) for one in trials]
    before, after = (Costs(ones, probed).seconds(asked, last_rung) for ones in (trials, dearer))
    assert (before is None) == (after is None)
    assert before is None or after is None or after >= before


@settings(deadline=None)
@given(many, few, configurations, st.lists(st.integers(1, 1000), min_size=2).map(sorted))
def test_a_longer_trial_takes_longer(
    trials: list[Seen], probed: list[Seen], asked: Hyperparameters, rungs: list[int]
) -> None:
    taken = [Costs(trials, probed).seconds(asked, rung) for rung in rungs]
    assert all(one is None or other is None or one <= other for one, other in pairwise(taken))


@settings(deadline=None)
@given(many, few, configurations)
def test_what_is_expected_of_something_was_seen_or_probed_less_by_what_the_probe_said_too_much(
    trials: list[Seen], probed: list[Seen], asked: Hyperparameters
) -> None:
    expected = Costs(trials, probed).seconds(asked, 1000)
    rates = [1000 * one.rate for one in (*trials, *probed)]
    if not trials or not probed:
        assert expected in rates if rates else expected is None
    else:
        assert expected is not None
        assert min(rates) / max(rates) * min(rates) * 0.999 <= expected <= max(rates)


# -- on a spread as searches have it

WORK = {"adamw": 1.0, "sgd": 0.0, "muon": 4.0}


def took(values: Hyperparameters, overhead: float) -> float:
    """Return the seconds of a whole trial: steps of fixed overhead and work by rows and layers, and evaluations.

    2,000 training and 500 validation texts, scored in full three times; a row through twelve layers takes a
    millisecond forwards and two backwards.
    """
    depth = (values.kept_layers or 12) / 12
    step = depth * (overhead + 3 * values.batch_size) + WORK[values.optimizer]
    steps = 2000 * values.epochs * values.data_fraction / values.batch_size
    return (steps * step + 3 * 500 * depth) / 1000


def night(chance: random.Random, overhead: float) -> list[tuple[Seen, float]]:
    """Return forty trials, half of them given up on the way, each with the seconds that all of it takes."""
    trials = []
    for _ in range(40):
        values = Hyperparameters(
            batch_size=chance.choice([8, 16, 32, 64]),
            kept_layers=chance.choice([4, 6, None]),
            epochs=chance.randint(2, 6),
            data_fraction=chance.choice([0.25, 0.5, 1.0]),
            optimizer=chance.choice(["adamw", "sgd", "muon"]),
        )
        part = chance.choice([1.0, 1.0, 1.0, 0.5, 0.35, 0.2])
        whole = took(values, overhead) * math.exp(chance.gauss(0, 0.07))
        rung = round(part * last_rung(values))
        trials.append((seen(values, part * whole, rung), whole))
    return trials


def last_rung(values: Hyperparameters) -> int:
    return round(1000 * values.epochs * values.data_fraction / 6)


def quantile_of_all(trials: Sequence[Seen], values: Hyperparameters) -> float:
    """Return what the plain way expects: the 0.8 quantile over the whole size."""
    rates = sorted(one.rate for one in trials)
    return rates[math.ceil(0.8 * len(rates)) - 1] * last_rung(values)


def loss(expected: float, whole: float) -> float:
    """Return the loss that the 0.8 quantile minimises (Koenker and Bassett 1978), of the logarithm of the time."""
    error = math.log(whole / expected)
    return max(0.8 * error, -0.2 * error)


@pytest.mark.parametrize("overhead", [1.0, 40.0], ids=["busy cores", "a gpu that waits for its host"])
def test_the_most_alike_tell_better_than_a_quantile_and_are_right_four_times_in_five(overhead: float) -> None:
    chance = random.Random(0)
    ours, plain, in_time = [], [], []
    for trials in (night(chance, overhead) for _ in range(25)):
        for number in range(4, 40):
            before, (asked, whole) = [one for one, _ in trials[:number]], trials[number]
            expected = Costs(before).seconds(asked.hyperparameters, last_rung(asked.hyperparameters))
            assert expected is not None
            ours.append(loss(expected, whole))
            plain.append(loss(quantile_of_all(before, asked.hyperparameters), whole))
            in_time.append(whole <= expected)
    assert sum(ours) < 0.7 * sum(plain)
    assert 0.72 < sum(in_time) / len(in_time) < 0.88
