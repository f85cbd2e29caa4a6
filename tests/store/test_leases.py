"""One process leads a study at a time: by a lease, with a fence against those who led before."""

import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import optuna
import psutil
import pytest
import sqlalchemy as sa
from optuna.samplers import RandomSampler

from hpo.errors import StudyLedError
from hpo.messages import Ending
from hpo.search.coordinator import Coordinator
from hpo.search.samplers import SAMPLERS, Sampler
from hpo.store import leases
from tests.search.scripted import CPU, ended, everything, led, plain_study, report_at, rows, study_at, written

NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())",
}


def lease_of_another_host(url: str, *, runs_for: float) -> None:
    """Let the lease be that of a process on another host, ending `runs_for` seconds from the database's now."""
    written(url, f"UPDATE hpo_leases SET host = 'elsewhere', expires_at = {now_of(url) + runs_for}")


def now_of(url: str) -> float:
    """Return the database's time, in seconds since 1970."""
    [(now,)] = rows(url, f"SELECT {NOW[url.partition(':')[0].partition('+')[0]]}")
    return float(now)


def lease_of(url: str) -> tuple[int, str, int, float]:
    [(fence, host, pid, expires_at)] = rows(url, "SELECT fence, host, pid, expires_at FROM hpo_leases")
    return fence, host, pid, expires_at


def test_a_second_start_says_who_leads_and_since_when(database_url: str) -> None:
    with led(study_at(database_url)):
        before = everything(database_url)
        with pytest.raises(StudyLedError) as error, led(study_at(database_url)):
            pass
        assert everything(database_url) == before
    said = str(error.value)
    assert f"'scripted' is led by process {os.getpid()} on {socket.gethostname()} since 20" in said
    assert re.search(r"lapses in (30|2\d) seconds", said)


def test_a_lease_that_is_there_makes_no_error_in_the_server_s_log(postgresql_url: str) -> None:
    failed: list[BaseException] = []
    with led(study_at(postgresql_url)):
        pass

    def note(context: sa.ExceptionContext) -> None:
        failed.append(context.original_exception)

    sa.event.listen(sa.Engine, "handle_error", note)
    try:
        with led(study_at(postgresql_url)):
            pass
    finally:
        sa.event.remove(sa.Engine, "handle_error", note)
    assert "hpo_leases" not in str(failed)


def test_a_lease_is_released_at_the_end_also_after_an_error(database_url: str) -> None:
    with pytest.raises(ZeroDivisionError), led(study_at(database_url)):
        raise ZeroDivisionError
    with led(study_at(database_url)):
        assert lease_of(database_url)[0] == 2


def test_a_lease_of_another_host_is_waited_for_while_it_runs_and_taken_over_after(database_url: str) -> None:
    with led(study_at(database_url)):
        pass
    lease_of_another_host(database_url, runs_for=20)
    with pytest.raises(StudyLedError, match=r"on elsewhere since .* lapses in (20|1[5-9]) seconds"):
        led(study_at(database_url)).__enter__()
    lease_of_another_host(database_url, runs_for=-0.01)
    with led(study_at(database_url)):
        assert lease_of(database_url)[:3] == (2, socket.gethostname(), os.getpid())


VERBS: dict[str, Callable[[Coordinator], object]] = {
    "next_assignment": lambda coordinator: coordinator.next_assignment("late", CPU),
    "begin": lambda coordinator: coordinator.begin(metric="macro_f1", versions={}),
    "standing": lambda coordinator: coordinator.standing(),
    "winner": lambda coordinator: coordinator.winner(),
    "record_measurements": lambda coordinator: coordinator.record_measurements({"threads": 1}),
}


def test_every_verb_of_an_old_leader_is_refused_and_writes_nothing(database_url: str) -> None:
    config = study_at(database_url)
    with led(config) as old:
        assignment = old.next_assignment("r", CPU)
        assert assignment is not None
        report = report_at(assignment, assignment.milestones[-1], 0.9)
        late = VERBS | {
            "observe": lambda coordinator: coordinator.observe(report),
            "finish": lambda coordinator: coordinator.finish(ended(assignment, Ending.COMPLETED, report)),
        }
        lease_of_another_host(database_url, runs_for=-1)
        with led(config):
            before = everything(database_url)
            for name, verb in late.items():
                with pytest.raises(StudyLedError, match=r"is now led by process .* writes nothing more"):
                    verb(old)
                assert everything(database_url) == before, name
    # The old leader ended after the new one and has not given anyone's lease away or back.
    assert lease_of(database_url)[0] == 2


