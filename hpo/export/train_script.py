"""Trains one configuration that a search by hpo found, without hpo: python train.py --train texts.csv --output model

All that it trains by is in the .json file of its name beside it. It takes the steps of `hpo train`, from the same
weights over the same rows: on the same device, threads and versions it gives the same score to rounding. The weights
are those of the best evaluation on validation, not of the last. It computes on one device, the first GPU or the CPU.
It needs torch, transformers, scikit-learn and numpy.
"""

import argparse
import csv
import hashlib
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics
import torch
from numpy.typing import NDArray
from torch import Tensor, nn, optim
from transformers import AutoModelForSequenceClassification, AutoTokenizer

Values = Mapping[str, Any]
Row = tuple[str, ...]
"""The text, its pair where there is one, and the label."""
Tokens = Sequence[Mapping[str, Tensor]]
"""What the model reads of each row."""
Integers = NDArray[np.int64]


class Lion(optim.Optimizer):
    """Steps by the sign of the momentum (Chen et al. 2023)."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - of torch
        """Update the weights by their gradients."""
        for group in self.param_groups:
            for weight in (one for one in group["params"] if one.grad is not None):
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                weight.add_(mean.lerp(weight.grad, 1 - group["betas"][0]).sign(), alpha=-group["lr"])
                mean.lerp_(weight.grad, 1 - group["betas"][1])


OPTIMIZERS: Mapping[str, tuple[Any, Mapping[str, str]]] = {
    "sgd": (optim.SGD, {}),
    "momentum": (optim.SGD, {"momentum": "momentum"}),
    "nesterov": (optim.SGD, {"momentum": "momentum"}),
    "adam": (optim.Adam, {"eps": "epsilon"}),
    "adamw": (optim.AdamW, {"eps": "epsilon"}),
    "nadam": (optim.NAdam, {"eps": "epsilon", "momentum_decay": "momentum_decay"}),
    "radam": (optim.RAdam, {"eps": "epsilon"}),
    "adamax": (optim.Adamax, {"eps": "epsilon"}),
    "adagrad": (optim.Adagrad, {"eps": "epsilon"}),
    "adadelta": (optim.Adadelta, {"rho": "rho", "eps": "epsilon"}),
    "adafactor": (optim.Adafactor, {"beta2_decay": "decay_rate", "d": "clip_threshold"}),
    "rmsprop": (optim.RMSprop, {"alpha": "alpha", "eps": "epsilon", "momentum": "momentum"}),
    "lion": (lambda groups, **given: Lion(groups, given), {}),
}
"""Each with the hyperparameters that its arguments are, beside betas. None decays weights: `pull` does."""
PLAIN = {"accuracy": "accuracy_score", "balanced_accuracy": "balanced_accuracy_score", "matthews": "matthews_corrcoef"}
OF_CLASSES = ("f1", "fbeta", "precision", "recall")
METRICS = {*PLAIN, *OF_CLASSES, *(f"{mean}_{name}" for mean in ("macro", "micro", "weighted") for name in OF_CLASSES)}
METRICS -= {"micro_fbeta"}
OF_NUMBERS: Mapping[str, Any] = {
    "pearson": lambda true, said: _correlation(scipy.stats.pearsonr, true, said),
    "spearman": lambda true, said: _correlation(scipy.stats.spearmanr, true, said),
    "r2": sklearn.metrics.r2_score,
    "neg_rmse": lambda true, said: -sklearn.metrics.root_mean_squared_error(true, said),
    "neg_mae": lambda true, said: -sklearn.metrics.mean_absolute_error(true, said),
}
PASS_TOKENS = {"cpu": 128, "cuda": 8192}
"""What a pass through the model costs beside its tokens, in tokens."""


def refusals(config: Values) -> list[tuple[str, str]]:
    """Return what of a configuration this script cannot do, each with what comes nearest."""
    h, data, model, folds = (config[name] for name in ("hyperparameters", "data", "model", "evaluation"))
    is_file = re.compile(r"(?!.*://)[^*?\[]*\.(csv|jsonl|ndjson)").fullmatch
    cases = [
        ("kept_layers", h["kept_layers"], "cut the model and save it, then train that"),
        ("attention_dropout", h["attention_dropout"], "attention_probs_dropout_prob in the model's config"),
        ("token_masking", h["token_masking"], "0, or a mask drawn in `batch_of`"),
        ("word_swap", h["word_swap"], "0, or augmented texts of one's own"),
        ("optimizer", h["optimizer"] not in OPTIMIZERS and h["optimizer"], "adamw, or the library that has it"),
        ("schedule", h["schedule"] == "reduce_on_plateau" and h["schedule"], "step or linear"),
        *(
            (f"data.{name}", data[name] and not is_file(data[name]) and data[name], "one .csv or .jsonl file")
            for name in ("train", "validation", "test")
        ),
        ("data.group_column", data["group_column"], "training and validation as files of their own"),
        ("model.gguf_file", model["gguf_file"], "the model as save_pretrained writes it"),
        (
            "model.trust_remote_code",
            model["trust_remote_code"],
            "add it to each from_pretrained, if you trust the model",
        ),
        ("evaluation.folds", folds["folds"], "one validation split"),
        ("task.name", config["task"]["name"] not in TARGETS and config["task"]["name"], "a study of each label"),
        ("the metric", config["metric"] not in (*METRICS, *OF_NUMBERS) and config["metric"], "f1, or its formula here"),
    ]
    return [(f"{name} {value}", nearest) for name, value, nearest in cases if value]


# The texts: read, divided and known again as in the search.


def read(path: str, data: Values) -> list[Row]:
    """Return the rows of a file that have a text and a label."""
    if not Path(path).is_file():
        raise SystemExit(f"There is no file {path}, where the search had its texts; say --train FILE and its like.")
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if not path.endswith(".csv"):
            lines = enumerate(file.read().split("\n"), 1)
            records = [record_of(line, f"{path}, line {number}") for number, line in lines if line.strip()]
        else:
            csv.field_size_limit(sys.maxsize)
            divided_by = data.get("delimiter") or delimiter_of([*islice((line for line in file if line.strip()), 50)])
            file.seek(0)
            cells_of = csv.reader(file, delimiter=divided_by)
            names = next(([name.strip() for name in line] for line in cells_of if any(map(str.strip, line))), [])
            records = [dict(zip(names, line, strict=False)) for line in cells_of if line]
    columns = [data[f"{part}_column"] for part in ("text", "text_pair", "label")]
    cells = [[written(record.get(name)) for name in columns if name is not None] for record in records]
    rows = [(*texts, as_yaml(label.strip())) for *texts, label in cells]
    return [row for row in rows if any(text.strip() for text in row[:-1]) and row[-1]]


def record_of(line: str, where: str) -> Values:
    """Return the object of a line of JSONL."""
    try:
        record = json.loads(line, strict=False)
    except (ValueError, RecursionError) as error:
        raise SystemExit(f"{where}, is not valid JSON: {error}.") from None
    if not isinstance(record, dict):
        raise SystemExit(f"{where}, must be one JSON object {{...}}, but is a {type(record).__name__}.")
    return record


def delimiter_of(lines: Sequence[str]) -> str:
    """Return what divides the header into most cells; of several characters one by which all rows are as wide as it."""
    cells = {one: len(next(csv.reader(lines[:1], delimiter=one), ())) for one in ",;\t|"}
    held = sorted((one for one in cells if cells[one] > 1), key=lambda one: cells[one], reverse=True)
    widths = {one: [len(row) for row in csv.reader(lines, delimiter=one)] for one in held}
    # The last of them may be part of a row.
    fitting = [one for one in held if len(set(widths[one][:-1] or widths[one])) == 1]
    return [*fitting, *held, ","][0]


def written(cell: Any) -> str:
    """Return a cell as text; bytes that are not UTF-8 are U+FFFD, a zero byte is a space."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    text = str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)
    return re.sub("[\ud800-\udfff]", "\ufffd", text).replace("\0", " ")


