import math

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from hpo.config.hyperparameters import Hyperparameters
from hpo.training.schedules import SCHEDULES, factor, warmup_steps


def at(taken: int, **values: object) -> float:
    return factor(taken, 100, Hyperparameters.model_validate({"warmup_ratio": 0.2, **values}))


def test_every_schedule_rises_linearly_from_zero_to_the_peak():
    for schedule in SCHEDULES:
        assert [at(taken, schedule=schedule) for taken in (0, 5, 10, 20)] == [0.0, 0.25, 0.5, 1.0]


def test_known_answers_after_warmup():
    assert at(99, schedule="constant") == 1.0
    assert at(60, schedule="linear") == pytest.approx(0.5)
    assert at(99, schedule="linear") == pytest.approx(1 / 80)
    assert at(100, schedule="linear") == 0.0
    assert at(60, schedule="cosine") == pytest.approx(0.5)
    assert at(40, schedule="cosine") == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert at(100, schedule="cosine") == pytest.approx(0.0)


def test_step_cuts_by_the_factor_at_each_period():
    values = {"schedule": "step", "warmup_ratio": 0.0, "decay_every": 0.1, "decay_factor": 0.5}
    assert [at(taken, **values) for taken in (0, 9, 10, 29, 30, 99)] == [1, 1, 0.5, 0.25, 0.125, 0.5**9]


def test_step_cuts_to_a_tenth_at_each_third_by_default():
    rates = [at(taken, schedule="step", warmup_ratio=0.0) for taken in (33, 34, 66, 67)]
    assert rates == pytest.approx([1.0, 0.1, 0.1, 0.01])


def test_no_warmup_starts_at_the_peak():
    assert at(0, schedule="linear", warmup_ratio=0.0) == 1.0


def test_warmup_is_rounded_up_as_transformers_does(tmp_path):
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), warmup_steps=0.06, use_cpu=True)
    for total in (1, 7, 50, 99, 100, 101):
        assert warmup_steps(Hyperparameters(warmup_ratio=0.06), total) == arguments.get_warmup_steps(total)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")]
)
@pytest.mark.parametrize("ratio", [0.0, 0.06, 0.5])
def test_rates_are_those_of_transformers(ours, theirs, ratio):
    total, hyperparameters = 50, Hyperparameters(schedule=ours, warmup_ratio=ratio)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_scheduler(theirs, optimizer, warmup_steps(hyperparameters, total), total)
    for taken in range(total):
        assert factor(taken, total, hyperparameters) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 500), st.floats(0, 0.99), st.data())
def test_a_factor_is_never_outside_zero_and_one(schedule, total, ratio, data):
    taken = data.draw(st.integers(0, total))
    assert 0.0 <= factor(taken, total, Hyperparameters(schedule=schedule, warmup_ratio=ratio)) <= 1.0
