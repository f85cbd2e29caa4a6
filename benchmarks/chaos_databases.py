"""Database faults: restarts, contention, two leaders at once, and wrong clocks."""

import json
import math
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
from chaos_material import ROOT, TIMED, Figure, study_in
from chaos_postgresql import cut_transactions, postgresql_server, stop_server
from chaos_search import Conditions, Search, searching
from chaos_stored import Stored, all_once, completed, figure, stored, tables_of

from hpo.config.study_file import StudyConfig
from hpo.runners.run import files_folder, run
from hpo.store.database import sqlite_path

LED = 4
"""How a start ends where another process leads."""
AN_HOUR = 3600.0
NIGHT = 40.0
"""Seconds of a search that has a deadline; two starts side by side take half of them on a slow machine."""
LEFT_ALONE_SECONDS = 1.0
"""After each cut: where every try is cut, a search waits longer each time, and none of it is what is measured."""
VISITORS = str(Path(__file__).with_name("chaos_visitors.py"))


def postgresql(folder: Path, short: bool) -> list[Figure]:
    """Cut a search's connections to PostgreSQL in the middle of transactions, restart it, and have it away a while."""
    # After how many trials, how it is stopped, for how many seconds.
    away = [(3, "immediate", 0), (6, "fast", 5)] if short else [
        (3, "fast", 0), (8, "immediate", 0), (13, "fast", 0), (18, "fast", 30),
    ]  # fmt: skip
    trials = 12 if short else 60
    # Workers that nobody listens to while the store is away have not hung.
    compute = {"hang_minutes": 0.4}
    with postgresql_server() as (server, url):
        config = study_in(folder, url=url, rows=1000, budget={"trials": trials}, compute=compute)
        cut = Counter[str]()
        may_cut = 0.0

        def reaches(trials: int) -> bool:
            nonlocal may_cut
            if time.monotonic() >= may_cut and (found := cut_transactions(url)):
                cut["transactions"] += found
                may_cut = time.monotonic() + LEFT_ALONE_SECONDS
            return has_completed(url, trials)

        with searching(config, folder) as search:
            # Who starts a search while the store is away is told so, and starts it again.
            search.comes_to(partial(has_completed, url, 1))
            for after, how, seconds in away:
                if search.comes_to(partial(reaches, after)):
                    stop_server(server, how)
                    time.sleep(seconds)
                    server.ensure_postgres_running()
                    cut["outages"] += search.lives and not has_completed(url, trials)
            search.comes_to(partial(reaches, trials))
            status = search.ends()
        found = stored(url)
    waits = search.said.count("The store answers again")
    return [
        figure("transactions cut", str(cut["transactions"]), cut["transactions"] > 0),
        figure("outages while it searched", f"{cut['outages']} of {len(away)}", cut["outages"] == len(away)),
        ended(search, status, 0),
        figure("times that it said it waited", str(waits), waits > 0),
        *all_once(found, trials),
        as_undisturbed(found, folder / "undisturbed", trials),
    ]


def as_undisturbed(found: Stored, folder: Path, trials: int) -> Figure:
    """Return whether the results are those of a search on SQLite, in one process, that nobody disturbed."""
    config = study_in(folder, rows=1000, budget={"trials": trials}, compute={"runner": "inline"})
    run(config)
    expected, results = stored(config.store.url).results, found.results
    same = sum(results.get(number) == result for number, result in expected.items())
    good = same == trials == len(expected)
    return figure("results equal to those on SQLite, undisturbed", f"{same} of {trials}", good)


