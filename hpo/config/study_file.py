"""Study configuration: model, data, task, search, budget, compute and store, typed and torch-free."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hpo.config.hyperparameters import OneOrMore
from hpo.config.parsing import Typed
from hpo.config.tasks import TASK_FACTS, TaskConfig, unused_sentence
from hpo.config.value_types import Delimiter, Duration, FilesUrl, Folder, LocalPath, Moment, Name, Texts
from hpo.space.space_file import AUTO

DEFAULT_TRIALS = 40
DEFAULT_RUNG_ROWS = 200

PrunerName = Literal[
    "auto", "asynchronous_median", "median", "percentile", "successive_halving", "promotion", "hyperband", "patient",
    "threshold", "wilcoxon", "none",
]  # fmt: skip
FOLD_PRUNERS = ("wilcoxon", "threshold", "none")
"""Pruners that may judge a trial by its folds; the others compare learning curves."""


class ModelConfig(Typed):
    """The pretrained model that every trial starts from."""

    name: LocalPath
    """A folder that `save_pretrained` wrote, or a hub id."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    gguf_file: str | None = None
    """Name of a GGUF file in the folder or repository, if the weights are in that format."""
    trust_remote_code: bool = False
    """Whether Python code in the model's repository may run."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the pretrained weights. `auto` is bf16 if every trial uses `lora` and the processor supports
    bf16 (assumed of CPUs and Ray clusters); otherwise fp32. Weights that a trial trains are always fp32."""
    quantization: Literal["nf4"] | None = None
    """`nf4` stores the pretrained weights of linear layers in 4 bits (Dettmers et al. 2023), for methods that leave
    them frozen; needs the extra `quantized`. Null stores them as `dtype` says."""


class DataConfig(Typed):
    """Labelled texts. A source is a file (its ending tells the format), a pattern of several such as `part-*.csv`, a
    folder that `datasets` saved, or `hf://OWNER/NAME?configuration=NAME&split=NAME` on the hub."""

    train: LocalPath
    """Texts to train on."""
    validation: LocalPath | None = None
    """Texts to score trials on. Null splits them off `train`."""
    test: LocalPath | None = None
    """Texts read once, after the search. Null splits them off `train` if `test_fraction` is above 0."""
    text_column: str | None = None
    """Column of the text; detected if not given."""
    text_pair_column: str | None = None
    """Column of the second text, for tasks on pairs of texts."""
    label_column: str | None = None
    """Column of the label, or of the number for a regression; detected if not given."""
    label_columns: Texts = ()
    """`multi_label`: one column of 0 and 1 for each label, instead of one column that lists the labels."""
    label_separator: Annotated[str, Field(min_length=1)] = "|"
    """`multi_label`: separator of the labels in a cell that is not a JSON list; an empty cell means no labels."""
    group_column: str | None = None
    """Column that says which texts belong together, such as those of one document; each group stays in one split."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training rows that becomes validation if `validation` is not given."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training rows that becomes the test split if `test` is not given; 0 for no test split."""
    delimiter: Delimiter | None = None
    """Character between the cells of CSV and TSV files, or its name: comma, semicolon, tab, pipe. Null detects it."""
    rare_labels: Literal["refuse", "drop", "merge"] = "refuse"
    """How labels with too few training rows to be trained and scored on are treated: `refuse` ends with an error,
    `drop` drops their rows from all splits, `merge` makes them one label, `other` (dropped if still too rare)."""
    strict: bool = False
    """Whether a file with bytes that are not UTF-8 is refused; otherwise hpo replaces and counts them."""


