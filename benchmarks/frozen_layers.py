"""Frozen layers computed once: seconds of a trial from the second on, with and without the cache, in pairs.

MiniLM on openings of BBC news, texts cut at 64 tokens. A worker trains the same trial again and again, in turns with
what frozen layers gave before, and with all layers in every pass. The first trial, which computes and keeps what they
give, is timed apart. Under `top_layers` with k of n layers trained a training step is to be (n + 2k) / 3k times as
fast: a forward pass of all n and a backward pass of k, which is twice its forward pass, over both of k. Under LoRA of
the upper k layers it is (n + k) / 2k, because the backward pass computes no gradients of frozen weights.

Run: python benchmarks/frozen_layers.py [--methods head 1 3 lora1 lora3] [--rows 160] [--epochs 2] [--pairs 2]
     [--threads 2]
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.data.demo import demo_examples, demo_model_folder
from hpo.data.splits import load_splits
from hpo.messages import Action, Assignment, Milestone, Outcome
from hpo.model.frozen_layers import FrozenLayers
from hpo.training.worker import Worker, open_worker, train

LENGTH, LAYERS = 64, 6
LINEAR = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)  # fmt: skip
"""Linear layers of one of MiniLM's layers."""


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["head", "1", "3", "lora1", "lora3"],
        help="head, how many layers train, or how many LoRA adapts",
    )
    parser.add_argument("--rows", type=int, default=160, help="for training; half as many for validation")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print("trained        first trial  later, all layers computed  later, kept    ratio   of steps alone (expected)")
    with tempfile.TemporaryDirectory() as folder:
        worker = opened(Path(folder), options)
        for method in options.methods:
            print(line(worker, method, options), flush=True)


def opened(folder: Path, options: argparse.Namespace) -> Worker:
    """Return a worker over the texts."""
    examples, path = demo_examples(), folder / "texts.csv"
    wanted = options.rows + options.rows // 2
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        step = examples.rows // wanted
        rows = zip(examples.texts[::step], examples.labels[::step], strict=True)
        writer.writerows([text[:2000], label] for text, label in list(rows)[:wanted])
    config = StudyConfig.model_validate(
        {
            "study": "frozen",
            "model": {"name": str(demo_model_folder())},
            "data": {"train": str(path), "validation_fraction": 1 / 3},
            "compute": {"device": "cpu", "precision": "fp32", "threads": options.threads},
        }
    )
    return open_worker(config, load_splits(config.data, config.seed))


def line(worker: Worker, method: str, options: argparse.Namespace) -> str:
    """Return the figures of a method."""
    values = values_of(method, options.epochs)
    first, _ = seconds(worker, values)
    kept: list[tuple[float, float]] = []
    computed: list[tuple[float, float]] = []
    for _ in range(options.pairs):
        kept.append(seconds(worker, values))
        with patch.object(FrozenLayers, "agrees", lambda *_: False):
            computed.append(seconds(worker, values))
    (before, steps_before), (after, steps_after) = (
        tuple(median(one[part] for one in found) for part in (0, 1)) for found in (computed, kept)
    )
    layers, backward = 0 if method == "head" else int(method.removeprefix("lora")), 1 if "lora" in method else 2
    expected = f"({(LAYERS + backward * layers) / ((1 + backward) * layers):.2f})" if layers else ""
    name = "head" if method == "head" else f"{method} of {LAYERS}"
    ratios = f"{before / after:>8.2f}{steps_before / steps_after:>12.2f} {expected}"
    return f"{name:<14}{first:>10.2f} s{before:>21.2f} s{after:>18.2f} s{ratios}"


def values_of(method: str, epochs: int) -> Hyperparameters:
    """Return the hyperparameters of a method."""
    if method.startswith("lora"):
        upper = range(LAYERS - int(method.removeprefix("lora")), LAYERS)
        targets = ",".join(f"layer.{layer}.{linear}" for layer in upper for linear in LINEAR)
        chosen: dict[str, Any] = {"method": "lora", "lora_targets": targets}
    else:
        chosen = {"method": "head"} if method == "head" else {"method": "top_layers", "trained_layers": int(method)}
    return Hyperparameters.model_validate({**chosen, "epochs": epochs, "max_length": LENGTH})


def seconds(worker: Worker, values: Hyperparameters) -> tuple[float, float]:
    """Train a trial with an evaluation in each epoch; return its seconds, and those of all that is no evaluation."""
    ends = tuple(Milestone(rung=epoch + 1, full=True) for epoch in range(values.epochs))
    assignment = Assignment(
        trial=0, attempt=1, hyperparameters=values, seed=0, milestones=ends, maximum_passes=values.epochs
    )
    spent: list[float] = []
    scored = worker._context.predict

    def timed(*inputs: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return scored(*inputs, **named)
        finally:
            spent.append(time.perf_counter() - began)

    began = time.perf_counter()
    with patch.object(worker._context, "predict", timed):
        outcome: Outcome = train(worker, assignment, lambda _: Action.CONTINUE)
    assert outcome.best, outcome.reason
    taken = time.perf_counter() - began
    return taken, taken - sum(spent)


if __name__ == "__main__":
    main()
