"""Step counts of other libraries, for what is a share here: refused, each with its share of the data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpo.space.domains import Number, as_yaml

RULES: Mapping[str, tuple[str, str]] = {
    "warmup_steps": ("optimizer steps", "a share of them, steps * batch_size / (training texts * epochs)"),
    "warmup_epochs": ("epochs", "a share of them"),
    "steps": ("optimizer steps", "steps * batch_size / training texts"),
    "texts": ("texts", "a share of them"),
}
"""What is counted -> its unit, and what it is here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountParameter:
    """A parameter of a space that is a count."""

    name: str
    """As it was given."""
    of: str
    """A key of `RULES`."""
    share: str
    """The hyperparameter that says it here."""
    values: tuple[float, ...]
    """Its values, or the ends of its range."""

    def formula(self, space: str) -> str:
        """Say how it is reckoned, where the texts are not known."""
        unit, rule = RULES[self.of]
        return f"Space {space}: {self.name} counts {unit}; write `{self.share}`, which is {rule}."

    def on(self, rows: int, batch_sizes: Sequence[Number], epochs: Sequence[Number], space: str) -> str:
        """Say what it is on so many training texts, for each batch size and number of epochs; and what to write."""
        unit, rule = RULES[self.of]
        cases = {
            self._case(rows, batch, passes): [self._of(value, rows, batch, passes) for value in self.values]
            for batch in batch_sizes
            for passes in epochs
        }
        lines = "; ".join(f"{self._said(shares)} {said}".rstrip() for said, shares in cases.items())
        fitting = sorted({share for shares in cases.values() for share in shares if self._fits(share)})
        advice = f"write `{self.share}: {self._spec(fitting)}`" if fitting else f"leave it out, or write `{self.share}`"
        return (
            f"Space {space}: {self.name} counts {unit}, but {self.share} is {rule}. On these {rows:,} training texts "
            f"{_and(map(_short, self.values))} {'is' if len(self.values) == 1 else 'are'} {lines}; {advice}."
        )

    def _said(self, shares: Iterable[float]) -> str:
        """Return shares as text; of one that no trial has that it is too much."""
        too_much = "more than there are"
        return _and(
            _short(share) if share < 1 or self.share in ("epochs", "data_fraction") else too_much for share in shares
        )

    def _case(self, rows: int, batch: Number, epochs: Number) -> str:
        """Say under which batch size and number of epochs, as far as that matters."""
        match self.of:
            case "warmup_steps":
                return f"at batch_size {batch} and epochs {epochs} ({_steps(rows, batch, epochs):,} steps)"
            case "warmup_epochs":
                return f"at epochs {epochs}"
            case "steps":
                return f"at batch_size {batch}"
        return ""

    def _of(self, value: float, rows: int, batch: Number, epochs: Number) -> float:
        match self.of:
            case "warmup_steps":
                return value / _steps(rows, batch, epochs)
            case "warmup_epochs":
                return value / epochs
            case "steps":
                return value / _steps(rows, batch, 1)
        return min(1.0, value / rows)

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


def _and(said: Iterable[str]) -> str:
    *most, last = dict.fromkeys(said)
    return f"{', '.join(most)} and {last}" if most else last


def _short(value: float) -> str:
    return as_yaml(float(f"{value:.3g}")) if value < 1000 else f"{value:.0f}"