class SearchConfig(Typed):
    """Sampler and pruner."""

    sampler: Literal["tpe", "random", "gp", "cmaes", "qmc", "grid", "brute_force"] = "tpe"
    """The sampler, which proposes configurations."""
    startup_trials: OneOrMore | None = None
    """Random trials before `tpe`, `gp` or `cmaes` proposes. Null for a quarter of the budget, between 4 and 10."""
    pruner: PrunerName = "auto"
    """`auto` is `promotion`; without `evaluation.rungs` `asynchronous_median`; with `evaluation.folds` `wilcoxon`."""
    pruner_startup_trials: OneOrMore = 4
    """Finished trials before `median`, `percentile` or `patient` prunes any. For `asynchronous_median`: other trials
    that must have reached the same rung, at most 4."""
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    """`percentile`: percentage of the trials at a rung that are kept, the best ones."""
    reduction_factor: Annotated[int, Field(ge=2)] | None = None
    """`promotion`, `successive_halving`, `hyperband`: one of so many is kept at a rung. Null for 2, 3 and 3."""
    patience: OneOrMore = 2
    """`patient`: consecutive evaluations without improvement before the median pruner may stop a trial."""
    lowest_score: float | None = None
    """`threshold`: validation score below which a trial is pruned."""
    p_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """`wilcoxon`: a trial is pruned if the p-value of the test that it is worse than the best trial falls below
    this."""
    portfolio: bool = True
    """Whether the published configurations that a space may list are tried right after the default."""
    repeat_default: bool = True
    """Whether, with `budget.patience`, the default configuration is trained again on a second seed, to measure the
    noise of seeds. This happens after 20 trials, or after `budget.patience` trials if that is more."""


class EvaluationConfig(Typed):
    """Evaluations of a trial: when it is scored, and on which rows."""

    full_reports: OneOrMore | None = None
    """Evaluations of each trial on all of validation, evenly spaced. Null for the space's largest `epochs`, or fewer if
    evaluations would take too much of a trial (see `rung_rows`)."""
    rungs: Annotated[int, Field(ge=0, le=100)] = 8
    """Number of rungs: evenly spaced points of the longest trial at which a trial may be pruned. 0 for full evaluations
    only. `promotion` has other rungs: `first_rung`, and each `reduction_factor` times the one before, below 900 per
    mille. At a rung between full evaluations, a fixed stratified part of validation is scored. Confirmation runs have
    no rungs."""
    first_rung: Annotated[int, Field(ge=1, le=1000)] | None = None
    """First rung, before which no trial is paused or pruned, in per mille. With `promotion` it is a share of each
    trial's own length, otherwise of the longest trial's. Null for 62 with `promotion`, otherwise 125."""
    rung_rows: OneOrMore | None = None
    """Validation rows scored at a rung; as many training rows are scored at a new best score and at the end of a trial.
    Null for 200, or fewer if evaluations would take more than a third of a trial's time, but at least 100. If
    validation has at most a quarter as many rows as the trial trains on, evaluations take at most a tenth of its time,
    and a rung may have fewer than 100 rows."""
    folds: Annotated[int, Field(ge=2, le=50)] | None = None
    """Number of cross-validation folds, for small data. Each trial trains once per fold and is scored on the rows left
    out; its score is the mean, and each fold is one step for the pruner. Null for a single validation split."""

    @property
    def part_rows(self) -> int:
        """Rows that are scored at a rung: `rung_rows`, or 200 if that is null."""
        return self.rung_rows or DEFAULT_RUNG_ROWS


