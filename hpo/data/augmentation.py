"""Data augmentation: word swaps and token masking, drawn anew each time a training example is used."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch, Rows
from hpo.data.tokenization import Tokens
from hpo.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Augmentation:
    """Augmentation of a trial's training batches; all randomness comes from the caller's generator."""

    tokens: Tokens
    """The rows that batches are made of."""
    words: NDArray[np.int32] | None = None
    """Word of each token in `tokens.ids`, from `word_numbers`; None if no words are swapped."""
    word_swap: float = 0.0
    """Number of swaps of two random words in a text, divided by its number of words, in [0, 1)."""
    token_masking: float = 0.0
    """Probability that a non-special token of a text becomes the mask token, in [0, 1)."""
    mask_id: int | None = None
    """The mask token; None if nothing is masked."""
    special_ids: tuple[int, ...] = ()
    """Tokens that are never masked."""

    def apply(self, batch: Batch, rows: Rows, generator: np.random.Generator) -> Batch:
        """Return a copy of the batch with some of its tokens replaced.

        Args:
            batch: `rows`, as `collate` laid them side by side.
            rows: rows of `tokens`, in the batch's order.
            generator: one for this batch only; equal generators give equal batches.
        """
        ids = batch.inputs["input_ids"].numpy().copy()
        if self.word_swap:
            self._swap_words(ids, rows, generator)
        if self.token_masking:
            there = batch.inputs["attention_mask"].numpy().astype(bool)
            masked = (generator.random(ids.shape) < self.token_masking) & there
            masked[there] &= self.tokens.positions(rows) >= self.tokens.special
            ids[masked & ~np.isin(ids, self.special_ids)] = self.mask_id
        return replace(batch, inputs={**batch.inputs, "input_ids": torch.from_numpy(ids)}, origins=())

    def _swap_words(self, ids: NDArray[np.int64], rows: Rows, generator: np.random.Generator) -> None:
        """Swap words in place, within the text and within its pair."""
        assert self.words is not None
        for place, row in enumerate(rows):
            words = self.words[self.tokens.positions(np.array([row]))]
            for half in (0, 1):
                positions = np.flatnonzero((words >= 0) & (words % 2 == half))
                ids[place, positions] = ids[place, self._reordered(positions, words[positions], generator)]

    def _reordered(
        self, positions: NDArray[np.int64], words: NDArray[np.int32], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return `positions` in the order of their words after the swaps; all tokens of a word move together."""
        word = np.cumsum(np.diff(words, prepend=words[:1]) != 0)
        count = int(word[-1]) + 1 if word.size else 0
        swaps = round(self.word_swap * count) if count > 1 else 0
        if not swaps:
            return positions
        places = list(range(count))
        # Draw two different words, all pairs equally likely: the second is drawn from the words other than the first.
        for one, rest in generator.integers(0, (count, count - 1), size=(swaps, 2)).tolist():
            other = rest + (rest >= one)
            places[one], places[other] = places[other], places[one]
        # Stable, so that the tokens of a word keep their order.
        return positions[np.argsort(np.array(places)[word], kind="stable")]


def augmentation(
    hyperparameters: Hyperparameters,
    tokens: Tokens,
    words: NDArray[np.int32] | None,
    tokenizer: "PreTrainedTokenizerBase",
) -> Augmentation | None:
    """Return the augmentation of a trial's training batches, or None if it has none.

    Args:
        hyperparameters: the trial's.
        tokens: the training examples'.
        words: from `word_numbers` of the same texts; may be None if `word_swap` is 0.
        tokenizer: the model's.

    Raises:
        ModelError: tokens are to be masked, and the tokenizer has no mask token.
    """
    if not hyperparameters.token_masking and not hyperparameters.word_swap:
        return None
    if hyperparameters.token_masking:
        refuse_token_masking(tokenizer)
    return Augmentation(
        tokens=tokens,
        words=words,
        word_swap=hyperparameters.word_swap,
        token_masking=hyperparameters.token_masking,
        mask_id=tokenizer.mask_token_id,
        special_ids=tuple(tokenizer.all_special_ids),
    )


def refuse_token_masking(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise a `ModelError` if the tokenizer has no mask token."""
    if tokenizer.mask_token_id is None:
        raise ModelError(
            "token_masking is given, but the model's tokenizer has no mask token; leave token_masking out of the space."
        )


def refuse_word_swap(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise a `ModelError` if the tokenizer does not report which tokens belong to one word."""
    # A tokenizer without word splitting takes these for one word.
    if not tokenizer.is_fast or len(set(tokenizer("one two", add_special_tokens=False).word_ids())) < 2:
        raise ModelError(
            "word_swap is given, but the model's tokenizer does not tell words apart; leave word_swap out of the space."
        )
