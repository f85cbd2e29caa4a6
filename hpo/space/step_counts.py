"""Step counts of other libraries where hpo has a share: refused, each with its share of the data."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hpo.space.domains import Number, as_yaml


class Rule(NamedTuple):
    """Unit of a count, and its formula as a share."""

    unit: str
    formula: str
    share: Callable[[float, int, Number, Number], float]
    """The share, computed from the count, the training rows, the batch size and the epochs."""
    case: str
    """Quantities that the share depends on, for a message."""


RULES: Mapping[str, Rule] = {
    "warmup_steps": Rule(
        "optimizer steps",
        "a share of them, steps * batch_size / (training examples * epochs)",
        lambda count, rows, batch, epochs: count / _steps(rows, batch, epochs),
        "at batch_size {batch} and epochs {epochs} ({steps:,} steps)",
    ),
    "warmup_epochs": Rule(
        "epochs", "a share of them", lambda count, _rows, _batch, epochs: count / epochs, "at epochs {epochs}"
    ),
    "steps": Rule(
        "optimizer steps",
        "steps * batch_size / training examples",
        lambda count, rows, batch, _epochs: count / _steps(rows, batch, 1),
        "at batch_size {batch}",
    ),
    "texts": Rule("texts", "a share of them", lambda count, rows, _batch, _epochs: min(1.0, count / rows), ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CountParameter:
    """A parameter of a space that is a count."""

    name: str
    """Name under which it was given."""
    of: str
    """A key of `RULES`."""
    share: str
    """The hyperparameter for the share."""
    values: tuple[float, ...]
    """Its values, or the ends of its range."""

    def formula(self, space: str) -> str:
        """Return the formula of the share, for when the data are unknown."""
        rule = RULES[self.of]
        return f"Space {space}: {self.name} counts {rule.unit}; write `{self.share}`, which is {rule.formula}."

    def explain(self, rows: int, batch_sizes: Sequence[Number], epochs: Sequence[Number], space: str) -> str:
        """Return the share for that many training rows, for each batch size and number of epochs, and what to write."""
        rule = RULES[self.of]
        cases = {
            rule.case.format(batch=batch, epochs=passes, steps=_steps(rows, batch, passes)): [
                rule.share(value, rows, batch, passes) for value in self.values
            ]
            for batch in batch_sizes
            for passes in epochs
        }
        lines = "; ".join(f"{self._described(shares)} {case}".rstrip() for case, shares in cases.items())
        fitting = sorted({share for shares in cases.values() for share in shares if self._fits(share)})
        advice = f"write `{self.share}: {self._spec(fitting)}`" if fitting else f"leave it out, or write `{self.share}`"
        return (
            f"Space {space}: {self.name} counts {rule.unit}, but {self.share} is {rule.formula}. On these {rows:,} "
            f"training examples {listed(map(_short, self.values))} {'is' if len(self.values) == 1 else 'are'} {lines}; "
            f"{advice}."
        )

    def _described(self, shares: Iterable[float]) -> str:
        """Return shares as text, with a remark on one that is too large."""
        too_much = "more than there are"
        return listed(
            _short(share) if share < 1 or self.share in ("epochs", "data_fraction") else too_much for share in shares
        )

    def _fits(self, share: float) -> bool:
        return share >= 0.5 if self.share == "epochs" else share < 1 or self.share == "data_fraction"

    def _spec(self, fitting: Sequence[float]) -> str:
        if self.share == "epochs":
            whole = sorted({max(1, round(share)) for share in fitting})
            return f"{{values: {whole}}}"
        if len(fitting) <= len(self.values):
            return f"{{values: [{', '.join(_short(share) for share in fitting)}]}}"
        return f"{{min: {float(_short(fitting[0]))}, max: {float(_short(fitting[-1]))}}}"


def _steps(rows: int, batch: Number, epochs: Number) -> int:
    return math.ceil(rows / batch) * int(epochs)


def listed(items: Iterable[str]) -> str:
    """Return for example `1, 2 and 3`, without duplicates."""
    *most, last = dict.fromkeys(items)
    return f"{', '.join(most)} and {last}" if most else last


def _short(value: float) -> str:
    return as_yaml(float(f"{value:.3g}")) if value < 1000 else f"{value:.0f}"
