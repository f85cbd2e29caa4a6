"""Limit of a training step: its matrix products alone, on the same machine, by model, length and method.

A step is a trial's own: forward and backward pass of a batch, clipping, AdamW. Its matrix products, attention's among
them, are noted with sizes, strides and number formats, and computed alone, each as fast as it gets in a few rounds. The
table has the step's FLOP/s and theirs, the share of the one in the other, and the operations that take most of the rest
by torch's profile.

Run: python benchmarks/limits.py [--models minilm smollm2] [--lengths 16 64 256] [--tokens 1024] [--methods full head]
     [--precision fp32] [--threads 2] [--device cpu]
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ModelConfig
from hpo.config.tasks import TaskConfig
from hpo.data.batching import Batch
from hpo.data.demo import demo_decoder, demo_model_folder
from hpo.model.backbone import Backbone
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.tasks.classification import Classification
from hpo.tasks.protocol import Task
from hpo.training.gradients import Gradients
from hpo.training.optimizer_step import OptimizerStep

aten = torch.ops.aten
PRODUCTS: dict[Any, tuple[int, int]] = {
    aten.mm.default: (0, 1), aten.addmm.default: (1, 2), aten.bmm.default: (0, 1), aten.baddbmm.default: (1, 2),
}  # fmt: skip
"""Operation -> which of its arguments are multiplied."""
MODELS: dict[str, Callable[[], dict[str, str]]] = {
    "minilm": lambda: {"name": str(demo_model_folder())},
    "smollm2": demo_decoder,
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "top_layers": {"method": "top_layers", "trained_layers": 2},
    "head": {"method": "head"},
    "lora": {"method": "lora", "lora_rank": 8},
}
ROUNDS, LEAST_SECONDS = 5, 0.005
SHOWN = 3
"""Operations beside products that are named."""
Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
Product = tuple[Operand, Operand]
"""Sizes, strides and number format of both sides."""


def main() -> None:
    """Print a line for each model, length and method."""
    options = parsed()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print("model   length rows method     GFLOP step ms GFLOP/s of products share; most of the rest")
    for name in options.models:
        model, task = loaded(MODELS[name](), device)
        for length in options.lengths:
            rows = max(1, options.tokens // length)
            batch = batch_of(model, rows, length)
            for method in options.methods:
                values = Hyperparameters.model_validate({**METHODS[method], "max_length": length, "batch_size": rows})
                step = step_of(model, task, values, batch, options.precision)
                print(f"{name:<8}{length:>6}{rows:>5} {method:<10} {measured(step, device)}", flush=True)


def parsed() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["minilm"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--tokens", type=int, default=1024, help="of a batch")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def loaded(config: Mapping[str, str], device: torch.device) -> tuple[Backbone, Classification]:
    """Return a pretrained model under a head of two labels."""
    task = Classification.of(TaskConfig(), ["one", "other"])
    return load_model(ModelConfig.model_validate(config), task, device), task


def batch_of(model: Backbone, rows: int, length: int) -> Batch:
    """Return rows of as many random tokens each."""
    known = model.network.get_input_embeddings().num_embeddings
    ids = np.random.default_rng(0).integers(known // 10, known // 2, (rows, length))
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.ones(rows, length, dtype=torch.int64)}
    return Batch(inputs=inputs, targets=torch.arange(rows) % 2)


def step_of(
    model: Backbone, task: Task[Any], values: Hyperparameters, batch: Batch, precision: Any
) -> Callable[[], object]:
    """Return a training step of a trial."""
    gradients = Gradients()
    training = OptimizerStep(TrialModel(model, task, values, seed=0, precision=precision), 10**6)
    return lambda: training.take(gradients.of(training.model, batch))


def measured(step: Callable[[], object], device: torch.device) -> str:
    """Return the figures of a step as the rest of its line."""
    step()
    with Noted() as noted:
        step()
    flop = sum(count * flop_of(product) for product, count in noted.products.items())
    alone = sum(count * seconds_alone(product, device) for product, count in noted.products.items())
    seconds = fastest(step, device)
    figures = f"{flop / 1e9:>5.1f}{1e3 * seconds:>8.1f}{flop / seconds / 1e9:>8.0f}{flop / alone / 1e9:>12.0f}"
    return f"{figures}{alone / seconds:>6.0%}; {rest_of(step, device)}"


class Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The matrix products of what is computed within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if function in PRODUCTS:
            first, second = (operand_of(arguments[place]) for place in PRODUCTS[function])
            self.products[first, second] += 1
        elif "scaled_dot_product" in str(function):
            is_backward = "backward" in str(function)
            query, key = arguments[1:3] if is_backward else arguments[:2]
            self.products.update(products_of_attention(query, key, is_backward=is_backward))
        return function(*arguments, **(named or {}))


def operand_of(tensor: Tensor) -> Operand:
    """Return what the time of a product depends on."""
    return tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype


def products_of_attention(query: Tensor, key: Tensor, *, is_backward: bool) -> Counter[Product]:
    """Return the two products of the forward pass; of the backward pass the scores again, and four gradients."""
    heads, (length, width), keys = prod(query.shape[:-2]), query.shape[-2:], key.shape[-2]

    def plain(rows: int, columns: int) -> Operand:
        return (heads, rows, columns), (rows * columns, columns, 1), query.dtype

    scores = plain(length, width), plain(width, keys)
    values = plain(length, keys), plain(keys, width)
    of_keys = plain(keys, length), plain(length, width)
    return Counter((scores, scores, values, of_keys, of_keys) if is_backward else (scores, values))


def flop_of(product: Product) -> float:
    """Return the additions and multiplications of a product."""
    (left, _, _), (right, _, _) = product
    return 2.0 * prod(left) * right[-1]


def seconds_alone(product: Product, device: torch.device) -> float:
    """Return the seconds of a product of random numbers."""
    first, second = (
        torch.empty_strided(sizes, strides, dtype=dtype, device=device).normal_() for sizes, strides, dtype in product
    )
    return fastest(partial(torch.matmul, first, second), device)


def fastest(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a run, in the fastest of some rounds of about equal length."""
    once = elapsed(run, device, 1)
    runs = max(1, int(LEAST_SECONDS / max(once, 1e-7)))
    return min(elapsed(run, device, runs) for _ in range(ROUNDS)) / runs


def elapsed(run: Callable[[], object], device: torch.device, runs: int) -> float:
    """Return the seconds of some runs."""
    wait(device)
    began = time.perf_counter()
    for _ in range(runs):
        run()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Wait until a GPU has nothing to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rest_of(step: Callable[[], object], device: torch.device) -> str:
    """Return the operations beside products that take most, each with its share of a step."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        step()
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    # Operations, which are events of the CPU: events of the GPU are the kernels that they launch, with the same time.
    operations = [event for event in found.key_averages() if event.device_type == DeviceType.CPU]
    times = {event.key: getattr(event, own) for event in operations}
    total = sum(times.values())
    others = {name: spent for name, spent in times.items() if not name.endswith(("mm", "linear", "attention"))}
    most = sorted(others, key=others.__getitem__, reverse=True)[:SHOWN]
    return ", ".join(f"{name.removeprefix('aten::')} {others[name] / total:.0%}" for name in most)


if __name__ == "__main__":
    main()
