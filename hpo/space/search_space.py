"""Search space: parameters that Optuna samples, and the hyperparameters that they make.

Three forms of one configuration, told apart by name throughout:
    values            the active parameters, constants too, by hyperparameter name; a relative learning rate
                      as its multiplier
    sampled           what Optuna holds of them: by the name it samples under, without constants
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
    """Sentences on names of other libraries that were understood, and on what was left out."""
    counted: tuple[CountParameter, ...] = field(default=(), compare=False)
    """Counts of steps and the like, which must become shares before anything is trained."""
    portfolio: tuple[PublishedConfiguration, ...] = field(default=(), compare=False)
    """Configurations that are tried after the default, those of them that the space has."""

    @classmethod
    def from_mapping(cls, parameters: Mapping[str, Any], name: str) -> Self:
        """Read the space that `parameters` spells out, hyperparameter -> spec, and its portfolio.

        See docs/search-spaces.md.

        Raises:
            SpaceError: what cannot be, a sentence for each mistake.
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
        """Ask `trial`, an `optuna.Trial`, for a configuration; return its values."""
        return self._values(lambda parameter: parameter.domain.suggest(trial, parameter.sampled_name))

    def hyperparameters(self, values: Mapping[str, Value]) -> Hyperparameters:
        """Return what is trained under `values`: multipliers resolved, the rest by typed default.

        Raises:
            SpaceError: values that cannot be together; or a count of steps is still to be made a share.
        """
        if self.counted:
            raise SpaceError(*(one.formula(self.name) for one in self.counted))
        return read_model(Hyperparameters, self._trained(values), f"Space {self.name}")

    def default_values(self, given: Mapping[str, Value] | None = None) -> dict[str, Value]:
        """Return the values of the default configuration, but for those that are `given`."""
        return self._values(lambda parameter: (given or {}).get(parameter.name, parameter.default))

    def sampled(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return `values` as Optuna holds them, for `Study.enqueue_trial`."""
        return {
            parameter.sampled_name: values[parameter.name]
            for parameter in self.parameters
            if parameter.is_sampled and parameter.name in values
        }

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Return every configuration that can be proposed, as values: in the order of the parameters, the last fastest.

        Raises:
            SpaceError: a parameter that takes any number of a range.
        """
        return all_combinations(self.parameters, self.name)

    def size(self) -> int:
        """Return how many `combinations` there are, without going through them; raises as it does."""
        return number_of_combinations(self.parameters, self.name)

    def has_at_most(self, combinations: int) -> bool:
        """Return whether there are so many combinations or fewer; not where a parameter takes any number."""
        try:
            return self.size() <= combinations
        except SpaceError:
            return False

    def largest(self, name: str) -> Number:
        """Return the largest number that the hyperparameter `name`, such as `epochs`, can be in this space.

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
        """Return the largest number that the hyperparameter `name` can be in this space; None if it is never one."""
        trained = (resolved(name, self._trained(values)) for values in cases(self.parameters, (name,)))
        return max(filter(is_number, trained), default=None)

    def maximum_passes(self) -> float:
        """Return the passes over all training rows of the longest trial."""
        return self.largest("epochs") * self.largest("data_fraction")

    def takes(self, name: str, value: Value) -> bool:
        """Return whether the hyperparameter `name` is a parameter here, and can be `value`."""
        return any(one.name == name and one.domain.contains(value) for one in self.parameters)

    def values_or_ends(self, name: str) -> list[Number]:
        """Return the numbers that the hyperparameter `name` can be in this space, of a range its ends."""
        found = next((parameter.domain for parameter in self.parameters if parameter.name == name), None)
        if isinstance(found, Constant | Choice):
            return sorted(value for value in found.values() if is_number(value))
        if found is not None:
            return list(found.ends())
        usual = resolved(name, {})
        return [usual] if is_number(usual) else []

    def to_mapping(self) -> dict[str, Any]:
        """Return plain YAML values, the same for equal spaces, which `from_mapping` reads back equal."""
        return {parameter.name: parameter.to_mapping() for parameter in self.parameters}

    def _values(self, value_of: Callable[[Parameter], Value]) -> dict[str, Value]:
        """Return a value for each active parameter, asked for one after the other."""
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
