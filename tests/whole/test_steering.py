"""What a person says to a search at night: by a signal, from another terminal, through Slurm."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event

import optuna
import pytest

from hpo.cli.live import LineLog
from hpo.cli.signals import ending_tidily
from hpo.config.parsing import parse_yaml, write_yaml
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError
from hpo.messages import Assignment, Report
from hpo.runners.dispatch import Dispatch
from hpo.search.coordinator import Coordinator
from hpo.search.steering import ask_to_stop
from hpo.store.database import open_database
from tests.command_line import Hpo
from tests.search.scripted import led, study_at, written

Hpo = Hpo
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def study_file(config: StudyConfig, tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(write_yaml(config.model_dump(mode="json", exclude={"store"})))
    return path


def at_the_first_report(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Do something from within a search, when its first trial has been evaluated for the first time."""
    reported, done = LineLog.reported, Event()

    def acting(self: LineLog, report: Report, decision: object) -> None:
        reported(self, report, decision)  # type: ignore[arg-type]
        if not done.is_set():
            done.set()
            action()

    monkeypatch.setattr(LineLog, "reported", acting)


# -- signals


@pytest.fixture
def handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.usefixtures("handlers_restored")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_ends_at_the_next_step_and_the_second_at_once(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    stop = Event()

    def told_twice() -> None:
        with ending_tidily(stop, grace_seconds=600) as signals:
            assert not signals.came
            os.kill(os.getpid(), number)
            assert stop.is_set()
            assert signals.came
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        told_twice()
    told = "Ending at the next step, in 10 min 00 s at the latest; interrupt again to end now."
    assert told in capfd.readouterr().err


@pytest.mark.usefixtures("handlers_restored")
def test_after_the_grace_it_ends_at_once_by_itself() -> None:
    def told_once() -> None:
        with ending_tidily(Event(), grace_seconds=0.05):
            os.kill(os.getpid(), signal.SIGTERM)
            Event().wait(60)

    with pytest.raises(KeyboardInterrupt):
        told_once()


@pytest.mark.usefixtures("handlers_restored")
def test_what_ends_in_time_is_not_interrupted_later() -> None:
    with ending_tidily(Event(), grace_seconds=600):
        os.kill(os.getpid(), signal.SIGTERM)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer) and not _ends(thread)]


def _ends(timer: threading.Timer) -> bool:
    timer.join(10)
    return not timer.is_alive()


