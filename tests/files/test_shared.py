"""Weights and tokens that all worker processes hold in memory once: mapped files that are never believed unseen."""

import hashlib
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.files.shared import FILE, FOLDER, SharedFiles
from hpo.model.pretrained import load_model
from hpo.tasks.classification import Classification
from hpo.training.worker import Worker, open_worker
from tests.models import tiny_assignment, tiny_hyperparameters, tiny_study, trained

CPU = torch.device("cpu")
TENSORS = {
    "numbers": torch.arange(1000, dtype=torch.float32).reshape(10, 100),
    "halves": torch.ones(3, dtype=torch.bfloat16),
    "tokens": torch.arange(5, dtype=torch.int32),
    "none": torch.zeros(0, dtype=torch.int8),
    "one": torch.tensor(True),
}


def never() -> dict[str, torch.Tensor]:
    raise AssertionError("it is there already")


def same(found, expected=TENSORS) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


def is_mapped(address: int, folder: Path) -> bool:
    """Return whether a file of `folder` is mapped at this address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if begin <= address < end:
            return str(folder) in line
    return False


def test_what_one_made_the_others_map(tmp_path: Path) -> None:
    first = SharedFiles(tmp_path).tensors("weights", ["a", 1], lambda: TENSORS)
    second = SharedFiles(tmp_path).tensors("weights", ["a", 1], never)
    assert same(first)
    assert same(second)
    assert is_mapped(first["numbers"].data_ptr(), tmp_path)
    assert is_mapped(second["numbers"].data_ptr(), tmp_path)
    assert not is_mapped(TENSORS["numbers"].data_ptr(), tmp_path)


def test_what_was_made_of_something_else_is_another_file(tmp_path: Path) -> None:
    shared = SharedFiles(tmp_path)
    shared.tensors("weights", ["a"], lambda: TENSORS)
    other = {"numbers": torch.zeros(2)}
    assert same(shared.tensors("weights", ["b"], lambda: other), other)
    assert same(shared.tensors("weights", ["a"], never))
    assert len(list(tmp_path.glob(f"weights-*/{FILE}"))) == 2


def foreign(path: Path) -> None:
    save_file({"numbers": torch.zeros(10, 100)}, path, {"origin": "another"})


def altered(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([*content[:-1], content[-1] ^ 1]))


def of_another_shape(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"[10,100]", b"[100,10]"))


DAMAGES: list[Callable[[Path], object]] = [
    foreign,
    altered,
    of_another_shape,
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"not tensors"),
    lambda path: path.write_bytes(bytes(path.stat().st_size)),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_what_was_written_is_written_again(damage, tmp_path: Path) -> None:
    SharedFiles(tmp_path).tensors("weights", [], lambda: TENSORS)
    (path,) = tmp_path.glob(f"*/{FILE}")
    damage(path)
    assert same(SharedFiles(tmp_path).tensors("weights", [], lambda: TENSORS))
    assert same(SharedFiles(tmp_path).tensors("weights", [], never))


def test_who_comes_while_it_is_made_waits_for_it(tmp_path: Path) -> None:
    found = []
    other = Thread(target=lambda: found.append(SharedFiles(tmp_path).tensors("weights", [], never)))

    def make() -> dict[str, torch.Tensor]:
        other.start()
        # Where nobody waited, the other would end here: it would make its own.
        other.join(0.2)
        assert other.is_alive()
        return TENSORS

    SharedFiles(tmp_path).tensors("weights", [], make)
    other.join()
    assert same(found[0])


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_each_keeps_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with largest_file(100):
        found = SharedFiles(tmp_path).tensors("weights", [], lambda: TENSORS)
    assert found is TENSORS
    assert "is not shared, and each worker process holds its own in memory: " in caplog.text
    assert [path.name for path in tmp_path.glob("*/*")] == ["lock"]
    assert same(SharedFiles(tmp_path).tensors("weights", [], lambda: TENSORS))
    SharedFiles(tmp_path).tensors("weights", [], never)


def test_a_folder_that_cannot_be_made_is_no_end_of_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    assert SharedFiles(tmp_path / "file").tensors("weights", [], lambda: TENSORS) is TENSORS
    assert "is not shared" in caplog.text


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    shared = SharedFiles(tmp_path)
    shared.tensors("weights", [], lambda: TENSORS)
    (path,) = tmp_path.glob(f"*/{FILE}")
    path.unlink()
    path.with_name(f"{FILE}.123.part").write_bytes(b"half")
    shared.tensors("weights", [], lambda: TENSORS)
    assert {path.name for path in path.parent.iterdir()} == {FILE, "lock"}


def test_arrays_are_read_only(tmp_path: Path) -> None:
    found = SharedFiles(tmp_path).arrays("tokens", [], lambda: {"ids": np.arange(5, dtype=np.int32)})
    assert found["ids"].tolist() == [0, 1, 2, 3, 4]
    assert found["ids"].dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        found["ids"][0] = 1


def opened(config: StudyConfig, files: Path, *, shared: bool) -> Worker:
    folds = config.evaluation.folds
    return open_worker(config, load_splits(config.data, config.seed, folds=folds), files, shared=shared)


def digest(worker: Worker) -> str:
    found = hashlib.sha256()
    for _, tensor in sorted(worker._context.model.network.state_dict().items()):
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    "values",
    [
        {"dropout": 0.2},
        {"token_masking": 0.3, "word_swap": 0.2},
        {"regularize_towards": "pretrained", "l1_strength": 1e-3},
        {"method": "top_layers", "trained_layers": 1, "kept_layers": 1},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_trial_over_shared_files_has_the_same_bits(values, tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    config = tiny_study(tiny_bert, texts)
    assignment = tiny_assignment(tiny_hyperparameters(**values))
    alone = opened(config, tmp_path / "alone", shared=False)
    expected, _ = trained(alone, assignment)
    # The first writes the files, the second maps them.
    for _ in range(2):
        worker = opened(config, tmp_path / "all", shared=True)
        reports, _ = trained(worker, assignment)
        assert [report.validation for report in reports] == [report.validation for report in expected]
        assert digest(worker) == digest(alone)
    assert not (tmp_path / "alone" / FOLDER).exists()


def test_a_worker_tokenizes_nothing_that_another_has(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (opened(study, tmp_path, shared=True) for _ in range(2))
    expected = first._context.tokenized(8)
    monkeypatch.setattr("hpo.training.context.tokenize", never)
    found = second._context.tokenized(8)
    for split in ("train", "validation"):
        one, other = expected[split], found[split]
        assert np.array_equal(one.tokens.ids, other.tokens.ids)
        assert np.array_equal(one.tokens.lengths, other.tokens.lengths)
        assert np.array_equal(one.tokens.types, other.tokens.types)
        assert np.array_equal(one.targets, other.targets)
        assert is_mapped(other.tokens.ids.ctypes.data, tmp_path)


def test_training_changes_nothing_of_the_files(study: StudyConfig, tmp_path: Path) -> None:
    worker = opened(study, tmp_path, shared=True)
    model = worker._context.model
    assert all(is_mapped(tensor.data_ptr(), tmp_path) for tensor in model.hold_pretrained().values())
    before = {path: path.read_bytes() for path in (tmp_path / FOLDER).glob(f"weights-*/{FILE}")}
    assert len(before) == 1
    trained(worker, tiny_assignment())
    assert all(path.read_bytes() == content for path, content in before.items())
    model.reset(0)
    held = load_file(next(iter(before)))
    assert all(torch.equal(model.network.state_dict()[name], tensor) for name, tensor in held.items())
    assert not held.keys() & model.fresh


def test_a_model_folder_that_has_changed_is_not_taken_from_an_older_file(
    task: Classification, tiny_bert: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    config = tiny_study(folder, tmp_path).model
    shared = SharedFiles(tmp_path / FOLDER)
    load_model(config, task, CPU, shared)
    # Copies: some versions of safetensors map the file into memory.
    weights = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    model = load_model(config, task, CPU, shared)
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(model.pretrained({name: None})[name], weights["embeddings.word_embeddings.weight"] + 1)


def test_another_tokenizer_in_the_same_folder_gives_other_tokens(texts: Path, tiny_bert: Path, tmp_path: Path) -> None:
    config = tiny_study(shutil.copytree(tiny_bert, tmp_path / "model"), texts)
    before = opened(config, tmp_path, shared=True)._context.tokenized(16)["train"].tokens
    path = tmp_path / "model" / "tokenizer.json"
    path.write_text(path.read_text().replace('"goal"', '"GOAL"').replace('"team"', '"goal"'))
    after = opened(config, tmp_path, shared=True)._context.tokenized(16)["train"].tokens
    assert not np.array_equal(before.ids, after.ids)
