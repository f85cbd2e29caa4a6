"""`hpo predict`: what held-out evaluation and transformers say of the same rows, all in their order, or a sentence."""

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import pipeline

from hpo.config.study_file import ModelConfig
from hpo.export.exported_file import Exported
from hpo.export.model_folder import train_into
from hpo.export.retraining import compute_of, open_trainer, study_and_splits
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.tasks.registry import TASKS
from tests.command_line import Hpo
from tests.models import WORDS

Rows = list[dict[str, str]]


@pytest.fixture(scope="session")
def trained_folder(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    train_into(folder, exported, compute_of(exported), "train", lambda _: None)
    return folder


def rows_of(text: str) -> Rows:
    return list(csv.DictReader(io.StringIO(text)))


def written(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def some_texts(count: int) -> list[str]:
    random = np.random.default_rng(3)
    return [" ".join(random.choice(WORDS, size=random.integers(1, 30))) for _ in range(count)]


def test_it_says_what_transformers_says_and_keeps_rows_and_columns(hpo: Hpo, trained_folder: Path) -> None:
    """Of texts of any length, cut and uncut, in the order of the file, with what stands beside them as it was."""
    given = [{"id": f"{row:03}", "text": text, "note": 'a "b", c\nd'} for row, text in enumerate(some_texts(60))]
    answer = hpo("predict", trained_folder, written(Path("in.csv"), given), "--output", "out.csv")
    assert answer.code == 0, answer.err
    assert "Wrote out.csv: 60 rows." in answer.err
    rows = rows_of(Path("out.csv").read_text())
    assert [{name: row[name] for name in ("id", "text", "note")} for row in rows] == given
    classify = pipeline("text-classification", model=str(trained_folder), tokenizer=str(trained_folder))
    for row, said in zip(rows, classify([row["text"] for row in rows], truncation=True, max_length=16), strict=True):
        assert row["prediction"] == said["label"]
        assert float(row["probability"]) == pytest.approx(said["score"], abs=1e-5)
    assert len({row["prediction"] for row in rows}) == 2


def test_it_says_what_held_out_evaluation_said_of_the_same_rows_and_weights(
    hpo: Hpo, exported: Exported, trained_folder: Path
) -> None:
    place = study_and_splits(exported, compute_of(exported))
    worker = open_trainer(exported, *place)
    context = worker._context
    model = TrialModel(context.model, context.task, exported.hyperparameters, seed=0)
    model.load(load_file(trained_folder / "model.safetensors"))
    said = context.predict(context.tokenized(exported.hyperparameters.max_length)["validation"])
    texts = place[1].validation.texts
    answer = hpo("predict", trained_folder, written(Path("in.csv"), [{"text": text} for text in texts]))
    rows = rows_of(answer.out)
    names = context.task.label_names
    assert [row["prediction"] for row in rows] == [names[label] for label in said.probabilities.argmax(axis=1)]
    assert [float(row["probability"]) for row in rows] == pytest.approx(said.probabilities.max(axis=1), abs=1e-9)


def test_pairs_are_read_from_two_columns(hpo: Hpo, trained_folder: Path) -> None:
    shutil.copytree(trained_folder, "model")
    config = json.loads(Path("model/config.json").read_text())
    config["hpo"]["text_pair_column"] = "second"
    Path("model/config.json").write_text(json.dumps(config))
    texts = some_texts(20)
    given = [{"text": text, "second": second} for text, second in zip(texts, reversed(texts), strict=True)]
    rows = rows_of(hpo("predict", "model", written(Path("in.csv"), given)).out)
    classify = pipeline("text-classification", model="model", tokenizer="model")
    for row, pair in zip(rows, given, strict=True):
        said = classify({"text": pair["text"], "text_pair": pair["second"]}, truncation=True, max_length=16)
        assert row["prediction"] == said["label"]
        assert float(row["probability"]) == pytest.approx(said["score"], abs=1e-5)
    written(Path("in.csv"), [{"text": "goal"}])
    assert "in.csv has no column 'second'" in hpo("predict", "model", "in.csv").err


def test_a_row_without_a_text_has_no_prediction(hpo: Hpo, trained_folder: Path) -> None:
    source = written(Path("in.csv"), [{"text": text, "n": row} for row, text in enumerate(("goal", "", " ", "bank"))])
    answer = hpo("predict", trained_folder, source)
    assert [bool(row["prediction"]) for row in rows_of(answer.out)] == [True, False, False, True]
    assert [bool(row["probability"]) for row in rows_of(answer.out)] == [True, False, False, True]
    assert "in.csv: rows without a text, which have no prediction: 2 (lines 3, 4)." in answer.err


def test_predictions_take_the_place_of_predictions_for_other_rows_but_of_nothing_else(
    hpo: Hpo, trained_folder: Path
) -> None:
    for rows in ([{"text": "goal", "id": 1}], [{"n": 1, "text": "goal"}]):
        answer = hpo("predict", trained_folder, written(Path("in.csv"), rows), "--output", "out.csv")
        assert answer.code == 0, answer.err
    assert Path("out.csv").read_text().startswith("n,text,prediction,probability\n1,goal,")
    answer = hpo("predict", trained_folder, "in.csv", "--output", "in.csv")
    assert answer.code == 2
    assert "it holds something else, which would be lost" in answer.err


def test_values_of_json_stay_what_they_are(hpo: Hpo, trained_folder: Path) -> None:
    rows = [
        {"text": "goal", "id": 7, "ok": True, "tags": ["a", "é"], "share": 0.5},
        {"text": "bank", "id": 8, "ok": None, "tags": {"a": 1}, "share": 1.0},
    ]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = rows_of(hpo("predict", trained_folder, "in.jsonl").out)
    kept = [{name: row[name] for name in ("id", "ok", "tags", "share")} for row in said]
    assert kept == [
        {"id": "7", "ok": "true", "tags": '["a", "é"]', "share": "0.5"},
        {"id": "8", "ok": "", "tags": '{"a": 1}', "share": "1.0"},
    ]


def test_columns_that_are_no_text_and_not_needed_are_left_out(hpo: Hpo, trained_folder: Path) -> None:
    images = [{"bytes": b"\x89PNG", "path": None}, None]
    table = {"image": images, "text": ["goal", "bank"], "raw": [b"\xff", b""], "id": [1, 2]}
    pq.write_table(pa.table(table), "in.parquet")
    answer = hpo("predict", trained_folder, "in.parquet")
    assert answer.code == 0, answer.err
    assert [(row["id"], bool(row["prediction"])) for row in rows_of(answer.out)] == [("1", True), ("2", True)]
    assert answer.out.startswith("text,id,prediction,probability\n")
    assert "Column 'raw' of in.parquet holds binary, and is left out." in answer.err
    assert "Column 'image' of in.parquet holds struct<" in answer.err
    needed = hpo("predict", trained_folder, "in.parquet", "data.text_column=image")
    assert needed.code == 2
    assert "Column 'image' of in.parquet holds struct<" in needed.err


def test_no_second_copy_of_the_weights_is_held(trained_folder: Path) -> None:
    task = TASKS["classification"].restored({"labels": ["money", "sport"]})
    model = load_model(ModelConfig(name=str(trained_folder)), task, torch.device("cpu"), trained=True)
    assert model._pretrained is None


def test_texts_may_lie_in_a_column_of_another_name(hpo: Hpo, trained_folder: Path) -> None:
    source = written(Path("in.csv"), [{"body": "goal team"}, {"body": "bank tax"}])
    refused = hpo("predict", trained_folder, source)
    assert refused.code == 2
    assert "in.csv has no column 'text', where the model's texts were; it has 'body'." in refused.err
    assert "Say which it is here: data.text_column=NAME." in refused.err
    named = hpo("predict", trained_folder, source, "data.text_column=body")
    assert named.code == 0, named.err
    assert len(rows_of(named.out)) == 2


def test_bytes_that_are_not_utf_8_are_replaced_or_refused(hpo: Hpo, trained_folder: Path) -> None:
    Path("in.csv").write_bytes(b"text,id\ngoal \xff team,\xff\n")
    answer = hpo("predict", trained_folder, "in.csv")
    assert answer.code == 0, answer.err
    assert "which were replaced" in answer.err
    assert rows_of(answer.out)[0]["text"] == "goal \ufffd team"
    strict = hpo("predict", trained_folder, "in.csv", "data.strict=true")
    assert strict.code == 2
    assert "in.csv, line 2, is not UTF-8" in strict.err


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (None, "No such file or directory"),
        ("", "in.csv is empty"),
        ("text\n", "names columns but holds no rows"),
        ("text,id\n,1\n ,2\n", "No row of in.csv has a text (column 'text')"),
        ("text,prediction\ngoal,x\n", "in.csv has a column 'prediction' already; rename it"),
        ("text,probability,prediction\ngoal,x,y\n", "has a column 'prediction' and a column 'probability' already"),
        ("text,text\ngoal,x\n", "more than one column 'text'"),
    ],
)
def test_a_file_that_cannot_be_predicted_is_told_in_a_sentence(
    hpo: Hpo, trained_folder: Path, lines: str | None, sentence: str
) -> None:
    if lines is not None:
        Path("in.csv").write_text(lines)
    answer = hpo("predict", trained_folder, "in.csv", "--output", "out.csv")
    assert (answer.code, answer.out) == (2, "")
    assert sentence in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not Path("out.csv").exists()


