"""Retraining: training of an exported configuration as in the search, and comparison of the scores."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.config.parsing import differences
from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.readers.locations import is_missing
from hpo.data.splits import Splits, splits_of
from hpo.errors import ConfigurationError, DataError, TrainingError
from hpo.export.exported_file import Exported
from hpo.messages import Action, Assignment, Ending, Progress, Report, WorkerSettings
from hpo.training.worker import Worker, open_worker, train

Say = Callable[[str], None]
"""Callback for sentences on the progress of the training."""
IDLE = ("optuna:", "sqlalchemy:")
"""Recorded packages without an effect on training."""
UNRECORDED = (
    "On a CPU the number is the same then, unless memory ran short in the search, the trial was trained on another "
    "machine than the study was begun on, or the pretrained weights have changed."
)
ON_GPU = "Nothing that is recorded differs, but a GPU need not add in the same order again."


def compute_of(exported: Exported, *, device: str | None = None, threads: int | None = None) -> ComputeConfig:
    """Return compute settings as in the search, as far as this machine allows; `device` and `threads` replace them.

    Raises:
        ConfigurationError: the device does not exist.
    """
    recorded = exported.versions.get("threads", "")
    usual = min(int(recorded), os.cpu_count() or 1) if recorded.isdigit() else None
    on_cpu = exported.versions.get("device", "").startswith("cpu")
    device = device or ("cpu" if on_cpu else "auto")
    return ComputeConfig.model_validate(
        {"device": device, "threads": threads or usual, "precision": exported.precision}
    )


def study_and_splits(exported: Exported, compute: ComputeConfig) -> tuple[StudyConfig, Splits]:
    """Return the study of an exported configuration, and its splits.

    Raises:
        DataError: the data do not exist, cannot be read, or differ from those of the search.
    """
    config = exported.study_config(compute)
    sources = {name: getattr(config.data, name) for name in ("train", "validation", "test")}
    if missing := {name: source for name, source in sources.items() if source is not None and is_missing(source)}:
        raise DataError(
            f"There is nothing at {', '.join(missing.values())}, where the search had its texts; say "
            f"{' '.join(f'data.{name}=FILE' for name in missing)}."
        )
    splits = splits_of(config)
    if splits.fingerprint != exported.data.fingerprint:
        raise DataError(
            f"The texts, labels or splits of {config.data.train} are not those of the study {exported.study!r}, so no "
            "score would compare; give the same texts, as data.train=FILE where they lie elsewhere."
        )
    return config, splits


def open_trainer(exported: Exported, config: StudyConfig, splits: Splits, files: Path | None = None) -> Worker:
    """Return a worker with the search's precision that keeps weights below `files`; None to keep none.

    Raises:
        ModelError, ConfigurationError: the model, the metric or the device cannot be used.
    """
    worker = open_worker(config, splits, files)
    if worker.metric.name != exported.metric:
        raise ConfigurationError(
            f"The score in the file is {exported.metric}, but its task asks for {worker.metric.name}; write the "
            "file again with hpo export."
        )
    worker.use(WorkerSettings(precision=exported.precision))
    return worker


def retrain(worker: Worker, assignment: Assignment, say: Say, stop_at: int | None = None) -> Report:
    """Train to the end, or to the full evaluation at rung `stop_at`, and return the best full evaluation.

    Raises:
        TrainingError: training failed, diverged or ran out of memory.
    """

    def answer(message: Report | Progress) -> Action:
        if isinstance(message, Progress) or not message.full:
            return Action.CONTINUE
        say(f"epoch {message.epoch:.2f}: {message.validation.metric} {message.validation.objective:.4f}")
        return Action.STOP if message.rung == stop_at else Action.CONTINUE

    outcome = train(worker, assignment, answer)
    wanted = Ending.COMPLETED if stop_at is None else Ending.PRUNED
    if outcome.ending is not wanted or outcome.best is None:
        raise TrainingError(f"The training {outcome.ending}: {outcome.reason or 'nothing was scored.'}")
    return outcome.best


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """The score of a configuration that was trained again."""

    expected: float
    score: float
    reproduced: bool
    differs: tuple[str, ...]
    """Differences from the search, as `torch: 2.13.0 before, 2.14.0 now`."""
    sentence: str

    @property
    def to_the_last_bit(self) -> bool:
        """True if both scores are exactly equal."""
        return self.score == self.expected


def differences_from_search(exported: Exported, now: Mapping[str, str]) -> tuple[str, ...]:
    """Return the differences `now` from the search in versions, device, threads and ranks; now there is one rank."""
    before, after = exported.versions | {"ranks": str(exported.ranks)}, {**now, "ranks": "1"}
    return tuple(phrase for phrase in differences(before, after) if not phrase.startswith(IDLE))


def reproduction_of(exported: Exported, score: float, differs: Sequence[str]) -> Reproduction:
    """Compare `score` with the one in the file.

    On a CPU it is equal to the last bit if all recorded circumstances are equal. Otherwise rounding differs, which
    soon has the effect of another seed: the score counts as reproduced if it lies within the 95% interval of another
    seed on the same rows, or between that and the file's score. If the interval is unknown, it is not reproduced.
    """
    expected, near = exported.score, exported.another_seed
    numbers = f"{exported.metric} is {score:.6f}, in the file {expected:.6f}"
    exact = not differs and exported.versions.get("device", "").startswith("cpu")
    why = f"What differs: {'; '.join(differs)}." if differs else ON_GPU
    is_same = score == expected
    if is_same:
        sentence = f"Reproduced to the last bit: {exported.metric} {score:.4f}."
    elif exact:
        sentence = f"Not reproduced: {numbers}, though nothing that is recorded differs. {UNRECORDED}"
    elif near is not None:
        is_same = min(near.low, expected) <= score <= max(near.high, expected)
        verb = "Reproduced, though not to the last bit" if is_same else "Not reproduced"
        where = f"{'where' if is_same else 'not where'} 95% of runs under another seed lie"
        sentence = f"{verb}: {numbers}, {where}, {near.low:.4f} to {near.high:.4f}. {why}"
    else:
        sentence = (
            f"It cannot be told whether it is reproduced: {numbers}, and how much seeds move the score is not known; "
            f"hpo confirm tells. {why}"
        )
    return Reproduction(expected=expected, score=score, reproduced=is_same, differs=tuple(differs), sentence=sentence)
