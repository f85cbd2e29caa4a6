"""With remote files a trial resumes, and a winner is evaluated, on a machine whose own folder is empty."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpo.data.splits import load_splits
from hpo.errors import NoResultError
from hpo.files import checkpoints
from hpo.files import remote as remote_module
from hpo.files.checkpoints import Checkpoints, TrialFiles, checkpoint_names, keep_only, trial_folder
from hpo.files.remote import NO_REMOTE, RemoteFiles
from hpo.files.weights import (
    Weights,
    fetch_weights_of,
    load_weights,
    weights_are_of,
    weights_path,
)
from hpo.messages import Action, Decision, Ending, Outcome, Report
from hpo.training.worker import Worker, open_worker
from tests.files.test_weights import REPORT, TENSORS
from tests.models import stepped, tiny_assignment, tiny_hyperparameters, tiny_study
from tests.object_store import ObjectStore, names_at
from tests.training.test_resumption import digest, scores, trained

FILES, FILE = checkpoint_names(1), "weights.safetensors"


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, store: ObjectStore, tmp_path: Path) -> str:
    return store.fresh_url() if request.param == "s3" else f"file://{tmp_path}/far"


@pytest.fixture
def s3_url(store: ObjectStore) -> str:
    return store.fresh_url()


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint before every step."""
    monkeypatch.setattr(checkpoints.Checkpoints, "is_due", lambda *_: True)


def on_machine(model: Path, texts: Path, scratch: Path, url: str | None) -> Worker:
    data = {"train": str(texts), "test_fraction": 0.2}
    config = tiny_study(model, texts, data=data, store={"files": url})
    return open_worker(config, load_splits(config.data, config.seed), scratch / "tiny")


def remote_at(scratch: Path, url: str) -> RemoteFiles:
    return RemoteFiles(url, "tiny", scratch)


def weights_at(scratch: Path, url: str | None, attempt: int = 1) -> Weights:
    remote = NO_REMOTE if url is None else remote_at(scratch, url)
    return Weights(TrialFiles(root=scratch, trial=1, attempt=attempt, remote=remote))


# -- a trial


@pytest.mark.usefixtures("always_due")
def test_a_trial_cut_on_one_machine_resumes_on_another_to_the_same_bits(
    tiny_bert: Path, texts: Path, tmp_path: Path, url: str
) -> None:
    assignment = tiny_assignment(tiny_hyperparameters(dropout=0.2))
    uncut = on_machine(tiny_bert, texts, tmp_path / "uncut", None)
    expected, ending = trained(uncut, assignment)
    before, nothing = trained(on_machine(tiny_bert, texts, tmp_path / "a", url), assignment, stop_after=8)
    assert nothing is None
    b = on_machine(tiny_bert, texts, tmp_path / "b", url)
    after, outcome = trained(b, replace(assignment, attempt=2))
    assert outcome is not None
    assert ending is not None
    assert outcome.resumed_examples == 56
    told = {report.rung: report for report in before} | {report.rung: report for report in after}
    assert scores([told[rung] for rung in sorted(told)]) == scores(expected)
    assert digest(b) == digest(uncut)
    assert outcome.best is not None
    assert ending.best is not None
    # The winner is read on a third machine, as it would have been on the one that trained it.
    c = on_machine(tiny_bert, texts, tmp_path / "c", url)
    assert c.has_weights(outcome.best)
    assert not c.has_weights(replace(outcome.best, rung=1))
    found = c.test_evaluation(assignment)
    assert uncut.has_weights(ending.best)
    assert found == uncut.test_evaluation(assignment)


@pytest.mark.usefixtures("always_due")
def test_what_was_sent_does_not_stay_on_the_machine_that_trained(
    tiny_bert: Path, texts: Path, tmp_path: Path, s3_url: str
) -> None:
    """The trial may resume elsewhere, and whoever removes its files does so on the search's machine."""
    worker = on_machine(tiny_bert, texts, tmp_path, s3_url)
    _, outcome = trained(worker, tiny_assignment())
    assert outcome is not None
    assert outcome.ending is Ending.COMPLETED
    assert not list((tmp_path / "tiny").rglob("trial-*"))
    assert names_at(s3_url) == [f"tiny/trial-0000/{name}" for name in (*FILES, FILE)]


