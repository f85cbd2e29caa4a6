"""A configuration as a plain script with transformers' Trainer that needs no hpo; what it cannot say is refused."""

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from hpo.config.hyperparameters import Hyperparameters
from hpo.export import script_parts as parts
from hpo.export.exported import Exported
from hpo.export.expressible import WRITTEN_WITH_ITS_KIND, Field, only, refuse_inexpressible, study_wide
from hpo.export.retraining import Here, compute_of, here
from hpo.export.script_data import PART, columns_of, epoch_ends, full_steps, made_splits, split_functions, unseen_rows
from hpo.tasks import TASKS

TARGET = "A script of transformers' Trainer"
MARK = '"""Trains trial '
"""How a script begins."""
TEMPLATE = Path(__file__).with_name("trainer_script.txt")
NEEDED = ("torch", "transformers", "scikit-learn", "numpy")
ENDINGS = (".csv", ".jsonl")
BELONGS = Field(how=WRITTEN_WITH_ITS_KIND)
MODULES = ("csv", "hashlib", "json", "math", "os", "re", "sys")
OF_TRANSFORMERS = (
    "AutoModelForSequenceClassification", "AutoTokenizer", "DataCollatorWithPadding", "EarlyStoppingCallback",
    "Trainer", "TrainerCallback", "TrainingArguments", "set_seed",
)  # fmt: skip

FIELDS: Mapping[str, Field] = {
    "method": Field(how="frozen weights"),
    "trained_layers": Field(how="frozen weights"),
    "kept_layers": only(None, "kept_layers", "cut the model and save it, then train that"),
    "optimizer": Field(
        how="torch.optim",
        fits=lambda h: any(name == h.optimizer for name, _ in parts.OPTIMIZERS),
        nearest="adamw with a rate of its own, or the library that has the optimizer",
    ),
    "learning_rate": Field(how="LEARNING_RATE"),
    "layerwise_rate_decay": only(1.0, "layerwise_rate_decay", "1, or groups of one rate each in made_optimizer"),
    **dict.fromkeys(("momentum", "beta1", "beta2", "alpha", "rho", "epsilon", "momentum_decay"), BELONGS),
    **dict.fromkeys(("decay_rate", "clip_threshold", "newton_schulz_steps"), BELONGS),
    "schedule": Field(
        how="factor",
        fits=lambda h: h.schedule in parts.SCHEDULES,
        nearest="step or linear, or torch's ReduceLROnPlateau told of each evaluation",
    ),
    "warmup_ratio": Field(how="WARMUP_RATIO"),
    **dict.fromkeys(("final_rate_ratio", "initial_rate_ratio", "power", "cycles", "decay_every"), BELONGS),
    **dict.fromkeys(("decay_factor", "decay_fraction", "plateau_patience"), BELONGS),
    "l1_strength": only(0.0, "l1_strength", "0, or a penalty added in `loss`"),
    "l1_form": Field(how="with l1_strength, which is 0"),
    "l2_strength": Field(how="L2_STRENGTH"),
    "l2_form": Field(
        how="that of the optimizer",
        fits=lambda h: _optimizer_line(h) is not None or all(name != h.optimizer for name, _ in parts.OPTIMIZERS),
        nearest="the other form",
    ),
    "regularize_towards": Field(
        how="zero, as weight_decay does",
        fits=lambda h: h.regularize_towards == "zero" or not (h.l1_strength or h.l2_strength),
        nearest="zero",
    ),
    "max_grad_norm": Field(how="MAX_GRAD_NORM, 0 for none"),
    "dropout": Field(how="DROPOUT"),
    "attention_dropout": only(None, "attention_dropout", "attention_probs_dropout_prob in the model's config"),
    "label_smoothing": Field(how="LABEL_SMOOTHING"),
    "class_weights": Field(how="CLASS_WEIGHTS"),
    "token_masking": only(0.0, "token_masking", "a data collator of one's own"),
    "word_swap": only(0.0, "word_swap", "augmented texts of one's own"),
    "data_fraction": Field(how="stratified_beginning"),
    "batch_size": Field(how="BATCH_SIZE"),
    "epochs": Field(how="EPOCHS"),
    "max_length": Field(how="MAX_LENGTH"),
    "early_stopping_patience": Field(how="EarlyStoppingCallback"),
    "seed": Field(how="SEED, the trial's"),
}
"""Every hyperparameter -> how it is written."""


def to_python(exported: Exported) -> str:
    """Return a configuration as a script; its texts are read for the names of columns and labels.

    Raises:
        ConfigurationError: it cannot say all of the configuration; names what.
        DataError: the texts cannot be read, or are not those of the search.
    """
    refuse_inexpressible(TARGET, FIELDS, exported, [*study_wide(exported), *_beside(exported)])
    place = here(exported, compute_of(exported, device="cpu"))
    values, after = exported.hyperparameters, full_steps(exported, place.splits)
    by_epoch = after == epoch_ends(values, place.splits)
    body = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=f"Trains trial {exported.trial} of the study {exported.study} with transformers' Trainer.",
        story=_story(exported),
        needs=f"Needs {needed(exported)}; written by hpo {version('llm-hpo')}.",
        imports="$imports",
        constants="\n".join(f"{name} = {value!r}" for name, value in _constants(exported, place, after).items()),
        split_functions=split_functions(exported, place.splits),
        made_splits=made_splits(exported),
        unseen=unseen_rows(exported) if place.splits.confirmation else "",
        and_unseen=", unseen" if place.splits.confirmation else "",
        method=_prepared(values),
        rise=parts.RISES.get(values.schedule, "rising").format(h=values),
        fall=parts.SCHEDULES[values.schedule].format(h=values),
        optimizer=_optimizer_line(values),
        loss=parts.LOSSES[values.class_weights],
        score=parts.SCORES[exported.metric][1],
        callback="" if by_epoch else parts.CALLBACK,
        callbacks=_callbacks(values, by_epoch=by_epoch),
        part=PART if values.data_fraction < 1 else "",
        evaluations=parts.BY_EPOCH if by_epoch else parts.BY_STEP,
        bf16=exported.precision == "bf16",
    )
    return body.replace("$imports", _imports(body, parts.SCORES[exported.metric][0]), 1)


