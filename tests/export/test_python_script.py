"""The script that is exported trains what hpo trains: the same rows, the same steps, the same weights to rounding."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ConfirmationConfig, EvaluationConfig
from hpo.config.tasks import TASK_FACTS
from hpo.data.labels import TARGET_TYPES
from hpo.data.splits import splits_of
from hpo.errors import ConfigurationError
from hpo.export.exported_file import Exported
from hpo.export.model_folder import train_into
from hpo.export.python_script import FIELDS, content_of_script, inlined, script
from hpo.export.retraining import compute_of
from hpo.training import gradients
from tests.models import assert_trained_alike, write_texts
from tests.scripts import of_texts, with_label_sets, written


def with_values(exported: Exported, **values: Any) -> Exported:
    usual = {"epochs": 2, "max_length": 16, "batch_size": 16, "learning_rate": 1e-2}
    made = Hyperparameters.model_validate(usual | values)
    return exported.model_copy(update={"hyperparameters": made})


RUNS: dict[str, dict[str, Any]] = {
    "as most are": {},
    "sgd": {"optimizer": "sgd", "schedule": "constant", "max_grad_norm": None},
    "momentum": {"optimizer": "momentum", "l2_form": "decoupled", "schedule": "cosine", "dropout": 0.2},
    "nesterov": {"optimizer": "nesterov", "schedule": "cosine_restarts", "label_smoothing": 0.1},
    "adam": {"optimizer": "adam", "l2_strength": 0.1, "schedule": "step", "class_weights": "balanced"},
    "adamw": {"l2_strength": 0.1, "regularize_towards": "pretrained", "layerwise_rate_decay": 0.7, "head_rate": 3.0},
    "nadam": {"optimizer": "nadam", "schedule": "one_cycle", "data_fraction": 0.6, "class_weights": "balanced"},
    "radam": {"optimizer": "radam", "l1_strength": 1e-3, "schedule": "polynomial"},
    "adamax": {"optimizer": "adamax", "l1_strength": 1e-3, "l1_form": "penalty", "schedule": "exponential"},
    "adagrad": {"optimizer": "adagrad", "schedule": "inverse_sqrt", "method": "top_layers", "trained_layers": 1},
    "adadelta": {"optimizer": "adadelta", "learning_rate": 1.0, "schedule": "warmup_stable_decay"},
    "adafactor": {"optimizer": "adafactor", "early_stopping_patience": 1, "epochs": 4},
    "rmsprop": {"optimizer": "rmsprop", "learning_rate": 1e-3, "momentum": 0.5, "method": "head", "head_scale": 0.1},
    "lion": {"optimizer": "lion", "learning_rate": 1e-3, "max_grad_norm": 0.5},
    "schedule-free": {"optimizer": "schedule_free_adamw", "l2_strength": 0.1, "schedule": "constant"},
    "muon": {"optimizer": "muon", "schedule": "reduce_on_plateau", "plateau_patience": 0, "epochs": 4},
    "one layer": {"kept_layers": 1, "attention_dropout": 0.3},
    "all of L1 and L2": {
        "l1_strength": 1e-3, "l2_strength": 0.1, "l2_form": "coupled", "regularize_towards": "pretrained",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_it_trains_the_model_that_hpo_trains(
    exported: Exported,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So that batches of these short texts go through in parts.
    monkeypatch.setitem(gradients.PASS_TOKENS, "cpu", 4)
    trains_the_same(with_values(exported, **RUNS[name]), tmp_path, capsys)


def trains_the_same(chosen: Exported, folder: Path, capsys: pytest.CaptureFixture[str], rtol: float = 1e-4) -> None:
    """Prove that script and `hpo train` give the same scores, weights and facts of the model."""
    said: list[str] = []
    train_into(folder / "ours", chosen, compute_of(chosen), "train", said.append)
    module = written(chosen, folder)
    module.PASS_TOKENS = gradients.PASS_TOKENS
    capsys.readouterr()
    module.main(["--output", str(folder / "theirs")])
    out, err = capsys.readouterr()
    assert [line.rpartition(" ")[2] for line in err.splitlines() if line.startswith("step ")] == [
        sentence.rpartition(" ")[2] for sentence in said if sentence.startswith("epoch ")
    ]
    assert json.loads(out.splitlines()[-1])["folder"] == str(folder / "theirs")
    ours, theirs = (load_file(folder / name / "model.safetensors") for name in ("ours", "theirs"))
    assert_trained_alike(theirs, ours, Path(chosen.model.name), rtol=rtol)
    of_ours, of_theirs = (json.loads((folder / name / "config.json").read_text())["hpo"] for name in ("ours", "theirs"))
    thresholds = [told["learned"].pop("thresholds", []) for told in (of_ours, of_theirs)]
    assert of_theirs == of_ours
    assert thresholds[1] == pytest.approx(thresholds[0], abs=1e-4)


SEVERAL: dict[str, dict[str, Any]] = {
    "column": {},
    "columns": {"thresholds": "per_label"},
    "lists": {"metric": "macro_f1"},
    "column of many": {"rows": 1500, "data": {"validation_fraction": 0.4, "label_separator": "|"}},
}
OF_SEVERAL: dict[str, dict[str, Any]] = {
    "columns": {"label_smoothing": 0.1, "class_weights": "balanced"},
    "lists": {"data_fraction": 0.6},
    "column of many": {"epochs": 1},
}


@pytest.mark.parametrize("form", SEVERAL)
def test_it_trains_several_labels_a_text_as_hpo_does(
    exported: Exported, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the three forms; thresholds fitted to training rows or, where others are kept, to validation."""
    keeping = exported.model_copy(update={"confirmation": ConfirmationConfig(validation_share=0.5)})
    chosen = with_label_sets(keeping, tmp_path, form.partition(" ")[0], **SEVERAL[form])
    splits = splits_of(chosen.study_config(compute_of(chosen)))
    assert (splits.confirmation is not None) is (form == "column of many")
    # A larger epsilon, so that rounding is not taken for a gradient where there is none, as of a key's bias.
    trains_the_same(with_values(chosen, epsilon=1e-4, **OF_SEVERAL.get(form, {})), tmp_path, capsys, rtol=1e-3)


