"""Parameter domains: the values that a parameter can take, sampled, checked and described.

To add one, write a frozen class with the methods of the others, and add it to `Domain` and to `specs`. All except
`Range` can also count and list their values.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Value = str | int | float | bool | None
Number = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One value, never sampled."""

    value: Value

    def suggest(self, trial: "BaseTrial", name: str) -> Value:  # noqa: ARG002
        """Return the value; `trial` is not used."""
        return self.value

    def contains(self, value: Value) -> bool:
        """Return true if `value` is the constant."""
        return value == self.value

    def count(self) -> int:
        """Return 1."""
        return 1

    def values(self) -> Iterable[Value]:
        """Return the only value."""
        return (self.value,)

    def middle(self) -> Value:
        """Return the value."""
        return self.value

    def ends(self) -> tuple[Number, Number] | None:
        """Return the value twice; None if it is not a number."""
        return (self.value, self.value) if is_number(self.value) else None

    def describe(self) -> str:
        """Return for example `128`."""
        return as_yaml(self.value)

    def spec(self) -> dict[str, Any]:
        """Return the keys and values that `specs.read_domain` reads back as an equal domain."""
        return {"value": self.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of several unordered values."""

    choices: tuple[Value, ...]

    def suggest(self, trial: "BaseTrial", name: str) -> Value:
        """Suggest one of the choices by `trial`."""
        return trial.suggest_categorical(name, self.choices)

    def contains(self, value: Value) -> bool:
        """Return true if `value` is one of the choices."""
        return value in self.choices

    def count(self) -> int:
        """Return the number of choices."""
        return len(self.choices)

    def values(self) -> Iterable[Value]:
        """Return the choices, as written."""
        return self.choices

    def middle(self) -> Value:
        """Return the middle one if all are numbers (the upper of two), else the first."""
        numbers = sorted(filter(is_number, self.choices))
        return numbers[len(numbers) // 2] if len(numbers) == len(self.choices) else self.choices[0]

    def ends(self) -> tuple[Number, Number] | None:
        """Return the smallest and the largest number among the choices; None if there is none."""
        numbers = list(filter(is_number, self.choices))
        return (min(numbers), max(numbers)) if numbers else None

    def describe(self) -> str:
        """Return for example `adamw, sgd`."""
        return ", ".join(map(as_yaml, self.choices))

    def spec(self) -> dict[str, Any]:
        """Return the spec, as `Constant.spec` does."""
        return {"values": list(self.choices)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Any number from `low` to `high`, both included.

    Uniform; with `log`, uniform in the logarithm, and `low` is above 0.
    """

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: "BaseTrial", name: str) -> float:
        """Suggest a number of the range by `trial`."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def contains(self, value: Value) -> bool:
        """Return true if `value` is in the range, ends included."""
        return is_number(value) and self.low <= value <= self.high

    def middle(self) -> float:
        """Return the arithmetic middle; with `log` the geometric one."""
        if not self.log:
            return self.low + (self.high - self.low) / 2
        return min(max(math.sqrt(self.low) * math.sqrt(self.high), self.low), self.high)

    def ends(self) -> tuple[Number, Number]:
        """Return the lower and the upper end."""
        return self.low, self.high

    def describe(self) -> str:
        """Return for example `0.03 … 30, log-uniform`."""
        return f"{as_yaml(self.low)} … {as_yaml(self.high)}, {'log-uniform' if self.log else 'uniform'}"

    def spec(self) -> dict[str, Any]:
        """Return the spec, as `Constant.spec` does."""
        kind = "log_uniform_values" if self.log else "uniform"
        return {"distribution": kind, "min": self.low, "max": self.high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """`low`, `low + q`, `low + 2q` and so on to `high`, which is one of them (Optuna's `step`), all equally likely.

    `low`, `high` and `q`, and so the values, are all int or all float. `q` defaults to 1, for whole numbers.
    """

    low: Number
    high: Number
    q: Number | None = None

    def suggest(self, trial: "BaseTrial", name: str) -> Number:
        """Suggest a number of the grid by `trial`."""
        step = self._step
        if isinstance(self.low, int) and isinstance(self.high, int) and isinstance(step, int):
            return trial.suggest_int(name, self.low, self.high, step=step)
        return trial.suggest_float(name, self.low, self.high, step=step)

    def contains(self, value: Value) -> bool:
        """Return true if `value` is a number of the grid, up to rounding."""
        if not is_number(value) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self._step
        return abs(steps - round(steps)) < 1e-8

    def count(self) -> int:
        """Return how many numbers the grid has."""
        return whole_steps(self.low, self.high, self._step) + 1

    def values(self) -> Iterable[Number]:
        """Return the numbers of the grid, ascending."""
        return (grid_number(self.low, self._step, steps) for steps in range(self.count()))

    def middle(self) -> Number:
        """Return the middle of the grid, the lower of two."""
        return grid_number(self.low, self._step, (self.count() - 1) // 2)

    def ends(self) -> tuple[Number, Number]:
        """Return the lower and the upper end."""
        return self.low, self.high

    def describe(self) -> str:
        """Return for example `0 … 0.5 in steps of 0.1` or `1 … 5, whole numbers`."""
        steps = ", whole numbers" if self.q is None else f" in steps of {as_yaml(self.q)}"
        return f"{as_yaml(self.low)} … {as_yaml(self.high)}{steps}"

    def spec(self) -> dict[str, Any]:
        """Return the spec, as `Constant.spec` does."""
        kind = {"distribution": "int_uniform" if self.q is None else "q_uniform", "min": self.low, "max": self.high}
        return kind if self.q is None else kind | {"q": self.q}

    @property
    def _step(self) -> Number:
        return 1 if self.q is None else self.q


Domain = Constant | Choice | Range | Grid


def is_number(value: Value) -> TypeGuard[Number]:
    """Return true if `value` is a number; truth values are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(one: Value, other: Value) -> bool:
    """Return true if the two are equal up to rounding: Optuna has 0.15000000000000002 for 0.15 on a grid."""
    return one == other or (is_number(one) and is_number(other) and math.isclose(one, other))


def as_yaml(value: Value) -> str:
    """Return `value` as a person writes it in YAML: `null`, `30` for 30.0, 0.0055 for 0.0055000000000000005."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    # Digits beyond the fifteenth are rounding errors.
    return str(float(f"{value:.15g}")).removesuffix(".0") if isinstance(value, float) else str(value)


def whole_steps(low: Number, high: Number, q: Number) -> int:
    """Return how many whole steps of `q` fit between `low` and `high`."""
    return int((_decimal(high) - _decimal(low)) / _decimal(q))


def grid_number(low: Number, q: Number, steps: int) -> Number:
    """Return the number that is `steps` steps of `q` above `low`."""
    return type(low)(_decimal(low) + steps * _decimal(q))


def _decimal(number: Number) -> Decimal:
    """Return `number` as an exact decimal, so that 0.1 + 2 x 0.1 is 0.3; Optuna computes in the same way."""
    return Decimal(str(number))
