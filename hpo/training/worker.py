"""The worker of a process: opened once, then handed assignment after assignment."""

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.augmentation import refuse_token_masking, refuse_word_swap
from hpo.data.splits import Splits
from hpo.distributed.process_group import join
from hpo.distributed.rank_group import Probing, RankInfo, Training
from hpo.errors import ConfigurationError, NoResultError
from hpo.files.shared import FOLDER, SharedFiles
from hpo.files.weights import fetch_weights_of, fitted_among, load_weights
from hpo.messages import (
    Action,
    Assignment,
    Decision,
    Demands,
    Dimensions,
    HeldOutEvaluation,
    Outcome,
    Probe,
    Progress,
    Report,
)
from hpo.metrics.metric import SelectionMetric
from hpo.model.layers import refuse_kept_layers
from hpo.model.methods import refuse_trained_layers
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.tasks.registry import task_of
from hpo.training.baselines import evaluate_baseline
from hpo.training.context import TrainingContext
from hpo.training.precision import Measurement, Precision, refuse_emulated
from hpo.training.precision_of_study import measured_precision
from hpo.training.probe import dimensions_of, probe
from hpo.training.run import Message
from hpo.training.slots import Slots

logger = logging.getLogger(__name__)

GPU_FILE = Path("/dev/nvidia0")
"""There where the kernel has an NVIDIA GPU."""


