"""Sampler quality: distance from the best within a budget, on synthetic objectives over the shipped spaces.

Run it with `python benchmarks/samplers.py [--space encoder] [--seeds 50] [--trials 40] [--samplers tpe random ...]`.

Each seed draws an objective: a learning rate that matters most, whose best value differs between optimizers by their
base rates and by up to half a decade more, and harms more above than below; every other parameter of the space, the
conditional ones where they are active, with a weight between strong and hardly any and a best value of its own; noise
as of a training seed. A search begins with the default configuration. Its regret is what the trial that it would choose
is truly worse than the best one.

What is shipped searches one rate relative to the optimizer. It is held against what one writes with plain Optuna: a
range for each optimizer, `learning_rate_adamw` and so on, under Optuna's default sampler.
"""

import argparse
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import cast

import optuna
from optuna.samplers import BaseSampler, TPESampler

from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.search.samplers import SAMPLERS, build_sampler
from hpo.space.domains import Choice, Constant, Domain, Number, Range, Value, is_number
from hpo.space.parameters import SAMPLED_NAME, Parameter
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import space_of

NOISE = 0.01
STRONGEST, WEAKER = 0.4, 0.7
"""Weight of the parameter that matters most after the rate, and that of each further one over the one before it."""
TOO_HIGH = 3.0
"""How many times as much a rate that is too high harms as one that is too low."""
OF_DISTINCT_VALUES = ("grid", "brute_force")
RELATIVE, FOR_EACH = "relative rate", "a rate for each optimizer"
SHIPPED = f"tpe, {RELATIVE}"
PLAIN = f"Optuna's default, {FOR_EACH}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a configuration loses against the best one, which loses nothing."""

    space: SearchSpace
    weights: Mapping[str, float]
    best: Mapping[str, float]
    """Place of the best number in its range, 0 to 1, by parameter."""
    losses: Mapping[str, Mapping[Value, float]]
    """Loss of each choice, one of which loses nothing, by parameter."""
    shifts: Mapping[str, float]
    """What the best place of the rate is moved by, by optimizer."""

    def loss(self, values: Mapping[str, Value]) -> float:
        """Return the loss of a configuration, 0 or more; each parameter that it has adds its own."""
        active = [one for one in self.space.parameters if one.is_sampled and one.name in values]
        return sum(self.weights[one.name] * self._loss_of(one, values) for one in active)

    def _loss_of(self, parameter: Parameter, values: Mapping[str, Value]) -> float:
        value = values[parameter.name]
        if isinstance(parameter.domain, Choice):
            return self.losses[parameter.name][value]
        assert is_number(value)
        off = 2 * (place(parameter.domain, value) - self.best[parameter.name])
        if parameter.name != "learning_rate":
            return off**2
        off -= 2 * self.shifts[str(values.get("optimizer"))]
        return off**2 * (TOO_HIGH if off > 0 else 1.0)


def draw_objective(space: SearchSpace, seed: int) -> Objective:
    """Return an objective over `space` that depends on nothing but `seed`."""
    drawn = random.Random(seed)
    sampled = [parameter for parameter in space.parameters if parameter.is_sampled]
    others = [parameter.name for parameter in sampled if parameter.name != "learning_rate"]
    drawn.shuffle(others)
    weights = {name: STRONGEST * WEAKER**rank for rank, name in enumerate(others)} | {"learning_rate": 1.0}
    choices = {one.name: one.domain.choices for one in sampled if isinstance(one.domain, Choice)}
    return Objective(
        space=space,
        weights=weights,
        best={one.name: drawn.uniform(0.25, 0.75) for one in sampled if one.name not in choices},
        losses={name: draw_losses(drawn, values) for name, values in choices.items()},
        shifts={str(name): drawn.uniform(-0.25, 0.25) for name in choices.get("optimizer", (None,))},
    )


def draw_losses(drawn: random.Random, choices: Sequence[Value]) -> dict[Value, float]:
    """Return a loss for each choice, from 0 to at most 1."""
    losses = [drawn.random() for _ in choices]
    return {choice: loss - min(losses) for choice, loss in zip(choices, losses, strict=True)}


def place(domain: Domain, value: Number) -> float:
    """Return where in its range a number lies, 0 to 1."""
    ends = domain.ends()
    assert ends is not None
    low, high = ends
    if isinstance(domain, Range) and domain.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


