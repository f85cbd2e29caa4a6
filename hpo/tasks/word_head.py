"""Head of label words: a prompt and the words that may follow it, scored by the model's own language-model head.

A score is the log-probability of a whole word. Prompt and word are tokenized together, as one text; the text of a row
is tokenized with the white space in front of it. A decoder reads the prompt once for all words, which form a tree. If
one word is a prefix of another, such as `sport` and `sport news`, each word ends with the end-of-text token, or with a
line break if there is none. A masked model reads its mask token and a full stop instead of the word.

A node of the tree is a prefix of words, from the empty one to all but the last token of each; words with the same
prefix share it. In a row, the nodes' tokens follow the prompt. Each attends only to the prompt and its own prefixes, at
the position that it would have if only its word followed the prompt.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpo.data.tokenization import BARE, Prompt
from hpo.errors import ConfigurationError, ModelError

Word = tuple[int, ...]
"""Tokens of a word, at least one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WordTree:
    """Tree of words, none of which is a prefix of another."""

    labels: int
    """Number of words."""
    nodes: tuple[Word, ...]
    """Prefixes of words, shorter ones first; the first one is empty, and represents the prompt's last token."""
    sees: Tensor
    """Attention mask between tokens: index 0 for the prompt, then one for each further node, then one for padding;
    bool, shape (nodes + 1, nodes + 1), to be combined with causality."""
    steps: Tensor
    """For each token of each word: its label, the node before it, and the token; int64, shape (3, tokens)."""

    @classmethod
    def of(cls, words: Sequence[Word]) -> "WordTree":
        """Return the tree of words by label."""
        nodes = sorted({word[:end] for word in words for end in range(len(word))}, key=lambda node: (len(node), node))
        sees = torch.eye(len(nodes) + 1, dtype=torch.bool)
        sees[:, 0] = True
        for number, node in enumerate(nodes):
            for end in range(1, len(node)):
                sees[number, nodes.index(node[:end])] = True
        steps = [
            (label, nodes.index(word[:place]), token)
            for label, word in enumerate(words)
            for place, token in enumerate(word)
        ]
        return cls(labels=len(words), nodes=tuple(nodes), sees=sees, steps=torch.tensor(steps).T.contiguous())

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens that follow the prompt in a row: those of all nodes but the first."""
        return tuple(node[-1] for node in self.nodes[1:])

    def branched(self, inputs: Mapping[str, Tensor], ends: Tensor) -> dict[str, Tensor]:
        """Return inputs in which each node attends only to its own prefixes.

        Args:
            inputs: of the network, including `input_ids` of shape (rows, length).
            ends: position of the prompt's last token in each row, after which the nodes follow; shape (rows,).

        Returns:
            The inputs with `position_ids` of shape (rows, length) and an `attention_mask` of shape (rows, 1, length,
            length), True where a token is attended to.
        """
        device, width = ends.device, inputs["input_ids"].shape[1]
        places = torch.arange(width, device=device)
        part = (places - ends[:, None]).clamp(0, len(self.nodes))
        depths = torch.tensor([0, *map(len, self.nodes[1:]), 0], device=device)
        seen = self.sees.to(device)[part[:, :, None], part[:, None, :]] & (places[:, None] >= places)
        positions = torch.where(part == 0, places, ends[:, None] + depths[part])
        return {**inputs, "attention_mask": seen[:, None], "position_ids": positions}

    def scores(self, logits: Tensor) -> Tensor:
        """Return the log-probability of each word after the prompt in nats, shape (rows, labels).

        Args:
            logits: of the token after each node, fp32, shape (rows, nodes, vocabulary).
        """
        labels, nodes, tokens = self.steps.to(logits.device)
        steps = logits[:, nodes, tokens] - logits.logsumexp(dim=-1)[:, nodes]
        return steps.new_zeros(len(logits), self.labels).index_add(1, labels, steps)


ANCHOR = "one"
"""Placeholder for a text while the tokens around it are located."""
SHOWN_CHARACTERS, SHOWN_WORDS = 300, 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WordHead:
    """The head that a model was pretrained with, applied to the words of the labels."""

    template: str
    """The prompt, with the list of labels, and a placeholder for the text."""
    words: Mapping[str, str]
    """Label -> its word, in the order of the labels."""
    prompt: Prompt
    """Prompt tokens; the last ones are those of the tree."""
    spelled: tuple[Word, ...]
    """Tokens of each word."""
    tree: WordTree
    from_end: int
    """Position, counted from the end of a row, of the first token whose logits are read (or of the mask token)."""
    additive: torch.dtype | None
    """Number format of an additive attention mask; None for a boolean mask, True where a token is attended to."""
    window: int | None
    """Most tokens of a row for which every token attends to all before it; None without a limit."""

    def refuse_length(self, max_length: int) -> None:
        """Refuse row lengths at which words of several tokens would attend to more than they do alone."""
        if len(self.tree.nodes) > 1 and self.window is not None and max_length > self.window:
            raise ModelError(
                f"max_length is {max_length}, but behind {self.window} tokens this model no longer sees its first "
                f"ones, and task.label_words has words of several tokens; lower max_length to {self.window}, or give "
                "words of one token."
            )

    def outputs(self, network: Any, inputs: Mapping[str, Tensor], lengths: NDArray[np.int64]) -> Tensor:
        """Return the log-probability of each label's word in nats, fp32, shape (rows, labels)."""
        ends = torch.from_numpy(lengths).to(inputs["input_ids"].device) - self.from_end
        if len(self.tree.nodes) > 1:
            inputs = self.tree.branched(inputs, ends)
            if self.additive is not None:
                hidden = torch.zeros_like(inputs["attention_mask"], dtype=self.additive)
                mask = hidden.masked_fill(~inputs["attention_mask"], torch.finfo(self.additive).min)
                inputs = {**inputs, "attention_mask": mask}
        asked = ends[:, None] + torch.arange(len(self.tree.nodes), device=ends.device)
        with _states_at(network.base_model, asked):
            logits: Tensor = network(**inputs).logits
        return self.tree.scores(logits.float())

    def learned(self) -> dict[str, Any]:
        """Return the prompt and the words."""
        return {"prompt": self.template, "label_words": dict(self.words)}

    def note(self, ids: Sequence[int], tokenizer: Any) -> str:
        """Return the prompt of a row as text, and the words with their tokens."""
        text = tokenizer.decode(ids[: len(ids) - len(self.tree.tokens)])
        half = SHOWN_CHARACTERS // 2
        shown = text if len(text) <= 2 * half else f"{text[:half]} ... {text[-half:]}"
        spelled = [
            f"{label!r}: {' '.join(tokenizer.convert_ids_to_tokens(list(tokens)))}"
            for label, tokens in zip(self.words, self.spelled, strict=True)
        ]
        more = f"; and {len(spelled) - SHOWN_WORDS} more" if len(spelled) > SHOWN_WORDS else ""
        return f"The model reads {shown!r}, and is asked for {'; '.join(spelled[:SHOWN_WORDS])}{more}."


