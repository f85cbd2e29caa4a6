"""Trial model: the parameters, random state and dropout that one trial owns over a backbone."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch, concatenate
from hpo.errors import ModelError
from hpo.messages import Precision
from hpo.model.backbone import Backbone, compute_in_fp32
from hpo.model.lora import LoraLinear, lora_layers
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
            shares: whether other trials train over the backbone too.

        Raises:
            ModelError, ConfigurationError: the model does not have what the hyperparameters ask for, or cannot be
                shared by such trials.
        """
        self.backbone, self.precision = backbone, precision
        self.random = random or RandomState(seed, backbone.device)
        self.hyperparameters = hyperparameters
        self.criterion = task.criterion(hyperparameters, backbone.device)
        backbone.reset(seed, hyperparameters.head_scale)
        self._method = METHODS[hyperparameters.method]
        if not self._method.shares:
            backbone.hold_pretrained()
        backbone.layers.keep(hyperparameters.kept_layers)
        backbone.dropouts.put(hyperparameters.dropout, hyperparameters.attention_dropout)
        self.parameters: dict[str, nn.Parameter] = select_parameters(backbone.network, backbone.fresh, hyperparameters)
        """Name -> trained parameter."""
        to_training_mode(backbone.network)
        self.modules: dict[str, nn.Module] = {}
        """Path in the network -> the module that stands there while this trial computes; none where it rewrites it."""
        if self._method.shares:
            self._take_copies()
        elif shares:
            raise ModelError(
                f"Trials of method {hyperparameters.method} cannot share {type(backbone.network).__name__}; set "
                "compute.slots to 1."
            )
        if hyperparameters.method == "lora":
            adapters = lora_layers(backbone.network, hyperparameters, backbone.fresh, seed)
            self.modules |= adapters
            self.parameters |= _parameters_of(adapters)
        backbone.mount(self.modules)

    def _take_copies(self) -> None:
        """Give the trial copies of what trains, so that the network stays as it is."""
        network = self.backbone.network
        self.modules = {path: deepcopy(module) for path, module in trained_modules(network).items()}
        for module in self.modules.values():
            if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
                compute_in_fp32(module)
        own = _parameters_of(self.modules)
        if own.keys() != self.parameters.keys():
            raise ModelError(
                f"{type(network).__name__} has no head in modules of its own, which method "
                f"{self.hyperparameters.method} trains; choose method full or top_layers."
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


def _parameters_of(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {
        f"{path}.{name}": parameter for path, module in modules.items() for name, parameter in module.named_parameters()
    }


class RowsOfTrials(nn.Module):
    """What stands at a path for each of several trials, in one place: each sees its own rows, in its own random state.

    A layer that adapters stand beside is computed once, for all rows.
    """

    def __init__(self, path: str, models: Sequence[TrialModel], batches: Sequence[Batch]) -> None:
        """Put together what stands at a path, for a batch of each trial, one behind the other."""
        super().__init__()
        own = models[0].backbone.own(path)
        modules = [model.modules.get(path, own) for model in models]
        self._base = (own if any(isinstance(module, LoraLinear) for module in modules) else None,)
        self._modules_of_trials = nn.ModuleList(modules)
        self._randoms, self._batches = [model.random for model in models], batches

    def forward(self, states: Tensor) -> Tensor:
        """Return what each module gives for its rows, shape (rows, ...)."""
        (base,), rows = self._base, [batch.rows for batch in self._batches]
        parts = torch.split(states, rows)
        outputs = parts if base is None else torch.split(base(states), rows)
        found = []
        for module, random, batch, part, output in zip(
            self._modules_of_trials, self._randoms, self._batches, parts, outputs, strict=True
        ):
            with random:
                if base is None:
                    output = module(part)
                elif isinstance(module, LoraLinear):
                    output = _adapted(module, output, part, batch.width)
            found.append(output)
        return torch.cat(found)


def _adapted(module: LoraLinear, output: Tensor, states: Tensor, width: int) -> Tensor:
    """Add an adapter's output where a trial has tokens, and draw its dropout for these alone, as beside no other."""
    if states.ndim == 2 or width == states.shape[1]:
        return module.added_to(output, states)
    return torch.cat([module.added_to(output[:, :width], states[:, :width]), output[:, width:]], dim=1)


def logits_of_trials(models: Sequence[TrialModel], batches: Sequence[Batch]) -> tuple[Tensor, ...]:
    """Return the logits of a batch of each trial, all through the network at once; fp32, each (rows, labels)."""
    first, *others = models
    first.backbone.checkpointing.randoms = [model.random for model in models] if others else ()
    if not others:
        first.backbone.mount(first.modules)
        with first.random:
            return (first.backbone.logits(batches[0], first.precision),)
    paths = dict.fromkeys(path for model in models for path in model.modules)
    first.backbone.mount({path: RowsOfTrials(path, models, batches) for path in paths})
    joined = concatenate(batches, first.backbone.pad_id)
    return torch.split(first.backbone.logits(joined, first.precision), [batch.rows for batch in batches])
