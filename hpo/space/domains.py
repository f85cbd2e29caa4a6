"""Parameter domains: the values that one parameter may take, proposed, checked and described.

To add one: a frozen class with the methods of the others, its place in `Domain`, and its lines in `specs`. Those that
are not `Range` also count their values and name them all.
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
        """Return the value; `trial` is not asked."""
        return self.value

    def contains(self, value: Value) -> bool:
        """Return whether `value` is the one."""
        return value == self.value

    def count(self) -> int:
        """Return 1."""
        return 1

    def values(self) -> Iterable[Value]:
        """Return the value alone."""
        return (self.value,)

    def middle(self) -> Value:
        """Return the value."""
        return self.value

    def ends(self) -> tuple[Number, Number] | None:
        """Return the value twice; None where it is not a number."""
        return (self.value, self.value) if is_number(self.value) else None

    def describe(self) -> str:
        """Return for example `128`."""
        return as_yaml(self.value)

    def spec(self) -> dict[str, Any]:
        """Return the keys and values that `specs.read_domain` reads back as an equal domain."""
        return {"value": self.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of several values, without an order between them."""

    choices: tuple[Value, ...]

    def suggest(self, trial: "BaseTrial", name: str) -> Value:
        """Ask `trial` for one of the choices."""
        return trial.suggest_categorical(name, self.choices)

    def contains(self, value: Value) -> bool:
        """Return whether `value` is one of the choices."""
        return value in self.choices

    def count(self) -> int:
        """Return how many choices there are."""
        return len(self.choices)

    def values(self) -> Iterable[Value]:
        """Return the choices, as written."""
        return self.choices

    def middle(self) -> Value:
        """Return the middle one where all are numbers (the upper of two), else the first."""
        numbers = sorted(filter(is_number, self.choices))
        return numbers[len(numbers) // 2] if len(numbers) == len(self.choices) else self.choices[0]

    def ends(self) -> tuple[Number, Number] | None:
        """Return the smallest and the largest number among the choices; None where there is none."""
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

    All are equally likely; with `log` their logarithms are, and `low` lies above 0.
    """

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: "BaseTrial", name: str) -> float:
        """Ask `trial` for a number of the range."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def contains(self, value: Value) -> bool:
        """Return whether `value` lies in the range, ends included."""
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

    `low`, `high` and `q` are all int, and so are the values then, or all float. Without `q` it is the whole numbers.
    """

    low: Number
    high: Number
    q: Number | None = None

    def suggest(self, trial: "BaseTrial", name: str) -> Number:
        """Ask `trial` for a number of the grid."""
        step = self._step
        if isinstance(self.low, int) and isinstance(self.high, int) and isinstance(step, int):
            return trial.suggest_int(name, self.low, self.high, step=step)
        return trial.suggest_float(name, self.low, self.high, step=step)

    def contains(self, value: Value) -> bool:
        """Return whether `value` is a number of the grid, but for rounding."""
        if not is_number(value) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self._step
        return abs(steps - round(steps)) < 1e-8

    def count(self) -> int:
        """Return how many numbers the grid has."""
        return whole_steps(self.low, self.high, self._step) + 1

    def values(self) -> Iterable[Number]:
        """Return the numbers of the grid, upwards."""
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
    """Return whether `value` is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(one: Value, other: Value) -> bool:
    """Return whether the two are equal but for rounding: of a grid, Optuna has 0.15000000000000002 for 0.15."""
    return one == other or (is_number(one) and is_number(other) and math.isclose(one, other))


def as_yaml(value: Value) -> str:
    """Return `value` as a person writes it in YAML: `null`, `30` for 30.0, 0.0055 for 0.0055000000000000005."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    # What is beyond fifteen digits is rounding.
    return str(float(f"{value:.15g}")).removesuffix(".0") if isinstance(value, float) else str(value)


def whole_steps(low: Number, high: Number, q: Number) -> int:
    """Return how many whole steps of `q` fit between `low` and `high`."""
    return int((_decimal(high) - _decimal(low)) / _decimal(q))


def grid_number(low: Number, q: Number, steps: int) -> Number:
    """Return the number that lies `steps` steps of `q` above `low`."""
    return type(low)(_decimal(low) + steps * _decimal(q))


def _decimal(number: Number) -> Decimal:
    """Return `number` as it is written, so that 0.1 + 2 x 0.1 is 0.3; Optuna reckons the same way."""
    return Decimal(str(number))