def word_head(template: str, words: Mapping[str, str], network: Any, tokenizer: Any, *, masked: bool) -> WordHead:
    """Return the head for a prompt and words.

    Args:
        template: the prompt, with `{text}`, and `{pair}` if rows have a second text.
        words: label -> its word, for all labels in order.
        network: in evaluation mode.
        tokenizer: its own.
        masked: True if it predicts a masked token from both sides, not the next one.

    Raises:
        ConfigurationError: a word without tokens, or with the same tokens as another; for a masked model, a word of
            several tokens.
        ModelError: the tokenizer merges the text with what surrounds it, or the network cannot score several words.
    """
    _refuse_model(network, tokenizer, masked=masked)
    text, places = _with_anchors(template)
    asked = text.rstrip()
    before, behind = asked + (text[len(asked) :] or " "), "." if masked else ""
    frame = _ids(tokenizer, f"{before}{tokenizer.mask_token}." if masked else asked)
    written = [_ids(tokenizer, f"{before}{word.strip()}{behind}") for word in words.values()]
    start, end = _word_place(frame, written, tokenizer.mask_token_id if masked else None)
    spelled = [tuple(one[start : len(one) - end]) if one[:start] == frame[:start] else () for one in written]
    _refuse_words(words, spelled, tokenizer, masked=masked)
    if not masked and _overlap(spelled):
        spelled = [(*one, *_terminator(tokenizer)) for one in spelled]
    tree = WordTree.of(spelled)
    fixed = frame if masked else [*frame[:start], *tree.tokens]
    config = network.config.get_text_config()
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    head = WordHead(
        template=template,
        words=words,
        prompt=_prompt(tokenizer, asked, places, fixed),
        spelled=tuple(spelled),
        tree=tree,
        from_end=end + 1 if masked else len(tree.nodes),
        additive=network.dtype if config._attn_implementation == "eager" else None,
        window=min((window for window in windows if window), default=None),
    )
    if len(tree.nodes) > 1:
        _refuse_joined(head, network)
    return head


