"""Default trial of a study: its time and the share of evaluation, in pairs with another checkout or without a means.

MiniLM under the default of `encoder_small` on 600 BBC headlines, 150 for validation. Each side of a pair trains in a
process of its own, in turns, so that whatever else the machine does slows both alike. With `--without`, one side does
without a means that makes trials faster, each in turn, and then without all of them.

Run: python benchmarks/default_trial.py --against CHECKOUT | --without embedding_rows last_layer dropout lengths fused
     [--pairs 5]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from importlib import import_module
from pathlib import Path
from random import Random
from statistics import median
from typing import Any
from unittest.mock import patch

from torch.optim import AdamW

import hpo
from hpo.config.study_file import StudyConfig
from hpo.data.demo import demo_examples, demo_model_folder

HERE = Path(__file__).resolve().parents[1]
TRAIN, VALIDATION = 600, 150
MEANS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "embedding_rows": ("hpo.model.trial_model.trained_rows", lambda *_: {}),
    "last_layer": ("hpo.model.backbone.first_token_forward", lambda _: {}),
    "dropout": ("hpo.model.backbone.fast_dropout", lambda _: nullcontext()),
    "lengths": ("hpo.training.gradients._parts", lambda slot, _: [slot]),
    "fused": ("torch.optim.AdamW", lambda groups, *, make=AdamW, **words: make(groups, **words | {"fused": None})),
}
"""Means -> what is replaced to do without it, and by what."""
CONTEXTS = (("hpo.training.context", "TrainingContext"), ("hpo.training.bench", "Bench"))
"""Class whose `predict` evaluates, here and in earlier versions."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--without", nargs="+", choices=MEANS, default=[], help="means to do without, one by one")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        print(json.dumps(measured(asked.without)))
        return
    if bool(asked.against) == bool(asked.without):
        parser.error("give either --against or --without")
    several = [asked.without] if len(asked.without) > 1 else []
    for without in [*([one] for one in asked.without), *several] or [[]]:
        compared(asked.against or HERE, without, asked.pairs)


def compared(checkout: Path, without: Sequence[str], pairs: int) -> None:
    """Print the seconds of the trial in a checkout without some means, and those here."""
    before, after = [], []
    for _ in range(pairs):
        before.append(trained_in(checkout, without))
        after.append(trained_in(HERE))
    ratios = sorted(one["seconds"] / other["seconds"] for one, other in zip(after, before, strict=True))
    for name, found in ((f"without {', '.join(without)}" if without else "before", before), ("after", after)):
        seconds, share = (median(one[key] for one in found) for key in ("seconds", "share"))
        print(f"{name}: {seconds:.1f} s, of which evaluation takes {share:.1%}")
    print(f"seconds after over before, median of {pairs} pairs: {median(ratios):.3f}", end=" ")
    print(f"({ratios[0]:.3f} to {ratios[-1]:.3f})", flush=True)


def trained_in(checkout: Path, without: Sequence[str] = ()) -> Mapping[str, float]:
    """Train the trial in a process that has hpo from a checkout, without some means, and return its figures."""
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", *(["--without", *without] if without else [])]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(without: Sequence[str]) -> Mapping[str, float]:
    """Train the trial here without some means, and return its seconds and the share of them that evaluation took."""
    spent = _timed_evaluation()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patched:
        replaced = [
            patched.enter_context(patch(name, side_effect=other)) for name, other in map(MEANS.__getitem__, without)
        ]
        results = hpo.run(_study(Path(folder)))
    assert all(one.called for one in replaced), "the trial does without them"
    seconds = results.best.seconds if results.best else None
    assert seconds, "it has completed"
    return {"seconds": seconds, "share": sum(spent) / seconds}


def _timed_evaluation() -> list[float]:
    """Have the seconds of each evaluation added to the list that is returned."""
    spent: list[float] = []
    for module, name in CONTEXTS:
        try:
            context = getattr(import_module(module), name)
        except ModuleNotFoundError:
            continue
        predict = context.predict

        def timed(*arguments: Any, predict: Any = predict, **words: Any) -> Any:
            began = time.perf_counter()
            try:
                return predict(*arguments, **words)
            finally:
                spent.append(time.perf_counter() - began)

        context.predict = timed
    return spent


def _study(folder: Path) -> StudyConfig:
    examples = demo_examples()
    headlines = {text.split("\n", 1)[0]: label for text, label in zip(examples.texts, examples.labels, strict=True)}
    rows = [json.dumps({"text": text, "label": label}) for text, label in sorted(headlines.items())]
    Random(0).shuffle(rows)
    files = {"train": rows[:TRAIN], "validation": rows[TRAIN : TRAIN + VALIDATION]}
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    values = {
        "study": "default",
        "model": {"name": str(demo_model_folder())},
        "data": {name: str(folder / f"{name}.jsonl") for name in files},
        "space": "encoder_small",
        "budget": {"trials": 1},
        "compute": {"runner": "inline", "device": "cpu", "precision": "fp32"},
        "confirmation": {"finalists": 0},
        "store": {"url": f"sqlite:///{folder / 'default.db'}"},
    }
    return StudyConfig.model_validate(values)


if __name__ == "__main__":
    main()
