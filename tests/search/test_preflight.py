"""Refusals and notes before the first trial, sentence by sentence."""

from collections.abc import Mapping
from typing import Any

import pytest

from hpo.config.study_file import SearchConfig, StudyConfig
from hpo.errors import SpaceError
from hpo.search.preflight import SETTINGS, refuse_unfit_search, search_notes, trials_together
from hpo.search.pruners import PRUNERS
from hpo.search.samplers import SAMPLERS
from hpo.space.search_space import SearchSpace
from tests.search.scripted import SPACE, study_at

DISTINCT = {
    "optimizer": {"values": ["adamw", "momentum"]},
    "momentum": {"values": [0.8, 0.9], "when": {"optimizer": ["momentum"]}},
    "epochs": {"min": 1, "max": 3},
}


def made(sampler: str, space: Mapping[str, Any], **changes: Any) -> tuple[StudyConfig, SearchSpace]:
    values = {"search": {"sampler": sampler, "pruner": "none"}, "space": space} | changes
    return study_at("sqlite:///unused.db", **values), SearchSpace.from_mapping(space, "mine")


def refusal(sampler: str, space: Mapping[str, Any], **changes: Any) -> str:
    with pytest.raises(SpaceError) as refused:
        refuse_unfit_search(*made(sampler, space, **changes))
    return str(refused.value)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_a_space_of_distinct_values(sampler: str) -> None:
    refuse_unfit_search(*made(sampler, DISTINCT))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"grid", "brute_force"}))
def test_only_enumerations_refuse_a_range_of_any_number(sampler: str) -> None:
    refuse_unfit_search(*made(sampler, SPACE))


@pytest.mark.parametrize("sampler", ["grid", "brute_force"])
def test_an_enumeration_of_any_number_is_refused_with_the_remedy(sampler: str) -> None:
    said = refusal(sampler, SPACE)
    rule = f"search.sampler is {sampler}, which tries every combination"
    assert said.startswith(f"{rule}, but their number is infinite. ")
    assert "learning_rate" in said
    assert "values:" in said


def test_more_combinations_than_can_be_gone_through_are_refused_with_their_number() -> None:
    space = {"batch_size": {"min": 1, "max": 100}, "max_length": {"min": 101, "max": 200}}
    refuse_unfit_search(*made("grid", space))
    assert refusal("grid", space | {"epochs": {"min": 1, "max": 3}}) == (
        "search.sampler is grid, which tries every combination, but space mine has 30,000 of them, more than 10,000; "
        "fix some parameters, give them fewer values, or choose tpe."
    )


def test_a_sampler_that_would_model_nothing_is_refused() -> None:
    assert refusal("cmaes", {"optimizer": {"values": ["adamw", "adam"]}}) == (
        "search.sampler is cmaes, which models the numbers that every trial has, but space mine has none, so it "
        "would draw everything at random; choose tpe."
    )


FOLDS = {"evaluation": {"folds": 5}}


@pytest.mark.parametrize("schedule", [{"values": ["linear", "reduce_on_plateau"]}, {"value": "reduce_on_plateau"}])
def test_folds_refuse_a_schedule_that_follows_the_score(schedule: dict[str, Any]) -> None:
    assert refusal("tpe", {"schedule": schedule}, **FOLDS) == (
        "With evaluation.folds a fold is scored only at its end, so schedule reduce_on_plateau would never see a "
        "score; remove it from the values of `schedule` in space mine."
    )
    refuse_unfit_search(*made("tpe", {"schedule": schedule}))


@pytest.mark.parametrize("patience", [{"value": 3}, {"min": 1, "max": 3}, {"values": [2, None]}])
def test_folds_refuse_trials_that_stop_themselves(patience: dict[str, Any]) -> None:
    assert refusal("tpe", {"early_stopping_patience": patience}, **FOLDS) == (
        "With evaluation.folds a fold is scored only at its end, so a trial cannot stop early; remove "
        "early_stopping_patience from space mine."
    )
    refuse_unfit_search(*made("tpe", {"early_stopping_patience": patience}))


def test_folds_take_other_schedules_and_no_early_stopping() -> None:
    space = {"schedule": {"values": ["linear", "cosine"]}, "early_stopping_patience": {"value": None}}
    refuse_unfit_search(*made("tpe", space, **FOLDS))


UNLEARNED = (
    "does not learn from trials that diverged or ran out of memory, and may propose similar ones again; tpe avoids "
    "them."
)
BOTH_SIDES = "The space has 9 combinations, the budget 4 trials: only"
NOTES = {
    "tpe": [],
    "random": [],
    "qmc": [],
    "gp": [
        "Sampler gp models the parameters that every trial has, and draws the others of space mine at random: "
        "momentum.",
        f"Sampler gp {UNLEARNED}",
    ],
    "cmaes": [
        "Sampler cmaes models the numbers that every trial has, and draws the others of space mine at random: "
        "optimizer, momentum.",
        f"Sampler cmaes {UNLEARNED}",
    ],
    "grid": [f"{BOTH_SIDES} the first ones in the given order will be tried; brute_force tries a random subset "
             "instead."],
    "brute_force": [f"{BOTH_SIDES} a random subset will be tried."],
}  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_a_sampler_will_not_do_is_said(sampler: str) -> None:
    assert search_notes(*made(sampler, DISTINCT)) == NOTES[sampler]