def _refuse_model(network: Any, tokenizer: Any, *, masked: bool) -> None:
    """Raise a `ModelError` if the prompt cannot be tokenized around a text, or the network cannot score its words."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} does not say which tokens a text has, which task.head label_words needs; "
            "choose another model."
        )
    if masked and tokenizer.mask_token is None:
        raise ModelError("The model's tokenizer has no mask token, which task.head label_words asks for the words at.")
    if network.base_model is network:
        raise ModelError(
            f"{type(network).__name__} has no part below its language-model head, which task.head label_words needs; "
            "choose another model."
        )


def _with_anchors(template: str) -> tuple[str, dict[int, int]]:
    """Return a template with an anchor for each text, and the positions of the anchors of text (0) and pair (1)."""
    text, places = "", {}
    for part in re.split(r"(\{text\}|\{pair\})", template):
        if part in ("{text}", "{pair}"):
            places[int(part == "{pair}")] = len(text)
        text += ANCHOR if part in ("{text}", "{pair}") else part
    return text, places


def _word_place(frame: list[int], written: Sequence[list[int]], mask: int | None) -> tuple[int, int]:
    """Return the number of tokens before and after the word: around the mask, or around the common prefix of all words.

    Args:
        frame: the tokens of the prompt, with a mask if there is one.
        written: those of the prompt with each word.
        mask: the mask token; None if the word follows the prompt.
    """
    if mask is None:
        return sum(1 for _ in takewhile(lambda at: len(set(at)) == 1, zip(frame, *written, strict=False))), 0
    start = len(frame) - 1 - frame[::-1].index(mask)
    return start, len(frame) - 1 - start


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text, including added ones, with special tokens in the text recognised as such."""
    return list(tokenizer(text, split_special_tokens=False, verbose=False)["input_ids"])


def _prompt(tokenizer: Any, text: str, places: Mapping[int, int], fixed: Sequence[int]) -> Prompt:
    """Return the prompt with the tokens `fixed`, without those of the anchors at `places`."""
    encoded = tokenizer(text, split_special_tokens=False, verbose=False)
    kept: list[int] = []
    layout: list[int] = []
    gaps, end = {}, 0
    for number, place in sorted(places.items(), key=lambda item: item[1]):
        behind = (encoded.char_to_token(place + len(ANCHOR) - 1) or 0) + 1
        for gap in (" ", ""):
            tokens = tokenizer(f"{gap}{ANCHOR}", **BARE)["input_ids"]
            begin = behind - len(tokens)
            if begin >= end and list(fixed[begin:behind]) == tokens:
                break
        else:
            raise ModelError(
                "The tokenizer joins the text with what is beside it in task.prompt; put a space before {text} there, "
                "and white space behind it."
            )
        layout += [*range(len(kept), len(kept) + begin - end), -1 - number]
        kept += fixed[end:begin]
        gaps[number], end = gap, behind
    layout += range(len(kept), len(kept) + len(fixed) - end)
    return Prompt(ids=(*kept, *fixed[end:]), layout=tuple(layout), gaps=tuple(gaps[number] for number in sorted(gaps)))


