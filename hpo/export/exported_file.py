"""Exported configuration: the content of a file that `hpo export` writes, enough to train it again."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hpo.config import study_file
from hpo.config.hyperparameters import Hyperparameters
from hpo.config.loading import apply_override
from hpo.config.parsing import Typed, read_model, read_yaml_mapping
from hpo.config.tasks import TaskConfig
from hpo.errors import ConfigurationError
from hpo.export.configs import digest_of
from hpo.messages import Assignment, Milestone, Precision
from hpo.verdict.findings import Interval

MOVABLE = ("model", "data")
"""Sections that overrides may change, because paths may differ between machines; all else must be as exported."""
Test = Callable[[Hyperparameters], bool]


class ExportedData(study_file.DataConfig):
    """Sources of the examples, and their fingerprint."""

    fingerprint: str
    """Fingerprint of the data, from `Splits.fingerprint`."""


class ExportedConfirmation(Typed):
    """Confirmed scores of a configuration, on fresh seeds."""

    score: float
    """Mean over the seeds."""
    low: float
    """Lower end of its 95% interval."""
    high: float
    """Upper end of its 95% interval."""
    scores: tuple[float, ...]
    """Score of each seed."""
    rows: int
    """Number of scored rows."""
    unseen: bool
    """True if the search never saw these rows."""


class ExportedTest(Typed):
    """Uncertainty of the score on the test split."""

    interval: Interval | None
    """95% interval over rows; None if an older version stored the score."""
    rows: int
    look: int
    """Number of this evaluation on the split, from 1; only the first is unbiased."""


class Exported(Typed):
    """One configuration of a search. Every key is required, so a file of an older version is refused."""

    kind: Literal["hpo configuration"]
    study: str
    study_uid: str
    """Unique id of the study."""
    trial: int
    chosen_by: Literal["verdict", "search", "user"]
    """Reason of the choice: recommended by the verdict, best of the search, or requested by the user."""
    metric: str
    score: float
    """Score on validation at its best full evaluation in the search; biased upwards if chosen by it."""
    confirmed: ExportedConfirmation | None
    seed_noise: float | None
    """Standard deviation of the score over seeds; None if unknown."""
    verdict: Mapping[str, Any] | None
    """The verdict on the search, as described in docs/json.md; None if nothing was confirmed."""
    validation: Mapping[str, float]
    test: Mapping[str, float]
    """Scores on the test split; empty if it was not evaluated there."""
    test_look: ExportedTest | None
    another_seed: Interval | None
    """95% prediction interval of its score on validation under another seed; None if unknown."""
    best_epoch: float
    """Epochs of its own data at the evaluation with its score."""
    seed: int
    hyperparameters: Hyperparameters
    digest: str
    """Digest of the hyperparameters and the seed, from `digest_of`, by which an edited file is detected."""
    model: study_file.ModelConfig
    task: TaskConfig
    data: ExportedData
    study_seed: int
    """Seed of the study, which determines the splits."""
    evaluation: study_file.EvaluationConfig
    confirmation: study_file.ConfirmationConfig
    milestones: Annotated[tuple[Milestone, ...], Field(min_length=1)]
    maximum_passes: float
    ranks: int
    """Number of processes that trained it together."""
    measurements: Mapping[str, Any]
    versions: dict[str, str]
    """Package -> version, and the device and threads of the search's first worker."""

    @property
    def precision(self) -> Precision:
        """Precision of its forward passes."""
        return "bf16" if self.measurements.get("precision") == "bf16" else "fp32"

    @property
    def best_milestone(self) -> Milestone:
        """The full milestone at which it reached its score."""
        passes = self.best_epoch * self.hyperparameters.data_fraction
        # Reached at the first step that is far enough, so never before its rung.
        full = [place for place in self.milestones if place.full]
        return min(full, key=lambda place: abs(place.rung - 1000 * passes / self.maximum_passes))

    def study_config(self, compute: study_file.ComputeConfig) -> study_file.StudyConfig:
        """Return the part of the study's configuration that one training depends on, with these compute settings."""
        values = self.model_dump(include={"study", "model", "data", "task", "evaluation", "confirmation"})
        del values["data"]["fingerprint"]
        return study_file.StudyConfig.model_validate({**values, "seed": self.study_seed, "compute": compute})

    def assignment(self, milestones: Sequence[Milestone] | None = None) -> Assignment:
        """Return the trial's assignment as in the search, or with other milestones."""
        return Assignment(
            trial=self.trial,
            attempt=1,
            hyperparameters=self.hyperparameters,
            seed=self.seed,
            milestones=self.milestones if milestones is None else tuple(milestones),
            maximum_passes=self.maximum_passes,
        )


