"""GPU measurements: hpo on one GPU with models of random weights, one part at a time, as JSON.

The pieces: the machine; a step beside a bare loop, in fp32 and in bf16; which precision is measured to pay; a trial's
seconds as a probe foretells them over those that it takes; its memory as hpo counts it and as nvidia-smi does; a
checkpoint's seconds; LoRA trials of a decoder side by side; a step beside its matrix products alone; a trial beside
one of transformers' Trainer; how many trials share the GPU; attention, compiled networks and processes side by side.
`benchmarks/on_gpu.sh` runs them all, within five minutes.

Run: python benchmarks/on_gpu.py PIECE [--output FILE] [--device cpu]
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, set_seed  # noqa: E402

from hpo.config.hyperparameters import Hyperparameters  # noqa: E402
from hpo.data.splits import load_splits  # noqa: E402
from hpo.files.checkpoints import write_checkpoint  # noqa: E402
from hpo.messages import Action, Assignment, Milestone, Outcome  # noqa: E402
from hpo.model.pretrained import quietly  # noqa: E402
from hpo.runners.gpu_sharing import speedups, trials_per_gpu  # noqa: E402
from hpo.space.space_file import space_of  # noqa: E402
from hpo.training.worker import Worker, open_worker, train  # noqa: E402
from tests.models import WORDS, save_tiny_bert, save_tiny_llama, tiny_study, write_texts  # noqa: E402

Figures = dict[str, Any]
SHAPES = {"small": (6, 384), "base": (12, 768)}
"""Name -> layers and width: of MiniLM, and of BERT base."""
ROWS = 2000
LADDER_ROWS = {"train": 640, "validation": 200, "unseen": 0}
WARM_STEPS = 5
SLOTS, SLOT_BATCHES = (1, 2, 4, 8), ((2, 32), (4, 128))
"""Numbers of slots, and (rows, tokens) of batches, of the piece `slots`."""
SLOTS_TARGET = 4.0
"""Least times as many trials an hour with 8 slots as with one."""
TURNS = 2
"""Pairs of trials of the piece `trainer`."""
SIZES = {"batch_size": 16, "epochs": 2, "max_length": 128}
CHOSEN = Hyperparameters.model_validate(SIZES)


def main() -> None:
    """Measure one piece, and write or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("This measures an NVIDIA GPU, and torch sees none; --device cpu tries the pieces without one.")
    with tempfile.TemporaryDirectory() as folder, quietly():
        figures = PIECES[options.piece](Path(folder), options.device)
    written = json.dumps({"piece": options.piece, "device": options.device, **figures}, indent=2)
    if options.output is None:
        print(written)
    else:
        # Whole or not at all: what is there is not measured again.
        options.output.with_suffix(".part").write_text(written + "\n")
        options.output.with_suffix(".part").rename(options.output)


def machine(_folder: Path, device: str) -> Figures:
    """Return what it is measured on."""
    found: Figures = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "memory_bytes": properties.total_memory, "used_bytes": used_bytes()}
    return found


def overhead(precision: str) -> Callable[[Path, str], Figures]:
    """Return what measures a trial's step beside a bare loop's."""

    def measured(folder: Path, device: str) -> Figures:
        words = ["--pairs", "60", "--precision", precision, "--device", device, "--model", str(bert(folder, "small"))]
        ended = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / "step_overhead.py"), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r": ([\d.]+) \(target ([\d.]+)\)", ended.stdout)
        if found is None:
            raise SystemExit(ended.stderr)
        return {"tokens_per_second_over_a_bare_loop": float(found[1]), "target": float(found[2])}

    return measured


def precision(folder: Path, device: str) -> Figures:
    """Return, of each shape of model, what `compute.precision: auto` measures and chooses."""
    return {name: asdict(opened(folder, name, device).measure(CHOSEN)) for name in SHAPES}


