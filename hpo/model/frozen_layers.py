"""Frozen layers: their output for a row of text is computed once, cached in a file, and used in every later pass.

Below the lowest layer that a trial trains, hidden states depend only on the text. They are kept ragged, in the number
format that the layers compute in. Rows are computed in blocks of similar length that depend only on their split, so the
states of a row are the same to the last bit whichever trial needs them first.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpo.data.batching import Batch, Rows, collate, evaluation_batches
from hpo.data.tokenization import TokenizedSplit
from hpo.errors import error_line
from hpo.files.disk import cache_bytes
from hpo.files.shared import RowFile, SharedFiles
from hpo.memory import is_out_of_memory
from hpo.messages import Precision
from hpo.model.backbone import Backbone, Given, all_computed
from hpo.model.last_layer import Forward, forwards
from hpo.model.randomness import RandomState

BLOCK_TOKENS = {"cpu": 512, "cuda": 16384}
"""Tokens of rows computed together, by device type, for an efficient pass."""
MOST_ROWS = 512
MOST_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Largest distance between a network's outputs with and without the cache, divided by the norm of the latter."""
ROWS_TO_JUDGE = 64
"""Numbers of rows read and of rows computed, from which the faster way is chosen."""

logger = logging.getLogger(__name__)


class _Reached(Exception):
    """Signal that a pass has reached the end of the frozen layers."""

    def __init__(self, output: Any) -> None:
        self.output = output


class RowStates:
    """Hidden states of the rows of a split, after some layers."""

    def __init__(self, file: RowFile, split: TokenizedSplit, block_tokens: int) -> None:
        """Cache states in `file`, and compute as many rows at once as have `block_tokens` tokens."""
        self._file, self._lengths = file, split.tokens.lengths
        self._blocks = evaluation_batches(self._lengths[: file.rows], max_tokens=block_tokens, max_rows=MOST_ROWS)
        self._block_of = np.empty(file.rows, dtype=np.int64)
        for number, block in enumerate(self._blocks):
            self._block_of[block] = number
        # Rows and seconds.
        self._read, self._computed = np.zeros(2), np.zeros(2)

    @property
    def pays(self) -> bool:
        """True if reading a row is faster than computing it, as measured in this process."""
        (read, reading), (computed, computing) = self._read, self._computed
        return bool(min(read, computed) < ROWS_TO_JUDGE or reading / read < computing / computed)

    def put(self, states: Tensor, rows: Rows, compute: Callable[[Rows], Tensor]) -> None:
        """Fill in the states of different rows, computed if they are not cached.

        Args:
            states: zeros on the CPU, shape (rows, length, width).
            rows: of the split.
            compute: returns the states of rows of the split, shape (rows, their length or more, width).

        Raises:
            OSError: the file cannot be read or written.
        """
        places = {row: place for place, row in enumerate(rows.tolist())}
        began = time.perf_counter()
        missing = [row for row, place in places.items() if not self._take(row, states[place])]
        self._read += (len(places) - len(missing), time.perf_counter() - began)
        for group in self._groups(missing):
            began = time.perf_counter()
            computed = compute(group).cpu()
            self._computed += (group.size, time.perf_counter() - began)
            for row, own in zip(group.tolist(), computed, strict=True):
                length = self._lengths[row]
                if row in places:
                    states[places[row], :length] = own[:length]
                if row < self._file.rows:
                    self._file.write(row, _bytes(own[:length]).tobytes())

    def _take(self, row: int, states: Tensor) -> bool:
        """Fill in the states of a row if it is cached; return true if so."""
        record = self._file.read(row) if row < self._file.rows else None
        if record is not None:
            _bytes(states[: self._lengths[row]])[:] = np.frombuffer(record, np.uint8)
        return record is not None

    def _groups(self, rows: Sequence[int]) -> list[Rows]:
        """Return the rows that are computed together for these: whole blocks, and rows without a place in the file."""
        beyond = [row for row in rows if row >= self._file.rows]
        numbers = sorted({int(self._block_of[row]) for row in rows if row < self._file.rows})
        return [*(self._blocks[number] for number in numbers), *([np.array(beyond)] if beyond else [])]


def _bytes(states: Tensor) -> NDArray[np.uint8]:
    """Return the memory of contiguous states; numpy has no bf16."""
    of_memory: NDArray[np.uint8] = states.contiguous().view(torch.uint8).numpy().reshape(-1)
    return of_memory


class StateCache:
    """Hidden states cached by a process, of all splits, depths and number formats."""

    def __init__(self, shared: SharedFiles | None, network: str, device: torch.device) -> None:
        """Cache states in files that all workers of the machine share, or in this process's files if `shared` is None.

        Args:
            shared: the folder.
            network: identity of the pretrained weights.
            device: device that computes them.
        """
        self._shared, self._network = shared, network
        self._block_tokens, self._is_timed = BLOCK_TOKENS[device.type], device.type != "cpu"
        self._opened: dict[tuple[object, ...], RowStates | None] = {}
        self._taken = 0
        """Bytes of the files that this process opened."""
        self.is_on = True

    def of(self, split: TokenizedSplit, depth: int, width: int, dtype: torch.dtype) -> RowStates | None:
        """Return the states of a split's rows after `depth` layers; None if they are not cached."""
        key = (split.source, depth, str(dtype))
        if self.is_on and split.source and key not in self._opened:
            self._opened[key] = self._open(split, [*key, self._network], width * dtype.itemsize)
        found = self._opened.get(key) if self.is_on else None
        # Not timed on a CPU: the faster way depends on the load, and the last bits of a trial on the way.
        return found if found and (found.pays or not self._is_timed) else None

    def _open(self, split: TokenizedSplit, made_of: list[object], token_bytes: int) -> RowStates | None:
        path = self._shared.rows_path("states", made_of) if self._shared else None
        try:
            # With their whole sizes, which they may still grow to.
            taken = sum(one.stat().st_size for one in path.parent.glob("*.rows")) if path else self._taken
            most = cache_bytes(path.parent if path else Path(gettempdir())) - taken
            file = RowFile(path, split.tokens.lengths * token_bytes, most)
            self._taken += file.bytes
        except OSError as error:
            self.stop(error)
            return None
        return RowStates(file, split, self._block_tokens) if file.rows else None

    def stop(self, error: Exception) -> None:
        """Stop caching, for a reason that is logged."""
        self.is_on = False
        logger.warning("Frozen layers are computed in every pass from now on: %s", error_line(error))


