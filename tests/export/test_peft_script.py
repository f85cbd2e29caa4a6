"""The script for PEFT and Trainer: it adapts what hpo adapts, scores as hpo scores, and is another seed of it."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, EvalPrediction

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ConfirmationConfig, EvaluationConfig, ModelConfig, StudyConfig
from hpo.config.tasks import TaskConfig
from hpo.data.sources import Examples
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError
from hpo.export.exported_file import Exported
from hpo.export.peft_script import FIELDS, METRICS, peft_script, rows_json
from hpo.export.python_script import content_of_script
from hpo.export.retraining import compute_of, open_trainer, retrain, study_and_splits
from hpo.export.training_arguments import OPTIMIZERS, SCHEDULES, to_training_arguments
from hpo.metrics.registry import METRICS as OURS
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.store.results import StudyResults
from hpo.tasks.registry import task_of
from hpo.training.run_state import fold_runs
from tests.command_line import Hpo
from tests.export.test_adapter import LORA, MODELS
from tests.gguf_model import NAME as GGUF
from tests.gguf_model import save_tiny_gguf
from tests.models import write_texts
from tests.scripts import of_texts, with_label_sets
from tests.tasks.language_models import save_tiny_decoder, save_tiny_masked_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),
    pytest.mark.filterwarnings("ignore:.pin_memory. argument is set as true"),
]


KINDS: dict[str, Callable[[Path], Path]] = {
    **MODELS,
    "decoder": save_tiny_decoder,
    **{f"decoder {name}": partial(save_tiny_decoder, name=name) for name in ("gpt2", "bloom")},
    "masked model": save_tiny_masked_model,
}
PROMPTED = {"prompt": "Text : {text} Label :"}


def with_values(exported: Exported, kind: str, folder: Path, dtype: str = "fp32", **values: Any) -> Exported:
    """Return a configuration of LoRA of a tiny model, saved in a folder."""
    model = ModelConfig.model_validate({"name": str(KINDS[kind](folder / kind)), "dtype": dtype})
    return exported.model_copy(
        update={"model": model, "hyperparameters": Hyperparameters.model_validate(LORA | values)}
    )


def with_words(
    exported: Exported, kind: str, folder: Path, task: Mapping[str, Any] = PROMPTED, **values: Any
) -> Exported:
    """Return a configuration of LoRA of a tiny language model that is asked for label words."""
    chosen = with_values(exported, kind, folder, **values)
    return chosen.model_copy(update={"task": TaskConfig.model_validate({"head": "label_words", **task})})


def splits_of(exported: Exported) -> Splits:
    return study_and_splits(exported, compute_of(exported))[1]


def written(exported: Exported, folder: Path) -> ModuleType:
    """Write script and rows into a folder; return the script as a module that has not run."""
    (folder / "train.py").write_text(peft_script(exported, splits_of(exported)))
    (folder / "train.json").write_text(rows_json(exported, splits_of(exported)))
    spec = importlib.util.spec_from_file_location("train", folder / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def score_of(module: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> float:
    """Run a script in its folder; return the score that it prints."""
    folder = Path(str(module.__file__)).parent
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", "--output", "adapter"])
    capsys.readouterr()
    module.main()
    return float(json.loads(capsys.readouterr().out.splitlines()[-1])["score"])


def trained_by(model: Any) -> dict[str, Any]:
    """Return the shapes of the weights that PEFT trains, under hpo's names."""
    return {
        name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", ""): weight.shape
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        *((kind, wanted) for kind in MODELS for wanted in ("all-linear", "attention", "mlp")),
        ("bert", "query,output.dense"),
    ],
)
def test_it_trains_the_weights_that_hpo_trains(exported: Exported, tmp_path: Path, kind: str, targets: str) -> None:
    chosen = with_values(exported, kind, tmp_path, lora_targets=targets)
    task = task_of(chosen.task, splits_of(chosen))
    backbone = load_model(chosen.model, task, torch.device("cpu"))
    ours = TrialModel(backbone, task, chosen.hyperparameters, seed=0)
    model = written(chosen, tmp_path).adapted(AutoModelForSequenceClassification.from_pretrained(chosen.model.name))
    assert trained_by(model) == {name: weight.shape for name, weight in ours.parameters.items()}
    assert {
        layer.scaling["default"] for layer in model.modules() if hasattr(layer, "scaling") and hasattr(layer, "lora_A")
    } == {8.0}


