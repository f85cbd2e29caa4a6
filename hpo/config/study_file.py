"""Study configuration: model, data, task, search, budget, compute and store, typed and torch-free."""

import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from hpo.config.hyperparameters import OneOrMore
from hpo.config.parsing import Typed
from hpo.config.study_names import checked_study_name
from hpo.config.tasks import TASK_FACTS, TaskConfig, unused_sentence
from hpo.config.times import parse_duration, parse_moment
from hpo.space.space_file import AUTO


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _moment(text: str) -> str:
    # What is past when the file is read may have been ahead when the study began; the start refuses it.
    parse_moment(text, datetime.min.replace(year=2, tzinfo=UTC))
    return text


def _delimiter(text: str) -> str:
    character = NAMED_DELIMITERS.get(text, text)
    if len(character) != 1 or character.isalnum() or character in "\"'\r\n":
        raise ValueError(
            f"'data.delimiter' is {text!r}, but cells are divided by one character that is no letter, digit or "
            f"quotation mark; give it in quotes, or its name: comma, semicolon, tab, pipe."
        )
    return character


NAMED_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
DEFAULT_TRIALS = 40
DEFAULT_RUNG_ROWS = 200

PrunerName = Literal[
    "auto", "asynchronous_median", "median", "percentile", "successive_halving", "hyperband", "patient", "threshold",
    "wilcoxon", "none",
]  # fmt: skip
FOLD_PRUNERS = ("wilcoxon", "threshold", "none")
"""Pruners that may judge a trial by its folds; the others compare learning curves."""

Name = Annotated[str, AfterValidator(checked_study_name)]
LocalPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path or another name; a `~` that it begins with is the home folder, as no shell reads study files."""
DataPath = Annotated[LocalPath, BeforeValidator(lambda source: str(source) if isinstance(source, Path) else source)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Moment = Annotated[
    str, BeforeValidator(lambda moment: str(moment) if isinstance(moment, date) else moment), AfterValidator(_moment)
]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
FilesUrl = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]+://.+")]


class ModelConfig(Typed):
    """The pretrained model that every trial starts from."""

    name: LocalPath
    """A folder that `save_pretrained` wrote, or a hub id."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    gguf_file: str | None = None
    """Name of a GGUF file in the folder, where the weights are in that format."""
    trust_remote_code: bool = False
    """Whether Python code in the model's repository may run."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the pretrained weights; `auto` is bf16 where no trial changes them because `method` is always
    `lora`, and the processor computes in it, else fp32. Weights that a trial trains are fp32."""
    quantization: Literal["nf4"] | None = None
    """`nf4` holds the pretrained weights of linear layers in 4 bits (Dettmers et al. 2023), for methods that leave them
    as they are; needs the extra `quantized`. Null for `dtype`."""


class DataConfig(Typed):
    """Labelled texts. A source is a file (its ending tells the format), a pattern of several such as `part-*.csv`, a
    folder that `datasets` saved, or `hf://OWNER/NAME?configuration=NAME&split=NAME` on the hub."""

    train: DataPath
    """Texts to train on."""
    validation: DataPath | None = None
    """Texts to score trials on; taken from `train` where there is no such source."""
    test: DataPath | None = None
    """Texts read once, after the search; taken from `train` where `test_fraction` asks for it."""
    text_column: str | None = None
    """Column of the text; detected if not given."""
    text_pair_column: str | None = None
    """Column of a second text, where the task is about pairs."""
    label_column: str | None = None
    """Column of the label, of a regression that of the number; detected if not given."""
    label_columns: tuple[str, ...] = ()
    """`multi_label`: columns of 0 and 1, one a label, in place of one column of labels."""
    label_separator: Annotated[str, Field(min_length=1)] = "|"
    """`multi_label`: what divides the labels in a cell of one column, where it is no JSON list; an empty cell is no
    labels."""
    group_column: str | None = None
    """Column that says which texts belong together, such as those of one document: no group is in two splits."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training rows made into validation, where there is no file of it."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training rows made into a test split, where there is no file of it; 0 for none."""
    delimiter: Annotated[str, AfterValidator(_delimiter)] | None = None
    """Character between the cells of CSV and TSV files, or its name: comma, semicolon, tab, pipe; found if null."""
    rare_labels: Literal["refuse", "drop", "merge"] = "refuse"
    """What becomes of labels with too few training rows to be trained and scored on: they are refused, their rows are
    dropped from all splits, or they become one label, `other` (dropped where that is too rare as well)."""
    strict: bool = False
    """Whether bytes that are not UTF-8 are refused; otherwise they are counted and replaced."""


