"""Trains one configuration that a search by hpo found, without hpo: python train.py --train texts.csv --output model

The .json file of the same name next to it has all settings. It takes the same steps as `hpo train`, from the same
weights and over the same rows: on the same device, threads and versions, the score is equal up to rounding. The weights
are those of the best evaluation on validation, not of the last. It computes on one device, the first GPU or the CPU.
It needs torch, transformers and numpy, and the package of its optimizer if that is not torch's own.

The training comes first, then the code of hpo that it uses, each part as in its own source.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer

from hpo.data.batching import Rows, split_by_length, training_batches
from hpo.data.readers.delimited import read_csv
from hpo.data.readers.json_lines import read_jsonl
from hpo.data.readers.table import Table
from hpo.data.sources import Examples
from hpo.data.splits import Splits, splits_of
from hpo.data.stratify import class_count, stratified_prefix, stratified_sample
from hpo.errors import ConfigurationError, DataError, HpoError
from hpo.export.prediction import CONFIG_KEY, trained_model
from hpo.messages import Milestone
from hpo.model.backbone import LinearInFp32, set_padding
from hpo.model.cpu_dropout import fast_dropout
from hpo.model.last_layer import first_token_forward
from hpo.model.methods import METHODS, LayerStack, head_parameters, select_parameters, to_training_mode
from hpo.model.randomness import Dropouts, dropout_seed
from hpo.tasks.protocol import Fits
from hpo.tasks.registry import TASKS
from hpo.training.gradients import PASS_TOKENS
from hpo.training.milestones import milestone_steps
from hpo.training.optimizer_step import Diverged, OptimizerStep
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.schedules import SCHEDULES

# The training: from texts and a pretrained model to a folder.
Tokens = Sequence[Mapping[str, Tensor]]
"""Arguments of the model for each row."""
Part = tuple[Tokens, NDArray[Any]]
"""Some rows, with the target of each."""


def nearest(_: str, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown name."""
    return f"Known: {', '.join(known)}."


def open_text(path: Path, newline: str) -> Any:
    """Open a file as UTF-8; other bytes become lone surrogates."""
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def read_source(source: str, *_: Any, delimiter: str | None, **__: Any) -> Table:
    """Return the content of a .csv or .jsonl file."""
    if not Path(source).is_file():
        raise DataError(f"There is no file {source}, where the search had its texts; say --train FILE and its like.")
    return read_csv(Path(source), delimiter) if source.endswith(".csv") else read_jsonl(Path(source))