def test_a_leader_of_a_deleted_study_is_told_so(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        with plain_study(database_url) as study:
            optuna.delete_study(study_name="scripted", storage=study._storage)
        with pytest.raises(StudyLedError, match="'scripted' has been deleted"):
            coordinator.next_assignment("r", CPU)


def test_a_leader_of_this_host_that_is_gone_is_succeeded_at_once(sqlite_url: str) -> None:
    """Whether its number is free, borne by another process, or still held by the corpse."""
    with led(study_at(sqlite_url)):
        pass
    in_force = f"expires_at = {NOW['sqlite']} + 30"
    free = max(psutil.pids()) + 100_000
    started = leases._started(psutil.Process())
    for fence, (pid, when) in enumerate([(free, started), (os.getpid(), started - 60)], start=2):
        written(sqlite_url, f"UPDATE hpo_leases SET pid = {pid}, process_started = {when}, {in_force}")
        with led(study_at(sqlite_url)):
            assert lease_of(sqlite_url)[0] == fence
    with subprocess.Popen(["true"]) as corpse:
        os.waitid(os.P_PID, corpse.pid, os.WEXITED | os.WNOWAIT)
        started = leases._started(psutil.Process(corpse.pid))
        written(sqlite_url, f"UPDATE hpo_leases SET pid = {corpse.pid}, process_started = {started}, {in_force}")
        with led(study_at(sqlite_url)):
            assert lease_of(sqlite_url)[0] == 4


def test_a_leader_is_not_dead_for_a_clock_that_was_set_or_a_container_of_the_same_name(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Setting the clock moves when the kernel says that the machine was started, and with it every process."""
    with led(study_at(sqlite_url)):
        started, booted = psutil.Process.create_time, psutil.boot_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: started(process) + 3600)
        monkeypatch.setattr(psutil, "boot_time", lambda: booted() + 3600)
        with pytest.raises(StudyLedError), led(study_at(sqlite_url)):
            pass
        elsewhere = leases.machine_id() + "/another container"
        written(sqlite_url, f"UPDATE hpo_leases SET pid = 999999, machine = '{elsewhere}'")
        with pytest.raises(StudyLedError), led(study_at(sqlite_url)):
            pass


def test_a_lease_is_kept_up_while_no_verb_is_asked(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWAL_SECONDS", 0.01)
    with led(study_at(database_url)):
        first = lease_of(database_url)[3]
        later = next(expires for _ in range(10_000) if (expires := lease_of(database_url)[3]) > first)
        assert 29 < later - first + 30 < 60
    assert not [thread for thread in threading.enumerate() if thread.name == "hpo-lease"]


def test_an_old_leader_stops_to_renew(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWAL_SECONDS", 0.01)
    with led(study_at(sqlite_url)):
        written(sqlite_url, "UPDATE hpo_leases SET fence = 7, expires_at = 1")
        for thread in threading.enumerate():
            if thread.name == "hpo-lease":
                thread.join(timeout=60)
                assert not thread.is_alive()
        assert lease_of(sqlite_url)[3] == 1


def test_a_lease_runs_on_the_databases_clock_whatever_the_time_zones(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with led(study_at(postgresql_url)) as coordinator:
        for zone in ("Asia/Tokyo", "America/Los_Angeles"):
            monkeypatch.setenv("PGTZ", zone)
            with pytest.raises(StudyLedError, match=r"lapses in (30|29) seconds"):
                led(study_at(postgresql_url)).__enter__()
        assert coordinator.next_assignment("r", CPU) is not None


# A proposal that takes longer than a lease

SHORT_LEASE, LONG_PROPOSAL = 1.0, 1.6


class Pondering(RandomSampler):
    """A sampler that takes longer than a lease, and looks meanwhile whether another process could take the lead."""

    def __init__(self, url: str, seen: list[bool]) -> None:
        super().__init__(seed=0)
        self._url, self._seen = url, seen

    def sample_independent(self, *arguments: Any) -> Any:
        if arguments[2] == "epochs":
            time.sleep(LONG_PROPOSAL)
            self._seen.append(lease_of(self._url)[3] > now_of(self._url))
        return super().sample_independent(*arguments)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", SHORT_LEASE)
    monkeypatch.setattr(leases, "RENEWAL_SECONDS", SHORT_LEASE / 5)


def pondering(monkeypatch: pytest.MonkeyPatch, url: str, *, takes_long: bool) -> list[bool]:
    """Let `random` ponder; return whether the lease was in force each time after it had."""
    seen: list[bool] = []
    sampler = Pondering(url, seen)
    slow = Sampler(description="slow", source="", build=lambda config, space: sampler, takes_long=takes_long)
    monkeypatch.setitem(SAMPLERS, "random", slow)  # type: ignore[arg-type]
    return seen


@pytest.mark.usefixtures("short_lease")
def test_a_sampler_that_takes_longer_than_a_lease_proposes_while_it_is_renewed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = pondering(monkeypatch, database_url, takes_long=True)
    with led(study_at(database_url)) as coordinator:
        coordinator.finish(ended(coordinator.next_assignment("default", CPU), Ending.PRUNED))
        assignment = coordinator.next_assignment("slow", CPU)
        assert assignment.trial == 1
        assert seen == [True]
        assert coordinator.next_assignment("slow", CPU) == assignment
        assert seen == [True], "asked again, it is the same"
    with plain_study(database_url) as study:
        assert len(study.trials) == 2
        assert study.trials[1].params["epochs"] == assignment.hyperparameters.epochs


@pytest.mark.usefixtures("short_lease")
def test_a_transaction_that_took_longer_than_a_lease_leaves_it_in_force(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pondering(monkeypatch, database_url, takes_long=False)
    monkeypatch.setattr(leases, "RENEWAL_SECONDS", 60.0)  # no thread helps
    with led(study_at(database_url)) as coordinator:
        coordinator.finish(ended(coordinator.next_assignment("default", CPU), Ending.PRUNED))
        monkeypatch.setattr(leases, "RENEWAL_SECONDS", SHORT_LEASE / 5)
        began = now_of(database_url)
        coordinator.next_assignment("slow", CPU)
        assert lease_of(database_url)[3] >= began + LONG_PROPOSAL + SHORT_LEASE