@pytest.mark.usefixtures("handlers_restored")
def test_under_nohup_a_closed_terminal_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_tidily(Event(), grace_seconds=600) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.came
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_written_after_the_terminal_was_closed_goes_nowhere(tmp_path: Path) -> None:
    """Otherwise the next line of the view would fail, and with it the checkpoints."""
    code = """
import os, signal, sys
from pathlib import Path
from threading import Event
from hpo.cli.signals import ending_tidily
with ending_tidily(Event(), 600):
    Path(sys.argv[1]).write_text("begun")
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGHUP)
    for stream in (sys.stdout, sys.stderr):
        stream.write("to nobody")
        stream.flush()
    Path(sys.argv[2]).write_text("got here")
"""
    ours, theirs = pty.openpty()
    os.mkfifo(tmp_path / "begun")
    words = [sys.executable, "-c", code, str(tmp_path / "begun"), str(tmp_path / "reached")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        assert (tmp_path / "begun").read_text() == "begun"
        os.close(ours)
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.close()
        assert process.wait(60) == 0
    assert (tmp_path / "reached").read_text() == "got here"


def test_an_interrupted_search_says_so_and_goes_on(
    hpo: Hpo, study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        at_the_first_report(patched, lambda: os.kill(os.getpid(), signal.SIGTERM))
        cut = hpo("run", study_file, "--notify", f"command:{sys.executable} -c 'import sys'")
    assert cut.code == 130
    assert "trial 0 paused" in cut.out
    assert "it can resume" in cut.out
    shown = hpo("status").out
    assert "the last run ended" in shown
    assert "trial 0 waits: paused; resumes later" in shown
    assert hpo("run", study_file).code == 0
    [log] = tmp_path.glob("*.log")
    assert log.name == "hpo-tiny.log"
    assert "trial 0 begins, attempt 2" in log.read_text()
    trials = optuna.load_study(study_name="tiny", storage="sqlite:///hpo.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3


# -- the end of its time


def test_a_search_that_its_deadline_ended_is_a_success(
    hpo: Hpo, study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline comes while the second trial trains."""
    begun: list[int] = []
    assigned, until = LineLog.assigned, Coordinator.trains_until

    def counting(self: LineLog, assignment: Assignment) -> None:
        assigned(self, assignment)
        begun.append(assignment.trial)

    monkeypatch.setattr(LineLog, "assigned", counting)
    is_late = property(lambda self: 0.0 if 1 in begun else until.fget(self))  # type: ignore[attr-defined]
    monkeypatch.setattr(Coordinator, "trains_until", is_late)
    answer = hpo("run", study_file, "--for", "12h")
    assert answer.code == 0, answer
    assert set(begun) == {0, 1}
    assert "The search ends at 20" in answer.out
    assert "trial 1 paused" in answer.out
    assert "Interrupted" not in answer.out
    assert "trial 1 waits: paused; resumes later" in hpo("status").out


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "an end that is past": (("--until", "2020-01-01 07:30"), "is past"),
    "an end that is no time": (("--until", "late"), "'late' is no time"),
    "no length of time": (("--for", "8"), "write it as 8h"),
    "no hours": (("--gpu-hours", "0"), "gpu_hours"),
    "nobody's kind of URL": (("--notify", "nfty://my-secret-topic"), "nfty://..."),
    "no such runner": (("--runner", "cloud"), "processes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_read(hpo: Hpo, study_file: Path, name: str) -> None:
    words, said = REFUSED[name]
    Path("empty.csv").touch()  # It would be refused too, once it is read.
    answer = hpo("run", study_file, "data.train=empty.csv", *words)
    assert answer.code == 2, answer
    assert said in answer.err
    assert "secret" not in answer.err
    assert answer.err.count("\n") == 1
    assert not Path("hpo.db").exists()


def test_the_flags_set_what_they_name(hpo: Hpo, study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[StudyConfig] = []
    monkeypatch.setattr("hpo.cli.search._search", lambda config, *_args, **_words: taken.append(config))
    flags = ("--for", "8h", "--until", "07:30", "--gpu-hours", "2.5", "--workers", "3", "--keep-weights", "2")
    told = ("--notify", "ntfy://one", "--notify", "command:true", "--runner", "processes")
    assert hpo("run", study_file, *flags, *told).code == 0
    [config] = taken
    assert (config.budget.time, config.budget.until, config.budget.gpu_hours) == ("8h", "07:30", 2.5)
    assert (config.compute.workers, config.compute.runner, config.store.keep_weights) == (3, "processes", 2)
    assert config.notify == ("ntfy://one", "command:true")


def test_a_flag_that_is_zero_was_given(hpo: Hpo, study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[StudyConfig] = []
    monkeypatch.setattr("hpo.cli.search._search", lambda config, *_args, **_words: taken.append(config))
    assert hpo("run", study_file, "seed=7", "--keep-weights", "0").code == 0
    study_file.write_text(study_file.read_text().replace("seed: 0", "seed: 7"))
    assert hpo("run", study_file, "--seed", "0").code == 0
    assert [(config.seed, config.store.keep_weights) for config in taken] == [(7, 0), (0, None)]


# -- from another terminal


def test_a_search_is_ended_from_another_terminal(hpo: Hpo, study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.runners.confirmation.Dispatch", partial(Dispatch, steers_every=0.0))

    def stop() -> None:
        database = open_database("sqlite:///hpo.db", must_exist=True)
        try:
            ask_to_stop(database, None)
        finally:
            database.close()

    at_the_first_report(monkeypatch, stop)
    answer = hpo("run", study_file)
    assert answer.out.count("begins") == 1
    assert "trial 0 paused" in answer.out
    assert answer.code == 5, "nothing has completed; it is no interruption that a batch system should requeue"


@pytest.mark.slow
def test_the_winner_of_one_study_is_enqueued_in_another(hpo: Hpo, study_file: Path, finished: Path) -> None:
    best = parse_yaml(Path("best.yaml").read_text(), "best.yaml")["hyperparameters"]
    assert hpo("run", study_file, "--study", "other", "budget.trials=1").code == 0
    answer = hpo("enqueue", "best.yaml", "batch_size=16", "--study", "other")
    assert answer.code == 0, answer.err
    assert "Trial 1 is enqueued" in answer.out
    assert f"learning_rate: {best['learning_rate']}" in answer.out
    assert "trial 1 waits: enqueued" in hpo("status", "--study", "other").out
    assert hpo("run", study_file, "--study", "other", "budget.trials=1").code == 0
    trials = optuna.load_study(study_name="other", storage="sqlite:///hpo.db").trials
    assert trials[1].params == {"learning_rate": best["learning_rate"], "batch_size": 16}
    assert trials[1].state.name == "COMPLETE"


def test_what_cannot_be_enqueued_or_stopped_is_a_sentence(hpo: Hpo, finished: Path) -> None:
    for words, code, said in (
        (("enqueue",), 2, "needs a configuration"),
        (("enqueue", "one.yaml", "two.yaml"), 2, "takes one configuration"),
        (("enqueue", "no.yaml"), 2, "no.yaml"),
        (("enqueue", "best.yaml", "batch_size=12"), 2, "batch_size is 12"),
        (("enqueue", "batchsizes=16", "epoc=1"), 2, "2 mistakes"),
        (("enqueue", "warmup_steps=10"), 2, "a share."),
        (("stop",), 2, "Nobody leads"),
        (("stop", "--trial", 0), 2, "Nobody leads"),
    ):
        answer = hpo(*words)
        assert answer.code == code, answer
        assert said in answer.err
        assert answer.err.startswith("hpo: ")


def test_names_of_other_libraries_may_be_enqueued(hpo: Hpo, finished: Path) -> None:
    answer = hpo("enqueue", "lr=0.01", "per_device_train_batch_size=16")
    assert answer.code == 0, answer.err
    assert "lr is taken for learning_rate." in answer.out
    assert "learning_rate: 0.01\n" in answer.out
    assert "batch_size: 16\n" in answer.out


def test_stop_says_who_was_asked(hpo: Hpo, sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as leader:
        answer = hpo("stop", "--store", sqlite_url, "--trial", 0)
        assert f"Trial 0 of 'scripted', led by process {os.getpid()} on" in answer.out
        answer = hpo("stop", "--store", sqlite_url)
        assert "ends at its next step" in answer.out
        assert leader.stop_requests().stop


def test_a_study_is_deleted_with_its_files_after_asking(
    hpo: Hpo, study_file: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hpo("run", study_file, "--study", "other", "budget.trials=1").code == 0
    folder = Path("hpo-files", "tiny")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text("many")

    def nobody(_question: str) -> bool:
        raise ConfigurationError("not answered")

    monkeypatch.setattr("hpo.cli.results._confirmed", nobody)
    assert hpo("studies", "delete", "tiny").code == 2
    monkeypatch.setattr("hpo.cli.results._confirmed", lambda _question: False)
    assert hpo("studies", "delete", "tiny").code == 1
    assert folder.is_dir()
    assert "tiny" in hpo("studies").out
    assert hpo("studies", "delete", "tiny", "--yes").code == 0
    assert not folder.exists()
    assert "tiny" not in hpo("studies").out
    assert "other" in hpo("studies").out
    assert hpo("studies", "delete", "tiny", "--yes").code == 2


def test_a_study_that_another_version_has_made_is_deleted(hpo: Hpo, sqlite_url: str) -> None:
    with led(study_at(sqlite_url)):
        pass
    written(sqlite_url, """UPDATE hpo_studies SET configuration = '{"of_another": "version"}'""".replace(":", "\\:"))
    assert hpo("studies", "delete", "scripted", "--yes", "--store", sqlite_url).code == 0


# -- Slurm

FAKES = {
    "hpo": """#!/bin/bash
trap 'sleep 0.2; exit "$ENDS_WITH"' TERM
echo "search $*"
sleep 0.5  # Until the script that has started it heeds the signal.
echo > begun
while true; do sleep 0.05; done
""",
    "scontrol": """#!/bin/bash
if [ "$1" = show ]; then echo node1; echo node2; else echo "scontrol $*"; fi
""",
    "srun": '#!/bin/bash\necho "srun $*"\n',
    "ray": "#!/bin/bash\nexit 0\n",
}
NODES = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8"}


@pytest.mark.parametrize("script", ["slurm.sh", "slurm_ray.sh"])
@pytest.mark.parametrize(("code", "requeued"), [(130, True), (0, False), (3, False)])
def test_the_slurm_script_requeues_what_was_interrupted_and_nothing_else(
    tmp_path: Path, script: str, code: int, requeued: bool
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    os.mkfifo(tmp_path / "begun")
    for name, text in FAKES.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    surroundings = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "ENDS_WITH": str(code), **NODES}
    words = [bash, EXAMPLES / script, "study.yaml", "--study", "a b"]
    with subprocess.Popen(words, cwd=tmp_path, env=surroundings, stdout=subprocess.PIPE, text=True) as job:
        (tmp_path / "begun").read_text()
        job.send_signal(signal.SIGTERM)
        out, _ = job.communicate(timeout=60)
    assert job.returncode == code
    assert "search run study.yaml --study a b" in out
    assert ("scontrol requeue 17" in out) == requeued
    if script == "slurm_ray.sh":
        assert "srun --nodes=1 --ntasks=1 --nodelist=node1" in out
        assert "srun --nodes=1 --ntasks=1 --exclude=node1" in out
        assert "--runner ray_tune --ray-address node1:20017" in out
