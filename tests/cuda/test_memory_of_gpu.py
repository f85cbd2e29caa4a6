"""A GPU's memory that really runs out, at each place: the step stays the step it is, and the next trial finds room."""

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits, load_splits
from hpo.errors import ModelError
from hpo.memory import peak_memory_bytes, reset_peak
from hpo.messages import Ending
from hpo.training.worker import Worker, open_worker
from tests.cuda.conftest import GPU
from tests.models import save_tiny_bert, tiny_assignment, tiny_hyperparameters, tiny_study, trained, write_texts
from tests.training.out_of_memory import (
    assert_close,
    in_backward,
    in_evaluation,
    in_forward,
    in_training,
    weights_of,
)

pytestmark = pytest.mark.cuda

Place = Callable[..., AbstractContextManager[None]]

MOST_ROWS = 2
"""That have room, where a test says so."""
CONTEXT_BYTES = 3 * 2**30
"""More than CUDA's own share of a process, and what its libraries hold."""


def exhaust() -> None:
    """Ask for more than there is: what is raised is the allocator's own error."""
    torch.empty(2**50, dtype=torch.uint8, device=GPU)


CHOSEN = tiny_hyperparameters(dropout=0.0, learning_rate=1e-3)


@pytest.fixture
def expected(worker: Worker) -> dict[str, torch.Tensor]:
    """The weights after the trial that nothing befalls."""
    _, outcome = trained(worker, tiny_assignment(CHOSEN))
    assert outcome.ending is Ending.COMPLETED, outcome.reason
    return weights_of(worker)


@pytest.mark.parametrize("place", [in_forward, in_backward])
def test_a_step_that_has_no_room_is_taken_in_parts(
    place: Place, worker: Worker, expected: dict[str, torch.Tensor]
) -> None:
    with place(worker, in_training(MOST_ROWS), exhaust):
        _, outcome = trained(worker, tiny_assignment(CHOSEN, trial=1))
    assert (outcome.ending, outcome.micro_batch_size) == (Ending.COMPLETED, MOST_ROWS), outcome.reason
    assert_close(weights_of(worker), expected)


def test_an_evaluation_that_has_no_room_is_made_in_parts(worker: Worker, expected: dict[str, torch.Tensor]) -> None:
    with in_forward(worker, in_evaluation(MOST_ROWS), exhaust):
        _, outcome = trained(worker, tiny_assignment(CHOSEN, trial=1))
    assert (outcome.ending, outcome.micro_batch_size) == (Ending.COMPLETED, None), outcome.reason
    assert_close(weights_of(worker), expected)


@pytest.mark.parametrize("place", [in_forward, in_backward])
def test_a_trial_without_any_room_is_infeasible_and_leaves_the_next_alone(
    place: Place, worker: Worker, expected: dict[str, torch.Tensor]
) -> None:
    held = torch.cuda.memory_allocated()
    with place(worker, in_training(0), exhaust):
        _, outcome = trained(worker, tiny_assignment(CHOSEN, trial=1))
    assert outcome.ending is Ending.INFEASIBLE
    assert "Out of memory on cuda:0" in outcome.reason
    assert torch.cuda.memory_allocated() <= 1.1 * held + 2**20
    _, following = trained(worker, tiny_assignment(CHOSEN, trial=2))
    assert (following.ending, following.micro_batch_size) == (Ending.COMPLETED, None), "it begins with whole batches"
    assert_close(weights_of(worker), expected)


def test_an_optimizer_without_room_for_its_own_numbers_is_infeasible(
    worker: Worker, expected: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", lambda *_, **__: exhaust())
        _, outcome = trained(worker, tiny_assignment(CHOSEN, trial=1))
    assert outcome.ending is Ending.INFEASIBLE
    _, following = trained(worker, tiny_assignment(CHOSEN, trial=2))
    assert following.ending is Ending.COMPLETED
    assert_close(weights_of(worker), expected)


@pytest.fixture(scope="module")
def wide_study(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """A study whose activations are most of its memory: batches of 64 rows of 512 tokens."""
    folder = tmp_path_factory.mktemp("wide")
    model, texts = save_tiny_bert(folder / "bert", layers=8, longest=512), folder / "texts.csv"
    write_texts(texts, rows=400)
    lines = texts.read_text().splitlines()
    long = [f"{' '.join(line.rpartition(',')[0].split() * 60)},{line.rpartition(',')[2]}" for line in lines[1:]]
    texts.write_text("\n".join([lines[0], *long]))
    return tiny_study(model, texts, compute={"device": "cuda", "precision": "fp32", "threads": 1})


def test_where_less_memory_is_allowed_the_same_step_is_taken_in_as_many_parts_as_needed(
    wide_study: StudyConfig, tmp_path: Path
) -> None:
    worker = open_worker(wide_study, load_splits(wide_study.data, wide_study.seed), tmp_path / "files")
    chosen = tiny_hyperparameters(dropout=0.0, learning_rate=1e-3, batch_size=64, epochs=1, max_length=512)
    reset_peak(GPU)
    _, whole = trained(worker, tiny_assignment(chosen, maximum_passes=1))
    assert (whole.ending, whole.micro_batch_size) == (Ending.COMPLETED, None), whole.reason
    expected, peak = weights_of(worker), peak_memory_bytes(GPU)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * peak / torch.cuda.get_device_properties(GPU).total_memory)
    _, capped = trained(worker, tiny_assignment(chosen, maximum_passes=1, trial=1))
    assert capped.ending is Ending.COMPLETED, capped.reason
    assert capped.micro_batch_size in (8, 16, 32)
    assert capped.peak_memory_bytes <= 0.6 * peak
    assert_close(weights_of(worker), expected)


def test_a_model_without_room_is_refused_in_a_sentence(study: StudyConfig, splits: Splits) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-9)
    with pytest.raises(ModelError, match="do not fit into what is free of cuda:0"):
        open_worker(study, splits)


def used_bytes() -> int:
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]) * 2**20


def test_the_peak_of_a_trial_is_in_what_nvidia_smi_says(worker: Worker) -> None:
    by_others = used_bytes() - torch.cuda.memory_reserved()
    reset_peak(GPU)
    _, outcome = trained(worker, tiny_assignment(CHOSEN))
    content = torch.ones(2**30, dtype=torch.uint8, device=GPU)
    peak, reserved, used = peak_memory_bytes(GPU), torch.cuda.memory_reserved(), used_bytes()
    assert outcome.peak_memory_bytes <= peak
    assert content.nbytes <= reserved <= peak
    assert by_others + content.nbytes - CONTEXT_BYTES <= used <= by_others + peak + CONTEXT_BYTES
