"""Random state of a trial: its own generators, so that neither it nor what is outside changes the other."""

from collections.abc import Sequence
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

OF_DROPOUT = 1
"""Third number of the seed of dropout masks, by which it differs from those of heads and folds."""


def dropout_seed(seed: int, rank: int) -> int:
    """Return what the dropout masks of a trial on a rank are drawn from: not what its head is, nor any other rank's."""
    return int(np.random.SeedSequence([seed, rank, OF_DROPOUT]).generate_state(1)[0])


class RandomState:
    """torch's generators as one trial left them: `with state:` around its computation swaps them in and out."""

    def __init__(self, seed: int, device: torch.device, rank: int = 0) -> None:
        self._device, self._rank = device, rank
        self._outer: list[Tensor] = []
        outside = self.current()
        self._seed(dropout_seed(seed, rank))
        self.state = self.current()
        """That of the trial, while it does not compute."""
        self._restore(outside)

    def __enter__(self) -> None:
        self._outer = self.current()
        self._restore(self.state)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.state = self.current()
        self._restore(self._outer)

    def current(self) -> list[Tensor]:
        """Return the state of torch's generators as it is now, for a checkpoint."""
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else states

    def adopt(self, of_ranks: Sequence[list[Tensor]]) -> None:
        """Go on, inside the `with`, from what `current` returned on this rank; where it was none, as it is."""
        if self._rank < len(of_ranks):
            self._restore(of_ranks[self._rank])

    def _seed(self, seed: int) -> None:
        """Seed the generators of the CPU and of this device; `torch.manual_seed` would seed those of all devices."""
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(seed)

    def _restore(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)
