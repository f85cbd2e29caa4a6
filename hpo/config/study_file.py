"""The study file: model, data, task, search, budget, compute and store, typed and torch-free."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.reading import Typed, parse_yaml, read_model, read_yaml_mapping
from hpo.errors import ConfigurationError, nearest
from hpo.space.space_file import read_space

RANGE = ("min", "max", "distribution", "q")
# What a parameter's spec loses when an override gives it another kind of values.
REPLACES: Mapping[str, tuple[str, ...]] = {
    "value": ("values", "default", "relative_to", *RANGE),
    "values": ("value", "default", "relative_to", *RANGE),
    "min": ("value", "values"),
    "max": ("value", "values"),
}


def _study_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]*", name):
        raise ValueError(
            f"'study' is {name!r}, but a study's name is made of letters, digits, space . _ - and starts with a letter "
            "or a digit."
        )
    return name


Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_study_name)]
OneOrMore = Annotated[int, Field(ge=1)]


class ModelConfig(Typed):
    """The pretrained model that every trial starts from."""

    name: str
    """A folder that `save_pretrained` wrote, or a hub id."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    gguf_file: str | None = None
    """Name of a GGUF file in the folder, where the weights are in that format."""
    trust_remote_code: bool = False
    """Whether Python code in the model's repository may run."""


class DataConfig(Typed):
    """Labelled texts: CSV, TSV or JSONL, by the file's ending."""

    train: Path
    """Texts to train on."""
    validation: Path | None = None
    """Texts to score trials on; taken from `train` where there is no such file."""
    test: Path | None = None
    """Texts read once, after the search; taken from `train` where `test_fraction` asks for it."""
    text_column: str | None = None
    """Column of the text; detected if not given."""
    text_pair_column: str | None = None
    """Column of a second text, where the task is about pairs."""
    label_column: str | None = None
    """Column of the label; detected if not given."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training rows made into validation, where there is no file of it."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training rows made into a test split, where there is no file of it; 0 for none."""
    strict: bool = False
    """Whether bytes that are not UTF-8 are refused; otherwise they are counted and replaced."""


class TaskConfig(Typed):
    """What is learned and how it is scored."""

    name: Literal["classification"] = "classification"
    """The kind of task."""
    metric: str = "auto"
    """The objective; `auto` is F1 of the positive class for two classes and macro F1 for more."""
    positive_label: str | None = None
    """Of two labels the one whose F1 counts; else 1, true, yes or positive, else the rarer in training."""


class SearchConfig(Typed):
    """How configurations are proposed and given up."""

    sampler: Literal["tpe", "random"] = "tpe"
    """Who proposes configurations."""
    startup_trials: OneOrMore | None = None
    """Random trials before TPE proposes; null for a quarter of the budget, between 4 and 10."""
    pruner: Literal["median", "successive_halving", "none"] = "median"
    """Who gives trials up at a rung."""
    pruner_startup_trials: OneOrMore = 4
    """Finished trials before the median pruner gives any up."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Successive halving keeps one of this many at each of its rungs."""
    repeat_default: bool = True
    """Whether the default configuration is trained once more on a second seed, for the noise floor, where there
    are at least 20 trials."""


class EvaluationConfig(Typed):
    """When a trial is scored, and on what."""

    full_reports: OneOrMore | None = None
    """Evaluations of all of validation in each trial, spread evenly; null for the space's largest `epochs`."""
    rungs: Annotated[int, Field(ge=0, le=100)] = 8
    """Places, spread evenly over the longest trial, at which a trial may be given up; those between full
    evaluations score a fixed stratified part of validation. 0 for full evaluations only."""
    first_rung: Annotated[int, Field(ge=1, le=1000)] = 125
    """Per mille of the longest trial before which nothing is given up."""
    rung_rows: OneOrMore = 200
    """Validation rows scored between full evaluations, and training rows scored at each."""


class BudgetConfig(Typed):
    """When the search ends."""

    trials: OneOrMore = 40
    """Trials of the study in all, those of earlier runs among them."""


class ComputeConfig(Typed):
    """Where and how trials are trained."""

    runner: Literal["inline"] = "inline"
    """Who carries trials to devices: `inline` trains them one after the other in this process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where trials train; `auto` is the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the forward pass; `auto` is bf16 where a measurement says that it pays."""
    threads: OneOrMore | None = None
    """CPU threads of one trial; null for all cores."""