def read_exported(path: Path, overrides: Sequence[str] = ()) -> Exported:
    """Read a file that `hpo export` wrote as YAML or JSON.

    Args:
        path: the file.
        overrides: `dotted.path=value` below `MOVABLE`, such as `data.train=texts.csv`.

    Raises:
        ConfigurationError: it is no such file, it is of an older version, or it was edited; or an override is invalid.
    """
    content = read_yaml_mapping(path, "a file that hpo run or hpo export wrote, such as best.yaml,")
    for override in overrides:
        apply_override(content, override, MOVABLE)
    if "hyperparameters" not in content:
        raise ConfigurationError(f"{path} holds no `hyperparameters`; name a file that hpo export wrote.")
    if missing := [name for name in Exported.model_fields if name not in content]:
        raise ConfigurationError(
            f"{path} has no {', '.join(missing)}: an older hpo wrote it, or it was cut; write it again with hpo export."
        )
    exported = read_model(Exported, content, str(path))
    if exported.digest != digest_of(exported.hyperparameters, exported.seed):
        raise ConfigurationError(
            f"The hyperparameters or the seed in {path} were changed after hpo export wrote it, so its scores are of "
            f"another configuration; put them back, or try yours in a study with hpo enqueue {shlex.quote(str(path))}."
        )
    return exported


@dataclass(frozen=True, slots=True, kw_only=True)
class Expressible:
    """Values of one hyperparameter that an export format can express."""

    fits: Test = lambda _: True
    """Function that returns true if the format can express the hyperparameters."""
    nearest: str = ""
    """Nearest equivalent if it cannot."""


def only(value: object, name: str, nearest: str) -> Expressible:
    """Return the rule for a hyperparameter that a format lacks: only the value without an effect."""
    return Expressible(fits=lambda h: getattr(h, name) == value, nearest=nearest)


def refuse_inexpressible(
    target: str, fields: Mapping[str, Expressible], exported: Exported, beside: Sequence[tuple[str, str]] = ()
) -> None:
    """Refuse a configuration that an export format cannot express.

    Args:
        target: name of the format.
        fields: hyperparameter -> rule, for those that the format cannot always express.
        exported: the configuration.
        beside: (setting, nearest equivalent) for settings other than hyperparameters that it cannot express.

    Raises:
        ConfigurationError: lists everything that cannot be expressed, with the nearest equivalents.
    """
    hyperparameters = exported.hyperparameters
    found = [
        (f"{name} {getattr(hyperparameters, name)}", field.nearest)
        for name, field in fields.items()
        if not field.fits(hyperparameters)
    ]
    if found := [*found, *beside]:
        listed = "; ".join(f"{what} (nearest: {nearest})" for what, nearest in found)
        raise ConfigurationError(
            f"{target} cannot say all of trial {exported.trial} of the study {exported.study!r}, and what it drops "
            f"would make it another experiment: {listed}. Or train it with hpo train."
        )


def own_head(exported: Exported) -> list[tuple[str, str]]:
    """Return (setting, nearest equivalent) for label words, which only the PEFT script supports; empty without."""
    head = exported.task.head
    return [(f"task.head {head}", "a language model trained to write the words")] if head != "classifier" else []


def study_wide(exported: Exported) -> list[tuple[str, str]]:
    """Return (setting, nearest equivalent) for settings of the study that no other format can express."""
    found = []
    if exported.evaluation.folds:
        found.append((f"evaluation.folds {exported.evaluation.folds}", "one validation split"))
    if ":" in exported.metric:
        found.append((f"the metric {exported.metric}", "its function, called in compute_metrics"))
    return found