def tokens_of(examples: Examples, tokenizer: Any, max_length: int) -> Tokens:
    """Return the arguments of the model for each row; special tokens within a text are split like other text."""
    encoded = tokenizer(
        *(list(side) for side in (examples.texts, examples.pairs) if side is not None),
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
    return [{name: torch.tensor(side[row]) for name, side in encoded.items()} for row in range(examples.rows)]


class TrialModel:
    """A network with a newly initialised head, and its trained parameters."""

    def __init__(self, config: Any, task: Any, device: torch.device) -> None:
        """Load the network of a configuration."""
        h, given = config.hyperparameters, config.model
        options = {"revision": given.revision, "trust_remote_code": given.trust_remote_code}
        self.network, found = task.load(
            given.name, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
        self.tokenizer = AutoTokenizer.from_pretrained(given.name, split_special_tokens=True, **options)
        set_padding(self.network, self.tokenizer)
        mismatched = {key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]}
        self.fresh = frozenset({*found["missing_keys"], *mismatched, *head_parameters(self.network)})
        self._begin_anew(config.seed, h.head_scale)
        dropouts = Dropouts(self.network)
        LayerStack(self.network).keep(h.kept_layers)
        if not METHODS[h.method].shares:
            for layer, forward in first_token_forward(self.network).items():
                layer.forward = forward
        dropouts.put(h.dropout, h.attention_dropout)
        self.network.to(device)
        self.hyperparameters, self.backbone, self.device = h, self, device
        self.bf16 = config.precision == "bf16"
        self.modules: Mapping[str, nn.Module] = {}
        self.parameters = select_parameters(self.network, self.fresh, h)
        to_training_mode(self.network)
        # What dropout is drawn by.
        torch.manual_seed(dropout_seed(config.seed, 0))

    @torch.no_grad()
    def _begin_anew(self, seed: int, scale: float | None) -> None:
        """Initialise new weights, matrices at `scale` if given, even if the pretrained head would fit."""
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        for owner in dict.fromkeys(
            name.rpartition(".")[0] for name, _ in self.network.named_parameters() if name in self.fresh
        ):
            drawn = deepcopy(self.network.get_submodule(owner))
            self.network._init_weights(drawn)
            if type(drawn) is nn.Linear:
                self.network.get_submodule(owner).__class__ = LinearInFp32
            for name, weight in drawn.named_parameters(recurse=False):
                if scale is not None and weight.ndim >= 2:
                    weight.normal_(0.0, scale, generator=generator)
                if f"{owner}.{name}" in self.fresh:
                    self.network.get_parameter(f"{owner}.{name}").copy_(weight)

    def logits(self, tokens: Tokens, rows: Rows) -> Tensor:
        """Return the logits of some rows, padded on the right; fp32, computed in the configured precision."""
        batch = {}
        for name in tokens[rows[0]]:
            padding = self.network.config.pad_token_id if name == "input_ids" else 0
            batch[name] = nn.utils.rnn.pad_sequence([tokens[row][name] for row in rows], True, padding).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16), fast_dropout(self.device):
            logits: Tensor = self.network(**batch).logits
        return logits.float()

    @torch.no_grad()
    def answers(self, tokens: Tokens) -> Tensor:
        """Return the logits of all rows, on the CPU; rows of similar length are computed together."""
        self.network.eval()
        order = np.argsort([-len(row["input_ids"]) for row in tokens], kind="stable")
        parts = np.array_split(order, math.ceil(len(order) / 64))
        logits = torch.cat([self.logits(tokens, rows) for rows in parts]).cpu()
        to_training_mode(self.network)
        if not logits.isfinite().all():
            raise Diverged("The training diverged: the model's answers are no longer numbers.")
        return logits[np.argsort(order)]

    def pretrained(self) -> dict[str, Tensor]:
        """Return name -> pretrained value of the parameters that have one, before training changes them."""
        return {name: weight.detach().clone() for name, weight in self.parameters.items() if name not in self.fresh}

    def mount(self) -> None:
        """Do nothing, because only this model uses the network."""


def parts_of(config: Any, splits: Splits, task: Any, tokenizer: Any) -> tuple[Part, Part, Part]:
    """Return the rows to train on, to score, and to fit values such as thresholds to."""
    h, seed = config.hyperparameters, config.study_seed

    def part(examples: Examples) -> Part:
        return tokens_of(examples, tokenizer, h.max_length), task.targets(examples.labels)

    strata = task.strata(task.targets(splits.train.labels))
    wanted = max(round(h.data_fraction * splits.train.rows), class_count(strata))
    chosen = stratified_prefix(strata, wanted, seed)
    sample = chosen[stratified_sample(strata[chosen], min(config.evaluation.rung_rows, splits.validation.rows), seed)]
    trained, scored, fitted = (
        part(one) for one in (splits.train.take(chosen.tolist()), splits.validation, splits.train.take(sample.tolist()))
    )
    return trained, scored, scored if splits.confirmation else fitted


def steps_of(config: Any, model: Any, part: Part, criterion: Any, most: int) -> Iterator[OptimizerStep]:
    """Yield the optimizer after each of its steps; a micro-batch has at most `most` rows."""
    h, (tokens, targets) = config.hyperparameters, part
    true = torch.as_tensor(targets, device=model.device)
    lengths = np.array([len(row["input_ids"]) for row in tokens])
    pass_tokens = PASS_TOKENS.get(model.device.type, PASS_TOKENS["cuda"])
    optimizer = OptimizerStep(model, h.epochs * math.ceil(len(tokens) / h.batch_size))
    for epoch in range(h.epochs):
        for batch in training_batches(len(tokens), h.batch_size, config.seed, epoch):
            loss = torch.zeros((), device=model.device)
            # In parts their gradients add up to those of the batch, so a step stays the same step.
            for places in split_by_length(lengths[batch], pass_tokens=pass_tokens, most_rows=most):
                rows = batch[places]
                of_part = criterion(model.logits(tokens, rows), true[rows]).sum() / len(batch)
                of_part.backward()
                loss += of_part.detach()
            optimizer.take(loss)
            yield optimizer


