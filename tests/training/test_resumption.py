"""A trial that is cut goes on from its checkpoint, and ends as if it had never been cut, to the last bit."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpo.data.splits import load_splits
from hpo.messages import Action, Decision, Ending, Outcome, Report
from hpo.search.rungs import fold_milestones
from hpo.training import checkpoints
from hpo.training.checkpoints import FILES, Checkpoints, write_checkpoint
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.weights import trial_folder
from hpo.training.worker import Worker, open_worker
from tests.models import tiny_assignment, tiny_hyperparameters, tiny_study

FOLDS = 3


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint before every step."""
    monkeypatch.setattr(checkpoints.Checkpoints, "is_due", lambda *_: True)


def opened(model: Path, texts: Path, files: Path, folds: int | None = None) -> Worker:
    config = tiny_study(model, texts, evaluation={"rung_rows": 12, "folds": folds})
    return open_worker(config, load_splits(config.data, config.seed, folds=folds), files)


def trained(worker: Worker, assignment, *, stop_after: int | None = None) -> tuple[list[Report], Outcome | None]:
    """Train to the end, or for so many steps, after which the trial is dropped as by a crash."""
    worker.admit(assignment)
    reports: list[Report] = []
    run = worker._pack._runs[assignment.trial]
    step = 0
    while stop_after is None or step < stop_after:
        message = run.advance()
        step += 1
        if isinstance(message, Report):
            reports.append(message)
        if isinstance(message, Outcome):
            worker.drop(assignment.trial)
            return reports, message
    worker.drop(assignment.trial)
    return reports, None


def digest(worker: Worker) -> str:
    found = hashlib.sha256()
    for _, tensor in sorted(worker._bench.model.network.state_dict().items()):
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def scores(reports: list[Report]) -> list[tuple]:
    return [(r.rung, r.step, r.epoch, r.examples_seen, r.train_loss, r.validation, r.train) for r in reports]


