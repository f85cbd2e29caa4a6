"""Cost probe: seconds, memory and bytes on the disk of a configuration, from a few real steps."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch, Rows, evaluation_batches, padded_tokens
from hpo.data.stratify import class_count, stratified_sample
from hpo.distributed.rank_group import EndedOnOtherRank
from hpo.errors import TrainingError
from hpo.memory import CONTEXT_BYTES, if_memory_suffices, is_out_of_memory, peak_memory_bytes, reset_peak, room_bytes
from hpo.messages import Dimensions, Ending, Probe, Timed
from hpo.model.methods import transformer_layers
from hpo.model.randomness import RandomState
from hpo.training.context import BatchMaker, TrainingContext
from hpo.training.evaluation import MOST_ROWS, MOST_TOKENS
from hpo.training.gradients import MOST_SHARED_TOKENS, PASS_TOKENS, SlotBatch
from hpo.training.optimizer_step import Diverged, OptimizerStep

MOST_LENGTHS = 1000
"""Number of texts of a split whose lengths represent those of all."""
INFEASIBLE = Probe(feasible=False)
MOST_SLOTS = 16
"""Largest number of trials in one worker that is measured."""
SLOT_STEPS = 4
"""Steps measured with each number of trials; the fastest counts."""
BUSY_STEPS, BUSY_ROUNDS = 8, 3
"""Steps that are timed together, and how often without torch's profiler; the first round is a warm-up."""
WORTH_DOUBLING = 1.05
"""Least speed-up for which twice as many trials are measured, and share a pass."""
MEASURED_PASSES = 4
"""Times `MOST_SHARED_TOKENS` that a pass over several trials may have while it is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRates:
    """Measured speed of several trials that train together in one worker."""

    rates: Mapping[int, float]
    """Number of trials -> steps per second of all together, as far as memory suffices; empty if nothing was trained."""
    shared_tokens: int | None = None
    """Tokens of a pass from which larger ones are hardly faster; None if not measured."""


def probe(
    context: TrainingContext, hyperparameters: Hyperparameters, steps: int, most_seconds: float = math.inf
) -> Probe:
    """Train on the longest texts, as a test of memory, then time `steps` steps and an evaluation of typical ones.

    If memory runs out, micro-batches become smaller, also for later trials of that size. The model ends with its
    pretrained weights, and torch's random state as it was.

    Args:
        context: without a trial in training; each rank of its group must probe the same.
        hyperparameters: learning rate and epochs have no effect.
        steps: at least 1.
        most_seconds: limit, by rank 0's clock; apart from the first step, what would take longer is skipped and
            estimated from it.

    Returns:
        Its `first_loss` is nan if the loss was not a number.

    Raises:
        ModelError, ConfigurationError: the model does not support the hyperparameters.
        TrainingError: another rank failed.
    """
    assert steps >= 1, "probe at least one step"
    micro_batch = context.gradients.micro_batch(hyperparameters)
    before = replace(micro_batch)
    try:
        with RandomState(context.config.seed, context.device), context.rank_group.together():
            return _cost(context, hyperparameters, steps, time.perf_counter() + most_seconds)
    except EndedOnOtherRank as ended:
        if ended.ending is not Ending.INFEASIBLE:
            raise TrainingError(ended.reason) from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    finally:
        context.model.reset(0)
        if context.device.type == "cuda":
            torch.cuda.empty_cache()
    micro_batch.restore(before)
    return INFEASIBLE


def slot_rates(context: TrainingContext, hyperparameters: Hyperparameters, most_seconds: float = math.inf) -> SlotRates:
    """Train 1, 2, 4 and more trials together for a few steps each, until more trials are hardly faster in total.

    Nothing is trained if a typical batch of one trial is as large as a shared pass may be.

    The model ends with its pretrained weights, and torch's random state as it was.

    Args:
        context: without a trial in training.
        hyperparameters: of a typical trial.
        most_seconds: limit, which only the first step may exceed.

    Raises:
        ModelError, ConfigurationError: the model does not support the hyperparameters.
    """
    until, make_batch = time.perf_counter() + most_seconds, context.batch_maker(hyperparameters)
    lengths = context.tokenized(hyperparameters.max_length)["train"].tokens.lengths
    usual, gradients = MOST_SHARED_TOKENS[context.device.type], context.gradients
    if lengths.mean() * hyperparameters.batch_size >= usual:
        return SlotRates(rates={})
    rates: dict[int, float] = {}
    trainings: list[OptimizerStep] = []
    batches: list[Batch] = []

    def doubled() -> float:
        for number in range(len(trainings), 2 ** len(rates)):
            seed = context.config.seed + number
            # It trains in all later measurements too; a schedule is not defined beyond its end.
            trainings.append(context.begin(hyperparameters, seed, SLOT_STEPS * MOST_SLOTS.bit_length()))
            rows = stratified_sample(context.train_strata, hyperparameters.batch_size, seed)
            batches.append(make_batch(rows, [seed]))
        return len(trainings) / _fastest(partial(_step_of_all, context, trainings, batches), until)

    micro_batch, before = gradients.micro_batch(hyperparameters), gradients.shared_tokens
    micro_batch_before, gradients.shared_tokens = replace(micro_batch), MEASURED_PASSES * usual
    try:
        while (not rates or _may_double(rates, until)) and (rate := if_memory_suffices(doubled)):
            rates[len(trainings)] = rate
        # Shared passes for which memory did not suffice have lowered it.
        fitting = gradients.shared_tokens
    finally:
        # There is more room for a trial alone.
        micro_batch.restore(micro_batch_before)
        gradients.shared_tokens = before
        context.model.reset(0)
    if not rates:
        return SlotRates(rates={})
    paid = max((count for count in rates if _pays(rates, count)), default=1)
    tokens = paid * max(batch.rows * batch.width for batch in batches)
    return SlotRates(rates=rates, shared_tokens=min(fitting, tokens if paid < max(rates) else max(tokens, usual)))


def busy_share(context: TrainingContext, hyperparameters: Hyperparameters) -> float:
    """Return the share of the time of a trial's steps in which the GPU computes, in (0, 1]; 1 if unknown or on a CPU.

    The model ends with its pretrained weights, and torch's random state as it was.

    Args:
        context: without a trial in training.
        hyperparameters: of a typical trial.

    Raises:
        ModelError, ConfigurationError: the model does not support the hyperparameters.
    """
    if context.device.type != "cuda":
        return 1.0
    rows = stratified_sample(context.train_strata, hyperparameters.batch_size, context.config.seed)
    make_batch = context.batch_maker(hyperparameters)
    try:
        # The profiled steps are a round more; a schedule is not defined beyond its end.
        training = context.begin(hyperparameters, context.config.seed, BUSY_STEPS * (BUSY_ROUNDS + 1))

        def steps() -> float:
            began = time.perf_counter()
            with suppress(Diverged):
                for _ in range(BUSY_STEPS):
                    training.take(context.gradients.of(training.model, make_batch(rows, [context.config.seed])))
            torch.cuda.synchronize(context.device)
            return time.perf_counter() - began

        # The first steps allocate memory and choose kernels.
        seconds = min(steps() for _ in range(BUSY_ROUNDS))
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            steps()
    finally:
        context.model.reset(0)
    on_gpu = [event for event in profiler.key_averages() if event.device_type == DeviceType.CUDA]
    busy = sum(event.self_device_time_total for event in on_gpu) / 1e6
    # Without permission to profile there are no events.
    return min(1.0, busy / seconds) or 1.0


def _may_double(rates: Mapping[int, float], until: float) -> bool:
    """Return true if measuring twice as many trials may be worth the time."""
    most, rate = max(rates.items())
    pays = most == 1 or _pays(rates, most)
    return pays and most < MOST_SLOTS and time.perf_counter() + SLOT_STEPS * 2 * most / rate <= until


def _pays(rates: Mapping[int, float], count: int) -> bool:
    """Return true if that many trials are clearly faster than half as many."""
    return count > 1 and rates[count] >= WORTH_DOUBLING * rates[count // 2]


def _fastest(step: Callable[[], float], until: float) -> float:
    """Return the seconds of the fastest of `SLOT_STEPS` steps, or of as many as there is time for, at least one.

    The fastest, because other load on the machine only adds time.
    """
    taken = [step()]
    while len(taken) < SLOT_STEPS and time.perf_counter() + min(taken) <= until:
        taken.append(step())
    return min(taken)


def _step_of_all(context: TrainingContext, trainings: Sequence[OptimizerStep], batches: Sequence[Batch]) -> float:
    """Take a step of each trial, and return the seconds of all; infinity if one has no gradients."""
    began = time.perf_counter()
    waiting = [
        SlotBatch(model=training.model, batch=batch, units=batch.units)
        for training, batch in zip(trainings, batches, strict=True)
    ]
    for training, loss in zip(trainings, context.gradients.of_slots(waiting), strict=True):
        if isinstance(loss, Exception):
            return math.inf
        with suppress(Diverged):
            training.take(loss)
            training.mean_loss()
    return time.perf_counter() - began


def _cost(context: TrainingContext, hyperparameters: Hyperparameters, steps: int, until: float) -> Probe:
    reset_peak(context.device)
    began = time.perf_counter()
    training = context.begin(hyperparameters, context.config.seed, 2 + steps)
    opening = Timed(openings=1, seconds=time.perf_counter() - began)
    step = partial(_step, context, training, context.batch_maker(hyperparameters))

    def has_time(seconds: float) -> bool:
        return context.rank_group.on_rank_0(lambda: time.perf_counter() + seconds <= until)

    lengths = context.tokenized(hyperparameters.max_length)["train"].tokens.lengths
    longest: Rows = np.argsort(-lengths, kind="stable")[: hyperparameters.batch_size]
    first = step(longest)
    first_loss = math.nan
    with suppress(Diverged):
        first_loss = training.mean_loss()
    # Again, because the optimizer allocates its state in its first step, so the second needs the most memory.
    again = [step(longest)] if has_time(first.seconds) else []
    typical = stratified_sample(context.train_strata, hyperparameters.batch_size, context.config.seed)
    taken: list[Timed] = []
    while len(taken) < steps and has_time(min((one.seconds for one in taken), default=first.seconds)):
        taken.append(step(typical))
    # The fastest: other load on the machine only adds time.
    fastest = min(taken or again or [first], key=lambda one: one.seconds)
    micro_batch_size = context.gradients.micro_batch(hyperparameters).at_once(hyperparameters.batch_size)
    # The backward pass takes about twice as long as the forward pass.
    forward = fastest.seconds / typical.size / 3
    with training.evaluating():
        row_seconds, scored, metric_error = context.rank_group.on_rank_0(
            partial(
                _scored, context, hyperparameters.max_length, forward, until, again=training.model.frozen is not None
            )
        )
    return Probe(
        feasible=True,
        micro_batch_size=micro_batch_size if micro_batch_size < hyperparameters.batch_size else None,
        seconds_per_step=fastest.seconds,
        seconds_per_scored_row=row_seconds,
        timed=(opening, *scored, *(again if taken else []), fastest),
        peak_memory_bytes=peak_memory_bytes(context.device) + (CONTEXT_BYTES if context.device.type == "cuda" else 0),
        room_bytes=room_bytes(context.device),
        checkpoint_bytes=training.state_bytes,
        weights_bytes=training.model.weights_bytes,
        first_loss=first_loss,
        metric_error=metric_error,
    )


def _step(context: TrainingContext, training: OptimizerStep, make_batch: BatchMaker, rows: Rows) -> Timed:
    began = time.perf_counter()
    batch = make_batch(rows, [context.config.seed])
    # Divergence is for the trial to report; the step was taken anyway.
    with suppress(Diverged):
        training.take(context.gradients.of(training.model, batch))
        # Only this waits for the device.
        training.mean_loss()
    seconds = time.perf_counter() - began
    tokens = padded_tokens(batch.lengths, pass_tokens=PASS_TOKENS[context.device.type])
    return Timed(trained_tokens=tokens, updates=1, seconds=seconds)


def _scored(
    context: TrainingContext, max_length: int, expected: float, until: float, *, again: bool
) -> tuple[float, tuple[Timed, ...], str | None]:
    """Score the longest rows of validation, as a test of memory, and then typical rows, twice if `again`.

    Nothing is scored if that would take longer than `until` at the `expected` seconds per row.

    Returns:
        (seconds of a typical row, work and seconds of each evaluation, error of a user-defined metric or None).
    """
    validation = context.tokenized(max_length)["validation"]
    lengths = validation.tokens.lengths
    longest, *_ = evaluation_batches(lengths, max_tokens=MOST_TOKENS[context.device.type], max_rows=MOST_ROWS)
    if time.perf_counter() + 2 * longest.size * expected > until:
        return expected, (), None
    typical = stratified_sample(context.task.strata(validation.targets), longest.size, context.config.seed)
    metric_error = None
    # The outputs of frozen layers are computed the first time only.
    for rows in (longest, typical, *([typical] if again else [])):
        began = time.perf_counter()
        try:
            context.task.scores(context.predict(validation, rows))
        except TrainingError as error:
            metric_error = str(error)
    seconds = time.perf_counter() - began
    tokens = int(lengths[typical].sum()) + PASS_TOKENS[context.device.type]
    return seconds / typical.size, (Timed(scored_tokens=tokens, seconds=seconds),), metric_error


def dimensions_of(context: TrainingContext, max_length: int) -> Dimensions:
    """Return the dimensions from which the work of trials is computed, with texts truncated to `max_length` tokens."""
    splits, tokenized = context.splits, context.tokenized(max_length)
    return Dimensions(
        train_rows=splits.train.rows,
        validation_rows=splits.validation.rows,
        confirmation_rows=splits.confirmation.rows if splits.confirmation else 0,
        folds=tuple((fold.train.size, fold.validation.size) for fold in splits.folds),
        least_rows=class_count(context.train_strata),
        train_lengths=_standing_for(tokenized["train"].tokens.lengths),
        validation_lengths=_standing_for(tokenized["validation"].tokens.lengths),
        layers=len(transformer_layers(context.model.network)[1]),
        pass_tokens=PASS_TOKENS[context.device.type],
        keeps_states=context.keeps_states,
    )


def _standing_for(lengths: NDArray[np.int64]) -> tuple[int, ...]:
    rising, count = np.sort(lengths), min(lengths.size, MOST_LENGTHS)
    return tuple(rising[((np.arange(count) + 0.5) * lengths.size / count).astype(int)].tolist())