@pytest.mark.usefixtures("always_due")
def test_a_server_that_goes_while_a_trial_trains_costs_it_nothing(
    tiny_bert: Path,
    texts: Path,
    tmp_path: Path,
    store: ObjectStore,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It trains on, waits with what lies in its folder, resumes there, and sends its weights at its end."""
    uncut = on_machine(tiny_bert, texts, tmp_path / "uncut", None)
    _, ending = trained(uncut, tiny_assignment())
    worker = on_machine(tiny_bert, texts, tmp_path, s3_url)
    worker.admit(tiny_assignment())
    run = worker._runs[0]
    for _ in range(4):
        stepped(worker)
    store.stop()
    try:
        [best] = [said for said in (stepped(worker) for _ in range(6)) if isinstance(said, Report) and said.full]
        worker.apply(Decision(trial=0, attempt=1, action=Action.PAUSE))
        paused = stepped(worker)
        assert isinstance(paused, Outcome)
        assert paused.ending is Ending.PAUSED
        worker.drop(0)
        assert len([message for message in caplog.messages if "could not be exchanged" in message]) == 1
        folder = trial_folder(tmp_path / "tiny", 0)
        assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, FILE))
        assert weights_are_of(tmp_path / "tiny", best)
        worker.admit(tiny_assignment(attempt=2))
        run = worker._runs[0]
        stepped(worker)
        assert run._state.seen == 72
    finally:
        store.start()
    worker._context.remote._paused_until = 0.0  # type: ignore[attr-defined]
    outcome = _outcome_of(worker)
    worker.drop(0)
    assert digest(worker) == digest(uncut)
    assert ending is not None
    assert outcome.best.validation == ending.best.validation
    assert fetch_weights_of(tmp_path / "b", outcome.best, remote_at(tmp_path / "b", s3_url))


def _outcome_of(worker: Worker) -> Outcome:
    while True:
        said = stepped(worker)
        if isinstance(said, Outcome):
            return said


# -- checkpoints


def checkpoints_at(scratch: Path, url: str, attempt: int) -> Checkpoints:
    remote = remote_at(scratch, url)
    return Checkpoints(TrialFiles(root=scratch, trial=1, attempt=attempt, remote=remote), "this")


def state_at(seen: int) -> dict[str, object]:
    return {"seen": seen, "tensor": torch.full((4,), float(seen))}


def kept_in(scratch: Path, url: str | None) -> Checkpoints:
    remote = NO_REMOTE if url is None else remote_at(scratch, url)
    return Checkpoints(TrialFiles(root=scratch, trial=0, remote=remote), "this")


def furthest(scratch: Path, url: str) -> int | None:
    state = kept_in(scratch, url).load()
    assert state is None or torch.equal(state["tensor"], state_at(state["seen"])["tensor"])
    return None if state is None else state["seen"]


def tear(url: str, name: str, store: ObjectStore) -> None:
    """Let an object be there of which a part was sent."""
    path = f"{url.removeprefix('s3://').partition('?')[0]}/tiny/trial-0000/{name}"
    with store.files.open_input_stream(path) as file:
        content = file.read()
    with store.files.open_output_stream(path) as file:
        file.write(content[:-100])


def test_the_furthest_of_both_places_is_resumed_from(s3_url: str, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    first = kept_in(a, s3_url)
    for seen in (1, 2):
        first.save(state_at(seen), 0.0)
    assert furthest(b, s3_url) == 2
    assert not trial_folder(b, 0).exists() or not list(trial_folder(b, 0).iterdir()), "it is mapped, and gone"
    kept_in(b, None).save(state_at(3), 0.0)
    assert furthest(b, s3_url) == 3
    assert furthest(a, s3_url) == 2


@pytest.mark.parametrize(("torn", "left"), [(FILES[1:], 1), (FILES, None)])
def test_one_that_was_sent_in_part_is_found_out_and_the_other_used(
    torn: tuple[str, ...],
    left: int | None,
    s3_url: str,
    tmp_path: Path,
    store: ObjectStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = kept_in(tmp_path / "a", s3_url)
    for seen in (1, 2):
        first.save(state_at(seen), 0.0)
    for name in torn:
        tear(s3_url, name, store)
    assert furthest(tmp_path / "b", s3_url) == left
    shown = f"{s3_url.partition('?')[0]}/tiny/trial-0000/{FILES[1]}"
    assert f"The checkpoint {shown} is damaged, and is not used." in caplog.messages
    assert furthest(tmp_path / "a", s3_url) == 2, "its own are whole"


def test_the_one_resumed_from_stays_until_the_next_was_sent(s3_url: str, tmp_path: Path) -> None:
    first = kept_in(tmp_path / "a", s3_url)
    for seen in range(1, 4):
        first.save(state_at(seen), 0.0)
    second = kept_in(tmp_path / "b", s3_url)
    assert second.load()["seen"] == 3  # type: ignore[index]
    second.save(state_at(4), 0.0)
    elsewhere = remote_at(tmp_path / "c", s3_url)
    folder = trial_folder(tmp_path / "c", 0)
    assert {elsewhere.read(folder / name, checkpoints._seen_in, -1) for name in FILES} == {3, 4}


def test_sending_counts_in_what_checkpoints_may_take(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be sent is tried again a minute later, or later still where finding that out took long."""
    kept = kept_in(tmp_path, s3_url)
    clock = [0.0]
    answers = [(3.0, True), (0.3, False), (6.0, False)]

    def sending(path: Path) -> bool:
        took, answer = answers.pop(0)
        clock[0] += took
        return answer

    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(kept._files.remote, "send", sending)
    for apart in (100.0, 60.0, 200.0):
        kept.save(state_at(1), 1000.0)
        assert not kept.is_due(1000.0 + apart - 0.1, 0)
        assert kept.is_due(1000.0 + apart + 0.1, 0)


def test_a_url_that_is_away_when_a_trial_resumes_leaves_what_lies_here(
    s3_url: str, tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept_in(tmp_path / "a", s3_url).save(state_at(1), 0.0)
    store.stop()
    try:
        assert furthest(tmp_path / "a", s3_url) == 1
        assert furthest(tmp_path / "b", s3_url) is None
    finally:
        store.start()
    assert len(caplog.messages) == 2


# -- weights


def test_older_weights_of_another_attempt_give_way_to_those_at_the_url(url: str, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    weights_at(b, None).keep(replace(REPORT, rung=250), {"a": torch.zeros(1)})
    weights_at(a, url).keep(REPORT, TENSORS)
    assert fetch_weights_of(b, REPORT, remote_at(b, url))
    assert torch.equal(load_weights(b, 1)["a"], TENSORS["a"])
    assert not fetch_weights_of(b, replace(REPORT, rung=250), remote_at(b, url))
    c = tmp_path / "c"
    assert torch.equal(load_weights(c, 1, remote_at(c, url))["a"], TENSORS["a"])
    with pytest.raises(NoResultError, match="No weights of trial 2 were kept"):
        load_weights(c, 2, remote_at(c, url))


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02" + bytes(7) + b"[]", b"\x04" + bytes(7) + b"nope"])
def test_what_is_no_file_of_weights_at_the_url_is_of_no_evaluation(content: bytes, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far"
    there = tmp_path / "far" / "tiny" / "trial-0001"
    there.mkdir(parents=True)
    (there / FILE).write_bytes(content)
    assert not fetch_weights_of(tmp_path / "a", REPORT, remote_at(tmp_path / "a", url))


def test_an_attempt_leaves_only_weights_of_the_best_that_it_resumes_from(url: str, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    earlier = replace(REPORT, rung=250)
    weights_at(a, url).keep(REPORT, TENSORS)
    weights_at(b, None).keep(earlier, TENSORS)
    at_b = weights_at(b, url)
    at_b.keep_only_of(REPORT)
    assert not weights_path(b, 1).exists()
    assert names_at(url) == [f"tiny/trial-0001/{FILE}"]
    # A process was killed when it had written them, and had not sent them.
    weights_at(b, None).keep(earlier, TENSORS)
    at_b.keep_only_of(earlier)
    assert fetch_weights_of(tmp_path / "c", earlier, remote_at(tmp_path / "c", url))
    at_b.keep_only_of(None)
    assert names_at(url) == []
    assert not weights_path(b, 1).exists()


def test_weights_that_could_not_be_sent_are_tried_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_module, "SECONDS_LEFT_ALONE", 0.0)
    far = tmp_path / "far"
    far.write_text("a file stands where the folder is to be")
    kept = weights_at(tmp_path / "a", f"file://{far}")
    kept.keep(REPORT, TENSORS)
    kept.release()
    assert weights_are_of(tmp_path / "a", REPORT)
    far.unlink()
    kept.release()
    assert not weights_path(tmp_path / "a", 1).exists()
    assert (far / "tiny" / "trial-0001" / FILE).exists()
    assert len(caplog.messages) == 1


def test_what_is_over_is_removed_in_both_places(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remote = remote_at(tmp_path / "a", url)
    for trial in (1, 2, 3, 10000):
        report = replace(REPORT, trial=trial)
        Weights(TrialFiles(root=tmp_path / "a", trial=trial, remote=remote)).keep(report, TENSORS)
        Checkpoints(TrialFiles(root=tmp_path / "a", trial=trial, remote=remote), "this").save(state_at(1), 0.0)
    at_search = tmp_path / "b"
    keep_only(at_search, {2}, {3}, remote_at(at_search, url))
    left = ["trial-0002/checkpoint-a.pt", f"trial-0002/{FILE}", f"trial-0003/{FILE}"]
    assert names_at(url) == [f"tiny/{name}" for name in left]
    keep_only(tmp_path / "a", {2}, {3}, remote)
    assert sorted(str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*.*")) == left
    keep_only(tmp_path / "a", set(), set(), remote)
    assert names_at(url) == []
    assert remote.entries(remote.folder) == set()
    assert not caplog.messages


def test_a_first_attempt_removes_what_an_earlier_study_left_at_the_url(
    tiny_bert: Path, texts: Path, tmp_path: Path, url: str
) -> None:
    kept_in(tmp_path / "a", url).save(state_at(1), 0.0)
    remote = remote_at(tmp_path / "a", url)
    Weights(TrialFiles(root=tmp_path / "a", trial=0, remote=remote)).keep(replace(REPORT, trial=0), TENSORS)
    worker = on_machine(tiny_bert, texts, tmp_path / "b", url)
    trained(worker, tiny_assignment(), stop_after=0)
    assert names_at(url) == []


def test_attempts_on_two_machines_write_files_of_their_own_there_too(tmp_path: Path, url: str) -> None:
    """The first is cut off, taken for dead, and trains on; the second resumes from what it had sent."""
    a, b = tmp_path / "a" / "tiny", tmp_path / "b" / "tiny"
    first = checkpoints_at(a, url, 1)
    weights = weights_at(a, url)
    for seen in (1, 2):
        first.save(state_at(seen), 0.0)
    weights.keep(REPORT, TENSORS)
    second = checkpoints_at(b, url, 2)
    successor = weights_at(b, url, 2)
    assert second.load()["seen"] == 2
    better = replace(REPORT, attempt=2, rung=500)
    for seen in (3, 4):
        second.save(state_at(seen), 0.0)
    successor.keep(better, {"a": torch.zeros(3)})
    assert names_at(url) == [f"tiny/trial-0001/{name}" for name in (*checkpoint_names(2), "weights-2.safetensors")]
    first.save(state_at(9), 0.0)
    weights.keep(replace(REPORT, rung=750), TENSORS)
    weights.remove()
    c = tmp_path / "c" / "tiny"
    third = checkpoints_at(c, url, 3)
    assert third.load()["seen"] == 4
    assert fetch_weights_of(c, better, remote_at(c, url))
    assert torch.equal(load_weights(c, 1)["a"], torch.zeros(3))
    keep_only(c, set(), {1}, remote_at(c, url))
    assert names_at(url) == ["tiny/trial-0001/weights-2.safetensors"]
