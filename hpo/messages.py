"""Messages between processes: small frozen values, never a study, a model or a database handle.

The one-way flow is `Assignment -> Report* -> Outcome`; only a `Decision` flows backward. `Progress` is for the live
view and is never stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from hpo.config.hyperparameters import Hyperparameters

Precision = Literal["fp32", "bf16"]
"""Number format of the forward pass; weights stay in fp32."""
SEMANTICS = 6
"""Version of the training semantics, raised if a change of hpo changes scores by more than rounding.

1: whole batches; dropout in frozen layers too. 2: micro-batches by length, each with its own dropout masks; frozen
layers in evaluation mode; separate seeds for dropout and folds; a pair is the same text in either order. 3: unless
configured, fewer full evaluations if they would take over a tenth of a trial. 4: with folds, regression scales targets
by the training rows of each fold. 5: the last layer of encoders draws dropout masks for the first token alone.
6: under LoRA too; on a CPU, dropout masks are drawn from 16 random bits per element.
"""
SEMANTICS_KEY = "semantics"
"""Key of `SEMANTICS` in the versions that are recorded with a study."""
WEIGHTS_KEY = "weights"
"""Key of the pretrained weights' fingerprint there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestone:
    """A point in a trial at which it is evaluated."""

    rung: int
    """Examples seen over the study's maximum (its longest trial), in per mille: 1 to 1000. With folds, folds scored."""
    full: bool
    """True if all of validation is scored, or the mean of all folds, so that it can become the trial's score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker trains, the same for all workers of a study; None keeps what a worker has."""

    precision: Precision
    slots: int | None = None
    """Number of trials that it trains at once."""
    shared_tokens: int | None = None
    """Most tokens, including padding, of a pass over several trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The capacity of a worker."""

    worker: str
    """Name of the worker, unique among those of a search, e.g. `inline-0`."""
    device: str
    """Device name in torch's notation: `cpu`, `cuda:0`."""
    slots: int = 1
    """Number of trials that the worker trains at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One attempt at one trial, complete: a worker needs nothing else to train it."""

    trial: int
    """Trial number within its study, from 0."""
    attempt: int
    """Attempt at this trial, from 1; messages of an older attempt are dropped."""
    hyperparameters: Hyperparameters
    seed: int
    """Seed of initialisation, data order and dropout."""
    milestones: tuple[Milestone, ...]
    """Rising in rung; the last one is full and stands at the end of the trial."""
    maximum_passes: float
    """Passes over all training rows in the study's longest trial: the 1000 per mille of its rungs."""
    score_to_beat: float | None = None
    """Lowest score among the study's kept weights at the time of assignment; a worker keeps weights that score higher.
    None while fewer are kept than allowed."""
    micro_batch_size: int | None = None
    """Micro-batch size that an earlier trial of this kind needed; None for whole batches."""
    confirms: int | None = None
    """The trial that this one confirms; None in a search. A confirming trial belongs to a separate study, is judged by
    a `HeldOutEvaluation`, and has a separate folder of files."""
    limit_seconds: float | None = None
    """Training and evaluation time beyond which the trial is pruned as not trainable; None for no limit."""
    alone: bool = False
    """True if its worker must train no other trial at once: a worker died, or memory ran out, while it trained beside
    others."""

    def ended(self, ending: "Ending", reason: str, seconds: float = 0.0) -> "Outcome":
        """Return an outcome of this attempt for a worker that cannot send one: it died, or did not begin."""
        return Outcome(
            trial=self.trial, attempt=self.attempt, ending=ending, seconds=seconds, peak_memory_bytes=0, reason=reason
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The start of an attempt in a worker. If the worker then dies, a started attempt may be the cause."""

    trial: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of a study's data and model, which determine the work of its trials."""

    train_rows: int
    validation_rows: int = 0
    confirmation_rows: int = 0
    folds: tuple[tuple[int, int], ...] = ()
    """Training and validation rows of each fold; none without folds."""
    least_rows: int = 1
    """Smallest number of training rows of a trial, whatever its `data_fraction`."""
    train_lengths: tuple[int, ...] = (1,)
    """Numbers of tokens of a sample of the training examples, increasing."""
    validation_lengths: tuple[int, ...] = (1,)
    layers: int
    """Number of layers of the pretrained model."""
    pass_tokens: int = 0
    """Fixed cost of a pass through the model, in tokens."""
    keeps_states: bool = False
    """True if the layers below all trained ones are computed once, not in each pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Speed of a device on the study's model."""

    fp32_seconds: float
    """Forward and backward pass, per example."""
    bf16_seconds: float
    """The same under bf16 autocast; 0 if not measured."""
    difference: float
    """Distance of bf16 logits from fp32 ones, divided by the norm of the fp32 ones."""
    precision: Precision
    """Precision that was chosen, or configured."""
    unmeasured: str = ""
    """Reason that bf16 was not measured; empty if it was, or if a precision is configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Measured work and its seconds; tokens include padding and the fixed cost of passes."""

    trained_tokens: float = 0.0
    updates: int = 0
    scored_tokens: float = 0.0
    openings: int = 0
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Costs of a few steps of one configuration on a device."""

    feasible: bool
    """True if one row at a time fits into memory; if not, the other numbers are 0."""
    micro_batch_size: int | None = None
    """Micro-batch size that fits; None for whole batches."""
    seconds_per_step: float = 0.0
    """Seconds of the fastest optimizer step, on typical texts."""
    seconds_per_scored_row: float = 0.0
    timed: tuple[Timed, ...] = ()
    """Steps, an evaluation and an opening, as far as time allowed."""
    peak_memory_bytes: int = 0
    """Peak memory of its process, on the device or the machine."""
    room_bytes: int = 0
    """Memory that its process could use; 0 if unknown."""
    checkpoint_bytes: int = 0
    """Size of one checkpoint; a running trial has two."""
    weights_bytes: int = 0
    """Size of a trial's trained weights."""
    first_loss: float = 0.0
    """Loss at the first step, nats per example; about the log of the number of classes unless something is wrong."""
    metric_error: str | None = None
    """Error of a user-defined metric on the scored rows; None if it raised none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """Requirements of a study's trials on its model, which a worker checks before the first trial."""

    max_length: int
    """Largest number of tokens of a text."""
    trained_layers: int | None
    """Largest number of trained top layers; None if no trial trains only these."""
    kept_layers: int | None
    """Largest number of kept layers; None if every trial keeps all layers."""
    dropout: bool
    """True if a trial may set dropout."""
    attention_dropout: bool
    """True if a trial may set attention dropout separately."""
    token_masking: bool
    """True if a trial may mask tokens."""
    word_swap: bool
    """True if a trial may swap words."""
    lora_targets: tuple[str, ...] = ()
    """Values of `lora_targets` that trials may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of a model on some rows."""

    metric: str
    """Name of the metric among `values` that trials are compared by, e.g. `macro_f1`."""
    values: Mapping[str, float]
    """Every score by name; higher is better, except for `loss` (nats per example). Scores are in 0..1, but `matthews`
    is in -1..1, `neg_calibration_error` in -1..0, `neg_log_loss` at most 0, and user-defined metrics have no limits."""
    rows: int
    """Number of rows that were scored."""
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Label name -> precision, recall, f1, support."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Counts, shape (classes, classes): true label by row, predicted label by column."""

    @property
    def objective(self) -> float:
        """The value of `metric`, which the search maximises."""
        return self.values[self.metric]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Score of a slice of the rows by the task's metric for slices, such as F1, which may differ from the study's."""

    by: str
    """Property that divides the rows into slices: `length` or `group`."""
    name: str
    """Its value: `0 to 31 words`, or the name of a group."""
    rows: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutEvaluation:
    """Scores of a trained model on the held-out rows that it is judged by, and their sampling error."""

    scores: Scores
    deviations: tuple[float, ...]
    """Jackknife deviations of the score: the sum of their squares is its variance over examples, the sum of
    products its covariance with another evaluation of the same rows."""
    of_a_unit: float = 0.0
    """Average change of the score if one correct row, or one group of rows, becomes wrong; 0 if unknown."""
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One evaluation of a trial in training."""

    trial: int
    attempt: int
    rung: int
    full: bool
    decides: bool
    """True if this rung may prune: enough optimizer steps were taken, and warm-up is over or trials are only set
    aside."""
    step: int
    """Optimizer steps taken."""
    epoch: float
    """Epochs of this trial's own data seen."""
    examples_seen: int
    learning_rate: float
    """Learning rate of the last step, after the schedule."""
    train_loss: float
    """Mean loss over the steps since the last report, nats per example, without the penalty."""
    validation: Scores
    train: Scores | None = None
    """Scores on a seeded sample of the training rows, in full reports with a new best score and in the last."""
    held_out: HeldOutEvaluation | None = None
    """Evaluation that a confirming trial is judged by, in reports with a new best score."""
    seconds: float
    """Training and evaluation time of the trial so far; if the attempt started from the beginning, of the attempt."""
    peak_memory_bytes: int

    @property
    def judged_scores(self) -> Scores:
        """The scores that a trial is judged by at this report."""
        return self.validation if self.held_out is None else self.held_out.scores

    @property
    def score(self) -> float:
        """The score that a trial is judged by at this report."""
        return self.judged_scores.objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a trial between reports: for the live view, never stored."""

    trial: int
    attempt: int
    examples_seen: int
    examples_total: int
    examples_per_second: float
    learning_rate: float
    train_loss: float
    seconds: float
    """Training and evaluation time so far, with that of earlier attempts."""


class Action(StrEnum):
    """Action of a decision on a trial."""

    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The coordinator's answer to a report; takes effect before the next step, or the next batch of an evaluation."""

    trial: int
    attempt: int
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Progress of a study: its trials by their state, and the best."""

    completed: int
    pruned: int
    """Pruned at a rung, or not trainable: diverged, or out of memory."""
    failed: int
    paused: int = 0
    """Begun, and to be resumed."""
    best: tuple[float, int] | None
    """(score, trial) of the best completed trial."""

    @property
    def finished(self) -> int:
        """Trials that completed, were pruned or failed."""
        return self.completed + self.pruned + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredStanding(Standing):
    """Progress of a study, with the scores that determine its gain over the default."""

    default: Scores
    """Scores of the default configuration."""
    others: Mapping[int, float]
    """Trial -> score of the other completed trials."""


class Ending(StrEnum):
    """Ending of an attempt."""

    COMPLETED = "completed"
    """Trained to its end, or to its own early stopping."""
    PRUNED = "pruned"
    """Stopped by a decision."""
    PAUSED = "paused"
    """Interrupted; a later attempt resumes the trial before others begin."""
    DIVERGED = "diverged"
    """The loss or a gradient was no longer a number."""
    INFEASIBLE = "infeasible"
    """Out of memory with a single row, or beyond its time limit."""
    FAILED = "failed"
    """An error."""
    DIED = "died"
    """Its process died or was killed; a later attempt resumes the trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of an attempt."""

    trial: int
    attempt: int
    ending: Ending
    best: Report | None = None
    """The best full report, if there was one."""
    seconds: float
    """Training and evaluation time of the trial; if the attempt started from the beginning, of the attempt."""
    peak_memory_bytes: int
    resumed_examples: int = 0
    """Examples seen at the checkpoint that the attempt resumed from; 0 if it started from the beginning."""
    resumed_seconds: float = 0.0
    """Part of `seconds` that earlier attempts took up to that checkpoint."""
    changes: tuple[str, ...] = ()
    """Changes of device, threads and versions before the trial resumed, such as `threads: 2 before, 1 now`; results
    are then equal only up to rounding."""
    micro_batch_size: int | None = None
    """Micro-batch size if memory did not suffice for whole batches; else None."""
    out_of_memory: bool = False
    """True if the attempt ended because memory ran out."""
    reason: str = ""
    """Reason of an ending other than `completed`: one line, without any text of the user's data."""