def test_what_is_no_model_of_hpo_is_told_in_a_sentence(hpo: Hpo, trained_folder: Path, model_folder: Path) -> None:
    written(Path("in.csv"), [{"text": "goal"}])
    Path("empty").mkdir()
    Path("torn").mkdir()
    Path("torn/config.json").write_text("{")
    Path("listed").mkdir()
    Path("listed/config.json").write_text('{"hpo": [1]}')
    for folder, sentence in (
        ("none", "There is no folder none; name one that hpo train --output wrote."),
        ("empty", "empty is not a model of hpo train"),
        (model_folder, f"{model_folder} is not a model of hpo train"),
        ("torn", "Cannot read torn/config.json"),
        ("listed", "listed is not a model of hpo train"),
    ):
        answer = hpo("predict", folder, "in.csv")
        assert (answer.code, answer.out) == (2, "")
        assert sentence in answer.err
        assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"task": "ranking"},
            "'task' cannot be 'ranking'. Known: classification, label_words, multi_label, regression.",
        ),
        ({"learned": {}}, "model lacks what its task, classification, has learned of the training rows: the file was"),
        ({"task": "regression", "learned": {"mean": 1, "sd": None}}, "model lacks what its task, regression, has"),
        ({"max_length": 64}, "max_length is 64, but the model reads at most 32 tokens; lower it to 32 or less."),
    ],
)
def test_what_another_version_has_learned_is_told_in_a_sentence(
    hpo: Hpo, trained_folder: Path, changed: dict[str, object], sentence: str
) -> None:
    shutil.copytree(trained_folder, "model")
    config = json.loads(Path("model/config.json").read_text())
    config["hpo"] |= changed
    Path("model/config.json").write_text(json.dumps(config))
    answer = hpo("predict", "model", written(Path("in.csv"), [{"text": "goal"}]))
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)
    assert sentence in answer.err


