"""Kernels that might make a step faster, each compared with the one in use, alternating on the same machine.

The pieces: AdamW fused, over lists of weights, and weight by weight; attention by torch's fused function and written
out; attention alone of rows of different lengths, padded and unpadded; Liger's kernels in a model that they support
(Llama, Qwen2, Mistral), given by `--model`; a LoRA step over frozen weights in fp32 and in bf16; memory of the C
library that is kept for the next step, or in large pages; `torch.compile`, with the seconds until its first step is
over, also with CUDA graphs; several processes that each fine-tune all weights at once on one device.
MiniLM, in fp32, batches of 1,024 tokens, if not asked otherwise.

Run: python benchmarks/kernel_times.py [--pieces optimizer attention unpadded liger weights allocator compile graphs
     side_by_side] [--pairs 5] [--threads 1] [--device cpu] [--precision fp32] [--model FOLDER] [--tokens 1024]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from limits import batch_of, elapsed, loaded
from limits import step_of as training_step_of
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.demo import demo_model_folder
from hpo.model.pretrained import quietly

LENGTHS = (16, 64, 256)
LENGTH = 64
"""Tokens of a row, where lengths are not compared."""
HEADS, HEAD_WIDTH = 12, 64
"""Heads and the width of each, in the piece `unpadded`."""
RUNS = {"cpu": 1, "cuda": 10}
"""Steps that are timed together: a GPU works through a queue."""
WARM_STEPS = 3
PROCESSES = (1, 2, 4)
RATE_SECONDS = 1.0
"""Time over which processes side by side count their steps."""
ALLOCATORS: Mapping[str, Mapping[str, str]] = {
    "as it is": {},
    "freed memory kept": {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**30)},
    "large pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
}
Run = Callable[[], object]


def main() -> None:
    """Print a line for each alternative."""
    options = parsed()
    torch.set_num_threads(options.threads)
    if options.device == "cuda":
        # As hpo does.
        torch.set_float32_matmul_precision("high")
    with quietly():
        if options.serve:
            SERVED[options.serve](options)
            return
        for piece in options.pieces:
            for line in PIECES[piece](options):
                print(line, flush=True)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of these words, or of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=list(PIECES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--model", type=Path, help="folder of a model, that of `hpo demo` if not given")
    parser.add_argument("--tokens", type=int, default=1024, help="of a batch")
    parser.add_argument("--serve", choices=SERVED, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.model = options.model or demo_model_folder()
    return options


def command_of(piece: str, options: argparse.Namespace) -> list[str]:
    """Return the command of a process that a piece measures."""
    names = ("pairs", "threads", "device", "precision", "model", "tokens")
    words = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    return [sys.executable, __file__, "--serve", piece, *words]


def optimizer(options: argparse.Namespace) -> Iterator[str]:
    """Compare the forms of AdamW, on gradients that are there."""
    model = network("sdpa", options)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    forms: dict[str, dict[str, Any]] = {
        "fused": {"fused": True},
        "lists": {"foreach": True},
        "one by one": {"foreach": False},
    }
    steps: dict[str, Run] = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-6, **form).step for name, form in forms.items()
    }
    yield from compared("AdamW", steps, options)


def attention(options: argparse.Namespace) -> Iterator[str]:
    """Compare forward and backward passes."""
    kinds = {kind: network(kind, options) for kind in ("sdpa", "eager")}
    for length in LENGTHS:
        steps = {kind: step_of(model, length, options) for kind, model in kinds.items()}
        yield from compared(f"attention, {length} tokens", steps, options)


def unpadded(options: argparse.Namespace) -> Iterator[str]:
    """Compare forward and backward passes of attention alone, in bf16 and without dropout, which varlen_attn lacks."""
    if options.device == "cpu":
        yield "unpadded: only on a GPU"
        return
    from torch.nn.attention.varlen import varlen_attn

    for length in LENGTHS:
        rows = options.tokens // length
        lengths = torch.linspace(length / 4, length, rows).long()
        ends = functional.pad(lengths.cumsum(0), (1, 0)).int().cuda()
        mask = (torch.arange(length) < lengths[:, None])[:, None, None].cuda()
        padded = torch.randn(
            3, rows, HEADS, length, HEAD_WIDTH, dtype=torch.bfloat16, device="cuda", requires_grad=True
        )
        packed = torch.randn(
            3, int(ends[-1]), HEADS, HEAD_WIDTH, dtype=torch.bfloat16, device="cuda", requires_grad=True
        )
        steps: dict[str, Run] = {
            "padded": partial(attended, functional.scaled_dot_product_attention, padded, mask),
            "unpadded": partial(attended, varlen_attn, packed, ends, ends, length, length),
        }
        yield from compared(f"attention of {length // 4} to {length} tokens", steps, options)


def attended(attend: Callable[..., Any], states: torch.Tensor, *more: object) -> None:
    """Take a forward and a backward pass of attention; `states` are queries, keys and values."""
    output: torch.Tensor = attend(*states, *more)
    output.sum().backward()  # type: ignore[no-untyped-call]


def liger(options: argparse.Namespace) -> Iterator[str]:
    """Compare a model with Liger's norms, rotations and feed-forward networks."""
    if options.device == "cpu" or find_spec("liger_kernel") is None:
        yield "liger: only on a GPU, with liger-kernel installed"
        return
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    kinds = {kind: network("sdpa", options) for kind in ("as it is", "liger")}
    _apply_liger_kernel_to_instance(model=kinds["liger"])
    steps = {kind: step_of(model, LENGTH, options) for kind, model in kinds.items()}
    yield from compared("liger", steps, options)


