"""A winner of LoRA as a folder: PEFT and transformers open it, alone or merged, and it predicts what was trained."""

import csv
import io
import json
import os
import shutil
from ast import literal_eval
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ModelConfig, StudyConfig
from hpo.config.tasks import TaskConfig
from hpo.data.labels import label_matrix
from hpo.errors import ModelError
from hpo.export.exported_file import Exported
from hpo.export.prediction import folder_model
from hpo.model.pretrained import load_model
from hpo.tasks.registry import TASKS, task_of
from tests.command_line import Hpo
from tests.export.lora_cases import LORA, MODELS, Case, asked_of, predicted
from tests.gguf_model import NAME as GGUF
from tests.gguf_model import save_tiny_gguf
from tests.models import said_by_card, save_tiny_bert, write_texts_of
from tests.scripts import of_texts, with_label_sets
from tests.tasks.language_models import save_tiny_decoder, save_tiny_masked_model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
LANGUAGE_MODELS: dict[str, tuple[Callable[[Path], Path], Any]] = {
    "decoder": (save_tiny_decoder, AutoModelForCausalLM),
    "masked model": (save_tiny_masked_model, AutoModelForMaskedLM),
}


def said_of(model: Any, folder: Path, texts: tuple[str, ...], longest: int = 16) -> np.ndarray[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.eval()
    with torch.inference_mode():
        rows = [
            model(**tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")).logits.softmax(dim=-1)
            for text in texts
        ]
    found: np.ndarray[Any, Any] = torch.cat(rows).float().numpy()
    return found


@pytest.mark.parametrize("scaling", ["standard", "rslora"])
@pytest.mark.parametrize("kind", MODELS)
def test_peft_and_transformers_open_it_and_say_what_was_trained(
    case: Callable[..., Case], kind: str, scaling: str
) -> None:
    of = case(kind, lora_scaling=scaling, lora_dropout=0.1)
    folder, _ = of.trained("model")
    texts, expected = of.splits.validation.texts, of.probabilities()
    opened = AutoPeftModelForSequenceClassification.from_pretrained(folder)
    # What a base without a padding token is told, whoever opens it.
    base = AutoModelForSequenceClassification.from_pretrained(of.exported.model.name)
    for model in (opened, PeftModel.from_pretrained(base, str(folder))):
        np.testing.assert_allclose(said_of(model, folder, texts), expected, atol=1e-5)
    alone = AutoModelForSequenceClassification.from_pretrained(folder)
    np.testing.assert_allclose(said_of(alone, folder, texts), expected, atol=1e-5)
    names = np.array(["money", "sport"])[expected.argmax(axis=1)]
    said = predicted(folder, texts)
    assert [name for name, _ in said] == names.tolist()
    assert [probability for _, probability in said] == pytest.approx(expected.max(axis=1), abs=1e-9)


def test_what_stands_in_the_folder(case: Callable[..., Case]) -> None:
    of = case(lora_alpha=16.0, lora_dropout=0.1, lora_targets="query,value")
    folder, said = of.trained("model")
    assert {*os.listdir(folder)} == {
        "adapter_config.json", "adapter_model.safetensors", "hpo.json", "README.md", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    config = LoraConfig.from_pretrained(str(folder))
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (4, 16, 0.1, False)
    assert config.target_modules == {
        f"bert.encoder.layer.{layer}.attention.self.{name}" for layer in (0, 1) for name in ("query", "value")
    }
    assert (config.task_type, config.base_model_name_or_path) == ("SEQ_CLS", of.exported.model.name)
    weights = load_file(folder / "adapter_model.safetensors")
    trained = {name.removeprefix("base_model.model.").rpartition(".")[0] for name in weights}
    of_adapters = {f"{target}.lora_{half}" for target in config.target_modules for half in "AB"}
    assert trained == {"bert.pooler.dense", "classifier", *of_adapters}
    assert len({(folder / name).stat().st_mode for name in os.listdir(folder)}) == 1
    assert not [sentence for sentence in said if "Merged" in sentence]


def test_the_lines_on_its_card_run(case: Callable[..., Case]) -> None:
    of = case()
    folder, _ = of.trained("model")
    card = (folder / "README.md").read_text()
    assert "library_name: peft\n" in card
    label, probability = predicted(folder, ("goal team",))[0]
    [said] = literal_eval(said_by_card(folder, "goal team"))
    assert said == {"label": label, "score": pytest.approx(probability, abs=1e-6)}


@pytest.mark.parametrize("kind", MODELS)
def test_merged_it_is_a_model_like_any_other(case: Callable[..., Case], kind: str) -> None:
    of = case(kind)
    folder, said = of.trained("model", merge=True)
    assert {"model.safetensors", "config.json", "README.md"} <= {*os.listdir(folder)}
    assert not {"adapter_config.json", "hpo.json"} & {*os.listdir(folder)}
    texts, expected = of.splits.validation.texts, of.probabilities()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    np.testing.assert_allclose(said_of(model, folder, texts), expected, atol=1e-5)
    assert [probability for _, probability in predicted(folder, texts)] == pytest.approx(expected.max(axis=1), abs=1e-5)
    assert said[-1].startswith("Merged, f1 on validation is ")
    assert said[-1].endswith("as with the adapter beside the weights.")
    assert said[-1] in (folder / "README.md").read_text()


def test_merged_into_16_bits_it_has_the_score_that_is_said(case: Callable[..., Case]) -> None:
    of = case("llama", dtype="bf16")
    folder, said = of.trained("model", merge=True)
    weights = load_file(folder / "model.safetensors")
    assert weights["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    names = [name for name, _ in predicted(folder, of.splits.validation.texts)]
    positive = task_of(of.exported.task, of.splits).metric.positive
    f1 = f1_score(of.splits.validation.labels, names, pos_label=positive)
    assert said[-1].startswith(f"Merged, f1 on validation is {f1:.4f}, ")
    task = TASKS["classification"].restored({"labels": ["money", "sport"]})
    opened = load_model(folder_model(folder), task, torch.device("cpu"), trained=True).network
    assert torch.equal(opened.score.weight, weights["score.weight"])
    assert not torch.equal(weights["score.weight"], weights["score.weight"].bfloat16().float())


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("kind", ["decoder", "masked model"])
def test_label_words_are_handed_on(exported: Exported, tmp_path: Path, kind: str, merge: bool) -> None:
    """With the prompt and the words, by which `hpo predict` asks; PEFT opens the adapter over the language model."""
    save, theirs = LANGUAGE_MODELS[kind]
    chosen = exported.model_copy(
        update={
            "task": TaskConfig(head="label_words", prompt="Text : {text} Label :"),
            "model": ModelConfig(name=str(save(tmp_path / "base")), dtype="fp32"),
            "hyperparameters": Hyperparameters.model_validate(LORA),
        }
    )
    of = Case(exported=chosen, folder=tmp_path)
    folder, _ = of.trained("model", merge=merge)
    said = predicted(folder, of.splits.validation.texts)
    assert [probability for _, probability in said] == pytest.approx(of.probabilities().max(axis=1), abs=1e-5)
    file = json.loads((folder / ("config.json" if merge else "hpo.json")).read_text())
    assert (file["hpo"] if merge else file)["learned"]["label_words"] == {"money": "money", "sport": "sport"}
    assert ("in `config.json`, under `hpo`" if merge else "in `hpo.json`") in (folder / "README.md").read_text()
    if not merge:
        opened = PeftModel.from_pretrained(theirs.from_pretrained(tmp_path / "base"), str(folder))
        assert opened.peft_config["default"].task_type == ("CAUSAL_LM" if kind == "decoder" else None)


@pytest.mark.skipif(not find_spec("gguf"), reason="needs gguf")
@pytest.mark.parametrize("head", ["classifier", "label_words"])
def test_an_adapter_over_a_gguf_file_is_opened_by_the_name_of_the_file(
    exported: Exported, tmp_path: Path, head: str
) -> None:
    """As the card says it, as `adapter_config.json` can only name the folder; `hpo predict` knows the file."""
    model = ModelConfig(name=str(save_tiny_gguf(tmp_path / "base")), gguf_file=GGUF, dtype="fp32")
    values = Hyperparameters.model_validate(LORA | {"max_length": 48})
    task = TaskConfig.model_validate({"head": head} | ({"prompt": "{text} is of"} if head == "label_words" else {}))
    chosen = exported.model_copy(update={"model": model, "hyperparameters": values, "task": task})
    of = Case(exported=chosen, folder=tmp_path)
    folder, _ = of.trained("model")
    texts, expected = of.splits.validation.texts, of.probabilities()
    assert [probability for _, probability in predicted(folder, texts)] == pytest.approx(expected.max(axis=1), abs=1e-6)
    assert LoraConfig.from_pretrained(str(folder)).base_model_name_or_path == str(tmp_path / "base")
    if head == "label_words":
        assert f"say `gguf_file='{GGUF}'`" in (folder / "README.md").read_text()
        AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF)
        return
    [said] = literal_eval(said_by_card(folder, "goal team"))
    [(label, probability)] = predicted(folder, ("goal team",))
    assert said == {"label": label, "score": pytest.approx(probability, abs=1e-6)}
    for opener in (AutoPeftModelForSequenceClassification, AutoModelForSequenceClassification):
        opened = opener.from_pretrained(folder, gguf_file=GGUF)
        np.testing.assert_allclose(said_of(opened, folder, texts, 48), expected, atol=1e-5)
    merged, _ = of.trained("merged", merge=True)
    said = [probability for _, probability in predicted(merged, texts)]
    assert said == pytest.approx(expected.max(axis=1), abs=1e-5)


def of_task(exported: Exported, folder: Path, task: str) -> Case:
    """Return a configuration of LoRA for texts with several labels, or with the number of their words."""
    made = {"hyperparameters": Hyperparameters.model_validate(LORA)}
    if task == "multi_label":
        chosen = with_label_sets(exported.model_copy(update=made), folder, rows=80)
    else:
        data = exported.data.model_copy(update={"train": str(write_texts_of(task, folder / "numbers.csv"))})
        chosen = of_texts(exported, data=data, metric="pearson", task=TaskConfig(name="regression"), **made)
    return Case(exported=chosen, folder=folder)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks_are_handed_on(exported: Exported, tmp_path: Path, task: str, merge: bool) -> None:
    """The lines on the card, which ask transformers, say what `hpo predict` says, and that it was scored by this."""
    of = of_task(exported, tmp_path, task)
    folder, _ = of.trained("model", merge=merge)
    texts = of.splits.validation.texts
    said = [row["prediction"] for row in asked_of(folder, texts)]
    on_card = said_by_card(folder, texts[0])
    card = (folder / "README.md").read_text()
    assert f"library_name: {'transformers' if merge else 'peft'}\n" in card
    if task == "regression":
        assert float(on_card) == pytest.approx(float(said[0]), rel=1e-5)
        score = np.corrcoef([float(one) for one in said], [float(one) for one in of.splits.validation.labels])[0, 1]
    else:
        assert on_card == str([label for label in said[0].split("|") if label])
        names = list(of.splits.label_names)
        held = [[name in cell.split("|") for name in names] for cell in said]
        score = f1_score(label_matrix(of.splits.validation.labels, names), held, average="micro", zero_division=0)
    assert f"this model, on validation | {score:.4f} |" in card


def test_over_bf16_an_adapter_predicts_what_was_trained(case: Callable[..., Case]) -> None:
    of = case("llama", dtype="bf16")
    folder, _ = of.trained("model")
    texts, expected = of.splits.validation.texts, of.probabilities()
    assert [probability for _, probability in predicted(folder, texts)] == pytest.approx(expected.max(axis=1), abs=1e-9)
    assert json.loads((folder / "hpo.json").read_text())["base"]["dtype"] == "bf16"


def test_its_base_may_move_and_no_other_takes_its_place(case: Callable[..., Case]) -> None:
    of = case()
    folder, _ = of.trained("model")
    texts = of.splits.validation.texts
    before = predicted(folder, texts)
    shutil.move(of.exported.model.name, of.folder / "moved")
    with pytest.raises(ModelError, match="There is no folder"):
        predicted(folder, texts)
    assert predicted(folder, texts, f"model.name={of.folder / 'moved'}") == before
    other = save_tiny_bert(of.folder / "other", longest=31)
    with pytest.raises(ModelError, match=r"not those over which the adapter in .* was trained; say model\.name="):
        predicted(folder, texts, f"model.name={other}")


@pytest.mark.slow
def test_a_winner_of_a_search_is_reproduced_trained_merged_asked_and_exported(config: StudyConfig, hpo: Hpo) -> None:
    """With the number format of its weights, which the study left open."""
    space = {name: {"value": value} for name, value in LORA.items()} | {"lora_rank": {"values": [2, 4]}}
    words = ("--model", config.model.name, "--train", config.data.train, "--trials", 1, f"space={json.dumps(space)}")
    values = ("confirmation={finalists: 0}", "compute={device: cpu, threads: 1}", "evaluation.rung_rows=12")
    searched = hpo("run", *words, *values)
    assert searched.code == 0, searched.err
    assert ("dtype: bf16" in Path("best.yaml").read_text()) or ("dtype: fp32" in Path("best.yaml").read_text())
    code, out, err = hpo("reproduce", "best.yaml")
    assert (code, out.startswith("Reproduced to the last bit: f1 ")) == (0, True), out + err
    said = {}
    for folder, options in {"adapter": (), "merged": ("--merge",)}.items():
        trained = hpo("train", "best.yaml", "--output", folder, *options)
        assert trained.code == 0, trained.err
        asked = hpo("predict", folder, config.data.train, "--device", "cpu", "--threads", 1)
        assert asked.code == 0, asked.err
        said[folder] = [row["prediction"] for row in csv.DictReader(io.StringIO(asked.out))]
    assert "Merged, f1 on validation is" in trained.err
    for _ in range(2):  # What it wrote itself it may write again.
        script = hpo("export", "--format", "peft", "--output", "train.py")
        assert (script.code, "reads the rows in the other file, and needs torch" in script.err) == (0, True), script.err
    compile(Path("train.py").read_text(), "train.py", "exec")
    assert len(json.loads(Path("train.json").read_text())["validation"]) == 30
    Path("train.json").write_text('{"mine": 1}')
    assert "it holds something else" in hpo("export", "--format", "peft", "--output", "train.py").err
    same = [one == other for one, other in zip(said["adapter"], said["merged"], strict=True)]
    assert sum(same) / len(same) > 0.9