class RateForEachOptimizer:
    """A trial that is asked for a multiplier of the base rate, and takes a rate from the optimizer's own range."""

    def __init__(self, trial: optuna.Trial, base_rates: Mapping[str, float]) -> None:
        self._trial = trial
        self._base_rates = base_rates

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Suggest a number."""
        if name != SAMPLED_NAME:
            return self._trial.suggest_float(name, low, high, step=step, log=log)
        optimizer = self._trial.params["optimizer"]
        base = self._base_rates[optimizer]
        return self._trial.suggest_float(f"learning_rate_{optimizer}", low * base, high * base, log=log) / base

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Suggest a whole number."""
        return self._trial.suggest_int(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """Suggest a choice."""
        chosen: Value = self._trial.suggest_categorical(name, choices)
        return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A sampler and how it is asked for the rate."""

    name: str
    build: Callable[[int], BaseSampler]
    """Seed -> sampler."""
    for_each_optimizer: bool = False


def contestants(space: SearchSpace, space_name: str, samplers: Sequence[str], trials: int) -> list[Contestant]:
    """Return each of `samplers` with the relative rate and with a rate for each optimizer, and plain Optuna."""

    def builds(name: str) -> Callable[[int], BaseSampler]:
        return lambda seed: build_sampler(study(space_name, name, seed, trials), space)

    ours = [
        Contestant(name=f"{name}, {form}", build=builds(name), for_each_optimizer=form == FOR_EACH)
        for name in samplers
        for form in (RELATIVE, FOR_EACH)
    ]
    plain = Contestant(name=PLAIN, build=lambda seed: TPESampler(seed=seed), for_each_optimizer=True)
    return [*ours, plain] if "tpe" in samplers else ours


def study(space_name: str, sampler: str, seed: int, trials: int) -> StudyConfig:
    """Return the study that hpo would search."""
    return load_config(
        values={
            "study": "benchmark", "seed": seed, "model": {"name": "none"}, "data": {"train": "none.csv"},
            "space": space_name, "search": {"sampler": sampler}, "budget": {"trials": trials},
        }
    )  # fmt: skip


def regret(contestant: Contestant, objective: Objective, trials: int, seed: int) -> float:
    """Return the loss of the trial that a search of `trials` trials would choose, by its noisy score."""
    space = objective.space
    base_rates = optimizer_rates(space)
    searched = optuna.create_study(direction="maximize", sampler=contestant.build(seed))
    searched.enqueue_trial(default_of(space, base_rates if contestant.for_each_optimizer else None))
    tried: list[tuple[float, float]] = []
    for number in range(trials):
        trial = searched.ask()
        of_optimizer = cast(optuna.Trial, RateForEachOptimizer(trial, base_rates))
        loss = objective.loss(space.suggest(of_optimizer if contestant.for_each_optimizer else trial))
        score = 1 - loss + random.Random(f"{seed}/{number}").gauss(0, NOISE)
        searched.tell(trial, score)
        tried.append((score, loss))
    return max(tried)[1]


def optimizer_rates(space: SearchSpace) -> Mapping[str, float]:
    """Return the base rate of each optimizer of `space`."""
    return next(one.relative_to["optimizer"] for one in space.parameters if one.name == "learning_rate")


def default_of(space: SearchSpace, base_rates: Mapping[str, float] | None) -> dict[str, Value]:
    """Return the default configuration; with `base_rates`, its rate as that of its optimizer."""
    default = space.sampled(space.default_values())
    if base_rates is None:
        return default
    multiplier, optimizer = default.pop(SAMPLED_NAME), str(default["optimizer"])
    assert is_number(multiplier)
    return default | {f"learning_rate_{optimizer}": multiplier * base_rates[optimizer]}


def main(arguments: argparse.Namespace) -> int:
    """Print the table; return 1 if what is shipped is worse than plain Optuna."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = space_of(arguments.space)
    dimensions = sum(not isinstance(one.domain, Constant) for one in space.parameters)
    print(f"space {arguments.space} ({dimensions} parameters), {arguments.seeds} seeds of {arguments.trials} trials")
    print(f"{'':<46}regret   standard error")
    objectives = [draw_objective(space, seed) for seed in range(arguments.seeds)]
    regrets: dict[str, list[float]] = {}
    for one in contestants(space, arguments.space, arguments.samplers, arguments.trials):
        found = [regret(one, objective, arguments.trials, seed) for seed, objective in enumerate(objectives)]
        regrets[one.name] = found
        print(f"{one.name:<46}{mean(found):6.3f}   {standard_error(found):.3f}", flush=True)
    return judged(regrets) if PLAIN in regrets else 0


def judged(regrets: Mapping[str, Sequence[float]]) -> int:
    """Print how what is shipped compares with plain Optuna, objective by objective; return 1 if it is worse."""
    differences = [ours - plain for ours, plain in zip(regrets[SHIPPED], regrets[PLAIN], strict=True)]
    by, error = mean(differences), standard_error(differences)
    print(f"{SHIPPED}, less {PLAIN}: {by:+.3f}, standard error {error:.3f}")
    if by <= 2 * error:
        return 0
    print("What is shipped as default is worse than plain Optuna's default, by more than two standard errors.")
    return 1


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean."""
    return stdev(values) / math.sqrt(len(values))


def parsed() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    fast = ["tpe", "random", "cmaes", "qmc"]
    known = [name for name in SAMPLERS if name not in OF_DISTINCT_VALUES]
    parser.add_argument("--space", default="encoder", help="name of a shipped space with a relative rate")
    parser.add_argument("--seeds", type=int, default=50, help="objectives, at least 2")
    parser.add_argument("--trials", type=int, default=40, help="trials of each search")
    parser.add_argument("--samplers", nargs="+", choices=known, default=fast, help="gp takes most of a minute a seed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(parsed()))
