"""The script that is exported trains what hpo trained: the same rows, weights, steps and rates, and about its score."""

import inspect
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from hpo.config.hyperparameters import Hyperparameters, ScheduleName
from hpo.config.study_file import ConfirmationConfig
from hpo.data.splits import splits_of
from hpo.errors import ConfigurationError
from hpo.export.exported import Exported
from hpo.export.python_script import FIELDS, to_python
from hpo.export.retraining import compute_of, here, opened
from hpo.export.script_parts import OPTIMIZERS, SCHEDULES, SCORES
from hpo.metrics.classification import Objective, classification_scores
from hpo.metrics.predictions import Predictions
from hpo.training.course import courses
from hpo.training.optimization import Optimization
from hpo.training.schedules import factor
from tests.models import trained, write_texts

STEPS = 40


def with_values(exported: Exported, **values: Any) -> Exported:
    usual = {"epochs": 3, "max_length": 16, "batch_size": 8, "learning_rate": 1e-2}
    made = Hyperparameters.model_validate(usual | values)
    return exported.model_copy(update={"hyperparameters": made})


def loaded(exported: Exported) -> ModuleType:
    """Return the script as a module that has not run."""
    module = ModuleType("exported_script")
    exec(compile(to_python(exported), "exported_script.py", "exec"), module.__dict__)
    return module


def test_every_hyperparameter_is_decided_upon() -> None:
    assert FIELDS.keys() == Hyperparameters.model_fields.keys()


def as_rows(examples: Any) -> list[tuple[str, ...]]:
    texts = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    return list(zip(*texts, examples.labels, strict=True))


@pytest.mark.parametrize("kind", ["validation made", "test made too", "files", "jsonl", "some kept unseen"])
def test_it_has_the_rows_of_the_search(exported: Exported, texts_file: Path, tmp_path: Path, kind: str) -> None:
    lines = texts_file.read_text().splitlines()
    train = tmp_path / "train.csv"
    # Texts that stand twice, some with other spacing, and rows without a text or a label.
    odd = [f"  {lines[1]}", lines[3], ",sport", "the last team,"]
    train.write_text("\n".join([*lines, *odd]) + "\n")
    data: dict[str, Any] = {"train": str(train), "test_fraction": 0.0}
    if kind == "test made too":
        data["test_fraction"] = 0.15
    if kind == "files":
        for name, part in (("validation", lines[1:60]), ("test", lines[40:90])):
            (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *part]) + "\n")
            data[name] = str(tmp_path / f"{name}.csv")
    if kind == "jsonl":
        records = [dict(zip(("text", "label"), line.rsplit(",", 1), strict=True)) for line in lines[1:]]
        for record in records:
            record["label"] = 1.0 if record["label"] == "sport" else 0  # type: ignore[assignment]
        data["train"] = str(tmp_path / "train.jsonl")
        Path(data["train"]).write_text("\n".join(map(json.dumps, records)) + "\n")
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
    script = loaded(chosen)
    assert script.splits() == (as_rows(splits.train), as_rows(splits.validation))
    assert tuple(script.LABELS) == splits.label_names


def test_other_texts_are_refused_by_the_script_itself(exported: Exported) -> None:
    script = loaded(exported)
    script.FINGERPRINT = "0" * 64
    with pytest.raises(SystemExit, match="not those of the search"):
        script.splits()


@pytest.mark.parametrize(
    "values", [{}, {"method": "head"}, {"method": "top_layers", "trained_layers": 1}, {"dropout": 0.25}]
)
def test_the_same_weights_train_under_the_same_dropout(exported: Exported, values: dict[str, Any]) -> None:
    chosen = with_values(exported, **values)
    bench = opened(chosen, here(chosen, compute_of(chosen)))._bench
    ours = bench.begin(chosen.hyperparameters, 7, STEPS)
    script = loaded(chosen)
    model = script.made_model(AutoTokenizer.from_pretrained(chosen.model.name))
    theirs = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert theirs == ours.parameters.keys()

    def dropouts(network: nn.Module) -> list[float]:
        return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]

    assert dropouts(model) == dropouts(bench.model.network)
    assert model.config.id2label == bench.model.network.config.id2label