@pytest.mark.parametrize("kind", ["decoder", "masked model"])
@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp"])
def test_for_label_words_it_trains_the_weights_that_hpo_trains(
    exported: Exported, tmp_path: Path, kind: str, targets: str
) -> None:
    chosen = with_words(exported, kind, tmp_path, lora_targets=targets)
    task = task_of(chosen.task, splits_of(chosen))
    ours = TrialModel(load_model(chosen.model, task, torch.device("cpu")), task, chosen.hyperparameters, seed=0)
    module = written(chosen, tmp_path)
    assert trained_by(module.adapted(module.pretrained(chosen.model.name)[1])) == {
        name: weight.shape for name, weight in ours.parameters.items()
    }


WORDS = {
    "of one token": {"sport": "sport", "money": "money"},
    "of several": {"sport": "goal team news", "money": "goal bank"},
    "one holds the other": {"sport": "news", "money": "news money"},
}


@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        *product(["decoder", "decoder gpt2"], WORDS),
        *product(["decoder bloom", "masked model"], ["of one token"]),
    ],
)
def test_its_scores_of_label_words_are_those_of_hpo(
    exported: Exported, tmp_path: Path, kind: str, words: str, is_pair: bool
) -> None:
    """Row by row, before any training, also of texts that are cut."""
    task = {"prompt": "Pair : {pair} Text : {text} Label :" if is_pair else PROMPTED["prompt"]}
    data = exported.data
    if is_pair:
        lines = Path(data.train).read_text().splitlines()[1:]
        pairs = (f"{one.rpartition(',')[0]},{two}" for one, two in zip(lines, [*lines[2:], *lines[:2]], strict=True))
        (tmp_path / "pairs.csv").write_text("\n".join(["text,pair,label", *pairs]))
        data = data.model_copy(update={"train": str(tmp_path / "pairs.csv"), "text_pair_column": "pair"})
    chosen = with_words(exported, kind, tmp_path, {**task, "label_words": WORDS[words]}, max_length=20)
    chosen = of_texts(chosen, data=data)
    begun = open_trainer(chosen, *study_and_splits(chosen, compute_of(chosen)))._context
    expected = begun.predict(begun.tokenized(20)["validation"]).probabilities
    module = written(chosen, tmp_path)
    tokenizer, network = module.pretrained(chosen.model.name)
    collated = DataCollatorWithPadding(tokenizer) if kind == "masked model" else module.collated
    batch = collated(module.rows_of("validation", tokenizer))
    trainer = SimpleNamespace(args=SimpleNamespace(label_smoothing_factor=0.0))
    with torch.no_grad():
        _, found = module.WordTrainer.compute_loss(trainer, network, dict(batch), return_outputs=True)
    np.testing.assert_allclose(found["logits"].double().softmax(dim=1), expected, atol=1e-5)


def test_only_the_head_and_the_adapters_have_dropout(exported: Exported, tmp_path: Path) -> None:
    chosen = with_values(exported, "bert", tmp_path, lora_dropout=0.25)
    network = AutoModelForSequenceClassification.from_pretrained(chosen.model.name)
    model = written(chosen, tmp_path).adapted(network)
    dropped = {name: one.p for name, one in model.named_modules() if isinstance(one, nn.Dropout) and one.p}
    of_adapters = {name for name in dropped if ".lora_dropout." in name}
    assert dropped.keys() - of_adapters == {"base_model.model.dropout"}
    assert {dropped[name] for name in of_adapters} == {0.25}


def random_scores(exported: Exported, module: ModuleType, outputs: Any) -> tuple[float, float]:
    """Return what the script and hpo say of such outputs for validation."""
    splits = splits_of(exported)
    task = task_of(exported.task, splits)
    rows = json.loads(Path(str(module.__file__)).with_suffix(".json").read_text())["validation"]
    found = module.scores(EvalPrediction(outputs, np.array([row["label"] for row in rows])))
    targets = task.targets(splits.validation.labels)
    expected = task.score(task.with_targets(targets, task.predictions(torch.from_numpy(outputs))))
    return found[exported.metric], expected