class StoreConfig(Typed):
    """Where results are kept."""

    url: str = "sqlite:///hpo.db"
    """Path of a SQLite file on a local disk, or a SQLAlchemy URL: `sqlite:///FILE`,
    `postgresql+psycopg://USER:PASSWORD@HOST/DATABASE`."""
    files: Path | None = None
    """Folder of weights; null for `hpo-files` beside the SQLite file, or in the working folder."""


class StudyConfig(Typed):
    """A whole study."""

    study: Name
    """Name of the study in its store."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed from which splits, proposals and every trial's own seed follow."""
    model: ModelConfig
    """The pretrained model."""
    data: DataConfig
    """The labelled texts."""
    task: TaskConfig = TaskConfig()
    space: str | dict[str, Any] = "encoder"
    """Name of a shipped space, path of a space file, or the parameters themselves."""
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    budget: BudgetConfig = BudgetConfig()
    compute: ComputeConfig = ComputeConfig()
    store: StoreConfig = StoreConfig()
    """Where results are kept; a text alone is its `url`."""

    @field_validator("store", mode="before")
    @classmethod
    def _text_is_url(cls, store: Any) -> Any:
        return {"url": store} if isinstance(store, str) else store

    @model_validator(mode="after")
    def _fractions_leave_training_rows(self) -> Self:
        made = 0.0 if self.data.validation else self.data.validation_fraction
        made += 0.0 if self.data.test else self.data.test_fraction
        if made > 0.9:
            raise ValueError(
                f"data.validation_fraction and data.test_fraction take {made:.0%} of the training rows; "
                "leave at least a tenth to train on."
            )
        return self


def load_study(
    path: Path | None = None, values: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> StudyConfig:
    """Read a study: the file at `path`, then `values` over it, then `overrides` such as `budget.trials=40`.

    Args:
        path: a YAML study file; relative paths in it are taken from the working folder.
        values: nested values that replace those of the file.
        overrides: `dotted.path=value`, the value in YAML. Below `space.` they reach into the named space, as in
            `space.learning_rate.max=10`.

    Raises:
        ConfigurationError: an unknown key, a bad value, or an override that leads nowhere.
    """
    merged = read_yaml_mapping(path) if path else {}
    _merge(merged, deepcopy(values or {}))
    for override in overrides:
        _apply(merged, override)
    return read_model(StudyConfig, merged, str(path) if path else "study")


def _merge(target: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Put `values` into `target`, descending into mappings that both have."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _apply(target: dict[str, Any], override: str) -> None:
    """Apply one `dotted.path=value` to `target`; no error shows the value, which may be a store's URL."""
    dotted, separator, text = override.partition("=")
    path = dotted.strip().split(".")
    if not separator or not all(path):
        raise ConfigurationError(
            f"An override reads `dotted.path=value`, as in budget.trials=40, but got {dotted + separator!r}."
        )
    if path[0] not in StudyConfig.model_fields:
        raise ConfigurationError(
            f"Unknown key {path[0]!r} in the override of {dotted!r}. {nearest(path[0], StudyConfig.model_fields)}"
        )
    if path[0] == "space" and len(path) > 1:
        target["space"] = _opened_space(target.get("space", "encoder"), path[1])
        _drop_other_kinds(target["space"].get(path[1]), path[-1])
    inner: Any = target
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(
                f"The override of {dotted!r} leads into {part!r}, which is a single value and has no keys."
            )
    inner[path[-1]] = parse_yaml(text, f"the value of {dotted}")


def _drop_other_kinds(spec: Any, key: str) -> None:
    """Where `key` makes another kind of a parameter, such as a constant of a range, take the old kind out."""
    if isinstance(spec, dict) and key in REPLACES:
        for other in REPLACES[key]:
            spec.pop(other, None)


def _opened_space(space: Any, parameter: str) -> dict[str, Any]:
    """Return the parameters of `space` as a mapping that may be changed, known to have room for `parameter`."""
    if not isinstance(space, str | dict):
        raise ConfigurationError(
            f"'space' is {space!r}, so it has no {parameter!r} to override; give it the name of a shipped space, the "
            "path of a file, or parameters."
        )
    parameters = deepcopy(space) if isinstance(space, dict) else read_space(space)
    if parameter not in parameters and parameter not in Hyperparameters.model_fields:
        raise ConfigurationError(
            f"The space has no parameter {parameter!r}. {nearest(parameter, map(str, parameters))}"
        )
    return parameters
