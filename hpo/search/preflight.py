"""Preflight checks: refusals and notes before the first trial."""

import math
from collections.abc import Mapping
from dataclasses import replace

from hpo.config.hyperparameters import resolved
from hpo.config.naming import with_translations_joined
from hpo.config.optional_packages import refuse_missing
from hpo.config.study_file import StudyConfig
from hpo.config.tasks import TASK_FACTS, unused_hyperparameters, unused_sentence
from hpo.errors import ConfigurationError, SpaceError
from hpo.messages import Demands
from hpo.search.grid_sampler import ENUMERATIONS
from hpo.search.proposals import published
from hpo.search.samplers import sampled_jointly, sampler_of
from hpo.space.consistency import cases
from hpo.space.domains import Choice, Constant
from hpo.space.parameters import Parameter
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import AUTO, load_space, shipped_spaces, space_for, space_of

MAX_COMBINATIONS = 10_000
"""Most combinations of a grid, because each proposal iterates over all."""
SETTINGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sampler": {"startup_trials": ("tpe", "gp", "cmaes")},
    "pruner": {
        "pruner_startup_trials": ("asynchronous_median", "median", "percentile", "patient"),
        "percentile": ("percentile",),
        "reduction_factor": ("successive_halving", "promotion", "hyperband"),
        "patience": ("patient",),
        "lowest_score": ("threshold",),
        "p_threshold": ("wilcoxon",),
    },
}
"""Settings that only some samplers or pruners use -> those that do."""
IN_EXTRAS = {"schedule_free_adamw": "schedulefree"}
"""Optimizer -> module of the extra that implements it."""
SHARING = {"head", "lora"}
"""Methods that leave the pretrained weights as they are."""
KEPT_OF_DOUBLE = 0.9
"""Value of a trial relative to one in a search with half the slots, which learns from each result earlier: on published
learning curves a search with eight workers took a sixth of the time of one with one worker, and 0.9**3 * 8 is 6."""
LEAST_GAIN = 1.1
"""Least speed-up to a good score for which trials are trained together."""
JOINT = ("gp", "cmaes")
"""Samplers that model only the parameters that every trial has, and draw the others at random."""


def refuse_no_study(taker: str, config: object) -> None:
    """Raise ConfigurationError if what `taker`, a name of the Python API, was given is no study."""
    if not isinstance(config, StudyConfig):
        raise ConfigurationError(
            f"{taker} takes a study, but got a {type(config).__name__}; read one with hpo.load_config(PATH), or make "
            "one with hpo.load_config(values=...)."
        )


def space_of_study(config: StudyConfig) -> SearchSpace:
    """Return a study's space without shipped parameters and methods that its task does not use; notes list the changes.

    `auto` becomes the shipped space for the model; a note gives the choice and the reason.

    Raises:
        SpaceError: the user gives a hyperparameter that the task does not use.
    """
    space, task = _named_space(config), config.task.kind
    given = {one.name: one.domain.value if isinstance(one.domain, Constant) else one for one in space.parameters}
    idle, method = unused_hyperparameters(task, given), TASK_FACTS[task].method
    if not idle and not space.takes("method", method):
        return space
    # Compared without conditions: an override of one parameter turns the whole space into a mapping.
    shipped = [replace(one, when=()) for name in shipped_spaces() for one in load_space(name).parameters]
    if own := [one.name for one in space.parameters if one.name in idle and replace(one, when=()) not in shipped]:
        raise SpaceError(f"Space {space.name}: {unused_sentence(task, own)}")
    used = [one for one in space.parameters if one.name not in idle]
    fitting = [_without(one, method) if replace(one, when=()) in shipped else one for one in used]
    left_out = [*idle, *([] if fitting == used else [f"method {method}"])]
    note = f"Space {space.name} is searched without {', '.join(left_out)}, which {task} does not use."
    return replace(space, parameters=tuple(fitting), notes=(*space.notes, *([note] if left_out else [])))


def _without(parameter: Parameter, method: str) -> Parameter:
    """Return a parameter, `method` without one of its values."""
    if parameter.name != "method" or not isinstance(parameter.domain, Choice):
        return parameter
    return replace(parameter, domain=Choice(choices=tuple(one for one in parameter.domain.choices if one != method)))


def _named_space(config: StudyConfig) -> SearchSpace:
    if config.space != AUTO:
        return space_of(config.space)
    name, note = space_for(config.model.model_dump())
    return replace(load_space(name), notes=(note,))


