"""Names of other libraries: each is translated by its meaning, or refused if hpo has nothing with that meaning."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest
from peft import LoraConfig
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.loading import load_config, load_study
from hpo.config.naming import advice, meaning, metric_of, normalized, with_translations_joined
from hpo.config.other_names import (
    DISTRIBUTIONS,
    LOSSES,
    METRICS,
    NAMES,
    STUDY_KEYS,
    STUDY_VALUES,
    VALUES,
    Alias,
    Unsupported,
)
from hpo.config.parsing import dotted_keys, write_yaml
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError, SpaceError
from hpo.metrics.registry import METRICS as SCORES
from hpo.space.space_file import space_of
from hpo.space.specs import KEYS
from tests.config.translated import refusal, space

FIELDS = Hyperparameters.model_fields
MATERIAL: dict[str, Any] = {"study": "s", "model": {"name": "m"}, "data": {"train": "t.csv"}, "space": "encoder"}


@pytest.mark.parametrize(
    "name", [field.name for library in (TrainingArguments, LoraConfig) for field in dataclasses.fields(library)]
)
def test_every_argument_of_trainer_and_of_lora_in_peft_is_known(name: str) -> None:
    assert meaning(name, FIELDS) is not None


@pytest.mark.parametrize(("field", "values"), [("optimizer", OptimizerNames), ("schedule", SchedulerType)])
def test_every_optimizer_and_schedule_of_trainer_is_translated_or_refused(field: str, values: Any) -> None:
    known = {normalized(name) for name in (*get_args(FIELDS[field].annotation), *VALUES[field])}
    assert {normalized(value.value) for value in values} <= known


def test_translations_lead_to_names_and_values_of_hpo_and_never_start_from_one() -> None:
    assert {entry.ours for entry in NAMES.values() if isinstance(entry, Alias)} <= FIELDS.keys()
    assert not {normalized(name) for name in NAMES} & {normalized(name) for name in FIELDS}
    for field, values in VALUES.items():
        for value, entry in values.items():
            if isinstance(entry, Alias):
                Hyperparameters(**({"method": "lora"} if field.startswith("lora_") else {}), **{field: entry.ours})
                assert normalized(value) not in map(normalized, get_args(FIELDS[field].annotation))
    assert set(DISTRIBUTIONS.values()) <= KEYS.keys()
    assert {*METRICS.values(), *LOSSES.values()} <= {"auto"}.union(*SCORES.values())
    assert {*STUDY_KEYS.values(), *STUDY_VALUES} <= set(dotted_keys(StudyConfig))
    for path, words in STUDY_VALUES.items():
        for ours in words.values():
            assert load_config(values=MATERIAL, overrides=[f"{path}={ours}"])


def test_no_table_has_a_name_twice() -> None:
    for table in (NAMES, *VALUES.values(), METRICS | LOSSES, STUDY_KEYS):
        names = [normalized(name) for name in table]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("lr", "learning_rate"),
        ("LR", "learning_rate"),
        ("learning-rate", "learning_rate"),
        ("learningRate", "learning_rate"),
        ("training.lr", "learning_rate"),
        ("training_args.per-device-train-batch-size", "batch_size"),
        ("optimizer.weight_decay", "l2_strength"),
        ("trainer/numTrainEpochs", "epochs"),
        ("model.config.hidden_dropout_prob", "dropout"),
        ("optimizer.name", "optimizer"),
        ("scheduler.type", "schedule"),
        ("train.optimizer.name", "optimizer"),
        ("r", "lora_rank"),
        ("train.lora_r", "lora_rank"),
        ("lora-alpha", "lora_alpha"),
        ("lora.alpha", "lora_alpha"),
        ("peft_config.alpha", "lora_alpha"),
        ("peft_config.lora_alpha", "lora_alpha"),
        ("train.lora.dropout", "lora_dropout"),
        ("LoraConfig.r", "lora_rank"),
        ("peft_config.target_modules", "lora_targets"),
    ],
)
def test_case_dashes_and_prefixes_change_nothing(name: str, ours: str) -> None:
    entry = meaning(name, FIELDS)
    assert isinstance(entry, Alias)
    assert entry.ours == ours
    of = {"optimizer": "adamw", "schedule": "linear", "dropout": 0.1, "lora_dropout": 0.1, "lora_targets": "q_proj"}
    overrides = ["space.method={value: lora}", "space.learning_rate.relative_to.method.lora=10"]
    overrides = [*overrides, "space.regularize_towards={value: zero}"] if ours.startswith("lora_") else []
    assert load_config(values=MATERIAL, overrides=[*overrides, f"space.{name}.value={of.get(ours, 1)}"]).space


def test_only_a_prefix_of_all_names_is_removed() -> None:
    read = space({"my-run.lr": {"value": 1e-4}, "my-run.bs": {"values": [4, 8]}})
    assert {one.name for one in read.parameters} == {"learning_rate", "batch_size"}
    assert space({"hp_lr": {"value": 1e-4}, "hp_epochs": {"value": 1}}).largest("epochs") == 1
    assert "unknown hyperparameter 'upper.dropout'" in refusal({"upper.dropout": {"value": 0.1}, "lr": {"value": 0.1}})


def test_nested_parameters_of_wandb_are_flattened() -> None:
    nested = {"optimizer": {"parameters": {"lr": {"value": 0.01}, "name": {"value": "AdamW"}}}}
    assert space(nested) == space({"learning_rate": {"value": 0.01}, "optimizer": {"value": "adamw"}})


def test_each_translation_is_noted_once() -> None:
    read = space(
        {
            "lr": {"distribution": "loguniform", "low": 1e-5, "high": 1e-3},
            "weight_decay": {"choices": [0.0, 0.1]},
            "optim": {"values": ["adamw_torch", "adamw_hf", "adafactor"]},
            "num_train_epochs": {"values": [1.0, 2.0]},
            "max_grad_norm": {"values": [0, 1.0]},
            "dropout": [0.0, 0.1],
        }
    )
    assert read == space(
        {
            "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
            "l2_strength": {"values": [0.0, 0.1]},
            "optimizer": {"values": ["adamw", "adafactor"]},
            "epochs": {"values": [1, 2]},
            "max_grad_norm": {"values": [None, 1.0]},
            "dropout": {"values": [0.0, 0.1]},
        }
    )
    assert read.notes == (
        "lr is taken for learning_rate.",
        "loguniform is taken for log_uniform_values.",
        "weight_decay is taken for l2_strength.",
        "optim is taken for optimizer.",
        "optimizer adamw_torch is taken for adamw.",
        "optimizer adamw_hf is taken for adamw.",
        "num_train_epochs is taken for epochs.",
        "max_grad_norm 0 is taken for null, no clipping.",
        "The list of dropout is taken for `values`; a range would be `min` and `max`.",
    )
    assert space({"learning_rate": {"min": 0.1, "max": 1.0}, "epochs": {"value": 1}}).notes == ()


def test_two_names_of_one_hyperparameter_are_refused() -> None:
    said = refusal({"lr": {"value": 1e-3}, "training.learning_rate": {"value": 1e-4}})
    assert said == "Space s: lr and training.learning_rate are both learning_rate; leave one out."


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ({"distribution": "randint", "min": 1, "max": 4}, {"values": [1, 2, 3]}),
        ({"distribution": "randint", "min": 2, "max": 3}, {"value": 2}),
        ({"type": "int", "low": 1, "high": 3}, {"min": 1, "max": 3}),
        ({"type": "int", "low": 2, "high": 6, "step": 2}, {"distribution": "q_uniform", "min": 2, "max": 6, "q": 2}),
        ({"distribution": "choice", "values": [1, 3]}, {"values": [1, 3]}),
        ({"distribution": "qrandint", "min": 2, "max": 6, "q": 4}, {"values": [2, 6]}),
    ],
)
def test_distributions_of_ray_and_optuna_keep_their_values(spec: dict[str, Any], same: dict[str, Any]) -> None:
    ours, other = space({"epochs": same}), space({"epochs": spec})
    assert list(ours.combinations()) == list(other.combinations())


@pytest.mark.parametrize(
    "spec",
    [
        {"distribution": "loguniform", "min": 1e-5, "max": 1e-3},
        {"distribution": "log-uniform", "min": 1e-5, "max": 1e-3},
        {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
        {"min": 1e-5, "max": 1e-3, "log": True},
    ],
)
def test_all_notations_of_a_logarithmic_range_are_equal(spec: dict[str, Any]) -> None:
    plain = {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}
    assert space({"learning_rate": spec}) == space({"learning_rate": plain})


def test_a_distribution_of_exponents_is_refused() -> None:
    assert "which takes exponents" in refusal({"lr": {"distribution": "log_uniform", "min": -9.0, "max": -3.0}})


def test_gradient_accumulation_is_multiplied_into_the_batch_size() -> None:
    read = space({"grad_accum": {"values": [1, 4]}, "per_device_train_batch_size": {"values": [4, 16]}})
    assert read == space({"batch_size": {"values": [4, 16, 64]}})
    assert "grad_accum times per_device_train_batch_size" in read.notes[-1]
    assert space({"gas": {"value": 1}, "bs": {"min": 4, "max": 8}}) == space({"batch_size": {"min": 4, "max": 8}})
    whole = {"global_batch_size": {"value": 32}, "gas": {"values": [1, 2]}}
    assert space(whole) == space({"batch_size": {"value": 32}})
    assert "give the products as `batch_size: {values: [...]}`" in refusal({"gas": {"values": [1, 2]}})


def test_parameters_of_adam_only_apply_to_adam_as_in_trainer() -> None:
    both = {"optim": {"values": ["adamw_torch", "adafactor"]}, "adam_beta1": {"min": 0.8, "max": 0.95}}
    ours = {"min": 0.8, "max": 0.95, "when": {"optimizer": ["adamw"]}}
    assert space(both) == space({"optimizer": {"values": ["adamw", "adafactor"]}, "beta1": ours})
    assert space({"optim": {"value": "sgd"}, "adam_epsilon": {"value": 1e-8}}).parameters[0].name == "optimizer"


def test_settings_of_a_training_script_are_left_out_with_one_note() -> None:
    script = {
        "output_dir": {"value": "x"},
        "fp16": {"values": [True, False]},
        "lora_r": {"value": None},
        "dataset_name": {"value": "d"},
        "seed": {"value": 7},
        "lr": {"value": 0.1},
    }
    read = space(script)
    assert {one.name for one in read.parameters} == {"seed", "learning_rate"}
    assert read.notes == (
        "lr is taken for learning_rate.",
        "Left out, as it belongs to the script or is set elsewhere here: output_dir, fp16, lora_r. The model and the "
        "texts are those of --model and --train, not of dataset_name. The seed 7 becomes that of every trial.",
    )


def test_notes_on_translated_names_are_shown_as_one() -> None:
    notes = [
        "lr is taken for learning_rate.",
        "The seed 7 becomes that of every trial.",
        "wd is taken for l2_strength.",
    ]
    assert with_translations_joined(notes) == [
        "lr is taken for learning_rate. wd is taken for l2_strength.",
        "The seed 7 becomes that of every trial.",
    ]


def test_a_plain_value_is_refused_with_the_notation_of_a_constant() -> None:
    assert "must be keys and values; for a constant write `value: 0.9`" in refusal({"adam_beta1": 0.9})


@pytest.mark.parametrize("name", [name for name, entry in NAMES.items() if isinstance(entry, Unsupported)])
def test_a_setting_that_hpo_does_not_have_is_refused_with_a_remedy(name: str) -> None:
    entry = NAMES[name]
    assert isinstance(entry, Unsupported)
    assert refusal({name: {"values": [1, 2]}, "epochs": {"value": 1}}) == f"Space s: {name}: {entry.how}."


@pytest.mark.parametrize(
    ("name", "ours", "is_loss"),
    [
        ("eval/f1", "auto", False),
        ("best_val_f1", "auto", False),
        ("val_f1_macro", "macro_f1", False),
        ("eval/macro-f1", "macro_f1", False),
        ("f1-macro", "macro_f1", False),
        ("val_acc", "accuracy", False),
        ("eval_accuracy", "accuracy", False),
        ("dev.mcc", "matthews", False),
        ("weighted avg f1", "weighted_f1", False),
        ("eval/loss", "neg_log_loss", True),
        ("best_val_loss", "neg_log_loss", True),
        ("test_f1", "test_f1", False),
        ("train/f1", "train/f1", False),
        ("fbeta", "fbeta", False),
        ("value_of_it", "value_of_it", False),
    ],
)
def test_a_metric_is_recognised_after_the_name_of_a_split(name: str, ours: str, is_loss: bool) -> None:
    assert metric_of(name) == (ours, is_loss)


def test_keys_and_values_of_a_study_file_are_translated_with_notes(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    content = {
        "study_name": "s",
        "model_name_or_path": "m",
        "data": {"train-file": "t.csv", "text-column": "body"},
        "n_trials": 7,
        "task": {"metric": "eval/f1_macro"},
        "compute": {"device": "gpu"},
        "search": {"sampler": "TPESampler"},
    }
    path.write_text(write_yaml(content))
    study, notes = load_study(path)
    assert (study.study, study.model.name, study.data.train, study.data.text_column) == ("s", "m", "t.csv", "body")
    assert (study.budget.trials, study.task.metric, study.compute.device) == (7, "macro_f1", "cuda")
    assert study.search.sampler == "tpe"
    assert notes == (
        "study_name is taken for study.",
        "model_name_or_path is taken for model.name.",
        "data.train-file is taken for data.train.",
        "data.text-column is taken for data.text_column.",
        "n_trials is taken for budget.trials.",
        "compute.device gpu is taken for cuda.",
        "search.sampler TPESampler is taken for tpe.",
        "The metric eval/f1_macro is taken for macro_f1.",
    )


def test_an_override_under_any_name_changes_the_parameter_in_the_space() -> None:
    written = {"lr": {"min": 1e-5, "max": 1e-3}, "training.epochs": {"value": 2}}
    overrides = ["space.learning_rate.max=1e-2", "space.n_epochs.value=3", "n_trials=5", "space.wd.value=0.1"]
    study, notes = load_study(values=MATERIAL | {"space": written, "budget": {"trials": 9}}, overrides=overrides)
    assert study.budget.trials == 5
    read = space_of(study.space)
    assert (read.largest("learning_rate"), read.largest("epochs"), read.largest("l2_strength")) == (1e-2, 3, 0.1)
    assert notes == (
        "space.learning_rate.max is taken for space.lr.max.",
        "space.n_epochs.value is taken for space.training.epochs.value.",
        "n_trials is taken for budget.trials.",
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trials=5", "Did you mean 'budget.trials'?"),
        ("trails=5", "Did you mean 'budget.trials'?"),
        ("lr=1e-3", "Here it is space.learning_rate"),
        ("train.lr=1e-3", "Here it is space.learning_rate"),
        ("budget.trails=5", "Did you mean 'budget.trials'?"),
    ],
)
def test_an_unknown_override_is_refused_with_a_suggestion(override: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_config(values=MATERIAL, overrides=[override])
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lr", "Here it is learning_rate."),
        ("warmup_steps", "Here it is warmup_ratio, a share."),
        ("epoch", "Did you mean 'epochs'?"),
        ("lora-alpha", "Did you mean 'lora_alpha'?"),
        ("lora_apha", "Did you mean 'lora_alpha'?"),
        ("r", "Here it is lora_rank."),
    ],
)
def test_an_unknown_hyperparameter_gets_a_suggestion(name: str, said: str) -> None:
    assert advice(name, FIELDS).startswith(said)


def test_a_number_of_warmup_steps_needs_the_number_of_examples_to_become_a_share() -> None:
    read = space({"warmup_steps": {"values": [0, 10]}, "bs": {"values": [8, 16]}, "epochs": {"values": [1, 2]}})
    assert [one.name for one in read.counted] == ["warmup_steps"]
    with pytest.raises(SpaceError, match="steps \\* batch_size / \\(training examples \\* epochs\\)"):
        read.hyperparameters(read.default_values())
    (steps,) = read.counted
    said = steps.explain(100, read.values_or_ends("batch_size"), read.values_or_ends("epochs"), "s")
    for batch, passes, of in ((8, 1, 13), (8, 2, 26), (16, 1, 7), (16, 2, 14)):
        share = f"{10 / of:.3g}" if of > 10 else "more than there are"
        assert f"0 and {share} at batch_size {batch} and epochs {passes} ({of} steps)" in said
    assert space({"warmup_steps": {"value": 0.1}}) == space({"warmup_ratio": {"value": 0.1}})
    assert space({"num_warmup_steps": {"value": 0}, "max_steps": {"value": -1}}).counted == ()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"max_steps": {"value": 50}, "bs": {"value": 10}}, "50 is 5 at batch_size 10; write `epochs: {values: [5]}`."),
        (
            {"warmup_epochs": {"values": [1]}, "epochs": {"value": 4}},
            "1 is 0.25 at epochs 4; write `warmup_ratio: {values",
        ),
        (
            {"max_train_samples": {"values": [25, 50]}},
            "25 and 50 are 0.25 and 0.5; write `data_fraction: {values: [0.25, 0.5",
        ),
    ],
)
def test_other_counts_are_converted_with_the_number_of_examples(parameters: dict[str, Any], said: str) -> None:
    read = space(parameters)
    (counted,) = read.counted
    assert said in counted.explain(100, read.values_or_ends("batch_size"), read.values_or_ends("epochs"), "s")