def evaluated(model: TrialModel, task: Any, scored: Part, fitted_to: Part) -> tuple[float, Any]:
    """Return the score, and the fitted values; None if the task fits nothing."""

    def predictions_of(tokens: Tokens, targets: NDArray[Any]) -> Any:
        return task.with_targets(targets, task.predictions(model.answers(tokens)))

    predictions, fitted = predictions_of(*scored), None
    if isinstance(task, Fits):
        fitted = task.fit(predictions if fitted_to is scored else predictions_of(*fitted_to))
        predictions = task.with_fitted(predictions, fitted)
    return task.score(predictions), fitted


def rows_of(config: Any) -> Splits:
    """Return the splits of the search."""
    study: Any = SimpleNamespace(**vars(config) | {"seed": config.study_seed})
    splits = splits_of(study)
    if splits.fingerprint != config.data.fingerprint:
        raise DataError("The texts, labels or splits are not those of the search; its score would not compare.")
    return splits


def train(config: Any, output: Path, device: torch.device, most: int) -> float:
    """Train, write the model of the best evaluation and the tokenizer, and return the score."""
    h, splits = config.hyperparameters, rows_of(config)
    config.task.metric = config.metric
    task = TASKS[config.task.name].of(config.task, splits.train.labels)
    model = TrialModel(config, task, device)
    trained, scored, fitted_to = parts_of(config, splits, task, model.tokenizer)
    # With folds the search has scored others than this one: it trains on all rows, to its end.
    places = [Milestone(rung=one.rung, full=one.full) for one in config.milestones][-1 if splits.folds else 0 :]
    reached = milestone_steps(
        places,
        maximum_examples=config.maximum_passes * splits.train.rows,
        train_rows=len(trained[0]),
        batch_size=h.batch_size,
        epochs=h.epochs,
    )
    best, weights, fitted, without_better = -math.inf, {}, None, 0
    for optimizer in steps_of(config, model, trained, task.criterion(h, device), most):
        if optimizer.taken not in reached or not reached[optimizer.taken].full:
            continue
        with optimizer.evaluating():
            found, of_rows = evaluated(model, task, scored, fitted_to)
            print(f"step {optimizer.taken}: {config.metric} {found:.4f}", file=sys.stderr)
            without_better += 1
            if found > best:
                best, fitted, without_better = found, of_rows, 0
                weights = {name: weight.cpu().clone() for name, weight in model.network.state_dict().items()}
        optimizer.observe(found)
        if without_better == h.early_stopping_patience:
            break
    model.network.load_state_dict(weights)
    setattr(model.network.config, CONFIG_KEY, trained_model(config, splits, task, fitted))
    model.network.save_pretrained(output)
    model.tokenizer.save_pretrained(output)
    return best


def configuration(words: Sequence[str] | None) -> tuple[Any, argparse.Namespace]:
    """Return the configuration, changed by command-line arguments, and the parsed arguments."""
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
    config = json.loads(beside.read_text(encoding="utf-8"), object_hook=lambda values: SimpleNamespace(**values))
    for name in ("train", "validation", "test"):
        setattr(config.data, name, getattr(asked, name) or getattr(config.data, name))
    config.model.name = asked.model or config.model.name
    config.precision = "bf16" if vars(config.measurements).get("precision") == "bf16" else "fp32"
    return config, asked


def refuse_others(config: Any) -> None:
    """Refuse a configuration other than the one that this script was written for."""
    h = config.hyperparameters
    written_for = ((h.optimizer, OPTIMIZERS), (h.schedule, SCHEDULES), (h.method, METHODS), (config.task.name, TASKS))
    if others := [name for name, known in written_for if name not in known]:
        raise ConfigurationError(f"This script has no {' and no '.join(others)}: write one with hpo export.")


def main(words: Sequence[str] | None = None) -> None:
    """Train the configuration in the JSON file."""
    config, asked = configuration(words)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SystemExit("Several processes would each take whole batches: start it once, with python, on one device.")
    if asked.output.exists():
        raise SystemExit(f"{asked.output} is there already, and what is in it would be lost; name another by --output.")
    threads = vars(config.versions).get("threads", "")
    if threads.isdigit():
        torch.set_num_threads(min(int(threads), os.cpu_count() or 1))
    most = asked.micro_batch_size or config.hyperparameters.batch_size
    try:
        refuse_others(config)
        found = train(config, asked.output, torch.device(asked.device), most)
    except (HpoError, Diverged) as error:
        raise SystemExit(str(error)) from None
    result = {"metric": config.metric, "score": found, "in_the_search": config.score}
    print(json.dumps(result | {"folder": str(asked.output)}))


if __name__ == "__main__":
    main()
