"""Counts what waits for a GPU, on any device: a number that is taken to the host, a choice by what is in a tensor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hpo.config.hyperparameters import Hyperparameters
from hpo.training.context import TrainingContext
from hpo.training.optimizer_step import OptimizerStep

WAITING = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal", "aten::masked_select")


class Waits(TorchDispatchMode):
    """Counts them; those of `on_host` are not waited for: counters that torch's optimizers hold on the host."""

    def __init__(self, on_host: set[int]) -> None:
        super().__init__()
        self.count = 0
        self._on_host = on_host

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in WAITING and args[0].data_ptr() not in self._on_host:
            self.count += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def waits(step: OptimizerStep) -> Iterator[Waits]:
    with Waits({number.data_ptr() for number in _scalars(step.state()["optimizer"])}) as counted:
        yield counted


def _scalars(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor) and state.dim() == 0:
        yield state
    elif isinstance(state, dict):
        for one in state.values():
            yield from _scalars(one)
    elif isinstance(state, list):
        for one in state:
            yield from _scalars(one)


def begun(context: TrainingContext, hyperparameters: Hyperparameters, taken: int) -> OptimizerStep:
    """Return a training that has taken so many steps, after which its optimizer has all that it holds."""
    step = context.begin(hyperparameters, 0, 100)
    for _ in range(taken):
        take(context, step, hyperparameters)
    return step


def take(context: TrainingContext, step: OptimizerStep, hyperparameters: Hyperparameters, rows: int = 8) -> None:
    batch = context.batch_maker(hyperparameters)(np.arange(rows), [0])
    step.take(context.gradients.of(step.model, batch))
