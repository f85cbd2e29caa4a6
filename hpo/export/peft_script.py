"""A configuration of LoRA as a short script for PEFT and Trainer, and the JSON file of rows that it reads beside it.

The script is written for its model, task, metric and values, and needs no hpo. It adapts the layers that hpo adapts,
trains the head and a pooler beside them, and leaves dropout out of frozen layers, as hpo does. What is random in it
is drawn otherwise, so it has the score of another seed.
"""

import json
from collections.abc import Mapping
from string import Template

from hpo.data.sources import Examples
from hpo.data.splits import Splits
from hpo.export.exported_file import Exported, Expressible, only, refuse_inexpressible, study_wide
from hpo.export.python_script import needed
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
OF_TARGETS = {
    "all-linear": "list(linear)",
    "attention": f"[name for name in linear if any(word in name.lower() for word in {ATTENTION})]",
    "mlp": f"[name for name in linear if not any(word in name.lower() for word in {ATTENTION})]",
}
OF_TOKENIZER = ("revision", "gguf_file", "trust_remote_code")
FOUR_BITS = """BitsAndBytesConfig(
            True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )"""

SCRIPT = Template(f'''{MARK}: python train.py --output adapter

Trial $trial of the study $study: $metric $score on validation in the search. The rows are those of the search, as it
split them, in the .json file of this name beside this; put rows of your own in their place. What is random is drawn
otherwise than by hpo, so the score is that of another seed.
Needs $needed.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
$imports
from transformers.pytorch_utils import Conv1D

MODEL = $model
$constants
MAX_LENGTH = $max_length
SEED = $seed


def pretrained(name):
    """Return the tokenizer, and the model under a new head."""
    tokenizer = AutoTokenizer.from_pretrained(name, split_special_tokens=True$of_tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(
        name,
        $options,
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    return tokenizer, model


def adapted(model):
    """Return the model with adapters; its head and pooler are trained in fp32, and no frozen layer has dropout."""
    for module in model.base_model.modules():
        for name, value in list(vars(module).items()):
            is_dropout = "dropout" in name or (name == "p" and isinstance(module, torch.nn.Dropout))
            if is_dropout and isinstance(value, float):
                setattr(module, name, 0.0)
    parts = (named for named in model.named_children() if named[1] is not model.base_model)
    trained = {{name: one for name, one in parts if [*one.parameters()]}}
    trained |= {{name: one for name, one in model.named_modules() if name.endswith("pooler")}}
    torch.nn.ModuleList(trained.values()).float()
    below = model.base_model.named_modules(prefix=model.base_model_prefix)
    linear = {{name: one for name, one in below if isinstance(one, (torch.nn.Linear, Conv1D)) and "pooler" not in name}}
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=$rank,
        lora_alpha=$alpha,
        lora_dropout=$dropout,
        use_rslora=$rslora,
        target_modules=$targets,
        modules_to_save=list(trained),
        fan_in_fan_out=any(isinstance(one, Conv1D) for one in linear.values()),
    )
    return get_peft_model(model, config)


def rows_of(name, tokenizer):
    """Return the rows of a split as Trainer takes them, cut after MAX_LENGTH tokens."""
    rows = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))[name]
    sides = [[row[side] for row in rows] for side in ("text", "pair") if side in rows[0]]
    tokens = tokenizer(*sides, truncation=True, max_length=MAX_LENGTH)
    return [{{**dict(zip(tokens, cells)), "labels": row["label"]}} for *cells, row in zip(*tokens.values(), rows)]


def scores(prediction):
    """Return what trials were compared by."""
    outputs, true = prediction.predictions, prediction.label_ids
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    said = $said
    return {{"$metric": $call}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="where the pretrained model is here")
    parser.add_argument("--output", default="adapter", help="folder for the adapter")
    asked = parser.parse_args()
    set_seed(SEED)
    tokenizer, model = pretrained(asked.model)
    trainer = Trainer(
        model=adapted(model),
        args=TrainingArguments(
$arguments
        ),
        train_dataset=rows_of("train", tokenizer),
        eval_dataset=rows_of("validation", tokenizer),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=scores,
$callbacks    )
    trainer.train()
    trainer.save_model(asked.output)
    tokenizer.save_pretrained(asked.output)
    print(json.dumps({{"metric": "$metric", "score": trainer.state.best_metric, "in_the_search": $score}}))


if __name__ == "__main__":
    main()
''')


