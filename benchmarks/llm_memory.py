"""Memory of LoRA: the peak of a trial of a decoder with random weights, divided by the computed need.

A trial of adapters of rank 16 on all linear layers takes a few steps and an evaluation in a process of its own, with
gradient checkpointing. The arithmetic adds up the weights in their dtype, 16 bytes for each number of an adapter
(weight, gradient, two moments of AdamW), the input of each layer and all activations of one, and what the process took
before the model was read. On a CPU the peak is that of training and evaluation; opening is printed apart, because with
nf4 it includes the pages of the model's file, which the kernel takes back where memory is short.

Run: python benchmarks/llm_memory.py [--layers 16] [--width 2048] [--dtype bf16|fp32|nf4] [--rows 8] [--length 128]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import torch
from step_overhead import minilm, write_texts
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.data.splits import splits_of
from hpo.memory import peak_memory_bytes
from hpo.messages import Action, Assignment, Milestone
from hpo.training.worker import open_worker, train

TARGET = 1.25
BYTES = {"bf16": 2.0, "fp32": 4.0, "nf4": 0.5 + 1 / 64}
"""Of a weight of a layer; nf4 has one constant of 8 bits for each 64 weights."""


def main() -> None:
    """Measure and print; exit 1 where the peak is more than the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--dtype", choices=BYTES, default="bf16")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        config = written(Path(folder), options)
        command = [sys.executable, __file__, "--model", folder, *sys.argv[1:]]
        found = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
    expected = found["before"] + needed(config, options, found["adapter"])
    ratio, opening = found["peak"] / expected, found["opening"] / 2**30
    print(
        f"{found['weights'] / 1e9:.2f} billion weights in {options.dtype}, adapters of {found['adapter'] / 1e6:.1f} "
        f"million, {options.rows} rows of {options.length} tokens: peak {found['peak'] / 2**30:.2f} GiB, "
        f"arithmetic {expected / 2**30:.2f} GiB, ratio {ratio:.2f} (target {TARGET}); opening {opening:.2f} GiB"
    )
    raise SystemExit(ratio > TARGET)


def written(folder: Path, options: argparse.Namespace) -> LlamaConfig:
    """Write a Llama of random weights in bf16, its tokenizer and texts into a folder; return its config."""
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=options.width, intermediate_size=4 * options.width,
        num_hidden_layers=options.layers, num_attention_heads=options.width // 64,
        num_key_value_heads=max(1, options.width // 256), pad_token_id=tokenizer.pad_token_id, dtype="bfloat16",
    )  # fmt: skip
    LlamaForSequenceClassification(config).to(torch.bfloat16).model.save_pretrained(folder)
    shutil.copy(write_texts(folder / "written.csv", 60), folder / "texts.csv")
    return config


def needed(config: LlamaConfig, options: argparse.Namespace, adapter: int) -> float:
    """Return the bytes that weights, adapters and activations need."""
    width, inner, heads = (
        config.hidden_size,
        config.intermediate_size,
        config.num_key_value_heads / config.num_attention_heads,
    )
    layer = width * (2 * width * (1 + heads) + 3 * inner)
    weights = config.num_hidden_layers * layer * BYTES[options.dtype] + config.vocab_size * width * min(
        2.0, BYTES["bf16"]
    )
    tokens, number = options.rows * options.length, 4 if options.dtype == "fp32" else 2
    inputs = tokens * width * number * (config.num_hidden_layers + 1)
    # Of one layer: norms, queries, keys, values, attention, its projection and residual, and thrice the inner width.
    inside = tokens * (8 * width + 5 * inner) * number
    return float(weights + 16 * adapter + inputs + inside)


def measured(options: argparse.Namespace) -> dict[str, int]:
    """Return the bytes of the process before the model is read, and at its peak; weights and those of adapters."""
    dtype = {"dtype": "bf16", "quantization": "nf4"} if options.dtype == "nf4" else {"dtype": options.dtype}
    config = StudyConfig.model_validate(
        {
            "study": "memory",
            "model": {"name": str(options.model), **dtype},
            "data": {"train": str(options.model / "texts.csv"), "validation_fraction": 0.2},
            "compute": {"device": options.device, "precision": "fp32", "gradient_checkpointing": True},
        }
    )
    values = {
        "method": "lora",
        "batch_size": options.rows,
        "max_length": options.length,
        "epochs": 1,
        "data_fraction": 0.3,
    }
    splits, before = splits_of(config), psutil.Process().memory_info().rss
    worker = open_worker(config, splits)
    opening = _high_water_mark()
    assignment = Assignment(
        trial=0, attempt=1, hyperparameters=Hyperparameters.model_validate(values), seed=0,
        milestones=(Milestone(rung=1000, full=True),), maximum_passes=1,
    )  # fmt: skip
    outcome = train(worker, assignment, lambda _: Action.CONTINUE)
    assert outcome.best, outcome.reason
    peak = _high_water_mark() if options.device == "cpu" else peak_memory_bytes(torch.device(options.device))
    model = worker._context.model
    adapter = sum(weight.numel() for name, weight in model.network.named_parameters() if "lora_" in name)
    # The network's own layers again.
    model.reset(0)
    return {
        "before": 0 if options.device == "cuda" else before,
        "opening": opening,
        "peak": peak,
        "weights": sum(weight.numel() for weight in model.network.parameters()),
        "adapter": adapter,
    }


def _high_water_mark() -> int:
    """Return the most bytes that this process had in memory since the last call, on Linux."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