@pytest.mark.parametrize("labels", [2, 3])
def test_every_metric_of_labels_is_ours(exported: Exported, tmp_path: Path, labels: int) -> None:
    texts = write_texts(tmp_path / "texts.csv", rows=150).read_text().splitlines()
    if labels == 3:
        texts = [line if row % 3 else f"{line.rpartition(',')[0]},news" for row, line in enumerate(texts, -1)]
        texts[0] = "text,label"
    (tmp_path / "texts.csv").write_text("\n".join(texts))
    data = exported.data.model_copy(update={"train": str(tmp_path / "texts.csv")})
    outputs = np.random.default_rng(0).normal(size=(30, labels)).astype(np.float32)
    for name, metric in OURS["classification"].items():
        if name == "neg_calibration_error" or (labels == 3 and metric.of_positive_class):
            continue
        chosen = with_values(exported, "bert", tmp_path)
        chosen = of_texts(chosen, data=data, metric=name, task=TaskConfig(metric=name))
        found, expected = random_scores(chosen, written(chosen, tmp_path), outputs)
        assert found == pytest.approx(expected, abs=1e-6), name


def test_every_metric_of_numbers_is_ours(exported: Exported, tmp_path: Path) -> None:
    lines = write_texts(tmp_path / "texts.csv", rows=150).read_text().splitlines()
    numbers = [f"{line.rpartition(',')[0]},{row * 1.7 % 11}" for row, line in enumerate(lines[1:])]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *numbers]))
    data = exported.data.model_copy(update={"train": str(tmp_path / "texts.csv")})
    outputs = np.random.default_rng(0).normal(size=(30, 1)).astype(np.float32)
    for name in OURS["regression"]:
        chosen = with_values(exported, "bert", tmp_path)
        chosen = of_texts(chosen, data=data, metric=name, task=TaskConfig(name="regression", metric=name))
        found, expected = random_scores(chosen, written(chosen, tmp_path), outputs)
        assert found == pytest.approx(expected, abs=1e-5), name


@pytest.mark.parametrize("thresholds", ["one", "per_label"])
@pytest.mark.parametrize("is_kept", [False, True])
def test_every_metric_of_label_sets_is_ours(exported: Exported, tmp_path: Path, thresholds: str, is_kept: bool) -> None:
    """With thresholds fitted to the training rows of hpo, or to validation where other rows are kept to judge."""
    chosen = with_values(exported, "bert", tmp_path)
    if is_kept:
        chosen = chosen.model_copy(update={"confirmation": ConfirmationConfig(validation_share=0.5)})
    data = {"validation_fraction": 0.4} if is_kept else {}
    chosen = with_label_sets(chosen, tmp_path, rows=1500 if is_kept else 160, data=data, thresholds=thresholds)
    splits = splits_of(chosen)
    assert (splits.confirmation is not None) is is_kept
    begun = open_trainer(chosen, *study_and_splits(chosen, compute_of(chosen)))._context
    [training] = fold_runs(chosen.assignment(), begun)
    task, rows = begun.task, splits.validation.rows
    outputs = np.random.default_rng(0).normal(size=(2 * rows, 3)).astype(np.float32)

    def answers(examples: Examples, first: int) -> Any:
        some = torch.from_numpy(outputs[first : first + examples.rows])
        return task.with_targets(task.targets(examples.labels), task.predictions(some))

    of_validation = answers(splits.validation, 0)
    fitted = begun.fit(of_validation, lambda: answers(splits.train.take(training.train_sample.tolist()), rows))
    for name in OURS["multi_label"]:
        named = chosen.task.model_copy(update={"metric": name})
        module = written(chosen.model_copy(update={"task": named, "metric": name}), tmp_path)
        parts = json.loads((tmp_path / "train.json").read_text())
        true = [row["label"] for part in ("validation", "thresholds") for row in parts.get(part, ())]
        found = module.scores(rows, EvalPrediction(outputs[: len(true)], np.array(true)))
        assert found["thresholds"] == pytest.approx(fitted, abs=1e-12)
        ours = task_of(named, splits).score(begun.decided(of_validation, fitted))
        assert found[name] == pytest.approx(ours, abs=1e-6), name


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_its_loss_of_label_sets_is_ours(exported: Exported, tmp_path: Path, smoothing: float) -> None:
    chosen = with_label_sets(with_values(exported, "bert", tmp_path, label_smoothing=smoothing), tmp_path)
    outputs = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))
    task = task_of(chosen.task, splits_of(chosen))
    labels = torch.from_numpy(task.targets(splits_of(chosen).validation.labels[:8]))
    ours = task.criterion(chosen.hyperparameters, torch.device("cpu"))(outputs, labels).mean()
    found = written(chosen, tmp_path).loss(SimpleNamespace(logits=outputs), labels)
    torch.testing.assert_close(found, ours)


