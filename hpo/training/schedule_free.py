"""Schedule-free AdamW (Defazio et al. 2024): gradients are taken at y, between the iterate z and the average x.

In training the weights are y, and `optimizer.state[weight]["z"]` is z; x = y + (1 - 1/beta1) * (z - y) is what is
scored and saved. The rate's warm-up is `schedules.py`'s, not the library's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hpo.config.extras import refuse_missing
from hpo.training.layer_rates import Group


def averaging_adamw(groups: Sequence[Group], of_adam: Mapping[str, Any]) -> Any:
    """Build the optimizer, in its training mode, with the rate, betas and epsilon that are Adam's too."""
    refuse_missing("schedulefree", "Optimizer schedule_free_adamw")
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(groups, **of_adam, weight_decay=0.0, warmup_steps=0)
    # The library makes both in a weight's first step; `shift` needs the iterate before it.
    for group in optimizer.param_groups:
        for weight in group["params"]:
            optimizer.state[weight]["z"] = weight.detach().clone()
            optimizer.state[weight]["exp_avg_sq"] = torch.zeros_like(weight)
    optimizer.train()
    return optimizer


@torch.no_grad()
def shift(optimizer: Any, weights: list[Tensor], directions: list[Tensor], amount: float) -> None:
    """Move z by `amount` times `directions` and y by (1 - beta1) of that, so that x stays where it is.

    Ahead of a step, with the weights for directions and minus rate times strength for the amount, that is the library's
    own `weight_decay`: with c the new share of z in the average, y moves in all by 1 - beta1 * (1 - c) of it.

    Args:
        optimizer: made by `schedule_free_adamw`.
        weights: some of its weights, in training mode.
        directions: for each weight a tensor of its shape; may be the weight itself.
        amount: what they are multiplied by.
    """
    beta1 = optimizer.param_groups[0]["betas"][0]
    # The iterates first: a direction that is the weight itself must not have moved.
    torch._foreach_add_([optimizer.state[weight]["z"] for weight in weights], directions, alpha=amount)
    torch._foreach_add_(weights, directions, alpha=(1 - beta1) * amount)


@contextmanager
def averaged(optimizer: Any) -> Iterator[None]:
    """Let the weights be the average x within the block, and afterwards again, to the last bit, what they were."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    # The library would compute y back from x, with rounding. Between steps there are no gradients, so it costs no peak.
    before = [weight.detach().clone() for weight in weights]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            torch._foreach_copy_(weights, before)
