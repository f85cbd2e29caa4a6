"""Layer-wise learning rates: the rate decays layer by layer, and has a factor for new weights.

With decay d and n transformer layers, counted from 0 at the bottom, the rate of layer i is multiplied by d**(n - i),
that of the embeddings and all else below the layers by d**(n + 1), and that of the head and all above them by 1: the
convention of BEiT (Bao et al. 2022); the idea is Howard and Ruder's (2018), ELECTRA's form Clark et al.'s (2020).
What is above the layers is what `layers.above_layers` names.

The factor of new weights comes on top. Random weights have further to go than pretrained ones, which a rate of
their own spares from moving as far: discriminative fine-tuning (Howard and Ruder 2018), `lr_mult` of AutoGluon's heads,
which is 1 unless set.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from hpo.model.layers import heights

Group = dict[str, Any]
"""A parameter group of torch's: `params`, a list of parameters; `rate_factor`, what the trial's rate is multiplied by
for them; `hidden`, whether they are matrices of the transformer layers."""


def rate_factors(
    network: Any, names: Iterable[str], decay: float, fresh: Collection[str] = frozenset(), head_rate: float = 1.0
) -> dict[str, float]:
    """Return name -> what the trial's learning rate is multiplied by for that parameter, above 0.

    Args:
        network: a transformers model.
        names: of its parameters.
        decay: what the rate is multiplied by at each layer going down, above 0 and at most 1.
        fresh: names of new weights.
        head_rate: what their rate is further multiplied by, above 0.
    """
    found = heights(network)
    top = max(found.values())
    return {name: decay ** (top - found[name]) * (head_rate if name in fresh else 1.0) for name in names}


def parameter_groups(network: Any, parameters: Mapping[str, nn.Parameter], factors: Mapping[str, float]) -> list[Group]:
    """Return groups for an optimizer, each parameter in one: those of one rate, hidden matrices apart from the others.

    Args:
        network: a transformers model.
        parameters: name -> trained parameter of it.
        factors: name -> its factor, by `rate_factors`.
    """
    found = heights(network)
    top = max(found.values())
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        hidden = parameter.ndim == 2 and 0 < found[name] < top
        groups.setdefault((factors[name], hidden), []).append(parameter)
    return [
        {"params": members, "rate_factor": factor, "hidden": hidden} for (factor, hidden), members in groups.items()
    ]
