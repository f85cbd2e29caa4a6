"""A search with label words: learns, stands against the untuned model, ends in a folder that predicts, resumes."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.data.splits import splits_of
from hpo.errors import ConfigurationError, ModelError, SpaceError
from hpo.export.configs import configuration_of
from hpo.export.exported_file import Exported
from hpo.export.model_folder import train_into
from hpo.export.python_script import content_of_script
from hpo.export.retraining import compute_of
from hpo.export.training_arguments import to_training_arguments
from hpo.messages import Action
from hpo.runners.run import run
from hpo.store.results import StudyResults
from hpo.training.worker import Worker, open_worker
from hpo.verdict.judgement import verdict_on
from tests.command_line import Hpo
from tests.models import save_tiny_llama, tiny_assignment, tiny_hyperparameters, tiny_study, trained, write_texts
from tests.tasks.language_models import save_tiny_decoder, save_tiny_masked_model

SPACE = {
    "method": {"values": ["full", "top_layers"]},
    "trained_layers": {"value": 1, "when": {"method": ["top_layers"]}},
    "learning_rate": {"value": 0.01},
    "batch_size": {"value": 8},
    "epochs": {"value": 2},
    "max_length": {"value": 48},
    "class_weights": {"value": "balanced"},
    "label_smoothing": {"value": 0.05},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("label_words")
    return load_config(
        values={
            "study": "words",
            "model": {"name": str(save_tiny_decoder(folder / "model"))},
            "data": {"train": str(write_texts(folder / "texts.csv", 300)), "test_fraction": 0.2},
            "task": {"head": "label_words", "label_words": {"sport": "sport news", "money": "money news"}},
            "space": SPACE,
            "search": {"sampler": "random"},
            "evaluation": {"rung_rows": 20, "rungs": 4, "first_rung": 250},
            "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
            "budget": {"trials": 3},
            "confirmation": {"finalists": 1, "seeds": 3, "share": 0.5, "audit": 0},
            "store": {"url": f"sqlite:///{folder / 'hpo.db'}"},
        }
    )


@pytest.fixture(scope="module")
def results(config: StudyConfig) -> StudyResults:
    return run(config)


@pytest.fixture(scope="module")
def exported(results: StudyResults) -> Exported:
    return Exported.model_validate(configuration_of(results, None))


def worker_of(config: StudyConfig, **task: Any) -> Worker:
    changed = config.model_copy(update={"task": config.task.model_copy(update=task)})
    return open_worker(changed, splits_of(changed))


def test_it_learns_and_stands_against_the_untuned_model(results: StudyResults) -> None:
    best = results.best.validation
    assert best is not None
    verdict = verdict_on(results)
    assert verdict is not None
    scores = {one.name: one.score for one in verdict.baselines}
    assert {"untuned model", "untuned model, calibrated", "majority class"} <= scores.keys()
    assert best.objective > scores["untuned model"] + 0.1
    assert best.objective > 0.8


def test_the_final_model_predicts_what_it_was_scored_by(hpo: Hpo, exported: Exported, tmp_path: Path) -> None:
    train_into(tmp_path / "model", exported, compute_of(exported), "train", lambda _: None)
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert network.lm_head.weight is network.model.embed_tokens.weight
    assert "asked for the word of each label behind a prompt" in (tmp_path / "model" / "README.md").read_text()
    answer = hpo("predict", tmp_path / "model", exported.data.train)
    assert answer.code == 0, answer.err
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert sum(row["prediction"] == row["label"] for row in rows) / len(rows) > 0.8


def test_exports_that_know_no_label_words_say_so(exported: Exported) -> None:
    for export in (to_training_arguments, content_of_script):
        with pytest.raises(ConfigurationError, match=r"task.head label_words \(nearest: a language model trained"):
            export(exported)


def test_nothing_is_drawn_anew_and_a_tied_head_stays_with_the_embeddings(config: StudyConfig) -> None:
    worker = worker_of(config)
    backbone = worker._context.model
    assert backbone.fresh == frozenset()
    before = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    chosen = tiny_hyperparameters(method="top_layers", trained_layers=1, max_length=48)
    trained(worker, tiny_assignment(chosen))
    changed = {name for name, tensor in backbone.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith("model.layers.1.") or name == "model.norm.weight"}
    assert worker._context.begin(chosen, seed=1, total_steps=1).model.parameters.keys() == changed
    backbone.reset(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.network.state_dict().items())


def test_a_masked_model_learns_too(tmp_path: Path) -> None:
    config = tiny_study(
        save_tiny_masked_model(tmp_path / "model"),
        write_texts(tmp_path / "texts.csv", 80),
        task={"head": "label_words"},
    )
    worker = open_worker(config, splits_of(config))
    assert isinstance(worker._context.model.network, type(AutoModelForMaskedLM.from_pretrained(tmp_path / "model")))
    chosen = tiny_hyperparameters(max_length=48, batch_size=4, dropout=0.0, word_swap=0.2, token_masking=0.1)
    reports, outcome = trained(worker, tiny_assignment(chosen), {1000: Action.CONTINUE})
    assert outcome.best is not None
    assert reports[-1].validation.values["loss"] < 0.5 < math.log(2)


def test_check_shows_the_prompt_of_a_row_and_the_words(hpo: Hpo, config: StudyConfig, tmp_path: Path) -> None:
    answer = hpo(
        "check", "--model", save_tiny_masked_model(tmp_path / "model"), "--train", config.data.train,
        "task.head=label_words", "space.method={value: full}", "space.max_length={value: 48}", "compute.threads=1",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    said = " ".join((answer.out + answer.err).split())
    assert "The model reads '<s> Text : " in said
    assert "and is asked for 'money': money; 'sport': sport." in said


def test_the_head_alone_is_refused_as_nothing_would_train(hpo: Hpo, config: StudyConfig) -> None:
    sampled = SPACE | {"method": {"values": ["full", "head"]}}
    told = "task.head is label_words, which has no weights drawn anew: leave out method head"
    fixed = {name: spec for name, spec in SPACE.items() if name != "trained_layers"} | {"method": {"value": "head"}}
    for space in (sampled, fixed):
        with pytest.raises(SpaceError, match=told):
            run(config.model_copy(update={"study": "head", "space": space}))
    with pytest.raises(ConfigurationError, match=told):
        worker_of(config)._context.begin(tiny_hyperparameters(method="head"), seed=0, total_steps=1)
    with pytest.raises(SpaceError, match="leave out head_scale"):
        run(config.model_copy(update={"study": "scale", "space": SPACE | {"head_scale": {"value": 0.5}}}))


def test_a_model_without_a_language_model_head_is_refused(tmp_path: Path, config: StudyConfig) -> None:
    folder = save_tiny_llama(tmp_path / "model")
    of_it = config.model_copy(update={"model": config.model.model_copy(update={"name": str(folder)})})
    with pytest.raises(ModelError, match=r"has no language-model head.*lm_head.weight is missing; choose a model"):
        worker_of(of_it)
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"hidden_size": 32}))
    with pytest.raises(ModelError, match=r"do not fit its config.json"):
        worker_of(of_it)
