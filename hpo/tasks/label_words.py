"""Label words: classification by the probability of each label's word after a prompt, with the language-model head."""

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from hpo.config.tasks import TaskConfig
from hpo.data.labels import listed_labels
from hpo.errors import ConfigurationError, ModelError
from hpo.tasks.classification import Classification
from hpo.tasks.protocol import Baseline
from hpo.tasks.word_head import WordHead, word_head

PROMPT = "Text: {text}\nCategory:"
PROMPT_OF_PAIRS = "Text: {text}\nSecond text: {pair}\nCategory:"
LIST = "Categories: {labels}.\n\n"
"""Prefix of the prompt that lists the labels, if the words are not the labels."""
MOST_NAMES, MOST_TOKENS = 8, 4
"""Largest number of labels, and of tokens of one, for which labels are their own words."""
CALIBRATION_ROWS = 1000
"""Training rows over which answers are averaged; the standard error is then below 0.016."""


class Untuned:
    """Answers of the pretrained model, as they are or calibrated, as a scikit-learn estimator.

    Calibration multiplies the probability of a label by its share of the training rows, divides it by its mean
    probability over them, and divides the products by their sum over labels. So on average, labels are about as
    probable as they are frequent. Zhao et al. 2021 divide by the probabilities for a text without content.
    """

    def __init__(self, *, calibrated: bool) -> None:
        self._calibrated = calibrated

    def fit(self, probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> Self:
        """Compute the factors of the labels from the answers to training rows, shape (rows, labels)."""
        self.classes_ = np.arange(probabilities.shape[1])
        shares = np.bincount(targets, minlength=self.classes_.size) / targets.size
        self._factors = shares / probabilities.mean(axis=0) if self._calibrated else np.ones(self.classes_.size)
        return self

    def predict_proba(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities of the labels, shape (rows, labels)."""
        weighted = probabilities * self._factors
        calibrated: NDArray[np.float64] = weighted / weighted.sum(axis=1, keepdims=True)
        return calibrated


@dataclass(frozen=True, kw_only=True)
class LabelWords(Classification):
    """Classification by label words: exactly one label for each example."""

    prompt: str = PROMPT
    """Prompt of each row, with a placeholder for its text."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Label -> its word; empty to make the words from the labels."""
    baselines: ClassVar[Mapping[str, Baseline]] = {
        **Classification.baselines,
        "untuned model": Baseline(inputs="answers", estimator=partial(Untuned, calibrated=False), train_rows=1),
        "untuned model, calibrated": Baseline(
            inputs="answers", estimator=partial(Untuned, calibrated=True), train_rows=CALIBRATION_ROWS
        ),
    }

    @classmethod
    def of(cls, config: TaskConfig, cells: Sequence[str]) -> Self:
        """Return the task for the labels of the training rows, its metric resolved.

        Raises:
            ConfigurationError: an invalid metric or positive label, or labels without a word.
        """
        found = super().of(config, cells)
        if config.label_words and (missing := set(found.label_names) - set(config.label_words)):
            raise ConfigurationError(
                f"task.label_words has no word for {listed_labels(missing)}; give one for each label of the training "
                "rows, or leave it out."
            )
        words = {name: config.label_words[name] for name in found.label_names} if config.label_words else {}
        return replace(found, prompt=config.prompt or PROMPT, words=words)

    @classmethod
    def restored(cls, learned: Mapping[str, Any]) -> Self:
        """Return the task for these labels, prompt and words."""
        config = TaskConfig(head="label_words", prompt=learned["prompt"], label_words=learned["label_words"])
        return cls.of(config, learned["labels"])

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model with its own head, by transformers' `from_pretrained`.

        Raises:
            ModelError: it has separate parts for reading and writing (an encoder-decoder).
        """
        masked = False
        if "gguf_file" not in options:
            known = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
            config = AutoConfig.from_pretrained(source, **known)
            if config.is_encoder_decoder:
                raise ModelError(
                    f"{source} is an encoder with a decoder, but task.head label_words takes a decoder alone, or a "
                    "masked model; choose another model."
                )
            masked = _is_masked(config)
        return (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(source, **options)

    def head_for(self, network: Any, tokenizer: Any) -> WordHead:
        """Return the head for these words, or for words made from the labels: their names, else letters."""
        asked = partial(_listing, network, tokenizer)
        names = {label: label.replace("_", " ").strip() for label in self.label_names}
        usual = self.prompt in (PROMPT, PROMPT_OF_PAIRS)
        if self.words or not (usual or "{labels}" in self.prompt):
            words = self.words or names
            return asked(self.prompt, words, words.values())
        if len(names) <= MOST_NAMES:
            try:
                head = asked(self.prompt, names, names.values())
                if max(map(len, head.spelled)) <= MOST_TOKENS:
                    return head
            except (ConfigurationError, ModelError):
                # More tokenizers and networks support letters. Other errors occur with letters too.
                pass
        letters = string.ascii_uppercase if len(names) <= len(string.ascii_uppercase) else range(1, len(names) + 1)
        lettered = {label: str(letter) for label, letter in zip(names, letters, strict=False)}
        explained = [f"{lettered[label]}: {name}" for label, name in names.items()]
        return asked(LIST + self.prompt if usual else self.prompt, lettered, explained)


def with_prompt(config: TaskConfig, *, pairs: bool) -> TaskConfig:
    """Return the task with its prompt, for rows of one text or of pairs.

    Raises:
        ConfigurationError: the prompt lacks a placeholder for the second text, or has one without a second text.
    """
    if config.prompt is None:
        return config.model_copy(update={"prompt": PROMPT_OF_PAIRS if pairs else PROMPT})
    if ("{pair}" in config.prompt) is not pairs:
        raise ConfigurationError(
            "task.prompt has no {pair}, but each row has a second text; put {pair} where that belongs."
            if pairs
            else "task.prompt has {pair}, but rows have no second text; leave it out, or name data.text_pair_column."
        )
    return config


def _listing(network: Any, tokenizer: Any, prompt: str, words: Mapping[str, str], listed: Iterable[str]) -> WordHead:
    """Return the head for a prompt that lists the labels."""
    # Braces in a label are no placeholder.
    labels = ", ".join(listed).translate(str.maketrans("{}", "()"))
    return word_head(prompt.replace("{labels}", labels), words, network, tokenizer, masked=_is_masked(network.config))


def _is_masked(config: Any) -> bool:
    """Return true if a model of this config predicts masked tokens from both sides."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
