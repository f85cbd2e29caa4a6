"""The automatic space goes by a model's kind and size, which its config.json says, and says which it is and why."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from hpo.config.loading import load_config, load_study
from hpo.errors import ConfigurationError
from hpo.search.preflight import refuse_unfit_search, space_of_study
from hpo.space.space_file import AUTO, is_decoder, load_space, parameters_of, shipped_spaces, space_for

BERT = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 30522}
MINILM = BERT | {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
BASE = BERT | {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
HUGE = BERT | {"model_type": "xlm-roberta-xl", "hidden_size": 2560, "num_hidden_layers": 36, "intermediate_size": 10240}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "num_hidden_layers": 30}


def folder_of(config: object, tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("config", "space", "why"),
    [
        (MINILM, "encoder_small", "the model is an encoder of about 22M parameters"),
        (BASE, "encoder", "the model is an encoder of about 108M parameters"),
        (HUGE, "encoder_lora", "the model is an encoder of about 2,909M parameters"),
        (BERT, "encoder", "the model is an encoder of unknown size"),
        (LLAMA, "decoder_lora", "the model is a decoder"),
    ],
)
def test_the_space_follows_kind_and_size(config: dict[str, Any], space: str, why: str, tmp_path: Path) -> None:
    found = space_for({"name": folder_of(config, tmp_path)})
    assert found == (space, f"Space auto is {space}, since {why}; space: NAME takes another.")
    assert space in shipped_spaces()


def test_a_gguf_file_is_taken_for_a_decoder() -> None:
    assert space_for({"name": "anywhere", "gguf_file": "model.gguf"})[0] == "decoder_lora"


@pytest.mark.parametrize("config", ["no mapping", None])
def test_of_what_cannot_be_read_it_is_said_what_is_assumed(config: object, tmp_path: Path) -> None:
    name = folder_of(config, tmp_path) if config else str(tmp_path)
    space, said = space_for({"name": name})
    assert space == "encoder"
    assert f"config.json of {name} cannot be read and an encoder of usual size is assumed" in said


def test_every_kind_of_classifier_is_told_as_transformers_tells_it() -> None:
    """One that has a masked language model is no decoder, and one that has a causal one alone is; but for XLNet."""
    masked, causal = MODEL_FOR_MASKED_LM_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    wrong = set()
    for kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys() & {*masked, *causal}:
        both = bool(CONFIG_MAPPING[kind]().to_dict().get("is_encoder_decoder"))
        if is_decoder({"model_type": kind, "is_encoder_decoder": both}) != (kind not in masked and not both):
            wrong.add(kind)
    assert wrong == {"xlnet"}


def test_a_class_of_its_own_says_what_it_is() -> None:
    assert not is_decoder({"model_type": "other", "architectures": ["OtherForMaskedLM"]})
    assert is_decoder({"model_type": "modernbert-decoder", "architectures": ["ModernBertDecoderForCausalLM"]})
    assert is_decoder({"model_type": "bert", "is_decoder": True})


@pytest.mark.parametrize(
    "kind",
    ["albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlnet"],
)
def test_the_number_of_parameters_is_about_right(kind: str) -> None:
    config = CONFIG_MAPPING[kind]()
    with torch.device("meta"):
        counted = sum(weight.numel() for weight in AutoModel.from_config(config).parameters())
    assert parameters_of(config.to_dict()) == pytest.approx(counted, rel=0.25)


def test_a_study_without_a_space_has_the_automatic_one_and_says_so(tmp_path: Path) -> None:
    values = {"study": "s", "model": {"name": folder_of(MINILM, tmp_path)}, "data": {"train": "t.csv"}}
    config = load_config(values=values)
    assert config.space == AUTO
    space = space_of_study(config)
    assert space == load_space("encoder_small")
    assert space.notes[0].startswith("Space auto is encoder_small, since")
    assert space_of_study(load_config(values=values | {"space": "encoder"})) == load_space("encoder")


@pytest.mark.parametrize("model", [BERT, MINILM, HUGE, LLAMA])
def test_the_automatic_space_can_run_with_label_words(model: dict[str, Any], tmp_path: Path) -> None:
    values = {"study": "s", "model": {"name": folder_of(model, tmp_path)}, "data": {"train": "t.csv"}}
    config = load_config(values=values | {"task": {"head": "label_words"}})
    space = space_of_study(config)
    refuse_unfit_search(config, space)
    assert not space.takes("method", "head")
    if model is BERT:
        assert space.takes("method", "full")
        assert space.takes("method", "top_layers")
        assert space.notes[-1].startswith(
            "Space encoder is searched without head_scale, head_rate, method head, which label"
        )


def test_an_override_reaches_into_the_automatic_space_wherever_the_model_is_given(tmp_path: Path) -> None:
    values = {"study": "s", "data": {"train": "t.csv"}}
    overrides = ["space.epochs.max=9", f"model.name={folder_of(LLAMA, tmp_path)}"]
    study, notes = load_study(values=values, overrides=overrides)
    expected = load_space("decoder_lora").to_mapping()
    space = space_of_study(study).to_mapping()
    assert space.pop("epochs")["max"] == 9
    assert space == {name: spec for name, spec in expected.items() if name != "epochs"}
    assert [note for note in notes if note.startswith("Space auto is decoder_lora")] == list(notes)
    with pytest.raises(ConfigurationError, match="'space' is auto, which goes by the model, but none is given"):
        load_config(values=values, overrides=["space.epochs.max=9"])


def test_choosing_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from hpo.space.space_file import space_for; "
        f"print(space_for({{'name': {folder_of(MINILM, tmp_path)!r}}})[0]); "
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[:2] == ["encoder_small", "[]"]