def _refuse_words(words: Mapping[str, str], spelled: Sequence[Word], tokenizer: Any, *, masked: bool) -> None:
    """Refuse words without tokens, duplicates, and, for a masked model, words of several tokens."""
    of_tokens: dict[Word, str] = {}
    mistakes = []
    for (label, word), tokens in zip(words.items(), spelled, strict=True):
        start = f"task.label_words: the word of {label!r}, {word!r}, "
        if not word.strip() or not tokens or tokenizer.unk_token_id in tokens:
            mistakes.append(f"{start}has no tokens that the model knows; give another.")
        elif masked and len(tokens) > 1:
            mistakes.append(f"{start}has {len(tokens)} tokens, but a masked model has room for one; give another.")
        elif (other := of_tokens.setdefault(tokens, label)) != label:
            mistakes.append(f"{start}has the same tokens as that of {other!r}; give another.")
    if mistakes:
        raise ConfigurationError(*mistakes)


def _overlap(words: Sequence[Word]) -> bool:
    """Return true if one word is a prefix of another."""
    ordered = sorted(words)
    return any(after[: len(word)] == word for word, after in pairwise(ordered))


def _terminator(tokenizer: Any) -> Word:
    end = tokenizer.eos_token_id
    return tuple(tokenizer("\n", **BARE)["input_ids"]) if end is None else (end,)


@torch.no_grad()
def _refuse_joined(head: WordHead, network: Any) -> None:
    """Raise a `ModelError` if the last word of the tree gets another score together with the others than alone.

    Also if the prompt is too long to score anything behind it.
    """
    prompt = head.prompt.ids[: len(head.prompt.ids) - len(head.tree.tokens)]
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if longest and len(head.prompt.ids) > longest:
        raise ModelError(
            f"The prompt and the words of {len(head.words)} labels have {len(head.prompt.ids)} tokens, but the model "
            f"reads at most {longest}; give a shorter task.prompt, such as one without {{labels}}."
        )
    label, word = max(enumerate(head.spelled), key=lambda one: (len(one[1]), one[1]))
    row = torch.tensor([head.prompt.ids], device=network.device)
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    is_equal = False
    try:
        found = head.outputs(network, inputs, np.array([row.shape[1]]))[0, label]
        written = torch.tensor([[*prompt, *word[:-1]]], device=network.device)
        logits = network(input_ids=written).logits[0, -len(word) :].float()
        alone = logits.log_softmax(dim=-1)[range(len(word)), list(word)].sum()
        is_equal = bool(torch.isclose(found, alone, rtol=torch.finfo(network.dtype).eps ** 0.5, atol=0.0))
    except Exception:
        # Whatever the error, the network does not accept such inputs.
        logger.debug("Words cannot be scored side by side.", exc_info=True)
    if not is_equal:
        raise ModelError(
            f"{type(network).__name__} cannot score words of several tokens side by side, such as "
            f"{[*head.words.values()][label]!r}: it takes no mask or no positions of our own; give words of one token "
            "in task.label_words, such as A, B, C."
        )


@contextmanager
def _states_at(base: Any, places: Tensor) -> Iterator[None]:
    """Restrict everything above the base model to its last states at these positions, shape (rows, places)."""

    def take(_module: Any, _arguments: Any, output: Any) -> Any:
        states = output.last_hidden_state
        output.last_hidden_state = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
        return output

    hook = base.register_forward_hook(take)
    try:
        yield
    finally:
        hook.remove()
