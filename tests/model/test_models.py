import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, LlamaModel

from hpo.config.study_file import ModelConfig, StudyConfig
from hpo.config.tasks import TaskConfig
from hpo.data.batching import Batch, collate
from hpo.data.splits import load_splits
from hpo.data.tokenization import TokenizedSplit, tokenize
from hpo.errors import ModelError
from hpo.model import model_files
from hpo.model.backbone import Backbone
from hpo.model.methods import head_parameters
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.tasks.classification import Classification
from tests.model.architectures import ARCHITECTURES, tiny_network
from tests.models import LONGEST, row_of, save_tiny_llama, tiny_hyperparameters
from tests.training.synchronizing import Waits

CPU = torch.device("cpu")


def weights(model: Backbone) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_the_head_is_what_pretraining_did_not_leave(bert: Backbone):
    assert bert.fresh == {"classifier.weight", "classifier.bias"}
    assert bert.longest == LONGEST
    assert {parameter.dtype for parameter in bert.network.parameters()} == {torch.float32}
    assert bert.network.config.id2label == {0: "money", 1: "sport"}


def test_reset_puts_everything_back_in_place(bert: Backbone):
    bert.reset(5)
    bert.hold_pretrained()
    places = {name: tensor.data_ptr() for name, tensor in bert.network.state_dict().items()}
    before = weights(bert)
    with torch.no_grad():
        for parameter in bert.network.parameters():
            parameter.add_(1.0)
    bert.network(torch.tensor([[2, 5, 3]])).logits.sum().backward()
    bert.reset(5)
    assert differing(weights(bert), before) == set()
    assert {name: tensor.data_ptr() for name, tensor in bert.network.state_dict().items()} == places
    assert all(parameter.grad is None for parameter in bert.network.parameters())


def test_the_seed_decides_the_head_alone(bert: Backbone):
    bert.reset(5)
    five = weights(bert)
    bert.reset(6)
    assert differing(weights(bert), five) == {"classifier.weight"}
    assert five["classifier.weight"].std() == pytest.approx(bert.network.config.initializer_range, rel=0.4)
    assert torch.equal(five["classifier.bias"], torch.zeros(2))


def test_the_head_is_drawn_at_the_scale_that_is_asked_for(bert: Backbone):
    bert.reset(5)
    librarys = weights(bert)
    bert.reset(5, 0.5)
    drawn = torch.randn((2, 16), generator=torch.Generator().manual_seed(5))
    assert torch.equal(bert.network.classifier.weight, 0.5 * drawn)
    assert differing(weights(bert), librarys) == {"classifier.weight"}
    assert torch.equal(bert.network.classifier.bias, torch.zeros(2))
    again = weights(bert)
    bert.reset(6, 0.5)
    assert differing(weights(bert), again) == {"classifier.weight"}
    bert.reset(5, 0.5)
    assert differing(weights(bert), again) == set()


def test_at_the_librarys_own_scale_the_head_is_the_librarys(bert: Backbone):
    bert.reset(5)
    librarys = weights(bert)
    bert.reset(5, bert.network.config.initializer_range)
    assert differing(weights(bert), librarys) == set()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_that_is_drawn_anew_has_the_scale_and_nothing_else(bert: Backbone, name: str):
    network = tiny_network(name)
    pooler = {one for one, _ in network.named_parameters() if "pooler" in one}
    model = Backbone(network, bert.tokenizer, frozenset(pooler | head_parameters(network)), CPU, None)
    model.reset(5)
    librarys = weights(model)
    model.reset(5, 0.5)
    changed = differing(weights(model), librarys)
    assert changed == {one for one in model.fresh if librarys[one].ndim >= 2}
    drawn = torch.cat([weights(model)[one].flatten() for one in changed])
    # By four standard errors of a deviation.
    assert drawn.std() == pytest.approx(0.5, rel=4 / (2 * drawn.numel()) ** 0.5)


def test_reset_does_not_touch_the_random_state(bert: Backbone):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    bert.reset(5, 0.5)
    assert torch.equal(torch.rand(1), expected)


def test_weights_are_the_pretrained_ones(bert: Backbone, tiny_bert: Path):
    again = AutoModelForSequenceClassification.from_pretrained(tiny_bert).bert.state_dict()
    own = bert.network.bert.state_dict()
    assert all(torch.equal(own[name], again[name]) for name in again)


