"""Training arguments: a configuration as arguments of `transformers.TrainingArguments`, refused if inexpressible."""

from collections.abc import Callable, Mapping
from typing import Any

from hpo.config.hyperparameters import Hyperparameters
from hpo.export.exported_file import Exported, Expressible, only, own_head, refuse_inexpressible, study_wide

Arguments = dict[str, Any]
Writer = Callable[[Hyperparameters], Arguments]
TARGET = "TrainingArguments"
MARK = '{\n  "output_dir": "trainer-model",\n  "learning_rate": '
"""Start of every export in this format."""


def _sgd(values: Hyperparameters) -> Arguments:
    if not values.momentum:
        return {"optim": "sgd"}
    return {"optim": "sgd", "optim_args": f"momentum={values.momentum},nesterov={values.optimizer == 'nesterov'}"}


def _adamw(values: Hyperparameters) -> Arguments:
    return {
        "optim": "adamw_torch",
        "adam_beta1": values.beta1,
        "adam_beta2": values.beta2,
        "adam_epsilon": values.epsilon,
    }


def _rmsprop(values: Hyperparameters) -> Arguments:
    options = f"alpha={values.alpha},eps={values.epsilon},momentum={values.momentum}"
    return {"optim": "rmsprop", "optim_args": options}


OPTIMIZERS: Mapping[str, Writer] = {
    **dict.fromkeys(("sgd", "momentum", "nesterov"), _sgd),
    **dict.fromkeys(("adam", "adamw"), _adamw),
    "adagrad": lambda h: {"optim": "adagrad", "optim_args": f"eps={h.epsilon}"},
    "rmsprop": _rmsprop,
}
DECOUPLED = ("adam", "adamw")
"""Optimizers with decoupled `weight_decay` in transformers; that of the others is added to the gradient."""


CONSTANT: Arguments = {"lr_scheduler_type": "constant_with_warmup"}


