"""Resumption: a trial that is cut resumes from its checkpoint, and ends as if it had not been cut, to the last bit."""

import hashlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hpo.data.batching import Batch
from hpo.data.splits import splits_of
from hpo.files import checkpoints
from hpo.files.checkpoints import checkpoint_names, keep_only, trial_folder
from hpo.files.weights import weights_are_of, weights_path
from hpo.messages import Action, Decision, Ending, HeldOutEvaluation, Outcome, Progress, Report
from hpo.model.backbone import Backbone
from hpo.model.methods import METHODS
from hpo.search.outcomes import outcome_attributes
from hpo.search.pruners import fold_milestones
from hpo.tasks.registry import TASKS
from hpo.training import run as run_module
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.run_state import RunState
from hpo.training.worker import Worker, open_worker
from tests.files.test_weights import REPORT
from tests.models import stepped, tiny_assignment, tiny_hyperparameters, tiny_study, write_texts_of
from tests.tasks.language_models import save_tiny_decoder, save_tiny_masked_model

FOLDS = 3
FILES = checkpoint_names(1)


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint before every step."""
    monkeypatch.setattr(checkpoints.Checkpoints, "is_due", lambda *_: True)


def opened(model: Path, texts: Path, files: Path, folds: int | None = None, /, **sections: Any) -> Worker:
    config = tiny_study(model, texts, evaluation={"rung_rows": 12, "folds": folds}, **sections)
    return open_worker(config, splits_of(config), files)


def trained(worker: Worker, assignment, *, stop_after: int | None = None) -> tuple[list[Report], Outcome | None]:
    """Train to the end, or for so many steps, after which the trial is dropped as by a crash."""
    worker.admit(assignment)
    reports: list[Report] = []
    # The first time it only says that it is ready.
    advanced = -1
    while stop_after is None or advanced < stop_after:
        message = stepped(worker)
        advanced += 1
        if isinstance(message, Report):
            reports.append(message)
        if isinstance(message, Outcome):
            worker.drop(assignment.trial)
            return reports, message
    worker.drop(assignment.trial)
    return reports, None


def digest(worker: Worker) -> str:
    found = hashlib.sha256()
    for _, tensor in sorted(worker._context.model.network.state_dict().items()):
        found.update(tensor.double().numpy().tobytes())
    return found.hexdigest()


def scores(reports: list[Report]) -> list[tuple]:
    return [(r.rung, r.step, r.epoch, r.examples_seen, r.train_loss, r.validation, r.train) for r in reports]


def compare(
    model: Path, texts: Path, folder: Path, assignment, /, *, cut: int, folds: int | None = None, **sections: Any
) -> None:
    """Hold a trial that was cut after `cut` steps, and resumed by another worker, against one that was not."""
    uncut = opened(model, texts, folder / "uncut", folds, **sections)
    expected, ending = trained(uncut, assignment)
    assert ending is not None
    first = opened(model, texts, folder / "cut", folds, **sections)
    before, nothing = trained(first, assignment, stop_after=cut)
    assert nothing is None
    second = opened(model, texts, folder / "cut", folds, **sections)
    after, outcome = trained(second, replace(assignment, attempt=2))
    assert outcome is not None
    assert outcome.resumed_examples > 0
    told = {report.rung: report for report in before} | {report.rung: report for report in after}
    assert scores([told[rung] for rung in sorted(told)]) == scores(expected)
    assert outcome.best is not None
    assert outcome.best.validation == ending.best.validation
    assert digest(second) == digest(uncut)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_ends_the_same_to_the_last_bit(optimizer: str, tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    values = {
        "optimizer": optimizer,
        "learning_rate": 1e-3,
        "dropout": 0.2,
        "layerwise_rate_decay": 0.9,
        "head_rate": 5.0,
    }
    compare(tiny_bert, texts, tmp_path, tiny_assignment(tiny_hyperparameters(**values)), cut=11)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize(
    "values",
    [
        {"schedule": "reduce_on_plateau", "plateau_patience": 0, "learning_rate": 1e-9},
        {"token_masking": 0.3, "word_swap": 0.2},
        {"data_fraction": 0.5, "class_weights": "balanced"},
        {"method": "top_layers", "trained_layers": 1, "kept_layers": 1, "head_scale": 0.2},
        {"l1_strength": 1e-3, "regularize_towards": "pretrained"},
        {"early_stopping_patience": 1},
    ],
    ids=lambda values: next(iter(values)),
)
def test_so_it_does_whatever_it_is_trained_under(values, tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    compare(tiny_bert, texts, tmp_path, tiny_assignment(tiny_hyperparameters(**values)), cut=7)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", sorted(TASKS.keys() - {"label_words"}))
def test_so_it_does_in_every_task_by_every_method(task: str, method: str, tiny_bert: Path, tmp_path: Path) -> None:
    values = {"method": method, "dropout": 0.2, **({"lora_dropout": 0.2} if method == "lora" else {})}
    texts = write_texts_of(task, tmp_path / "texts.csv")
    assignment = tiny_assignment(tiny_hyperparameters(**values))
    compare(tiny_bert, texts, tmp_path, assignment, cut=3, task={"name": task})


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"head"}))
@pytest.mark.parametrize("save", [save_tiny_decoder, save_tiny_masked_model])
def test_so_it_does_by_label_words(save: Any, method: str, texts: Path, tmp_path: Path) -> None:
    values = {"method": method, **({"lora_dropout": 0.2} if method == "lora" else {})}
    assignment = tiny_assignment(tiny_hyperparameters(**values, max_length=24))
    compare(save(tmp_path / "model"), texts, tmp_path, assignment, cut=3, task={"head": "label_words"})


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_so_it_does_with_adapters_on_a_decoder(dtype: str, tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    values = {"method": "lora", "lora_dropout": 0.2, "lora_scaling": "rslora", "optimizer": "muon", "l1_strength": 1e-3}
    compute = {"device": "cpu", "precision": "fp32", "threads": 1, "gradient_checkpointing": True}
    model = {"name": str(tiny_llama), "dtype": dtype}
    assignment = tiny_assignment(tiny_hyperparameters(**values, layerwise_rate_decay=0.8))
    compare(tiny_llama, texts, tmp_path, assignment, cut=5, compute=compute, model=model)


def test_a_checkpoint_on_another_base_of_that_name_is_not_used(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    worker = opened(model, texts, tmp_path / "files")
    worker.admit(tiny_assignment(tiny_hyperparameters(method="lora")))
    for _ in range(4):
        stepped(worker)
    worker.apply(Decision(trial=0, attempt=1, action=Action.PAUSE))
    stepped(worker)
    weights = load_file(model / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"})
    _, outcome = trained(
        opened(model, texts, tmp_path / "files"), tiny_assignment(tiny_hyperparameters(method="lora"), attempt=2)
    )
    assert outcome is not None
    assert outcome.resumed_examples == 0


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("cut", [3, 16, 25, 40])
def test_a_trial_in_folds_resumes_in_the_fold_in_which_it_was_cut(
    cut: int, tiny_bert: Path, texts: Path, tmp_path: Path
) -> None:
    assignment = tiny_assignment(tiny_hyperparameters(), milestones=fold_milestones(FOLDS))
    compare(tiny_bert, texts, tmp_path, assignment, cut=cut, folds=FOLDS)


def test_a_paused_trial_resumes_where_it_was_paused(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    uncut = opened(tiny_bert, texts, tmp_path / "uncut")
    trained(uncut, tiny_assignment())
    worker = opened(tiny_bert, texts, tmp_path / "cut")
    worker.admit(tiny_assignment())
    for _ in range(6):
        stepped(worker)
    worker.apply(Decision(trial=0, attempt=1, action=Action.PAUSE))
    paused = stepped(worker)
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
def test_a_checkpoint_of_something_else_is_not_resumed_from(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("always_due")
def test_a_first_attempt_leaves_nothing_of_an_earlier_study_of_its_name(
    tiny_bert: Path, texts: Path, tmp_path: Path
) -> None:
    worker = opened(tiny_bert, texts, tmp_path)
    trained(worker, tiny_assignment(), stop_after=12)
    folder = trial_folder(tmp_path, 0)
    (folder / "checkpoint-a.pt.17.part").write_bytes(b"half")
    (folder / "weights.safetensors.17.part").write_bytes(b"half")
    (folder / ".tmp8VNenJ").write_bytes(b"what safetensors had half written")
    assert len(list(folder.iterdir())) == 6
    trained(worker, tiny_assignment(seed=8, score_to_beat=2.0), stop_after=0)
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("always_due")
def test_weights_of_what_came_after_the_checkpoint_are_not_the_trials(
    tiny_bert: Path, texts: Path, tmp_path: Path
) -> None:
    """An attempt is killed behind its first full report: its checkpoint knows nothing of it."""
    worker = opened(tiny_bert, texts, tmp_path)
    reports, _ = trained(worker, tiny_assignment(), stop_after=8)
    assert [report.full for report in reports] == [False, True]
    assert weights_are_of(tmp_path, reports[-1])
    trained(worker, tiny_assignment(attempt=2), stop_after=0)
    assert not weights_path(tmp_path, 0).exists()


@pytest.mark.usefixtures("always_due")
def test_weights_of_the_best_that_the_checkpoint_knows_stay(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    worker = opened(tiny_bert, texts, tmp_path)
    reports, _ = trained(worker, tiny_assignment(), stop_after=11)
    trained(worker, tiny_assignment(attempt=2), stop_after=0)
    assert weights_are_of(tmp_path, reports[1])


def test_without_a_checkpoint_an_attempt_begins_anew_and_earlier_weights_go(
    tiny_bert: Path, texts: Path, tmp_path: Path
) -> None:
    worker = opened(tiny_bert, texts, tmp_path)
    trained(worker, tiny_assignment(), stop_after=10)
    assert weights_path(tmp_path, 0).exists()
    trained(worker, tiny_assignment(attempt=2), stop_after=0)
    assert not weights_path(tmp_path, 0).exists()


@pytest.mark.usefixtures("always_due")
def test_an_attempt_says_first_where_it_stands(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    """So that whoever watches for hangs hears of it as soon as it is ready."""
    worker = opened(tiny_bert, texts, tmp_path)
    for attempt, seen in ((1, 0), (2, 40)):
        worker.admit(tiny_assignment(attempt=attempt))
        [first] = worker.advance()
        assert isinstance(first, Progress)
        assert (first.attempt, first.examples_seen, first.examples_total) == (attempt, seen, 128)
        for _ in range(6):
            stepped(worker)
        worker.drop(0)


@pytest.mark.usefixtures("always_due")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what a process maps")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_nothing_of_a_checkpoint_is_held_once_it_was_resumed_from(
    optimizer: str, tiny_bert: Path, texts: Path, tmp_path: Path
) -> None:
    worker = opened(tiny_bert, texts, tmp_path)
    chosen = tiny_hyperparameters(optimizer=optimizer)
    trained(worker, tiny_assignment(chosen), stop_after=7)
    worker.admit(tiny_assignment(chosen, attempt=2))
    run = worker._runs[0]
    stepped(worker)
    stepped(worker)
    assert run._state.seen == 56
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_what_has_ended_is_removed_by_whoever_records_it(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    """Were the process to die before the end is recorded, the trial would have to begin anew."""
    worker = opened(tiny_bert, texts, tmp_path)
    worker.admit(tiny_assignment())
    run = worker._runs[0]
    run._checkpoints.is_due = lambda *_: run._state.seen == 120  # type: ignore[method-assign,assignment]
    while not worker.idle:
        worker.advance()
    assert (trial_folder(tmp_path, 0) / FILES[0]).exists()
    keep_only(tmp_path, set(), {0})
    assert [path.name for path in trial_folder(tmp_path, 0).iterdir()] == ["weights.safetensors"]


@pytest.mark.usefixtures("always_due")
def test_what_was_another_when_it_resumed_is_recorded(
    tiny_bert: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(opened(tiny_bert, texts, tmp_path), tiny_assignment(), stop_after=3)
    _, same = trained(opened(tiny_bert, texts, tmp_path), tiny_assignment(attempt=2), stop_after=2)
    assert same is None
    now = run_module.circumstances_of
    monkeypatch.setattr(run_module, "circumstances_of", lambda context: now(context) | {"threads": "64"})
    _, outcome = trained(opened(tiny_bert, texts, tmp_path), tiny_assignment(attempt=3))
    assert outcome is not None
    assert outcome.resumed_examples > 0
    assert outcome.changes == ("threads: 1 before, 64 now",)
    assert outcome_attributes(outcome)["not_bit_equal"] == ["threads: 1 before, 64 now"]


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("action", [Action.PAUSE, Action.STOP])
def test_a_decision_takes_effect_in_the_middle_of_an_evaluation(
    action: Action, folds: int | None, tiny_bert: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last evaluation is cut between two batches; resumed, it is made again, and all is as uncut."""
    monkeypatch.setattr("hpo.training.evaluation.MOST_ROWS", 4)
    milestones = {} if folds is None else {"milestones": fold_milestones(folds)}
    assignment = tiny_assignment(tiny_hyperparameters(dropout=0.2, early_stopping_patience=9), **milestones)
    uncut = opened(tiny_bert, texts, tmp_path / "uncut", folds)
    expected, ending = trained(uncut, assignment)
    assert ending is not None
    worker = opened(tiny_bert, texts, tmp_path / "cut", folds)
    asked: list[int] = []
    original = Backbone.logits

    def logits(self: Backbone, batch: Batch, precision):
        run = worker._runs.get(0)
        if not torch.is_grad_enabled() and run is not None and run._model is not None and len(before) == at:
            asked.append(batch.rows)
            if len(asked) == 2:
                worker.apply(Decision(trial=0, attempt=1, action=action))
        return original(self, batch, precision)

    before: list[Report] = []
    at = len(expected) - 2 if folds else len(expected) - 1
    with monkeypatch.context() as patched:
        patched.setattr(Backbone, "logits", logits)
        worker.admit(assignment)
        outcome = None
        while outcome is None:
            for said in worker.advance():
                if isinstance(said, Report):
                    before.append(said)
                elif isinstance(said, Outcome):
                    outcome = said
    assert len(asked) == 2, "no batch after the decision"
    assert scores(before) == scores(expected[:at])
    assert outcome.ending is (Ending.PAUSED if action is Action.PAUSE else Ending.PRUNED)
    assert outcome.reason.startswith("At step ")
    if action is Action.STOP:
        return
    after, outcome = trained(opened(tiny_bert, texts, tmp_path / "cut", folds), replace(assignment, attempt=2))
    assert outcome is not None
    assert outcome.ending is Ending.COMPLETED
    assert scores([*before, *after]) == scores(expected)


def test_the_state_of_an_earlier_version_is_read() -> None:
    """Its fold run was called a course, and a held-out evaluation a reading."""
    held_out = HeldOutEvaluation(scores=REPORT.validation, deviations=(0.1, -0.1), of_a_unit=0.01, slices=())
    report = replace(REPORT, held_out=held_out)
    state = RunState(fold_run=1, seen=9, best=report, of_folds=[report, REPORT], circumstances={"threads": "1"})
    assert RunState.from_state(asdict(state)) == state
    earlier = asdict(state)
    earlier["course"] = earlier.pop("fold_run")
    for one in (earlier["best"], *earlier["of_folds"]):
        one["reading"] = one.pop("held_out")
    assert RunState.from_state(earlier) == state
