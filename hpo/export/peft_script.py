"""PEFT script: a LoRA configuration as a short script for PEFT and Trainer, with a JSON file of rows.

The script is made for one model, task, metric and configuration, and does not need hpo. Like hpo, it adapts the same
layers, trains the head and a pooler, and turns dropout off in frozen layers. Its random numbers differ, so its score
is that of another seed.
"""

import json
from collections.abc import Mapping
from inspect import signature
from itertools import groupby
from typing import Any, NamedTuple

import torch

from hpo.data.sources import Examples
from hpo.data.splits import Splits
from hpo.data.stratify import stratified_sample
from hpo.export.adapter import task_type
from hpo.export.exported_file import Exported, Expressible, only, refuse_inexpressible, study_wide
from hpo.export.python_script import needed
from hpo.export.templates import rendered
from hpo.export.training_arguments import FIELDS as OF_TRAINER
from hpo.export.training_arguments import arguments_of
from hpo.metrics.classification import SCORES
from hpo.metrics.multi_label import RATIOS
from hpo.model.lora import ATTENTION
from hpo.model.pretrained import load_model
from hpo.tasks.classification import Classification
from hpo.tasks.label_words import LabelWords
from hpo.tasks.multi_label import MultiLabel
from hpo.tasks.protocol import Task
from hpo.tasks.registry import task_of
from hpo.tasks.regression import Regression
from hpo.tasks.word_head import WordHead

MARK = '"""Trains one configuration of LoRA that a search by hpo found'
"""Start of every script."""
ROWS_MARK = '{\n  "kind": "hpo rows",'
"""Start of every file of rows."""
NEEDED = ("peft", "scikit-learn")
MEANS = ("macro", "micro", "weighted", "samples")
FIELDS: Mapping[str, Expressible] = {
    **OF_TRAINER,
    "method": only("lora", "method", "--format training-arguments, or python"),
    "early_stopping_patience": Expressible(),
}
"""Hyperparameter -> rule of the values that the script can express."""
LABELS, NUMBERS = "outputs.argmax(axis=1)", "outputs.ravel()"
PROBABILITIES = "softmax(outputs.astype(float), axis=1)"
OF_LABELS, DECISIONS = "probabilities[:rows]", "probabilities[:rows] >= thresholds"


class Score(NamedTuple):
    """A metric in the script."""

    pred: str
    """Expression over the network's outputs that the metric takes."""
    function: str
    """Function of scikit-learn or scipy."""
    call: str = "{}(true, pred)"
    """Call of the function."""


METRICS: Mapping[str, Mapping[str, Score]] = {
    "classification": {
        "accuracy": Score(LABELS, "accuracy_score"),
        "balanced_accuracy": Score(LABELS, "balanced_accuracy_score"),
        "matthews": Score(LABELS, "matthews_corrcoef"),
        "neg_log_loss": Score(PROBABILITIES, "log_loss", "-{}(true, pred, labels=range(len(LABELS)))"),
        "roc_auc": Score(PROBABILITIES, "roc_auc_score", '{}(true, pred, multi_class="ovr")'),
        "average_precision": Score(PROBABILITIES, "average_precision_score"),
    },
    "regression": {
        "pearson": Score(NUMBERS, "pearsonr", "{}(true, pred).statistic"),
        "spearman": Score(NUMBERS, "spearmanr", "{}(true, pred).statistic"),
        "r2": Score(NUMBERS, "r2_score"),
        "neg_rmse": Score(NUMBERS, "root_mean_squared_error", "-SD * {}(true, pred)"),
        "neg_mae": Score(NUMBERS, "mean_absolute_error", "-SD * {}(true, pred)"),
    },
    "multi_label": {
        "accuracy": Score(DECISIONS, "accuracy_score"),
        "roc_auc": Score(OF_LABELS, "roc_auc_score"),
        "average_precision": Score(OF_LABELS, "average_precision_score"),
        "neg_log_loss": Score(OF_LABELS, "log_loss", "-len(LABELS) * {}(true.ravel(), pred.ravel(), labels=[0, 1])"),
    },
}
"""Task -> metric -> its score; averages over labels are added by `_score`."""


def peft_script(exported: Exported, splits: Splits) -> str:
    """Return the script for a configuration.

    Raises:
        ConfigurationError: lists the settings that the script cannot express.
        ModelError: with label words, the model, whose tokenizer is needed, cannot be loaded.
    """
    task, targets = task_of(exported.task, splits), exported.hyperparameters.lora_targets
    refuse_inexpressible("The script", FIELDS, exported, [*study_wide(exported), *_beside(task)])
    assert isinstance(task, Classification | Regression | MultiLabel)
    assert targets is not None
    score = _score(exported.task.name, task)
    return rendered(
        "peft_script.py.jinja",
        mark=MARK,
        exported=exported,
        task=task,
        labels=None if isinstance(task, Regression) else dict(enumerate(task.label_names)),
        is_multi_label=isinstance(task, MultiLabel),
        fits_to_training=_fits_to_training(task, splits),
        words=_word_tokens(exported, task) if isinstance(task, LabelWords) else None,
        needed=needs(exported),
        pred=score.pred,
        function=score.function,
        call=score.call.format(score.function),
        attention=ATTENTION,
        ends=tuple(f".{name}" for name in targets.split(",")),
        arguments=_arguments(exported),
    )


