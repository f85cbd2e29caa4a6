"""The script for PEFT and Trainer as a program: it runs, reaches the score of hpo, and refuses what it cannot say."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from types import ModuleType
from typing import Any

import pytest
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import EvaluationConfig, ModelConfig, StudyConfig
from hpo.config.tasks import TaskConfig
from hpo.errors import ConfigurationError
from hpo.export.exported_file import Exported
from hpo.export.peft_script import FIELDS, METRICS, peft_script
from hpo.export.python_script import content_of_script
from hpo.export.retraining import compute_of, open_trainer, retrain, study_and_splits
from hpo.export.training_arguments import OPTIMIZERS, SCHEDULES, to_training_arguments
from hpo.metrics.registry import METRICS as OURS
from hpo.store.results import StudyResults
from tests.command_line import Hpo
from tests.export.lora_cases import LORA
from tests.export.peft_scripts import PROMPTED, splits_of, with_values, written
from tests.gguf_model import NAME as GGUF
from tests.gguf_model import save_tiny_gguf
from tests.models import write_texts
from tests.scripts import of_texts, with_label_sets
from tests.tasks.language_models import save_tiny_decoder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),
    pytest.mark.filterwarnings("ignore:.pin_memory. argument is set as true"),
]


def score_of(module: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> float:
    """Run a script in its folder; return the score that it prints."""
    folder = Path(str(module.__file__)).parent
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", "--output", "adapter"])
    capsys.readouterr()
    module.main()
    return float(json.loads(capsys.readouterr().out.splitlines()[-1])["score"])


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
