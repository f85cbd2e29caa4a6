"""A configuration of LoRA as a short script for PEFT and Trainer, and the JSON file of rows that it reads beside it.

The script is written for its model, task, metric and values, and needs no hpo. It adapts the layers that hpo adapts,
trains the head and a pooler beside them, and leaves dropout out of frozen layers, as hpo does. What is random in it
is drawn otherwise, so it has the score of another seed.
"""

import json
from collections.abc import Mapping
from typing import Any

from hpo.data.sources import Examples
from hpo.data.splits import Splits
from hpo.export.exported_file import Exported, Expressible, only, refuse_inexpressible, study_wide
from hpo.export.python_script import needed
from hpo.export.templates import rendered
from hpo.export.training_arguments import FIELDS as OF_TRAINER
from hpo.export.training_arguments import arguments_of
from hpo.metrics.classification import SCORES
from hpo.metrics.metric import SelectionMetric
from hpo.model.lora import ATTENTION
from hpo.tasks.classification import Classification
from hpo.tasks.registry import task_of
from hpo.tasks.regression import Regression

MARK = '"""Trains one configuration of LoRA that a search by hpo found'
"""How the script begins."""
ROWS_MARK = '{\n  "kind": "hpo rows",'
"""How the file of rows begins."""
NEEDED = ("peft", "scikit-learn")
MEANS = ("macro", "micro", "weighted")
FIELDS: Mapping[str, Expressible] = {
    **OF_TRAINER,
    "method": only("lora", "method", "--format training-arguments, or python"),
    "early_stopping_patience": Expressible(),
}
"""Every hyperparameter -> what of it can be said."""
LABELS, NUMBERS = "outputs.argmax(axis=1)", "outputs.ravel()"
PROBABILITIES = "softmax(outputs.astype(float), axis=1)"
METRICS: Mapping[str, tuple[str, str]] = {
    "accuracy": (LABELS, "accuracy_score(true, said)"),
    "balanced_accuracy": (LABELS, "balanced_accuracy_score(true, said)"),
    "matthews": (LABELS, "matthews_corrcoef(true, said)"),
    "neg_log_loss": (PROBABILITIES, "-log_loss(true, said, labels=range(len(LABELS)))"),
    "roc_auc": (PROBABILITIES, 'roc_auc_score(true, said, multi_class="ovr")'),
    "average_precision": (PROBABILITIES, "average_precision_score(true, said)"),
    "pearson": (NUMBERS, "pearsonr(true, said).statistic"),
    "spearman": (NUMBERS, "spearmanr(true, said).statistic"),
    "r2": (NUMBERS, "r2_score(true, said)"),
    "neg_rmse": (NUMBERS, "-SD * root_mean_squared_error(true, said)"),
    "neg_mae": (NUMBERS, "-SD * mean_absolute_error(true, said)"),
}
"""Metric -> what it takes of the network's outputs, and its call by scikit-learn or scipy; F scores are made."""


def peft_script(exported: Exported, splits: Splits) -> str:
    """Return the script for a configuration.

    Raises:
        ConfigurationError: it cannot do all of it, which names what.
    """
    task, targets = task_of(exported.task, splits), exported.hyperparameters.lora_targets
    refuse_inexpressible("The script", FIELDS, exported, [*study_wide(exported), *_beside(exported, task.metric)])
    assert isinstance(task, Classification | Regression)
    assert targets is not None
    said, call = _scored_by(task.metric, task)
    return rendered(
        "peft_script.py.jinja",
        mark=MARK,
        exported=exported,
        task=task,
        labels=dict(enumerate(task.label_names)) if isinstance(task, Classification) else None,
        needed=needs(exported),
        said=said,
        call=call,
        function=call.split("(")[0].lstrip("-SD* "),
        attention=ATTENTION,
        ends=tuple(f".{name}" for name in targets.split(",")),
        arguments=_arguments(exported),
    )


def needs(exported: Exported) -> str:
    """Return the packages that it needs, as they were in the search."""
    return ", ".join([needed(exported), *NEEDED])


def rows_json(exported: Exported, splits: Splits) -> str:
    """Return the rows of training and validation as the script reads them."""
    task = task_of(exported.task, splits)

    def lines(examples: Examples) -> str:
        targets = task.targets(examples.labels)
        if isinstance(task, Regression):
            targets = (targets - task.mean) / task.sd
        sides = {"text": examples.texts, **({} if examples.pairs is None else {"pair": examples.pairs})}
        columns = {**sides, "label": targets.tolist()}
        rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
        return ",\n    ".join(map(json.dumps, rows))

    train, validation = lines(splits.train), lines(splits.validation)
    return f'{ROWS_MARK}\n  "train": [\n    {train}\n  ],\n  "validation": [\n    {validation}\n  ]\n}}\n'


def _beside(exported: Exported, metric: SelectionMetric) -> list[tuple[str, str]]:
    """Return (what, nearest) of what it cannot say and is no hyperparameter."""
    found = []
    if exported.task.name == "multi_label":
        found.append(("task.name multi_label", "hpo train, which writes an adapter"))
    if metric.name == "neg_calibration_error":
        found.append((f"the metric {metric.name}", "its function, called in compute_metrics"))
    return found


def _scored_by(metric: SelectionMetric, task: Classification | Regression) -> tuple[str, str]:
    """Return what a metric takes of the network's outputs, and its call."""
    mean, _, score = metric.name.rpartition("_")
    positive = None
    if isinstance(task, Classification) and metric.positive is not None:
        positive = task.label_names.index(metric.positive)
    if score in SCORES and mean in ("", *MEANS):
        of = f'average="{mean}", labels=range(len(LABELS))' if mean else f"pos_label={positive}"
        beta = f"beta={metric.beta}, " if score == "fbeta" else ""
        return LABELS, f"{score}_score(true, said, {beta}{of}, zero_division=0)"
    said, call = METRICS[metric.name]
    if positive is not None and metric.name in ("roc_auc", "average_precision"):
        return f"{said}[:, {positive}]", f"{metric.name}_score(true == {positive}, said)"
    return said, call


def _arguments(exported: Exported) -> dict[str, Any]:
    """Return the training arguments."""
    values = arguments_of(exported)
    if exported.model.dtype == "bf16":
        # The head is fp32 over layers of bf16: autocast brings them together.
        values |= {"bf16": True} | ({"use_cpu": True} if exported.versions.get("device", "").startswith("cpu") else {})
    return values | {"save_total_limit": 1, "label_names": ["labels"]}
