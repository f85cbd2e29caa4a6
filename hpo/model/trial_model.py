"""Trial model: the parameters, random state and dropout that one trial owns over a backbone."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch, concatenate
from hpo.errors import ModelError
from hpo.messages import Precision
from hpo.model.backbone import Backbone, compute_in_fp32
from hpo.model.embedding_rows import EmbeddingRows, trained_rows
from hpo.model.frozen_layers import FrozenLayers, given_by
from hpo.model.lora import AdaptedRows, LoraLinear, adapted, empty_weight, lora_layers
from hpo.model.methods import METHODS, select_parameters, to_training_mode, trained_modules
from hpo.model.randomness import RandomState
from hpo.tasks.protocol import Task


class TrialModel:
    """A trial's parameters, dropout and random state over a backbone, in the network itself or in separate modules."""

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
        tokens: Tensor | None = None,
    ) -> None:
        """Set up the model for the start of every training under these values, in training mode.

        Args:
            backbone: not used by another trial, unless all share it.
            task: gives the loss.
            hyperparameters: decide what trains.
            seed: of the new weights.
            random: random state of dropout masks; None for new generators.
            precision: of the forward pass.
            shares: True if other trials train over the backbone too.
            tokens: all token ids that it is given, in rising order, each once; None to train the embeddings of all.

        Raises:
            ModelError, ConfigurationError: the model does not support the hyperparameters, or cannot be shared by such
                trials.
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
        if hyperparameters.method != "head":
            backbone.compute_first_token()
        backbone.dropouts.put(hyperparameters.dropout, hyperparameters.attention_dropout)
        self.parameters: dict[str, nn.Parameter] = select_parameters(backbone.network, backbone.fresh, hyperparameters)
        """Name -> trained parameter."""
        to_training_mode(backbone.network)
        self.modules: dict[str, nn.Module] = {}
        """Path in the network -> module mounted there while this trial computes; empty if the trial rewrites the
        network."""
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
        self._embeddings: dict[str, EmbeddingRows] = {}
        """Path -> embedding of which only some rows are trained."""
        if tokens is not None:
            self._embeddings = trained_rows(backbone.network, tokens)
            self.modules |= self._embeddings
            self.parameters |= _parameters_of(self._embeddings)
        self.frozen: FrozenLayers | None = None
        """Frozen bottom layers, whose cached output is used; None if all are computed."""
        self.mount()

    def mount(self) -> None:
        """Make the network compute this trial's model."""
        self.backbone.mount(self.modules, given_by(self.frozen))

    def _take_copies(self) -> None:
        """Give the trial copies of the trained modules, so that the network itself does not change."""
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

    def weights(self) -> dict[str, Tensor]:
        """Return name -> trained weight.

        Embeddings are on the CPU, with the rows that are not trained; other weights are not copied.
        """
        weights = {name: weight.detach() for name, weight in self.parameters.items()}
        for path, rows in self._embeddings.items():
            whole, trained = self.backbone.hold_pretrained()[f"{path}.weight"], rows.weight.detach().cpu()
            weights[f"{path}.weight"] = whole.index_copy(0, rows.tokens.cpu(), trained)
        return weights

    @property
    def weights_bytes(self) -> int:
        """Size of `weights`, which are not assembled for it."""
        whole = {f"{path}.weight": self.backbone.hold_pretrained()[f"{path}.weight"] for path in self._embeddings}
        return sum(weight.nbytes for weight in {**self.parameters, **whole}.values())

    def pretrained(self) -> dict[str, Tensor]:
        """Return name -> pretrained value of the trained weights that have one, on the device; read only."""
        weights = self.backbone.pretrained(self.parameters)
        for path, rows in self._embeddings.items():
            weights[f"{path}.weight"] = weights[f"{path}.weight"][rows.tokens]
        return weights

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load trained weights, the `parameters` of a trial with these values and tokens; no reference to them is kept.

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
        """Free the gradients, which are as large as the trained weights."""
        for parameter in self.parameters.values():
            parameter.grad = None


def _parameters_of(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {
        f"{path}.{name}": parameter for path, module in modules.items() for name, parameter in module.named_parameters()
    }


class Slots:
    """Models of trials that share a backbone: their batches go through it at once, each as if it were alone."""

    def __init__(self, models: Sequence[TrialModel]) -> None:
        """Take the models of all trials in training over a backbone; a single one may have any method."""
        self.models = list(models)
        self._backbone = models[0].backbone
        self._parts: list[tuple[TrialModel, Batch]] = []
        self._modules: Mapping[str, nn.Module] = models[0].modules
        if len(models) > 1:
            paths = dict.fromkeys(path for model in models for path in model.modules)
            self._modules = {path: _ModuleOfSlots(path, self._backbone.own(path), self._parts) for path in paths}

    def logits(self, parts: Sequence[tuple[TrialModel, Batch]]) -> tuple[Tensor, ...]:
        """Return the logits for one batch each of some of the models; fp32, each (rows, labels)."""
        backbone, (first, batch) = self._backbone, parts[0]
        is_alone = len(self.models) == 1
        backbone.checkpointing.randoms = () if is_alone else [model.random for model, _ in parts]
        fewest = min((model.frozen for model, _ in parts), key=lambda frozen: frozen.depth if frozen else 0)
        backbone.mount(self._modules, given_by(fewest))
        if is_alone:
            with first.random:
                return (backbone.logits(batch, first.precision),)
        self._parts[:] = parts
        joined = concatenate([batch for _, batch in parts], backbone.pad_id)
        return torch.split(backbone.logits(joined, first.precision), [batch.rows for _, batch in parts])


class _ModuleOfSlots(nn.Module):
    """Module at a path of the network for several trials: each gets its own rows, in its own random state.

    A layer with adapters is computed once, for all rows.
    """

    def __init__(self, path: str, own: nn.Module, parts: Sequence[tuple[TrialModel, Batch]]) -> None:
        """Replace the network's own module `own`, for the trials and batches in `parts`."""
        super().__init__()
        # In a tuple, because a module registers any module that is its attribute.
        self._path, self._own, self._parts = path, (own,), parts

    @property
    def weight(self) -> Tensor:
        """Result of `empty_weight` for the network's own."""
        return empty_weight(self._own[0])

    def forward(self, states: Tensor) -> Tensor:
        """Return each module's output for its rows, shape (rows, ...)."""
        (own,), ends = self._own, list(accumulate(batch.rows for _, batch in self._parts))
        adapters, others = [], []
        for (model, batch), end in zip(self._parts, ends, strict=True):
            module, rows = model.modules.get(self._path, own), slice(end - batch.rows, end)
            if isinstance(module, LoraLinear):
                adapters.append(AdaptedRows(adapter=module, rows=rows, width=batch.width, random=model.random))
            else:
                others.append((model, module, rows))
        if adapters:
            return adapted(own, states, adapters)
        if all(module is own for _, module, _ in others):
            output: Tensor = own(states)
            return output
        outputs = []
        for model, module, rows in others:
            with model.random:
                outputs.append(module(states[rows]))
        return torch.cat(outputs)
