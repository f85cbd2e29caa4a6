"""Trial sizes, counted before any training: tokens and updates of a trial, and the space's dearest and cheapest trials.

Costs of trials are compared field by field, in the order of `COSTS`: first what is trained, which decides most of the
memory, then the size of a batch and the length of a trial, then the optimizer's state.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hpo.config.hyperparameters import Hyperparameters, resolved
from hpo.config.study_file import StudyConfig
from hpo.data.batching import padded_tokens
from hpo.messages import Assignment, Dimensions
from hpo.search.pruners import trial_milestones
from hpo.space.consistency import Values, combinations_of, every_value
from hpo.space.domains import Choice, Constant, Value, is_number
from hpo.space.parameters import Parameter
from hpo.space.search_space import SearchSpace
from hpo.training.milestones import milestones_of, steps_per_epoch

OPTIMIZER_STATES: Mapping[str, int] = {
    "sgd": 0, "adafactor": 0, "momentum": 1, "nesterov": 1, "lion": 1, "adagrad": 1, "rmsprop": 1, "muon": 1,
    "adam": 2, "adamw": 2, "nadam": 2, "radam": 2, "adamax": 2, "adadelta": 2, "schedule_free_adamw": 2,
}  # fmt: skip
"""Optimizer -> numbers of state per weight; about 0 for Adafactor, which keeps only row and column statistics."""
METHODS = ("head", "top_layers", "lora", "full")
"""Methods, the cheapest first."""
Signs = Mapping[str, int]
Floats = NDArray[np.float64]
UNKNOWN = Dimensions(train_rows=1000, layers=12)
"""Dimensions assumed for unknown data, so that the time of a trial is proportional to its rows."""
FORWARD = 1 / 3
"""Cost of a forward pass divided by that of forward and backward; backward takes about twice as long."""
READ = 0.02
"""Cost of reading the hidden states of a frozen layer divided by that of computing them."""
BATCHES = 8
"""Number of batches over which the tokens per step are averaged."""
NO_LIMIT = 64
"""Number of layers that represents all of them when trials are compared."""
MAX_CACHED = 1000
"""Size of the cache of works, in configurations."""


def _number_or_all(value: Value) -> float:
    """Return the number, or infinity for null, which means all."""
    return float(value) if is_number(value) else math.inf


COSTS: Mapping[str, Callable[[Value], float]] = {
    "method": lambda value: METHODS.index(str(value)),
    **dict.fromkeys(("max_length", "kept_layers", "trained_layers", "batch_size"), _number_or_all),
    **dict.fromkeys(("epochs", "data_fraction"), _number_or_all),
    "optimizer": lambda value: OPTIMIZER_STATES[str(value)],
}
"""Field -> rank of a value by cost; the field that decides most comes first."""

_MOST: Signs = dict.fromkeys(COSTS, 1)
_LEAST: Signs = dict.fromkeys(COSTS, -1)


def dearest(space: SearchSpace) -> Hyperparameters:
    """Return the configuration of `space` that takes the most memory, and the most work."""
    return _extreme(space, _MOST)


def slowest(space: SearchSpace) -> Hyperparameters:
    """Return the dearest configuration with the smallest batch: it has the most steps, which may not fill a GPU."""
    return _extreme(space, {**_MOST, "batch_size": -1})


def cheapest(space: SearchSpace) -> Hyperparameters:
    """Return the configuration of `space` that takes the least memory, and the least work."""
    return _extreme(space, _LEAST)


def _extreme(space: SearchSpace, signs: Signs) -> Hyperparameters:
    """Return the most extreme configuration in the direction of `signs`.

    A parameter that decides by a condition whether a cost is active takes each of its values, every other one its most
    extreme. Such combinations are valid, because a space with an invalid one is refused.
    """
    deciding = _deciding(space)

    def values_of(parameter: Parameter, chosen: Values) -> Iterable[Value]:
        if parameter.name in deciding:
            return every_value(parameter, chosen)
        return (_furthest(parameter, chosen, signs),)

    candidates = combinations_of(space.parameters, values_of, {})
    furthest = max(candidates, key=lambda values: tuple(_distance(name, values, signs) for name in COSTS))
    return space.hyperparameters(furthest)


def _deciding(space: SearchSpace) -> set[str]:
    """Return the parameters that decide, by conditions, whether a parameter with a cost is active."""
    deciding: set[str] = set()
    # Backwards, because a parameter comes after those that its conditions name.
    for parameter in reversed(space.parameters):
        if parameter.name in COSTS or parameter.name in deciding:
            deciding |= {condition.parent for condition in parameter.when}
    return deciding


def _furthest(parameter: Parameter, chosen: Values, signs: Signs) -> Value:
    """Return the most extreme value in the direction of `signs`; the default if values cost the same."""
    name, domain = parameter.name, parameter.domain
    if name not in COSTS:
        return parameter.default
    ends = domain.values() if isinstance(domain, Constant | Choice) else (domain.low, domain.high)
    return max((parameter.default, *ends), key=lambda value: _distance(name, chosen | {name: value}, signs))


def _distance(name: str, values: Values, signs: Signs) -> float:
    return signs[name] * COSTS[name](resolved(name, values))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """Work of a trial that is neither pruned nor stops early.

    The units are, in this order: tokens trained on and updates, as in a full fine-tune of all layers by SGD; tokens
    scored, with all layers; openings. Tokens include padding and the fixed cost of passes.
    """

    steps: int
    """Optimizer steps, over all folds."""
    total: Floats
    """Work of the whole trial; shape (4,)."""
    rungs: tuple[int, ...]
    """Rungs of its evaluations, rising."""
    shares: Floats
    """Share of its steps taken at each rung."""
    scored: Floats
    """Tokens scored up to and at each rung."""
    kind: tuple[float, ...]
    """Coordinates of its configuration, for the covariance of the cost model."""
    states: tuple[int, int] = (0, 0)
    """Number of frozen layers that are computed once, and the tokens of the longest row."""
    states_work: Floats = field(default_factory=lambda: np.zeros(4))
    """Work of computing them, which is not in `total`: only the first trial has it."""

    def done_at(self, share: float) -> Floats:
        """Return the work done once `share` of its steps, 0..1, are taken and scored."""
        scored = np.append(0.0, self.scored)[np.searchsorted(self.shares, share + 1e-9, side="right")]
        return np.array([share * self.total[0], share * self.total[1], scored, self.total[3]])

    def share_at(self, rung: int) -> float:
        """Return the share of its steps that are taken at a rung."""
        return float(self.shares[self.rungs.index(rung)]) if rung in self.rungs else min(1.0, rung / self.rungs[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Workload of a study: the work of each of its trials."""

    config: StudyConfig
    space: SearchSpace
    dimensions: Dimensions = UNKNOWN
    confirms: bool = False
    """True for runs of a confirmation: they have only full evaluations, and score held-out rows too."""
    _works: dict[tuple[object, ...], Work] = field(default_factory=dict, init=False)
    _steps: dict[tuple[int, int], float] = field(default_factory=dict, init=False)

    def of(self, hyperparameters: Hyperparameters) -> Work:
        """Return the work of a trial under `hyperparameters`, a configuration of the space."""
        key = (*(getattr(hyperparameters, name) for name in COSTS), _changes_texts(hyperparameters))
        if key not in self._works:
            if len(self._works) == MAX_CACHED:
                self._works.clear()
            self._works[key] = self._counted(hyperparameters)
        return self._works[key]

    def counts_for(self, hyperparameters: Hyperparameters) -> Floats:
        """Return the weights of a trained token, an update, a scored token and an opening in `Work`; shape (4,)."""
        layers = self.dimensions.layers
        kept, trained, frozen = self._layers(hyperparameters)
        # Gradients of states and of weights; LoRA's go through all layers, but those of its few weights cost next to
        # nothing.
        backward = kept if hyperparameters.method == "lora" else 2 * trained
        # The head counts as one more layer to update.
        updates = (trained + 1) * (1 + OPTIMIZER_STATES[hyperparameters.optimizer])
        scored = kept - (1 - READ) * frozen
        forward = kept if _changes_texts(hyperparameters) else scored
        return np.array([FORWARD * (forward + backward), updates, scored, layers]) / layers

    def _layers(self, hyperparameters: Hyperparameters) -> tuple[int, int, int]:
        """Return the number of layers, of trained layers, and of layers that are computed once."""
        kept = min(hyperparameters.kept_layers or self.dimensions.layers, self.dimensions.layers)
        trained = {"full": kept}.get(hyperparameters.method, min(hyperparameters.trained_layers or 0, kept))
        is_kept = self.dimensions.keeps_states and hyperparameters.method != "lora"
        return kept, trained, kept - trained if is_kept else 0

    def _states_work(self, hyperparameters: Hyperparameters) -> Floats:
        """Return the work of computing the outputs of frozen layers once for all rows."""
        sizes, (_, _, frozen) = self.dimensions, self._layers(hyperparameters)
        splits = (
            (sizes.train_rows, sizes.train_lengths),
            (0 if sizes.folds else sizes.validation_rows, sizes.validation_lengths),
        )
        tokens = sum(rows * np.minimum(lengths, hyperparameters.max_length).mean() for rows, lengths in splits)
        return np.array([0.0, 0.0, tokens * frozen / sizes.layers, 0.0])

    def _counted(self, hyperparameters: Hyperparameters) -> Work:
        sizes, batch = self.dimensions, hyperparameters.batch_size
        assignment = Assignment(
            trial=0, attempt=1, hyperparameters=hyperparameters, seed=0,
            milestones=trial_milestones(self.config, self.space, hyperparameters, confirms=self.confirms),
            maximum_passes=self.space.maximum_passes(),
        )  # fmt: skip
        steps, trained, rungs, taken, rows_scored = 0, 0, list[int](), list[int](), list[int]()
        for fold, (rows, validation_rows) in enumerate(sizes.folds or ((sizes.train_rows, sizes.validation_rows),)):
            rows = max(round(hyperparameters.data_fraction * rows), min(rows, sizes.least_rows))
            # A fold is scored at its end.
            places = milestones_of(assignment, rows, sizes.train_rows, fold if sizes.folds else None)
            for step, place in places.items():
                rungs.append(place.rung)
                taken.append(steps + step)
                rows_scored.append(self._scored_rows(validation_rows, in_full=place.full or bool(sizes.folds)))
            steps += hyperparameters.epochs * steps_per_epoch(rows, batch)
            trained += hyperparameters.epochs * rows
        counts = self.counts_for(hyperparameters)
        mean = float(np.minimum(sizes.validation_lengths, hyperparameters.max_length).mean())
        scored = counts[2] * np.cumsum([count * mean + sizes.pass_tokens for count in rows_scored])
        tokens = trained / batch * self._step_tokens(batch, hyperparameters.max_length)
        return Work(
            steps=steps,
            total=np.array([tokens * counts[0], steps * counts[1], scored[-1], len(sizes.folds) or 1]),
            rungs=tuple(rungs),
            shares=np.array(taken) / steps,
            scored=scored,
            kind=_kind(hyperparameters),
            states=(self._layers(hyperparameters)[2], hyperparameters.max_length),
            states_work=self._states_work(hyperparameters),
        )

    def _scored_rows(self, validation_rows: int, *, in_full: bool) -> int:
        part = min(self.config.evaluation.part_rows, validation_rows)
        read = self.dimensions.confirmation_rows if self.confirms else 0
        # Training rows are scored only at a new best score: at most with each evaluation on all of validation.
        return validation_rows + part + read if in_full else part

    def _step_tokens(self, batch_size: int, max_length: int) -> float:
        """Return the mean tokens of a batch, with padding and the cost of passes."""
        key = batch_size, max_length
        if key not in self._steps:
            lengths, count = np.minimum(self.dimensions.train_lengths, max_length), BATCHES * batch_size
            # Lengths drawn evenly, then shuffled into batches.
            places = ((np.arange(count) + 0.5) * lengths.size / count).astype(int)
            batches = np.random.default_rng(0).permutation(lengths[places]).reshape(BATCHES, batch_size)
            cost = self.dimensions.pass_tokens
            self._steps[key] = sum(padded_tokens(batch, pass_tokens=cost) for batch in batches) / BATCHES
        return self._steps[key]


def _changes_texts(hyperparameters: Hyperparameters) -> bool:
    """Return true if a trial sees other tokens of a row each time."""
    return bool(hyperparameters.word_swap or hyperparameters.token_masking)


def _kind(hyperparameters: Hyperparameters) -> tuple[float, ...]:
    h = hyperparameters
    method, optimizer = METHODS.index(h.method), list(OPTIMIZER_STATES).index(h.optimizer)
    sizes = (h.batch_size, h.max_length, h.kept_layers or NO_LIMIT, h.trained_layers or NO_LIMIT)
    return (2.0 * method, 0.05 * optimizer, *(0.5 * math.log2(size) for size in sizes))
