"""Kills of workers and leaders at named points: nothing is lost or duplicated, and the weights are equal."""

import json
import math
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import chaos_material as material
import psutil
from chaos_points import FOLDER, OF_LEADERS, OF_WORKERS, doom_leader, killed, ledger, open_doomed, write_schedule

from hpo.config.study_file import StudyConfig
from hpo.runners import run as runner
from hpo.runners.processes.launcher import open_processes
from hpo.store.database import open_database

TRIALS, TRIALS_OF_DECODER, SHORT_TRIALS = 220, 110, 12
KILLS, KILLS_OF_DECODER = {"worker": 50, "leader": 20}, {"worker": 25, "leader": 10}
SHORT_KILLS = {"worker": 3, "leader": 1}
SEED = 7
MOST_DIFFERENCE = 1e-5
"""Relative difference of the losses of a trial that shared its steps from those of the same beside others."""
MOST_SECONDS = 30
"""In which workers end after their leader; one that still imports notices only then."""
LEADER = str(Path(__file__).with_name("chaos.py"))


def kills(folder: Path, short: bool) -> list[material.Figure]:
    """Kill workers and leaders of a search of an encoder, and of LoRA of a decoder."""
    return [*of_one(folder / "encoder", short), *of_one(folder / "decoder", short, decoder=True)]


def slots(folder: Path, short: bool) -> list[material.Figure]:
    """Kill workers, each with two trials of LoRA of a decoder, and leaders."""
    return of_one(folder / "two slots", short, decoder=True, slots=2)


def of_one(folder: Path, short: bool, *, decoder: bool = False, slots: int = 1) -> list[material.Figure]:
    """Kill those of one search until the schedule is through; hold it against one that nobody killed."""
    trials, planned = (TRIALS_OF_DECODER, KILLS_OF_DECODER) if decoder else (TRIALS, KILLS)
    if short:
        trials, planned = SHORT_TRIALS, SHORT_KILLS
    whole, cut = (
        prepared(folder / name, trials, asked, decoder, slots) for name, asked in (("whole", {}), ("cut", planned))
    )
    lead_to_the_end(whole)
    deaths, orphans = lead_to_the_end(cut)
    figures = [*of_kills(cut, planned, deaths, orphans), *of_results(whole, cut, trials)]
    return [replace(one, name=f"{folder.name}: {one.name}") for one in figures]


def prepared(folder: Path, trials: int, planned: dict[str, int], decoder: bool, slots: int) -> Path:
    """Write a study and its schedules into `folder`."""
    config = material.study_in(folder, budget={"trials": trials}, decoder=decoder, compute={"slots": slots})
    points = runner.files_folder(config) / FOLDER
    points.mkdir(parents=True)
    for who, of in (("worker", OF_WORKERS), ("leader", OF_LEADERS)):
        # In a short search each comes as early as it may, so that there are trials enough for all.
        within = {name: (least, least) for name, (least, _) in of.items()} if trials == SHORT_TRIALS else of
        write_schedule(points, who, within, planned.get(who, 0), SEED)
    (folder / "study.json").write_text(config.model_dump_json())
    return folder


def study_of(folder: Path) -> StudyConfig:
    """Return the study that `prepared` wrote."""
    return StudyConfig.model_validate(json.loads((folder / "study.json").read_text()))


def lead(folder: Path) -> None:
    """Lead the study in this process, which may die of it."""
    config = study_of(folder)
    doom_leader(runner.files_folder(config) / FOLDER)
    runner.OPENERS = {"processes": partial(open_processes, opener=open_doomed)}
    runner.run(config)


def lead_to_the_end(folder: Path) -> tuple[int, int]:
    """Start leaders until one ends by itself; return how many were killed, and how many workers outlived theirs."""
    deaths = orphans = 0
    while True:
        command = [sys.executable, LEADER, "--lead", str(folder)]
        with (folder / "leader.log").open("ab") as log:
            leader = subprocess.Popen(command, stdout=log, stderr=log)
            workers: dict[int, psutil.Process] = {}
            while leader.poll() is None:
                try:
                    found = psutil.Process(leader.pid).children()
                except psutil.NoSuchProcess:
                    found = []
                workers |= {process.pid: process for process in found}
                time.sleep(0.05)
        _, alive = psutil.wait_procs(list(workers.values()), timeout=MOST_SECONDS)
        orphans += sum(map(is_running, alive))
        if leader.returncode == 0:
            return deaths, orphans
        if leader.returncode != -9:
            raise RuntimeError(f"The leader ended with {leader.returncode}: see {folder / 'leader.log'}.")
        deaths += 1


def is_running(process: psutil.Process) -> bool:
    """Return whether a process is not over; one that is, and whose end nobody has asked for yet, is a zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def of_kills(folder: Path, planned: dict[str, int], deaths: int, orphans: int) -> list[material.Figure]:
    """Return what was killed where."""
    points = runner.files_folder(study_of(folder)) / FOLDER
    workers, leaders = Counter(killed(points, "worker")), Counter(killed(points, "leader"))
    return [
        figure("worker kills", describe(workers), workers.total() == planned["worker"]),
        figure("leader kills", describe(leaders), leaders.total() == planned["leader"] == deaths),
        figure("workers that outlived their leader", str(orphans), orphans == 0),
    ]


def of_results(undisturbed: Path, cut: Path, trials: int) -> list[material.Figure]:
    """Return how the search that was cut compares with the one that was not."""
    expected, found = (runner.files_folder(study_of(folder)) / FOLDER for folder in (undisturbed, cut))
    config = study_of(cut)
    database = open_database(config.store.url)
    try:
        stored = database.storage.get_all_trials(database.storage.get_study_id_from_name(config.study))
    finally:
        database.close()
    states = Counter(trial.state.name for trial in stored)
    told = {line["trial"]: line["score"] for line in ledger(found / "stored.jsonl")}
    kept = {trial.number: trial.value for trial in stored if trial.state.name == "COMPLETE"}
    proposals = Counter(json.dumps(trial.params, sort_keys=True) for trial in stored)
    repeated = sum(proposals.values()) - len(proposals)
    trained = ledger(found / "trained.jsonl")
    others = {line["trial"]: line for line in ledger(expected / "trained.jsonl")}
    # Which trials a step is shared with is a matter of time, and a shared step is equal up to rounding.
    exact = config.compute.slots == 1
    same = sum(
        line["weights"] == others[line["trial"]]["weights"]
        if exact
        else math.isclose(line["loss"], others[line["trial"]]["loss"], rel_tol=MOST_DIFFERENCE)
        for line in trained
    )
    name = "final weights equal to the last bit" if exact else f"best losses within {MOST_DIFFERENCE:g}"
    resumed = sum(line["resumed"] > 0 for line in trained)
    return [
        figure("states in the store", describe(states), states == {"COMPLETE": trials}),
        figure("numbers", f"0 to {max(kept)}", [trial.number for trial in stored] == list(range(trials))),
        figure(
            "results told as stored, and there with that score",
            f"{sum(kept.get(number) == score for number, score in told.items())} of {len(told)}",
            told.items() <= kept.items(),
        ),
        figure("proposals repeated", str(repeated), repeated == 0),
        figure("trials that went on from a checkpoint", str(resumed), resumed > 0),
        figure(name, f"{same} of {len(trained)}", same == len(trained) >= trials),
    ]


def describe(counts: Counter[str]) -> str:
    """Return counts as words."""
    return f"{counts.total()}: " + ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))


def figure(name: str, measured: str, good: bool) -> material.Figure:
    """Return a figure."""
    return material.Figure(name=name, measured=measured, good=good)
