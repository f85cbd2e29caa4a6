"""Forecast accuracy: forecast divided by measured seconds of trials, up to the rung where they ended.

MiniLM on the demonstration's headlines, and on 600 short ones; on a quiet machine, and with a load on all cores from
the middle trial on. The pruner pauses no trial, so that each ends once. Trials during which the load changed, or that
were cut, are listed apart. Each trial is a line of `OUTPUT/TEXTS-LOAD.jsonl`: what is there already is not run again.

Run: python benchmarks/forecast.py [--texts demo short] [--load none middle] [--trials 20] [--output FOLDER]
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import median, quantiles
from threading import Event
from typing import Any

from hpo.cli.search import DEMO
from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.data.demo import demo_examples, demo_model_folder, write_demo_data
from hpo.data.splits import splits_of
from hpo.messages import Assignment, Decision, Ending, Outcome, Report, WorkerSettings
from hpo.runners.callbacks import SearchCallback
from hpo.runners.check.search_forecast import short_check
from hpo.runners.dispatch import Dispatch
from hpo.runners.processes.protocol import belong_to
from hpo.runners.run import opened_pool
from hpo.search.coordinator import Coordinator
from hpo.search.pruners import with_evaluation_defaults
from hpo.search.study_opening import leading
from hpo.search.trial_sizes import dearest
from hpo.space.space_file import space_of

TRAIN, VALIDATION = 600, 150
MIDDLE = (0.85, 1.2)
"""Where the median of what was told over what it took should be."""
NINE_OF_TEN = (0.65, 1.5)
OUTPUT = Path("hpo-files", "forecast")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How one trial compares."""

    trial: int
    rung: int
    told: float
    """Seconds to that rung, as told when it was assigned."""
    seconds: float
    """That it took."""
    apart: str
    """Why it does not count; empty where it does."""

    @property
    def ratio(self) -> float:
        """What was told over what it took."""
        return self.told / self.seconds


@dataclass
class Comparing(SearchCallback):
    """Writes down each trial that ends, and begins the load in the middle one."""

    coordinator: Coordinator
    file: Path
    middle: int | None
    """Trial after whose first evaluation a load begins; None for no load."""
    _told: dict[int, Mapping[int, float]] = field(default_factory=dict)
    _last: dict[int, Report] = field(default_factory=dict)
    _load: list[Any] = field(default_factory=list)
    _apart: dict[int, str] = field(default_factory=dict)

    def assigned(self, assignment: Assignment) -> None:
        """Take down what is told."""
        self._told[assignment.trial] = self.coordinator.forecasts.seconds_to_rungs(assignment.trial)
        if assignment.attempt > 1:
            self._apart[assignment.trial] = "it was cut"
        if self.middle is not None and assignment.trial > self.middle:
            self._begin_load()

    def reported(self, report: Report, decision: Decision) -> None:
        """Take down how far it has come."""
        self._last[report.trial] = report
        if report.trial == self.middle and not self._load:
            self._begin_load()
            self._apart[report.trial] = "the load began"

    def ended(self, outcome: Outcome) -> None:
        """Compare."""
        last = self._last.get(outcome.trial)
        if last is None or outcome.ending not in (Ending.COMPLETED, Ending.PRUNED):
            return
        told = self._told[outcome.trial].get(last.rung, 0.0)
        apart = self._apart.get(outcome.trial, "" if told else "nothing was told")
        trial = Trial(trial=outcome.trial, rung=last.rung, told=told, seconds=last.seconds, apart=apart)
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(trial)) + "\n")
        print(f"  {line_of(trial)}", flush=True)

    def end_load(self) -> None:
        """Leave the cores alone again."""
        for process in self._load:
            process.kill()
            process.join()

    def _begin_load(self) -> None:
        if not self._load:
            context = multiprocessing.get_context("spawn")
            self._load = [
                context.Process(target=burn, args=(os.getpid(),), daemon=True) for _ in range(os.cpu_count() or 1)
            ]
            for process in self._load:
                process.start()


