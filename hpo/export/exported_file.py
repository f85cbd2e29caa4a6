"""Exported configuration: what `hpo export` writes and other verbs read, with all that it takes to train it again."""

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
"""What may lie elsewhere where a file is used, so that an override may say so; the rest is what was exported."""
Test = Callable[[Hyperparameters], bool]


class ExportedData(study_file.DataConfig):
    """Where the examples are, and their fingerprint."""

    fingerprint: str
    """As `Splits.fingerprint`."""


class ExportedConfirmation(Typed):
    """How a configuration did on fresh seeds."""

    score: float
    """Mean over the seeds."""
    low: float
    """Lower end of its 95% interval."""
    high: float
    """Upper end of its 95% interval."""
    scores: tuple[float, ...]
    """Of each seed."""
    rows: int
    """Rows that were scored."""
    unseen: bool
    """Whether the search never saw them."""


class ExportedTest(Typed):
    """How sure the score on the test split is."""

    interval: Interval | None
    """Over rows; None where a store of an older version does not tell."""
    rows: int
    look: int
    """Which evaluation on the split it was, from 1: only the first was unbiased."""


class Exported(Typed):
    """One configuration of a search; every key is required, so that a file of an older version is found out."""

    kind: Literal["hpo configuration"]
    study: str
    study_uid: str
    """Tells it from another study of its name."""
    trial: int
    chosen_by: Literal["verdict", "search", "user"]
    """What it was taken for: recommended by the verdict, the search's best, or asked for."""
    metric: str
    score: float
    """The score on validation in the search, at its best full evaluation; too high where it was chosen for it."""
    confirmed: ExportedConfirmation | None
    seed_noise: float | None
    """Standard deviation of the score over seeds; None where it is not known."""
    verdict: Mapping[str, Any] | None
    """The verdict on the search, as docs/json.md has it; None where nothing was confirmed."""
    validation: Mapping[str, float]
    test: Mapping[str, float]
    """What it scored on the test split; nothing where that was not read for it."""
    test_look: ExportedTest | None
    another_seed: Interval | None
    """Where it scores on validation under another seed; None where that is not known."""
    best_epoch: float
    """Epochs of its own data after which the score was reached."""
    seed: int
    hyperparameters: Hyperparameters
    digest: str
    """What the scores belong to, as `digest_of`: they are not those of a configuration that was edited since."""
    model: study_file.ModelConfig
    task: TaskConfig
    data: ExportedData
    study_seed: int
    """Decided the splits."""
    evaluation: study_file.EvaluationConfig
    confirmation: study_file.ConfirmationConfig
    milestones: Annotated[tuple[Milestone, ...], Field(min_length=1)]
    maximum_passes: float
    ranks: int
    """Processes that trained it together."""
    measurements: Mapping[str, Any]
    versions: dict[str, str]
    """Package -> version; the device and the threads of the search's first worker."""

    @property
    def precision(self) -> Precision:
        """What its forward passes were computed in."""
        return "bf16" if self.measurements.get("precision") == "bf16" else "fp32"

    @property
    def best_milestone(self) -> Milestone:
        """The full milestone at which it had its score."""
        passes = self.best_epoch * self.hyperparameters.data_fraction
        # Reached at the first step that is far enough, so never before its rung.
        full = [place for place in self.milestones if place.full]
        return min(full, key=lambda place: abs(place.rung - 1000 * passes / self.maximum_passes))

    def study_config(self, compute: study_file.ComputeConfig) -> study_file.StudyConfig:
        """Return the study as far as one training depends on it, to be computed as `compute` says."""
        values = self.model_dump(include={"study", "model", "data", "task", "evaluation", "confirmation"})
        del values["data"]["fingerprint"]
        return study_file.StudyConfig.model_validate({**values, "seed": self.study_seed, "compute": compute})

    def assignment(self, milestones: Sequence[Milestone] | None = None) -> Assignment:
        """Return the trial as the search gave it to a worker, or scored at other milestones."""
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
        overrides: `dotted.path=value` of what lies elsewhere here, such as `data.train=texts.csv`.

    Raises:
        ConfigurationError: it is no such file, one of an older version, or one that was edited; or an override that
            leads nowhere.
    """
    content = read_yaml_mapping(path)
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
    """What a target can say of one hyperparameter."""

    fits: Test = lambda _: True
    """Whether these values can be said so."""
    nearest: str = ""
    """What comes nearest, where they cannot."""


def only(value: object, name: str, nearest: str) -> Expressible:
    """Return what a target can say of a hyperparameter that it does not know: the value that changes nothing."""
    return Expressible(fits=lambda h: getattr(h, name) == value, nearest=nearest)


def refuse_inexpressible(
    target: str, fields: Mapping[str, Expressible], exported: Exported, beside: Sequence[tuple[str, str]] = ()
) -> None:
    """Raise where a target cannot say all of a configuration.

    Args:
        target: its name.
        fields: hyperparameter -> what the target can say of it; all that are not said as they are.
        exported: the configuration.
        beside: (what, nearest) of what it cannot say and is no hyperparameter.

    Raises:
        ConfigurationError: names everything at once, each with its nearest equivalent.
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
    """Return (what, nearest) of a study whose model is asked through its own head, which no other trainer does here."""
    head = exported.task.head
    return [(f"task.head {head}", "a language model trained to write the words")] if head != "classifier" else []


def study_wide(exported: Exported) -> list[tuple[str, str]]:
    """Return (what, nearest) of a study that no other trainer says here."""
    found = []
    if exported.evaluation.folds:
        found.append((f"evaluation.folds {exported.evaluation.folds}", "one validation split"))
    if ":" in exported.metric:
        found.append((f"the metric {exported.metric}", "its function, called in compute_metrics"))
    return found
