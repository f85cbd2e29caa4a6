"""The model of one trial: what it owns of a network, from its first weights to those that are saved and put back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ModelError
from hpo.tasks.protocol import Task
from hpo.training.backbone import Backbone
from hpo.training.methods import select_parameters, to_training_mode
from hpo.training.precision import Precision
from hpo.training.randomness import RandomState


class TrialModel:
    """A trial's parameters, dropout and random state over a backbone, whose weights it rewrites."""

    def __init__(
        self,
        backbone: Backbone,
        task: Task[Any],
        hyperparameters: Hyperparameters,
        *,
        seed: int,
        random: RandomState | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """Put the backbone where every training under these values starts, in training mode.

        Args:
            backbone: no other trial's.
            task: gives the loss.
            hyperparameters: which say what trains.
            seed: of what is drawn anew.
            random: what dropout masks are drawn from; None for generators of its own.
            precision: of the forward pass.

        Raises:
            ModelError, ConfigurationError: the model does not have what the hyperparameters ask for.
        """
        self.backbone, self.precision = backbone, precision
        self.random = random or RandomState(seed, backbone.device)
        self.hyperparameters = hyperparameters
        self.criterion = task.criterion(hyperparameters, backbone.device)
        backbone.reset(seed, hyperparameters.head_scale)
        backbone.keep_layers(hyperparameters.kept_layers)
        backbone.set_dropout(hyperparameters.dropout, hyperparameters.attention_dropout)
        self.parameters: dict[str, nn.Parameter] = select_parameters(backbone.network, backbone.fresh, hyperparameters)
        """Name -> trained parameter."""
        to_training_mode(backbone.network)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put trained weights in, as `parameters` were of a trial of these values; nothing of them is held.

        Raises:
            ModelError: they are of another model.
        """
        shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        if shapes != {name: weight.shape for name, weight in weights.items()}:
            raise ModelError(
                "The trained weights are of another model or label set; give the study that model, or train again."
            )
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])

    def forget_gradients(self) -> None:
        """Free the gradients, which are as large as what trains."""
        for parameter in self.parameters.values():
            parameter.grad = None
