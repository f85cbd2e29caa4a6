"""Forecasts of a trial's duration: computed by hand, and properties of all of them."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Ending, Outcome, Probe, Progress, Timed
from hpo.search.forecasts import HIGH, CostModel, Forecasts, Observation, fitted_costs
from hpo.search.trial_sizes import Workload
from tests.search.workloads import CONFIG, DEFAULT, DIMENSIONS, LENGTHS, OPENING, SPACE, WORKLOAD, probe_of, report_of


def progress_of(trial: int, share: float, seconds: float) -> Progress:
    return Progress(
        trial=trial, attempt=1, examples_seen=round(10_000 * share), examples_total=10_000, examples_per_second=1.0,
        learning_rate=1e-4, train_loss=0.5, seconds=seconds,
    )  # fmt: skip


# -- by hand


def test_nothing_is_known_of_nothing() -> None:
    assert CostModel(workload=WORKLOAD).trial_seconds(DEFAULT) is None
    assert fitted_costs(WORKLOAD, {}).trial_seconds(DEFAULT) is None
    forecasts = Forecasts(CONFIG, SPACE)
    forecasts.begun(0, 1, DEFAULT)
    assert forecasts.seconds_to_rungs(0) == {}
    assert (forecasts.seconds_left(0, DEFAULT), forecasts.seconds_of_attempt(0)) == (0.0, 0.0)


def test_steps_tell_what_a_token_and_an_update_take() -> None:
    """Two steps of other lengths and an evaluation, without noise: a trial takes what it counts."""
    timed = [Timed(trained_tokens=tokens, updates=1, seconds=0.02 + 1e-3 * tokens) for tokens in (300, 900)]
    costs = fitted_costs(WORKLOAD, {DEFAULT: probe_of(*timed, Timed(scored_tokens=4000, seconds=2.0), OPENING)})
    work = WORKLOAD.of(DEFAULT)
    update = work.total[1] / work.steps  # Of AdamW.
    by_hand = work.total @ np.array([1e-3, 0.02 / update, 5e-4, 0.5])
    assert costs.trial_seconds(DEFAULT) == pytest.approx(by_hand, rel=0.03)


def told_after(seconds: Callable[[float], float], *shares: float) -> float:
    """Return what is told of the rest of a first trial that says its seconds at these shares, of 1,000 in all."""
    forecasts = first_trial()
    for share in shares:
        forecasts.progressed(progress_of(0, share, seconds(share)))
    return max(forecasts.seconds_to_rungs(0).values())


def first_trial() -> Forecasts:
    """Return forecasts of a first trial that has begun, and that is thought to take 1,000 seconds."""
    forecasts = Forecasts(CONFIG, SPACE)
    forecasts.expect(sure_of(1000.0))
    forecasts.begun(0, 1, DEFAULT)
    return forecasts


def sure_of(seconds: float) -> CostModel:
    """Return costs by which the default takes so long, without evaluations and opening."""
    work = WORKLOAD.of(DEFAULT)
    step = Timed(trained_tokens=work.total[0] / work.steps, updates=1, seconds=seconds / work.steps)
    return fitted_costs(WORKLOAD, {DEFAULT: probe_of(step)})


KEEPING = replace(WORKLOAD, dimensions=replace(DIMENSIONS, keeps_states=True))
HEAD = Hyperparameters(method="head")
MASKING = Hyperparameters(method="head", token_masking=0.1)


def test_frozen_layers_that_are_computed_once_cost_a_fiftieth_of_a_pass() -> None:
    full, lora = Hyperparameters(), Hyperparameters(method="lora")
    top = Hyperparameters(method="top_layers", trained_layers=2)
    assert KEEPING.counts_for(full) == pytest.approx(WORKLOAD.counts_for(full))
    assert KEEPING.counts_for(lora) == pytest.approx(WORKLOAD.counts_for(lora))
    # Of six layers: trained on, a pass and two for gradients; scored, a pass.
    assert KEEPING.counts_for(HEAD)[[0, 2]] == pytest.approx([0.02 / 3, 0.02])
    assert KEEPING.counts_for(top)[[0, 2]] == pytest.approx([(2 + 0.02 * 4 + 4) / 18, (2 + 0.02 * 4) / 6])
    # Masked tokens are other ones each time; validation is as it is.
    assert KEEPING.counts_for(MASKING)[[0, 2]] == pytest.approx([1 / 3, 0.02])
    assert KEEPING.of(MASKING).total[0] > 10 * KEEPING.of(HEAD).total[0]


def test_the_first_trial_that_computes_them_is_told_to_take_longer() -> None:
    """A scored token takes a millisecond, and nothing else takes time: it is by how much the first takes longer."""
    step = Timed(trained_tokens=1000, updates=1, seconds=1e-3)
    costs = fitted_costs(KEEPING, {HEAD: probe_of(step, Timed(scored_tokens=1000 / 0.02, seconds=1.0))})
    forecasts = Forecasts(CONFIG, SPACE)
    forecasts.expect(costs)
    texts = (DIMENSIONS.train_rows + DIMENSIONS.validation_rows) * np.mean(LENGTHS) * 1e-3
    first, later = forecasts.seconds(HEAD), costs.trial_seconds(HEAD, above=HIGH)
    assert first
    assert later
    assert first / later == pytest.approx(1 + texts / (KEEPING.of(HEAD).total @ costs.unit_seconds), rel=0.05)
    forecasts.begun(0, 1, HEAD)
    assert forecasts.seconds_left(0, HEAD) == pytest.approx(first, rel=0.05)
    forecasts.progressed(progress_of(0, 0.25, 0.25 * later + first - later))
    assert forecasts.seconds(HEAD) == pytest.approx(later, rel=0.2)
    assert forecasts.seconds_left(0, HEAD) < later


def test_its_own_pace_corrects_a_trial() -> None:
    """It takes half as long as a probe said, or ten times as long: after a tenth of it that is known."""
    whole = told_after(lambda share: 1000 * share)
    assert told_after(lambda share: 500 * share, 0.1) == pytest.approx(whole * 0.9 / 2, rel=0.15)
    assert told_after(lambda share: 10_000 * share, 0.1, 0.2, 0.5) == pytest.approx(whole * 0.5 * 10, rel=0.2)


def told_with_evaluations(seconds: Callable[[float], float], every: float) -> float:
    """Return what is told of the rest of a first trial that has evaluated all its rungs but the last.

    It also says its seconds after each share `every`.
    """
    forecasts, work, told = first_trial(), WORKLOAD.of(DEFAULT), 0.0
    for rung, share in zip(work.rungs[:-1], work.shares, strict=False):
        while told + every < share:
            told += every
            forecasts.progressed(progress_of(0, told, seconds(told)))
        forecasts.reported(report_of(0, rung, seconds(share)))
    return max(forecasts.seconds_to_rungs(0).values())


@pytest.mark.parametrize("every", [0.06, 1.0])
def test_what_stopped_a_machine_for_a_while_does_not_count_as_its_pace(every: float) -> None:
    """Suspended for an hour after half of a trial."""
    undisturbed = told_with_evaluations(lambda share: 1000 * share, every)
    suspended = told_with_evaluations(lambda share: 1000 * share + 3600 * (share > 0.5), every)
    assert suspended == pytest.approx(undisturbed, rel=0.3)


def test_evaluations_that_a_load_slows_more_than_training_count_in_full() -> None:
    """Progress between evaluations does not change what is told of the rest, whatever each of the two takes."""
    shares = np.array([0.0, *WORKLOAD.of(DEFAULT).shares])

    def seconds(share: float) -> float:
        """Return five seconds of training for a second that was forecast, and 300 for each evaluation so far."""
        return 5000 * share + 300 * float(np.count_nonzero(shares[1:] <= share))

    alone = told_with_evaluations(seconds, 1.0)
    assert told_with_evaluations(seconds, 0.06) == pytest.approx(alone, rel=0.01)


def test_an_attempt_that_goes_on_is_not_taken_to_have_done_all_at_once() -> None:
    """Of a second attempt the first word only says where it stands: the seconds of the first may be in it or not."""
    forecasts = Forecasts(CONFIG, SPACE)
    forecasts.expect(sure_of(1000.0))
    work = WORKLOAD.of(DEFAULT)
    forecasts.begun(0, 1, DEFAULT)
    for rung, share in zip(work.rungs, work.shares, strict=True):
        forecasts.reported(report_of(0, rung, 1000 * share))
        if share >= 0.5:
            break
    before = forecasts.costs
    forecasts.begun(0, 2, DEFAULT)
    forecasts.reported(report_of(0, work.rungs[0], 1.0, attempt=2))
    assert forecasts.costs is before
    assert forecasts.seconds_of_attempt(0) > 1.0


def test_what_went_at_once_is_remembered_of_each_size() -> None:
    forecasts = Forecasts(CONFIG, SPACE)
    forecasts.begun(0, 1, DEFAULT)
    outcome = Outcome(
        trial=0, attempt=1, ending=Ending.COMPLETED, seconds=1.0, peak_memory_bytes=0, micro_batch_size=4
    )  # fmt: skip
    forecasts.ended(outcome)
    forecasts.ended(replace(outcome, micro_batch_size=8))
    assert forecasts.micro_batch_size(DEFAULT) == 4
    assert forecasts.micro_batch_size(DEFAULT.model_copy(update={"max_length": 64})) is None


# -- properties

configurations = st.builds(
    Hyperparameters,
    method=st.sampled_from(["full", "head"]),
    batch_size=st.sampled_from([4, 8, 16, 64]),
    epochs=st.integers(1, 6),
    max_length=st.sampled_from([16, 64, 128]),
    kept_layers=st.none() | st.integers(2, 6),
    optimizer=st.sampled_from(["adamw", "sgd", "lion"]),
    data_fraction=st.sampled_from([0.25, 1.0]),
)
seconds_taken = st.floats(1e-6, 1e6)
steps = st.builds(Timed, trained_tokens=st.floats(1, 1e6), updates=st.just(1), seconds=seconds_taken)
evaluations = st.builds(Timed, scored_tokens=st.floats(1, 1e6), seconds=seconds_taken)
probes = st.dictionaries(
    configurations,
    st.builds(probe_of, steps, steps) | st.builds(probe_of, steps, evaluations),
    max_size=2,
)
segments = st.lists(
    st.tuples(st.integers(0, 3), configurations, st.floats(0.01, 1.0), seconds_taken, st.booleans()), max_size=12
)


def costs_of(
    probed: dict[Hyperparameters, Probe], ran: list[tuple[int, Hyperparameters, float, float, bool]]
) -> CostModel:
    costs = fitted_costs(WORKLOAD, probed)
    for trial, values, share, seconds, goes_on in ran:
        work = WORKLOAD.of(values)
        segment = Observation(trial=trial, kind=work.kind, done=work.done_at(share), share=share, seconds=seconds)
        costs = costs.with_observation(segment, continues=goes_on)
    return costs


@settings(deadline=None)
@given(probes, segments, configurations, st.none() | st.integers(0, 3))
def test_what_is_told_is_a_number_and_the_high_side_is_no_less(
    probed: dict[Hyperparameters, Probe],
    ran: list[tuple[int, Hyperparameters, float, float, bool]],
    asked: Hyperparameters,
    trial: int | None,
) -> None:
    costs, work = costs_of(probed, ran), WORKLOAD.of(asked)
    told, high = (costs.seconds(work, work.total, trial, above) for above in (0.0, HIGH))
    assert (told is None) == (not probed and not ran)
    if told is not None and high is not None:
        assert 0 <= told <= high < math.inf


UNSCORED = Workload(config=CONFIG, space=SPACE, dimensions=replace(DIMENSIONS, validation_rows=0, pass_tokens=0))


@settings(deadline=None, max_examples=40)
@given(probes, segments, configurations, st.integers(1, 5))
def test_more_epochs_longer_texts_and_later_rungs_take_no_less(
    probed: dict[Hyperparameters, Probe],
    ran: list[tuple[int, Hyperparameters, float, float, bool]],
    asked: Hyperparameters,
    more: int,
) -> None:
    costs = costs_of(probed, ran)
    # Evaluations may be fewer in a longer trial, where more of them fall together.
    unscored = replace(costs, workload=UNSCORED)
    longer = asked.model_copy(update={"epochs": asked.epochs + more})
    told, of_longer = unscored.trial_seconds(asked), unscored.trial_seconds(longer)
    assert told is None or of_longer is None or told <= of_longer * (1 + 1e-9)
    texts = replace(DIMENSIONS, train_lengths=tuple(length + more for length in LENGTHS))
    of_texts = Workload(config=CONFIG, space=SPACE, dimensions=texts).of(asked)
    assert WORKLOAD.of(asked).total[0] <= of_texts.total[0]
    rising = [costs.seconds(of_texts, of_texts.done_at(share)) for share in of_texts.shares]
    assert all(one is None or other is None or one <= other for one, other in pairwise(rising))


@settings(deadline=None)
@given(probes, segments, configurations, st.sampled_from([0.5, 2.0, 1024.0]))
def test_devices_that_are_so_many_times_slower_take_so_many_times_as_long(
    probed: dict[Hyperparameters, Probe],
    ran: list[tuple[int, Hyperparameters, float, float, bool]],
    asked: Hyperparameters,
    times: float,
) -> None:
    before = costs_of(probed, ran).trial_seconds(asked, HIGH)
    slower = {
        values: replace(probe, timed=tuple(replace(one, seconds=times * one.seconds) for one in probe.timed))
        for values, probe in probed.items()
    }
    after = costs_of(slower, [(*one[:3], times * one[3], one[4]) for one in ran]).trial_seconds(asked, HIGH)
    assert (before is None) == (after is None)
    assert before is None or after == pytest.approx(times * before, rel=1e-4)