class SearchConfig(Typed):
    """Sampler and pruner."""

    sampler: Literal["tpe", "random", "gp", "cmaes", "qmc", "grid", "brute_force"] = "tpe"
    """The sampler, which proposes configurations."""
    startup_trials: OneOrMore | None = None
    """Random trials before `tpe`, `gp` or `cmaes` proposes; null for a quarter of the budget, between 4 and 10."""
    pruner: PrunerName = "auto"
    """The pruner; `auto` is `asynchronous_median`, and `wilcoxon` where `evaluation.folds` is given."""
    pruner_startup_trials: OneOrMore = 4
    """Finished trials before `median`, `percentile` or `patient` prunes any; of `asynchronous_median`, other trials
    that came to the same rung, at most 4."""
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    """`percentile`: keeps a trial that is among this best part, in per cent, of the trials at its rung."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """`successive_halving` and `hyperband` keep one of this many at each of their rungs."""
    patience: OneOrMore = 2
    """`patient`: evaluations in a row, each worse than the best before them, that are borne until the median pruner is
    asked."""
    lowest_score: float | None = None
    """`threshold`: score on validation below which a trial is pruned."""
    p_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """`wilcoxon`: p value, of the trial being worse than the best one, below which it is pruned."""
    portfolio: bool = True
    """Whether the published configurations of the space, where it has some, are tried after the default."""
    repeat_default: bool = True
    """Whether with `budget.patience` the default configuration is trained once more on a second seed, for the noise
    floor, when 20 trials are over, or as many as `patience` says."""


class EvaluationConfig(Typed):
    """Evaluations of a trial: when it is scored, and on which rows."""

    full_reports: OneOrMore | None = None
    """Evaluations of all of validation in each trial, spread evenly; null for the space's largest `epochs`, or fewer
    where evaluations would take more than a tenth of a trial and validation is small (see `rung_rows`)."""
    rungs: Annotated[int, Field(ge=0, le=100)] = 8
    """Places, spread evenly over the longest trial, at which a trial may be pruned; those between full
    evaluations score a fixed stratified part of validation. 0 for full evaluations only, which are all that a run of a
    confirmation has."""
    first_rung: Annotated[int, Field(ge=1, le=1000)] = 125
    """Per mille of the longest trial before which nothing is pruned."""
    rung_rows: OneOrMore | None = None
    """Validation rows scored between full evaluations, and training rows scored at a new best and at the end. Null for
    200, or fewer: where validation has at most a quarter of the rows that a trial trains on, all its evaluations
    together take a tenth of its time at most, a row in training counted as three that are scored."""
    folds: Annotated[int, Field(ge=2, le=50)] | None = None
    """For small data: each trial trains on this many folds of the training rows in turn, each time scored at its end
    on the fold left out. Its score is the mean, each fold a step of the pruner. Null for one validation split."""

    @property
    def part_rows(self) -> int:
        """Rows of a part that is scored: `rung_rows`, or 200 where that is left open."""
        return self.rung_rows or DEFAULT_RUNG_ROWS


class BudgetConfig(Typed):
    """End of the search: whichever limit comes first."""

    trials: OneOrMore | None = None
    """Trials of the study in all, those of earlier runs among them; null for 40, or where a time is given for as many
    as fit into it."""
    time: Annotated[str, AfterValidator(_duration)] | None = None
    """How long the search may take, from its start: `8h`, `90m`, `1h30m`."""
    until: Moment | None = None
    """When it is over: the next `07:30`, or `2026-11-23 07:30`."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of training, summed over all devices and earlier runs: a trial on four GPUs takes four in an hour, one of
    two that share a GPU a half; on a CPU those of all workers."""
    trial_time: Annotated[str, AfterValidator(_duration)] | None = None
    """How long one trial may take: beyond it, it is pruned as not trainable. Null for no such limit."""
    patience: OneOrMore | None = None
    """Finished trials without an improvement after which the search ends; null for no such end. Once the default is
    trained on two seeds (see `search.repeat_default`), only what is more than their distance counts as one."""

    @property
    def most_trials(self) -> int | None:
        """Trials of the study in all; None for as many as fit into the time."""
        timed = (self.time, self.until, self.gpu_hours) != (None, None, None)
        return self.trials or (None if timed else DEFAULT_TRIALS)


class ConfirmationConfig(Typed):
    """Confirmation of the best trials on fresh seeds after the search, for a verdict without selection bias."""

    finalists: Annotated[int, Field(ge=0)] = 3
    """How many of the best trials are trained again on fresh seeds, beside the default; 0 for no confirmation."""
    seeds: Annotated[int, Field(ge=3, le=100)] = 5
    """Most seeds of each, at least 3; those that fall behind get fewer."""
    runs: Annotated[int, Field(ge=2)] | None = None
    """Most runs in all; null for `share` of the number of trials, but at least four."""
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the budget that it may take, of the time and of the number of trials; at most 0.5."""
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 1 / 3
    """Share of validation that the search never sees, where at least 200 rows remain on each side: what the verdict is
    about. 0 for none: then it is about the rows that the search chose by."""
    audit: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the pruned trials that are trained to their end all the same, to see what pruning costs."""


class ComputeConfig(Typed):
    """Devices, workers and number formats of training."""

    runner: Literal["auto", "inline", "processes", "ray_tune"] = "auto"
    """Who carries trials to devices: `inline` trains them one after the other in this process, `processes` in a warm
    worker process for each device of this machine, `ray_tune` in those of a cluster; `auto` is `processes` on GPUs,
    on one too, and where `workers` is given or a trial has several ranks, else `inline`."""
    workers: OneOrMore | None = None
    """Trials side by side; null for as many as there are GPUs for (of `processes` on a CPU one, of `ray_tune` as many
    as the cluster has room for)."""
    gpus_per_trial: Annotated[float, Field(gt=0)] | None = None
    """GPUs of one trial: 2 trains each trial on two, 0.5 puts two trials on each; null for one of each rank."""
    cpus_per_trial: OneOrMore | None = None
    """CPU cores that one trial takes of a cluster's, of `ray_tune`; null for `threads` of each rank, or where that is
    left out too the cores that there are for each GPU, on a CPU one."""
    ranks: OneOrMore | None = None
    """Processes that train one trial together, each with its part of every batch, on a GPU of its own or on the CPU;
    null for `gpus_per_trial` where that is more than one, else for one."""
    slots: OneOrMore | Literal["auto"] = 1
    """Trials that one worker trains side by side over one frozen backbone; above 1 only in a space where `method` is
    always `head` or always `lora`, and `kept_layers` always the same. `auto` is what a measurement at the study's first
    start says, 1 in any other space."""
    accelerator_type: str | None = None
    """Kind of GPU that trials train on, of `ray_tune`, as Ray names it: `H100`, `A100`, `T4`; null for any."""
    ray_address: str | None = None
    """Cluster of `ray_tune`: `auto` for the one that this machine is part of, or HOST:PORT of its head; null for one
    that is started on this machine, for this search."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where trials train; `auto` is the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the forward pass; `auto` is bf16 where a measurement says that it pays."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Whether the backward pass computes activations again in place of storing them, which takes less memory and a
    third more time; `auto` where memory does not suffice for one example otherwise."""
    threads: OneOrMore | None = None
    """CPU threads of one rank of a trial; null for all cores, shared evenly by the workers."""
    hang_minutes: Annotated[float, Field(gt=0)] = 30.0
    """Minutes without a word from a worker process after which it is killed and its trial begun again."""
    grace_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that trials have to reach their next step and write a checkpoint, when the search is told to end."""

    @property
    def ranks_of_trial(self) -> int:
        """How many processes train one trial."""
        return self.ranks or max(1, int(self.gpus_per_trial or 1))

    @property
    def devices_of_trial(self) -> float:
        """How many GPUs one trial takes, or processes on the CPU: of one that several share its part, as of slots."""
        slots = 1 if self.slots == "auto" else self.slots
        return self.ranks_of_trial * min(1.0, self.gpus_per_trial or 1.0) / slots

    @model_validator(mode="after")
    def _gpus_are_for_ranks(self) -> Self:
        gpus = self.gpus_per_trial
        if gpus is None:
            return self
        if self.device == "cpu":
            raise ValueError(
                f"compute.gpus_per_trial is {gpus:g}, but compute.device is cpu; leave one of the two out."
            )
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"compute.gpus_per_trial is {gpus:g}, but several GPUs of a trial are whole ones; give a whole number, "
                "or at most 1."
            )
        if self.ranks is not None and self.ranks != max(1.0, gpus):
            raise ValueError(
                f"compute.gpus_per_trial is {gpus:g} and compute.ranks is {self.ranks}, but each rank has a GPU of its "
                "own; leave one of the two out."
            )
        return self