def forecast(folder: Path, device: str) -> Figures:
    """Return, of each shape, a trial's seconds as a few steps foretell them, over those that it took."""
    found: Figures = {}
    for name in SHAPES:
        worker = opened(folder, name, device)
        probe = worker.probe(CHOSEN, WARM_STEPS)
        outcome = trial(worker)
        sizes = worker.dimensions(CHOSEN.max_length)
        steps = CHOSEN.epochs * -(-sizes.train_rows // CHOSEN.batch_size)
        scored = CHOSEN.epochs * sizes.validation_rows
        told = steps * probe.seconds_per_step + scored * probe.seconds_per_scored_row
        found[name] = {"told_seconds": told, "seconds": outcome.seconds, "told_over_taken": told / outcome.seconds}
    return found


def memory(folder: Path, device: str) -> Figures:
    """Return, of each shape, the peak of a trial as hpo counts it, what torch reserved, and what nvidia-smi says."""
    found: Figures = {}
    for name in SHAPES:
        before = used_bytes() if device == "cuda" else 0
        outcome = trial(opened(folder, name, device))
        found[name] = {"peak_bytes": outcome.peak_memory_bytes, "rows_at_once": outcome.micro_batch_size}
        if device == "cuda":
            found[name] |= {"reserved_bytes": torch.cuda.memory_reserved(), "more_used_bytes": used_bytes() - before}
            torch.cuda.empty_cache()
    return found


def checkpoint(folder: Path, device: str) -> Figures:
    """Return, of each shape, how large a checkpoint is and how long it takes to be written."""
    found: Figures = {}
    for name in SHAPES:
        size = opened(folder, name, device).probe(CHOSEN, 1).checkpoint_bytes
        content = torch.rand(size // 4, device=device)
        began = time.perf_counter()
        write_checkpoint(folder / "checkpoint", {"seen": 0, "content": content})
        found[name] = {"bytes": size, "seconds": time.perf_counter() - began}
    return found


def slots(folder: Path, device: str) -> Figures:
    """Return, for batches of `SLOT_BATCHES`, trials an hour with several slots relative to one."""
    from slots import hyperparameters_of, step_seconds

    texts = write_texts(folder / "texts.csv", 200)
    compute = {"device": device, "precision": "bf16" if device == "cuda" else "fp32"}
    saved = llama(folder / "llama")
    config = tiny_study(saved, texts, model={"name": str(saved), "dtype": "bf16"}, compute=compute)
    context = open_worker(config, load_splits(config.data, config.seed))._context
    found: Figures = {}
    for rows, tokens in SLOT_BATCHES:
        taken = step_seconds(context, hyperparameters_of("lora", rows, tokens), SLOTS, turns=3)
        seconds = {slots: median(of) for slots, of in taken.items()}
        found[f"{rows} x {tokens}"] = {slots: slots * seconds[1] / one for slots, one in seconds.items()}
    return found | {
        "target_at_8_slots": SLOTS_TARGET,
        "missed": [batch for batch, rates in found.items() if rates[8] < SLOTS_TARGET],
    }


def limits(folder: Path, device: str) -> Figures:
    """Return, for each method, the line that `limits.py` prints of a step of 16 rows of 128 tokens."""
    from limits import METHODS, batch_of, measured, step_of

    worker = opened(folder, "base", device)
    model, task, precision = worker._context.model, worker._context.task, worker._context.precision
    batch = batch_of(model, CHOSEN.batch_size, CHOSEN.max_length)
    steps = {
        method: step_of(model, task, Hyperparameters.model_validate({**SIZES, **values}), batch, precision)
        for method, values in METHODS.items()
    }
    return {method: measured(step, torch.device(device)) for method, step in steps.items()}


def trainer(folder: Path, device: str) -> Figures:
    """Return the seconds of the default trial of `ladder.py` under hpo and under the Trainer done well, in turns."""
    import ladder_data
    import optuna
    from ladder_bank import HALVING, SPACE, TRAINERS, own_trial, seconds_of
    from ladder_trainer import TrainerLoop

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = iter(long_texts(folder / "texts.csv", sum(LADDER_ROWS.values())).read_text().splitlines()[1:])
    for part, count in LADDER_ROWS.items():
        records = [dict(zip(("text", "label"), row.split(","), strict=True)) for row in islice(rows, count)]
        (folder / f"random-{part}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    # It finds these files, and writes none.
    paths, saved = ladder_data.write("random", folder), bert(folder, "small")
    loop = TrainerLoop(paths, bf16=device == "cuda", model=saved, device=device, **TRAINERS[HALVING])
    loop.open()
    values = space_of(dict(SPACE)).default_values()
    loop.train({**values, "epochs": 1}, seed=0)
    ours = own_trial("random", folder, model={"name": str(saved)}, compute=compute_of(device))
    ways: Mapping[str, Callable[..., float]] = {"hpo": ours, "trainer": partial(loop.train, seed=0)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(TURNS):
        for way in sorted(ways, reverse=turn % 2 == 1):
            seconds[way].append(seconds_of(ways[way], values))
    ratios = [one / other for one, other in zip(seconds["hpo"], seconds["trainer"], strict=True)]
    return {"seconds": seconds, "hpo_over_trainer": median(ratios)}


def kernels(folder: Path, device: str) -> Figures:
    """Return, for each piece of `kernel_times.py` that a GPU may change, the lines that it prints."""
    from kernel_times import PIECES as KERNELS
    from kernel_times import parsed

    tokens = CHOSEN.batch_size * CHOSEN.max_length
    words = ["--pairs", "3", "--threads", "2", "--device", device, "--tokens", str(tokens)]
    words += ["--precision", "bf16" if device == "cuda" else "fp32", "--model"]
    encoder, decoder = bert(folder, "small"), llama(folder / "llama")
    found: Figures = {}
    for piece in ("attention", "unpadded", "weights", "liger", "side_by_side", "compile", "graphs"):
        try:
            found[piece] = list(KERNELS[piece](parsed([*words, str(decoder if piece == "liger" else encoder)])))
        except RuntimeError as error:
            # Compilation needs a C compiler, which the other pieces do without.
            found[piece] = str(error)
    return found


def sharing(folder: Path, device: str) -> Figures:
    """Return, of each shape, how many trials `compute.workers: auto` puts on the GPU, and why.

    The piece `kernels` measures what `speedups` forecasts: the steps per second of several processes over those of one.
    """
    found: Figures = {}
    for name in SHAPES:
        worker = opened(folder, name, device)
        busy, cores = worker.busy_share(CHOSEN), torch.get_num_threads()
        trials = trials_per_gpu(worker.probe(CHOSEN, WARM_STEPS), busy, cores=cores)
        found[name] = {"busy_share": busy, "speedups": speedups(busy), "trials": trials}
    return found


PIECES: Mapping[str, Callable[[Path, str], Figures]] = {
    "machine": machine,
    "overhead_fp32": overhead("fp32"),
    "overhead_bf16": overhead("bf16"),
    "precision": precision,
    "forecast": forecast,
    "memory": memory,
    "checkpoint": checkpoint,
    "slots": slots,
    "limits": limits,
    "trainer": trainer,
    "sharing": sharing,
    "kernels": kernels,
}


def bert(folder: Path, shape: str) -> Path:
    """Save a BERT of random weights and that shape, with the tokenizer of a few words."""
    layers, width = SHAPES[shape]
    saved = save_tiny_bert(folder / shape, longest=512)
    set_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(WORDS) + 5,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
        )
    ).save_pretrained(saved)
    return saved


def llama(folder: Path) -> Path:
    """Save a Llama of random weights and the shape of SmolLM2-135M, with the tokenizer of a few words."""
    saved = save_tiny_llama(folder)
    set_seed(0)
    LlamaModel(
        LlamaConfig(
            vocab_size=len(WORDS) + 5,
            hidden_size=576,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            intermediate_size=1536,
            eos_token_id=0,
        )
    ).save_pretrained(saved)
    return saved


def opened(folder: Path, shape: str, device: str) -> Worker:
    """Open a worker over a random BERT of that shape and long texts, warm."""
    texts = long_texts(folder / "texts.csv", ROWS)
    config = tiny_study(bert(folder, shape), texts, compute=compute_of(device))
    worker = open_worker(config, load_splits(config.data, config.seed))
    worker.probe(CHOSEN, WARM_STEPS)
    return worker


def long_texts(path: Path, rows: int) -> Path:
    """Write a CSV of texts of 24 to 96 words, with one of two labels."""
    header, *lines = write_texts(path, rows).read_text().splitlines()
    longer = [f"{' '.join([line.rpartition(',')[0]] * 8)},{line.rpartition(',')[2]}" for line in lines]
    path.write_text("\n".join([header, *longer]))
    return path


def compute_of(device: str) -> dict[str, str]:
    """Return the section `compute` of a study."""
    return {"device": device, "precision": "auto" if device == "cuda" else "fp32"}


def trial(worker: Worker) -> Outcome:
    """Train the usual trial, with a full evaluation at the end of each of its epochs."""
    milestones = tuple(Milestone(rung=1000 * (one + 1) // CHOSEN.epochs, full=True) for one in range(CHOSEN.epochs))
    assignment = Assignment(
        trial=0, attempt=1, hyperparameters=CHOSEN, seed=0, milestones=milestones, maximum_passes=CHOSEN.epochs
    )
    return train(worker, assignment, lambda _: Action.CONTINUE)


def used_bytes() -> int:
    """Return what is used of the first GPU, by whomever, as nvidia-smi says."""
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]) * 2**20


if __name__ == "__main__":
    main()