def test_a_folder_without_a_tokenizer_is_told_in_a_sentence(hpo: Hpo, trained_folder: Path) -> None:
    shutil.copytree(trained_folder, "model", ignore=shutil.ignore_patterns("tokenizer.json"))
    answer = hpo("predict", "model", written(Path("in.csv"), [{"text": "goal"}]))
    assert answer.err == "hpo: model holds no tokenizer; expected tokenizer.json beside the weights.\n"


def test_a_folder_that_lacks_its_head_is_refused_and_not_drawn_at_random(hpo: Hpo, trained_folder: Path) -> None:
    shutil.copytree(trained_folder, "model")
    weights = load_file("model/model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(kept, "model/model.safetensors", {"format": "pt"})
    written(Path("in.csv"), [{"text": "goal"}])
    answer = hpo("predict", "model", "in.csv")
    assert answer.code == 2
    assert "2 tensors are missing or of another shape, the first is classifier.bias" in answer.err


def test_what_is_no_number_is_refused_and_not_written(hpo: Hpo, trained_folder: Path) -> None:
    shutil.copytree(trained_folder, "model")
    weights = load_file("model/model.safetensors")
    save_file(
        {name: tensor * math.nan for name, tensor in weights.items()}, "model/model.safetensors", {"format": "pt"}
    )
    answer = hpo("predict", "model", written(Path("in.csv"), [{"text": "goal"}]))
    assert (answer.code, answer.out) == (2, "")
    assert "The model in model predicts what is no finite number" in answer.err


def test_nothing_of_the_users_is_written_over(hpo: Hpo, trained_folder: Path) -> None:
    source = written(Path("in.csv"), [{"text": "goal team"}])
    for output in (source, written(Path("other.csv"), [{"text": "mine"}])):
        before = output.read_text()
        answer = hpo("predict", trained_folder, source, "--output", output)
        assert answer.code == 2
        assert f"Cannot write {output}: it holds something else" in answer.err
        assert output.read_text() == before
    for _ in range(2):  # What it wrote itself it may write again.
        assert hpo("predict", trained_folder, source, "--output", "out.csv").code == 0
    assert hpo("predict", trained_folder, source, "--output", "no/out.csv").code == 2


def test_choices_and_overrides_that_are_none(hpo: Hpo, trained_folder: Path) -> None:
    source = written(Path("in.csv"), [{"text": "goal"}])
    assert "--device cannot be 'tpu'" in hpo("predict", trained_folder, source, "--device", "tpu").err
    assert "--precision cannot be 'int8'" in hpo("predict", trained_folder, source, "--precision", "int8").err
    assert (
        "Unknown key 'data' in 'data.train'. Known: data.delimiter, data.strict, data.text_column"
        in hpo("predict", trained_folder, source, "data.train=x.csv").err
    )
