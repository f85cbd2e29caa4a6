"""Space translation: names of other libraries, translated, left out, refused, or recorded as a count."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from math import prod
from typing import Any, get_args

from hpo.config.hyperparameters import ADAMS, APPLIES_TO, LORA_TARGETS, Hyperparameters
from hpo.config.naming import look_up, meaning, normalized
from hpo.config.other_names import (
    ACCUMULATION,
    DISTRIBUTIONS,
    SPEC_KEYS,
    VALUES,
    Alias,
    CountAlias,
    GivenElsewhere,
    Ignored,
    Unsupported,
)
from hpo.errors import Mistakes, SpaceError
from hpo.space.domains import as_yaml, is_number
from hpo.space.step_counts import CountParameter, listed

_FIELDS = Hyperparameters.model_fields
_OFF: tuple[object, ...] = (None, False, "none", "None", "no", "", [], {})
"""Values that turn an option off."""


def translated(parameters: Mapping[str, Any], place: str, mistakes: Mistakes) -> "Translation":
    """Return the parameters of a space in our names and values; unknown ones stay as they are.

    Args:
        parameters: name -> spec, as written.
        place: name of the space in an error.
        mistakes: gets a SpaceError for what would train something else, and for two names of one hyperparameter.
    """
    done, flat = Translation(place=place), dict(_flattened(parameters))
    for name, spec in flat.items():
        with mistakes.gathered():
            done.read(name, spec, flat)
    with mistakes.gathered():
        done.refuse()
    with mistakes.gathered():
        done.multiply()
    done.imply_lora()
    done.keep_where_read()
    done.note_rest()
    return done


def _flattened(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each parameter, W&B's nested ones separately."""
    for name, spec in parameters.items():
        inner = spec.get("parameters") if isinstance(spec, Mapping) and len(spec) == 1 else None
        if isinstance(inner, Mapping) and all(isinstance(one, Mapping) for one in inner.values()):
            yield from ((f"{name}.{key}", one) for key, one in _flattened(inner))
        else:
            yield name, spec


