"""Memory of a warm worker: its resident memory after 20 trials over that after three.

One worker trains MiniLM, all weights, one trial after the other; then, in another process, LoRA with several trials at
once. Trials differ in rank, batch size and length, with the largest first, and every fourth is pruned, as in a search.
The files of trials are in a temporary folder. The memory is what the process holds after a trial is over.

Run: python benchmarks/worker_memory.py [--trials 20] [--slots 1 4] [--threads 1]
"""

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import psutil
import torch
from step_overhead import minilm, write_texts

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.messages import Action, Assignment, Decision, Milestone, Outcome, Report
from hpo.training.worker import open_worker

EARLY = 3
MOST = 1.1
"""Times the memory after `EARLY` trials that it may be after all."""
MILESTONES = (Milestone(rung=500, full=False), Milestone(rung=1000, full=True))


def main() -> None:
    """Measure and print; exit 1 where memory has grown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    grown = False
    for slots in options.slots:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            held = pool.apply(memory_of_trials, (slots, options.trials, options.threads))
        early, last = held[EARLY - 1], held[-1]
        print(
            f"{slots} at once: {early / 2**20:.0f} MiB after {EARLY} trials, {last / 2**20:.0f} MiB after {len(held)}, "
            f"{last / early:.2f} times as much (at most {MOST})",
            flush=True,
        )
        grown |= last > MOST * early
    raise SystemExit(grown)


def memory_of_trials(slots: int, trials: int, threads: int) -> list[int]:
    """Return the bytes that this process holds after each of so many trials."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        config = StudyConfig.model_validate(
            {
                "study": "memory",
                "model": {"name": minilm()},
                "data": {"train": str(write_texts(Path(folder) / "texts.csv", 200)), "validation_fraction": 0.3},
                "compute": {"device": "cpu", "precision": "fp32", "threads": threads, "slots": slots},
            }
        )
        worker = open_worker(config, load_splits(config.data, config.seed), Path(folder) / "files")
        waiting = [assignment(number, "lora" if slots > 1 else "full") for number in range(trials)]
        held: list[int] = []
        while len(held) < trials:
            while waiting and worker.free_slots:
                worker.admit(waiting.pop(0))
            for message in worker.advance():
                if isinstance(message, Outcome):
                    held.append(psutil.Process().memory_info().rss)
                elif isinstance(message, Report):
                    action = Action.STOP if message.trial % 4 == 3 else Action.CONTINUE
                    worker.apply(Decision(trial=message.trial, attempt=1, action=action))
    return held


def assignment(number: int, method: str) -> Assignment:
    """Return a trial, of another size than the one before."""
    values = {"method": method, "batch_size": (16, 8, 4)[number % 3], "max_length": (64, 32)[number % 2], "epochs": 1}
    if method == "lora":
        values["lora_rank"] = (16, 4)[number % 2]
    return Assignment(
        trial=number,
        attempt=1,
        hyperparameters=Hyperparameters.model_validate(values),
        seed=number,
        milestones=MILESTONES,
        maximum_passes=1,
    )


if __name__ == "__main__":
    main()
