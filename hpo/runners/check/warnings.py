"""Warnings before a search: functions from what the check found to a sentence, or None if there is no problem."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.times import humanized
from hpo.data.labels import listed_labels
from hpo.data.splits import Splits
from hpo.messages import Probe
from hpo.metrics.metric import SelectionMetric
from hpo.verdict.wording import FEWEST_ROWS, small_classes

MOST_OFF = 0.5
"""Relative deviation of the first loss from the expected one, above which hpo warns."""
MOST_CUT = 0.1
LEAST_TRIALS = 10
LEAST_STORE_BYTES = 2**30
SLOW_COMMIT_SECONDS = 0.1
GIB = 2**30

NO_NUMBER = (
    "The loss at the first step is not a number: the model cannot compute in this precision, or its weights are "
    "broken; try compute.precision=fp32, and check the model's files."
)


def no_room(which: str, hyperparameters: Hyperparameters) -> str:
    """Return the refusal of a configuration that does not fit into memory even with one row at a time."""
    method = hyperparameters.method
    lighter = f" remove {method} from the values of method," if method != "head" else ""
    return (
        f"The {which} configuration of the space does not fit into memory, even with one example at a time: "
        f"method {method}, max_length {hyperparameters.max_length}, optimizer {hyperparameters.optimizer}. Lower "
        f"max_length,{lighter} or choose a smaller model."
    )


def on_first_loss(probe: Probe, expected: float | None) -> str | None:
    """Warn of a first mean loss far from the `expected` one; if that is None, only of one that is not a number."""
    if not math.isfinite(probe.first_loss):
        return NO_NUMBER
    if expected is None or abs(probe.first_loss - expected) <= MOST_OFF * expected:
        return None
    return (
        f"The loss at the first step is {probe.first_loss:.2f}, but that of an untrained head should be about "
        f"{expected:.2f}: check that the model and its tokenizer belong together."
    )


def on_metric(probe: Probe) -> str | None:
    """Warn of a metric of the user's own that failed after a few steps."""
    return probe.metric_error and f"After a few steps {probe.metric_error} Each trial in which this happens fails."


def on_cut_texts(share: float, max_length: int) -> str | None:
    """Warn of a `max_length` that cuts a large `share` of the training examples."""
    if share <= MOST_CUT:
        return None
    return f"{share:.0%} of the training examples reach max_length ({max_length} tokens); longer texts are cut there."


def on_rare_classes(splits: Splits, metric: SelectionMetric) -> str | None:
    """Warn of classes with few validation rows, if the metric depends on them."""
    counts = Counter(splits.validation.labels)
    rows = {label: counts[label] for label in splits.label_names}
    if not (named := small_classes(rows, metric.name, metric.positive)):
        return None
    return (
        f"Fewer than {FEWEST_ROWS} validation rows for {named}, so the scores of these classes are mostly chance; give "
        "more rows, a larger data.validation_fraction, or evaluation.folds."
    )


def on_idle_words(words: Iterable[str], labels: Iterable[str]) -> str | None:
    """Warn of `task.label_words` that are of none of the `labels` of the training rows."""
    if not (idle := {*words}.difference(labels)):
        return None
    return f"task.label_words has words for labels that no training row has, which are not used: {listed_labels(idle)}."


def on_few_trials(fitting: tuple[int, int] | None, trials: int | None, epochs: int) -> str | None:
    """Warn of a time limit into which few of the longest trials fit, if the budget allows more than these.

    Args:
        fitting: shortest and longest trials that fit into the time; None without a limit.
        trials: number of trials in the budget; None for as many as fit.
        epochs: epochs of the longest trials.
    """
    if fitting is None or fitting[1] >= min(LEAST_TRIALS, trials or LEAST_TRIALS):
        return None
    return (
        f"Only {fitting[1]} of the longest trials fit into the time, but a search needs {LEAST_TRIALS} or more; give "
        f"it more time, or lower the largest epochs (now {epochs}) or data_fraction."
    )


def on_trial_time(trial_seconds: tuple[float, float] | None, limit_seconds: float | None) -> str | None:
    """Warn of a `budget.trial_time` that the longest configurations exceed."""
    if limit_seconds is None or trial_seconds is None or trial_seconds[1] <= limit_seconds:
        return None
    return (
        f"The longest trial takes about {humanized(trial_seconds[1])}, more than budget.trial_time "
        f"({humanized(limit_seconds)}), so such trials will be pruned; raise it, or lower the largest epochs."
    )


def on_disk(needed: int, free: int, folder: str) -> str | None:
    """Warn of a disk with fewer `free` bytes than checkpoints and weights need."""
    if needed <= free:
        return None
    return (
        f"Checkpoints and weights need up to {size(needed)}, but {folder} has {size(free)}; make room, name "
        "another folder with store.files, or give store.keep_weights or compute.workers a smaller number."
    )


def on_grace(seconds: float, grace_seconds: float) -> str | None:
    """Warn of a `grace_seconds` shorter than all workers need to finish a step and write a checkpoint."""
    if seconds <= grace_seconds:
        return None
    return (
        f"When the search is told to end, all workers together take about {humanized(seconds)} to write their "
        f"checkpoints, more than compute.grace_seconds ({humanized(grace_seconds)}), so a trial may resume from an "
        f"earlier checkpoint or restart; set it to {math.ceil(seconds / 5) * 10}."
    )


def on_memory(probes: Sequence[Probe], processes: int) -> str | None:
    """Warn if `processes` on one device, each with the peak memory of the probes, do not fit."""
    peak = max((probe.peak_memory_bytes for probe in probes), default=0)
    room = min((probe.room_bytes for probe in probes if probe.room_bytes), default=None)
    if room is None or processes * peak <= room:
        return None
    return (
        f"{processes} workers need up to {size(processes * peak)} of memory, but the device has {size(room)}; lower "
        "compute.workers."
    )


def on_full_store(free: int, folder: str) -> str | None:
    """Warn of a SQLite file on a disk that is nearly full."""
    if free >= LEAST_STORE_BYTES:
        return None
    return f"The store's disk has only {size(free)} left at {folder}, and a full disk stalls the search; make room."


def on_slow_store(commit_seconds: float, folder: str) -> str | None:
    """Warn of a SQLite file on a disk that takes long to store a few bytes durably."""
    if commit_seconds <= SLOW_COMMIT_SECONDS:
        return None
    return (
        f"The disk at {folder} takes {commit_seconds:.2f} s to store a few bytes durably, which the store waits for "
        "several times per trial; put the store on a local disk with --store."
    )


def on_unused_gpu(gpus: int, device: str) -> str | None:
    """Warn of training on a CPU although there are GPUs."""
    if not gpus or device != "cpu":
        return None
    return "This machine has a GPU, but compute.device is cpu; set it to auto or cuda to use it."


def on_battery(on_battery: bool) -> str | None:
    """Warn of a search on a battery."""
    return (
        "This machine runs on its battery; plug it in, or it may switch off during the search." if on_battery else None
    )


def size(count: int) -> str:
    """Return a number of bytes as text: `3 MiB`, `1.5 GiB`, `13 GiB`."""
    if count < GIB:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / GIB:.1f} GiB" if count < 10 * GIB else f"{count / GIB:.0f} GiB"
