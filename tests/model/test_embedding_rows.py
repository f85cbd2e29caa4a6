"""Embeddings of used tokens: trials that train only their rows give what training all rows gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM

from hpo.config.study_file import StudyConfig
from hpo.data.batching import Batch
from hpo.data.splits import load_splits
from hpo.files.weights import load_weights
from hpo.model.backbone import Backbone
from hpo.model.embedding_rows import EmbeddingRows, trained_rows
from hpo.model.trial_model import TrialModel
from hpo.tasks.classification import Classification
from hpo.training.gradients import Gradients
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.worker import open_worker
from tests.model.architectures import ARCHITECTURES, tiny_network
from tests.models import tiny_assignment, tiny_hyperparameters, tiny_study, trained

EMBEDDING = "bert.embeddings.word_embeddings"
USED = torch.tensor([0, 2, 3, 5, 6, 9, 11, 17, 20, 39])
STRENGTHS: tuple[dict[str, Any], ...] = (
    {},
    {"l2_strength": 0.1, "l2_form": "coupled", "l1_strength": 1e-3, "l1_form": "penalty"},
    {"l2_strength": 0.1, "l2_form": "decoupled", "l1_strength": 1e-3, "l1_form": "proximal"},
    {"l2_strength": 0.1, "regularize_towards": "pretrained"},
)


def batches(steps: int) -> list[Batch]:
    """Return batches of random used tokens, with padding."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(steps):
        ids = USED[1:][torch.from_numpy(random.integers(0, len(USED) - 1, (8, 6)))]
        mask = torch.arange(6) < torch.from_numpy(random.integers(2, 7, 8))[:, None]
        inputs = {"input_ids": ids * mask, "attention_mask": mask.long()}
        made.append(Batch(inputs=inputs, targets=torch.arange(8) % 2))
    return made


def after_training(bert: Backbone, task: Classification, values: dict[str, Any], tokens: torch.Tensor | None) -> Any:
    """Return the trained weights of some steps, and the shape of the trained matrix."""
    model = TrialModel(bert, task, tiny_hyperparameters(dropout=0.1, **values), seed=0, tokens=tokens)
    training, gradients = OptimizerStep(model, total_steps=6), Gradients()
    for batch in batches(6):
        training.take(gradients.of(model, batch))
    with training.evaluating():
        weights = {name: weight.clone() for name, weight in model.weights().items()}
    assert model.weights_bytes == sum(weight.nbytes for weight in weights.values())
    return weights, model.parameters[f"{EMBEDDING}.weight"].shape


@pytest.mark.parametrize(
    ("optimizer", "strengths"),
    [
        (name, strengths)
        for name, kind in OPTIMIZERS.items() if kind.is_elementwise
        for strengths in STRENGTHS if (name, strengths.get("l1_form")) != ("schedule_free_adamw", "proximal")
    ],
)  # fmt: skip
def test_the_rows_that_occur_are_trained_as_they_are_among_all_others(
    optimizer: str, strengths: dict[str, Any], bert: Backbone, task: Classification
):
    values = {"optimizer": optimizer, "learning_rate": 1e-3, **strengths}
    pretrained = bert.network.state_dict()[f"{EMBEDDING}.weight"].clone()
    of_all, shape_of_all = after_training(bert, task, values, None)
    of_used, shape_of_used = after_training(bert, task, values, USED)
    assert (shape_of_all, shape_of_used) == ((40, 16), (10, 16))
    embeddings = of_used.pop(f"{EMBEDDING}.weight"), of_all.pop(f"{EMBEDDING}.weight")
    torch.testing.assert_close(embeddings[0][USED], embeddings[1][USED], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(of_used, of_all, rtol=1e-4, atol=1e-6)
    others = np.setdiff1d(np.arange(40), USED)
    assert torch.equal(embeddings[0][others], pretrained[others])
    assert not torch.equal(embeddings[0][USED[1:]], pretrained[USED[1:]])


def test_a_token_that_does_not_occur_is_an_error_and_padding_gets_no_gradient():
    whole = nn.Embedding(40, 4, padding_idx=3)
    rows = EmbeddingRows(whole, torch.tensor([1, 3, 7, 52]))
    assert rows.tokens.tolist() == [1, 3, 7]
    found = rows(torch.tensor([[7, 3], [1, 7]]))
    assert torch.equal(found, whole(torch.tensor([[7, 3], [1, 7]])))
    found.sum().backward()
    assert rows.weight.grad is not None
    assert rows.weight.grad[:, 0].tolist() == [1.0, 0.0, 2.0]
    with pytest.raises(IndexError):
        rows(torch.tensor([2]))


class Scaled(nn.Embedding):
    """An embedding that is more than a lookup."""


class Network(nn.Module):
    """A network with an embedding, and an output layer that may share its weights."""

    def __init__(self, embedding: nn.Embedding, *, is_tied: bool = False) -> None:
        super().__init__()
        self.words, self.output = embedding, nn.Linear(4, 40, bias=False)
        if is_tied:
            self.output.weight = embedding.weight

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def get_output_embeddings(self) -> nn.Module:
        return self.output


def test_all_rows_are_trained_if_they_are_not_rows_of_one_lookup_or_almost_all_occur():
    some = torch.arange(32)
    assert trained_rows(Network(nn.Embedding(40, 4)), some).keys() == {"words"}
    frozen = Network(nn.Embedding(40, 4)).requires_grad_(False)
    others = (Network(Scaled(40, 4)), Network(nn.Embedding(40, 4, max_norm=1.0)), frozen)
    assert not any(trained_rows(network, some) for network in others)
    assert not trained_rows(Network(nn.Embedding(40, 4), is_tied=True), some)
    assert not trained_rows(Network(nn.Embedding(40, 4)), torch.arange(33))


def test_all_rows_are_trained_if_a_language_model_head_reads_the_matrix():
    config = ARCHITECTURES["deberta_v2"][0](**ARCHITECTURES["deberta_v2"][1], num_hidden_layers=1)
    some = torch.arange(8)
    assert trained_rows(tiny_network("deberta_v2"), some)
    assert not trained_rows(AutoModelForMaskedLM.from_config(config), some)
    config.legacy = False
    assert not trained_rows(AutoModelForMaskedLM.from_config(config), some)


def test_a_trial_trains_the_tokens_of_all_splits_and_keeps_the_whole_matrix(
    tiny_bert: Path, texts: Path, tmp_path: Path
):
    data = {"train": str(texts), "test_fraction": 0.2}
    config: StudyConfig = tiny_study(tiny_bert, texts, data=data)
    worker = open_worker(config, load_splits(config.data, 0), tmp_path)
    context = worker._context
    training = context.begin(tiny_hyperparameters(max_length=6), 0, total_steps=1)
    embedding = context.model.network.get_input_embeddings()
    rows = np.concatenate([
        split.tokens.ids[split.tokens.positions(np.array([row]))]
        for split in context.tokenized(6).values() for row in range(split.tokens.rows)
    ])  # fmt: skip
    tokenizer = context.model.tokenizer
    assert set(embedding.tokens.tolist()) == {*rows.tolist(), *tokenizer.all_special_ids}
    assert training.parameters[f"{EMBEDDING}.weight"].shape == (len(embedding.tokens), 16)
    trained(worker, tiny_assignment())
    assert load_weights(tmp_path, 0)[f"{EMBEDDING}.weight"].shape == (40, 16)
    of_adafactor = context.begin(tiny_hyperparameters(optimizer="adafactor"), 0, total_steps=1)
    assert of_adafactor.parameters[f"{EMBEDDING}.weight"].shape == (40, 16)