class Worker:
    """A process's data, model and pack of trials. It knows no study store and no search: only assignments.

    In a gang of several ranks that of rank 0 is given everything; those of the others `follow` it, and are told nothing
    else. A method of it raises `RankGroupLost` where another rank is gone: its process is then to end.
    """

    def __init__(self, context: TrainingContext) -> None:
        self._context = context
        self._pack = Slots(context)

    @property
    def splits(self) -> Splits:
        """The study's data."""
        return self._context.splits

    @property
    def metric(self) -> SelectionMetric:
        """The metric trials are compared by, resolved for these labels."""
        return self._context.task.metric

    @property
    def device(self) -> str:
        """Where trials train, as torch writes it."""
        return str(self._context.device)

    @property
    def longest(self) -> int | None:
        """Most tokens of a text that the model reads; None where there is no limit."""
        return self._context.model.longest

    @property
    def free_slots(self) -> int:
        """How many assignments may be admitted."""
        return self._pack.free_slots

    @property
    def idle(self) -> bool:
        """Whether there is nothing to advance."""
        return self._pack.idle

    def facts(self) -> dict[str, str]:
        """Return what of this process a result depends on: its device and threads."""
        circumstances = self._context.circumstances()
        return {name: circumstances[name] for name in ("device", "threads")}

    def refuse_unfit(self, demands: Demands) -> None:
        """Refuse, before any trial, what the model cannot do; in the sentences of a trial that would fail of it.

        Raises:
            ModelError: the model cannot read as many tokens, has no such dropout, or its tokenizer cannot augment.
            ConfigurationError: the model has fewer layers.
        """
        model = self._context.model
        model.refuse_length(demands.max_length)
        if demands.trained_layers is not None:
            refuse_trained_layers(model.network, demands.trained_layers)
        if demands.kept_layers is not None:
            refuse_kept_layers(model.network, demands.kept_layers)
        if demands.dropout:
            model.dropouts.refuse()
        if demands.attention_dropout:
            model.dropouts.refuse_attention()
        if demands.token_masking:
            refuse_token_masking(model.tokenizer)
        if demands.word_swap:
            refuse_word_swap(model.tokenizer)

    def cut_share(self, max_length: int) -> float:
        """Return the share of training examples, in 0..1, that fill `max_length` tokens: longer ones are cut there.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        return float((self._context.tokenized(max_length).train.tokens.lengths >= max_length).mean())

    def dimensions(self, max_length: int) -> Dimensions:
        """Return what the work of trials is counted from; texts are cut at `max_length` tokens.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        return dimensions_of(self._context, max_length)

    def measure(self, hyperparameters: Hyperparameters, most_seconds: float = math.inf) -> Measurement:
        """Time training in fp32 and bf16 on a few training examples, and choose; takes seconds.

        The model keeps no trace of it: each trial resets its weights.

        Args:
            hyperparameters: what is trained, and after how many tokens texts are cut; best the dearest of the space.
            most_seconds: that it takes, roughly; where these do not suffice, fp32 is chosen.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        assert self.idle, "measure before trials train"
        return measured_precision(self._context, hyperparameters, most_seconds)

    def probe(self, hyperparameters: Hyperparameters, steps: int, most_seconds: float = math.inf) -> Probe:
        """Take a few steps under these values, `steps` of them timed, and say what they cost; takes seconds.

        Where `most_seconds` do not suffice for all of it, fewer are taken, but at least one.
        The model keeps no trace of it. How many rows at once memory bears is known to later trials of that size.

        Raises:
            ModelError, ConfigurationError: the model does not have what the hyperparameters ask for.
        """
        assert self.idle, "probe between trials"
        self._context.rank_group.broadcast_command(
            Probing(hyperparameters=hyperparameters, steps=steps, precision=self._context.precision)
        )
        return probe(self._context, hyperparameters, steps, most_seconds)

    def use(self, precision: Precision) -> None:
        """Compute in this precision from the next trial on.

        Raises:
            ConfigurationError: the device has none of it.
        """
        assert self.idle, "a trial keeps its precision to its end"
        refuse_emulated(self._context.device, precision)
        self._context.precision = precision

    def admit(self, assignment: Assignment) -> None:
        """Put an assignment into a free slot."""
        self._context.rank_group.broadcast_command(Training(assignment=assignment, precision=self._context.precision))
        self._pack.admit(assignment)

    def advance(self) -> list[Message]:
        """Train until a trial has something to say; an `Outcome` frees its slot."""
        return self._pack.advance()

    def apply(self, decision: Decision) -> None:
        """Hand a decision to its trial; it has its effect before the trial's next step.

        May be called while another thread is in `advance`: it looks the trial up and sets one attribute of it.
        """
        self._pack.apply(decision)

    def drop(self, trial: int) -> None:
        """Give up a trial without an outcome."""
        self._pack.drop(trial)

    def has_weights(self, report: Report) -> bool:
        """Return whether weights were kept of its trial, and at this very evaluation; they are fetched if need be."""
        files = self._context.files_of(confirms=report.held_out is not None)
        return files is not None and fetch_weights_of(files, report, self._context.mirror)

    def test_evaluation(self, assignment: Assignment) -> HeldOutEvaluation:
        """Read the test split with the weights that were kept of a trial; to be called once, after the search.

        Raises:
            NoResultError: there is no test split, or no weights of that trial were kept.
        """
        assert self.idle, "the test split is read after the search"
        context, hyperparameters = self._context, assignment.hyperparameters
        test = context.tokenized(hyperparameters.max_length).test
        files = context.files_of(confirms=assignment.confirms is not None)
        if test is None or context.splits.test is None:
            raise NoResultError("There is no test split to score; name data.test or give data.test_fraction.")
        if files is None:
            raise NoResultError("No weights were kept, because the worker was opened without a folder for them.")
        tensors = load_weights(files, assignment.trial, context.mirror)
        fitted = fitted_among(tensors)
        TrialModel(context.model, context.task, hyperparameters, seed=0).load(tensors)
        said = context.predict(test, fold=-1 if context.splits.folds else None)  # Weights are those of the last fold.
        return context.read(context.splits.test, context.decided(said, fitted))

    def baseline(self, name: str, max_length: int) -> HeldOutEvaluation:
        """Train and read a baseline of `hpo.training.baselines`; takes seconds to minutes.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        assert self.idle, "baselines are for between trials"
        return evaluate_baseline(self._context, name, max_length)

    def follow(self) -> None:
        """Take part in all that the worker of rank 0 trains, until it is closed.

        Raises:
            GangLost: another rank is gone.
        """
        context = self._context
        while (task := context.rank_group.hear()) is not None:
            context.precision = task.precision
            match task:
                case Training():
                    self._pack.admit(task.assignment)
                    while not self._pack.idle:
                        self._pack.advance()
                case Probing():
                    self._probe_along(task)
        context.rank_group.close()

    def close(self) -> None:
        """Give up what is in training, and let the other ranks go; to be called on rank 0, after all else."""
        self._pack.close()
        self._context.rank_group.close()

    def _probe_along(self, task: Probing) -> None:
        try:
            probe(self._context, task.hyperparameters, task.steps)
        except Exception:
            # Rank 0 has come to the same end, and tells of it.
            logger.debug("A probe failed.", exc_info=True)