def _polynomial(values: Hyperparameters, power: float | None = None) -> Arguments:
    if values.final_rate_ratio == 1:
        return CONSTANT  # They refuse a fall that ends where it begins.
    end = values.learning_rate * (values.final_rate_ratio or 0.0)
    options = {"lr_end": end, "power": values.power if power is None else power}
    return {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": options}


def _cosine(values: Hyperparameters) -> Arguments:
    if not values.final_rate_ratio:
        return {"lr_scheduler_type": "cosine"}
    return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": values.final_rate_ratio}}


SCHEDULES: Mapping[str, Writer] = {
    "constant": lambda _: CONSTANT,
    "linear": lambda h: _polynomial(h, 1.0) if h.final_rate_ratio else {"lr_scheduler_type": "linear"},
    "polynomial": _polynomial,
    "cosine": _cosine,
    "cosine_restarts": lambda h: {
        "lr_scheduler_type": "cosine_with_restarts",
        "lr_scheduler_kwargs": {"num_cycles": h.cycles},
    },
}


def _l2_fits(values: Hyperparameters) -> bool:
    decoupled = values.optimizer in DECOUPLED
    return values.l2_strength == 0 or values.optimizer not in OPTIMIZERS or (values.l2_form == "decoupled") is decoupled


FIELDS: Mapping[str, Expressible] = {
    **dict.fromkeys(
        ("learning_rate", "momentum", "beta1", "beta2", "alpha", "epsilon", "rho", "momentum_decay", "decay_rate",
         "clip_threshold", "newton_schulz_steps", "warmup_ratio", "initial_rate_ratio", "power", "cycles",
         "decay_every", "decay_factor", "decay_fraction", "plateau_patience", "l1_form", "l2_strength",
         "max_grad_norm", "label_smoothing", "batch_size", "epochs", "max_length", "seed", "lora_rank", "lora_alpha",
         "lora_dropout", "lora_targets", "lora_scaling"),
        Expressible(),
    ),
    "method": only("full", "method", "--format peft for lora, else freeze layers of what is handed to Trainer"),
    "trained_layers": only(None, "trained_layers", "freeze the layers of the model that is handed to Trainer"),
    "kept_layers": only(None, "kept_layers", "cut the model and save it, then train that"),
    "optimizer": Expressible(
        fits=lambda h: h.optimizer in OPTIMIZERS,
        nearest="the optimizer itself as `optimizers` of Trainer, or --format python",
    ),
    "layerwise_rate_decay": only(1.0, "layerwise_rate_decay", "1, or parameter groups as `optimizers` of Trainer"),
    "head_rate": only(1.0, "head_rate", "1, or parameter groups as `optimizers` of Trainer, or --format python"),
    "head_scale": only(None, "head_scale", "draw the head of the model that is handed to Trainer, or --format python"),
    "schedule": Expressible(fits=lambda h: h.schedule in SCHEDULES, nearest="linear or cosine, or --format python"),
    "final_rate_ratio": Expressible(
        fits=lambda h: h.schedule != "cosine_restarts" or not h.final_rate_ratio,
        nearest="0 with restarts, or --format python",
    ),
    "l1_strength": only(0.0, "l1_strength", "0, or a penalty added in compute_loss of Trainer"),
    "l2_form": Expressible(fits=_l2_fits, nearest="the other form, or --format python"),
    "regularize_towards": Expressible(
        fits=lambda h: h.regularize_towards == "zero" or not (h.l1_strength or h.l2_strength), nearest="zero"
    ),
    "dropout": only(None, "dropout", "hidden_dropout_prob and its kin in the model's config, or --format python"),
    "attention_dropout": only(None, "attention_dropout", "attention_probs_dropout_prob in the model's config"),
    "class_weights": only("equal", "class_weights", "compute_loss_func of Trainer, or --format python"),
    "token_masking": only(0.0, "token_masking", "a data collator of one's own"),
    "word_swap": only(0.0, "word_swap", "augmented texts of one's own"),
    "data_fraction": only(1.0, "data_fraction", "train on a stratified share of the examples, or --format python"),
    "early_stopping_patience": only(
        None, "early_stopping_patience", "EarlyStoppingCallback of Trainer, or --format python"
    ),
}  # fmt: skip
"""Hyperparameter -> rule of the values that can be expressed; without those of optimizers and schedules."""


def to_training_arguments(exported: Exported) -> Arguments:
    """Return keyword arguments of `transformers.TrainingArguments`, except those that name folders.

    Raises:
        ConfigurationError: lists the settings that cannot be expressed.
    """
    beside = [*own_head(exported), *study_wide(exported)]
    if exported.task.name == "multi_label" and (smoothing := exported.hyperparameters.label_smoothing):
        beside.append(
            (f"label_smoothing {smoothing} of several labels a text", "0, or in compute_loss_func of Trainer")
        )
    refuse_inexpressible(TARGET, FIELDS, exported, beside)
    return arguments_of(exported)


def arguments_of(exported: Exported) -> Arguments:
    """Return the arguments for a configuration, without a check."""
    values = exported.hyperparameters
    return {
        "output_dir": "trainer-model",
        "learning_rate": values.learning_rate,
        **OPTIMIZERS[values.optimizer](values),
        **SCHEDULES[values.schedule](values),
        "warmup_steps": values.warmup_ratio,
        "weight_decay": values.l2_strength,
        "max_grad_norm": values.max_grad_norm or 0.0,
        "label_smoothing_factor": values.label_smoothing,
        "per_device_train_batch_size": values.batch_size,
        # Of several processes each takes its part of that batch, or it is refused as not to be divided. What their loss
        # is averaged over would otherwise be multiplied by the processes, since a classification's is a mean already.
        "accelerator_config": {"split_batches": True},
        "average_tokens_across_devices": False,
        "num_train_epochs": values.epochs,
        **_evaluations(exported),
        "load_best_model_at_end": True,
        "metric_for_best_model": exported.metric,
        "greater_is_better": True,
        **_precision(exported),
        "seed": exported.seed,
        "report_to": "none",
    }


TARGETS: Mapping[str, str] = {
    "classification": "labels are numbered by name, or by number where all are integers",
    "regression": "num_labels is 1, and labels are (number - mean) / sd of the training rows",
    "multi_label": "problem_type is multi_label_classification, and labels are 1.0 for each that a text has, else 0.0; "
    "compute_loss_func is to return the binary cross-entropy summed over labels and averaged over rows, where theirs "
    "is averaged over both; a label is given from a probability on, {thresholds}, that compute_metrics is to fit: to "
    "validation where winners are judged by other rows, else to as many training rows",
}
"""Name of a task -> sentence on its training targets."""
THRESHOLDS = {"one": "one for all of largest pooled F1", "per_label": "for each label that of its largest F1"}


def left_to_do(exported: Exported) -> list[str]:
    """Return sentences on the parts of the training that TrainingArguments cannot express."""
    towards = TARGETS[exported.task.name].format(thresholds=THRESHOLDS[exported.task.thresholds])
    sentences = [
        f"Beside TrainingArguments: texts are cut at {exported.hyperparameters.max_length} tokens; {towards}; "
        f"compute_metrics is to return {exported.metric!r}.",
        f"The model is {exported.model.name}, its head drawn anew also where it has one that fits; the texts are those "
        f"of {exported.data.train}; transformers asks for accelerate.",
        "Where Trainer sees several GPUs in one process, it takes a whole batch on each: show it one, as with "
        "CUDA_VISIBLE_DEVICES=0, or start a process for each with torchrun, which share a batch.",
    ]
    if _precision(exported).get("use_cpu"):
        sentences.append("The search ran in bf16 on a CPU, so they say use_cpu; leave that out to train on a GPU.")
    return sentences


def _precision(exported: Exported) -> Arguments:
    """Return the arguments for the precision; bf16 on a CPU also needs `use_cpu`."""
    if exported.precision == "fp32":
        return {"bf16": False}
    return {"bf16": True, "use_cpu": exported.versions.get("device", "").startswith("cpu")}


def _evaluations(exported: Exported) -> Arguments:
    """Return the arguments for evaluations: after each epoch, or at evenly spaced steps."""
    full = sum(place.full for place in exported.milestones)
    if full == exported.hyperparameters.epochs:
        return {"eval_strategy": "epoch", "save_strategy": "epoch"}
    # A number below 1 is a share of all steps, and 1 is one step.
    share = 1 / full if full > 1 else 0.999999
    return {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": share, "save_steps": share}