@pytest.mark.parametrize(("optimizer", "form"), OPTIMIZERS)
def test_an_optimizer_takes_our_steps(exported: Exported, optimizer: str, form: str) -> None:
    chosen = with_values(exported, optimizer=optimizer, l2_form=form, l2_strength=0.1, schedule="constant")
    bench = opened(chosen, here(chosen, compute_of(chosen)))._bench
    ours = bench.begin(chosen.hyperparameters, 7, STEPS)
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in ours.parameters.items()}
    theirs = loaded(chosen).made_optimizer(_Model(weights))
    schedule = torch.optim.lr_scheduler.LambdaLR(theirs, lambda step: factor(step, STEPS, chosen.hyperparameters))
    taking = _Gradients(ours)
    for step in range(4):
        gradients = taking.step(step)
        for name, weight in weights.items():
            weight.grad = gradients[name]
        theirs.step()
        schedule.step()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, ours.parameters[name], rtol=1e-4, atol=1e-6)


class _Model(nn.Module):
    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def parameters(self, recurse: bool = True) -> Any:
        return iter(self.weights.values())


class _Gradients:
    """Steps our optimization under gradients that are drawn, in place of those of a batch."""

    def __init__(self, optimization: Optimization) -> None:
        self._optimization = optimization

    def step(self, seed: int) -> dict[str, torch.Tensor]:
        drawn = torch.Generator().manual_seed(seed)
        parameters = self._optimization.parameters
        made = {name: 1e-3 * torch.randn(weight.shape, generator=drawn) for name, weight in parameters.items()}

        def put(_: object) -> torch.Tensor:
            for name, weight in parameters.items():
                weight.grad = made[name].clone()
            return torch.zeros(())

        self._optimization._loss_and_gradients = put  # type: ignore[method-assign,assignment]
        self._optimization.step(None)  # type: ignore[arg-type]
        return made


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_is_ours(exported: Exported, schedule: ScheduleName) -> None:
    values: dict[str, Any] = {"schedule": schedule, "warmup_ratio": 0.11}
    if schedule not in ("constant", "exponential"):
        values["final_rate_ratio"] = 0.15
    chosen = with_values(exported, **values)
    script = loaded(chosen)
    expected = [factor(step, STEPS, chosen.hyperparameters) for step in range(STEPS + 1)]
    assert [script.factor(step, STEPS) for step in range(STEPS + 1)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("values", [{"label_smoothing": 0.1}, {"class_weights": "balanced", "label_smoothing": 0.2}])
def test_the_loss_is_ours(exported: Exported, values: dict[str, Any]) -> None:
    chosen = with_values(exported, **values)
    place = here(chosen, compute_of(chosen))
    logits, labels = torch.randn(9, 2, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 2
    counts = Counter(place.splits.train.labels)
    weights = [place.splits.train.rows / (2 * counts[name]) for name in place.splits.label_names]
    task = opened(chosen, place)._bench.task
    asked = torch.tensor(weights) if "class_weights" in values else None
    expected = task.loss(logits, labels, chosen.hyperparameters.label_smoothing, asked)
    outputs = type("Outputs", (), {"logits": logits})()
    torch.testing.assert_close(loaded(chosen).loss(outputs, labels), expected)


@pytest.mark.parametrize("metric", SCORES)
def test_the_score_is_ours(exported: Exported, metric: str) -> None:
    random = np.random.default_rng(0)
    true, probabilities = random.integers(0, 2, 60), random.dirichlet([1, 1], 60)
    task = exported.task.model_copy(update={"metric": metric})
    script = loaded(exported.model_copy(update={"metric": metric, "task": task}))
    positive = script.LABELS[script.POSITIVE]
    ours = classification_scores(
        Predictions.of(true, probabilities),
        label_names=script.LABELS, objective=Objective(metric=metric, positive=positive, note=""), beta=2.0,
    )  # fmt: skip
    prediction = type("Prediction", (), {"label_ids": true, "predictions": np.log(probabilities)})()
    assert script.scores(prediction) == {metric: pytest.approx(ours.values[metric])}


def test_it_sees_the_share_of_the_rows_that_the_search_saw(exported: Exported) -> None:
    chosen = with_values(exported, data_fraction=0.4)
    place = here(chosen, compute_of(chosen))
    script = loaded(chosen)
    train, _ = script.splits()
    numbers = np.array([script.LABELS.index(row[-1]) for row in train])
    wanted = round(0.4 * len(train))
    rows = script.stratified_beginning(numbers, wanted, script.SPLIT_SEED)
    course = courses(chosen.assignment(), opened(chosen, place)._bench)[0]
    assert rows.tolist() == course.rows.tolist()


def test_all_that_its_annotations_name_is_imported(exported: Exported) -> None:
    script = loaded(with_values(exported, data_fraction=0.4))
    functions = [one for one in vars(script).values() if inspect.isfunction(one) and one.__module__ == script.__name__]
    assert {"stratified_part", "stratified_beginning"} <= {one.__name__ for one in functions}
    for function in functions:
        get_type_hints(function)


RUNS: dict[str, dict[str, Any]] = {
    "as most are": {},
    # But for frozen layers: a tiny random model learns nothing in one of them.
    "all that it can say": {
        "optimizer": "nadam", "l2_strength": 0.0, "schedule": "one_cycle", "dropout": 0.1,
        "class_weights": "balanced", "label_smoothing": 0.1, "data_fraction": 0.8, "early_stopping_patience": 2,
        "max_grad_norm": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_and_scores_as_the_search_did(
    exported: Exported, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    chosen = with_values(exported, **RUNS[name])
    if name != "as most are":
        chosen = chosen.model_copy(update={"measurements": {"precision": "bf16"}})
    reports, ours = trained(opened(chosen, here(chosen, compute_of(chosen))), chosen.assignment())
    assert ours.best is not None
    script = loaded(chosen)
    script.main()
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert said["score"] == pytest.approx(ours.best.validation.objective, abs=0.1)
    # What tells a broken script from a working one: half of the labels are right by chance.
    assert said["score"] > 0.8
    assert (tmp_path / "trainer-model" / "model.safetensors").is_file()
    with pytest.raises(SystemExit, match="trainer-model is there already"):
        script.main()
    state = max((tmp_path / "trainer-model-checkpoints").glob("checkpoint-*/trainer_state.json"))
    evaluated = [entry["step"] for entry in json.loads(state.read_text())["log_history"] if "eval_loss" in entry]
    assert evaluated == [report.step for report in reports if report.full][: len(evaluated)]
    assert len(evaluated) > 1


REFUSED: dict[str, dict[str, Any]] = {
    "kept_layers": {"kept_layers": 1},
    "optimizer": {"optimizer": "schedule_free_adamw"},
    "layerwise_rate_decay": {"layerwise_rate_decay": 0.9},
    "schedule": {"schedule": "reduce_on_plateau"},
    "l1_strength": {"l1_strength": 1e-4},
    "l2_form": {"optimizer": "sgd", "l2_form": "decoupled"},
    "regularize_towards": {"regularize_towards": "pretrained"},
    "attention_dropout": {"attention_dropout": 0.2},
    "token_masking": {"token_masking": 0.1},
    "word_swap": {"word_swap": 0.1},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_by_name(exported: Exported, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} .*\(nearest: .+\)"):
        to_python(with_values(exported, **REFUSED[name]))


def test_model_texts_and_metric_that_it_cannot_say_are_refused_at_once(exported: Exported) -> None:
    strange = exported.model_copy(
        update={
            "metric": "roc_auc",
            "data": exported.data.model_copy(update={"train": "part-*.csv", "group_column": "who"}),
            "model": exported.model.model_copy(update={"gguf_file": "model.gguf"}),
        }
    )
    with pytest.raises(ConfigurationError) as caught:
        to_python(strange)
    for name in ("data.train part-*.csv", "data.group_column who", "model.gguf_file", "the metric roc_auc"):
        assert name in str(caught.value)
