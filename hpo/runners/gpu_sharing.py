"""GPU sharing: the number of trials that train side by side on each GPU, measured for `compute.workers: auto`.

A small model leaves a GPU idle while its next operations are prepared. Other processes fill these gaps.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Probe, WorkerSettings
from hpo.runners.callbacks import SearchCallback
from hpo.runners.processes.launcher import open_processes
from hpo.runners.processes.worker_specs import workers_of
from hpo.search.preflight import shares_backbone, trials_together
from hpo.search.trial_sizes import dearest
from hpo.space.search_space import SearchSpace
from hpo.training.device import choose_device
from hpo.training.worker import Worker

MOST_TRIALS = 16
"""Largest number of trials on a GPU."""
SPARE_MEMORY = 1.1
"""Memory counted for each trial, relative to the dearest one's measured peak: other trials allocate other blocks."""
STEPS = 3
"""Steps that the dearest trial is timed over."""


def with_shared_gpus(
    config: StudyConfig, space: SearchSpace, splits: Splits, callback: SearchCallback, is_ending: Callable[[], bool]
) -> StudyConfig:
    """Return a study whose `compute.workers: auto` is replaced by the measured share of a GPU for each trial.

    A worker is opened for the measurement, and closed.

    Raises:
        HpoError: the worker cannot be opened, or `is_ending` returned true before it was.
    """
    if config.compute.workers != "auto":
        return config
    if not _may_share(config, space):
        return _with_trials(config, 1)
    callback.note("Measuring how many trials to train side by side on a GPU.")
    with TemporaryDirectory() as folder, open_processes(config, splits, Path(folder), is_ending) as pool:
        trials, sentence = _measured(pool.lead, config, space)
    callback.note(sentence)
    return _with_trials(config, trials)


def _with_trials(config: StudyConfig, per_gpu: int) -> StudyConfig:
    """Return the study with that many trials on each GPU."""
    share = {"workers": None, "gpus_per_trial": None if per_gpu == 1 else 1 / per_gpu}
    return config.model_copy(update={"compute": config.compute.model_copy(update=share)})


def _may_share(config: StudyConfig, space: SearchSpace) -> bool:
    """Return true if each trial trains on one GPU, and not in a slot of a worker, which shares a GPU already."""
    compute = config.compute
    in_slots = compute.slots != 1 and shares_backbone(config, space)
    return choose_device(compute).type == "cuda" and compute.ranks_of_trial == 1 and not in_slots


def _measured(lead: Worker, config: StudyConfig, space: SearchSpace) -> tuple[int, str]:
    """Return the number of trials for each GPU, and a sentence on it."""
    precision, largest = config.compute.precision, dearest(space)
    chosen = lead.measure(largest).precision if precision == "auto" else precision
    lead.use(WorkerSettings(precision=chosen))
    probe = lead.probe(largest, STEPS)
    if not probe.feasible:
        return 1, "Each GPU trains one trial: the dearest one does not fit into its memory."
    busy = lead.busy_share(space.hyperparameters(space.default_values()))
    trials = trials_per_gpu(probe, busy, cores=torch.get_num_threads() // workers_of(config.compute))
    train = "trains one trial" if trials == 1 else f"trains {trials} trials side by side"
    return trials, (
        f"Each GPU {train}: one keeps it busy for {busy:.0%} of the time, and takes at most "
        f"{probe.peak_memory_bytes / 2**30:.1f} of {probe.room_bytes / 2**30:.1f} GiB."
    )


def trials_per_gpu(probe: Probe, busy: float, *, cores: int) -> int:
    """Return the number of trials on a GPU, a power of two, with the shortest time to a good score.

    Args:
        probe: of the trial that takes the most memory; it fits.
        busy: share of the time of a typical trial in which it uses the GPU, in (0, 1].
        cores: of the machine, for each GPU; each trial's process needs one.
    """
    doubled = [2**power for power in range(MOST_TRIALS.bit_length())]
    fitting = [n for n in doubled if n <= cores and n * SPARE_MEMORY * probe.peak_memory_bytes <= probe.room_bytes]
    rates = speedups(busy)
    return trials_together({n: rates[n] for n in {1, *fitting}})


def speedups(busy: float) -> dict[int, float]:
    """Return n -> steps per second of n processes that take turns on a GPU, over those of one; n from 1.

    By mean value analysis of a closed network (Reiser and Lavenberg 1980): alone, a process uses the GPU for the share
    `busy` of a step; beside others, it first waits for those that queue there on average with one process less.
    """
    found, waiting = dict[int, float](), 0.0
    for processes in range(1, MOST_TRIALS + 1):
        on_gpu = busy * (1 + waiting)
        found[processes] = processes / (on_gpu + 1 - busy)
        waiting = found[processes] * on_gpu
    return found