def test_with_folds_it_trains_on_all_rows_to_the_end(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folded = of_texts(exported, evaluation=EvaluationConfig(folds=3))
    trains_the_same(with_values(folded), tmp_path, capsys)


def test_bf16_is_computed_as_hpo_does(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    halved = exported.model_copy(update={"measurements": {"precision": "bf16"}})
    trains_the_same(with_values(halved, optimizer="sgd", learning_rate=0.1), tmp_path, capsys, rtol=1e-3)


@pytest.mark.parametrize(
    "kind",
    [
        "validation made",
        "test made too",
        "files",
        "jsonl",
        "pairs",
        "groups",
        "some kept unseen",
        "dropped",
        "merged",
        "headed",
    ],
)
def test_it_has_the_rows_of_the_search(exported: Exported, texts_file: Path, tmp_path: Path, kind: str) -> None:
    lines = texts_file.read_text().splitlines()
    train = tmp_path / "train.csv"
    # Texts that stand twice, some with other spacing, rows without a text or a label, bytes that are no text.
    odd = [f"  {lines[1]}", lines[3], ",sport", "the last team,", "a b\udce9\udcff\0d goal,sport"]
    train.write_text("\n".join([*lines, *odd]) + "\n", errors="surrogateescape")
    data: dict[str, Any] = {"train": str(train), "test_fraction": 0.0}
    if kind == "test made too":
        data["test_fraction"] = 0.15
    if kind == "files":
        for name, part in (("validation", lines[1:60]), ("test", lines[40:90])):
            (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *part]) + "\n")
            data[name] = str(tmp_path / f"{name}.csv")
    if kind in ("jsonl", "pairs"):
        records: list[dict[str, Any]] = [
            dict(zip(("text", "label"), line.rsplit(",", 1), strict=True)) for line in lines[1:]
        ]
        for number, record in enumerate(records):
            record["label"] = 1.0 if record["label"] == "sport" else 0
            record["other"] = number % 7 or None
        data["train"] = str(tmp_path / "train.jsonl")
        data["text_pair_column"] = "other" if kind == "pairs" else None
        Path(data["train"]).write_text("\n".join(map(json.dumps, records)) + "\n")
    if kind == "groups":
        grouped = [f"{line},{number // 3}" for number, line in enumerate(lines[1:])]
        train.write_text("\n".join([f"{lines[0]},who", *grouped]) + "\n")
        data |= {"group_column": "who", "test_fraction": 0.15}
    if kind in ("dropped", "merged"):
        train.write_text("\n".join([lines[0], *(f"{line} |rare {n}" for n, line in enumerate(lines[1:4])), *lines[1:]]))
        content = train.read_text().replace(",sport |rare", ",rare").replace(",money |rare", ",rare")
        train.write_text(content.replace(",", "|"))
        data |= {"rare_labels": {"dropped": "drop", "merged": "merge"}[kind], "delimiter": "|"}
    if kind == "headed":
        # The header holds more semicolons than commas, and the rows none.
        train.write_text("\n".join([f"{lines[0]},by;whom;and;when", *(f"{line},me" for line in lines[1:])]))
    if kind == "some kept unseen":
        many = write_texts(tmp_path / "many.csv", rows=1500)
        rows = many.read_text().splitlines()
        # Of a text that stands several times in validation the search sees none where one is kept from it.
        many.write_text("\n".join([*rows, *rows[1:200]]) + "\n")
        data |= {"train": str(many), "validation_fraction": 0.4}
    moved = exported.data.model_copy(update=data)
    keeping = exported.model_copy(update={"data": moved, "confirmation": ConfirmationConfig(validation_share=0.4)})
    splits = splits_of(keeping.study_config(compute_of(exported)))
    assert (splits.confirmation is not None) is (kind == "some kept unseen")
    chosen = keeping.model_copy(update={"data": moved.model_copy(update={"fingerprint": splits.fingerprint})})
    module = written(chosen, tmp_path)
    found = module.rows_of(module.configuration([])[0])
    for ours, theirs in ((splits.train, found.train), (splits.validation, found.validation)):
        assert (theirs.texts, theirs.pairs, theirs.labels) == (ours.texts, ours.pairs, ours.labels)
    assert found.label_names == splits.label_names


