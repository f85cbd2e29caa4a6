"""Batches: order of the rows, size of batches, and padding to one length.

Padding is always on the right, because classification heads of decoders pool the last token that is not padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.data.tokenization import TokenizedSplit

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Examples padded to one length; all tensors on the CPU."""

    inputs: Mapping[str, torch.Tensor]
    """Arguments of the network, such as `input_ids` and `attention_mask` (1 at a token, 0 at padding); int64, each of
    shape (rows, length)."""
    targets: torch.Tensor
    """Targets of the rows, as the task defines them; shape (rows, ...)."""
    origins: tuple[tuple[TokenizedSplit, Rows], ...] = ()
    """Splits and their rows that make up the batch, in order; empty if its tokens were changed."""

    @property
    def rows(self) -> int:
        """Number of examples."""
        return int(self.targets.shape[0])

    @property
    def units(self) -> int:
        """Divisor of the summed losses."""
        return self.rows

    @property
    def width(self) -> int:
        """Length in tokens to which the rows are padded."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, without padding; shape (rows,)."""
        lengths: NDArray[np.int64] = self.inputs["attention_mask"].sum(dim=1).numpy()
        return lengths

    def take(self, rows: Rows) -> "Batch":
        """Return some of the rows, in this order, padded to the longest of them."""
        width = int(self.lengths[rows].max())
        chosen = torch.from_numpy(rows)
        inputs = {name: tensor[chosen, :width] for name, tensor in self.inputs.items()}
        origins = tuple((split, own[rows]) for split, own in self.origins if len(self.origins) == 1)
        return Batch(inputs=inputs, targets=self.targets[chosen], origins=origins)


def concatenate(batches: Sequence[Batch], pad_id: int) -> Batch:
    """Return the rows of several batches as one, padded to the widest of them."""
    width = max(batch.width for batch in batches)
    inputs = {
        name: torch.cat([_widened(batch.inputs[name], width, padding) for batch in batches])
        for name, padding in {**dict.fromkeys(batches[0].inputs, 0), "input_ids": pad_id}.items()
    }
    origins = (
        tuple(chain.from_iterable(batch.origins for batch in batches)) if all(one.origins for one in batches) else ()
    )
    return Batch(inputs=inputs, targets=torch.cat([batch.targets for batch in batches]), origins=origins)


def _widened(rows: torch.Tensor, width: int, padding: int) -> torch.Tensor:
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]), value=padding)


def split_by_length(lengths: NDArray[np.int64], *, pass_tokens: int, most_rows: int) -> list[Rows]:
    """Divide rows by length into parts that go through the model one after the other, the longest first.

    Of all divisions of the rows sorted by length, it is the cheapest, where the cost of a part is its tokens, including
    padding, plus `pass_tokens`.

    Args:
        lengths: tokens of each row, at least 1; shape (rows,), not empty.
        pass_tokens: fixed cost of a pass, in tokens; 0 or more.
        most_rows: most rows of a part.

    Returns:
        Rows of each part; every row is in exactly one.
    """
    rows = lengths.size
    if rows <= most_rows and rows * int(lengths.max()) - int(lengths.sum()) <= pass_tokens:
        return [np.arange(rows)]  # All padding together costs less than another pass.
    order = np.argsort(-lengths, kind="stable")
    widths = lengths[order]
    ends = np.zeros(rows, dtype=np.int64)
    least = np.zeros(rows + 1)  # Lowest cost of the rows from each position on.
    for start in reversed(range(rows)):
        sizes = np.arange(1, min(most_rows, rows - start) + 1)
        costs = sizes * widths[start] + pass_tokens + least[start + sizes]
        # Of equal costs, take the largest part.
        size = costs.size - int(costs[::-1].argmin())
        ends[start], least[start] = start + size, costs[size - 1]
    cuts = [int(ends[0])]
    while cuts[-1] < rows:
        cuts.append(int(ends[cuts[-1]]))
    return np.split(order, cuts[:-1])


def padded_tokens(lengths: NDArray[np.int64], *, pass_tokens: int) -> int:
    """Return the cost in tokens of a batch with rows of these lengths, including padding and `pass_tokens` per pass."""
    parts = split_by_length(lengths, pass_tokens=pass_tokens, most_rows=lengths.size)
    return sum(part.size * int(lengths[part].max()) + pass_tokens for part in parts)


def training_batches(rows: int, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """Return the rows of each batch of an epoch: a permutation, determined by seed and epoch, in consecutive parts.

    Args:
        rows: number of rows.
        batch_size: rows of a batch; the last one may be smaller.
        seed: the trial's, 0 or more.
        epoch: 0 or more.
    """
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(rows)
    return [order[start : start + batch_size] for start in range(0, rows, batch_size)]


def evaluation_batches(lengths: NDArray[np.int64], *, max_tokens: int, max_rows: int) -> list[Rows]:
    """Group rows of similar length, the longest first, so that there is little padding and memory peaks at once.

    Args:
        lengths: tokens of each row, at least 1; shape (rows,).
        max_tokens: most tokens of a batch, including padding; a longer row is a batch of its own.
        max_rows: most rows of a batch.

    Returns:
        Rows of each batch; every row is in exactly one.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < order.size:
        size = max(1, min(max_rows, max_tokens // int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def collate(split: TokenizedSplit, indices: Rows | Sequence[int], pad_id: int) -> Batch:
    """Lay rows side by side, padded to the longest of them.

    Args:
        split: the tokens and targets to take from.
        indices: which rows, in which order; shape (rows,), not empty.
        pad_id: token to pad with.
    """
    rows = np.asarray(indices, dtype=np.int64)
    tokens = split.tokens
    lengths = tokens.lengths_of(rows)
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    source = tokens.positions(rows)
    inputs = {
        "input_ids": _filled(mask, tokens.ids[source], pad_id),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    }
    if tokens.types is not None:
        inputs["token_type_ids"] = _filled(mask, tokens.types[source], 0)
    return Batch(inputs=inputs, targets=torch.from_numpy(split.targets[rows]), origins=((split, rows),))


def _filled(mask: NDArray[np.bool_], values: NDArray[np.int32] | NDArray[np.int8], padding: int) -> torch.Tensor:
    padded = np.full(mask.shape, padding, dtype=np.int64)
    padded[mask] = values
    return torch.from_numpy(padded)