def peft_script(exported: Exported, splits: Splits) -> str:
    """Return the script for a configuration.

    Raises:
        ConfigurationError: it cannot do all of it, which names what.
    """
    h, model, task = exported.hyperparameters, exported.model, task_of(exported.task, splits)
    refuse_inexpressible("The script", FIELDS, exported, [*study_wide(exported), *_beside(exported, task.metric)])
    assert isinstance(task, Classification | Regression)
    assert h.lora_targets is not None
    said, call = _scored_by(task.metric, task)
    patience = h.early_stopping_patience
    options = _options(exported)
    return SCRIPT.substitute(
        trial=exported.trial,
        study=exported.study,
        metric=exported.metric,
        score=repr(exported.score),
        needed=needs(exported),
        imports=_imports(said, call, quantized=model.quantization is not None, stops=patience is not None),
        model=repr(model.name),
        constants=_constants(task),
        max_length=h.max_length,
        seed=exported.seed,
        of_tokenizer="".join(f", {name}={value}" for name, value in options.items() if name in OF_TOKENIZER),
        options=",\n        ".join(f"{name}={value}" for name, value in (options | _head(task)).items()),
        rank=h.lora_rank,
        alpha=h.lora_alpha,
        dropout=h.lora_dropout,
        rslora=h.lora_scaling == "rslora",
        targets=OF_TARGETS.get(h.lora_targets) or _named(h.lora_targets),
        said=said,
        call=call,
        arguments="\n".join(f"            {name}={value}," for name, value in _arguments(exported).items()),
        callbacks="" if patience is None else f"        callbacks=[EarlyStoppingCallback({patience})],\n",
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


def _imports(said: str, call: str, *, quantized: bool, stops: bool) -> str:
    """Return the imports of what scores, and of transformers."""
    lines = ["from scipy.special import softmax"] if "softmax" in said else []
    function = call.split("(")[0].lstrip("-SD* ")
    lines.append(
        f"from {'scipy.stats' if function in ('pearsonr', 'spearmanr') else 'sklearn.metrics'} import {function}"
    )
    names = ["AutoModelForSequenceClassification", "AutoTokenizer", "DataCollatorWithPadding", "Trainer"]
    names += ["TrainingArguments", "set_seed", *["BitsAndBytesConfig"] * quantized, *["EarlyStoppingCallback"] * stops]
    ordered = sorted(names, key=lambda name: (name.islower(), name))
    return "\n".join([*lines, "from transformers import (", *(f"    {name}," for name in ordered), ")"])


def _constants(task: Classification | Regression) -> str:
    """Return the labels by number, or the unit of the numbers that are learned."""
    if isinstance(task, Regression):
        return f"# Labels are (number - {task.mean!r}) / SD.\nSD = {task.sd!r}"
    return f"LABELS = {dict(enumerate(task.label_names))!r}"


def _options(exported: Exported) -> dict[str, str]:
    """Return name -> code of what the pretrained model is loaded by."""
    model = exported.model
    found = {"dtype": "torch.bfloat16" if model.dtype == "bf16" else "torch.float32"}
    found |= {name: repr(value) for name in ("revision", "gguf_file") if (value := getattr(model, name))}
    found |= {"trust_remote_code": "True"} if model.trust_remote_code else {}
    return found | ({"quantization_config": FOUR_BITS} if model.quantization else {})


def _head(task: Classification | Regression) -> dict[str, str]:
    """Return name -> code of what the new head is made by."""
    made = {"ignore_mismatched_sizes": "True"}
    if isinstance(task, Regression):
        return {"num_labels": "1", "problem_type": '"regression"', **made}
    return {"num_labels": "len(LABELS)", "id2label": "LABELS", **made}


def _arguments(exported: Exported) -> dict[str, str]:
    """Return name -> code of the training arguments."""
    values = arguments_of(exported)
    if exported.model.dtype == "bf16":
        # The head is fp32 over layers of bf16: autocast brings them together.
        values |= {"bf16": True} | ({"use_cpu": True} if exported.versions.get("device", "").startswith("cpu") else {})
    values |= {"save_total_limit": 1, "label_names": ["labels"]}
    return {name: repr(value) for name, value in values.items()} | {"output_dir": 'f"{asked.output}-checkpoints"'}


def _named(targets: str) -> str:
    ends = tuple(f".{name}" for name in targets.split(","))
    return f'[name for name in linear if f".{{name}}".endswith({ends})]'