def test_texts_that_are_others_or_not_there_are_refused(exported: Exported, tmp_path: Path) -> None:
    module, broken = written(exported, tmp_path), tmp_path / "broken.jsonl"
    different = "\n".join(json.dumps({"text": f"a goal {row}", "label": row % 2}) for row in range(60))
    for content, said in (
        (different, "not those of the search"),
        ("{'text': 1}", r"broken\.jsonl, line 1, is not valid JSON: expecting property name"),
        ("\n[1]", r"broken\.jsonl, line 2, must be one JSON object"),
        ('{"what": 1, "when": 2, "label": 3}', "Cannot tell which column of .* holds the text"),
    ):
        broken.write_text(content)
        with pytest.raises(SystemExit, match=said):
            module.main(["--train", str(broken), "--output", str(tmp_path / "model")])
    with pytest.raises(SystemExit, match=r"There is no file .*none\.csv, .*; say --train FILE"):
        module.main(["--train", str(tmp_path / "none.csv"), "--output", str(tmp_path / "model")])


def test_a_batch_in_parts_gives_the_same_weights_and_nothing_is_written_over(
    exported: Exported, tmp_path: Path
) -> None:
    chosen = with_values(exported, dropout=0.0)
    module = written(chosen, tmp_path)
    for folder, more in (("whole", []), ("parts", ["--micro-batch-size", "3"])):
        module.main(["--output", str(tmp_path / folder), *more])
    whole, parts = (load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "parts"))
    for weight in whole:
        torch.testing.assert_close(parts[weight], whole[weight], rtol=1e-3, atol=1e-5)
    with pytest.raises(SystemExit, match="whole is there already, and what is in it would be lost"):
        module.main(["--output", str(tmp_path / "whole")])