def as_yaml(label: str) -> str:
    """Return a label in the one spelling that all files share: 1.0 as 1, True as true."""
    whole = re.fullmatch(r"(-?[0-9]{1,18})\.0+", label)
    label = whole[1] if whole else label
    return label.lower() if label in ("True", "False", "TRUE", "FALSE") else label


def without(rows: Sequence[Row], *others: Sequence[Row]) -> list[Row]:
    """Return the rows whose texts are in none of the others."""
    return [rows[number] for number in apart(rows, *others)]


def apart(rows: Sequence[Row], *others: Sequence[Row]) -> list[int]:
    """Return which of the rows have a text that, whatever its spacing and order, is in none of the others."""

    def key(row: Row) -> Row:
        return tuple(sorted(" ".join(text.split()) for text in row[:-1]))

    taken = {key(row) for other in others for row in other}
    return [number for number, row in enumerate(rows) if key(row) not in taken]


def stratified_part(labels: Integers, rows: int, seed: int) -> Integers:
    """Return which rows to choose, so that classes stand among them as they do in all: shares by largest remainder."""
    _, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if rows >= labels.size:
        return np.arange(labels.size)
    exact, least = counts * rows / counts.sum(), 1 if rows >= counts.size else 0
    quotas = np.maximum(np.floor(exact).astype(np.int64), least)
    for _ in range(rows - int(quotas.sum())):
        quotas[np.argmax(np.where(quotas < counts, exact - quotas, -np.inf))] += 1
    for _ in range(int(quotas.sum()) - rows):
        quotas[np.argmax(np.where(quotas > least, quotas - exact, -np.inf))] -= 1
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = [generator.permutation(np.flatnonzero(members == n))[:quota] for n, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen))


