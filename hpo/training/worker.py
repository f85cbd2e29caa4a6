"""Worker: the training in one process, opened once, then given one assignment after the other."""

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.data.augmentation import refuse_token_masking, refuse_word_swap
from hpo.data.splits import Splits
from hpo.distributed.rank_group import ProbeCommand, RankInfo, TrainCommand, join
from hpo.errors import Mistakes, NoResultError
from hpo.files.shared import FOLDER, SharedFiles
from hpo.files.weights import fetch_weights_of, fitted_among, load_weights
from hpo.memory import settle_heap
from hpo.messages import (
    WEIGHTS_KEY,
    Action,
    Assignment,
    Decision,
    Demands,
    Dimensions,
    HeldOutEvaluation,
    Measurement,
    Outcome,
    Probe,
    Progress,
    Report,
    WorkerSettings,
)
from hpo.metrics.metric import SelectionMetric
from hpo.model.lora import lora_targets, note_on_targets
from hpo.model.methods import refuse_kept_layers, refuse_trained_layers
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.tasks.registry import task_of
from hpo.training.baselines import evaluate_baseline
from hpo.training.context import TrainingContext
from hpo.training.device import choose_device, measured_precision, refuse_emulated
from hpo.training.gradients import SlotBatch
from hpo.training.probe import SlotRates, busy_share, dimensions_of, probe, slot_rates
from hpo.training.run import Message, Run
from hpo.training.run_state import circumstances_of

logger = logging.getLogger(__name__)