def sqlite(folder: Path, short: bool) -> list[Figure]:
    """Write to SQLite as fast as many short trials ask for it, while others read it and enqueue."""
    workers, trials, enqueues = (3, 40, 1) if short else (8, 400, 5)
    config = timed(study_in(folder, compute={"workers": workers}, budget={"trials": trials}), 0.2)
    url, enough = config.store.url, folder / "enough"
    with searching(config, folder, conditions=Conditions(timed=True)) as search, ExitStack() as stack:
        search.comes_to(partial(has_completed, url, 1))
        visitors = [
            stack.enter_context(visiting(folder, f"visitor-{number}", [VISITORS, task, url, config.study, str(until)]))
            for number, (task, until) in enumerate([("read", enough), ("read", enough), ("enqueue", folder / "half")])
        ]
        command = ["-m", "hpo", "enqueue", "learning_rate=0.01", "--store", url]
        by_command = [stack.enter_context(visiting(folder, f"enqueue-{number}", command)) for number in range(enqueues)]
        half_way = search.comes_to(partial(has_completed, url, trials // 2))
        (folder / "half").touch()
        status = search.ends(300)
        enough.touch()
        refused = [one for one in (*visitors, *by_command) if one.wait(60) != 0]
    found = stored(url)
    visits = [int((folder / f"visitor-{number}.txt").read_text().split()[-1]) for number in range(len(visitors))]
    enqueued = sum("fixed_params" in trial.system_attrs for trial in found.trials)
    texts = [path for pattern in ("*.txt", "*.log") for path in folder.rglob(pattern)]
    locked = [path.name for path in texts if "locked" in path.read_text(errors="replace")]
    return [
        ended(search, status, 0),
        figure("looks at all of it meanwhile", str(visits[0] + visits[1]), half_way and min(visits) > 0),
        # The default is enqueued too.
        figure("enqueued meanwhile", str(enqueued - 1), enqueued - 1 == visits[2] + enqueues),
        figure("visitors that failed", str(len(refused)), not refused),
        figure(f'of {len(texts)} logs say "locked"', ", ".join(locked) or "0", not locked),
        *all_once(found, trials),
    ]


def leaders(folder: Path, short: bool) -> list[Figure]:
    """Start twice at once; then stop the leader until another has taken over and finished, and wake it."""
    conditions = Conditions(timed=True, lease_seconds=3.0 if short else 30.0, begins_with="begin")
    config = timed(study_in(folder, compute={"workers": 1 if short else 2}, budget={"trials": 12}), 0.5)
    with ExitStack() as stack:
        starts = [stack.enter_context(searching(config, folder, name, conditions)) for name in ("one", "other")]
        second = stack.enter_context(searching(config, folder, "second", replace(conditions, begins_with="lapsed")))
        (folder / "begin").touch()
        starts[0].comes_to(lambda: not starts[1].lives)
        refused, first = sorted(starts, key=lambda search: search.lives)
        first.comes_to(partial(has_completed, config.store.url, 3))
        stop_outside_of_transactions(first, config)
        figures = [
            ended(refused, refused.ends(), LED, f"is led by process {first.process.pid} on"),
            *taken_over(first, second, config, folder / "lapsed"),
        ]
    if short:
        return figures
    return [*figures, from_another_container(folder / "container"), *stopped_in_a_transaction(folder / "transaction")]


def from_another_container(folder: Path) -> Figure:
    """Start a second time from a container that has the host's name and cannot see its processes."""
    container = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if not works(*container, "true"):
        return figure("a start from another container", "none can be made here", True)
    config = timed(study_in(folder, budget={"trials": 40}, compute={"workers": 1}), 0.5)
    waiting = Conditions(timed=True, begins_with="go")
    with (
        searching(config, folder, conditions=Conditions(timed=True)) as leader,
        searching(config, folder, "in a container", waiting, before=container) as start,
    ):
        leader.comes_to(partial(has_completed, config.store.url, 3))
        (folder / "go").touch()
        return ended(start, start.ends(60), LED, f"is led by process {leader.process.pid} on")


def stopped_in_a_transaction(folder: Path) -> list[Figure]:
    """Stop a leader that holds locks of PostgreSQL, as a machine that hangs does, and have another take over."""
    conditions = Conditions(timed=True, lease_seconds=3.0)
    with postgresql_server() as (_, url):
        config = timed(study_in(folder, url=url, budget={"trials": 12}), 0.5)
        with (
            searching(config, folder, "first", replace(conditions, stops_with="stop")) as first,
            searching(config, folder, "second", replace(conditions, begins_with="lapsed")) as second,
        ):
            first.comes_to(partial(has_completed, url, 3))
            (folder / "stop").touch()
            first.comes_to(lambda: psutil.Process(first.process.pid).status() == psutil.STATUS_STOPPED)
            figures = taken_over(first, second, config, folder / "lapsed")
    return [figure(f"stopped in a transaction: {one.name}", one.measured, one.good) for one in figures]


def taken_over(first: Search, second: Search, config: StudyConfig, lapsed: Path) -> list[Figure]:
    """Return what comes of it where a stopped leader's lease lapses, another finishes the search, and it is woken."""
    url, workers = config.store.url, psutil.Process(first.process.pid).children()
    time.sleep(first.conditions.lease_seconds + 1)
    lapsed.touch()
    status = second.ends()
    before = tables_of(url)
    first.process.send_signal(signal.SIGCONT)
    ending = ended(first, first.ends(60), LED, f"is now led by process {second.process.pid} on")
    after = tables_of(url)
    _, orphans = psutil.wait_procs(workers, timeout=5)
    changed = [name for name in after if after[name] != before.get(name)]
    return [
        ended(second, status, 0),
        ending,
        figure("tables that it changed when it woke", ", ".join(changed) or "0", not changed),
        figure("workers that outlived it", str(len(orphans)), not orphans),
        *all_once(stored(url), 12, attempts=2),
    ]


def clocks(folder: Path, short: bool) -> list[Figure]:
    """Have a leader's clock an hour behind and every time zone another, and start a second time meanwhile."""
    put_right = Conditions(timed=True, clock_off=-AN_HOUR, right_with="right")
    figures = night_by(put_right, folder / "put right", budget=AN_HOUR + NIGHT, off_in_the_end=0.0)
    if short:
        return figures
    before = ("env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", f"{-AN_HOUR:.0f}s")
    if not works(*before, sys.executable, "-c", "import time; time.sleep(0.1)"):
        # That of 2022 breaks the sleep of Python from 3.11 on.
        return [*figures, figure("by faketime", "it is not installed, or breaks this Python's sleep", True)]
    behind = night_by(Conditions(timed=True), folder / "behind", budget=NIGHT, off_in_the_end=-AN_HOUR, before=before)
    return figures + [figure(f"by faketime: {one.name}", one.measured, one.good) for one in behind]


def night_by(
    conditions: Conditions, folder: Path, *, budget: float, off_in_the_end: float, before: tuple[str, ...] = ()
) -> list[Figure]:
    """Search until a deadline by the leader's clock, with a second start in the middle.

    Args:
        conditions: of the leader; its clock is put right before the second start, if it is to be.
        folder: of the search.
        budget: seconds of the search.
        off_in_the_end: seconds by which the leader's clock is then ahead.
        before: words before the leader's command.
    """
    zones = {"TZ": "Pacific/Auckland", "PGTZ": "Asia/Kolkata"}
    waiting = Conditions(timed=True, begins_with="right")
    with postgresql_server("America/St_Johns") as (_, url):
        config = timed(study_in(folder, url=url, budget={"trials": None, "time": f"{budget:.0f}s"}), 0.5)
        with (
            searching(config, folder, "leader", conditions, environment=zones, before=before) as leader,
            searching(config, folder, "second", waiting, environment={"TZ": "America/Los_Angeles"}) as second,
        ):
            leader.comes_to(partial(has_completed, url, 3))
            (folder / "right").touch()
            endings = [ended(second, second.ends(60), LED, "is led by process"), ended(leader, leader.ends(), 0)]
        found = stored(url)
    (begun, *_), over = found.events("run_begun"), found.events("run_ended")
    end = over[0]["happened_at"] + off_in_the_end if over else math.inf
    late = end - json.loads(begun["detail"])["deadline"]
    states = {trial.state.name for trial in found.trials}
    cut = Counter(row["ending"] for row in found.tables["hpo_attempts"] if row["ending"] != "completed")
    return [
        *endings,
        figure("end after the deadline by the leader's clock", f"{late:.1f} s", -3 < late < 3),
        figure("states", ", ".join(sorted(states)), states <= {"COMPLETE", "WAITING"} and "COMPLETE" in states),
        figure(
            "attempts that were cut", ", ".join(f"{cut[end]} {end}" for end in cut) or "0", cut.keys() <= {"paused"}
        ),
    ]


def has_completed(url: str, trials: int) -> bool:
    """Return whether so many trials are completed."""
    return completed(url) >= trials


def works(*command: str) -> bool:
    """Return whether a command can be run here."""
    with suppress(FileNotFoundError):
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    return False


def ended(search: Search, status: int, expected: int, words: str = "") -> Figure:
    """Return how a search has ended, and where `words` are expected of it, whether it said them."""
    said, traceback = search.said, search.said.find("Traceback")
    good = status == expected and words in said and traceback < 0
    last = said.rpartition("hpo: ")[2][-300:] if traceback < 0 else said[-1000:]
    return figure(f"end of the start {search.log.stem!r}", f"{status}{'' if good and not words else f': {last}'}", good)


def timed(config: StudyConfig, seconds: float) -> StudyConfig:
    """Return `config`, whose trials take so long with workers that train nothing."""
    files = files_folder(config)
    files.mkdir(parents=True)
    (files / TIMED).write_text(json.dumps({"seconds": seconds}))
    return config


def stop_outside_of_transactions(search: Search, config: StudyConfig) -> None:
    """Stop a search; one that is stopped while it holds SQLite's lock would rightly keep it."""
    path = sqlite_path(config.store.url)
    assert path is not None, "a SQLite store"
    while True:
        search.process.send_signal(signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError:
            search.process.send_signal(signal.SIGCONT)
            time.sleep(0.1)


@contextmanager
def visiting(folder: Path, name: str, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python with `arguments`; what it says is in `NAME.txt`."""
    with (folder / f"{name}.txt").open("wb") as log:
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