def main() -> None:
    """Compare, print, and end with 1 where a figure is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--load", nargs="+", choices=("none", "middle"), default=["none", "middle"])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    cells = [(texts, load) for load in asked.load for texts in asked.texts]
    bad = [f"{texts}, load {load}" for texts, load in cells if not compared(texts, load, asked.trials, asked.output)]
    if bad:
        sys.exit(f"Not as it should be: {'; '.join(bad)}.")


def compared(texts: str, load: str, trials: int, folder: Path) -> bool:
    """Run what is not there yet of one cell, print it, and return whether it is good."""
    file = folder / f"{texts}-{load}.jsonl"
    print(f"{texts}, load {load}", flush=True)
    if len(read(file)) < trials:
        search(texts, file, trials, trials // 2 if load == "middle" else None)
    found = read(file)
    for trial in found:
        if trial.apart:
            print(f"  apart ({trial.apart}): {line_of(trial)}")
    ratios = sorted(trial.ratio for trial in found if not trial.apart)
    if len(ratios) < 2:
        print("  BAD   too few trials count")
        return False
    middle, (low, *_, high) = median(ratios), quantiles(ratios, n=10, method="inclusive")
    within = sum(NINE_OF_TEN[0] <= ratio <= NINE_OF_TEN[1] for ratio in ratios) / len(ratios)
    good = MIDDLE[0] <= middle <= MIDDLE[1] and within >= 0.9
    print(
        f"  {'good' if good else 'BAD '}  {len(ratios)} trials, told over taken: median {middle:.2f} (bar: "
        f"{MIDDLE[0]} to {MIDDLE[1]}), a tenth below {low:.2f}, a tenth above {high:.2f}, {within:.0%} within "
        f"{NINE_OF_TEN[0]} to {NINE_OF_TEN[1]} (bar: 90%)",
        flush=True,
    )
    return good


def search(texts: str, file: Path, trials: int, middle: int | None) -> None:
    """Search, or go on with the search, until so many trials are over."""
    config = STUDIES[texts](file, trials)
    space, splits = space_of(config.space), splits_of(config)
    config = with_evaluation_defaults(config, space, splits)
    with (
        leading(config, space, data_fingerprint=splits.fingerprint) as coordinator,
        opened_pool(config, splits) as pool,
    ):
        lead = pool.lead
        coordinator.begin(metric=lead.metric.name, versions={})
        measured = coordinator.measurements() or asdict(lead.measure(dearest(space)))
        coordinator.record_measurements(measured)
        lead.use(WorkerSettings(precision=measured["precision"]))
        coordinator.expect(short_check(lead, config, space, splits).costs, 0.0)
        pool.begin(WorkerSettings(precision=measured["precision"]))
        comparing = Comparing(coordinator, file, middle)
        try:
            Dispatch(coordinator, pool, comparing, Event(), compute=config.compute).run()
        finally:
            comparing.end_load()


def demo(file: Path, trials: int) -> StudyConfig:
    """Return the demonstration's search."""
    data = {f"data.{part}": str(path) for part, path in write_demo_data(file.parent / "demo-data").items()}
    return study(file, trials, DEMO | data)


def short(file: Path, trials: int) -> StudyConfig:
    """Return a search over headlines of the same corpus, each with its topic, by the space for small encoders."""
    paths = {part: file.parent / f"short-{part}.jsonl" for part in ("train", "validation")}
    examples = demo_examples()
    rows = sorted(
        {
            text.split("\n", 1)[0].strip(): label for text, label in zip(examples.texts, examples.labels, strict=True)
        }.items()
    )
    Random(0).shuffle(rows)
    for path, some in zip(paths.values(), (rows[:TRAIN], rows[TRAIN : TRAIN + VALIDATION]), strict=True):
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in some))
    return study(file, trials, {"space": "encoder_small"} | {f"data.{part}": str(path) for part, path in paths.items()})


def study(file: Path, trials: int, values: Mapping[str, Any]) -> StudyConfig:
    """Return a study whose store lies beside `file`, of so many trials, without a confirmation."""
    own = {
        "study": file.stem, "model.name": str(demo_model_folder()), "budget.trials": trials,
        "confirmation.finalists": 0, "confirmation.audit": 0.0, "store.url": f"sqlite:///{file.with_suffix('.db')}",
        "compute.runner": "processes", "compute.workers": 1, "search.pruner": "asynchronous_median",
    }  # fmt: skip
    sections: dict[str, Any] = {}
    for path, value in (dict(values) | own).items():
        section, _, name = path.partition(".")
        if name:
            sections.setdefault(section, {})[name] = value
        else:
            sections[section] = value
    return load_config(values=sections)


STUDIES = {"demo": demo, "short": short}


def read(file: Path) -> Sequence[Trial]:
    """Return the trials that are written down, each once."""
    lines = file.read_text().splitlines() if file.exists() else []
    trials = [Trial(**json.loads(line)) for line in lines]
    return list({trial.trial: trial for trial in trials}.values())


def line_of(trial: Trial) -> str:
    """Return a trial in words."""
    ratio = f"{trial.ratio:.2f}" if trial.told else "-"
    of_both = f"told {trial.told:6.1f} s, took {trial.seconds:6.1f} s, {ratio}"
    return f"trial {trial.trial:>3} to rung {trial.rung:>4}: {of_both}"


def burn(parent: int) -> None:
    """Keep a core busy until somebody ends it."""
    belong_to(parent)
    number = 1.0
    while True:
        number = (number * 1.000001) % 7


if __name__ == "__main__":
    main()