class Worker:
    """A process's data, model and slots of trials. It knows only assignments, neither the store nor the search.

    In a rank group, only the worker of rank 0 is given assignments; the others `follow` it. Every method raises
    `RankGroupLost` if another rank is gone; the process must then end.

    Each slot's trial has its own optimizer, schedule and random state; the context is shared.
    """

    def __init__(self, context: TrainingContext) -> None:
        self._context = context
        self.metric: SelectionMetric = context.task.metric
        """The metric trials are compared by, resolved for these labels."""
        self.device = str(context.device)
        """Device that trials train on, in torch's notation."""
        self._runs: dict[int, Run] = {}
        self._waiting: dict[int, SlotBatch] = {}
        """By trial, the batch whose gradients are computed next."""
        self._answers: dict[int, Tensor | Exception] = {}
        """By trial, the mean loss of the batch that it waits for, or the error."""
        self._seconds, self._since = 0.0, 0.0

    @property
    def free_slots(self) -> int:
        """Number of assignments that may be admitted."""
        return self._context.slots - len(self._runs)

    @property
    def idle(self) -> bool:
        """True if there is nothing to advance."""
        return not self._runs

    def facts(self) -> dict[str, str]:
        """Return the properties of this process that a result depends on: device, threads, and pretrained weights.

        Without those in 4 bits, which are quantized on the device.
        """
        circumstances, model = circumstances_of(self._context), self._context.model
        weights = {} if self._context.config.model.quantization else {WEIGHTS_KEY: model.fingerprint[:16]}
        return {name: circumstances[name] for name in ("device", "threads")} | weights

    def refuse_unfit(self, demands: Demands) -> None:
        """Refuse, before any trial, all that the model does not support, each in the words of a trial that would fail.

        Raises:
            ModelError: the model cannot read as many tokens, has no such dropout, or its tokenizer cannot augment.
            ConfigurationError: the model has fewer layers, or no such linear layers; or several of all these.
        """
        model, mistakes = self._context.model, Mistakes()
        checks: list[Callable[[], object]] = [partial(model.refuse_length, demands.max_length)]
        if demands.trained_layers is not None:
            checks.append(partial(refuse_trained_layers, model.network, demands.trained_layers))
        if demands.kept_layers is not None:
            checks.append(partial(refuse_kept_layers, model.network, demands.kept_layers))
        if demands.dropout:
            checks.append(model.dropouts.refuse)
        if demands.attention_dropout:
            checks.append(model.dropouts.refuse_attention)
        if demands.token_masking:
            checks.append(partial(refuse_token_masking, model.tokenizer))
        if demands.word_swap:
            checks.append(partial(refuse_word_swap, model.tokenizer))
        checks += [partial(lora_targets, model.network, targets, model.fresh) for targets in demands.lora_targets]
        for check in checks:
            with mistakes.gathered():
                check()
        mistakes.refuse()

    def cut_share(self, max_length: int) -> float:
        """Return the share of training examples, in 0..1, that reach `max_length` tokens: longer ones are truncated.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        return float((self._context.tokenized(max_length)["train"].tokens.lengths >= max_length).mean())

    def notes(self, demands: Demands) -> tuple[str, ...]:
        """Return sentences on how the model reads the first training example, and on layers that LoRA does not adapt.

        Raises:
            ModelError, ConfigurationError: as in `refuse_unfit`.
        """
        tokens, model = self._context.tokenized(demands.max_length)["train"].tokens, self._context.model
        ids = tokens.ids[tokens.positions(np.array([0]))].tolist()
        of_lora = (note_on_targets(model.network, targets, model.fresh) for targets in demands.lora_targets)
        return tuple(filter(None, (model.head.note(ids, model.tokenizer), *of_lora)))

    def dimensions(self, max_length: int) -> Dimensions:
        """Return the dimensions from which the work of trials is computed; examples have at most `max_length` tokens.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        return dimensions_of(self._context, max_length)

    def measure(self, hyperparameters: Hyperparameters, most_seconds: float = math.inf) -> Measurement:
        """Time training in fp32 and bf16 on a few training examples, and choose; takes seconds.

        The model is left unchanged: each trial resets its weights.

        Args:
            hyperparameters: the trained part of the model and the text length; best the dearest of the space.
            most_seconds: approximate limit; if it does not suffice, fp32 is chosen.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        assert self.idle, "measure before trials train"
        return measured_precision(self._context, hyperparameters, most_seconds)

    def probe(self, hyperparameters: Hyperparameters, steps: int, most_seconds: float = math.inf) -> Probe:
        """Take a few steps under these values, `steps` of them timed, and return their cost; takes seconds.

        If `most_seconds` does not suffice, fewer steps are taken, but at least one. The model is left unchanged. Later
        trials of that size start with the micro-batch size that fits into memory.

        Raises:
            ModelError, ConfigurationError: the model does not support the hyperparameters.
        """
        assert self.idle, "probe between trials"
        self._context.rank_group.broadcast_command(
            ProbeCommand(hyperparameters=hyperparameters, steps=steps, precision=self._context.precision)
        )
        return probe(self._context, hyperparameters, steps, most_seconds)

    def slot_rates(self, hyperparameters: Hyperparameters, most_seconds: float = math.inf) -> SlotRates:
        """Return the steps per second of several trials that train together; takes seconds; see `slot_rates`.

        Raises:
            ModelError, ConfigurationError: the model does not support the hyperparameters.
        """
        assert self.idle, "measure before trials train"
        return slot_rates(self._context, hyperparameters, most_seconds)

    def busy_share(self, hyperparameters: Hyperparameters) -> float:
        """Return the share of the time of a trial's steps in which the GPU computes, in (0, 1]; see `busy_share`.

        Raises:
            ModelError, ConfigurationError: the model does not support the hyperparameters.
        """
        assert self.idle, "measure before trials train"
        return busy_share(self._context, hyperparameters)

    def use(self, settings: WorkerSettings) -> None:
        """Train with these settings from the next trial on.

        Raises:
            ConfigurationError: the device does not support the precision.
        """
        assert self.idle, "a trial keeps its precision to its end"
        refuse_emulated(self._context.device, settings.precision)
        self._context.use(settings)

    def admit(self, assignment: Assignment) -> None:
        """Put an assignment into a free slot; its model is made at the next `advance`."""
        assert self.free_slots, "admit only into a free slot"
        self._context.rank_group.broadcast_command(
            TrainCommand(assignment=assignment, precision=self._context.precision)
        )
        self._runs[assignment.trial] = Run(assignment, self._context, self._clock)

    def advance(self, should_return: Callable[[], bool] = lambda: False) -> list[Message]:
        """Train all slots, step by step, until at least one has a message; an `Outcome` frees its slot.

        Without a message it ends after a step at which `should_return` returns true.
        """
        self._since = time.perf_counter()
        messages: list[Message] = []
        while self._runs and not (messages := self._next_messages()):
            found = self._context.gradients.of_slots(list(self._waiting.values()))
            self._answers, self._waiting = dict(zip(self._waiting, found, strict=True)), {}
            if should_return():
                break
        self._seconds = self._clock()
        return messages

    def apply(self, decision: Decision) -> None:
        """Pass a decision to its trial; ignored for a trial that has ended, or an older attempt.

        May be called while another thread is in `advance`: it only looks up the trial, and sets a flag that the run
        reads between two steps.
        """
        run = self._runs.get(decision.trial)
        if run is not None and run.assignment.attempt == decision.attempt:
            run.decide(decision.action)

    def drop(self, trial: int) -> None:
        """End a trial without an outcome, if its caller is gone."""
        run = self._runs.pop(trial, None)
        self._waiting.pop(trial, None)
        self._answers.pop(trial, None)
        if run is not None:
            run.close()

    def has_weights(self, report: Report) -> bool:
        """Return true if weights of its trial were kept at this evaluation; they are downloaded if needed."""
        files = self._context.files_of(confirms=report.held_out is not None)
        return files is not None and fetch_weights_of(files, report, self._context.remote)

    def test_evaluation(self, assignment: Assignment) -> HeldOutEvaluation:
        """Evaluate the kept weights of a trial on the test split; to be called once, after the search.

        Raises:
            NoResultError: there is no test split, or no weights of that trial were kept.
        """
        assert self.idle, "the test split is for after the search"
        context = self._context
        test = context.tokenized(assignment.hyperparameters.max_length).get("test")
        if test is None or context.splits.test is None:
            raise NoResultError("There is no test split to score; name data.test or give data.test_fraction.")
        _, fitted = self.trained(assignment)
        # With folds, weights are those of the last.
        answers = context.predict(test, fold=-1 if context.splits.folds else None)
        return context.held_out_evaluation(context.splits.test, context.decided(answers, fitted))

    def trained(self, assignment: Assignment) -> tuple[TrialModel, NDArray[np.float64] | None]:
        """Return the model of a trial with its kept weights, and what its task has fitted.

        Raises:
            NoResultError: no weights of that trial were kept.
        """
        assert self.idle, "no other trial may move the weights"
        context = self._context
        files = context.files_of(confirms=assignment.confirms is not None)
        if files is None:
            raise NoResultError("No weights were kept, because the worker was opened without a folder for them.")
        tensors = load_weights(files, assignment.trial, context.remote)
        fitted = fitted_among(tensors)
        model = TrialModel(context.model, context.task, assignment.hyperparameters, seed=0)
        model.load(tensors)
        return model, fitted

    def baseline(self, name: str, max_length: int) -> HeldOutEvaluation:
        """Train and evaluate a baseline of `hpo.training.baselines`; takes seconds to minutes.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        assert self.idle, "baselines are for between trials"
        return evaluate_baseline(self._context, name, max_length)

    def follow(self) -> None:
        """Take part in everything that the worker of rank 0 trains, until it is closed.

        Raises:
            RankGroupLost: another rank is gone.
        """
        context = self._context
        while (command := context.rank_group.next_command()) is not None:
            context.precision = command.precision
            match command:
                case TrainCommand(assignment=assignment):
                    self._runs[assignment.trial] = Run(assignment, context, self._clock)
                    while not self.idle:
                        self.advance()
                case ProbeCommand():
                    try:
                        probe(context, command.hyperparameters, command.steps)
                    except Exception:
                        # Rank 0 has the same error, and reports it.
                        logger.debug("A probe failed.", exc_info=True)
        context.rank_group.close()

    def close(self) -> None:
        """Drop the trials in training, and release the other ranks; to be called on rank 0, at the end."""
        for trial in list(self._runs):
            self.drop(trial)
        self._context.rank_group.close()

    def _next_messages(self) -> list[Message]:
        """Advance each run to its next batch, unless it waits for one, and return its messages."""
        messages: list[Message] = []
        for trial in [trial for trial in self._runs if trial not in self._waiting]:
            message = self._runs[trial].advance(self._answers.pop(trial, None))
            if isinstance(message, SlotBatch):
                self._waiting[trial] = message
                continue
            messages.append(message)
            if isinstance(message, Outcome):
                del self._runs[trial]
        return messages

    def _clock(self) -> float:
        """Return the seconds spent in `advance`; to be called within it."""
        return self._seconds + time.perf_counter() - self._since


