"""Task section of a study file: the prompt and the words of labels are texts that fit, or refused in a sentence."""

import re

import pytest

from hpo.config.parsing import read_model
from hpo.config.tasks import TaskConfig
from hpo.errors import ConfigurationError


@pytest.mark.parametrize(
    "prompt", ["Label:", "{text} {text}:", "Label of {text}", "{labels} {labels} {text}:", "{title}: {text} Label:"]
)
def test_a_prompt_has_one_place_for_the_text_and_asks_behind_it(prompt: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"'task.prompt' is {prompt!r}, but it holds {{text}} once")):
        TaskConfig(head="label_words", prompt=prompt)


def test_braces_that_are_no_placeholder_are_text() -> None:
    assert TaskConfig(head="label_words", prompt='{"text": "{text}", "label":').prompt is not None


def test_each_word_that_is_no_text_is_named() -> None:
    with pytest.raises(ConfigurationError) as error:
        read_model(TaskConfig, {"head": "label_words", "label_words": {"sport": None, "money": ["bank"]}}, "study")
    assert [said.partition(" is ")[0] for said in error.value.mistakes] == [
        "study: 'label_words.sport'", "study: 'label_words.money'",
    ]  # fmt: skip


def test_keys_of_label_words_are_refused_without_them() -> None:
    with pytest.raises(ValueError, match=r"task.prompt and task.label_words are for task.head label_words"):
        TaskConfig(prompt="Text: {text}\nLabel:")
    with pytest.raises(ValueError, match=r"but task.name is regression; leave one of the two out"):
        TaskConfig(name="regression", head="label_words")


def test_labels_and_words_that_yaml_takes_for_something_else_are_texts() -> None:
    words = TaskConfig.model_validate({"head": "label_words", "label_words": {0: "bad", 1: True}}).label_words
    assert words == {"0": "bad", "1": "true"}
