"""Models of the hub: one that it lacks, or a hub that cannot be reached, is told in a sentence, and soon."""

import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hpo.config.hub import refuse_absent
from hpo.config.study_file import ModelConfig
from hpo.errors import ModelError
from hpo.model.model_files import refuse_incomplete

NAME = "someone/some-model"


def answering(monkeypatch: pytest.MonkeyPatch, error: type[Exception], words: str) -> None:
    """Let the hub answer with an error, made without the response that it would hold."""
    made = error.__new__(error)
    Exception.__init__(made, words)

    def answer(*_: object, **__: object) -> None:
        raise made

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)


def test_a_hub_that_cannot_be_reached_is_told_soon_and_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{nobody}/{{repo_id}}/{{filename}}")
    began = time.monotonic()
    with pytest.raises(ModelError) as error:
        refuse_incomplete(ModelConfig(name=NAME))
    assert time.monotonic() - began < 10
    assert str(error.value).startswith(f"There is no folder {NAME}, and the hub cannot be reached (")
    assert str(error.value).endswith(f"); name a folder that holds a model, or try again once {nobody} answers.")
    assert capfd.readouterr() == ("", "")


def test_a_model_that_the_hub_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, RepositoryNotFoundError, "404 Client Error.\n\nRepository Not Found.")
    with pytest.raises(ModelError, match=f"no folder {NAME}, and the hub gives no such model: 404 Client Error\\.$"):
        refuse_absent(NAME, None)
    with pytest.raises(ModelError, match="the hub gives no such model"):
        refuse_absent("no id, but words", None)


def test_a_hub_with_troubles_of_its_own_and_a_model_at_hand_are_left_to_loading(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answering(monkeypatch, HfHubHTTPError, "503 Server Error")
    refuse_absent(NAME, None)
    answering(monkeypatch, OSError, "no network")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(tmp_path / "config.json"))
    refuse_absent(NAME, None)
