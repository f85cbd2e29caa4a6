"""Frozen layers that are computed once: trials come to the same as without, however they train, end and resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpo.data.batching import Rows
from hpo.data.splits import load_splits
from hpo.data.tokenization import TokenizedSplit
from hpo.files.shared import FOLDER, RowFile
from hpo.messages import Action, Assignment, Ending, Milestone, Report
from hpo.model import frozen_layers
from hpo.model.frozen_layers import FrozenLayers, RowStates
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.worker import Worker, open_worker
from tests.models import save_tiny_bert, save_tiny_llama, tiny_assignment, tiny_hyperparameters, tiny_study, trained

LORA = {"method": "lora", "lora_targets": "2.attention.self.query,2.output.dense", "lora_dropout": 0.1, "dropout": 0.3}
HEAD: dict[str, Any] = {"method": "head", "dropout": 0.3}
TOP: dict[str, Any] = {"method": "top_layers", "trained_layers": 1, "dropout": 0.3}
TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "head": ("bert", HEAD),
    "top": ("bert", TOP),
    "lora": ("bert", LORA),
    "head of fewer layers": ("bert", {**HEAD, "kept_layers": 1}),
    "head of a decoder": ("llama", {"method": "head"}),
    "top of a decoder": ("llama", {"method": "top_layers", "trained_layers": 1}),
}
Compare = Callable[[str, Assignment], None]


def trial(values: dict[str, Any], **others: Any) -> Assignment:
    """Return a trial of more than a hundred steps."""
    chosen = tiny_hyperparameters(**{"epochs": 13, "learning_rate": 1e-3, **values})
    ends = tuple(Milestone(rung=rung, full=True) for rung in (500, 1000))
    return tiny_assignment(chosen, milestones=ends, maximum_passes=chosen.epochs, **others)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"bert": save_tiny_bert(folder / "bert", layers=3), "llama": save_tiny_llama(folder / "llama")}


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The losses of all steps from now on."""
    seen: list[float] = []
    take = OptimizerStep.take

    def noted(training: OptimizerStep, loss: torch.Tensor) -> None:
        seen.append(float(loss))
        take(training, loss)

    monkeypatch.setattr(OptimizerStep, "take", noted)
    return seen


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The rows, each with its split, that frozen layers were computed for, to be kept."""
    rows: list[tuple[str, int]] = []
    original = FrozenLayers._of_rows

    def noted(self: FrozenLayers, split: TokenizedSplit, group: Rows) -> torch.Tensor:
        rows.extend((split.source, row) for row in group.tolist())
        return original(self, split, group)

    monkeypatch.setattr(FrozenLayers, "_of_rows", noted)
    return rows


def opened(model: Path, texts: Path, files: Path | None = None, **options: Any) -> Worker:
    config = tiny_study(model, texts)
    return open_worker(config, load_splits(config.data, config.seed), files, **options)


def alike(found: list[Report], wanted: list[Report]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.step == other.step
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-5)
        # Its bins have edges, at which rounding counts.
        values, others = ({**scores.validation.values, "neg_calibration_error": 0.0} for scores in (one, other))
        assert values == pytest.approx(others, abs=1e-4)


@pytest.fixture
def compare(models: dict[str, Path], texts: Path, losses: list[float], monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Train a trial where all passes compute all layers, and twice on a worker that keeps what they give; compare."""

    def compared(model: str, assignment: Assignment) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(FrozenLayers, "agrees", lambda *_: False)
            wanted, ended = trained(opened(models[model], texts), assignment)
        assert ended.ending is Ending.COMPLETED
        expected = losses.copy()
        assert len(expected) > 100
        worker = opened(models[model], texts)
        for _ in range(2):
            losses.clear()
            found, _ = trained(worker, assignment)
            assert losses == pytest.approx(expected, abs=1e-5)
            alike(found, wanted)

    return compared


