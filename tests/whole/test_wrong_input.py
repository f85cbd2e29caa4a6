"""Wrong input on the command line: each is one sentence and an exit code, without a traceback or a secret."""

import json
import shutil
from pathlib import Path

import pytest

from hpo.config.parsing import write_yaml
from tests.command_line import Answer, Hpo


def refused(answer: Answer, code: int, word: str) -> None:
    """The command ended with `code` and one sentence that has `word` in it, not with a traceback."""
    assert answer.code == code, answer
    assert answer.err.startswith("hpo: ")
    assert answer.err.count("\n") == 1, answer.err
    assert word in answer.err, answer.err


def write(text: str | bytes, name: str = "texts.csv") -> Path:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Path(name)


ROWS = "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(20))
GOOD = "text,label\n" + ROWS
WRONG_SPACES = {
    "unknown parameter": ({"learning_rat": {"value": 1}}, "learning_rate"),
    "minimum above maximum": ({"learning_rate": {"min": 1.0, "max": 0.5}}, "0.5"),
    "logarithm of zero": (
        {"l2_strength": {"distribution": "log_uniform_values", "min": 0.0, "max": 1.0}},
        "above 0",
    ),
    "condition on an unknown parameter": (
        {"momentum": {"min": 0.1, "max": 0.9, "when": {"optimiser": ["sgd"]}}},
        "optimiser",
    ),
    "conditions in a circle": (
        {
            "optimizer": {"values": ["sgd", "adamw"], "when": {"schedule": ["step"]}},
            "schedule": {"values": ["step", "linear"], "when": {"optimizer": ["sgd"]}},
        },
        "circle",
    ),
}


@pytest.mark.parametrize("name", WRONG_SPACES)
def test_a_wrong_space_is_a_sentence(hpo: Hpo, name: str) -> None:
    space, word = WRONG_SPACES[name]
    write(write_yaml({"parameters": space}), "space.yaml")
    refused(hpo("space", "check", "space.yaml"), 2, word)


WRONG_TEXTS: dict[str, tuple[str, str | bytes, str]] = {
    "no such column": ("texts.csv", "txt,label\n" + ROWS, "txt"),
    "one class": ("texts.csv", "text,label\n" + "x,a\n" * 9, "two labels"),
    "broken JSONL": ("texts.jsonl", '{"text": "x", "label": "a"}\n{"text": \n', "line 2"),
    "unknown ending": ("texts.xlsx", "x", ".jsonl"),
    "header alone": ("texts.csv", "text,label\n", "texts.csv"),
    "not UTF-8": ("texts.csv", GOOD.encode() + b"caf\xe9,a\n", "UTF-8"),
}


@pytest.mark.parametrize("name", WRONG_TEXTS)
def test_wrong_texts_are_a_sentence(hpo: Hpo, model_folder: Path, name: str) -> None:
    file, content, word = WRONG_TEXTS[name]
    path = write(content, file)
    columns = ("--text-column", "text") if name == "no such column" else ()
    refused(hpo("run", "--model", model_folder, "--train", path, "--strict", *columns), 2, word)


def test_a_class_without_validation_rows_is_a_sentence(hpo: Hpo, model_folder: Path) -> None:
    train, validation = write(GOOD), write("text,label\nx,a\ny,a\n", "validation.csv")
    refused(hpo("run", "--model", model_folder, "--train", train, "--validation", validation), 2, "'b'")


WRONG_RUNS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no such file": (("--train", "missing.csv"), 2, "missing.csv"),
    "a store of an unsupported kind": (("--train", "texts.csv", "--store", "mysql://host/x"), 3, "postgresql"),
    "a store that does not answer": (
        ("--train", "texts.csv", "--store", "postgresql+psycopg://u:secret@127.0.0.1:9/x"), 3, "127.0.0.1",
    ),
    "a store in a folder that is not there": (("--train", "texts.csv", "--store", "sqlite:///no/hpo.db"), 3, "no"),
    "no such space": (("--train", "texts.csv", "--space", "encodr"), 2, "encoder"),
    "an unknown key": (("--train", "texts.csv", "budget.trails=3"), 2, "trials"),
    "a value of the wrong kind": (("--train", "texts.csv", "budget.trials=many"), 2, "budget.trials"),
    "no such runner": (("--train", "texts.csv", "--runner", "cloud"), 2, "inline"),
    "several workers in one process": (
        ("--train", "texts.csv", "--runner", "inline", "--workers", "2"), 2, "2 are requested by compute.workers",
    ),
    "several ranks in one process": (
        ("--train", "texts.csv", "--runner", "inline", "compute.ranks=2"), 2, "choose processes or ray_tune",
    ),
    "an output that is a folder": (("--train", "texts.csv", "--output", "."), 2, "it is a folder"),
    "an earlier study that is not there": (
        ("--train", "texts.csv", "--warm-start", "monday"), 2, "warm_start cannot take over monday: There is no store",
    ),
    "an earlier study of a store that is not there": (
        ("--train", "texts.csv", "--warm-start", "old.db#monday"), 2, "There is no store at",
    ),
    "two study files": (("one.yaml", "two.yaml"), 2, "one study file"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_RUNS)
