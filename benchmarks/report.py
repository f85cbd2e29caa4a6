"""Time and size of the report on a long study: 1,000 trials of 10 evaluations each, in a SQLite store.

Run: python benchmarks/report.py [--trials N]

The trials are the coordinator's own, by a script of scores instead of a model; every fourth is given up.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from hpo.config.loading import load_config  # noqa: E402
from hpo.config.study_file import StudyConfig  # noqa: E402
from hpo.messages import Action, Assignment, Ending, Milestone, Report, Scores  # noqa: E402
from hpo.search.study_opening import leading  # noqa: E402
from hpo.space.space_file import space_of  # noqa: E402
from tests.search.scripted import CPU, ended, report_at, rising  # noqa: E402

TRIALS = 1_000
LABELS = ("business", "entertainment", "politics", "sport", "tech")
MOST_SECONDS, MOST_MEGABYTES, MOST_SECONDS_OF_BEST = 20.0, 10.0, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS)
    trials: int = parser.parse_args().trials
    with tempfile.TemporaryDirectory(prefix="hpo-report-") as folder:
        url, output = f"sqlite:///{folder}/hpo.db", Path(folder) / "report.html"
        began = time.perf_counter()
        search(study_at(url, trials))
        print(f"{trials:,} trials searched in {time.perf_counter() - began:.0f} s", flush=True)
        written = timed("report", "--store", url, "--output", str(output))
        megabytes = output.stat().st_size / 1e6
        best = timed("best", "--store", url)
    print(f"hpo report   {written:5.1f} s   at most {MOST_SECONDS:.0f} s")
    print(f"its file     {megabytes:5.1f} MB  at most {MOST_MEGABYTES:.0f} MB")
    print(f"hpo best     {best:5.1f} s   at most {MOST_SECONDS_OF_BEST:.0f} s")
    good = written < MOST_SECONDS and megabytes < MOST_MEGABYTES and best < MOST_SECONDS_OF_BEST
    sys.exit(0 if good else 1)


def study_at(url: str, trials: int) -> StudyConfig:
    return load_config(
        values={
            "study": "long", "model": {"name": "none"}, "data": {"train": "none.csv"}, "space": "encoder",
            "search": {"sampler": "random", "pruner": "none"},
            "evaluation": {"rungs": 10, "first_rung": 100, "full_reports": 1},
            "budget": {"trials": trials}, "store": {"url": url},
        }
    )  # fmt: skip


def search(config: StudyConfig) -> None:
    with leading(config, space_of(config.space), data_fingerprint="none") as coordinator:
        coordinator.begin(metric="macro_f1", versions={"hpo": "benchmark"})
        while assignment := coordinator.next_assignment(f"request-{time.monotonic_ns()}", CPU):
            reports = [scored(assignment, one) for one in assignment.milestones]
            given_up = assignment.trial % 4 == 3
            for report in reports[: len(reports) // 2 if given_up else None]:
                if coordinator.observe(report).action is not Action.CONTINUE:
                    break
            best = None if given_up else reports[-1]
            coordinator.finish(ended(assignment, Ending.PRUNED if given_up else Ending.COMPLETED, best))


def scored(assignment: Assignment, milestone: Milestone) -> Report:
    """Return a report with the scores of five labels; no two trials score the same."""
    score = rising(assignment, milestone.rung) + assignment.seed % 1000 / 1e5
    row = {"precision": score, "recall": score, "f1": score, "support": 20.0}
    validation = Scores(
        metric="macro_f1",
        values=dict.fromkeys(("macro_f1", "accuracy", "matthews", "balanced_accuracy", "log_loss"), score),
        rows=100,
        per_class=dict.fromkeys(LABELS, row),
        confusion=((16, 1, 1, 1, 1),) * len(LABELS),
    )
    return replace(report_at(assignment, milestone, score), validation=validation)


def timed(*arguments: str) -> float:
    """Return the seconds of a command, its start included."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "hpo", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
