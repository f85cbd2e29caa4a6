"""The script that is exported trains what hpo trains: the same rows, the same steps, the same weights to rounding."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from hpo.config.hyperparameters import Hyperparameters, ScheduleName
from hpo.config.study_file import ConfirmationConfig
from hpo.data.splits import splits_of
from hpo.errors import ConfigurationError
from hpo.export import train_script
from hpo.export.configs import to_json
from hpo.export.exported import Exported
from hpo.export.model_folder import train_into
from hpo.export.python_script import content_of_script, script
from hpo.export.retraining import compute_of
from hpo.metrics.classification import METRICS, classification_scores
from hpo.metrics.metric import Objective
from hpo.metrics.predictions import Predictions
from hpo.metrics.selection import resolve_metric
from hpo.model.methods import select_parameters
from hpo.training import gradients
from hpo.training.layer_rates import heights, rate_factors
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.schedules import SCHEDULES, factor
from tests.models import write_texts

STEPS = 40
TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 40}


def with_values(exported: Exported, **values: Any) -> Exported:
    usual = {"epochs": 2, "max_length": 16, "batch_size": 16, "learning_rate": 1e-2}
    made = Hyperparameters.model_validate(usual | values)
    return exported.model_copy(update={"hyperparameters": made})


def content_of(exported: Exported) -> dict[str, Any]:
    content = exported.model_dump(mode="json") | {"hyperparameters": exported.hyperparameters.to_mapping()}
    return content_of_script(content, exported)


def written(exported: Exported, folder: Path) -> ModuleType:
    """Write script and JSON file into a folder, and return the script as a module that has not run."""
    path = folder / "train.py"
    path.write_text(script())
    path.with_suffix(".json").write_text(to_json(content_of(exported)))
    spec = importlib.util.spec_from_file_location("train", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    chosen = with_values(exported, **RUNS[name])
    said: list[str] = []
    # So that batches of these short texts go through in parts.
    monkeypatch.setitem(gradients.PASS_TOKENS, "cpu", 4)
    train_into(tmp_path / "ours", chosen, compute_of(chosen), "train", said.append)
    script = written(chosen, tmp_path)
    monkeypatch.setitem(script.PASS_TOKENS, "cpu", 4)
    script.main(["--output", str(tmp_path / "theirs")])
    out, err = capsys.readouterr()
    ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for weight in ours:
        torch.testing.assert_close(theirs[weight], ours[weight], rtol=1e-4, atol=1e-5)
    assert [line.rpartition(" ")[2] for line in err.splitlines() if line.startswith("step ")] == [
        sentence.rpartition(" ")[2] for sentence in said if sentence.startswith("epoch ")
    ]
    assert json.loads(out.splitlines()[-1])["folder"] == str(tmp_path / "theirs")


@pytest.mark.parametrize(
    "of",
    [
        transformers.BertConfig(**TINY),
        transformers.MPNetConfig(**TINY, intermediate_size=16),
        transformers.DebertaV2Config(**TINY, relative_attention=True, pos_att_type=["p2c", "c2p"], conv_kernel_size=3),
        transformers.OPTConfig(**TINY, ffn_dim=16, word_embed_proj_dim=16),
        transformers.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=3, num_heads=2),
        transformers.LlamaConfig(**TINY, intermediate_size=16),
    ],
    ids=lambda of: of.model_type,
)
def test_it_finds_the_same_layers_and_trains_the_same_of_them(of: Any) -> None:
    network = transformers.AutoModelForSequenceClassification.from_config(of)
    assert train_script.heights(network) == heights(network)
    fresh = {name for name, _ in network.named_parameters() if not name.startswith(network.base_model_prefix)}
    for values in ({"method": "top_layers", "trained_layers": 2}, {"method": "head"}, {}):
        h = Hyperparameters.model_validate({**values, "layerwise_rate_decay": 0.5})
        chosen = select_parameters(network, frozenset(fresh), h)
        expected = {id(chosen[name]): rate for name, rate in rate_factors(network, chosen, 0.5).items()}
        groups = train_script.groups_of(network, fresh, h.to_mapping())
        assert {id(weight): group["rate_factor"] for group in groups for weight in group["params"]} == expected


def as_rows(examples: Any) -> list[tuple[str, ...]]:
    texts = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    return list(zip(*texts, examples.labels, strict=True))


@pytest.mark.parametrize(
    "kind",
    ["validation made", "test made too", "files", "jsonl", "pairs", "some kept unseen", "dropped", "merged", "headed"],
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
    train_rows, validation = train_script.splits(content_of(chosen))
    assert (train_rows, validation) == (as_rows(splits.train), as_rows(splits.validation))
    assert tuple(train_script.label_names(train_rows)) == splits.label_names


def test_texts_that_are_others_or_not_there_are_refused(exported: Exported, tmp_path: Path) -> None:
    content = content_of(exported)
    content["data"]["fingerprint"] = "0" * 64
    with pytest.raises(SystemExit, match="not those of the search"):
        train_script.splits(content)
    content["data"]["train"] = str(tmp_path / "none.csv")
    with pytest.raises(SystemExit, match=r"There is no file .*none\.csv, .*; say --train FILE"):
        train_script.splits(content)
    broken = tmp_path / "broken.jsonl"
    content["data"]["train"] = str(broken)
    for line, said in (("{'text': 1}", "is not valid JSON: Expecting property name"), ("[1]", "one JSON object")):
        broken.write_text(f'\n{{"text": "a goal", "label": "sport"}}\n{line}\n')
        with pytest.raises(SystemExit, match=rf"broken\.jsonl, line 3, .*{said}"):
            train_script.splits(content)


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "reduce_on_plateau"])
def test_a_schedule_is_ours(schedule: ScheduleName) -> None:
    for final in (0.15, 1.0):
        ratio = {} if schedule == "constant" else {"final_rate_ratio": final}
        values = Hyperparameters.model_validate({"schedule": schedule, "warmup_ratio": 0.11, **ratio})
        expected = [factor(step, STEPS, values) for step in range(STEPS + 1)]
        found = [train_script.factor(step, STEPS, values.to_mapping()) for step in range(STEPS + 1)]
        assert found == pytest.approx(expected, abs=1e-12)


def test_batches_are_divided_as_hpo_does() -> None:
    assert train_script.PASS_TOKENS == gradients.PASS_TOKENS


@pytest.mark.parametrize("metric", sorted(train_script.METRICS))
def test_the_score_is_ours(metric: str) -> None:
    random = np.random.default_rng(0)
    classes = 2 if METRICS[metric].of_positive_class else 3
    true, probabilities = random.integers(0, classes, 60), random.dirichlet([1] * classes, 60)
    names = ("a", "b", "c")[:classes]
    objective = Objective(metric=metric, positive="a" if classes == 2 else None, note="")
    predictions = Predictions.of(true, probabilities)
    ours = classification_scores(predictions, label_names=names, objective=objective, beta=3.0)
    found = train_script.score(metric, true, probabilities.argmax(axis=1), classes, 0 if classes == 2 else None, 3.0)
    assert found == pytest.approx(ours.values[metric])


@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        ("abb", None),
        ("aab", None),
        ("ab", None),
        ("aab", "a"),
        (["No", "Yes", "Yes"], None),
        ("0011", None),
        ("1122", None),
    ],
)
def test_the_positive_class_is_ours(labels: Any, asked: str | None) -> None:
    names = tuple(sorted(set(labels)))
    found = train_script.positive_class(names, asked, [("text", label) for label in labels])
    assert found is not None
    assert names[found] == resolve_metric("f1", names, list(labels), asked).positive


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


def test_every_hyperparameter_is_decided_upon() -> None:
    """Read by the script, or refused by it."""
    text = script()
    # Those of an optimizer and a schedule that it refuses.
    unread = ["newton_schulz_steps", "plateau_patience"]
    assert [name for name in Hyperparameters.model_fields if f'"{name}"' not in text] == unread


NOT_BY_IT: dict[str, dict[str, Any]] = {
    "kept_layers": {"kept_layers": 1},
    "schedule": {"schedule": "reduce_on_plateau"},
    "attention_dropout": {"attention_dropout": 0.2},
    "token_masking": {"token_masking": 0.1},
    "word_swap": {"word_swap": 0.1},
    **{
        f"optimizer {name}": {"optimizer": name} for name in OPTIMIZERS if name not in train_script.OPTIMIZERS
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_BY_IT)
def test_what_it_cannot_do_is_refused_by_name(exported: Exported, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}.*\(nearest: .+\)"):
        content_of(with_values(exported, **NOT_BY_IT[name]))


def test_model_texts_and_metric_that_it_cannot_do_are_refused_at_once_also_by_the_script(
    exported: Exported, tmp_path: Path
) -> None:
    module = written(exported, tmp_path)
    strange = exported.model_copy(
        update={
            "metric": "roc_auc",
            "data": exported.data.model_copy(update={"train": "part-*.csv", "group_column": "who"}),
            "model": exported.model.model_copy(update={"gguf_file": "model.gguf"}),
        }
    )
    with pytest.raises(ConfigurationError) as caught:
        content_of(strange)
    (tmp_path / "train.json").write_text(to_json(strange.model_dump(mode="json")))
    with pytest.raises(SystemExit) as told:
        module.main([])
    for name in ("data.train part-*.csv", "data.group_column who", "model.gguf_file", "the metric roc_auc"):
        assert name in str(caught.value)
        assert name in str(told.value)