def compare(model: Path, texts: Path, folder: Path, assignment, *, cut: int, folds: int | None = None) -> None:
    """Hold a trial that was cut after `cut` steps, and went on with another worker, against one that was not."""
    uncut = opened(model, texts, folder / "uncut", folds)
    expected, ending = trained(uncut, assignment)
    assert ending is not None
    first = opened(model, texts, folder / "cut", folds)
    before, nothing = trained(first, assignment, stop_after=cut)
    assert nothing is None
    second = opened(model, texts, folder / "cut", folds)
    after, outcome = trained(second, replace(assignment, attempt=2))
    assert outcome is not None
    assert outcome.resumed_examples > 0
    told = {report.rung: report for report in before} | {report.rung: report for report in after}
    assert scores([told[rung] for rung in sorted(told)]) == scores(expected)
    assert outcome.best is not None
    assert outcome.best.validation == ending.best.validation
    assert digest(second) == digest(uncut)
    assert not any((trial_folder(folder / "cut", 0) / name).exists() for name in FILES)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_ends_the_same_to_the_last_bit(optimizer: str, tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    values = {"optimizer": optimizer, "learning_rate": 1e-3, "dropout": 0.2, "layerwise_rate_decay": 0.9}
    compare(tiny_bert, texts, tmp_path, tiny_assignment(tiny_hyperparameters(**values)), cut=11)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize(
    "values",
    [
        {"schedule": "reduce_on_plateau", "plateau_patience": 0, "learning_rate": 1e-9},
        {"token_masking": 0.3, "word_swap": 0.2},
        {"data_fraction": 0.5, "class_weights": "balanced"},
        {"method": "top_layers", "trained_layers": 1, "kept_layers": 1},
        {"l1_strength": 1e-3, "regularize_towards": "pretrained"},
        {"early_stopping_patience": 1},
    ],
    ids=lambda values: next(iter(values)),
)
def test_so_it_does_whatever_it_is_trained_under(values, tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    compare(tiny_bert, texts, tmp_path, tiny_assignment(tiny_hyperparameters(**values)), cut=7)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("cut", [3, 16, 25, 40])
def test_a_trial_in_folds_goes_on_in_the_fold_in_which_it_was_cut(
    cut: int, tiny_bert: Path, texts: Path, tmp_path: Path
) -> None:
    assignment = tiny_assignment(tiny_hyperparameters(), milestones=fold_milestones(FOLDS))
    compare(tiny_bert, texts, tmp_path, assignment, cut=cut, folds=FOLDS)


def test_a_paused_trial_goes_on_where_it_was_paused(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    uncut = opened(tiny_bert, texts, tmp_path / "uncut")
    trained(uncut, tiny_assignment())
    worker = opened(tiny_bert, texts, tmp_path / "cut")
    worker.admit(tiny_assignment())
    run = worker._pack._runs[0]
    for _ in range(5):
        run.advance()
    worker.apply(Decision(trial=0, attempt=1, action=Action.PAUSE))
    paused = run.advance()
    assert isinstance(paused, Outcome)
    assert paused.ending is Ending.PAUSED
    worker.drop(0)
    reports, outcome = trained(worker, tiny_assignment(attempt=2))
    assert outcome is not None
    assert outcome.resumed_examples == 40
    assert outcome.seconds > paused.seconds > 0
    assert [report.rung for report in reports] == [500, 750, 1000]
    assert digest(worker) == digest(uncut)


@pytest.mark.usefixtures("always_due")
def test_a_checkpoint_of_something_else_is_not_gone_on_from(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    worker = opened(tiny_bert, texts, tmp_path)
    trained(worker, tiny_assignment(), stop_after=6)
    for other in (
        tiny_assignment(attempt=2, seed=8),
        tiny_assignment(tiny_hyperparameters(learning_rate=2e-2), attempt=2),
        tiny_assignment(attempt=1),
    ):
        _, outcome = trained(worker, other)
        assert outcome is not None
        assert outcome.resumed_examples == 0
        trained(worker, tiny_assignment(), stop_after=6)


def sound(folder: Path) -> int | None:
    state = Checkpoints(folder, "this").load()
    return None if state is None else state["seen"]


def test_a_torn_or_altered_checkpoint_is_found_out_and_the_one_before_used(tmp_path: Path) -> None:
    for seen in (1, 2, 3):
        write_checkpoint(tmp_path, "this", {"seen": seen, "tensor": torch.full((4,), float(seen))})
    assert sound(tmp_path) == 3
    newest = max((tmp_path / name for name in FILES), key=lambda path: path.stat().st_mtime_ns)
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    assert sound(tmp_path) == 2
    newest.write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
    assert sound(tmp_path) == 2
    write_checkpoint(tmp_path, "this", {"seen": 4})
    assert sound(tmp_path) == 4
    for name in FILES:
        (tmp_path / name).write_bytes(b"")
    assert sound(tmp_path) is None


def test_the_older_of_two_is_written_over(tmp_path: Path) -> None:
    for seen in range(1, 5):
        write_checkpoint(tmp_path, "this", {"seen": seen})
        payloads = (path.read_bytes()[checkpoints.DIGEST_BYTES :] for path in tmp_path.glob("*.pt"))
        kept = {torch.load(io.BytesIO(payload))["seen"] for payload in payloads}
        assert kept == ({seen, seen - 1} if seen > 1 else {1})


def test_a_full_disk_is_told_and_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Checkpoints(tmp_path, "this")
    kept.save({"seen": 1}, 0.0)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    kept.save({"seen": 2}, 0.0)
    assert f"No checkpoint was written to {tmp_path}: No space left on device." in caplog.text
    assert sound(tmp_path) == 1
    assert not list(tmp_path.glob("*.part"))


def test_checkpoints_are_as_far_apart_as_they_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A write of 3 seconds may come once in a hundred seconds of training; before the first, the size says."""
    kept = Checkpoints(tmp_path, "this")
    a_second_of_writing = int(checkpoints.ASSUMED_BYTES_PER_SECOND)
    assert not kept.is_due(10.0, a_second_of_writing)
    assert not kept.is_due(43.0, a_second_of_writing)
    assert kept.is_due(43.4, a_second_of_writing)
    clock = iter((0.0, 3.0))
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: next(clock))
    kept.save({"seen": 1}, 50.0)
    assert not kept.is_due(149.9, a_second_of_writing)
    assert kept.is_due(150.1, a_second_of_writing)
    assert not Checkpoints(None, "this").is_due(1e9, 0)
