"""Lets memory run out in a model's forward or backward pass, where the rows that go through at once say so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hpo.model.methods import transformer_layers
from hpo.training.worker import Worker

When = Callable[[torch.Tensor], bool]
Exhaust = Callable[[], object]


@contextmanager
def in_forward(worker: Worker, when: When, exhaust: Exhaust) -> Iterator[None]:
    """Let `exhaust` raise in a forward pass of such rows."""

    def before(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if when(inputs[0]):
            exhaust()

    with before_the_layers(worker, before):
        yield


@contextmanager
def in_backward(worker: Worker, when: When, exhaust: Exhaust) -> Iterator[None]:
    """Let `exhaust` raise in the backward pass of such rows, when all but the embeddings have their gradients."""

    def before(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].requires_grad and when(inputs[0]):
            inputs[0].register_hook(lambda _gradient: exhaust())

    with before_the_layers(worker, before):
        yield


@contextmanager
def before_the_layers(worker: Worker, hook: Callable[[nn.Module, tuple[torch.Tensor, ...]], None]) -> Iterator[None]:
    """Call `hook` with the hidden states that the first layer is given, in each pass."""
    _, layers = transformer_layers(worker._context.model.network)
    handle = layers[0].register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def in_training(most_rows: int) -> When:
    """Return whether more rows than these are trained on at once."""
    return lambda rows: torch.is_grad_enabled() and len(rows) > most_rows


def in_evaluation(most_rows: int) -> When:
    """Return whether more rows than these are scored at once."""
    return lambda rows: not torch.is_grad_enabled() and len(rows) > most_rows


def weights_of(worker: Worker) -> dict[str, torch.Tensor]:
    return {name: weight.cpu().clone() for name, weight in worker._context.model.network.state_dict().items()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)
