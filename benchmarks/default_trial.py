"""Default trial of a study: its time and the share of evaluation, in this checkout and another, in pairs.

MiniLM under the default of `encoder_small` on 600 BBC headlines, 150 for validation. Each checkout trains in a process
of its own, in turns, so that whatever else the machine does slows both alike.

Run: python benchmarks/default_trial.py --against CHECKOUT [--pairs 5]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import hpo
from hpo.config.study_file import StudyConfig
from hpo.data.demo import demo_examples, demo_model_folder

HERE = Path(__file__).resolve().parents[1]
TRAIN, VALIDATION = 600, 150
CONTEXTS = (("hpo.training.context", "TrainingContext"), ("hpo.training.bench", "Bench"))
"""Class whose `predict` evaluates, here and in earlier versions."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, required=False, help="another checkout")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        print(json.dumps(measured()))
        return
    before, after = [], []
    for _ in range(asked.pairs):
        before.append(trained_in(asked.against or HERE))
        after.append(trained_in(HERE))
    ratio = median(one["seconds"] / other["seconds"] for one, other in zip(after, before, strict=True))
    for name, found in (("before", before), ("after", after)):
        seconds, share = (median(one[key] for one in found) for key in ("seconds", "share"))
        print(f"{name}: {seconds:.1f} s, of which evaluation takes {share:.1%}")
    print(f"seconds after over before, median of {asked.pairs} pairs: {ratio:.3f}")


def trained_in(checkout: Path) -> Mapping[str, float]:
    """Train the trial in a process that has hpo from a checkout, and return its figures."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--serve"], env=environment, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured() -> Mapping[str, float]:
    """Train the trial here, and return its seconds and the share of them that evaluation took."""
    spent = _timed_evaluation()
    with tempfile.TemporaryDirectory() as folder:
        results = hpo.run(_study(Path(folder)))
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
