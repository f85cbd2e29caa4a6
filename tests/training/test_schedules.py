"""Every schedule against the library or the paper that it is from, at the steps of whole trials."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters
from hpo.training.schedules import SCHEDULES, Plateau, factor, warmup_steps

# Schedule -> its fields, and the factors after 0, a quarter, half, three quarters and all of the steps after warm-up.
KNOWN_ANSWERS: dict[str, tuple[dict[str, Any], list[float]]] = {
    "constant": ({}, [1, 1, 1, 1, 1]),
    "linear": ({"final_rate_ratio": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
    "polynomial": ({"power": 2.0, "final_rate_ratio": 0.2}, [1, 0.65, 0.4, 0.25, 0.2]),
    "exponential": ({"final_rate_ratio": 1 / 16}, [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]),
    "inverse_sqrt": ({"final_rate_ratio": 0.2}, [1, 1 / 7**0.5, 1 / 13**0.5, 1 / 19**0.5, 1 / 5]),
    "cosine": ({"final_rate_ratio": 0.2}, [1, 0.6 + 0.2 * 2**0.5, 0.6, 0.6 - 0.2 * 2**0.5, 0.2]),
    "cosine_restarts": ({"cycles": 2}, [1, 0.5, 1, 0.5, 0]),
    "step": (
        {"decay_every": 0.25, "decay_factor": 0.5, "final_rate_ratio": 0.2},
        [1, 0.5, 0.25, 0.2, 0.2],
    ),
    "one_cycle": ({"final_rate_ratio": 0.2}, [1, 0.6 + 0.2 * 2**0.5, 0.6, 0.6 - 0.2 * 2**0.5, 0.2]),
    "warmup_stable_decay": ({"decay_fraction": 0.5, "final_rate_ratio": 0.2}, [1, 1, 1, 0.6, 0.2]),
    "reduce_on_plateau": ({}, [1, 1, 1, 1, 1]),
}
ENDS_ABOVE_ITS_FINAL_RATIO = ("constant", "step", "reduce_on_plateau")


def at(taken: int, **values: object) -> float:
    return factor(taken, 100, Hyperparameters.model_validate({"warmup_ratio": 0.2, **values}))


@pytest.mark.parametrize("schedule", KNOWN_ANSWERS)
def test_known_answers_after_warmup(schedule: str) -> None:
    values, answers = KNOWN_ANSWERS[schedule]
    found = [at(taken, schedule=schedule, **values) for taken in (20, 40, 60, 80, 100)]
    assert found == pytest.approx(answers, abs=1e-12)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES.keys() - {"one_cycle"}))
def test_warmup_rises_linearly_from_zero_to_the_peak(schedule: str) -> None:
    assert [at(taken, schedule=schedule) for taken in (0, 5, 10, 20)] == [0.0, 0.25, 0.5, 1.0]


def test_one_cycle_rises_on_half_a_cosine_from_its_initial_ratio() -> None:
    values = {"schedule": "one_cycle", "initial_rate_ratio": 0.1}
    rise = [at(taken, **values) for taken in (0, 5, 10, 15, 20)]
    assert rise == pytest.approx([0.1, 0.55 - 0.225 * 2**0.5, 0.55, 0.55 + 0.225 * 2**0.5, 1.0])


def test_step_cuts_just_when_a_period_has_passed() -> None:
    values = {"schedule": "step", "warmup_ratio": 0.0, "decay_every": 0.1, "decay_factor": 0.5}
    assert [at(taken, **values) for taken in (0, 9, 10, 29, 30, 99)] == [1, 1, 0.5, 0.25, 0.125, 0.5**9]


def test_step_cuts_to_a_tenth_at_each_third_by_default() -> None:
    rates = [at(taken, schedule="step", warmup_ratio=0.0) for taken in (33, 34, 66, 67)]
    assert rates == pytest.approx([1.0, 0.1, 0.1, 0.01])


def test_a_tiny_final_ratio_does_no_harm() -> None:
    for schedule in ("exponential", "inverse_sqrt"):
        ends = [at(taken, schedule=schedule, final_rate_ratio=5e-324) for taken in (20, 100)]
        assert ends == [1.0, 5e-324]


def test_no_warmup_starts_at_the_peak() -> None:
    assert at(0, schedule="linear", warmup_ratio=0.0) == 1.0


def test_warmup_is_rounded_up_as_transformers_does(tmp_path: Path) -> None:
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), warmup_steps=0.06, use_cpu=True)
    for total in (1, 7, 50, 99, 100, 101):
        assert warmup_steps(Hyperparameters(warmup_ratio=0.06), total) == arguments.get_warmup_steps(total)


def optimizer() -> Optimizer:
    """Whose rate is the factor itself."""
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def rates_of(scheduler: LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(float(scheduler.get_last_lr()[0]))
        scheduler.optimizer.step()
        scheduler.step()
    return rates


Theirs = Callable[[Optimizer, int, int], LRScheduler]
# Ours, with the values that make it theirs: (optimizer, warm-up steps, all steps) -> transformers' schedule.
OF_TRANSFORMERS: dict[str, tuple[dict[str, Any], Theirs]] = {
    "constant": (
        {"schedule": "constant"},
        lambda o, w, t: transformers.get_scheduler("constant_with_warmup", o, w, t),
    ),
    "linear": ({"schedule": "linear"}, lambda o, w, t: transformers.get_scheduler("linear", o, w, t)),
    "cosine": ({"schedule": "cosine"}, lambda o, w, t: transformers.get_scheduler("cosine", o, w, t)),
    "cosine with a last rate": (
        {"schedule": "cosine", "final_rate_ratio": 0.1},
        lambda o, w, t: transformers.get_cosine_with_min_lr_schedule_with_warmup(o, w, t, min_lr_rate=0.1),
    ),
    "three cosines": (
        {"schedule": "cosine_restarts", "cycles": 3},
        lambda o, w, t: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(o, w, t, num_cycles=3),
    ),
    "polynomial": (
        {"schedule": "polynomial", "power": 1.5, "final_rate_ratio": 0.1},
        lambda o, w, t: transformers.get_polynomial_decay_schedule_with_warmup(o, w, t, lr_end=0.1, power=1.5),
    ),
    "warm-up, stable, decay": (
        {"schedule": "warmup_stable_decay", "decay_fraction": 0.5},
        lambda o, w, t: transformers.get_wsd_schedule(
            o, w, num_decay_steps=(t - w) // 2, num_training_steps=t, decay_type="linear"
        ),
    ),
}


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
@pytest.mark.parametrize("ratio", [0.0, 0.06, 0.5])
def test_rates_are_those_of_transformers(name: str, ratio: float) -> None:
    values, theirs = OF_TRANSFORMERS[name]
    total, hyperparameters = 100, Hyperparameters(**values, warmup_ratio=ratio)
    expected = rates_of(theirs(optimizer(), warmup_steps(hyperparameters, total), total), total)
    found = [factor(taken, total, hyperparameters) for taken in range(total)]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ratio", [0.01, 0.06, 0.5])
def test_inverse_sqrt_that_ends_at_the_root_of_its_warmup_is_that_of_transformers(ratio: float) -> None:
    hyperparameters = Hyperparameters(schedule="inverse_sqrt", warmup_ratio=ratio, final_rate_ratio=math.sqrt(ratio))
    theirs = transformers.get_inverse_sqrt_schedule(optimizer(), warmup_steps(hyperparameters, 100))
    found = [factor(taken, 100, hyperparameters) for taken in range(100)]
    assert found == pytest.approx(rates_of(theirs, 100), abs=1e-12)


@pytest.mark.parametrize("ratio", [0.06, 0.3, 0.5])
def test_one_cycle_is_that_of_torch_but_ends_a_step_later(ratio: float) -> None:
    """Theirs is at its lowest rate in the last step, ours one step after: so theirs is a step longer here."""
    hyperparameters = Hyperparameters(
        schedule="one_cycle", warmup_ratio=ratio, initial_rate_ratio=0.05, final_rate_ratio=0.001
    )
    peak_at = warmup_steps(hyperparameters, 100)
    theirs = OneCycleLR(
        optimizer(), max_lr=1.0, total_steps=101, pct_start=(peak_at + 1) / 101, cycle_momentum=False,
        div_factor=1 / 0.05, final_div_factor=0.05 / 0.001,
    )  # fmt: skip
    found = [factor(taken, 100, hyperparameters) for taken in range(101)]
    assert found == pytest.approx([*rates_of(theirs, 100), theirs.get_last_lr()[0]], abs=1e-12)


def test_plateau_cuts_after_more_evaluations_without_a_better_f1_than_it_bears() -> None:
    """Two worse in a row are one more than it bears; an equal F1 is no better; a better one starts the count anew."""
    plateau = Plateau(
        Hyperparameters(schedule="reduce_on_plateau", plateau_patience=1, decay_factor=0.5, final_rate_ratio=0.2)
    )
    factors = []
    for f1 in (0.60, 0.70, 0.69, 0.71, 0.71, 0.70, 0.70, 0.72, 0.71, 0.60, 0.1, 0.1, 0.1, 0.1):
        plateau.observe(f1)
        factors.append(plateau.factor)
    assert factors == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]


@given(
    st.lists(st.floats(-1, 1) | st.sampled_from([0.0, 0.5, math.nan]), max_size=30),
    st.integers(0, 4),
    st.floats(0.01, 0.99),
    st.floats(0, 1),
)
def test_plateau_is_that_of_torch(scores: list[float], patience: int, cut: float, lowest: float) -> None:
    theirs = ReduceLROnPlateau(
        optimizer(), mode="max", threshold=0.0, eps=0.0, patience=patience, factor=cut, min_lr=lowest
    )
    ours = Plateau(
        Hyperparameters(
            schedule="reduce_on_plateau", plateau_patience=patience, decay_factor=cut, final_rate_ratio=lowest
        )
    )
    for score in scores:
        theirs.step(score)
        ours.observe(score)
        assert ours.factor == theirs.get_last_lr()[0]


OF_FIELDS = {
    "final_rate_ratio": st.floats(0, 1, exclude_min=True),
    "initial_rate_ratio": st.floats(0, 1),
    "power": st.floats(0, 10, exclude_min=True),
    "cycles": st.integers(1, 10),
    "decay_every": st.floats(0, 1, exclude_min=True),
    "decay_factor": st.floats(0, 1, exclude_min=True),
    "decay_fraction": st.floats(0, 1, exclude_min=True),
    "plateau_patience": st.integers(0, 5),
}


@st.composite
def schedules(draw: st.DrawFn) -> Hyperparameters:
    """Any schedule, with any values of its fields."""
    schedule = draw(st.sampled_from(sorted(SCHEDULES)))
    fields = {name for name, (other, where) in APPLIES_TO.items() if other == "schedule" and schedule in where}
    values = {name: draw(OF_FIELDS[name]) for name in sorted(fields)}
    return Hyperparameters(schedule=schedule, warmup_ratio=draw(st.floats(0, 0.99)), **values)


@given(schedules(), st.integers(1, 500), st.data())
def test_a_factor_is_never_outside_zero_and_one(
    hyperparameters: Hyperparameters, total: int, data: st.DataObject
) -> None:
    taken = data.draw(st.integers(0, total))
    assert 0.0 <= factor(taken, total, hyperparameters) <= 1.0


@given(schedules(), st.integers(2, 500))
def test_the_peak_is_one_and_the_end_is_the_final_ratio(hyperparameters: Hyperparameters, total: int) -> None:
    schedule, peak_at = hyperparameters.schedule, warmup_steps(hyperparameters, total)
    if peak_at < total:
        assert factor(peak_at, total, hyperparameters) == 1.0
        if schedule not in ENDS_ABOVE_ITS_FINAL_RATIO:
            assert factor(total, total, hyperparameters) == pytest.approx(
                hyperparameters.final_rate_ratio, rel=1e-12, abs=0
            )
    assert SCHEDULES[schedule].rise(1.0, hyperparameters) == 1.0