def open_worker(
    config: StudyConfig,
    splits: Splits,
    files: Path | None = None,
    *,
    device: torch.device | None = None,
    shared: bool = False,
    rank_info: RankInfo | None = None,
) -> Worker:
    """Load the study's model, once, to train on its data; in a rank group wait until all ranks have.

    Args:
        config: the study.
        splits: its data, from `load_splits`.
        files: folder in which the weights of the best trials are kept; None to keep none.
        device: device to train on; None for the study's setting.
        shared: True to keep pretrained weights and tokens in files below `files`, so that all worker processes of the
            machine share one copy in memory; otherwise each process has its own.
        rank_info: position of this process in a rank group; None if it trains alone.

    Raises:
        ModelError, ConfigurationError: the model, the metric or the device cannot be used.
        RankGroupLost: the other ranks did not connect within the study's `hang_minutes`.
    """
    device = device or choose_device(config.compute)
    assert files or not shared, "what is shared lies below the folder of files"
    if config.compute.precision != "auto":
        refuse_emulated(device, config.compute.precision)
    settle_heap()
    if device.type == "cuda":
        # Products of fp32 matrices use TF32 tensor cores, if available: no slower and no less exact than bf16.
        torch.set_float32_matmul_precision("high")
    sharing = SharedFiles(files / FOLDER) if files and shared else None
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    task = task_of(config.task, splits)
    model = load_model(config.model, task, device, sharing)
    # Last, because ranks wait for each other only when nothing is left that could refuse one of them.
    rank_group = join(rank_info, device, 60 * config.compute.hang_minutes)
    return Worker(TrainingContext(config, splits, task, model, files, sharing, rank_group))


def train(worker: Worker, assignment: Assignment, answer: Callable[[Report | Progress], Action]) -> Outcome:
    """Train one assignment on an idle worker to its end; `answer` takes each message, and decides.

    If `answer` raises an exception, the trial is dropped, and the worker is free.
    """
    worker.admit(assignment)
    try:
        while True:
            for message in worker.advance():
                if isinstance(message, Outcome):
                    return message
                action = answer(message)
                worker.apply(Decision(trial=assignment.trial, attempt=assignment.attempt, action=action))
    finally:
        worker.drop(assignment.trial)
