"""Kernels that might make a step faster, each compared with the one in use, alternating on the same machine.

The pieces: AdamW fused, over lists of weights, and weight by weight; attention by torch's fused function and written
out; memory of the C library that is kept for the next step, or in large pages; `torch.compile`, with the seconds until
its first step is over. MiniLM, in fp32, batches of 1,024 tokens.

Run: python benchmarks/kernel_times.py [--pieces optimizer attention allocator compile] [--pairs 5] [--threads 1]
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from hpo.data.demo import demo_model_folder

TOKENS = 1024
LENGTHS = (16, 64, 256)
ALLOCATORS: Mapping[str, Mapping[str, str]] = {
    "as it is": {},
    "freed memory kept": {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**30)},
    "large pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
}
Run = Callable[[], object]


def main() -> None:
    """Print a line for each alternative."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=list(PIECES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve:
        step = step_of(network("sdpa"), 64)
        print(min(seconds(step) for _ in range(1 + options.pairs)))
        return
    for piece in options.pieces:
        for line in PIECES[piece](options):
            print(line, flush=True)


def optimizer(options: argparse.Namespace) -> Iterator[str]:
    """Compare the forms of AdamW, on gradients that are there."""
    model = network("sdpa")
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
    yield from compared("AdamW", steps, options.pairs)


def attention(options: argparse.Namespace) -> Iterator[str]:
    """Compare forward and backward passes."""
    kinds = {kind: network(kind) for kind in ("sdpa", "eager")}
    for length in LENGTHS:
        steps = {kind: step_of(model, length) for kind, model in kinds.items()}
        yield from compared(f"attention, {length} tokens", steps, options.pairs)


def allocator(options: argparse.Namespace) -> Iterator[str]:
    """Compare processes that differ in their environment."""
    command = [sys.executable, __file__, "--serve", "--pairs", str(options.pairs), "--threads", str(options.threads)]

    def served(environment: Mapping[str, str]) -> float:
        return float(subprocess.run(command, env={**os.environ, **environment}, stdout=-1, check=True).stdout)

    found: dict[str, list[float]] = {name: [] for name in ALLOCATORS}
    for _ in range(2):
        for name, environment in ALLOCATORS.items():
            found[name].append(served(environment))
    yield from lines("allocator", {name: min(times) for name, times in found.items()})


def compiled(options: argparse.Namespace) -> Iterator[str]:
    """Compare a compiled network, and say what its compilation took."""
    model = network("sdpa")
    steps = {"as it is": step_of(model, 64), "compiled": step_of(torch.compile(model), 64)}
    yield f"compile: the first step took {seconds(steps['compiled']):.1f} s"
    yield from compared("compile", steps, options.pairs)


def network(kind: str) -> torch.nn.Module:
    """Return MiniLM with a head, in training mode."""
    model: torch.nn.Module = AutoModelForSequenceClassification.from_pretrained(
        str(demo_model_folder()), attn_implementation=kind
    ).train()
    return model


def step_of(model: Any, length: int) -> Run:
    """Return a forward and a backward pass over rows of as many tokens."""
    ids = torch.randint(1000, 20000, (TOKENS // length, length))

    def step() -> None:
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
        model.zero_grad(set_to_none=True)

    return step


def compared(piece: str, steps: Mapping[str, Run], pairs: int) -> Iterator[str]:
    """Time all in turns, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(pairs + 1):
        for name, step in steps.items():
            taken = seconds(step)
            found[name] += [taken] if number else []
    yield from lines(piece, {name: median(times) for name, times in found.items()})


def lines(piece: str, times: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each, with its seconds over those of the first."""
    first = next(iter(times.values()))
    for name, taken in times.items():
        yield f"{piece}: {name:<18}{1e3 * taken:>9.1f} ms{taken / first:>7.2f}"


def seconds(step: Run) -> float:
    """Return the seconds of a step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


PIECES: Mapping[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "optimizer": optimizer,
    "attention": attention,
    "allocator": allocator,
    "compile": compiled,
}

if __name__ == "__main__":
    main()
