"""Samplers, which propose configurations: Optuna's and the two enumerations, by name.

The randomness of a proposal depends only on the study's seed and the trial's number.
"""

import copy
import hashlib
import heapq
import warnings
from collections.abc import Callable, Container, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.search.grid_sampler import ENUMERATIONS, EnumeratingSampler, combination_key
from hpo.search.pruners import scores_at_rungs
from hpo.space.domains import Choice, Range
from hpo.space.parameters import Condition, Parameter
from hpo.space.search_space import SearchSpace
from hpo.store.optuna_adapter import PassingStorage, storage_of

MAX_STARTUP_TRIALS = 10
LEARNED_FROM = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Largest numbers of trials that a sampler sees."""

    best: int
    """Of the best completed trials."""
    others: int
    """Of all completed or pruned trials, evenly spaced over the search."""
    training: int
    """Of the running trials, evenly spaced."""

    def of(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the `trials` that a sampler sees, in order; waiting trials are always among them."""
        ended = [trial for trial in trials if trial.state in LEARNED_FROM]
        training = [trial for trial in trials if trial.state == TrialState.RUNNING]
        seen = {trial.number for trial in _spread(training, self.training)}
        if len(ended) > self.best + self.others:
            complete = (trial for trial in ended if trial.state == TrialState.COMPLETE)
            best = heapq.nlargest(self.best, complete, key=lambda trial: trial.values[0])
            ended = [*best, *_spread(ended, self.others)]
        elif len(training) <= self.training:
            return list(trials)
        seen |= {trial.number for trial in ended}
        return [trial for trial in trials if trial.number in seen or trial.state == TrialState.WAITING]