def test_the_head_of_another_classifier_is_not_taken_over(
    bert: Backbone, task: Classification, tmp_path: Path, tiny_bert: Path
):
    bert.reset(5)
    bert.network.save_pretrained(tmp_path)
    bert.tokenizer.save_pretrained(tmp_path)
    model = load_model(ModelConfig(name=str(tmp_path)), task, CPU)
    model.reset(6)
    assert "classifier.weight" in differing(weights(model), weights(bert))
    bert.reset(6)
    assert differing(weights(model), weights(bert)) == set()


def test_dropout_is_set_and_given_back(bert: Backbone):
    layers = [module for module in bert.network.modules() if isinstance(module, torch.nn.Dropout)]
    bert.dropouts.put(0.37)
    assert {layer.p for layer in layers} == {0.37}
    bert.dropouts.put(None)
    assert {layer.p for layer in layers} == {0.1}
    bert.dropouts.put(0.37, attention=0.2)
    assert {layer.p for layer in layers} == {0.37, 0.2}
    bert.dropouts.refuse()
    bert.dropouts.refuse_attention()


def test_the_pretrained_reference_leaves_out_the_head(bert: Backbone):
    bert.reset(5)
    reference = bert.pretrained(dict(bert.network.named_parameters()))
    assert "classifier.weight" not in reference
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(reference[name], bert.network.get_parameter(name))


def test_weights_of_another_model_are_refused(bert: Backbone, task: Classification):
    model = TrialModel(bert, task, tiny_hyperparameters(method="head"), seed=0)
    for trained in ({}, {"classifier.weight": torch.zeros(3, 16), "classifier.bias": torch.zeros(3)}):
        with pytest.raises(ModelError, match="are of another model or label set"):
            model.load(trained)


@pytest.fixture
def llama(tiny_llama: Path, task: Classification) -> Backbone:
    model = load_model(ModelConfig(name=str(tiny_llama)), task, CPU)
    model.reset(0)
    model.network.eval()
    return model


def test_a_decoder_without_padding_token_pads_with_its_end_of_text(llama: Backbone):
    assert llama.tokenizer.pad_token == "</s>"
    assert llama.pad_id == llama.network.config.pad_token_id == 0
    assert llama.fresh == {"score.weight"}


