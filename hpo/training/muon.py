"""Muon optimizer: for the matrices of the transformer layers, with AdamW for embeddings, pooler, head, biases, norms.

Both step at one learning rate: a matrix's update is scaled to the root mean square of AdamW's (Liu et al. 2025).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import optim

from hpo.training.layer_rates import Group


class JointOptimizer(optim.Optimizer):
    """Several optimizers, each over parameters of its own, that step as one."""

    def __init__(self, parts: Sequence[optim.Optimizer]) -> None:
        self._parts = tuple(parts)
        # The groups of the parts themselves: what is written into one is written into its part.
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Take a step of each part."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parts, as `load_state_dict` takes it."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of optimizers built alike."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]


def muon_with_adamw(
    groups: Sequence[Group], of_adam: Mapping[str, Any], momentum: float, newton_schulz_steps: int
) -> JointOptimizer:
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
    return JointOptimizer(parts)