@dataclass(slots=True, kw_only=True)
class Translation:
    """Parameters in our names, read one after the other, and notes on them."""

    place: str
    parameters: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Sentences, one for each name or value of another library."""
    counted: list[CountParameter] = field(default_factory=list)
    """Counts still to be converted to shares, for which the number of training rows is needed."""
    _given_as: dict[str, str] = field(default_factory=dict)
    """Hyperparameter -> the name under which it was given."""
    _left: list[str] = field(default_factory=list)
    _elsewhere: list[str] = field(default_factory=list)
    _refused: dict[str, list[str]] = field(default_factory=dict)
    """Remedy -> names that need it."""
    _factors: dict[str, Any] = field(default_factory=dict)
    """Name of gradient accumulation -> its spec."""

    def read(self, name: Any, spec: Any, beside: Mapping[str, Any]) -> None:
        """Read one parameter; `beside` has all of them, by name."""
        entry = Alias(name) if name in _FIELDS else meaning(str(name), _FIELDS, beside)
        match entry:
            case Ignored():
                self._left.append(name)
            case GivenElsewhere():
                self._elsewhere.append(name)
            case Unsupported():
                off = _are_all(spec, (*_OFF, *entry.unless))
                (self._left if off else self._refused.setdefault(entry.how, [])).append(name)
            case Alias() if name not in _FIELDS and _is_of_lora(entry.ours) and _are_all(spec, _OFF):
                self._left.append(name)
            case CountAlias():
                self._count(name, entry, spec)
            case _ if entry is ACCUMULATION:
                self._factors[name] = _worded(spec)
            case Alias():
                self._take(name, entry, spec)
            case None:
                self.parameters[name] = spec

    def _take(self, name: str, entry: Alias, spec: Any) -> None:
        ours = str(entry.ours)
        if ours in self._given_as:
            raise SpaceError(f"{self.place}: {self._given_as[ours]} and {name} are both {ours}; leave one out.")
        self._given_as[ours] = name
        if name != ours:
            self._note(f"{name} is taken for {ours}{_but(entry)}.")
        self.parameters[ours] = self._spec(ours, spec, foreign=name != ours)

    def _count(self, name: str, entry: CountAlias, spec: Any) -> None:
        worded = _worded(spec)
        ends = [worded[end] for end in ("min", "max") if end in worded] if isinstance(worded, Mapping) else []
        values = [value for value in _listed_values(worded) or ends if is_number(value)]
        if entry.of == "steps" and all(value < 0 for value in values):
            self._left.append(name)
        elif entry.of == "warmup_steps" and all(value < 1 for value in values):
            self._take(name, Alias(entry.share), spec)
        else:
            self.counted.append(CountParameter(name=name, of=entry.of, share=entry.share, values=tuple(values)))

    def refuse(self) -> None:
        """Refuse what would train something else, with one sentence for each reason."""
        if self._refused:
            raise SpaceError(*(f"{self.place}: {listed(names)}: {how}." for how, names in self._refused.items()))

    def multiply(self) -> None:
        """Multiply the batch size by gradient accumulation, because batch_size is the examples of one step."""
        for name, spec in self._factors.items():
            factors = _listed_values(spec)
            batches = _listed_values(self.parameters.get("batch_size"))
            if factors == [1] or (factors and self._given_as.get("batch_size") and self._is_whole()):
                self._left.append(name)
                continue
            numbers = [*factors, *batches]
            if not factors or not batches or not all(is_number(one) and one % 1 == 0 for one in numbers):
                raise SpaceError(
                    f"{self.place}: {name} multiplies the batch on the device, but batch_size is the examples of one "
                    "optimizer step; leave it out, and give the products as `batch_size: {values: [...]}`."
                )
            products = sorted({int(prod((factor, batch))) for factor in factors for batch in batches})
            self.parameters["batch_size"] = {"value": products[0]} if len(products) == 1 else {"values": products}
            self._note(
                f"{name} times {self._given_as['batch_size']} is taken for batch_size, the examples of one optimizer "
                f"step: {', '.join(map(str, products))}."
            )

    def _is_whole(self) -> bool:
        """Return true if the batch size was given for the whole step."""
        entry = meaning(self._given_as["batch_size"], _FIELDS)
        return isinstance(entry, Alias) and "accumulated" in entry.but

    def imply_lora(self) -> None:
        """Set the method to LoRA if none is given, but one of LoRA's own hyperparameters is."""
        own = [name for ours, name in self._given_as.items() if _is_of_lora(ours)]
        if own and "method" not in self.parameters:
            self.parameters["method"] = {"value": "lora"}
            self._note(f"{listed(own)} {'is' if len(own) == 1 else 'are'} of LoRA, so method is lora.")

    def keep_where_read(self) -> None:
        """Limit Trainer's `adam_*` to the optimizers that read them, and LoRA's keys to where a `use_lora` is true."""
        for ours, name in self._given_as.items():
            # None if its values are refused.
            spec = self.parameters.get(ours)
            other, usual = APPLIES_TO.get(ours, ("", {}))
            of_adam = other == "optimizer" and normalized(name).startswith("adam")
            of_switch = _is_of_lora(ours) and self._given_as.get("method", "method") != "method"
            if not (of_adam or of_switch) or not isinstance(spec, Mapping) or "when" in spec:
                continue
            values = _listed_values(self.parameters[other]) if other in self.parameters else ["adamw"]
            fitting = [value for value in values if value in usual and (of_switch or value in ADAMS)]
            if not fitting:
                del self.parameters[ours]
                self._left.append(name)
            elif len(fitting) < len(values):
                self.parameters[ours] = {**spec, "when": {other: fitting}}

    def note_rest(self) -> None:
        """Add one note each on what was left out, what is given elsewhere, and the meaning of a fixed seed."""
        notes = []
        if self._left:
            notes.append(f"Left out, as it belongs to the script or is set elsewhere here: {', '.join(self._left)}.")
        if self._elsewhere:
            notes.append(f"The model and the texts are those of --model and --train, not of {listed(self._elsewhere)}.")
        seeds = _listed_values(self.parameters.get("seed"))
        if len(seeds) == 1 and seeds != [None]:
            notes.append(f"The seed {seeds[0]} becomes that of every trial.")
        if notes:
            self._note(" ".join(notes))

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _spec(self, name: str, spec: Any, *, foreign: bool) -> Any:
        """Return a spec in our terms: a list is `values`, optimizers and schedules have our names."""
        if name == "lora_targets" and _are_names(spec):
            self._note(f"The list of {name} is taken for one value, modules that are adapted together.")
            spec = {"value": spec}
        elif isinstance(spec, list | tuple):
            self._note(f"The list of {name} is taken for `values`; a range would be `min` and `max`.")
        worded = _worded(spec)
        if not isinstance(worded, Mapping):
            return worded
        self._note_words(spec, worded)
        read = dict(worded)
        for key in ("value", "default"):
            if key in read:
                read[key] = self._value(name, read[key], whole=foreign)
        if isinstance(read.get("values"), list | tuple):
            values = [self._value(name, value, whole=foreign) for value in read["values"]]
            distinct = [value for place, value in enumerate(values) if value not in values[:place]]
            # Duplicates in the input stay, to be refused; values that only translate to the same one count once.
            read["values"] = distinct if values != list(read["values"]) else values
        if isinstance(read.get("when"), Mapping):
            read["when"] = dict(self._conditions(read["when"]))
        return read

    def _note_words(self, spec: Any, worded: Mapping[str, Any]) -> None:
        """Add a note if a distribution was translated."""
        kind = _distribution(spec)
        if kind == "randint":
            self._note("randint is taken for int_uniform, its upper end left out.")
        elif kind != worded.get("distribution") and "distribution" in worded:
            self._note(f"{kind or 'log: true'} is taken for {worded['distribution']}.")

    def _conditions(self, when: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for parent, values in when.items():
            entry = None if parent in _FIELDS else meaning(str(parent), _FIELDS)
            ours = str(entry.ours) if isinstance(entry, Alias) else parent
            listed = isinstance(values, list | tuple)
            yield ours, [self._value(ours, value) for value in values] if listed else values

    def _value(self, name: str, value: Any, *, whole: bool = False) -> Any:
        """Return a value in our terms; a whole number of another library may be written as 3.0 if `whole`."""
        if whole and isinstance(value, float) and value % 1 == 0 and _FIELDS[name].annotation is int:
            return int(value)
        choices = _choices(name)
        if value in choices or isinstance(value, list | dict):
            return value
        entry = look_up(as_yaml(value), VALUES.get(name, {}))
        if entry is None and isinstance(value, str) and (ours := look_up(value, {one: one for one in choices})):
            entry = Alias(ours)
        if isinstance(entry, Unsupported):
            raise SpaceError(f"{self.place}, {name}: {value}: {entry.how}.")
        if entry is None:
            return value
        self._note(f"{name} {as_yaml(value)} is taken for {as_yaml(entry.ours)}{_but(entry)}.")
        return entry.ours


def _worded(spec: Any) -> Any:
    """Return a spec with our keys and distribution names; a list becomes `values`."""
    if isinstance(spec, list | tuple):
        return {"values": list(spec)}
    if not isinstance(spec, Mapping):
        return spec
    read = {key if SPEC_KEYS.get(str(key), key) in spec else SPEC_KEYS[str(key)]: one for key, one in spec.items()}
    kind = str(read.get("distribution"))
    if kind in DISTRIBUTIONS:
        read["distribution"] = DISTRIBUTIONS[kind]
    if isinstance(read.get("log"), bool):
        log = read.pop("log")
        if log and read.get("distribution") in (None, "uniform"):
            read["distribution"] = "log_uniform_values"
        elif log:
            read["log"] = True
    if kind == "randint" and isinstance(read.get("max"), int):
        read["max"] -= 1
        if read["max"] == read.get("min"):
            read = {"value": read["max"]}
    if read.get("distribution") == "int_uniform" and "q" in read:
        read["distribution"] = "q_uniform"
    return deepcopy(read)


def _distribution(spec: Any) -> Any:
    """Return the distribution that a spec names, under any of its keys."""
    keys = ("distribution", *(key for key, ours in SPEC_KEYS.items() if ours == "distribution"))
    return next((spec[key] for key in keys if isinstance(spec, Mapping) and key in spec), None)


def _listed_values(spec: Any) -> list[Any]:
    """Return the values of a constant or a list; none for a range."""
    worded = _worded(spec)
    if not isinstance(worded, Mapping):
        return [] if worded is None else [worded]
    values = worded.get("values", [])
    return [worded["value"]] if "value" in worded else list(values) if isinstance(values, list | tuple) else []


def _are_all(spec: Any, values: tuple[object, ...]) -> bool:
    """Return true if a constant or a list has only these values, or lists of them."""
    found = [one for value in _listed_values(spec) for one in (value if isinstance(value, list) and value else [value])]
    return found != [] and all(one in values for one in found)


def _is_of_lora(name: str | None) -> bool:
    """Return true if the hyperparameter applies only to LoRA."""
    return "lora" in APPLIES_TO.get(str(name), ("", {}))[1]


def _are_names(spec: Any) -> bool:
    """Return true if it is a list of modules without groups."""
    return isinstance(spec, list | tuple) and all(isinstance(one, str) and one not in LORA_TARGETS for one in spec)


def _choices(name: str) -> tuple[Any, ...]:
    if name == "lora_targets":
        return LORA_TARGETS
    choices = get_args(_FIELDS[name].annotation) if name in _FIELDS else ()
    return choices if all(isinstance(one, str) for one in choices) else ()


def _but(entry: Alias) -> str:
    return f", {entry.but}" if entry.but else ""