@pytest.mark.parametrize("name", TRIALS)
def test_a_hundred_steps_have_the_losses_of_those_that_compute_all(
    name: str, compare: Compare, computed: list[tuple[str, int]]
) -> None:
    model, values = TRIALS[name]
    compare(model, trial(values))
    assert len({split for split, _ in computed}) == 2, "training and validation"
    assert len(set(computed)) == len(computed), "no row twice"


def test_a_full_trial_has_no_frozen_layers(compare: Compare, computed: list[tuple[str, int]]) -> None:
    compare("bert", trial({"method": "full"}))
    assert not computed


def test_tokens_that_are_masked_are_computed_as_they_are(compare: Compare, computed: list[tuple[str, int]]) -> None:
    compare("bert", trial({**HEAD, "token_masking": 0.2}))
    # A sample of the training rows is scored as it is.
    assert {split for split, _ in computed if "train" not in split}


def test_rows_without_a_place_are_computed_in_each_pass(
    compare: Compare, computed: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_layers, "cache_bytes", lambda _: 16 * 1024)
    compare("bert", trial(TOP))
    assert 0 < len(set(computed)) < len(computed)


@pytest.mark.parametrize("name", ["_of_rows", "write"])
def test_without_memory_or_disk_all_layers_are_computed_again(
    name: str, compare: Compare, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device") if name == "write" else MemoryError("out of memory")

    monkeypatch.setattr(RowFile if name == "write" else FrozenLayers, name, fail)
    compare("bert", trial(HEAD))
    assert caplog.text.count("computed in every pass from now on") == 1


@pytest.mark.parametrize("values", [HEAD, TOP, LORA])
def test_a_trial_that_resumes_in_another_process_ends_with_the_same_bits(
    values: dict[str, Any], models: dict[str, Path], texts: Path, tmp_path: Path
) -> None:
    assignment = trial(values)
    wanted, _ = trained(opened(models["bert"], texts), assignment)
    paused, ended = trained(opened(models["bert"], texts, tmp_path), assignment, {500: Action.PAUSE})
    assert ended.ending is Ending.PAUSED
    later = trial(values, attempt=2)
    found, _ = trained(opened(models["bert"], texts, tmp_path), later)
    assert [one.validation for one in (*paused, *found)][-2:] == [one.validation for one in wanted]
    assert found[-1].train_loss == wanted[-1].train_loss


def test_another_worker_of_the_machine_computes_nothing_again(
    models: dict[str, Path], texts: Path, tmp_path: Path, computed: list[tuple[str, int]]
) -> None:
    wanted, _ = trained(opened(models["bert"], texts, tmp_path, shared=True), trial(TOP))
    assert computed
    computed.clear()
    found, _ = trained(opened(models["bert"], texts, tmp_path, shared=True), trial(TOP))
    assert not computed
    assert [one.validation for one in found] == [one.validation for one in wanted]


def test_on_a_cpu_the_cache_is_used_however_long_reading_takes(
    models: dict[str, Path],
    texts: Path,
    tmp_path: Path,
    computed: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that the last bits of a trial do not depend on the load of the machine."""
    monkeypatch.setattr(RowStates, "pays", False)
    trained(opened(models["bert"], texts, tmp_path, shared=True), trial(TOP))
    assert computed
    computed.clear()
    trained(opened(models["bert"], texts, tmp_path, shared=True), trial(TOP))
    assert not computed


def test_what_is_altered_in_the_file_is_computed_again(
    models: dict[str, Path], texts: Path, tmp_path: Path, computed: list[tuple[str, int]]
) -> None:
    wanted, _ = trained(opened(models["bert"], texts, tmp_path, shared=True), trial(HEAD))
    everything = set(computed)
    computed.clear()
    for path in (tmp_path / FOLDER).glob("*.rows"):
        content: NDArray[np.uint8] = np.fromfile(path, np.uint8)
        content[-16:] ^= 1
        content.tofile(path)
    found, _ = trained(opened(models["bert"], texts, tmp_path, shared=True), trial(HEAD))
    assert 0 < len(set(computed)) < len(everything)
    assert [one.validation for one in found] == [one.validation for one in wanted]