class BudgetConfig(Typed):
    """Limits of the search, which ends at the first that is reached."""

    trials: OneOrMore | None = None
    """Trials of the study in total, including earlier runs. Null for 40, or with a time limit for as many as fit."""
    time: Duration | None = None
    """Duration of the search: `8h`, `90m`, `1h30m`."""
    until: Moment | None = None
    """Time of day or date at which the search ends: the next `07:30`, or `2026-11-23 07:30`."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """GPU hours of training, summed over all devices and earlier runs. A trial on four GPUs uses four per hour, a trial
    that shares its GPU with another uses half of one. On a CPU, hours of all workers."""
    trial_time: Duration | None = None
    """Longest time of one trial. A trial that exceeds it is pruned and counts as infeasible. Null for no limit."""
    patience: OneOrMore | None = None
    """Finished trials without improvement after which the search ends. Null for no such limit. Once the default has
    been trained on two seeds (see `search.repeat_default`), only an increase larger than the difference of its two
    scores counts as improvement."""

    @property
    def most_trials(self) -> int | None:
        """Trials of the study in total; None for as many as fit into the time."""
        timed = (self.time, self.until, self.gpu_hours) != (None, None, None)
        return self.trials or (None if timed else DEFAULT_TRIALS)


class ConfirmationConfig(Typed):
    """Confirmation of the best trials on fresh seeds after the search, for a verdict without selection bias."""

    finalists: Annotated[int, Field(ge=0)] = 3
    """Number of best trials that are trained again on fresh seeds, beside the default; 0 for no confirmation."""
    seeds: Annotated[int, Field(ge=3, le=100)] = 5
    """Largest number of seeds per finalist, at least 3; finalists that fall behind get fewer."""
    runs: Annotated[int, Field(ge=2)] | None = None
    """Largest number of runs in total. Null for `share` of the number of trials, but at least 4."""
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Largest share of the budget (time and number of trials) that the confirmation may take; at most 0.5."""
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 1 / 3
    """Share of validation that is kept from the search and used for the verdict, if at least 200 rows remain on each
    side. With 0 the verdict uses the rows by which the search chose."""
    audit: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the pruned trials that are trained to their end anyway, to measure what pruning costs."""


class ComputeConfig(Typed):
    """Devices, workers and number formats of training."""

    runner: Literal["auto", "inline", "processes", "ray_tune"] = "auto"
    """How trials are run: `inline` one after the other in this process, `processes` in one worker process per device of
    this machine, `ray_tune` in workers on a Ray cluster. `auto` is `processes` on GPUs, with `workers`, or with several
    ranks per trial; otherwise `inline`."""
    workers: OneOrMore | Literal["auto"] | None = None
    """Trials in parallel. Null for as many as the GPUs have room for; without GPUs one for `processes`, and as many as
    the cluster has room for with `ray_tune`. `auto` puts several trials on each GPU of this machine if one keeps it
    only partly busy: each start measures how many fit into its memory and are worth it. Without GPUs it is as null."""
    gpus_per_trial: Annotated[float, Field(gt=0)] | None = None
    """GPUs of one trial: 2 trains each trial on two GPUs, 0.5 puts two trials on each GPU. Null for one per rank."""
    cpus_per_trial: OneOrMore | None = None
    """`ray_tune`: CPU cores that one trial reserves. Null for `threads` per rank; without `threads`, a machine's cores
    per GPU, or one core on a CPU."""
    ranks: OneOrMore | None = None
    """Processes that train one trial together by data parallelism, each on its own GPU or on the CPU. Null for
    `gpus_per_trial` if that is above 1, otherwise 1."""
    slots: OneOrMore | Literal["auto"] = "auto"
    """Trials that one worker trains side by side on one shared frozen backbone. Above 1 only if `method` is always
    `head` or always `lora` in the space, and `kept_layers` has a single value. `auto` measures the best number at the
    first start of the study, and is 1 in any other space."""
    accelerator_type: str | None = None
    """`ray_tune`: kind of GPU to train on, as Ray names it: `H100`, `A100`, `T4`. Null for any."""
    ray_address: str | None = None
    """`ray_tune`: address of the cluster; `auto` for the one that this machine is part of, or HOST:PORT of its head.
    Null starts Ray on this machine, for this search."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that trials train on; `auto` is the GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the forward pass; `auto` is bf16 if a measurement finds it faster, otherwise fp32."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Whether the backward pass recomputes activations instead of storing them, which saves memory and takes about a
    third more time. `auto` does so if memory does not suffice for one example otherwise."""
    threads: OneOrMore | None = None
    """CPU threads per rank of a trial. Null divides all cores evenly among the workers."""
    hang_minutes: Annotated[float, Field(gt=0)] = 30.0
    """Minutes without a message from a worker process after which it is killed and its trial retried."""
    grace_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that trials have to reach their next step and write a checkpoint when the search is to end."""

    @property
    def ranks_of_trial(self) -> int:
        """Number of processes that train one trial."""
        return self.ranks or max(1, int(self.gpus_per_trial or 1))

    @property
    def requested_workers(self) -> int | None:
        """Number of workers; None if it follows from the devices or is measured."""
        return None if self.workers == "auto" else self.workers

    @property
    def devices_of_trial(self) -> float:
        """GPUs of one trial, or processes on a CPU; a fraction if trials share a GPU or a worker has several slots."""
        slots = 1 if self.slots == "auto" else self.slots
        return self.ranks_of_trial * min(1.0, self.gpus_per_trial or 1.0) / slots

    @model_validator(mode="after")
    def _auto_divides_gpus(self) -> Self:
        if self.workers != "auto":
            return self
        if self.runner in ("inline", "ray_tune"):
            raise ValueError(
                "compute.workers is auto, which divides the GPUs of this machine among processes, but compute.runner "
                f"is {self.runner}; choose processes, or with ray_tune give compute.gpus_per_trial instead, such as "
                "0.5 for two trials on each GPU."
            )
        if self.gpus_per_trial is not None:
            raise ValueError(
                f"compute.workers is auto, which measures how many trials share a GPU, but compute.gpus_per_trial is "
                f"{self.gpus_per_trial:g}; leave one of the two out."
            )
        return self

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
    """Folder of weights and checkpoints, or a URL without credentials, such as `s3://BUCKET/FOLDER` or `gs://...`. Null
    for `STORE-files` beside the SQLite file `STORE.db`, otherwise `hpo-files` in the working folder. With a URL, that
    folder holds files until they are uploaded. Trials on several machines need a shared folder or a URL."""
    keep_weights: Annotated[int, Field(ge=0)] | None = None
    """Number of best trials whose weights are kept after the search. Null for 1, or 0 for full fine-tunes."""
    disk_gib: Annotated[float, Field(gt=0)] | None = None
    """Largest size in GiB of the weights and checkpoints in the local folder. Null for all free space."""


