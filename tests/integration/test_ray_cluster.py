"""A search on a real Ray cluster of three raylets, of which machines, workers and the search itself are killed."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.engine import make_url

from hpo.config.loading import load_config
from hpo.runners.run import run
from hpo.store.database import open_database
from hpo.store.results import StudyResults, read_results
from tests.models import save_tiny_bert, write_texts

pytest.importorskip("ray", reason="Ray is not installed: pip install 'llm-hpo[ray]'")
pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

PASSWORD = "not-to-be-seen-anywhere"


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and two more machines, of one core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Returns the values of a study of a small model, random search without a pruner."""
    save_tiny_bert(tmp_path / "model")
    write_texts(tmp_path / "texts.csv", rows=3000)

    def made(store: str, **sections: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {
            "study": "cluster",
            "model": {"name": str(tmp_path / "model")},
            "data": {"train": str(tmp_path / "texts.csv"), "text_column": "text", "label_column": "label"},
            "space": {
                "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-1, "default": 1e-2},
                "dropout": {"value": 0.2},
                "epochs": {"min": 1, "max": 2, "default": 2},
                "max_length": {"value": 16},
                "batch_size": {"value": 8},
            },
            "search": {"sampler": "random", "pruner": "none"},
            "evaluation": {"rung_rows": 60, "rungs": 4},
            "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
            "budget": {"trials": 12},
            "confirmation": {"finalists": 0, "audit": 0},
            "store": {"url": store, "files": str(tmp_path / Path(store).stem)},
        }
        for name, section in sections.items():
            values[name] = values[name] | section
        return values

    return made


@pytest.fixture
def sqlite(tmp_path: Path) -> Callable[[str], str]:
    return lambda name: f"sqlite:///{tmp_path / name}.db"


class Search:
    """`hpo run` in a process of its own."""

    def __init__(self, folder: Path, values: dict[str, Any], *words: str, **environment: str) -> None:
        self.file = folder / "study.yaml"
        self.file.write_text(json.dumps(values))
        self.url = values["store"]["url"]
        command = [sys.executable, "-m", "hpo", "run", str(self.file), *words]
        inherited = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        self.log = folder / "search.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=inherited)

    def wait_until(self, sql: str, enough: int = 1) -> None:
        """Wait until a query of the store finds so many rows."""
        path = self.url.removeprefix("sqlite:///")
        until = time.monotonic() + 180
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                    if len(connection.execute(sql).fetchall()) >= enough:
                        return
            except sqlite3.OperationalError:
                pass  # It is not there yet.
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def ended(self) -> StudyResults:
        """Wait until it has ended well, and return what is stored."""
        assert self.process.wait(300) == 0, self.log.read_text()
        database = open_database(self.url)
        try:
            return read_results(database, "cluster")
        finally:
            database.close()


RUNNING = """
    SELECT DISTINCT worker FROM hpo_attempts JOIN hpo_evaluations USING (study_id, trial, attempt) WHERE ending IS NULL
"""
ENDINGS = "SELECT ending, count(*) FROM hpo_attempts GROUP BY ending"


def comparable(results: StudyResults) -> list[tuple[object, ...]]:
    return [
        (trial.number, trial.state, trial.score, trial.validation, dict(trial.configuration))
        for trial in results.trials
    ]


def endings(url: str) -> dict[str, int]:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        return dict(connection.execute(ENDINGS).fetchall())


def test_with_a_machine_killed_in_the_middle_of_a_trial_it_ends_as_in_one_process(
    cluster: Any, study: Callable[..., dict[str, Any]], sqlite: Callable[[str], str], tmp_path: Path
) -> None:
    search = Search(tmp_path, study(sqlite("ray")), "--runner", "ray_tune", "--ray-address", cluster.address)
    search.wait_until(RUNNING, enough=3)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    found = search.ended()
    # What waited there for its turn is paused too.
    found_endings = endings(search.url)
    assert (found_endings.keys(), found_endings["completed"]) == ({"completed", "paused"}, 12), "nobody is charged"
    expected = run(load_config(values=study(sqlite("inline"), compute={"runner": "inline"})))
    assert comparable(found) == comparable(expected)
    assert [trial.number for trial in found.trials] == list(range(12))


def workers_below(process: int) -> list[psutil.Process]:
    """Return the processes of cluster workers among those that a process has started, and those that these have."""
    return [one for one in psutil.Process(process).children(recursive=True) if "Trainable" in _command(one)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_workers_and_the_search_itself_killed_it_goes_on_as_in_one_process(
    cluster: Any, study: Callable[..., dict[str, Any]], sqlite: Callable[[str], str], tmp_path: Path
) -> None:
    values = study(sqlite("ray"))
    words = ("--runner", "ray_tune", "--ray-address", cluster.address)
    search = Search(tmp_path, values, *words)
    search.wait_until(RUNNING, enough=2)
    workers_below(os.getpid())[0].kill()
    search.wait_until("SELECT * FROM hpo_attempts WHERE ending = 'died'")
    search.wait_until(RUNNING, enough=2)
    search.process.send_signal(signal.SIGKILL)
    search.process.wait(60)
    _, alive = psutil.wait_procs(workers_below(os.getpid()), timeout=60)
    assert not alive, "workers outlive their search"
    found = Search(tmp_path, values, *words).ended()
    expected = run(load_config(values=study(sqlite("inline"), compute={"runner": "inline"})))
    assert comparable(found) == comparable(expected)
    assert endings(search.url)["died"] >= 1


def test_a_machine_that_joins_is_used(
    cluster: Any, study: Callable[..., dict[str, Any]], sqlite: Callable[[str], str], tmp_path: Path
) -> None:
    values = study(sqlite("ray"), budget={"trials": 30})
    search = Search(tmp_path, values, "--runner", "ray_tune", "--ray-address", cluster.address)
    search.wait_until(RUNNING, enough=3)
    cluster.add_node(num_cpus=1)
    search.wait_until("SELECT DISTINCT worker FROM hpo_attempts", enough=4)
    assert len(search.ended().leaderboard) == 30


PREEMPTED = "SELECT worker FROM hpo_attempts WHERE reason LIKE '%Its machine %' AND seconds > 0"
"""Workers that were in training; what waits there for its turn has taken no time."""


def preempt(cluster: Any, machine: Any) -> None:
    """Drain a machine as a cloud does that takes it away: it is told until when, and then is gone."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    until = int(1000 * (time.time() + 1))
    accepted, why = GcsClient(address=cluster.address).drain_node(machine.node_id, reason, "spot", until)
    assert accepted, why
    time.sleep(1.5)
    cluster.remove_node(machine, allow_graceful=False)


def test_a_machine_that_is_preempted_is_nobodys_fault_and_is_used_when_it_returns(
    cluster: Any, study: Callable[..., dict[str, Any]], sqlite: Callable[[str], str], tmp_path: Path
) -> None:
    """Twice: after two losses that are its own a worker would be left out."""
    values = study(sqlite("ray"), budget={"trials": 48})
    search = Search(tmp_path, values, "--runner", "ray_tune", "--ray-address", cluster.address)
    search.wait_until(RUNNING, enough=3)
    for number in (1, 2):
        preempt(cluster, next(iter(cluster.worker_nodes)))
        search.wait_until(PREEMPTED, enough=number)
        cluster.add_node(num_cpus=1)
        search.wait_until(
            f"SELECT * FROM hpo_attempts WHERE worker IN ({PREEMPTED}) AND started_at > "
            "(SELECT max(ended_at) FROM hpo_attempts WHERE reason LIKE '%Its machine %')"
        )
    assert len(search.ended().leaderboard) == 48
    assert endings(search.url).keys() == {"completed", "paused"}
    with sqlite3.connect(search.url.removeprefix("sqlite:///")) as connection:
        assert connection.execute("SELECT * FROM hpo_events WHERE kind = 'quarantined'").fetchall() == []


def test_two_ranks_end_as_one_process_does_to_rounding(
    cluster: Any, study: Callable[..., dict[str, Any]], sqlite: Callable[[str], str], tmp_path: Path
) -> None:
    """Dropout off: the ranks of a trial draw other masks than one process; rates at which rounding does not grow."""
    rates = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-3, "default": 1e-3}
    space = {**study("")["space"], "dropout": {"value": 0.0}, "learning_rate": rates, "epochs": {"value": 1}}
    budget = {"trials": 3}
    values = study(sqlite("ray"), space=space, budget=budget, compute={"ranks": 2})
    found = Search(tmp_path, values, "--runner", "ray_tune", "--ray-address", cluster.address).ended()
    one = study(sqlite("inline"), space=space, budget=budget, compute={"runner": "inline"})
    expected = run(load_config(values=one))
    for trial, alone in zip(found.trials, expected.trials, strict=True):
        assert trial.configuration == alone.configuration
        assert trial.validation is not None
        assert alone.validation is not None
        assert trial.validation.values["loss"] == pytest.approx(alone.validation.values["loss"], abs=1e-4)


def test_no_process_of_the_cluster_and_no_file_of_ray_holds_the_password(
    study: Callable[..., dict[str, Any]], tmp_path: Path, postgresql_url: str
) -> None:
    """Of a cluster that the search starts, whose processes would inherit its environment."""
    url = make_url(postgresql_url).set(password=PASSWORD).render_as_string(hide_password=False)
    values = study(url, budget={"trials": 30}) | {"store": {"url": url, "files": str(tmp_path / "files")}}
    search = Search(tmp_path, values, "--runner", "ray_tune", PGPASSWORD=PASSWORD, SOME_URL=url)
    until = time.monotonic() + 120
    while not workers_below(search.process.pid) and time.monotonic() < until:
        time.sleep(0.2)
    assert time.monotonic() < until, search.log.read_text()
    time.sleep(5)  # Until something was said.
    for one in psutil.Process(search.process.pid).children(recursive=True):
        shown = Path(f"/proc/{one.pid}/environ").read_bytes() + Path(f"/proc/{one.pid}/cmdline").read_bytes()
        assert PASSWORD.encode() not in shown, _command(one)
    session = Path("/tmp/ray/session_latest").resolve()
    search.process.send_signal(signal.SIGTERM)
    search.process.wait(60)
    for path in (path for path in session.rglob("*") if path.is_file()):
        assert PASSWORD.encode() not in path.read_bytes(), path


def test_no_machine_keeps_the_files_in_use_of_a_search_whose_files_are_at_a_url(
    study: Callable[..., dict[str, Any]],
    sqlite: Callable[[str], str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Also where a worker was killed, which can remove nothing, and where the search is told to end while it trains."""
    # The sockets of Ray lie there too, whose paths may not be long.
    temporary = Path(tempfile.mkdtemp(prefix="hpo-"))
    request.addfinalizer(lambda: shutil.rmtree(temporary, ignore_errors=True))
    values = study(sqlite("ray"), compute={"workers": 1}, budget={"trials": 400})
    values["store"]["files"] = f"file://{tmp_path / 'bucket'}"
    search = Search(tmp_path, values, "--runner", "ray_tune", TMPDIR=str(temporary))
    search.wait_until(RUNNING)
    [folder] = temporary.glob("hpo-scratch-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    workers_below(search.process.pid)[0].kill()
    search.wait_until("SELECT * FROM hpo_attempts WHERE ending = 'died'")
    search.wait_until(RUNNING)
    assert list(temporary.glob("hpo-scratch-*")) == [folder]
    search.process.send_signal(signal.SIGTERM)
    search.process.wait(90)
    assert list(temporary.glob("hpo-scratch-*")) == [], search.log.read_text()