def _beside(exported: Exported) -> list[tuple[str, str]]:
    """Return (what, nearest) of model, texts and metric that a script does not say."""
    data, found = exported.data, []
    for name in ("train", "validation", "test"):
        source = getattr(data, name)
        if source is not None and not (source.endswith(ENDINGS) and Path(source).is_file()):
            found.append((f"data.{name} {source}", "one .csv or .jsonl file, which is there"))
    if data.group_column is not None:
        found.append((f"data.group_column {data.group_column}", "training and validation as files of their own"))
    if exported.model.gguf_file is not None:
        found.append((f"model.gguf_file {exported.model.gguf_file}", "the model as save_pretrained writes it"))
    if exported.model.trust_remote_code:
        found.append(("model.trust_remote_code", "add it to each from_pretrained, where you trust the model"))
    if ":" not in exported.metric and exported.metric not in parts.SCORES:
        found.append((f"the metric {exported.metric}", "f1 or macro_f1, or its function in `scores`"))
    return found


def _story(exported: Exported) -> str:
    told = f"It scored {exported.metric} {exported.score:.4f} on validation in the search"
    told += ", and was chosen for that." if exported.chosen_by == "search" else "."
    if (sure := exported.confirmed) is not None:
        interval = f"95%: {sure.low:.4f} to {sure.high:.4f}"
        told += f"\nConfirmed on {len(sure.scores)} fresh seeds: {sure.score:.4f} ({interval})."
    return told


def needed(exported: Exported) -> str:
    """Return the packages that a script needs, as it was in the search."""
    used = [f"{name} {number}" for name, number in exported.versions.items() if name in NEEDED]
    return ", ".join([*used, "accelerate"])


def _constants(exported: Exported, place: Here, after: list[int]) -> dict[str, Any]:
    values, splits, config = exported.hyperparameters, place.splits, place.config
    task = TASKS[config.task.name].of(config.task, splits.label_names, splits.train.labels)
    positive = task.objective.positive
    given = {
        "MODEL": exported.model.name,
        "REVISION": exported.model.revision,
        "TRAIN": config.data.train,
        "VALIDATION": config.data.validation,
        "TEST": config.data.test,
        "COLUMNS": columns_of(exported),
        "FINGERPRINT": exported.data.fingerprint,
        "OUTPUT": "trainer-model",
        "LABELS": list(splits.label_names),
        "POSITIVE": None if positive is None else splits.label_names.index(positive),
        "METRIC": exported.metric,
        "SCORE_IN_SEARCH": exported.score,
        "SPLIT_SEED": exported.study_seed,
        "SEED": exported.seed,
        "LEARNING_RATE": values.learning_rate,
        "WARMUP_RATIO": values.warmup_ratio,
        "L2_STRENGTH": values.l2_strength,
        "MAX_GRAD_NORM": values.max_grad_norm or 0.0,
        "LABEL_SMOOTHING": values.label_smoothing,
        "BATCH_SIZE": values.batch_size,
        "EPOCHS": values.epochs,
        "MAX_LENGTH": values.max_length,
    }
    asked = {
        "CLASS_WEIGHTS": list(task.class_weights) if values.class_weights == "balanced" else None,
        "TRAINED_LAYERS": values.trained_layers,
        "DROPOUT": values.dropout,
        "DATA_FRACTION": values.data_fraction if values.data_fraction < 1 else None,
        "EVALUATE_AFTER": None if after == epoch_ends(values, splits) else tuple(after),
    }
    return given | {name: value for name, value in asked.items() if value is not None}


def _prepared(values: Hyperparameters) -> str:
    return (parts.DROPOUT if values.dropout is not None else "") + parts.METHODS[values.method]


def _optimizer_line(values: Hyperparameters) -> str | None:
    """Return torch's optimizer whose decay is of the form asked for; of any form where there is no decay."""
    forms = (values.l2_form,) if values.l2_strength else ("coupled", "decoupled")
    known = (parts.OPTIMIZERS.get((values.optimizer, form)) for form in forms)
    line = next((line for line in known if line is not None), None)
    return None if line is None else line.format(h=values)


def _callbacks(values: Hyperparameters, *, by_epoch: bool) -> str:
    made = [] if by_epoch else ["EvaluateAfter()"]
    if values.early_stopping_patience is not None:
        made.append(f"EarlyStoppingCallback(early_stopping_patience={values.early_stopping_patience})")
    return ", ".join(made)


def _imports(body: str, score: str) -> str:
    """Return the imports that a script of this body needs."""
    lines = ["from __future__ import annotations", ""]
    lines += [f"import {name}" for name in MODULES if f"{name}." in body]
    lines += ["from collections.abc import Sequence"] if "Sequence[" in body else []
    lines += ["", *(["import numpy as np"] if "np." in body else []), "import torch"]
    lines += ["from numpy.typing import NDArray"] if "NDArray[" in body else []
    lines += [f"from sklearn.metrics import {score}", "from torch import nn"]
    used = [name for name in OF_TRANSFORMERS if re.search(rf"\b{name}[.()]", body)]
    listed = "".join(f"    {name},\n" for name in used)
    return "\n".join(lines) + f"\nfrom transformers import (\n{listed})\n"