class FrozenLayers:
    """The bottom layers of a trial's network, which the trial does not change."""

    def __init__(
        self, backbone: Backbone, layers: Sequence[nn.Module], precision: Precision, cache: StateCache
    ) -> None:
        """Take the lowest layers of a backbone, at least one, for passes in `precision`."""
        self._backbone, self._layers, self._cache = backbone, list(layers), cache
        self._answer = partial(backbone.answer, precision=precision)
        self._in_bf16 = precision == "bf16"
        self._last = torch.empty(0)
        """A hidden state, with the width and the number format of the layers' output."""
        self._behind: tuple[None, ...] | None = None
        """Further outputs of a layer after its hidden states, in a tuple; None if it returns these alone."""

    @property
    def depth(self) -> int:
        """Number of these layers."""
        return len(self._layers)

    @contextmanager
    def given(self, batch: Batch) -> Iterator[None]:
        """Within the block, use cached states of a batch's rows, if any, instead of computing the layers."""
        states = self._kept(batch)
        with nullcontext() if states is None else self._giving(states):
            yield

    def agrees(self, batch: Batch) -> bool:
        """Return true if the network gives the same outputs for a batch with states that were computed row by row.

        Not so if dropout acts in these layers or below, if padding matters, or if a layer passes on more than hidden
        states.
        """
        device = self._backbone.device
        try:
            with torch.no_grad():
                with RandomState(0, device):
                    expected = self._answer(batch)
                with RandomState(1, device):
                    rows = [self._computed(batch.take(np.array([row])))[0] for row in range(batch.rows)]
                with RandomState(0, device), self._giving(nn.utils.rnn.pad_sequence(rows, batch_first=True)):
                    found = self._answer(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Any error means that its layers are not a simple stack over hidden states.
            logger.debug("Frozen layers cannot be given states.", exc_info=True)
            return False
        return bool((found - expected).norm() <= MOST_DIFFERENCE[self._dtype] * expected.norm())

    @property
    def _dtype(self) -> torch.dtype:
        """Number format of cached states: that of the layers' products."""
        return torch.bfloat16 if self._in_bf16 else self._last.dtype

    def _kept(self, batch: Batch) -> Tensor | None:
        """Return the states of a batch's rows on the device, shape (rows, length, width); None if some are missing."""
        width = self._last.numel()
        opened = (self._cache.of(split, self.depth, width, self._dtype) for split, _ in batch.origins)
        kept = [of_split for of_split in opened if of_split]
        if not kept or len(kept) < len(batch.origins):
            return None
        states = torch.zeros(batch.rows, batch.width, width, dtype=self._dtype)
        parts = torch.split(states, [rows.size for _, rows in batch.origins])
        try:
            for part, of_split, (split, rows) in zip(parts, kept, batch.origins, strict=True):
                of_split.put(part, rows, partial(self._of_rows, split))
        except (OSError, RuntimeError, MemoryError) as error:
            if not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            self._cache.stop(error)
            return None
        return self._backbone.placed(states).to(self._last.dtype)

    def _of_rows(self, split: TokenizedSplit, rows: Rows) -> Tensor:
        return self._computed(collate(split, rows, self._backbone.pad_id)).to(self._dtype)

    @torch.no_grad()
    def _computed(self, batch: Batch) -> Tensor:
        """Return the states of a batch after the layers, shape (rows, length, width); the pass ends there.

        Raises:
            TypeError: the layers return something else.
        """
        *_, top = self._layers

        def end(forward: Forward, *inputs: Any, **named: Any) -> None:
            raise _Reached(forward(*inputs, **named))

        output: Any = None
        try:
            with forwards({top: partial(end, top.forward)}):
                self._answer(batch)
        except _Reached as reached:
            output = reached.output
        states: Tensor
        states, self._behind = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        alone = isinstance(states, Tensor) and states.shape[:-1] == (batch.rows, batch.width)
        if not alone or any(other is not None for other in self._behind or ()):
            raise TypeError(f"{type(top).__name__} gives more than hidden states.")
        self._last = states[0, 0]
        return states

    def _giving(self, states: Tensor) -> AbstractContextManager[None]:
        """Make each layer return these states, whatever its inputs."""
        output = states if self._behind is None else (states, *self._behind)
        return forwards(dict.fromkeys(self._layers, lambda *_inputs, **_named: output))


def given_by(frozen: FrozenLayers | None) -> Given:
    """Return the provider of cached states for a trial with these frozen layers."""
    return frozen.given if frozen else all_computed
