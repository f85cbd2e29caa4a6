"""Batches divided by length: padded tokens and seconds of a step, against undivided batches.

Both take the same steps of MiniLM over BBC news articles cut at so many words, with AdamW, in turns, step by step, so
that whatever else the machine does slows both alike. Printed are tokens of a batch with its padding, and the median
ratio of seconds; and what a pass of any size costs, in tokens, which `PASS_TOKENS` in hpo/training/gradients.py is
to be near.

Run: python benchmarks/parts.py [--pairs 40] [--threads 1] [--device cpu]
"""

import argparse
import time
from statistics import fmean, median

import numpy as np
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ModelConfig
from hpo.config.tasks import TaskConfig
from hpo.data.batching import Batch, collate, split_by_length, training_batches
from hpo.data.demo import demo_examples, demo_model_folder
from hpo.data.tokenization import TokenizedSplit, tokenize
from hpo.model.backbone import Backbone
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.tasks.classification import Classification
from hpo.training import gradients
from hpo.training.optimizer_step import OptimizerStep

WORDS = (8, 20, 60)
BATCH_SIZES = (8, 16, 32)
WHOLE = 10**9
"""Tokens that a pass would have to cost so that no batch is divided."""
SHAPES = ((1, 8), (4, 8), (16, 8), (4, 32), (16, 32), (16, 64), (32, 64))
"""Rows and tokens of the passes that are timed."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = demo_examples()
    task = Classification.of(TaskConfig(), examples.labels)
    model = load_model(ModelConfig(name=str(demo_model_folder())), task, torch.device(options.device))
    labels = task.targets(examples.labels)
    print(f"a pass costs {pass_tokens(model, task, labels):.0f} tokens beside its own")
    print(
        f"{'words':>6}{'batch':>7}{'tokens':>8}{'padded':>8}{'in parts':>9}{'parts':>7}{'seconds in parts / whole':>26}"
    )
    for words in WORDS:
        texts = [
            " ".join(text.split()[:length]) for text, length in zip(examples.texts, lengths_to(words), strict=False)
        ]
        split = TokenizedSplit(tokens=tokenize(texts, None, model.tokenizer, 256), targets=labels[: len(texts)])
        for batch_size in BATCH_SIZES:
            print(row(words, batch_size, split, model, task, options.pairs), flush=True)


def lengths_to(words: int) -> list[int]:
    """Return lengths of texts, up to `words`, as uneven as those of headlines and posts."""
    return [max(2, int(words * share)) for share in np.random.default_rng(0).beta(2, 2, 1000)]


def row(words: int, batch_size: int, split: TokenizedSplit, model: Backbone, task: Classification, pairs: int) -> str:
    """Measure texts of one length in batches of one size."""
    cost = gradients.PASS_TOKENS[model.device.type]
    batches = [
        collate(split, rows, model.pad_id) for rows in training_batches(split.tokens.rows, batch_size, seed=0, epoch=0)
    ]
    divided = [split_by_length(batch.lengths, pass_tokens=cost, most_rows=batch_size) for batch in batches]
    padded = [batch.rows * int(batch.lengths.max()) for batch in batches]
    in_parts = [
        sum(len(part) * int(batch.lengths[part].max()) for part in parts)
        for batch, parts in zip(batches, divided, strict=True)
    ]
    means = (fmean(batch.lengths.sum() for batch in batches), fmean(padded), fmean(in_parts))
    ratios = sorted(ratios_of(batches, model, task, pairs))
    middle = f"{median(ratios):.3f} ({ratios[len(ratios) // 4]:.3f} to {ratios[3 * len(ratios) // 4]:.3f})"
    told = "".join(f"{mean:>{width}.0f}" for mean, width in zip(means, (8, 8, 9), strict=True))
    return f"{words:>6}{batch_size:>7}{told}{fmean(map(len, divided)):>7.1f}{middle:>26}"


def ratios_of(batches: list[Batch], model: Backbone, task: Classification, pairs: int) -> list[float]:
    """Return seconds in parts over seconds of whole batches, of a step each; each goes first in turn."""
    training = OptimizerStep(TrialModel(model, task, Hyperparameters(), seed=0), 10_000)
    compute = gradients.Gradients()
    device = model.device.type
    usual = gradients.PASS_TOKENS[device]

    def seconds(batch: Batch, cost: int) -> float:
        gradients.PASS_TOKENS[device] = cost
        began = time.perf_counter()
        training.take(compute.of(training.model, batch))
        training.mean_loss()
        taken = time.perf_counter() - began
        gradients.PASS_TOKENS[device] = usual
        return taken

    ratios = []
    for number, batch in enumerate((batches * pairs)[: pairs + 2]):
        order = (usual, WHOLE) if number % 2 else (WHOLE, usual)
        taken = {cost: seconds(batch, cost) for cost in order}
        ratios.append(taken[usual] / taken[WHOLE])
    return ratios[2:]


def pass_tokens(model: Backbone, task: Classification, labels: np.ndarray) -> float:
    """Return what a pass costs beside its tokens, in tokens, by a line through the seconds of several passes."""
    model.network.train()
    tokens, seconds, criterion = [], [], task.criterion(Hyperparameters(), model.device)
    for rows, length in SHAPES:
        ids = torch.randint(1000, 20_000, (rows, length), generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        batch = Batch(inputs=inputs, targets=torch.from_numpy(labels[:rows]))
        taken = []
        for _ in range(9):
            began = time.perf_counter()
            targets = batch.targets.to(model.device)
            loss = criterion(model.logits(batch, "fp32"), targets).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()
            taken.append(time.perf_counter() - began)
        model.network.zero_grad()
        tokens.append(rows * length)
        seconds.append(min(taken))
        print(f"  {rows:>3} rows of {length:>3} tokens: {1000 * min(taken):.1f} ms")
    slope, constant = np.polyfit(tokens, seconds, 1, w=1 / np.array(seconds))
    return float(constant / slope)


if __name__ == "__main__":
    main()