def test_every_hyperparameter_is_decided_upon_and_no_metric_is_unknown() -> None:
    assert FIELDS.keys() == Hyperparameters.model_fields.keys()
    assert all(of_task.keys() <= OURS[name].keys() for name, of_task in METRICS.items())


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        *product(["bert", "llama"], ["classification", "multi_label"]),
        *product(["decoder", "masked model"], ["label_words"]),
    ],
)
@pytest.mark.slow
def test_it_reaches_the_score_of_hpo_within_the_noise_of_seeds(
    exported: Exported,
    tmp_path: Path,
    kind: str,
    task: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within three standard deviations of four seeds of hpo, and at least 0.05 beside their mean."""
    texts = write_texts(tmp_path / "texts.csv", rows=500)
    values: dict[str, Any] = {"data": exported.data.model_copy(update={"train": str(texts)})}
    if task == "multi_label":
        lines = texts.read_text().splitlines()
        texts.write_text("\n".join(f"{line} | long" if len(line.split()) > 7 else line for line in lines))
        values |= {"task": TaskConfig(name=task), "metric": "micro_f1"}
    if task == "label_words":
        values |= {"task": TaskConfig.model_validate({"head": task, **PROMPTED})}
    chosen = with_values(exported, kind, tmp_path, batch_size=16, learning_rate=1e-2, lora_alpha=8.0)
    chosen = of_texts(chosen, **values)
    place = study_and_splits(chosen, compute_of(chosen))
    worker = open_trainer(chosen, *place)
    ours = [
        retrain(worker, replace(chosen.assignment(), trial=seed, seed=seed), lambda _: None).validation.objective
        for seed in range(4)
    ]
    assert min(ours) > 0.75, "it learns"
    module = written(chosen, tmp_path)
    found = score_of(module, capsys, monkeypatch)
    assert abs(found - mean(ours)) <= max(3 * stdev(ours), 0.05)


def test_over_bf16_its_head_is_fp32_and_it_trains(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = with_values(exported, "llama", tmp_path, dtype="bf16", early_stopping_patience=1)
    module = written(chosen, tmp_path)
    _, network = module.pretrained(chosen.model.name)
    trained = {weight.dtype for weight in module.adapted(network).parameters() if weight.requires_grad}
    assert trained == {torch.float32}
    assert network.get_input_embeddings().weight.dtype == torch.bfloat16
    assert score_of(module, capsys, monkeypatch) > 0.5


@pytest.mark.skipif(not importlib.util.find_spec("gguf"), reason="needs gguf")
@pytest.mark.filterwarnings("ignore:Could not find a config file")  # As PEFT writes the adapter.
@pytest.mark.parametrize("head", ["classifier", "label_words"])
def test_over_a_gguf_file_it_trains(
    exported: Exported, tmp_path: Path, head: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskConfig.model_validate({"head": head} | ({"prompt": "{text} is of"} if head == "label_words" else {}))
    model = ModelConfig(name=str(save_tiny_gguf(tmp_path / "base")), gguf_file=GGUF, dtype="fp32")
    values = Hyperparameters.model_validate(LORA | {"max_length": 48})
    chosen = exported.model_copy(update={"model": model, "task": task, "hyperparameters": values})
    assert score_of(written(chosen, tmp_path), capsys, monkeypatch) > 0.5


@pytest.mark.slow
def test_it_is_a_program_that_needs_no_hpo(exported: Exported, tmp_path: Path) -> None:
    chosen = with_values(exported, "bert", tmp_path)
    written(chosen, tmp_path)
    text = (tmp_path / "train.py").read_text()
    assert "import hpo" not in text
    assert len(text.splitlines()) < 200
    ran = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]).keys() == {"metric", "score", "in_the_search"}
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize("task", ["classification", "multi_label", "label_words"])
def test_whatever_it_can_say_is_a_program_of_fewer_than_200_lines(
    exported: Exported, tmp_path: Path, task: str
) -> None:
    model = ModelConfig(name="owner/model", revision="main", dtype="bf16", quantization="nf4")
    if task == "multi_label":
        exported = with_label_sets(exported, tmp_path)
    if task == "label_words":
        exported = exported.model_copy(update={"task": TaskConfig(head=task)})
        model = model.model_copy(update={"name": str(save_tiny_decoder(tmp_path / "model")), "revision": None})
    splits = splits_of(exported)
    for optimizer, schedule in product(OPTIMIZERS, SCHEDULES):
        form = "decoupled" if optimizer in ("adam", "adamw") else "coupled"
        values = {"optimizer": optimizer, "schedule": schedule, "l2_form": form, "early_stopping_patience": 2}
        made = Hyperparameters.model_validate(LORA | values)
        text = peft_script(exported.model_copy(update={"hyperparameters": made, "model": model}), splits)
        compile(text, "train.py", "exec")
        assert len(text.splitlines()) < 200
        assert max(map(len, text.splitlines())) <= 120


def test_what_it_cannot_say_is_refused_all_at_once(exported: Exported, tmp_path: Path) -> None:
    strange = exported.model_copy(
        update={
            "hyperparameters": Hyperparameters.model_validate(LORA | {"kept_layers": 1, "data_fraction": 0.5}),
            "evaluation": EvaluationConfig(folds=2),
        }
    )
    with pytest.raises(ConfigurationError) as caught:
        peft_script(strange, splits_of(exported))
    for word in ("kept_layers 1", "data_fraction 0.5", "evaluation.folds 2"):
        assert word in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"method full \(nearest: --format training-arguments, or python\)"):
        peft_script(exported, splits_of(exported))
    lora = exported.model_copy(update={"hyperparameters": Hyperparameters.model_validate(LORA)})
    (tmp_path / "sets.csv").write_text(
        "\n".join(["text,labels", *(f"text {row},{'a' * (row % 2)}" for row in range(60))])
    )
    data = lora.data.model_copy(update={"train": str(tmp_path / "sets.csv")})
    single = of_texts(lora, data=data, task=TaskConfig(name="multi_label"), metric="micro_f1")
    with pytest.raises(ConfigurationError, match=r"multi_label of a single label \(nearest: task\.name classification"):
        peft_script(single, splits_of(single))
    calibrated = lora.model_copy(update={"task": TaskConfig(metric="neg_calibration_error")})
    with pytest.raises(ConfigurationError, match="the metric neg_calibration_error"):
        peft_script(calibrated, splits_of(exported))


def test_the_other_formats_name_this_one(exported: Exported) -> None:
    lora = exported.model_copy(update={"hyperparameters": Hyperparameters.model_validate(LORA)})
    for chosen in (lora, lora.model_copy(update={"task": TaskConfig(head="label_words")})):
        for write in (to_training_arguments, content_of_script):
            with pytest.raises(ConfigurationError, match=r"method lora \(nearest: --format peft"):
                write(chosen)


def test_the_verb_writes_script_and_rows_over_its_own_alone(
    results: StudyResults, config: StudyConfig, hpo: Hpo, tmp_path: Path
) -> None:
    export: Callable[..., Any] = partial(hpo, "export", "--store", config.store.url, "--format", "peft")
    refused = export("--output", "train.py")
    assert (refused.code, [*tmp_path.iterdir()]) == (2, [])
    assert "The script cannot say all of trial" in refused.err
    assert "--format training-arguments, or python" in refused.err
    nameless = export()
    assert "it needs a file name; give one, such as --output train.py" in nameless.err
