"""One optimizer step of a trial: forward, backward, clip, regularise, update, at the scheduled rate."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch, parts_by_length
from hpo.tasks.protocol import Task
from hpo.training.gang import ALONE, Gang
from hpo.training.layer_rates import parameter_groups, rate_factors
from hpo.training.methods import select_parameters
from hpo.training.models import PretrainedModel
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.out_of_memory import is_out_of_memory, release
from hpo.training.passes import Passes
from hpo.training.precision import Precision
from hpo.training.regularization import Regularizer
from hpo.training.schedules import Plateau, factor, warmup_steps

CHECK_EVERY = 10
"""Steps between looks at whether the loss is still a number: each look waits for the device."""


PASS_TOKENS = {"cpu": 128, "cuda": 8192}
"""What a forward and backward pass costs beside its tokens, in tokens, by device type."""


class Diverged(ArithmeticError):
    """The loss or a gradient is no longer a number."""


class Optimization:
    """A trial's optimizer at work on a model that was reset for it."""

    def __init__(
        self,
        model: PretrainedModel,
        task: Task[Any],
        hyperparameters: Hyperparameters,
        *,
        total_steps: int,
        precision: Precision,
        passes: Passes | None = None,
        gang: Gang = ALONE,
    ) -> None:
        """Choose what trains and build the stock optimizer over it.

        Where memory runs out, batches go through in the parts that `passes` says, and it is lowered. Each rank of
        `gang` is to begin alike and to take the same steps.

        Raises:
            ConfigurationError: the model does not have what the hyperparameters ask for.
        """
        self._model, self._hyperparameters = model, hyperparameters
        self._precision, self._gang = precision, gang
        self.passes = passes or Passes()
        self.total_steps = total_steps
        self.taken = 0
        """Steps taken."""
        self.rate = 0.0
        """Learning rate of the last step, before the factors of layers and of what is drawn anew."""
        self.parameters = select_parameters(model.network, model.fresh, hyperparameters)
        """Name -> trained parameter."""
        self._trained: list[nn.Parameter] = list(self.parameters.values())
        decay, head_rate = hyperparameters.layerwise_rate_decay, hyperparameters.head_rate
        factors = rate_factors(model.network, self.parameters, decay, model.fresh, head_rate)
        self._kind = OPTIMIZERS[hyperparameters.optimizer]
        self._optimizer = self._kind.build(parameter_groups(model.network, self.parameters, factors), hyperparameters)
        pulls = hyperparameters.l1_strength or hyperparameters.l2_strength
        self._regularizer = Regularizer(
            self.parameters,
            hyperparameters,
            model.pretrained(self.parameters) if pulls and hyperparameters.regularize_towards == "pretrained" else {},
            factors,
            partial(self._kind.shift, self._optimizer),
        )
        self._plateau = Plateau(hyperparameters) if hyperparameters.schedule == "reduce_on_plateau" else None
        self._criterion = task.criterion(hyperparameters, model.device)
        # Sums stay on the device. A value that is no number makes its sum none for good, so one look finds it.
        self._losses = torch.zeros((), device=model.device)
        self._norms = torch.zeros((), device=model.device)
        self._summed = 0
        self.state_bytes = 3 * sum(weight.nbytes for weight in self._trained)
        """Bytes of the tensors of `state`, about: the weights, and two more numbers for each in most optimizers."""

    def step(self, batch: Batch) -> None:
        """Train on one batch.

        Raises:
            Diverged: at a step in which it is looked for.
        """
        hyperparameters = self._hyperparameters
        self.rate = hyperparameters.learning_rate * self._factor()
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate * group["rate_factor"]
        loss = self._loss_and_gradients(batch)
        if hyperparameters.max_grad_norm is not None:
            self._norms += nn.utils.clip_grad_norm_(self._trained, hyperparameters.max_grad_norm, foreach=True)
        self._regularizer.before_step(self.rate)
        self._optimizer.step()
        self._regularizer.after_step(self.rate)
        self._optimizer.zero_grad(set_to_none=True)
        self._losses += loss
        self._summed += 1
        self.taken += 1
        if self.taken % CHECK_EVERY == 0:
            self.mean_loss()

    def evaluating(self) -> AbstractContextManager[None]:
        """Return a context in which the weights are those to be scored and saved, such as their average."""
        return self._kind.evaluating(self._optimizer)

    def observe(self, score: float) -> None:
        """Take in the objective of a full evaluation, higher is better: it may cut the rate once warm-up is over."""
        if self._plateau and self.taken >= warmup_steps(self._hyperparameters, self.total_steps):
            self._plateau.observe(score)

    def state(self) -> dict[str, Any]:
        """Return, between steps, all that the next depends on but the random state; tensors are the live ones."""
        return {
            "taken": self.taken,
            "rate": self.rate,
            "weights": {name: weight.detach() for name, weight in self.parameters.items()},
            "optimizer": self._optimizer.state_dict(),
            "plateau": self._plateau.state() if self._plateau else None,
            "losses": self._losses,
            "norms": self._norms,
            "summed": self._summed,
            "rows_at_once": self.passes.rows,
        }

    @torch.no_grad()
    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned of a trial begun alike; nothing of it is held, tensors are copied."""
        self.taken, self.rate, self._summed = state["taken"], state["rate"], state["summed"]
        for name, weight in self.parameters.items():
            weight.copy_(state["weights"][name])
        self._optimizer.load_state_dict(_owned(state["optimizer"], self._model.device))
        if self._plateau:
            self._plateau.resume(state["plateau"])
        if state["rows_at_once"] is not None:
            self.passes.rows = state["rows_at_once"]
        self._losses.copy_(state["losses"])
        self._norms.copy_(state["norms"])

    def mean_loss(self) -> float:
        """Return the mean loss since the last `forget_losses`, nats per example; waits for the device.

        Raises:
            Diverged: a loss or the norm of the gradients was no number.
        """
        losses, norms = float(self._losses), float(self._norms)
        for name, value in (("loss", losses), ("norm of the gradients", norms)):
            if not math.isfinite(value):
                raise Diverged(f"The {name} was no longer a number by step {self.taken}.")
        return losses / self._summed if self._summed else 0.0

    def forget_losses(self) -> None:
        """Start the mean loss anew."""
        self._losses.zero_()
        self._norms.zero_()
        self._summed = 0

    def _factor(self) -> float:
        scheduled = factor(self.taken, self.total_steps, self._hyperparameters)
        return scheduled * self._plateau.factor if self._plateau else scheduled

    def _loss_and_gradients(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, its gradients ready; in smaller and smaller parts until memory suffices."""
        mine = self._gang.part(batch)
        while True:
            rows = self.passes.at_once(self._gang.widest(batch.rows))
            loss = self._loss_where_memory_suffices(mine, rows, batch.units)
            if self._gang.add_up(loss, self._trained) and loss is not None:
                return loss
            if rows == 1:
                raise MemoryError("Out of memory with one text at once.")
            self._optimizer.zero_grad(set_to_none=True)
            self.passes.halve(rows)
            release(self._model.device)

    def _loss_where_memory_suffices(self, part: Batch | None, rows: int, units: int) -> Tensor | None:
        """Return a rank's share of a batch's mean loss, its gradients ready; None where memory runs out."""
        if part is None:
            return torch.zeros((), device=self._model.device)
        try:
            return self._loss_in_parts(part, rows, units)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not in the handler: as long as the error lives, so do its frames and their tensors.
        return None

    def _loss_in_parts(self, batch: Batch, rows: int, units: int) -> Tensor:
        """Return the sum of these rows' losses over `units`, its gradients ready; part by part, none of more `rows`."""
        parts = parts_by_length(batch.lengths, pass_tokens=PASS_TOKENS[self._model.device.type], most_rows=rows)
        if len(parts) == 1:
            return self._pass(batch, units)
        return torch.stack([self._pass(batch.take(part), units) for part in parts]).sum()

    def _pass(self, batch: Batch, units: int) -> Tensor:
        """Add the gradients of the sum of these rows' losses over `units`, and return it."""
        loss = self._loss(batch, units)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _loss(self, batch: Batch, units: int) -> Tensor:
        logits = self._model.logits(batch, self._precision)
        targets = batch.targets.to(self._model.device, non_blocking=True)
        return self._criterion(logits, targets).sum() / units


def _owned(state: Any, device: torch.device) -> Any:
    """Return an optimizer's state that, loaded on `device`, shares no memory with this one, such as a file's pages.

    Optimizers copy what they load to a GPU, except for counts of steps, and on a CPU nothing.
    """
    if isinstance(state, Tensor):
        return state.clone() if device.type == "cpu" or state.dim() == 0 else state
    if isinstance(state, Mapping):
        return {name: _owned(value, device) for name, value in state.items()}
    return [_owned(value, device) for value in state] if isinstance(state, list) else state