class StudyConfig(Typed):
    """Configuration of a study: the content of a study file."""

    study: Name
    """Name of the study in its store."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the splits and the proposals; each trial's own seed is derived from it."""
    model: ModelConfig
    """The pretrained model."""
    data: DataConfig
    """The labelled texts."""
    task: TaskConfig = TaskConfig()
    space: LocalPath | dict[str, Any] = AUTO
    """Name of a shipped space, path of a space file, or the parameters themselves. `auto` chooses a shipped space:
    `decoder_lora` for a decoder; for an encoder, by its size, `encoder_small`, `encoder` or `encoder_lora`."""
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    budget: BudgetConfig = BudgetConfig()
    confirmation: ConfirmationConfig = ConfirmationConfig()
    compute: ComputeConfig = ComputeConfig()
    store: StoreConfig = StoreConfig()
    """Place of the results; a string is its `url`."""
    notify: Texts = ()
    """Recipients of notifications (end of the search, first failure, new best score, a device left out): URLs of
    apprise (`ntfy://TOPIC`, `mailto://...`), or `command:` and a program, which gets the sentence as its last
    argument."""

    warm_start: Texts = ()
    """Earlier studies: `NAME` in this store or `URL#NAME` in another. `tpe` and `gp` learn from their completed trials,
    and the best three of each are tried after the default. Each study is read once."""

    @field_validator("store", mode="before")
    @classmethod
    def _text_is_url(cls, store: Any) -> Any:
        return {"url": store} if isinstance(store, str) else store

    def with_slots(self, slots: int) -> Self:
        """Return this study with that number of slots in each worker, which was measured."""
        return self.model_copy(update={"compute": self.compute.model_copy(update={"slots": slots})})

    @property
    def pruner(self) -> PrunerName:
        """The pruner, with `auto` resolved."""
        if self.search.pruner != "auto":
            return self.search.pruner
        if self.evaluation.folds:
            return "wilcoxon"
        return "promotion" if self.evaluation.rungs else "asynchronous_median"

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
                "promotion."
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