def test_several_processes_are_refused(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = written(exported, tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="Several processes would each take whole batches: start it once"):
        module.main(["--output", str(tmp_path / "model")])


def test_a_script_alone_says_what_it_lacks(exported: Exported, tmp_path: Path) -> None:
    module = written(exported, tmp_path)
    (tmp_path / "train.json").unlink()
    with pytest.raises(SystemExit, match=r"There is no .*train\.json, which hpo export wrote beside this script"):
        module.main([])


def test_another_configuration_than_its_own_is_refused(exported: Exported, tmp_path: Path) -> None:
    module = written(with_values(exported), tmp_path)
    other = content_of_script(with_values(exported, optimizer="sgd", schedule="cosine"))
    (tmp_path / "train.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="This script has no sgd and no cosine: write one with hpo export"):
        module.main(["--output", str(tmp_path / "model")])


@pytest.mark.parametrize("task", TARGET_TYPES)
def test_it_is_a_plain_file_of_what_it_needs(exported: Exported, task: str, tmp_path: Path) -> None:
    chosen = exported.model_copy(update={"task": exported.task.model_copy(update={"name": task})})
    text = script(with_values(chosen, optimizer="muon"))
    path = tmp_path / "train.py"
    path.write_text(text)
    subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", path], check=True)
    subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", "--select=I", path], check=True)
    assert not re.findall(r"^ *(?:from|import) hpo\b", text, re.MULTILINE)
    assert "Plateau" in text
    assert "def linear" in text
    for left_out in ("def cosine", "def adagrad", "baselines", "difflib"):
        assert left_out not in text


@pytest.mark.parametrize("task", TARGET_TYPES)
def test_every_hyperparameter_is_decided_upon(task: str) -> None:
    """Read by the script, where it holds all of hpo that it may, or refused."""
    text = inlined("hpo.export.python_script_template", {"TASKS": task})
    compile(text, "train.py", "exec")
    # Of LoRA it takes nothing.
    fields = [name for name in Hyperparameters.model_fields if not name.startswith("lora_")]
    unread = [name for name in fields if not re.search(rf"\.{name}\b|\"{name}\"", text)]
    assert set(unread) == FIELDS.keys() | TASK_FACTS[task].fixed.keys()


@pytest.mark.parametrize("name", FIELDS)
def test_what_it_cannot_do_is_refused_by_name(exported: Exported, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}.*\(nearest: .+\)"):
        content_of_script(with_values(exported, **{name: 0.1}))


def test_lora_is_refused_once(exported: Exported) -> None:
    with pytest.raises(ConfigurationError, match=r"method lora \(nearest: --format peft\)"):
        content_of_script(with_values(exported, method="lora"))


def test_model_and_texts_that_it_cannot_take_are_refused_at_once(exported: Exported) -> None:
    strange = exported.model_copy(
        update={
            "data": exported.data.model_copy(update={"train": "part-*.csv", "test": "hf://a/b"}),
            "model": exported.model.model_copy(update={"gguf_file": "model.gguf"}),
        }
    )
    with pytest.raises(ConfigurationError) as caught:
        content_of_script(strange)
    for name in ("data.train part-*.csv", "data.test hf://a/b", "model.gguf_file model.gguf"):
        assert name in str(caught.value)
