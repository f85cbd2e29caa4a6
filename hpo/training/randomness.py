"""A trial's own random state, so that nothing outside it changes a bit of it, and it changes nothing outside."""

from types import TracebackType

import torch
from torch import Tensor


class RandomState:
    """torch's generators as one trial left them: `with state:` around its computation swaps them in and out."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        self._outer: list[Tensor] = []
        outside = self._capture()
        torch.manual_seed(seed)
        self._own = self._capture()
        self._restore(outside)

    def __enter__(self) -> None:
        self._outer = self._capture()
        self._restore(self._own)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own = self._capture()
        self._restore(self._outer)

    def current(self) -> list[Tensor]:
        """Return the state of torch's generators as it is now, for a checkpoint."""
        return self._capture()

    def adopt(self, states: list[Tensor]) -> None:
        """Go on, inside the `with`, from a state that `current` returned."""
        self._restore(states)

    def _capture(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else states

    def _restore(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)