def _word_tokens(exported: Exported, task: LabelWords) -> dict[str, Any]:
    """Return the tokens of the prompt and of each label's word."""
    backbone = load_model(exported.model.model_copy(update={"quantization": None}), task, torch.device("cpu"))
    head = backbone.head
    assert isinstance(head, WordHead)
    ids, layout, sides = head.prompt.ids, head.prompt.layout, ("text", "pair")
    parts: list[Any] = []
    for is_text, group in groupby(layout[: len(layout) - len(head.tree.tokens)], key=lambda place: place < 0):
        places = list(group)
        parts += [sides[-1 - place] for place in places] if is_text else [[ids[place] for place in places]]
    return {
        "mask": backbone.tokenizer.mask_token_id if task_type(backbone) is None else None,
        "takes_positions": "position_ids" in signature(backbone.network.forward).parameters,
        "template": head.template,
        "of_labels": list(head.words.values()),
        "prompt": parts,
        "tokens": list(head.spelled),
        "gaps": dict(zip(sides, head.prompt.gaps, strict=False)),
        "room": exported.hyperparameters.max_length - len(ids),
    }


def needs(exported: Exported) -> str:
    """Return the packages that the script needs, in the versions of the search."""
    return ", ".join([needed(exported), *NEEDED])


def rows_json(exported: Exported, splits: Splits) -> str:
    """Return the training and validation rows, and those for fitting thresholds, as JSON for the script."""
    task = task_of(exported.task, splits)

    def lines(examples: Examples) -> str:
        targets = task.targets(examples.labels)
        if isinstance(task, Regression):
            targets = (targets - task.mean) / task.sd
        sides = {"text": examples.texts, **({} if examples.pairs is None else {"pair": examples.pairs})}
        columns = {**sides, "label": targets.tolist()}
        rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
        return ",\n    ".join(map(json.dumps, rows))

    parts = {"train": splits.train, "validation": splits.validation}
    if _fits_to_training(task, splits):
        parts["thresholds"] = splits.train.take(_fitting_rows(exported, splits, task))
    written = ",\n  ".join(f'"{name}": [\n    {lines(examples)}\n  ]' for name, examples in parts.items())
    return f"{ROWS_MARK}\n  {written}\n}}\n"


def _fits_to_training(task: Task[Any], splits: Splits) -> bool:
    """Return true if thresholds are fitted to training rows, because no rows but validation judge the model."""
    return isinstance(task, MultiLabel) and splits.confirmation is None


def _fitting_rows(exported: Exported, splits: Splits, task: Task[Any]) -> list[int]:
    """Return the training rows that thresholds are fitted to, the same as in the search."""
    strata = task.strata(task.targets(splits.train.labels))
    most = min(exported.evaluation.part_rows, splits.validation.rows)
    return list(map(int, stratified_sample(strata, most, exported.study_seed)))


def _beside(task: Task[Any]) -> list[tuple[str, str]]:
    """Return (setting, nearest equivalent) for settings of a task that the script cannot express."""
    found = []
    if isinstance(task, MultiLabel) and len(task.label_names) == 1:
        found.append(("task.name multi_label of a single label", "task.name classification"))
    if task.metric.name == "neg_calibration_error":
        found.append((f"the metric {task.metric.name}", "its function, called in compute_metrics"))
    return found


def _score(name: str, task: Classification | Regression | MultiLabel) -> Score:
    """Return the score of a task's metric."""
    metric = task.metric
    mean, _, score = metric.name.rpartition("_")
    positive = None
    if isinstance(task, Classification) and metric.positive is not None:
        positive = task.label_names.index(metric.positive)
    if score in (*SCORES, *RATIOS) and mean in ("", *MEANS):
        of = f'average="{mean}", labels=range(len(LABELS))' if mean else f"pos_label={positive}"
        beta = f"beta={metric.beta}, " if score == "fbeta" else ""
        pred = DECISIONS if isinstance(task, MultiLabel) else LABELS
        return Score(pred, f"{score}_score", f"{{}}(true, pred, {beta}{of}, zero_division=0)")
    found = METRICS[name][metric.name]
    if positive is not None and metric.name in ("roc_auc", "average_precision"):
        return Score(f"{found.pred}[:, {positive}]", found.function, f"{{}}(true == {positive}, pred)")
    return found


def _arguments(exported: Exported) -> dict[str, Any]:
    """Return the training arguments."""
    values = arguments_of(exported)
    if exported.model.dtype == "bf16":
        # The head is fp32 over layers of bf16: autocast brings them together.
        values |= {"bf16": True} | ({"use_cpu": True} if exported.versions.get("device", "").startswith("cpu") else {})
    return values | {"save_total_limit": 1, "label_names": ["labels"]}
