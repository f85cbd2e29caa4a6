"""Word tree: the words of all labels behind one prompt, so that one row of a decoder scores them all.

A node is a beginning of words, from the empty one to all but the last token of each; words that begin alike share it.
In a row the nodes' tokens follow the prompt. Each sees the prompt and its own beginnings alone, at the position that
it would have if its word alone followed the prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Word = tuple[int, ...]
"""The tokens of a word, at least one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WordTree:
    """Words, of which none is the beginning of another."""

    labels: int
    """How many words there are."""
    nodes: tuple[Word, ...]
    """Beginnings of words, the shorter ones first; the first one is empty, and stands for the prompt's last token."""
    sees: Tensor
    """Whether a token sees another that is no later: 0 for the prompt, the number of a node, one more for padding;
    bool, shape (nodes + 1, nodes + 1)."""
    steps: Tensor
    """Each token of each word: its label, the node that it follows, and the token; int64, shape (3, tokens)."""

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
        """The tokens that follow the prompt in a row: those of all nodes but the first."""
        return tuple(node[-1] for node in self.nodes[1:])

    def branched(self, inputs: Mapping[str, Tensor], ends: Tensor) -> dict[str, Tensor]:
        """Return inputs in which each node sees its own beginnings alone.

        Args:
            inputs: of the network, `input_ids` of shape (rows, length) among them.
            ends: place of the prompt's last token in each row, behind which the nodes follow; shape (rows,).

        Returns:
            The inputs with `position_ids` of shape (rows, length) and an `attention_mask` of shape
            (rows, 1, length, length), True where a token is seen.
        """
        device, width = ends.device, inputs["input_ids"].shape[1]
        places = torch.arange(width, device=device)
        part = (places - ends[:, None]).clamp(0, len(self.nodes))
        depths = torch.tensor([0, *map(len, self.nodes[1:]), 0], device=device)
        seen = self.sees.to(device)[part[:, :, None], part[:, None, :]] & (places[:, None] >= places)
        positions = torch.where(part == 0, places, ends[:, None] + depths[part])
        return {**inputs, "attention_mask": seen[:, None], "position_ids": positions}

    def scores(self, logits: Tensor) -> Tensor:
        """Return the log-probability of each word behind the prompt in nats, shape (rows, labels).

        Args:
            logits: of the token that follows each node, fp32, shape (rows, nodes, vocabulary).
        """
        labels, nodes, tokens = self.steps.to(logits.device)
        steps = logits[:, nodes, tokens] - logits.logsumexp(dim=-1)[:, nodes]
        return steps.new_zeros(len(logits), self.labels).index_add(1, labels, steps)