def refuse_unfit_search(config: StudyConfig, space: SearchSpace) -> None:
    """Raise an error for a space that does not fit the study's sampler or folds, or needs a missing package.

    Raises:
        SpaceError: says what cannot be combined, and the remedy.
        ConfigurationError: says what to install.
    """
    sampler = config.search.sampler
    if sampler == "cmaes":
        refuse_missing("cmaes", "search.sampler cmaes")
    for optimizer, module in IN_EXTRAS.items():
        if space.takes("optimizer", optimizer):
            refuse_missing(module, f"Optimizer {optimizer} of space {space.name}")
    if sampler in ENUMERATIONS:
        _refuse_too_many(sampler, space)
    if sampler in JOINT and not sampled_jointly(sampler, space):
        raise SpaceError(
            f"search.sampler is {sampler}, which models {_models(sampler)}, but space {space.name} has none, so it "
            "would draw everything at random; choose tpe."
        )
    refuse_unfit_of_folds(config, space)
    _refuse_method(config, space)
    _refuse_slots(config, space)


def refuse_unfit_of_folds(config: StudyConfig, space: SearchSpace) -> None:
    """Raise an error if a study has folds, which are scored only at their end, but its space needs earlier scores.

    Raises:
        SpaceError: says what cannot be combined, and the remedy.
    """
    if not config.evaluation.folds:
        return
    rule = "With evaluation.folds a fold is scored only at its end"
    if space.takes("schedule", "reduce_on_plateau"):
        raise SpaceError(
            f"{rule}, so schedule reduce_on_plateau would never see a score; remove it from the values of "
            f"`schedule` in space {space.name}."
        )
    if space.largest_if_any("early_stopping_patience") is not None:
        raise SpaceError(
            f"{rule}, so a trial cannot stop early; remove early_stopping_patience from space {space.name}."
        )


def _refuse_method(config: StudyConfig, space: SearchSpace) -> None:
    """Refuse a space with a method that would train nothing under the study's task."""
    task, method = config.task.kind, TASK_FACTS[config.task.kind].method
    if method and space.takes("method", method):
        raise SpaceError(
            f"{unused_sentence(task, ['method'])[:-1]}, which space {space.name} can take; give it other values, as in "
            "space.method={value: full}."
        )


def _refuse_slots(config: StudyConfig, space: SearchSpace) -> None:
    """Refuse several trials on one backbone if a trial could change it or has several ranks."""
    slots, ranks = config.compute.slots, config.compute.ranks_of_trial
    if slots in (1, "auto"):
        return
    if ranks > 1:
        raise SpaceError(f"compute.slots is {slots}, but a trial has {ranks} ranks; leave one of the two out.")
    if not shares_backbone(config, space):
        raise SpaceError(
            f"compute.slots is {slots}, but trials share a backbone only where none changes it: let method be head or "
            f"lora and kept_layers one value in space {space.name}, or leave compute.slots out."
        )


def shares_backbone(config: StudyConfig, space: SearchSpace) -> bool:
    """Return true if trials of a study may share one backbone, because none of them changes it."""
    fields = ("method", "kept_layers")
    kinds = {tuple(resolved(name, values) for name in fields) for values in cases(space.parameters, fields)}
    return config.compute.ranks_of_trial == 1 and len(kinds) == 1 and {method for method, _ in kinds} <= SHARING


def trials_together(rates: Mapping[int, float]) -> int:
    """Return the number of trials to train together, in a worker or on a GPU, for the least time to a good score.

    Args:
        rates: number of trials trained together, including 1 -> steps per second of all; or empty.
    """
    if not rates:
        return 1
    found = {trials: rate * KEPT_OF_DOUBLE ** math.log2(trials) for trials, rate in rates.items()}
    best = max(found, key=lambda trials: found[trials])
    return best if found[best] >= LEAST_GAIN * found[1] else 1


def search_notes(config: StudyConfig, space: SearchSpace) -> list[str]:
    """Return sentences for the user on how this study will search this space."""
    notes = [*space.notes, *_sampler_notes(config, space), *_pruner_notes(config), *_unused_settings(config)]
    if tried := len(published(config, space)):
        one = "1 published configuration" if tried == 1 else f"{tried} published configurations"
        notes.append(f"Space {space.name}: {one} tried after the default; search.portfolio=false leaves them out.")
    return with_translations_joined(notes)


def refuse_counts(space: SearchSpace, rows: int) -> None:
    """Refuse counts, such as of warm-up steps, for fractions; name the fraction for `rows` examples.

    Raises:
        SpaceError: one sentence for each.
    """
    if space.counted:
        batch_sizes, epochs = (space.values_or_ends(name) for name in ("batch_size", "epochs"))
        raise SpaceError(*(one.explain(rows, batch_sizes, epochs, space.name) for one in space.counted))