def test_a_sampler_that_models_everything_says_so() -> None:
    notes = search_notes(*made("gp", {"epochs": {"min": 1, "max": 9}, "max_length": {"value": 64}}))
    assert notes[0] == "Sampler gp models every parameter of space mine."


@pytest.mark.parametrize("sampler", ["grid", "brute_force"])
def test_an_enumeration_within_the_budget_says_when_it_ends(sampler: str) -> None:
    said = "the search ends when all were tried."
    assert search_notes(*made(sampler, DISTINCT, budget={"trials": 9})) == [
        f"The space has 9 combinations, the budget 9 trials: {said}"
    ]
    assert search_notes(*made(sampler, {"optimizer": {"value": "sgd"}}, budget={"trials": 9})) == [
        f"The space has 1 combination, the budget 9 trials: {said}"
    ]


@pytest.mark.parametrize(("folds", "p_threshold", "needed"), [(4, 0.1, 5), (2, 0.3, 3), (3, 0.25, 4), (2, 0.9, 3)])
def test_too_few_folds_for_wilcoxon_are_said(folds: int, p_threshold: float, needed: int) -> None:
    def notes(count: int) -> list[str]:
        search = {"sampler": "random", "pruner": "auto", "p_threshold": p_threshold}
        return search_notes(*made("random", SPACE, search=search, evaluation={"folds": count}))

    (said,) = notes(folds)
    assert said == (
        f"With {folds} folds, pruner wilcoxon at p_threshold {p_threshold:g} cannot prune a trial before its last "
        f"fold; it needs {needed} folds or more."
    )
    assert notes(needed) == []


def test_settings_that_nothing_uses_are_said() -> None:
    search = {"sampler": "random", "pruner": "none", "startup_trials": 3, "percentile": 10.0}
    assert search_notes(*made("random", SPACE, search=search)) == [
        "search.startup_trials is for sampler tpe or gp or cmaes and is not used, since the sampler is random.",
        "search.percentile is for pruner percentile and is not used, since the pruner is none.",
    ]


def test_every_setting_of_a_search_is_of_known_samplers_and_pruners() -> None:
    assert {user for users in SETTINGS["sampler"].values() for user in users} <= SAMPLERS.keys()
    assert {user for users in SETTINGS["pruner"].values() for user in users} <= PRUNERS.keys()
    named = {name for settings in SETTINGS.values() for name in settings}
    assert SearchConfig.model_fields.keys() - named == {"sampler", "pruner", "repeat_default", "portfolio"}


HEAD = {"method": {"value": "head"}}
CHANGES_BACKBONE = "trials share a backbone only where none changes it"


@pytest.mark.parametrize(
    ("space", "compute"),
    [
        (HEAD, {}),
        ({**HEAD, "kept_layers": {"value": 2}, "batch_size": {"values": [4, 8]}}, {}),
        ({"batch_size": {"value": 8}}, {"slots": "auto"}),
        (HEAD, {"slots": "auto", "ranks": 2}),
    ],
)
def test_trials_that_can_share_a_backbone_are_accepted(space: dict[str, Any], compute: dict[str, Any]) -> None:
    refuse_unfit_search(*made("tpe", space, compute={"slots": 2, **compute}))


@pytest.mark.parametrize(
    ("space", "compute", "reason"),
    [
        ({"method": {"values": ["head", "full"]}}, {}, CHANGES_BACKBONE),
        ({"batch_size": {"value": 8}}, {}, CHANGES_BACKBONE),
        ({**HEAD, "kept_layers": {"values": [1, 2]}}, {}, "let method be head or lora and kept_layers one value"),
        (HEAD, {"ranks": 2}, "compute.slots is 2, but a trial has 2 ranks"),
    ],
)
def test_slots_are_refused_if_trials_cannot_share_a_backbone(
    space: dict[str, Any], compute: dict[str, Any], reason: str
) -> None:
    assert reason in refusal("tpe", space, compute={"slots": 2, **compute})


@pytest.mark.parametrize(
    ("rates", "trials"),
    [
        ({1: 5.0}, 1),
        ({1: 5.0, 2: 10.0, 4: 20.0}, 4),
        ({1: 5.0, 2: 6.0}, 1),
        ({1: 5.0, 2: 9.0, 4: 9.5}, 2),
        ({1: 0.0}, 1),
    ],
)
def test_as_many_are_trained_together_as_reach_a_good_score_soonest(rates: dict[int, float], trials: int) -> None:
    assert trials_together(rates) == trials