@pytest.mark.parametrize("end", ["", " </s>", " </s> </s>"])
def test_padding_does_not_change_what_a_decoder_answers(llama: Backbone, end: str):
    texts = ["goal team", "the bank price market trade tax" + end, "profit" + end, "a new win for the team of coach"]
    tokens = tokenize(texts, None, llama.tokenizer, 16)
    split = TokenizedSplit(tokens=tokens, targets=torch.zeros(4, dtype=torch.int64).numpy())
    together = llama.logits(collate(split, [0, 1, 2, 3], llama.pad_id), "fp32")
    alone = torch.cat([llama.logits(collate(split, [row], llama.pad_id), "fp32") for row in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    # The pooled token is the last that is not padding: computed here from the hidden states themselves.
    hidden = llama.network.model(torch.from_numpy(row_of(tokens, 1)[None].astype("int64"))).last_hidden_state[0]
    last = max(place for place, token in enumerate(row_of(tokens, 1)) if token != llama.pad_id)
    torch.testing.assert_close(together[1], llama.network.score(hidden[last]), rtol=1e-5, atol=1e-6)


def refused(task: Classification, name: object, **values: str) -> str:
    with pytest.raises(ModelError) as refusal:
        load_model(ModelConfig(name=str(name), **values), task, CPU)
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_no_such_folder(task: Classification, tmp_path: Path):
    assert refused(task, tmp_path / "none").startswith(f"There is no folder {tmp_path / 'none'};")


def test_a_folder_without_a_model(task: Classification, tmp_path: Path):
    assert "holds no config.json" in refused(task, tmp_path)


def test_a_folder_without_weights(task: Classification, tmp_path: Path, tiny_bert: Path):
    shutil.copy(tiny_bert / "config.json", tmp_path)
    assert "but no weights; expected model.safetensors" in refused(task, tmp_path)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_folder_without_tokenizer(task: Classification, tmp_path: Path, kind: str):
    """Of which transformers makes an empty one, or for a GPT-2 none."""
    tiny_network(kind).save_pretrained(tmp_path)
    assert "holds no tokenizer; expected tokenizer.json" in refused(task, tmp_path)


@pytest.mark.parametrize("wrong", [{"num_hidden_layers": "two"}, {"num_attention_heads": 3}])
def test_a_config_with_a_value_that_cannot_be(task: Classification, tmp_path: Path, wrong: dict[str, Any]):
    network = tiny_network("llama")
    network.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(network.config.to_dict() | wrong))
    assert str(next(iter(wrong.values()))) in refused(task, tmp_path)


def test_a_broken_weights_file(task: Classification, tmp_path: Path, tiny_bert: Path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    said = refused(task, tmp_path)
    assert said.startswith(f"The model of {tmp_path} cannot be loaded: ")
    assert said.endswith("; see whether each file of its weights is whole.")


def test_a_broken_tokenizer(task: Classification, tmp_path: Path, tiny_bert: Path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert f"The tokenizer of {tmp_path} cannot be loaded: " in refused(task, tmp_path)


def test_weights_of_another_shape(task: Classification, tmp_path: Path, tiny_bert: Path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    assert "do not fit its config.json" in refused(task, tmp_path)


def without(weights: Path, part: str, folder: Path) -> None:
    """Write the tensors of a file, but those of one part, into a folder."""
    kept = {name: tensor for name, tensor in load_file(weights).items() if part not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_vocabulary_that_is_larger_than_the_stored_embeddings(task: Classification, tmp_path: Path, tiny_bert: Path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 1}))
    said = refused(task, tmp_path)
    assert "1 tensors are missing or of another shape, the first is bert.embeddings.word_embeddings.weight" in said


def test_embeddings_that_are_not_in_the_file(task: Classification, tmp_path: Path, tiny_bert: Path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    without(tmp_path / "model.safetensors", "word_embeddings", tmp_path)
    assert "the first is bert.embeddings.word_embeddings.weight" in refused(task, tmp_path)


def test_a_pooler_that_is_not_in_the_file_is_drawn_anew(task: Classification, tmp_path: Path, tiny_bert: Path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    without(tmp_path / "model.safetensors", "pooler", tmp_path)
    model = load_model(ModelConfig(name=str(tmp_path)), task, CPU)
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert model.fresh == pooler | {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("lost", [None, "embeddings"])
def test_a_class_that_does_not_name_its_pretrained_part(
    task: Classification, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, lost: str | None
):
    """As remote code may be: what stands behind the layers is its head, and all else is to be in the file."""
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    model.save_pretrained(tmp_path / "whole")
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    without(tmp_path / "whole" / "model.safetensors", lost or "nothing", tmp_path)
    monkeypatch.setattr(BertForSequenceClassification, "base_model_prefix", "")
    embeddings = property(lambda network: lambda: network.bert.embeddings.word_embeddings)
    monkeypatch.setattr(BertForSequenceClassification, "get_input_embeddings", embeddings)
    if lost is not None:
        assert "the first is bert.embeddings" in refused(task, tmp_path)
        return
    loaded = load_model(ModelConfig(name=str(tmp_path)), task, CPU)
    assert loaded.fresh == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"
    }  # fmt: skip


def test_an_architecture_without_a_classification_head(task: Classification, tmp_path: Path, tiny_bert: Path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert "(clip) that transformers has no classification head for" in refused(task, tmp_path)


def test_a_gguf_file_that_is_not_there_or_not_named(task: Classification, tiny_bert: Path, tmp_path: Path):
    assert "holds no file x.gguf" in refused(task, tiny_bert, gguf_file="x.gguf")
    (tmp_path / "y.gguf").write_bytes(b"GGUF")
    assert "which model.gguf_file names. Known: y.gguf." in refused(task, tmp_path, gguf_file="x.gguf")
    assert "holds no config.json; set model.gguf_file to take y.gguf." in refused(task, tmp_path)


def test_a_hub_that_cannot_be_reached(task: Classification, monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr(model_files, "refuse_absent", lambda *_: None)
    monkeypatch.setattr(Classification, "load", unreachable)
    message = refused(task, "someone/some-model")
    assert message == (
        "There is no folder someone/some-model, and the hub gives no such model: We couldn't connect to the hub."
    )


def test_remote_code_is_refused_in_a_sentence(task: Classification, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, trust_remote_code: bool, **__: object) -> None:
        assert trust_remote_code is False
        raise ValueError("Loading this requires code; set the option `trust_remote_code=True`.")

    monkeypatch.setattr(model_files, "refuse_absent", lambda *_: None)
    monkeypatch.setattr(Classification, "load", refuse)
    assert "model.trust_remote_code: true" in refused(task, "someone/some-model")


def test_weights_in_4_bits_are_loaded_on_the_cpu_too(
    tmp_path: Path, task: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default transformers puts them on a GPU, where the backbone can take no fingerprint and no fresh head."""
    given: dict[str, Any] = {}

    def refuse(*_: object, **options: Any) -> None:
        given.update(options)
        raise OSError("It is enough.")

    monkeypatch.setattr("hpo.model.pretrained._in_four_bits", lambda: "nf4")
    monkeypatch.setattr("hpo.model.pretrained.refuse_incomplete", lambda _: None)
    monkeypatch.setattr(Classification, "load", refuse)
    with pytest.raises(ModelError):
        load_model(ModelConfig(name=str(tmp_path), dtype="bf16", quantization="nf4"), task, CPU)
    assert (given["quantization_config"], given["device_map"]) == ("nf4", {"": "cpu"})


def test_loading_prints_nothing(study: StudyConfig, task: Classification, capfd: pytest.CaptureFixture[str]):
    load_model(study.model, task, CPU)
    assert capfd.readouterr() == ("", "")


def test_logits_are_computed_in_fp32_under_bf16_so_that_they_do_not_tie(bert: Backbone, study: StudyConfig):
    bert.reset(3, head_scale=1.0)
    bert.network.eval()
    splits = load_splits(study.data, study.seed)
    tokens = tokenize(splits.train.texts, None, bert.tokenizer, 16)
    batch = collate(TokenizedSplit(tokens=tokens, targets=np.zeros(splits.train.rows)), range(splits.train.rows), 0)
    with torch.no_grad():
        logits, exact = bert.logits(batch, "bf16"), bert.logits(batch, "fp32")
    assert not torch.equal(logits, exact), "the layers are computed in bf16"
    assert (logits == logits.bfloat16()).float().mean() < 0.1, "and what they give is not rounded again"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_mask_is_prepared_for_those_that_take_it_so_that_nothing_waits(bert: Backbone, name: str):
    network = tiny_network(name).eval()
    fresh = {one for one, _ in network.named_parameters() if not one.startswith(f"{network.base_model_prefix}.")}
    model = Backbone(network, bert.tokenizer, frozenset(fresh), CPU, None)
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(4, 30, (4, 6), generator=generator), torch.ones(4, 6, dtype=torch.int64)
    for padding in (6, 3):
        mask[0, padding:], ids[0, padding:] = 0, model.pad_id
        batch = Batch(inputs={"input_ids": ids, "attention_mask": mask}, targets=torch.zeros(4))
        with torch.no_grad(), Waits(set()) as waits:
            found = model.logits(batch, "fp32")
            count = waits.count
            assert torch.equal(found, network(input_ids=ids, attention_mask=mask).logits)
        if name in ("bert", "roberta", "electra", "distilbert"):
            assert count == 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what a process maps")
def test_frozen_weights_in_their_own_number_format_stay_in_their_file(tmp_path: Path) -> None:
    """Which every process of a machine maps: none holds a copy of them, also while trials of LoRA train."""
    folder = save_tiny_llama(tmp_path / "model")
    LlamaModel.from_pretrained(folder).bfloat16().save_pretrained(folder)
    task = Classification.of(TaskConfig(), ["money", "sport"])
    backbone = load_model(ModelConfig(name=str(folder), dtype="bf16"), task, CPU)
    model = TrialModel(backbone, task, tiny_hyperparameters(method="lora"), seed=0)
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line.split()[0].split("-") for line in lines if line.endswith(f"{folder}/model.safetensors")]
    held = [(int(begin, 16), int(end, 16)) for begin, end in mapped]
    backbone.mount({})
    for name, weight in backbone.network.named_parameters():
        assert any(begin <= weight.data_ptr() < end for begin, end in held) == (name not in backbone.fresh), name
    assert model.parameters