def _spread(trials: Sequence[FrozenTrial], most: int) -> Sequence[FrozenTrial]:
    """Return at most that many of `trials`, evenly spaced and including the newest."""
    return trials if len(trials) <= most else [trials[-1 - place * len(trials) // most] for place in range(most)]


class FixedTrials(PassingStorage):  # type: ignore[misc]
    """A study's storage with a fixed list of trials."""

    def __init__(self, backend: BaseStorage, trials: Sequence[FrozenTrial]) -> None:
        self.backend, self.trials = backend, trials

    def get_all_trials(
        self, _study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in one of `states`, or all."""
        shown = [trial for trial in self.trials if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown


class EarlierTrials:
    """Completed trials of an earlier study, in the space of this one; numbered below 0, the oldest first."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        """Keep the trials, with their original scores."""
        self.trials = trials
        self._scores: dict[Hashable, list[float]] = {}
        for trial in trials:
            self._scores.setdefault(combination_key(trial.params), []).append(trial.values[0])
        self._shift, self._shifted = 0.0, trials

    def beside(self, own: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        """Return the trials with scores shifted to be comparable with those of the study's own trials.

        Scores depend on the examples and the model, so they are shifted by the median difference between the two scores
        of configurations that both studies have trained: the default, and the best few, which are tried first.
        """
        both = [
            trial.values[0] - fmean(self._scores[key])
            for trial in own
            if trial.state == TrialState.COMPLETE and "fixed_params" in trial.system_attrs
            if (key := combination_key(trial.params)) in self._scores
        ]
        shift = median(both) if both else 0.0
        if shift != self._shift:
            self._shift, self._shifted = shift, [_shifted(trial, shift) for trial in self.trials]
        return self._shifted


def _shifted(trial: FrozenTrial, shift: float) -> FrozenTrial:
    shifted = copy.copy(trial)
    shifted.values = [trial.values[0] + shift]
    return shifted


def windowed_study(study: Study, window: Window | None, earlier: Sequence[EarlierTrials] = ()) -> Study:
    """Return a study reduced to a window of its trials, plus trials of earlier studies, all read once.

    TPE reads them anew for every group of parameters.
    """
    own = study.get_trials(deepcopy=False)
    seen = [*(trial for one in earlier for trial in one.beside(own)), *own]
    return _fixed(study, [_with_rungs_as_steps(trial) for trial in (window.of(seen) if window else seen)])


def _with_rungs_as_steps(trial: FrozenTrial) -> FrozenTrial:
    """Return a paused or pruned trial as pruned at its last rung, with rungs numbered from 0; others are unchanged.

    TPE ranks pruned trials by their last step first. The same step must mean the same share of a trial's training.
    """
    if trial.state not in (TrialState.WAITING, TrialState.PRUNED) or not (scores := scores_at_rungs(trial)):
        return trial
    shown = copy.copy(trial)
    shown.state, shown.intermediate_values = TrialState.PRUNED, scores
    return shown


def _fixed(study: Study, trials: Sequence[FrozenTrial]) -> Study:
    return optuna.load_study(study_name=study.study_name, storage=FixedTrials(storage_of(study), trials))


TPE_WINDOW = Window(best=25, others=900, training=100)
"""Window of TPE. It models at most the best 25 trials as good, and needs only the density of the others and of the
running trials. It weights the newest trials most, so a thousand running trials would otherwise dominate what it avoids.
"""


class PerTrialSampler(BaseSampler):
    """A sampler created anew for each trial, seeded by (study seed, trial number).

    A seeded Optuna sampler repeats its proposals when a search is restarted: two `TPESampler(seed=0)` on one store
    proposed the same five trials. Here each trial has its own randomness, however often a proposal is requested.

    `after_trial` is not called, because the state that it changes would be lost. Optuna's samplers learn from the
    stored study.
    """

    def __init__(
        self,
        build: Callable[[int], BaseSampler],
        *,
        study_seed: int,
        together: Set[str] | None = None,
        window: Window | None = None,
    ) -> None:
        """Keep a factory of samplers.

        Args:
            build: seed -> sampler.
            study_seed: the study's seed.
            together: parameters that it proposes jointly, by sampled names, which every trial must have; None to let it
                infer them.
            window: limits on the finished trials that it sees; None for all, read anew for each use.
        """
        self.earlier: Sequence[EarlierTrials] = ()
        """Trials of earlier studies that it also learns from."""
        self._build = build
        self._study_seed = study_seed
        self._together = together
        self._window = window
        self._seen: Study | None = None
        self._current = self._made("sampler")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Build the sampler of `trial`."""
        self._current = self._made("sampler", trial.number)
        sees_all = self._window is None and not self.earlier
        self._seen = None if sees_all else windowed_study(study, self._window, self.earlier)
        self._current.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are proposed jointly."""
        if self._together is None:
            if self._seen is not None:
                # Only the sets of parameters matter here, so one trial of each set is enough.
                learned = self._seen.get_trials(deepcopy=False, states=LEARNED_FROM)
                kinds = {tuple(one.distributions): one for one in reversed(learned)}
                study = _fixed(study, sorted(kinds.values(), key=lambda one: one.number))
            return self._current.infer_relative_search_space(study, trial)
        # Optuna would use the parameters that all finished trials have, which may at first include a conditional one:
        # when that changes, CMA-ES stops for good, and a quasi-random sequence starts again.
        trials = (self._seen or study).get_trials(deepcopy=False)
        known = next((one.distributions for one in trials if self._together <= one.distributions.keys()), {})
        return {name: known[name] for name in sorted(known) if name in self._together and not known[name].single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the parameters of `search_space` jointly."""
        return self._current.sample_relative(self._seen or study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Propose one parameter independently."""
        return self._current.sample_independent(self._seen or study, trial, param_name, param_distribution)

    def _made(self, *purpose: object) -> BaseSampler:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return self._build(derived_seed(self._study_seed, *purpose))


@dataclass(frozen=True, slots=True)
class Sampler:
    """One way to propose configurations."""

    description: str
    source: str
    build: Callable[[StudyConfig, SearchSpace], BaseSampler]
    waits_for: frozenset[TrialState] = frozenset()
    """States of the trials that count towards `startup_trials`; empty if it has no random start."""
    takes_long: bool = False
    """True if a proposal may take seconds or minutes."""


def _tpe(config: StudyConfig, _space: SearchSpace) -> BaseSampler:
    """Return multivariate TPE with groups of conditional parameters, which avoids running trials."""
    startup = startup_trials(config)
    return PerTrialSampler(
        lambda seed: TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        ),
        study_seed=config.seed,
        window=TPE_WINDOW,
    )  # fmt: skip


def _random(config: StudyConfig, _space: SearchSpace) -> BaseSampler:
    return PerTrialSampler(lambda seed: RandomSampler(seed=seed), study_seed=config.seed)


def _modelling(sampler: str, build: Callable[..., BaseSampler]) -> Callable[[StudyConfig, SearchSpace], BaseSampler]:
    """Return a factory of samplers that jointly model the parameters which every trial has."""

    def built(config: StudyConfig, space: SearchSpace) -> BaseSampler:
        options = {"n_startup_trials": startup_trials(config), "warn_independent_sampling": False}
        together = _names_of(sampled_jointly(sampler, space))
        return PerTrialSampler(lambda seed: build(seed=seed, **options), study_seed=config.seed, together=together)

    return built


def _qmc(config: StudyConfig, space: SearchSpace) -> BaseSampler:
    """Return a sampler of one scrambled quasi-random sequence, whose position is kept in the store."""
    sequence = derived_seed(config.seed, "sequence")

    def build(seed: int) -> BaseSampler:
        independent = RandomSampler(seed=seed)
        return QMCSampler(
            qmc_type="sobol", scramble=True, seed=sequence, independent_sampler=independent,
            warn_independent_sampling=False,
        )  # fmt: skip

    return PerTrialSampler(build, study_seed=config.seed, together=_names_of(sampled_jointly("qmc", space)))


def _grid(config: StudyConfig, space: SearchSpace) -> BaseSampler:
    return EnumeratingSampler(space, otherwise=_random(config, space))


def _brute_force(config: StudyConfig, space: SearchSpace) -> BaseSampler:
    order = derived_seed(config.seed, "order")
    return EnumeratingSampler(space, otherwise=_random(config, space), shuffled_by=order)


SAMPLERS: Mapping[str, Sampler] = {
    "tpe": Sampler(
        "models where the better trials lie, conditional parameters too",
        "Bergstra et al. 2011; Optuna's TPESampler",
        _tpe,
        waits_for=frozenset({TrialState.COMPLETE, TrialState.PRUNED}),
    ),
    "random": Sampler("every trial by itself, at random", "Bergstra and Bengio 2012; Optuna's RandomSampler", _random),
    "gp": Sampler(
        "a Gaussian process and its expected improvement; for few, costly trials",
        "Jones et al. 1998; Optuna's GPSampler",
        _modelling("gp", GPSampler),
        waits_for=frozenset({TrialState.COMPLETE}),
        takes_long=True,
    ),
    "cmaes": Sampler(
        "a normal distribution that moves towards the better trials; for numbers, and many trials",
        "Hansen and Ostermeier 2001; Optuna's CmaEsSampler",
        _modelling("cmaes", CmaEsSampler),
        waits_for=frozenset({TrialState.COMPLETE}),
    ),
    "qmc": Sampler(
        "a scrambled Sobol sequence, which fills the space more evenly than chance",
        "Sobol 1967; Owen 1998; Optuna's QMCSampler",
        _qmc,
    ),
    "grid": Sampler("every combination once, in the order written", "hpo", _grid),
    "brute_force": Sampler("every combination once, in random order", "hpo", _brute_force),
}


def build_sampler(config: StudyConfig, space: SearchSpace) -> BaseSampler:
    """Return the study's sampler for its space."""
    return SAMPLERS[sampler_of(config, space)].build(config, space)


def sampler_of(config: StudyConfig, space: SearchSpace) -> str:
    """Return the name of the study's sampler: the requested one, or `brute_force` if the space is small enough.

    That is, if the space has no more combinations than the search has trials, or, without a number of trials, no more
    than the random initial trials. Other samplers would propose some combinations several times, and others never.
    """
    asked, budget = config.search.sampler, config.budget.most_trials
    most = startup_trials(config) if budget is None else budget
    return "brute_force" if asked not in ENUMERATIONS and space.has_at_most(most) else asked


def startup_trials(config: StudyConfig) -> int:
    """Return the number of random trials before TPE, GP or CMA-ES proposes.

    A quarter of the budget, between 4 and 10: Optuna's fixed 10 would make a search of 10 trials entirely random.
    """
    trials = config.budget.most_trials
    usual = MAX_STARTUP_TRIALS if trials is None else min(MAX_STARTUP_TRIALS, max(4, trials // 4))
    return config.search.startup_trials or usual


def sampled_jointly(sampler: str, space: SearchSpace) -> tuple[Parameter, ...]:
    """Return the parameters of `space` that `gp`, `cmaes` or `qmc` proposes jointly: those that every trial has.

    CMA-ES takes only numbers. All other parameters are drawn at random.
    """
    always: dict[str, Parameter] = {}
    for parameter in space.parameters:
        # A condition that always holds in this space does not make a parameter conditional.
        if all(one.parent in always and _holds_always(one, always[one.parent]) for one in parameter.when):
            always[parameter.name] = parameter
    numbers_only = sampler == "cmaes"
    return tuple(
        one for one in always.values() if one.is_sampled and not (numbers_only and isinstance(one.domain, Choice))
    )


def _holds_always(condition: Condition, parent: Parameter) -> bool:
    assert not isinstance(parent.domain, Range), "a condition names a parameter of distinct values"
    return all(value in condition.values for value in parent.domain.values())


def _names_of(parameters: tuple[Parameter, ...]) -> frozenset[str]:
    return frozenset(parameter.sampled_name for parameter in parameters)


SEEDS = 2**31


def derived_seed(study_seed: int, *purpose: object) -> int:
    """Return a seed in 0 .. `SEEDS` - 1 that depends only on its arguments, equal in every process."""
    text = "/".join(str(part) for part in (study_seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def seed_of(config: StudyConfig, trial: int, hyperparameters: Hyperparameters) -> int:
    """Return a trial's seed: the one in its space, else one derived from the study's seed and its number."""
    own = hyperparameters.seed
    return derived_seed(config.seed, "trial", trial) if own is None else own


def fixed_sampler(parameters: dict[str, Any]) -> BaseSampler:
    """Return a sampler that proposes these parameters, by sampled names."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return PartialFixedSampler(parameters, RandomSampler())
