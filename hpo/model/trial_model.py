"""Trial model: the parameters, random state and dropout that one trial owns over a backbone."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch
from hpo.errors import ModelError
from hpo.messages import Precision
from hpo.model.backbone import Backbone
from hpo.model.methods import METHODS, select_parameters, to_training_mode, trained_modules
from hpo.model.randomness import RandomState
from hpo.tasks.protocol import Task


class TrialModel:
    """A trial's parameters, dropout and random state over a backbone: of the network's own, or in modules beside it."""

    def __init__(
        self,
        backbone: Backbone,
        task: Task[Any],
        hyperparameters: Hyperparameters,
        *,
        seed: int,
        random: RandomState | None = None,
        precision: Precision = "fp32",
        shares: bool = False,
    ) -> None:
        """Put the model where every training under these values starts, in training mode.

        Args:
            backbone: no other trial's, unless all share it.
            task: gives the loss.
            hyperparameters: which say what trains.
            seed: of the new weights.
            random: what dropout masks are drawn from; None for generators of its own.
            precision: of the forward pass.
            shares: whether other trials train over the backbone too: this one has copies of what trains.

        Raises:
            ModelError, ConfigurationError: the model does not have what the hyperparameters ask for, or cannot be
                shared by such trials.
        """
        self.backbone, self.precision = backbone, precision
        self.random = random or RandomState(seed, backbone.device)
        self.hyperparameters = hyperparameters
        self.criterion = task.criterion(hyperparameters, backbone.device)
        backbone.reset(seed, hyperparameters.head_scale)
        backbone.layers.keep(hyperparameters.kept_layers)
        backbone.dropouts.put(hyperparameters.dropout, hyperparameters.attention_dropout)
        self.parameters: dict[str, nn.Parameter] = select_parameters(backbone.network, backbone.fresh, hyperparameters)
        """Name -> trained parameter."""
        to_training_mode(backbone.network)
        self.modules: dict[str, nn.Module] = {}
        """Path in the network -> the module that stands there while this trial computes; none where it rewrites it."""
        if shares:
            self._take_copies()

    def _take_copies(self) -> None:
        found = trained_modules(self.backbone.network)
        self.modules = {path: deepcopy(module) for path, module in found.items()}
        own = {
            f"{path}.{name}": parameter
            for path, module in self.modules.items()
            for name, parameter in module.named_parameters()
        }
        if not METHODS[self.hyperparameters.method].shares or own.keys() != self.parameters.keys():
            raise ModelError(
                f"Trials of method {self.hyperparameters.method} cannot share {type(self.backbone.network).__name__}; "
                "set compute.slots to 1."
            )
        self.parameters = {name: own[name] for name in self.parameters}

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


class RowsOfTrials(nn.Module):
    """A module of each of several trials, in the place of one: each sees its own rows, in its own random state."""

    def __init__(self, path: str, models: Sequence[TrialModel], rows: Sequence[int]) -> None:
        """Put together what stands at a path, for batches of so many rows of each trial, one behind the other."""
        super().__init__()
        self._modules_of_trials = nn.ModuleList(model.modules[path] for model in models)
        self._randoms, self._rows = [model.random for model in models], list(rows)

    def forward(self, states: Tensor) -> Tensor:
        """Return what each module gives for its rows, shape (rows, ...)."""
        found = []
        parts = torch.split(states, self._rows)
        for module, random, part in zip(self._modules_of_trials, self._randoms, parts, strict=True):
            with random:
                found.append(module(part))
        return torch.cat(found)


def logits_of_trials(models: Sequence[TrialModel], batch: Batch, rows: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the logits of a batch of so many rows of each trial, one behind the other; fp32, each (rows, labels)."""
    first, *others = models
    if not others:
        first.backbone.mount(first.modules)
        with first.random:
            return (first.backbone.logits(batch, first.precision),)
    first.backbone.mount({path: RowsOfTrials(path, models, rows) for path in first.modules})
    return torch.split(first.backbone.logits(batch, first.precision), list(rows))
