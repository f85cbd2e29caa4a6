"""Databases that restart or are crowded, two who would lead, clocks that are wrong: what a search makes of them."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from chaos_material import ROOT, TIMED, Figure, study_in
from chaos_search import Conditions, Search, searching
from chaos_stored import all_once, completed, figure, stored, tables_of
from sqlalchemy.engine import make_url

from hpo.config.study_file import StudyConfig
from hpo.runners.run import files_folder, run
from hpo.store.engine import sqlite_path

if TYPE_CHECKING:
    from pgserver.postgres_server import PostgresServer

LED = 4
"""How a start ends where another process leads."""
AN_HOUR = 3600.0
VISITORS = str(Path(__file__).with_name("chaos_visitors.py"))


def postgresql(folder: Path, short: bool) -> list[Figure]:
    """Restart PostgreSQL while a search writes to it, and have it away for a while."""
    # After how many trials, how it is stopped, for how many seconds.
    away = [(2, "immediate", 0), (5, "fast", 5)] if short else [
        (3, "fast", 0), (8, "immediate", 0), (13, "fast", 0), (18, "fast", 30),
    ]  # fmt: skip
    trials = 10 if short else 30
    with postgresql_server() as (server, url):
        config = study_in(folder, url=url, rows=1000, budget={"trials": trials})
        with searching(config, folder) as search:
            outages = 0
            for after, how, seconds in away:
                if search.comes_to(partial(has_completed, url, after)):
                    stop_server(server, how)
                    time.sleep(seconds)
                    server.ensure_postgres_running()
                    outages += search.lives and completed(url) < trials
            status = search.ends()
        found = stored(url)
    undisturbed = study_in(folder / "undisturbed", rows=1000, budget={"trials": trials}, compute={"runner": "inline"})
    run(undisturbed)
    expected = stored(undisturbed.store.url).scores
    waits = search.said.count("The store answers again")
    same = sum(found.scores.get(number) == scores for number, scores in expected.items())
    return [
        figure("outages while it searched", f"{outages} of {len(away)}", outages == len(away)),
        ended(search, status, 0),
        figure("times that it said it waited", str(waits), waits > 0),
        *all_once(found, trials),
        figure("scores as on SQLite undisturbed", f"{same} of {trials}", same == trials == len(expected)),
    ]


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
        command = ["-m", "hpo.cli.main", "enqueue", "learning_rate=0.01", "--store", url]
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
        # The default is enqueued twice.
        figure("enqueued meanwhile", str(enqueued - 2), enqueued - 2 == visits[2] + enqueues),
        figure("visitors that failed", str(len(refused)), not refused),
        figure(f'of {len(texts)} logs say "locked"', ", ".join(locked) or "0", not locked),
        *all_once(found, trials),
    ]


def leaders(folder: Path, short: bool) -> list[Figure]:
    """Start twice at once; then stop the leader until another has taken over and finished, and wake it."""
    conditions = Conditions(timed=True, lease_seconds=3.0 if short else 30.0)
    config = timed(study_in(folder, compute={"workers": 1 if short else 2}, budget={"trials": 12}), 0.5)
    with ExitStack() as stack:
        starts = [stack.enter_context(searching(config, folder, name, conditions)) for name in ("one", "other")]
        starts[0].comes_to(lambda: not starts[1].lives)
        refused, first = sorted(starts, key=lambda search: search.lives)
        first.comes_to(partial(has_completed, config.store.url, 3))
        stop_outside_of_transactions(first, config)
        figures = [
            ended(refused, refused.ends(), LED, f"is led by process {first.process.pid} on"),
            *taken_over(first, config, folder, conditions),
        ]
    return figures if short else figures + stopped_in_a_transaction(folder / "transaction")


def stopped_in_a_transaction(folder: Path) -> list[Figure]:
    """Stop a leader that holds locks of PostgreSQL, as a machine that hangs does, and have another take over."""
    conditions = Conditions(timed=True, lease_seconds=3.0, stops_with=str(folder / "stop"))
    with postgresql_server() as (_, url):
        config = timed(study_in(folder, url=url, budget={"trials": 12}), 0.5)
        with searching(config, folder, conditions=conditions) as first:
            first.comes_to(partial(has_completed, url, 3))
            Path(conditions.stops_with).touch()
            first.comes_to(lambda: psutil.Process(first.process.pid).status() == psutil.STATUS_STOPPED)
            figures = taken_over(first, config, folder, Conditions(timed=True, lease_seconds=3.0))
    return [figure(f"stopped in a transaction: {one.name}", one.measured, one.good) for one in figures]


def taken_over(first: Search, config: StudyConfig, folder: Path, conditions: Conditions) -> list[Figure]:
    """Return what comes of it where a stopped leader's lease lapses, another finishes the search, and it is woken."""
    assert conditions.lease_seconds is not None, "how long to wait"
    workers = psutil.Process(first.process.pid).children()
    time.sleep(conditions.lease_seconds + 1)
    with searching(config, folder, "second", conditions) as second:
        status = second.ends()
    before = tables_of(config.store.url)
    first.process.send_signal(signal.SIGCONT)
    ending = ended(first, first.ends(60), LED, f"is now led by process {second.process.pid} on")
    after = tables_of(config.store.url)
    _, orphans = psutil.wait_procs(workers, timeout=5)
    changed = [name for name in after if after[name] != before.get(name)]
    return [
        ended(second, status, 0),
        ending,
        figure("tables that it changed when it woke", ", ".join(changed) or "0", not changed),
        figure("workers that outlived it", str(len(orphans)), not orphans),
        *all_once(stored(config.store.url), 12, attempts=2),
    ]


