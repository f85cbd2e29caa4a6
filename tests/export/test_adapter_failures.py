"""Adapters that cannot be written or read: each is refused in a sentence, and before training where that is known."""

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from hpo.errors import ConfigurationError, ModelError
from hpo.export import model_folder
from hpo.export.exported_file import Exported
from tests.export.lora_cases import Case, predicted


@pytest.mark.parametrize("torn", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_torn_adapter_is_told_in_a_sentence(case: Callable[..., Case], torn: str) -> None:
    folder, _ = case().trained("model")
    (folder / torn).write_text("{")
    with pytest.raises(ModelError, match=r"The adapter in .* cannot be read: "):
        predicted(folder, ("goal",))


def test_an_adapter_of_a_rank_that_cannot_be_is_told_in_a_sentence(case: Callable[..., Case]) -> None:
    folder, _ = case().trained("model")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 0}))
    with pytest.raises(ModelError, match=r"cannot be read: adapter_config.json: 'lora_rank' is 0, but .* to 1\.$"):
        predicted(folder, ("goal",))


def test_what_has_no_adapter_or_none_for_the_whole_base_is_refused_before_training(
    case: Callable[..., Case], exported: Exported
) -> None:
    full = Case(exported=exported, folder=Path("nowhere"))
    with pytest.raises(ConfigurationError, match="the method is full, which writes the whole model anyway; leave it"):
        full.trained("model", merge=True)
    cut = case(kept_layers=1)
    with pytest.raises(ConfigurationError, match="kept_layers is 1, but PEFT would put the adapter on"):
        cut.trained("model")
    folder, _ = cut.trained("model", merge=True)
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_hidden_layers == 1


def test_an_adapter_that_peft_could_not_write_is_refused_before_training(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = case()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigurationError, match=r"PEFT, which writes the adapter, cannot be imported: .*--merge"):
        lora.trained("model")
    assert (lora.trained("model", merge=True)[0] / "model.safetensors").is_file()


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("file", ["weights", "tokenizer"])
def test_a_disk_that_is_full_at_the_end_is_told_in_a_sentence(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, file: str, merge: bool
) -> None:
    """The libraries that write both have errors of their own, with the system's error in the text."""
    lora, name = case(), "_save_whole" if merge else "_save_adapter"
    if file == "weights":
        monkeypatch.setattr(model_folder, name, with_files_below(4_000, getattr(model_folder, name)))
    else:
        saved = PreTrainedTokenizerFast.save_pretrained
        monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", with_files_below(1_000, saved))
    with pytest.raises(ConfigurationError, match=r"Cannot write .*/model: File too large; name another place"):
        lora.trained("model", merge=merge)
    assert os.listdir(lora.folder) == ["bert"]


def with_files_below(size: int, write: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that writes as `write` does, but no file of more than `size` bytes."""

    def limited(*values: Any, **options: Any) -> Any:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            return write(*values, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
