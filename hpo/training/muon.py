"""Muon for the matrices of the transformer layers, AdamW for all else: embeddings, pooler, head, biases and norms.

Both step at one learning rate: a matrix's update is scaled to the root mean square of AdamW's (Liu et al. 2025).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import optim

from hpo.training.layer_rates import Group


class Together:
    """Several optimizers, each over parameters of its own, that step as one."""

    def __init__(self, parts: Sequence[optim.Optimizer]) -> None:
        self._parts = tuple(parts)

    @property
    def param_groups(self) -> list[Group]:
        """The groups of all parts; what is written into one is written into its part."""
        return [group for part in self._parts for group in part.param_groups]

    def step(self) -> None:
        """Take a step of each part."""
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parts, as `load_state_dict` takes it."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of optimizers built alike."""
        for part, its_state in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(its_state)


def muon_with_adamw(
    groups: Sequence[Group], of_adam: Mapping[str, Any], momentum: float, newton_schulz_steps: int
) -> Together:
    """Build torch's Muon over the `hidden` groups and AdamW over the others, each only where there are any.

    Args:
        groups: of `layer_rates.parameter_groups`.
        of_adam: torch's `lr`, `betas` and `eps` of AdamW; the rate is Muon's too.
        momentum: of Muon.
        newton_schulz_steps: of Muon, by which a matrix is made nearly orthogonal.
    """
    hidden = [group for group in groups if group["hidden"]]
    others = [group for group in groups if not group["hidden"]]
    parts: list[optim.Optimizer] = []
    if hidden:
        as_adamw: dict[str, Any] = {"lr": of_adam["lr"], "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
        parts.append(optim.Muon(hidden, momentum=momentum, ns_steps=newton_schulz_steps, **as_adamw))
    if others:
        parts.append(optim.AdamW(others, **of_adam, weight_decay=0.0, fused=True))
    return Together(parts)