def open_worker(
    config: StudyConfig,
    splits: Splits,
    files: Path | None = None,
    *,
    device: torch.device | None = None,
    shared: bool = False,
    rank_info: RankInfo | None = None,
) -> Worker:
    """Load the study's model, once, to train on its data; in a gang of several ranks wait until all have.

    Args:
        config: the study.
        splits: its data, as `load_splits` read it.
        files: folder in which the weights of the best trials are kept; None for nowhere.
        device: where trials train, taken as it is; None for what the study asks for.
        shared: whether pretrained weights and tokens lie in files below `files`, so that all worker processes of the
            machine hold them in memory once; otherwise in the memory of this process.
        seat: the place of this process in a gang; None where it trains alone.

    Raises:
        ModelError, ConfigurationError: the model, the metric or the device cannot be used.
        GangLost: the other ranks have not come within the study's `hang_minutes`.
    """
    device = device or choose_device(config.compute)
    assert files or not shared, "what is shared lies below the folder of files"
    if config.compute.precision != "auto":
        refuse_emulated(device, config.compute.precision)
    if device.type == "cuda":
        # Products of fp32 matrices by the tensor cores, in TF32 where there is: no slower, no less exact than bf16.
        torch.set_float32_matmul_precision("high")
    sharing = SharedFiles(files / FOLDER) if files and shared else None
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    task = task_of(config.task, splits)
    model = load_model(config.model, task, device, sharing)
    # Last: the ranks wait for each other only when nothing is left that one of them may be refused for.
    rank_group = join(rank_info, device, 60 * config.compute.hang_minutes)
    return Worker(TrainingContext(config, splits, task, model, files, sharing, rank_group))


def choose_device(compute: ComputeConfig) -> torch.device:
    """Return the device that is asked for; `auto` is the GPU where there is one.

    Raises:
        ConfigurationError: a GPU is asked for and torch sees none.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("compute.device is cuda, but torch sees no GPU; choose auto or cpu.")
    return torch.device("cpu" if compute.device == "cpu" or not torch.cuda.is_available() else "cuda:0")


def doubt_about_gpu(compute: ComputeConfig) -> str | None:
    """Return in a sentence that this machine has a GPU which torch does not see; None otherwise, or for a CPU.

    A build of torch for the CPU, or a driver older than its CUDA, would else make a search of GPUs one of cores.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    elsewhere = compute.device == "cpu" or compute.runner == "ray_tune"
    if elsewhere or hidden or torch.cuda.is_available() or not GPU_FILE.exists():
        return None
    build = torch.version.cuda
    why = (
        "is a build for the CPU" if build is None else f"is built for CUDA {build}, for which the driver may be too old"
    )
    return (
        f"This machine has an NVIDIA GPU, but torch {torch.__version__} sees none: it {why}. Trials train on the CPU; "
        "compute.device=cpu says that this is meant."
    )


def train(worker: Worker, assignment: Assignment, answer: Callable[[Report | Progress], Action]) -> Outcome:
    """Train one assignment on an idle worker to its end; `answer` is told what it says, and decides.

    Where `answer` raises, the trial is given up, and the worker is free for another.
    """
    worker.admit(assignment)
    try:
        while True:
            for message in worker.advance():
                if isinstance(message, Outcome):
                    return message
                action = answer(message)
                worker.apply(Decision(trial=assignment.trial, attempt=assignment.attempt, action=action))
    finally:
        worker.drop(assignment.trial)
