"""Weights in 4 bits: LoRA trains, resumes and is handed on over them, and merges into those of 16 bits."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, set_seed

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ModelConfig, StudyConfig
from hpo.data.splits import splits_of
from hpo.export.exported_file import Exported
from hpo.files import checkpoints
from hpo.runners.run import run
from hpo.training.worker import open_worker
from tests.export.lora_cases import LORA, Case, predicted
from tests.models import save_tiny_llama, tiny_assignment, tiny_hyperparameters, tiny_study, write_texts
from tests.training.test_resumption import compare

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'llm-hpo[quantized]'")


@pytest.fixture
def quantized(tmp_path: Path) -> StudyConfig:
    model = save_tiny_llama(tmp_path / "llama")
    set_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    # bitsandbytes packs rows by 32 on a CPU.
    LlamaModel(LlamaConfig(**shape, vocab_size=40, max_position_embeddings=32, eos_token_id=0)).save_pretrained(model)
    texts = write_texts(tmp_path / "texts.csv", 160)
    return tiny_study(model, texts, model={"name": str(model), "quantization": "nf4", "dtype": "bf16"})


def test_linear_layers_have_4_bits_and_what_trains_has_32(quantized: StudyConfig) -> None:
    worker = open_worker(quantized, splits_of(quantized))
    model = worker._context.begin(tiny_hyperparameters(method="lora"), seed=0, total_steps=1).model
    assert {parameter.dtype for parameter in model.parameters.values()} == {torch.float32}
    model.backbone.mount({})
    layer = model.backbone.network.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == layer.in_features * layer.out_features / 2
    assert model.backbone.network.model.embed_tokens.weight.dtype == torch.bfloat16


def test_it_resumes_to_the_last_bit(quantized: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.Checkpoints, "is_due", lambda *_: True)
    assignment = tiny_assignment(tiny_hyperparameters(method="lora", lora_dropout=0.2))
    sections = {"model": quantized.model.model_dump()}
    compare(Path(quantized.model.name), Path(quantized.data.train), tmp_path, assignment, cut=5, **sections)


def test_a_search_learns(quantized: StudyConfig, tmp_path: Path) -> None:
    space = {name: {"value": value} for name, value in LORA.items()}
    store = quantized.store.model_copy(update={"url": f"sqlite:///{tmp_path / 'hpo.db'}"})
    budget = quantized.budget.model_copy(update={"trials": 1})
    results = run(quantized.model_copy(update={"space": space, "store": store, "budget": budget}))
    assert results.best.score is not None
    assert results.best.score > 0.8


@pytest.mark.parametrize("merge", [False, True])
def test_it_is_handed_on(quantized: StudyConfig, exported: Exported, tmp_path: Path, merge: bool) -> None:
    """As an adapter over 4 bits, or merged into the weights that these were made of, in 16."""
    model = ModelConfig.model_validate(quantized.model.model_dump())
    chosen = exported.model_copy(update={"model": model, "hyperparameters": Hyperparameters.model_validate(LORA)})
    of = Case(exported=chosen, folder=tmp_path)
    folder, said = of.trained("model", merge=merge)
    names = [name for name, _ in predicted(folder, of.splits.validation.texts)]
    right = [name == label for name, label in zip(names, of.splits.validation.labels, strict=True)]
    assert sum(right) / len(right) > 0.8
    if merge:
        assert said[-1].startswith("Merged, f1 on validation is ")
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())