def weights(options: argparse.Namespace) -> Iterator[str]:
    """Compare steps of LoRA over frozen weights in either dtype; both compute in `--precision`."""
    device, rows = torch.device(options.device), options.tokens // LENGTH
    values = Hyperparameters.model_validate({"method": "lora", "batch_size": rows, "max_length": LENGTH})
    steps: dict[str, Run] = {}
    for dtype in ("fp32", "bf16"):
        model, task = loaded({"name": str(options.model), "dtype": dtype}, device)
        steps[dtype] = training_step_of(model, task, values, batch_of(model, rows, LENGTH), options.precision)
    yield from compared("frozen weights", steps, options)


def allocator(options: argparse.Namespace) -> Iterator[str]:
    """Compare processes that differ in their environment."""
    if options.device == "cuda":
        yield "allocator: only on a CPU"
        return
    command = command_of("allocator", options)
    found: dict[str, list[float]] = {name: [] for name in ALLOCATORS}
    for _ in range(2):
        for name, environment in ALLOCATORS.items():
            ended = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
            found[name].append(float(ended.stdout))
    yield from lines("allocator", {name: min(times) for name, times in found.items()})


def serve_fastest(options: argparse.Namespace) -> None:
    """Print the seconds of the fastest step."""
    step = step_of(network("sdpa", options), LENGTH, options)
    print(min(seconds(step, options) for _ in range(1 + options.pairs)))


def compiled(options: argparse.Namespace, piece: str = "compile", mode: str | None = None) -> Iterator[str]:
    """Compare a compiled network, and say what its compilation took."""
    model = network("sdpa", options)
    kinds = {"as it is": model, "compiled": torch.compile(model, mode=mode)}
    steps = {name: step_of(kind, LENGTH, options) for name, kind in kinds.items()}
    taken = elapsed(steps["compiled"], torch.device(options.device), 1)
    yield f"{piece}: the first step took {taken:.1f} s"
    # The step after the first records a graph.
    elapsed(steps["compiled"], torch.device(options.device), WARM_STEPS)
    yield from compared(piece, steps, options)


def graphs(options: argparse.Namespace) -> Iterator[str]:
    """Compare a compiled network whose kernels are launched together."""
    if options.device == "cpu":
        yield "graphs: only on a GPU"
        return
    yield from compiled(options, "graphs", "reduce-overhead")