def stratified_beginning(labels: Integers, rows: int, seed: int) -> Integers:
    """Return the first `rows` of an order whose every beginning is stratified, rising."""
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(labels.size)
    _, members, counts = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    place = np.empty(labels.size)
    for member, count in enumerate(counts):
        place[members == member] = (np.arange(count) + 0.5) / count
        place[np.argmax(members == member)] = 0.0
    return np.sort(shuffled[np.argsort(place, kind="stable")][:rows])


def strata_of(rows: Sequence[Row], task: str) -> Integers:
    """Return what every part has its share of: the label of each row, or of numbers the quantile of its one."""
    cells = np.array([row[-1] for row in rows])
    if task == "classification":
        return np.unique(cells, return_inverse=True)[1]
    quantiles, count = np.empty(len(rows), dtype=np.int64), min(10, max(1, len(rows) // 50))
    quantiles[np.argsort(cells.astype(np.float64), kind="stable")] = np.arange(len(rows)) * count // len(rows)
    return quantiles


def splits(config: Values) -> tuple[list[Row], list[Row]]:
    """Return the rows of training and validation that the search had."""
    data, seed = config["data"], config["study_seed"]
    files = [read(data[name], data) if data[name] else None for name in ("train", "validation", "test")]
    made = (files[1] is None) + (files[2] is None and data["test_fraction"] > 0)
    taken, validation, test = without_rare(files, 2 + made, data.get("rare_labels", "refuse"))
    train = taken or []
    all_rows, task = train, config["task"]["name"]
    strata, left = strata_of(train, task), np.arange(len(train))

    def taken_out(share: float, own_seed: int) -> list[Row]:
        nonlocal left
        wanted = max(round(len(all_rows) * share), len(np.unique(strata)))
        chosen = stratified_part(strata[left], wanted, own_seed)
        taken, left = left[chosen], np.delete(left, chosen)
        return [all_rows[number] for number in taken]

    if test is None and data["test_fraction"]:
        test = taken_out(data["test_fraction"], seed)
    if validation is None:
        validation = taken_out(data["validation_fraction"], seed + 1)
    validation = without(validation, test or [])
    train = without([all_rows[number] for number in left], validation, test or [])
    validation, unseen = without_unseen(validation, config["confirmation"], task, seed)
    digest = hashlib.sha256()
    for rows in (train, validation, test, *([unseen] if unseen else [])):
        *texts, labels = zip(*rows, strict=True) if rows else ((), ())
        columns = None if rows is None else [texts[0], texts[1] if len(texts) > 1 else None, labels]
        digest.update(json.dumps(columns).encode())
    if digest.hexdigest() != data["fingerprint"]:
        raise SystemExit("The texts, labels or splits are not those of the search; its score would not compare.")
    return train, validation


def without_rare(parts: Sequence[list[Row] | None], least: int, how: str) -> Sequence[list[Row] | None]:
    """Return the splits, training first, without labels of fewer than `least` rows of it: dropped, or merged."""
    for last in (False, True):
        counts = Counter(row[-1] for row in parts[0] or [])
        rare = {label for label, count in counts.items() if count < least}
        if how == "merge" and not last:
            parts = [part and [(*row[:-1], "other") if row[-1] in rare else row for row in part] for part in parts]
        elif how != "refuse":
            parts = [part and [row for row in part if row[-1] not in rare] for part in parts]
    return parts


def without_unseen(validation: list[Row], confirmation: Values, task: str, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows that the search was scored on, and those kept for its confirmation: none where they are few."""
    share = confirmation["validation_share"] if confirmation["finalists"] else 0.0
    if round(len(validation) * min(share, 1 - share)) < 200:
        return validation, []
    strata = strata_of(validation, task)
    unseen = stratified_part(strata, round(len(validation) * share), seed + 2)
    seen = apart(validation, [validation[number] for number in unseen])
    if any(len(side) < 200 or set(strata[side]) != set(strata) for side in (seen, unseen)):
        return validation, []
    return [validation[number] for number in seen], [validation[number] for number in unseen]


def label_names(rows: Sequence[Row]) -> list[str]:
    """Return the labels in the order of their classes: by number where all are integers, else by name."""
    names = sorted({row[-1] for row in rows})
    return sorted(names, key=int) if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names) else names


# The targets: what is learned of a row, and what the model's answers score.


class Classes:
    """One label a row."""

    kept: Mapping[str, float] = {}
    """What the model's config keeps beside the head."""

    def __init__(self, config: Values, rows: Sequence[Row]) -> None:
        """Take the labels of the training rows."""
        self.config, self.names = config, label_names(rows)
        self.positive = positive_class(self.names, config["task"]["positive_label"], rows)
        self.head = {"id2label": dict(enumerate(self.names)), "label2id": {n: i for i, n in enumerate(self.names)}}
        counts = np.bincount(self.numbers(rows))
        balanced = config["hyperparameters"]["class_weights"] == "balanced"
        weights = len(rows) / (len(counts) * counts) if balanced else np.ones(len(counts))
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def numbers(self, rows: Sequence[Row]) -> Any:
        """Return the number of each row's label."""
        return np.array([self.names.index(row[-1]) for row in rows])

    def losses(self, logits: Tensor, true: Tensor) -> Tensor:
        """Return the cross-entropy of each row, times what the rows of its label count."""
        smoothing = self.config["hyperparameters"]["label_smoothing"]
        of_rows = nn.functional.cross_entropy(logits, true, label_smoothing=smoothing, reduction="none")
        return self.weights.to(logits.device)[true] * of_rows

    def score(self, logits: Tensor, rows: Sequence[Row]) -> float:
        """Return the metric; higher is better."""
        said, beta = logits.argmax(dim=-1).numpy(), self.config["task"]["beta"]
        return score(self.config["metric"], self.numbers(rows), said, len(self.names), self.positive, beta)


class Numbers:
    """One number a row, scaled by the training rows; the model's config keeps by what."""

    def __init__(self, config: Values, rows: Sequence[Row]) -> None:
        """Take mean and standard deviation of the training rows."""
        self.config = config
        cells = np.array([float(row[-1]) for row in rows])
        self.mean, self.sd = float(cells.mean()), float(cells.std())
        self.head: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
        self.kept = {"target_mean": self.mean, "target_sd": self.sd}

    def numbers(self, rows: Sequence[Row]) -> Any:
        """Return the scaled number of each row."""
        return (np.array([float(row[-1]) for row in rows]) - self.mean) / self.sd

    def losses(self, logits: Tensor, true: Tensor) -> Tensor:
        """Return the squared error of each row."""
        return nn.functional.mse_loss(logits.squeeze(1), true.to(logits.dtype), reduction="none")

    def score(self, logits: Tensor, rows: Sequence[Row]) -> float:
        """Return the metric, in the unit of the labels; higher is better."""
        said = logits.squeeze(1).double().numpy() * self.sd + self.mean
        return float(OF_NUMBERS[self.config["metric"]](np.array([float(row[-1]) for row in rows]), said))


def _correlation(kind: Any, true: Any, said: Any) -> float:
    """Return a correlation; 0 where either is always the same."""
    return 0.0 if np.ptp(true) == 0 or np.ptp(said) == 0 else float(kind(true, said).statistic)


TARGETS: Mapping[str, type[Classes] | type[Numbers]] = {"classification": Classes, "regression": Numbers}
"""By the name of the task."""


# The model: what begins anew, what trains, how fast.


def loaded(model: Values, head: Values) -> tuple[Any, Any, set[str]]:
    """Return model and tokenizer, and the names of the parameters that begin anew: head, and what had no weights."""
    network, found = AutoModelForSequenceClassification.from_pretrained(
        model["name"],
        revision=model["revision"],
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **head,
    )
    tokenizer = AutoTokenizer.from_pretrained(model["name"], revision=model["revision"], split_special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    network.config.get_text_config().pad_token_id = network.config.pad_token_id = tokenizer.pad_token_id
    network.config.use_cache = False
    base = f"{network.base_model_prefix}."
    mismatched = {key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]}
    above = {name for name, _ in network.named_parameters() if not name.startswith(base)}
    return network, tokenizer, {*found["missing_keys"], *mismatched, *above}


@torch.no_grad()
def begin_anew(network: Any, fresh: set[str], seed: int, scale: float | None) -> None:
    """Draw the parameters in `fresh` anew, matrices at `scale` if given, also where the pretrained head would fit."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    owners = dict.fromkeys(name.rpartition(".")[0] for name, _ in network.named_parameters() if name in fresh)
    for owner in owners:
        drawn = deepcopy(network.get_submodule(owner))
        network._init_weights(drawn)
        for name, weight in drawn.named_parameters(recurse=False):
            if scale is not None and weight.ndim >= 2:
                weight.normal_(0.0, scale, generator=generator)
            if f"{owner}.{name}" in fresh:
                network.get_parameter(f"{owner}.{name}").copy_(weight)


def heights(network: Any) -> dict[str, int]:
    """Return the height of each parameter in a model of n layers: 0 below them, 1 to n in them, n + 1 above."""
    lists = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    declared = getattr(network.config.get_text_config(), "num_hidden_layers", None)
    prefix, layers = max(lists, key=lambda named: (len(named[1]) == declared, len(named[1])))
    names = [name for name, _ in network.named_parameters()]
    start = next(number for number, name in enumerate(names) if name.startswith(f"{prefix}."))
    behind = [name for name in names[start:] if not name.startswith(f"{prefix}.")]
    # What stands beside the layers is read by them where it is of relative positions, as in DeBERTa and MPNet.
    beside = [name for name in behind if name.startswith(f"{prefix.rpartition('.')[0]}.")]
    relative = any(isinstance(network.get_submodule(name.rpartition(".")[0]), nn.Embedding) for name in beside)
    above = {name for name in behind if "embed" not in name and not (relative and name in beside)}
    found = {name: len(layers) + 1 if name in above else 0 for name in names}
    for number, layer in enumerate(layers):
        found |= {f"{prefix}.{number}.{name}": number + 1 for name, _ in layer.named_parameters()}
    return found


def groups_of(network: Any, fresh: set[str], h: Values) -> list[dict[str, Any]]:
    """Freeze what the method does not train, and group the rest by rate and by whether L1 and L2 hold it."""
    found = heights(network)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    top = max(found.values())
    for name, weight in network.named_parameters():
        is_head = name in fresh or "pooler" in name.split(".")
        is_top = h["method"] == "top_layers" and found[name] > top - 1 - h["trained_layers"]
        weight.requires_grad_(h["method"] == "full" or is_head or is_top)
        if weight.requires_grad:
            # Not biases, nor norms, which have one dimension.
            rate = h["layerwise_rate_decay"] ** (top - found[name])
            rate *= h.get("head_rate", 1.0) if name in fresh else 1.0
            key = (rate, weight.ndim >= 2 and "bias" not in name)
            group = groups.setdefault(key, {"params": [], "starts": [], "rate_factor": key[0], "held": key[1]})
            from_start = key[1] and h["regularize_towards"] == "pretrained" and name not in fresh
            group["params"].append(weight)
            group["starts"].append(weight.detach().clone() if from_start else 0.0)
    return list(groups.values())


def held_back(optimizer: optim.Optimizer) -> Iterator[tuple[Tensor, Tensor | float, float]]:
    """Yield each weight that L1 and L2 hold and that has a gradient, what they pull it to, and its learning rate."""
    for group in optimizer.param_groups:
        for weight, start in zip(group["params"], group["starts"], strict=True):
            if group["held"] and weight.grad is not None:
                yield weight, start, group["lr"]


@torch.no_grad()
def pull(optimizer: optim.Optimizer, h: Values) -> None:
    """Pull weights once gradients are clipped: in the gradient (coupled, penalty) or on the weight (decoupled)."""
    l1, l2 = h["l1_strength"], h["l2_strength"]
    for weight, start, rate in held_back(optimizer) if l1 or l2 else ():
        distance, gradient = weight - start, weight.grad
        assert gradient is not None
        if h["l2_form"] == "coupled":
            gradient.add_(distance, alpha=l2)
        if h["l1_form"] == "penalty":
            gradient.add_(distance.sign(), alpha=l1)
        if h["l2_form"] == "decoupled":
            weight.add_(distance, alpha=-rate * l2)


@torch.no_grad()
def threshold(optimizer: optim.Optimizer, h: Values) -> None:
    """Cut, after the optimizer's step, what is left of each distance by the proximal L1."""
    for weight, start, rate in held_back(optimizer) if h["l1_strength"] and h["l1_form"] == "proximal" else ():
        weight.copy_(start + nn.functional.softshrink(weight - start, rate * h["l1_strength"]))


# The rate, and when it is scored.


def factor(step: int, steps: int, h: Values) -> float:
    """Return what the peak learning rate is multiplied by after `step` of `steps` steps."""
    warmup, final = math.ceil(h["warmup_ratio"] * steps), float(h.get("final_rate_ratio", 1.0))
    if step < warmup:
        start = float(h.get("initial_rate_ratio", 0.0))
        rising = step / warmup if h["schedule"] != "one_cycle" else 0.5 * (1 - math.cos(math.pi * step / warmup))
        return start + (1 - start) * rising
    progress = (step - warmup) / max(1, steps - warmup)
    schedule = h["schedule"]
    if schedule == "exponential":
        return math.pow(final, progress)
    if schedule == "inverse_sqrt":
        return final / math.hypot(final, math.sqrt(progress * (1 - final * final)))
    if schedule == "step":
        return max(math.pow(h["decay_factor"], math.floor(progress / h["decay_every"] + 1e-9)), final)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine_restarts":
        progress = h["cycles"] * progress % 1.0 if progress < 1 else 1.0
    if schedule in ("cosine", "cosine_restarts", "one_cycle"):
        left = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        left = min(1.0, (1 - progress) / h.get("decay_fraction", 1.0)) ** h.get("power", 1.0)
    return final + (1 - final) * left


def made_optimizer(groups: list[dict[str, Any]], h: Values) -> optim.Optimizer:
    """Return the optimizer over these groups."""
    kind, takes = OPTIMIZERS[h["optimizer"]]
    given: dict[str, Any] = {name: h[field] for name, field in takes.items()}
    if "beta1" in h:
        given["betas"] = (h["beta1"], h["beta2"])
    if h["optimizer"] == "nesterov":
        given["nesterov"] = h["momentum"] > 0
    if kind in (optim.SGD, optim.Adam, optim.AdamW, optim.Adagrad):
        given["fused"] = True
    made: optim.Optimizer = kind(groups, lr=h["learning_rate"], weight_decay=0.0, **given)
    return made


def evaluated_after(config: Values, rows: int, all_rows: int) -> set[int]:
    """Return the steps after which all of validation is scored, by the rungs, per mille of the longest trial's rows."""
    h = config["hyperparameters"]
    per_epoch = math.ceil(rows / h["batch_size"])
    steps = {h["epochs"] * per_epoch}
    for place in config["milestones"][:-1]:
        seen = math.ceil(place["rung"] * config["maximum_passes"] * all_rows / 1000 - 1e-6)
        if place["full"]:
            steps.add(min(seen // rows * per_epoch + math.ceil(seen % rows / h["batch_size"]), max(steps)))
    return steps


# Training and scoring.


def tokens_of(rows: Sequence[Row], tokenizer: Any, max_length: int) -> Tokens:
    """Return what the model reads of each row; what looks like a special token in a text is text."""
    encoded = tokenizer(
        *(list(column) for column in zip(*(row[:-1] for row in rows), strict=True)),
        truncation="longest_first",
        max_length=max_length,
        split_special_tokens=True,
        return_special_tokens_mask=True,
        return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
    )
    unknown, masks = tokenizer.unk_token_id, encoded.pop("special_tokens_mask")
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    control = {*tokenizer.all_special_ids, *added} if unknown is not None else set()
    for ids, special in zip(encoded["input_ids"], masks, strict=True):
        ids[:] = [unknown if not own and one in control else one for one, own in zip(ids, special, strict=True)]
    return [{name: torch.tensor(values[number]) for name, values in encoded.items()} for number in range(len(rows))]


def parts_of(rows: Integers, lengths: Integers, pass_tokens: int, most: int) -> list[Integers]:
    """Return rows in parts of at most `most`, the longest first, as is cheapest with padding and `pass_tokens` each."""
    ordered = rows[np.argsort(-lengths[rows], kind="stable")]
    ends, least = [0] * len(rows), np.zeros(len(rows) + 1)
    for start in reversed(range(len(rows))):
        sizes = np.arange(1, min(most, len(rows) - start) + 1)
        costs = sizes * lengths[ordered[start]] + pass_tokens + least[start + sizes]
        size = len(sizes) - int(costs[::-1].argmin())
        ends[start], least[start] = start + size, costs[size - 1]
    cuts = [ends[0]]
    while cuts[-1] < len(rows):
        cuts.append(ends[cuts[-1]])
    return np.split(ordered, cuts[:-1]) if len(cuts) > 1 else [rows]


def batch_of(tokens: Tokens, rows: Integers, network: Any) -> dict[str, Tensor]:
    """Return rows side by side, padded on the right."""
    batch = {}
    for name in tokens[rows[0]]:
        padding = network.config.pad_token_id if name == "input_ids" else 0
        batch[name] = nn.utils.rnn.pad_sequence([tokens[row][name] for row in rows], True, padding).to(network.device)
    return batch


def logits_of(network: Any, batch: Mapping[str, Tensor], bf16: bool) -> Tensor:
    """Return the model's answers in fp32, computed in bf16 where that is asked for."""
    with torch.autocast(network.device.type, torch.bfloat16, enabled=bf16):
        answers: Tensor = network(**batch).logits
    return answers.float()


def to_training_mode(network: nn.Module) -> None:
    """Put a network into training mode, but what is frozen of it into evaluation mode, so that its output is fixed."""
    network.train()
    for module in network.modules():
        below = False
        for child in module.children():
            weights = list(child.parameters())
            if weights or module is network:
                below = bool(weights) and not any(weight.requires_grad for weight in weights)
            if below:
                child.eval()


@torch.no_grad()
def answered(network: Any, tokens: Tokens, bf16: bool) -> Tensor:
    """Return what the model answers to each row, on the CPU; rows of like length go through together."""
    network.eval()
    order = np.argsort([-len(row["input_ids"]) for row in tokens], kind="stable")
    parts = np.array_split(order, math.ceil(len(order) / 64))
    logits = torch.cat([logits_of(network, batch_of(tokens, rows, network), bf16) for rows in parts]).cpu()
    if not logits.isfinite().all():
        raise SystemExit("The training diverged: the model's answers are no longer numbers.")
    to_training_mode(network)
    return logits[np.argsort(order)]


def score(metric: str, true: Integers, said: Integers, classes: int, positive: int | None, beta: float) -> float:
    """Return the metric; higher is better."""
    if metric in PLAIN:
        return float(getattr(sklearn.metrics, PLAIN[metric])(true, said))
    mean, _, name = metric.rpartition("_")
    more: dict[str, Any] = {"beta": beta} if name == "fbeta" else {}
    if mean:
        more |= {"average": mean, "labels": range(classes)}
    return float(getattr(sklearn.metrics, f"{name}_score")(true, said, pos_label=positive, zero_division=0, **more))


def positive_class(labels: Sequence[str], asked: str | None, rows: Sequence[Row]) -> int | None:
    """Return which of two classes is the positive one: as asked, the larger number, by its name, or the rarer."""
    if len(labels) != 2:
        return None
    if asked is not None:
        return labels.index(asked)
    try:
        numbers = [float(label) for label in labels]
        if numbers[0] != numbers[1] and all(map(math.isfinite, numbers)):
            return numbers.index(max(numbers))
    except ValueError:
        pass
    folded = [label.casefold() for label in labels]
    named = [folded.index(name) for name in ("true", "yes", "positive", "pos", "spam") if name in folded]
    if named:
        return named[0]
    counts = Counter(row[-1] for row in rows)
    return 0 if counts[labels[0]] < counts[labels[1]] else 1


def stepped(
    network: Any,
    tokens: Tokens,
    true: Tensor,
    targets: Classes | Numbers,
    optimizer: optim.Optimizer,
    config: Values,
    most: int,
) -> Iterator[int]:
    """Yield the number of each optimizer step once it is taken; at most `most` rows go through the model at once."""
    h, bf16 = config["hyperparameters"], config["measurements"].get("precision") == "bf16"
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    step, steps = 0, h["epochs"] * math.ceil(len(tokens) / h["batch_size"])
    lengths = np.array([len(row["input_ids"]) for row in tokens])
    pass_tokens = PASS_TOKENS.get(network.device.type, PASS_TOKENS["cuda"])
    to_training_mode(network)
    for epoch in range(h["epochs"]):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([config["seed"], epoch])))
        order = generator.permutation(len(tokens))
        for begin in range(0, len(order), h["batch_size"]):
            rows = order[begin : begin + h["batch_size"]]
            rate = h["learning_rate"] * factor(step, steps, h)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate_factor"]
            # In parts their gradients add up to those of the batch, so a step stays the same step.
            for part in parts_of(rows, lengths, pass_tokens, most):
                logits = logits_of(network, batch_of(tokens, part, network), bf16)
                (targets.losses(logits, true[part]).sum() / len(rows)).backward()  # type: ignore[no-untyped-call]
            if h["max_grad_norm"] is not None:
                nn.utils.clip_grad_norm_(trained, h["max_grad_norm"])
            pull(optimizer, h)
            optimizer.step()
            threshold(optimizer, h)
            optimizer.zero_grad()
            step += 1
            yield step


def train(config: Values, output: Path, device: torch.device, most: int) -> float:
    """Train, write model and tokenizer as they were at the best evaluation, and return its score."""
    h, seed, metric = config["hyperparameters"], config["seed"], config["metric"]
    rows, validation = splits(config)
    name = config["task"]["name"]
    targets = TARGETS[name](config, rows)
    strata = targets.numbers(rows) if name == "classification" else strata_of(rows, name)
    wanted = max(round(h["data_fraction"] * len(rows)), len(np.unique(strata)))
    chosen = stratified_beginning(strata, wanted, config["study_seed"])
    network, tokenizer, fresh = loaded(config["model"], targets.head)
    network.config.update(targets.kept)
    begin_anew(network, fresh, seed, h.get("head_scale"))
    network.to(device)
    for module in network.modules():
        if isinstance(module, nn.Dropout) and h["dropout"] is not None:
            module.p = h["dropout"]
    tokens = tokens_of([rows[number] for number in chosen], tokenizer, h["max_length"])
    scored = tokens_of(validation, tokenizer, h["max_length"])
    evaluated = evaluated_after(config, len(tokens), len(rows))
    optimizer = made_optimizer(groups_of(network, fresh, h), h)
    # What dropout is drawn by.
    torch.manual_seed(int(np.random.SeedSequence([seed, 0, 1]).generate_state(1)[0]))
    best, weights, without_better = -math.inf, {}, 0
    true = torch.tensor(targets.numbers(rows)[chosen], device=device)
    for step in stepped(network, tokens, true, targets, optimizer, config, most):
        if step not in evaluated:
            continue
        logits = answered(network, scored, config["measurements"].get("precision") == "bf16")
        found = targets.score(logits, validation)
        print(f"step {step}: {metric} {found:.4f}", file=sys.stderr)
        without_better += 1
        if found > best:
            best, without_better = found, 0
            weights = {name: weight.cpu().clone() for name, weight in network.state_dict().items()}
        if without_better == h["early_stopping_patience"]:
            break
    network.load_state_dict(weights)
    network.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return best


def configuration(words: Sequence[str] | None) -> tuple[Values, argparse.Namespace]:
    """Return the configuration, with the places of texts and model that were asked for, and the rest of that."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "validation", "test"):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"where the texts of {name} are here")
    parser.add_argument("--model", metavar="NAME", help="where the pretrained model is here")
    parser.add_argument("--output", metavar="FOLDER", type=Path, default="model", help="a new folder for the model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--micro-batch-size", metavar="N", type=int, help="fewer than a batch where memory is short")
    asked, beside = parser.parse_args(words), Path(__file__).with_suffix(".json")
    if not beside.is_file():
        raise SystemExit(f"There is no {beside}, which hpo export wrote beside this script.")
    config = json.loads(beside.read_text(encoding="utf-8"))
    config["data"] |= {name: getattr(asked, name) for name in ("train", "validation", "test") if getattr(asked, name)}
    config["model"]["name"] = asked.model or config["model"]["name"]
    return config, asked


def main(words: Sequence[str] | None = None) -> None:
    """Train what the file beside this says."""
    config, asked = configuration(words)
    if found := refusals(config):
        raise SystemExit(
            "This script cannot do " + "; ".join(f"{what} (nearest: {near})" for what, near in found) + "."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SystemExit("Several processes would each take whole batches: start it once, with python, on one device.")
    if asked.output.exists():
        raise SystemExit(f"{asked.output} is there already, and what is in it would be lost; name another by --output.")
    if str(config["versions"].get("threads", "")).isdigit():
        torch.set_num_threads(min(int(config["versions"]["threads"]), os.cpu_count() or 1))
    most = asked.micro_batch_size or config["hyperparameters"]["batch_size"]
    found_score = train(config, asked.output, torch.device(asked.device), most)
    said = {"metric": config["metric"], "score": found_score, "in_the_search": config["score"]}
    print(json.dumps(said | {"folder": str(asked.output)}))


if __name__ == "__main__":
    main()