def demands_of(space: SearchSpace) -> Demands:
    """Return the largest demands that a configuration of `space` makes on the model."""
    most = space.largest_if_any
    layers = {name: most(name) for name in ("trained_layers", "kept_layers")}
    named = ("method", "lora_targets")
    targets = {resolved("lora_targets", values) for values in cases(space.parameters, named)}
    return Demands(
        max_length=int(space.largest("max_length")),
        **{name: None if number is None else int(number) for name, number in layers.items()},
        dropout=most("dropout") is not None,
        attention_dropout=most("attention_dropout") is not None,
        token_masking=bool(most("token_masking")),
        word_swap=bool(most("word_swap")),
        lora_targets=tuple(sorted(targets - {None})),
    )


def _unused_settings(config: StudyConfig) -> list[str]:
    """Note settings that were given although the sampler or pruner does not use them."""
    chosen = {"sampler": config.search.sampler, "pruner": config.pruner}
    unused = [
        (setting, kind, users)
        for kind, settings in SETTINGS.items()
        for setting, users in settings.items()
        if chosen[kind] not in users
        and getattr(config.search, setting) != type(config.search).model_fields[setting].default
    ]
    return [
        f"search.{setting} is for {kind} {' or '.join(users)} and is not used, since the {kind} is {chosen[kind]}."
        for setting, kind, users in unused
    ]


def _pruner_notes(config: StudyConfig) -> list[str]:
    """Note too few folds for Wilcoxon's test: it needs two, and its p-value after n folds is at least 1 / 2**n."""
    folds, threshold = config.evaluation.folds, config.search.p_threshold
    # One more, because pruning after the last fold saves nothing.
    needed = max(2, math.floor(-math.log2(threshold)) + 1) + 1
    if config.pruner != "wilcoxon" or folds is None or folds >= needed:
        return []
    return [
        f"With {folds} folds, pruner wilcoxon at p_threshold {threshold:g} cannot prune a trial before its last fold; "
        f"it needs {needed} folds or more."
    ]


def _sampler_notes(config: StudyConfig, space: SearchSpace) -> list[str]:
    sampler = config.search.sampler
    if sampler_of(config, space) in ENUMERATIONS:
        return [_note_on_combinations(config, space)]
    if sampler not in JOINT:
        return []
    unlearned = (
        f"Sampler {sampler} does not learn from trials that diverged or ran out of memory, and may propose similar "
        "ones again; tpe avoids them."
    )
    return [_note_on_the_rest(sampler, space), unlearned]


def _refuse_too_many(sampler: str, space: SearchSpace) -> None:
    rule = f"search.sampler is {sampler}, which tries every combination"
    try:
        size = space.size()
    except SpaceError as error:
        raise SpaceError(f"{rule}, but their number is infinite. {error}") from None
    if size > MAX_COMBINATIONS:
        raise SpaceError(
            f"{rule}, but space {space.name} has {size:,} of them, more than {MAX_COMBINATIONS:,}; fix some "
            "parameters, give them fewer values, or choose tpe."
        )


def _note_on_the_rest(sampler: str, space: SearchSpace) -> str:
    modelled = {parameter.name for parameter in sampled_jointly(sampler, space)}
    rest = [one.name for one in space.parameters if one.is_sampled and one.name not in modelled]
    if not rest:
        return f"Sampler {sampler} models every parameter of space {space.name}."
    return (
        f"Sampler {sampler} models {_models(sampler)}, and draws the others of space {space.name} at random: "
        f"{', '.join(rest)}."
    )


def _note_on_combinations(config: StudyConfig, space: SearchSpace) -> str:
    sampler, size, budget = config.search.sampler, space.size(), config.budget.most_trials
    has = f"The space has {size:,} {'combination' if size == 1 else 'combinations'}"
    if budget is None:
        return f"{has}: the search ends when all were tried, or at its deadline."
    has += f", the budget {budget:,} trials"
    if size <= budget:
        return f"{has}: the search ends when all were tried."
    first = "the first ones in the given order" if sampler == "grid" else "a random subset"
    better = "; brute_force tries a random subset instead" if sampler == "grid" else ""
    return f"{has}: only {first} will be tried{better}."


def _models(sampler: str) -> str:
    return "the numbers that every trial has" if sampler == "cmaes" else "the parameters that every trial has"
