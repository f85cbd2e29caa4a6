"""Messages, which cross process boundaries: small frozen values, never a study, a model or a database handle.

The one-way flow is `Assignment -> Report* -> Outcome`; only a `Decision` flows backward. `Progress` is for the
eyes alone and is never stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hpo.config.hyperparameters import Hyperparameters

SEMANTICS = 3
"""What a configuration and a seed are trained to; raised where a change of hpo changes scores by more than rounding.

1: whole batches, dropout in frozen layers too. 2: batches in parts by length, each with dropout masks of its own;
frozen layers in evaluation mode; dropout and folds have seeds of their own; a pair is one text whichever comes first.
3: fewer full evaluations, unless asked for, where more would take over a tenth of a trial.
"""
SEMANTICS_KEY = "semantics"
"""Its name among the versions that are recorded with a study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestone:
    """A place in a trial at which it is evaluated."""

    rung: int
    """Examples seen over the study's maximum (its longest trial), in per mille: 1 to 1000. With folds, folds scored."""
    full: bool
    """Whether all of validation is scored, or this is the mean of all folds: what can become the trial's score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a worker offers."""

    worker: str
    """Name of the worker, unique among those of a search, e.g. `inline-0`."""
    device: str
    """Device name as torch writes it: `cpu`, `cuda:0`."""
    slots: int = 1
    """Trials that it trains side by side."""


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
    """Passes over all training texts in the study's longest trial: the 1000 per mille of its rungs."""
    score_to_beat: float | None = None
    """Score that the least of the study's kept weights had when this was assigned; a worker keeps the weights of what
    beats it. None while there is room."""
    micro_batch_size: int | None = None
    """Rows of a batch that go through the model at once, as an earlier trial of this size came to; None for all."""
    confirms: int | None = None
    """The trial of the search that this one confirms, in a study beside it: it is judged by a `HeldOutEvaluation`, and
    its files lie apart. None in a search."""
    limit_seconds: float | None = None
    """Training and evaluation time beyond which the trial is given up as not trainable; None for no limit."""
    alone: bool = False
    """Whether its worker trains nothing beside it: it was in training with others when their worker died."""

    def ended(self, ending: "Ending", reason: str, seconds: float = 0.0) -> "Outcome":
        """Return the end of this attempt where its training cannot tell it: it died, or was not begun."""
        return Outcome(
            trial=self.trial, attempt=self.attempt, ending=ending, seconds=seconds, peak_memory_bytes=0, reason=reason
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A worker has begun to train an attempt: until it ends, that may be what the worker dies of."""

    trial: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """What the work of a study's trials is counted from."""

    train_rows: int
    validation_rows: int = 0
    confirmation_rows: int = 0
    folds: tuple[tuple[int, int], ...] = ()
    """Rows that are trained on and scored in each fold; none without folds."""
    least_rows: int = 1
    """Rows that a trial trains on at least, whatever its `data_fraction`."""
    train_lengths: tuple[int, ...] = (1,)
    """Tokens of training texts, rising, of so many that they stand for all."""
    validation_lengths: tuple[int, ...] = (1,)
    layers: int
    """Of the pretrained model."""
    pass_tokens: int = 0
    """What a pass through the model costs beside its tokens, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What was done in how many seconds; tokens are those of padding too, and what passes cost beside them."""

    trained_tokens: float = 0.0
    updates: int = 0
    scored_tokens: float = 0.0
    openings: int = 0
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a few steps of one configuration cost on a device."""

    feasible: bool
    """Whether one row at a time fits into memory; if not, the other numbers are 0."""
    micro_batch_size: int | None = None
    """Rows of a batch that fit at once; None for all."""
    seconds_per_step: float = 0.0
    """The fastest optimizer step on typical texts."""
    seconds_per_scored_row: float = 0.0
    """Of an evaluation."""
    timed: tuple[Timed, ...] = ()
    """Steps, an evaluation and an opening, as far as there was time for them."""
    peak_memory_bytes: int = 0
    """The most that its process took of the device, or of the machine."""
    room_bytes: int = 0
    """What there was for that process; 0 where it is not known."""
    checkpoint_bytes: int = 0
    """Size of one checkpoint, of which a trial in training has two."""
    weights_bytes: int = 0
    """Size of a trial's trained weights."""
    first_loss: float = 0.0
    """Loss at the first step, nats per example; about the log of the number of classes unless something is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """The most that any trial of a study asks of its model, so that a worker can refuse before the first."""

    max_length: int
    """Tokens of a text."""
    trained_layers: int | None
    """None where no trial trains top layers alone."""
    kept_layers: int | None
    """None where every trial keeps all layers."""
    dropout: bool
    """Whether a trial may set dropout."""
    attention_dropout: bool
    """Whether a trial may set that of attention apart."""
    token_masking: bool
    """Whether a trial may mask tokens."""
    word_swap: bool
    """Whether a trial may swap words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a model scored on some rows."""

    metric: str
    """Name of the objective among `values`, e.g. `macro_f1`."""
    values: Mapping[str, float]
    """Every score by name; higher is better, except for `loss` (nats per example). In 0..1, but `matthews` in -1..1,
    `neg_calibration_error` in -1..0, `neg_log_loss` at most 0, and a function of the user's own anywhere."""
    rows: int
    """How many rows were scored."""
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Label name -> precision, recall, f1, support."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Counts, shape (classes, classes): true label by row, predicted label by column."""

    @property
    def objective(self) -> float:
        """The value of the objective."""
        return self.values[self.metric]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What some of the rows score by the metric that the task has for parts, such as F1, whatever the objective."""

    by: str
    """What the rows have in common: `length` or `group`."""
    name: str
    """Which of them: `0 to 31 words`, or the name of a group."""
    rows: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutEvaluation:
    """What a trained model scored on rows that it is judged by, and how much of that is the choice of rows."""

    scores: Scores
    deviations: tuple[float, ...]
    """How the objective departs with each group of rows (jackknife): the sum of their squares is its variance over
    examples, that of products its covariance with another reading of the same rows."""
    of_a_unit: float = 0.0
    """By how much on average the objective moves where one row, or one group of rows that belong together, that is
    answered rightly is answered otherwise; 0 where that is not known."""
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One evaluation of a trial in training."""

    trial: int
    attempt: int
    rung: int
    full: bool
    decides: bool
    """Whether this rung may prune: warm-up is over and enough optimizer steps were taken."""
    step: int
    """Optimizer steps taken."""
    epoch: float
    """Epochs of this trial's own data seen."""
    examples_seen: int
    learning_rate: float
    """The rate of the last step, schedule applied."""
    train_loss: float
    """Mean loss over the steps since the last report, nats per example, penalty excluded."""
    validation: Scores
    train: Scores | None = None
    """Scores on a seeded sample of the training rows; of full reports at a new best, and at its last."""
    held_out: HeldOutEvaluation | None = None
    """Of a trial that confirms another, at a new best: what it is judged by."""
    seconds: float
    """Training and evaluation time of the trial so far; of an attempt that began anew, of that attempt."""
    peak_memory_bytes: int

    @property
    def score(self) -> float:
        """The objective that a trial is judged by at this report."""
        return (self.validation if self.held_out is None else self.held_out.scores).objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a trial stands between reports: for a live view, never stored."""

    trial: int
    attempt: int
    examples_seen: int
    examples_total: int
    examples_per_second: float
    learning_rate: float
    train_loss: float
    seconds: float
    """Training and evaluation time up to there, that of earlier attempts among it."""


class Action(StrEnum):
    """What a decision asks of a trial."""

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
    """How a study stands: trials that are over, by how they ended, and the best."""

    completed: int
    pruned: int
    """Given up at a rung, or not trainable at all: diverged, or out of memory."""
    failed: int
    best: tuple[float, int] | None
    """(score, trial) of the best completed trial."""

    @property
    def finished(self) -> int:
        """Trials that are over."""
        return self.completed + self.pruned + self.failed


class Ending(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    """Trained to its end, or to its own early stopping."""
    PRUNED = "pruned"
    """Stopped by a decision."""
    PAUSED = "paused"
    """Cut by a signal; the trial goes on, first, in a later attempt."""
    DIVERGED = "diverged"
    """The loss or a gradient was no longer a number."""
    INFEASIBLE = "infeasible"
    """Out of memory with one row at once, or over the limit of its time."""
    FAILED = "failed"
    """An error."""
    DIED = "died"
    """Its process died or was killed; the trial goes on in a later attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of an attempt."""

    trial: int
    attempt: int
    ending: Ending
    best: Report | None = None
    """The best full report; None where there was none."""
    seconds: float
    """Training and evaluation time of the trial; of an attempt that began anew, of that attempt."""
    peak_memory_bytes: int
    resumed_examples: int = 0
    """Examples seen at the checkpoint that the attempt went on from; 0 where it began anew."""
    resumed_seconds: float = 0.0
    """Those of `seconds` that earlier attempts had taken up to there."""
    changes: tuple[str, ...] = ()
    """What was another when a trial went on, as `threads: 2 before, 1 now`: then it is the same to rounding only."""
    micro_batch_size: int | None = None
    """Rows of a batch that went through the model at once, where memory did not suffice for all; None where it did."""
    reason: str = ""
    """Why, where the ending is not `completed`: one line, no text of the user's."""