class StoreConfig(Typed):
    """Place of results and files."""

    url: str = "sqlite:///hpo.db"
    """Path of a SQLite file on a local disk, or a SQLAlchemy URL: `sqlite:///FILE`,
    `postgresql+psycopg://USER:PASSWORD@HOST/DATABASE`."""
    files: Annotated[FilesUrl | Folder, Field(union_mode="left_to_right")] | None = None
    """Folder of weights and checkpoints, or a URL of one such as `s3://BUCKET/FOLDER`, `gs://...`, without a key or a
    password; null for `STORE-files` beside the SQLite file `STORE.db`, or `hpo-files` in the working folder, which is
    also where files are written that go to a URL. Trials on several machines need a folder that all of them share, or
    a URL."""
    keep_weights: Annotated[int, Field(ge=0)] | None = None
    """How many of the best trials' weights are kept after the search; null for 1, but none of full fine-tunes."""
    disk_gib: Annotated[float, Field(gt=0)] | None = None
    """Most GiB of weights and checkpoints in that folder; null for as much as is free."""


class StudyConfig(Typed):
    """A study."""

    study: Name
    """Name of the study in its store."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed from which splits, proposals and every trial's own seed follow."""
    model: ModelConfig
    """The pretrained model."""
    data: DataConfig
    """The labelled texts."""
    task: TaskConfig = TaskConfig()
    space: LocalPath | dict[str, Any] = AUTO
    """Name of a shipped space, path of a space file, or the parameters themselves; `auto` is the shipped space that
    suits the model: `decoder_lora` for a decoder, for an encoder by its size `encoder_small`, `encoder` or
    `encoder_lora`."""
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    budget: BudgetConfig = BudgetConfig()
    confirmation: ConfirmationConfig = ConfirmationConfig()
    compute: ComputeConfig = ComputeConfig()
    store: StoreConfig = StoreConfig()
    """Where results are kept; a text alone is its `url`."""
    notify: Texts = ()
    """Who is told that the search has finished, of its first failure, a new best, a device left out: URLs of apprise
    (`ntfy://TOPIC`, `mailto://...`), or `command:` and a command, which gets the sentence as its last argument."""

    warm_start: Texts = ()
    """Earlier studies, `NAME` of this store or `URL#NAME` of another: `tpe` and `gp` learn from their completed trials,
    and the best three of each are tried after the default. Each is read once."""

    @field_validator("store", mode="before")
    @classmethod
    def _text_is_url(cls, store: Any) -> Any:
        return {"url": store} if isinstance(store, str) else store

    def with_slots(self, slots: int) -> Self:
        """Return this study with so many slots in each worker, as they were measured."""
        return self.model_copy(update={"compute": self.compute.model_copy(update={"slots": slots})})

    @property
    def pruner(self) -> PrunerName:
        """The pruner that is used: never `auto`."""
        if self.search.pruner != "auto":
            return self.search.pruner
        return "wilcoxon" if self.evaluation.folds else "asynchronous_median"

    @model_validator(mode="after")
    def _pruner_fits(self) -> Self:
        folds = self.evaluation.folds
        if folds and self.pruner not in FOLD_PRUNERS:
            raise ValueError(
                f"search.pruner is {self.pruner}, which judges learning curves, but with evaluation.folds a trial's "
                f"steps are folds; choose {' or '.join(FOLD_PRUNERS)}."
            )
        if not folds and self.pruner == "wilcoxon":
            raise ValueError(
                "search.pruner is wilcoxon, which compares trials fold by fold; give evaluation.folds, or choose "
                "asynchronous_median."
            )
        if self.pruner == "threshold" and self.search.lowest_score is None:
            raise ValueError("search.pruner is threshold; give search.lowest_score, the score below which it prunes.")
        return self

    @model_validator(mode="after")
    def _keys_are_of_its_task(self) -> Self:
        given = self.model_dump(exclude_defaults=True)
        keys = [key.split(".") for key in TASK_FACTS[self.task.name].unused]
        if unused := [f"{part}.{name}" for part, name in keys if name in given.get(part, {})]:
            raise ValueError(unused_sentence(self.task.name, unused))
        return self

    @model_validator(mode="after")
    def _folds_make_validation(self) -> Self:
        if self.evaluation.folds and self.data.validation:
            raise ValueError(
                "evaluation.folds makes validation from data.train, fold by fold, so data.validation must be left out; "
                "put its rows into data.train, or leave the folds out."
            )
        return self

    @model_validator(mode="after")
    def _fractions_leave_training_rows(self) -> Self:
        made = 0.0 if self.data.validation or self.evaluation.folds else self.data.validation_fraction
        made += 0.0 if self.data.test else self.data.test_fraction
        if made > 0.9:
            raise ValueError(
                f"data.validation_fraction and data.test_fraction take {made:.0%} of the training rows; "
                "leave at least a tenth to train on."
            )
        return self
