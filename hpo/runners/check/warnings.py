"""Warnings before a search, in sentences: each a pure function of the findings, None where all is well."""

import math
from collections import Counter
from collections.abc import Sequence

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.times import humanized
from hpo.data.splits import Splits
from hpo.messages import Probe
from hpo.metrics.metric import SelectionMetric
from hpo.verdict.wording import FEWEST_ROWS, small_classes

MOST_OFF = 0.5
"""Share of the expected first loss by which it may be off: a new head gives every class the same probability."""
MOST_CUT = 0.1
LEAST_TRIALS = 10
LEAST_STORE_BYTES = 2**30
SLOW_COMMIT_SECONDS = 0.1
GIB = 2**30

NO_NUMBER = (
    "The loss at the first step is not a number: the model cannot compute in this precision, or its weights are "
    "broken; try compute.precision=fp32, and look at the model's files."
)


def no_room(which: str, hyperparameters: Hyperparameters) -> str:
    """Return that not even one row of a configuration fits into memory."""
    method = hyperparameters.method
    lighter = f" take {method} out of the values of method," if method != "head" else ""
    return (
        f"Memory does not suffice for the {which} configuration of the space, not even for one example at a time: "
        f"method {method}, max_length {hyperparameters.max_length}, optimizer {hyperparameters.optimizer}. Lower "
        f"max_length,{lighter} or choose a smaller model."
    )


def on_first_loss(probe: Probe, expected: float | None) -> str | None:
    """Warn of a mean loss at the first step that is not about the one `expected`; where that is None, of NaN only."""
    if not math.isfinite(probe.first_loss):
        return NO_NUMBER
    if expected is None or abs(probe.first_loss - expected) <= MOST_OFF * expected:
        return None
    return (
        f"The loss at the first step is {probe.first_loss:.2f}, but of a head that knows nothing yet it should be "
        f"about {expected:.2f}: look whether the model and its tokenizer belong together."
    )


def on_metric(probe: Probe) -> str | None:
    """Doubt a metric of the user's own that failed after a few steps."""
    return probe.metric_error and f"After a few steps {probe.metric_error} A trial in which it does so fails."


def on_cut_texts(share: float, max_length: int) -> str | None:
    """Warn of a length at which much is cut off; `share` of the training examples is."""
    if share <= MOST_CUT:
        return None
    return f"{share:.0%} of the training examples fill max_length, {max_length} tokens; what is longer is cut there."


def on_rare_classes(splits: Splits, metric: SelectionMetric) -> str | None:
    """Warn of classes with hardly any validation row, where the metric depends on them."""
    counts = Counter(splits.validation.labels)
    rows = {label: counts[label] for label in splits.label_names}
    if not (named := small_classes(rows, metric.name, metric.positive)):
        return None
    return (
        f"Fewer than {FEWEST_ROWS} validation rows tell about {named}, so that their scores are mostly chance; "
        "give more rows, a larger data.validation_fraction, or evaluation.folds."
    )


def on_few_trials(fitting: tuple[int, int] | None, epochs: int) -> str | None:
    """Warn of a time into which few trials fit, were each as long as the longest, which has so many epochs."""
    if fitting is None or fitting[1] >= LEAST_TRIALS:
        return None
    return (
        f"If all trials were as long as the longest, {fitting[1]} would fit into the time, and a search needs "
        f"{LEAST_TRIALS} or more; give it more time, or lower the largest epochs, now {epochs}, or data_fraction."
    )


def on_trial_time(trial_seconds: tuple[float, float] | None, limit_seconds: float | None) -> str | None:
    """Warn of a limit of each trial's time that the longest configurations exceed."""
    if limit_seconds is None or trial_seconds is None or trial_seconds[1] <= limit_seconds:
        return None
    return (
        f"The longest trial takes about {humanized(trial_seconds[1])}, beyond budget.trial_time, "
        f"{humanized(limit_seconds)}, so such trials will be pruned; raise it, or lower the largest epochs."
    )


def on_disk(needed: int, free: int, folder: str) -> str | None:
    """Warn of a disk that has `free` bytes for checkpoints and weights that need more."""
    if needed <= free:
        return None
    return (
        f"Checkpoints and weights need up to {size(needed)}, but there are {size(free)} for {folder}; make room, name "
        "another folder by store.files, or give store.keep_weights or compute.workers a smaller number."
    )


def on_grace(seconds: float, grace_seconds: float) -> str | None:
    """Warn of a grace shorter than the `seconds` in which all workers reach a step and write a checkpoint."""
    if seconds <= grace_seconds:
        return None
    return (
        f"When the search is told to end, all workers together take about {humanized(seconds)} to write their "
        f"checkpoints, beyond compute.grace_seconds, {humanized(grace_seconds)}, so a trial may go back to an earlier "
        f"one or begin anew; set it to {math.ceil(seconds / 5) * 10}."
    )


def on_memory(probes: Sequence[Probe], processes: int) -> str | None:
    """Warn where so many processes do not fit on one device, each of which takes the most that a probe took."""
    peak = max((probe.peak_memory_bytes for probe in probes), default=0)
    room = min((probe.room_bytes for probe in probes if probe.room_bytes), default=None)
    if room is None or processes * peak <= room:
        return None
    return (
        f"{processes} workers need up to {size(processes * peak)} of memory, but where they train there is "
        f"{size(room)}; give compute.workers a smaller number."
    )


def on_full_store(free: int, folder: str) -> str | None:
    """Warn of a SQLite file on a disk that is nearly full."""
    if free >= LEAST_STORE_BYTES:
        return None
    return f"The store's disk has only {size(free)} left at {folder}, and a full one holds the search up; make room."


def on_slow_store(commit_seconds: float, folder: str) -> str | None:
    """Warn of a SQLite file on a disk that takes long to store a few bytes durably."""
    if commit_seconds <= SLOW_COMMIT_SECONDS:
        return None
    return (
        f"The disk at {folder} takes {commit_seconds:.2f} s to write down a few bytes, which a store waits for several "
        "times in each trial; put it on a local disk by --store."
    )


def on_unused_gpu(gpus: int, device: str) -> str | None:
    """Warn of training on a CPU beside GPUs."""
    if not gpus or device != "cpu":
        return None
    return "This machine has a GPU, but compute.device is cpu; take auto or cuda to use it."


def on_battery(on_battery: bool) -> str | None:
    """Warn of a search on a battery."""
    return "This machine runs on its battery; plug it in, or it may not see the morning." if on_battery else None


def size(count: int) -> str:
    """Return a number of bytes as text: `3 MiB`, `1.5 GiB`, `13 GiB`."""
    if count < GIB:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / GIB:.1f} GiB" if count < 10 * GIB else f"{count / GIB:.0f} GiB"
