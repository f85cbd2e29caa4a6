"""Search space: parameters that Optuna samples, and the hyperparameters that they make.

A configuration has three forms, with a name each:
    values            the active parameters, constants too, by hyperparameter name; a relative learning rate
                      as its multiplier
    sampled           Optuna's part of them: by the name under which it samples, without constants
    Hyperparameters   what is trained: the real learning rate, typed defaults for all that is not searched
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from hpo.config.hyperparameters import Hyperparameters, resolved
from hpo.config.parsing import read_model
from hpo.errors import Mistakes, SpaceError, nearest
from hpo.space.consistency import all_combinations, cases, check_together, number_of_combinations
from hpo.space.domains import Choice, Constant, Number, Value, is_number
from hpo.space.parameters import Parameter, read_parameters
from hpo.space.portfolio import PORTFOLIO, PublishedConfiguration, read_portfolio
from hpo.space.step_counts import CountParameter
from hpo.space.translation import translated

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """The parameters of a search, checked against each other and against `Hyperparameters`."""

    name: str
    parameters: tuple[Parameter, ...]
    """Every parameter after those that its conditions name; otherwise as written."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Notes on names of other libraries: how they were translated, and what was left out."""
    counted: tuple[CountParameter, ...] = field(default=(), compare=False)
    """Counts, such as steps, that must be converted to shares before training."""
    portfolio: tuple[PublishedConfiguration, ...] = field(default=(), compare=False)
    """Configurations of the space that are tried after the default."""

    @classmethod
    def from_mapping(cls, parameters: Mapping[str, Any], name: str) -> Self:
        """Read the space from `parameters`, hyperparameter -> spec, and its portfolio.

        See docs/search-spaces.md.

        Raises:
            SpaceError: invalid specs, with one sentence for each error.
        """
        mistakes, portfolio = Mistakes(), tuple[PublishedConfiguration, ...]()
        written = {key: spec for key, spec in parameters.items() if key != PORTFOLIO}
        ours = translated(written, f"Space {name}", mistakes)
        read: tuple[Parameter, ...] = ()
        with mistakes.gathered():
            read = read_parameters(ours.parameters, name)
        with mistakes.gathered():
            portfolio = read_portfolio(parameters.get(PORTFOLIO, ()), name)
        mistakes.refuse()
        if not read and not ours.counted:
            raise SpaceError(f"Space {name} has no parameters; name at least one hyperparameter to search.")
        check_together(read, name)
        notes, counted = tuple(ours.notes), tuple(ours.counted)
        return cls(name=name, parameters=read, notes=notes, counted=counted, portfolio=portfolio)

    def suggest(self, trial: "BaseTrial") -> dict[str, Value]:
        """Suggest a configuration by `trial`, an `optuna.Trial`; return its values."""
        return self._values(lambda parameter: parameter.domain.suggest(trial, parameter.sampled_name))

    def hyperparameters(self, values: Mapping[str, Value]) -> Hyperparameters:
        """Return what is trained under `values`: multipliers resolved, typed defaults for the rest.

        Raises:
            SpaceError: values that cannot be combined, or a count that is not yet converted to a share.
        """
        if self.counted:
            raise SpaceError(*(one.formula(self.name) for one in self.counted))
        return read_model(Hyperparameters, self._trained(values), f"Space {self.name}")

    def default_values(self, given: Mapping[str, Value] | None = None) -> dict[str, Value]:
        """Return the values of the default configuration, except those that are `given`."""
        return self._values(lambda parameter: (given or {}).get(parameter.name, parameter.default))

    def sampled(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return `values` in Optuna's form, for `Study.enqueue_trial`."""
        return {
            parameter.sampled_name: values[parameter.name]
            for parameter in self.parameters
            if parameter.is_sampled and parameter.name in values
        }

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Return the values of every configuration, in the order of the parameters, the last varying fastest.

        Raises:
            SpaceError: a parameter with a continuous range.
        """
        return all_combinations(self.parameters, self.name)

    def size(self) -> int:
        """Return the number of `combinations` without enumerating them; raises as it does."""
        return number_of_combinations(self.parameters, self.name)

    def has_at_most(self, combinations: int) -> bool:
        """Return true if there are at most that many combinations; false if a parameter has a continuous range."""
        try:
            return self.size() <= combinations
        except SpaceError:
            return False

    def largest(self, name: str) -> Number:
        """Return the largest value of the hyperparameter `name`, such as `epochs`, in this space.

        Raises:
            SpaceError: an unknown name, or a hyperparameter that is not a number here.
        """
        known = Hyperparameters.model_fields
        if name not in known:
            raise SpaceError(f"Unknown hyperparameter {name!r}. {nearest(name, known)}")
        most = self.largest_if_any(name)
        if most is None:
            raise SpaceError(f"Space {self.name} has no largest {name}: it is not a number there.")
        return most

    def largest_if_any(self, name: str) -> Number | None:
        """Return the largest number that the hyperparameter `name` can be in this space; None if there is none."""
        trained = (resolved(name, self._trained(values)) for values in cases(self.parameters, (name,)))
        return max(filter(is_number, trained), default=None)

    def maximum_passes(self) -> float:
        """Return the passes over all training rows of the longest trial."""
        return self.largest("epochs") * self.largest("data_fraction")

    def takes(self, name: str, value: Value) -> bool:
        """Return true if the hyperparameter `name` is a parameter here, and can be `value`."""
        return any(one.name == name and one.domain.contains(value) for one in self.parameters)

    def values_or_ends(self, name: str) -> list[Number]:
        """Return the numbers that the hyperparameter `name` can be in this space; of a range, the ends."""
        found = next((parameter.domain for parameter in self.parameters if parameter.name == name), None)
        if isinstance(found, Constant | Choice):
            return sorted(value for value in found.values() if is_number(value))
        if found is not None:
            return list(found.ends())
        usual = resolved(name, {})
        return [usual] if is_number(usual) else []

    def to_mapping(self) -> dict[str, Any]:
        """Return plain YAML values, equal for equal spaces; `from_mapping` reads them back."""
        return {parameter.name: parameter.to_mapping() for parameter in self.parameters}

    def _values(self, value_of: Callable[[Parameter], Value]) -> dict[str, Value]:
        """Return a value for each active parameter, suggested in order."""
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.active(values):
                values[parameter.name] = value_of(parameter)
        return values

    def _trained(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return `values` with the real learning rate."""
        return dict(values) | {
            parameter.name: parameter.trained(values, f"Space {self.name}, {parameter.name}")
            for parameter in self.parameters
            if parameter.relative_to and parameter.name in values
        }