def clocks(folder: Path, short: bool) -> list[Figure]:
    """Have a leader's clock an hour behind and every time zone another, and start a second time meanwhile."""
    put_right = Conditions(timed=True, clock_off=-AN_HOUR, right_with=str(folder / "right" / "now"))
    figures = night_by(put_right, folder / "right", ended_off=0.0)
    if short:
        return figures
    if shutil.which("faketime") is None:
        return [*figures, figure("by faketime", "it is not installed", True)]
    behind = night_by(
        Conditions(timed=True), folder / "behind", ended_off=-AN_HOUR, before=("faketime", "-f", f"-{AN_HOUR:.0f}s")
    )
    return figures + [figure(f"by faketime: {one.name}", one.measured, one.good) for one in behind]


def night_by(conditions: Conditions, folder: Path, *, ended_off: float, before: tuple[str, ...] = ()) -> list[Figure]:
    """Search for 12 seconds by the leader's clock, with a second start in the middle of them.

    Args:
        conditions: of the leader; its clock is put right before the second start, if it is to be.
        folder: of the search.
        ended_off: seconds by which the leader's clock is ahead at its end.
        before: words before the leader's command.
    """
    seconds = 12 + ended_off - conditions.clock_off
    zones = {"TZ": "Pacific/Auckland", "PGTZ": "Asia/Kolkata", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with postgresql_server("America/St_Johns") as (_, url):
        budget = {"trials": None, "time": f"{seconds:.0f}s"}
        config = timed(study_in(folder, url=url, budget=budget), 0.5)
        with searching(config, folder, conditions=conditions, environment=zones, before=before) as leader:
            leader.comes_to(partial(has_completed, url, 3))
            if conditions.right_with:
                Path(conditions.right_with).touch()
            second_zones = {"TZ": "America/Los_Angeles"}
            with searching(config, folder, "second", Conditions(timed=True), environment=second_zones) as second:
                refused = ended(second, second.ends(), LED, "is led by process")
            ending = ended(leader, leader.ends(), 0)
        found = stored(url)
    begun, over = (found.events(kind)[0] for kind in ("run_begun", "run_ended"))
    late = over["happened_at"] + ended_off - json.loads(begun["detail"])["deadline"]
    states = {trial.state.name for trial in found.trials}
    return [
        refused,
        ending,
        figure("end after the deadline by the leader's clock", f"{late:.1f} s", -3 < late < 3),
        figure("states", ", ".join(sorted(states)), states <= {"COMPLETE", "WAITING"} and "COMPLETE" in states),
        figure("attempts that were cut", str(len(found.cut)), {row["ending"] for row in found.cut} <= {"paused"}),
    ]


def has_completed(url: str, trials: int) -> bool:
    """Return whether so many trials are completed."""
    return completed(url) >= trials


def ended(search: Search, status: int, expected: int, words: str = "") -> Figure:
    """Return how a search has ended, and where `words` are expected of it, whether it said them."""
    good = status == expected and words in search.said and "Traceback" not in search.said
    last = "" if good and not words else f": {search.said.rpartition('hpo: ')[2][-300:]}"
    return figure(f"end of the start {search.log.stem!r}", f"{status}{last}", good)


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


@contextmanager
def postgresql_server(timezone: str = "UTC") -> Iterator[tuple["PostgresServer", str]]:
    """Run a PostgreSQL of our own, and yield it with the URL of an empty database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns of a variable that a bare machine has not set.
        import pgserver
    # Not below a section's folder: a server that root starts runs as another user, who may not enter that.
    folder = tempfile.mkdtemp(prefix="hpo-postgresql-")
    server = pgserver.get_server(folder, cleanup_mode="delete")
    try:
        server.psql(f"ALTER SYSTEM SET timezone = '{timezone}'; SELECT pg_reload_conf();")
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        yield server, url.render_as_string(hide_password=False)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def stop_server(server: "PostgresServer", how: str) -> None:
    """Stop PostgreSQL: `fast` with a word to its clients, `immediate` as by a crash."""
    from pgserver._commands import pg_ctl

    pg_ctl(["-w", "-m", how, "stop"], pgdata=server.pgdata, user=server.system_user)
