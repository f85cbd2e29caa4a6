"""Rows of tokens into padded batches: in which order, how many together, how laid side by side.

Padding stands on the right for every model: classification heads of decoders pool the last token that is not
padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.data.tokenization import TokenizedSplit

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Rows padded to one length; all tensors int64 and on the CPU."""

    input_ids: torch.Tensor
    """Shape (rows, length)."""
    attention_mask: torch.Tensor
    """1 at a token, 0 at padding; shape (rows, length)."""
    token_type_ids: torch.Tensor | None
    """Shape (rows, length); None where the model has none."""
    labels: torch.Tensor
    """Class numbers; shape (rows,)."""

    @property
    def rows(self) -> int:
        """How many examples are in it."""
        return int(self.labels.shape[0])

    def parts(self, rows: int) -> Iterator["Batch"]:
        """Return it in parts of at most so many rows, in their order, each padded no further than it needs."""
        for start in range(0, self.rows, rows):
            mask = self.attention_mask[start : start + rows]
            width = int(mask.sum(dim=1).max())
            types = self.token_type_ids
            yield Batch(
                input_ids=self.input_ids[start : start + rows, :width],
                attention_mask=mask[:, :width],
                token_type_ids=None if types is None else types[start : start + rows, :width],
                labels=self.labels[start : start + rows],
            )

    @property
    def tokens(self) -> int:
        """How many tokens are in it, padding left out."""
        return int(self.attention_mask.sum())


def epoch_order(rows: int, seed: int, epoch: int) -> Rows:
    """Return the order in which an epoch sees its rows: a permutation that follows from seed and epoch alone.

    Args:
        rows: how many there are.
        seed: the trial's, 0 or more.
        epoch: 0 or more.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    order: Rows = generator.permutation(rows)
    return order


def training_batches(rows: int, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """Return the rows of each batch of an epoch, in its order; the last batch may be short."""
    order = epoch_order(rows, seed, epoch)
    return [order[start : start + batch_size] for start in range(0, rows, batch_size)]


def evaluation_batches(lengths: NDArray[np.int64], *, max_tokens: int, max_rows: int) -> list[Rows]:
    """Group rows of like length, the longest first, so that little is padding and memory peaks at once.

    Args:
        lengths: tokens of each row, at least 1; shape (rows,).
        max_tokens: most tokens of a batch, padding counted; a longer row makes a batch of its own.
        max_rows: most rows of a batch.

    Returns:
        Rows of each batch; every row stands in exactly one.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < order.size:
        size = max(1, min(max_rows, max_tokens // int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def collate(split: TokenizedSplit, indices: Rows | Sequence[int], pad_id: int, *, multiple_of: int = 1) -> Batch:
    """Lay rows side by side, padded to the longest of them.

    Args:
        split: the tokens and labels to take from.
        indices: which rows, in which order; shape (rows,), not empty.
        pad_id: token to pad with.
        multiple_of: the padded length is rounded up to a multiple of this; 8 suits a GPU's tensor cores.
    """
    rows = np.asarray(indices, dtype=np.int64)
    tokens = split.tokens
    lengths = tokens.lengths_of(rows)
    width = -(-int(lengths.max()) // multiple_of) * multiple_of
    mask = np.arange(width) < lengths[:, None]
    source = tokens.positions(rows)
    return Batch(
        input_ids=_filled(mask, tokens.ids[source], pad_id),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        token_type_ids=None if tokens.types is None else _filled(mask, tokens.types[source], 0),
        labels=torch.from_numpy(split.labels[rows]),
    )


def _filled(mask: NDArray[np.bool_], values: NDArray[np.int32] | NDArray[np.int8], padding: int) -> torch.Tensor:
    padded = np.full(mask.shape, padding, dtype=np.int64)
    padded[mask] = values
    return torch.from_numpy(padded)