def test_a_wrong_command_is_a_sentence(hpo: Hpo, model_folder: Path, name: str) -> None:
    words, code, expected = WRONG_RUNS[name]
    write(GOOD)
    answer = hpo("run", "--model", model_folder, *words)
    refused(answer, code, expected)
    assert "secret" not in answer.out + answer.err


ALL_WRONG = {
    "budget.trial=3": "unknown key 'budget.trial'. Did you mean 'budget.trials'?",
    "serch.sampler=tpe": "Unknown key 'serch' in 'serch.sampler'.",
    "search.percentile=-1": "'search.percentile' is -1",
    "data.train=missing.csv": "Cannot read 'missing.csv': No such file or directory. In its folder there is texts.csv.",
    "data.validation=text.csv": "Cannot read 'text.csv': No such file or directory. Did you mean 'texts.csv'?",
    "space.epochs.value=0": "'epochs' is 0",
    "budget.until='2020-01-01 07:30'": "2020-01-01 07:30",
    "warm_start=monday": "warm_start cannot take over monday: ",
    "model.name=empty": "The folder empty holds no config.json",
    "task.metric=rougeL": "Classification has no metric 'rougeL'.",
    "compute.device=gpu": "compute.device is gpu (cuda), but torch sees no GPU",
    "notify=nowhere": "notify",
}


def test_all_mistakes_that_can_be_known_before_the_data_is_read_are_told_at_once(
    hpo: Hpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(GOOD)
    Path("empty").mkdir()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    answer = hpo("run", "space=encoder", *ALL_WRONG, "--output", ".")
    assert (answer.code, answer.out) == (2, "")
    assert [told for told in (*ALL_WRONG.values(), "it is a folder") if told not in answer.err] == []
    assert answer.err.startswith(f"hpo: There are {len(ALL_WRONG) + 1} mistakes\n")
    assert answer.err.count("\n") == len(ALL_WRONG) + 2


def test_a_space_with_a_mistake_is_told_of_once(hpo: Hpo, model_folder: Path) -> None:
    space = {"learning_rate": {"min": 1.0, "max": 1e-5}}
    command = ("run", "--model", model_folder, "--train", write(GOOD), f"space={json.dumps(space)}")
    refused(hpo(*command), 2, "swap them: `min: 1e-05` and `max: 1`")


def test_a_model_folder_without_weights_is_a_sentence(hpo: Hpo, model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model_folder.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    refused(hpo("run", "--model", folder, "--train", write(GOOD)), 2, "weights")


def test_the_demo_without_its_extra_says_how_to_get_it(hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.data.demo.find_spec", lambda _name: None)
    refused(hpo("demo"), 2, "llm-hpo[demo]")


def test_no_word_of_a_wrong_store_is_repeated(hpo: Hpo, model_folder: Path) -> None:
    command = ("run", "--model", model_folder, "--train", write(GOOD))
    answer = hpo(*command, "store={url: [postgresql://u:secret@h/db]}")
    refused(answer, 2, "store")
    assert "secret" not in answer.err


WRONG_LORA: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "a method that there is not": (("space={method: {value: dora}}",), ("dora: it is not there; write `lora`",)),
    "targets that there are not": (
        ("space={method: {value: lora}, max_length: {value: 16}, lora_targets: {value: 'nope'}}",),
        ("lora_targets names nope, but", "dense, key, query, value"),
    ),
    "a torn GGUF file": (
        ("model.gguf_file=torn.gguf", "space={method: {value: lora}, max_length: {value: 16}}"),
        ("cannot be loaded", "; see whether torn.gguf is whole."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_LORA)
def test_what_lora_cannot_do_is_told_at_once_without_a_traceback(
    hpo: Hpo, model_folder: Path, tmp_path: Path, name: str
) -> None:
    words, told = WRONG_LORA[name]
    model = shutil.copytree(model_folder, tmp_path / "model")
    (model / "torn.gguf").write_bytes(b"GGUF nothing")
    answer = hpo("run", "--model", model, "--train", write(GOOD), "compute.threads=1", *words)
    assert answer.code == 2, answer
    assert answer.err.startswith("hpo: ")
    assert all(part in answer.err for part in told), answer.err