def side_by_side(options: argparse.Namespace) -> Iterator[str]:
    """Compare the steps a second of several processes together, which share the threads of a CPU evenly."""
    counts = [count for count in PROCESSES if options.device == "cuda" or count <= options.threads]
    rates: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as running:
        command = command_of("side_by_side", options)
        started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(max(counts))]
        processes = [running.enter_context(process) for process in started]
        # In the round that does not count, the models are loaded.
        for number in range(options.pairs + 1):
            for count in counts:
                rate = total_rate(processes[:count], max(1, options.threads // count))
                rates[count] += [rate] if number else []
    alone = median(rates[1])
    for count, found in rates.items():
        yield f"side by side: {count} at once{median(found):>10.1f} steps a second{median(found) / alone:>7.2f}"


def total_rate(processes: Sequence[subprocess.Popen[bytes]], threads: int) -> float:
    """Return the steps a second of some processes together, each on as many threads."""
    for process in processes:
        assert process.stdin
        process.stdin.write(b"%d\n" % threads)
        process.stdin.flush()
    return sum(float(process.stdout.readline()) for process in processes if process.stdout)


def serve_rates(options: argparse.Namespace) -> None:
    """Print, for each line with a number of threads, the steps a second of a trial that trains all weights."""
    device, rows = torch.device(options.device), options.tokens // LENGTH
    model, task = loaded({"name": str(options.model)}, device)
    values = Hyperparameters.model_validate({"batch_size": rows, "max_length": LENGTH})
    step = training_step_of(model, task, values, batch_of(model, rows, LENGTH), options.precision)
    elapsed(step, device, WARM_STEPS)
    for line in sys.stdin:
        torch.set_num_threads(int(line))
        taken, spent = 0, 0.0
        while spent < RATE_SECONDS:
            spent += elapsed(step, device, RUNS[options.device])
            taken += RUNS[options.device]
        print(taken / spent, flush=True)


def network(kind: str, options: argparse.Namespace) -> torch.nn.Module:
    """Return the model with a head, in training mode; with dropout of attention weights, torch fuses nothing."""
    config = AutoConfig.from_pretrained(str(options.model))
    # Not as an argument: decoders such as Llama know no such number.
    config.attention_probs_dropout_prob = 0.0
    model: torch.nn.Module = AutoModelForSequenceClassification.from_pretrained(
        str(options.model), config=config, attn_implementation=kind
    )
    return model.to(options.device).train()


def step_of(model: Any, length: int, options: argparse.Namespace) -> Run:
    """Return a forward and a backward pass over rows of as many tokens; without padding, hpo passes no mask."""
    known = model.get_input_embeddings().num_embeddings
    ids = torch.randint(known // 10, known // 2, (options.tokens // length, length), device=options.device)

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            outputs = model(input_ids=ids)
        outputs.logits.sum().backward()
        model.zero_grad(set_to_none=True)

    return step


def compared(piece: str, steps: Mapping[str, Run], options: argparse.Namespace) -> Iterator[str]:
    """Time all in turns, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.pairs + 1):
        for name, step in steps.items():
            taken = seconds(step, options)
            found[name] += [taken] if number else []
    yield from lines(piece, {name: median(times) for name, times in found.items()})


def lines(piece: str, times: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each, with its seconds over those of the first."""
    first = next(iter(times.values()))
    for name, taken in times.items():
        yield f"{piece}: {name:<18}{1e3 * taken:>9.1f} ms{taken / first:>7.2f}"


def seconds(step: Run, options: argparse.Namespace) -> float:
    """Return the seconds of a step."""
    runs = RUNS[options.device]
    return elapsed(step, torch.device(options.device), runs) / runs


PIECES: Mapping[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "optimizer": optimizer,
    "attention": attention,
    "unpadded": unpadded,
    "liger": liger,
    "weights": weights,
    "allocator": allocator,
    "compile": compiled,
    "graphs": graphs,
    "side_by_side": side_by_side,
}
SERVED: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "allocator": serve_fastest,
    "side_by_side": serve_rates,
}
"""Piece -> what its processes do."""

if __name__ == "__main__":
    main()
