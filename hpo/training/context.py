"""The bench of a process: the study's data and its pretrained model, read once for all its trials."""

import hashlib
import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.config.tasks import unused_hyperparameters, unused_sentence
from hpo.data.augmentation import Augmentation, augmentation, refuse_word_swap
from hpo.data.batching import Batch, Rows, collate
from hpo.data.sources import Examples
from hpo.data.splits import Splits
from hpo.data.stratify import stratified_sample
from hpo.data.tokenization import TokenizedSplit, Tokens, tokenize, tokenizer_digest, word_numbers
from hpo.distributed.rank_group import ALONE, RankGroup
from hpo.errors import ConfigurationError
from hpo.files.remote import NO_MIRROR, open_mirror
from hpo.files.shared import SharedFiles
from hpo.messages import SEMANTICS, Assignment, HeldOutEvaluation, Scores
from hpo.metrics.metric import Predictions
from hpo.model.backbone import Backbone
from hpo.model.trial_model import TrialModel
from hpo.tasks.held_out import HeldOutRows, evaluate_held_out
from hpo.tasks.protocol import Fits, Scales, Task
from hpo.training.evaluation import Check, no_check, predictions
from hpo.training.gradients import Gradients
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.precision import Precision
from hpo.training.randomness import RandomState

CONFIRMATION = "confirmation"
"""In a study's folder of files: that of the trials which confirm its best."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedSplits:
    """All splits of a study, cut at one length."""

    max_length: int
    """Tokens after which rows are cut."""
    train: TokenizedSplit
    validation: TokenizedSplit
    test: TokenizedSplit | None
    confirmation: TokenizedSplit | None
    """Rows of validation that no trial of the search is scored on."""

    def cut(self, tokenizer: Any, max_length: int) -> "TokenizedSplits":
        """Return the same rows cut at `max_length` tokens, no more than now; their tokens lie in memory once."""

        def shorter(split: TokenizedSplit) -> TokenizedSplit:
            return replace(split, tokens=split.tokens.cut(tokenizer, max_length))

        return TokenizedSplits(
            max_length=max_length,
            train=shorter(self.train),
            validation=shorter(self.validation),
            test=shorter(self.test) if self.test else None,
            confirmation=shorter(self.confirmation) if self.confirmation else None,
        )


class TrainingContext:
    """Data, model and settings that every trial of a process shares; only `precision` changes, between trials."""

    def __init__(
        self,
        config: StudyConfig,
        splits: Splits,
        task: Task[Any],
        model: Backbone,
        files: Path | None,
        shared: SharedFiles | None = None,
        rank_group: RankGroup = ALONE,
    ) -> None:
        self.config, self.splits, self.task, self.model = config, splits, task, model
        self.device, self.rank_group, self.gradients = model.device, rank_group, Gradients(rank_group)
        self.files = files
        """Where weights are kept; None for nowhere."""
        self.mirror = NO_MIRROR if files is None else open_mirror(config, files)
        self.precision: Precision = "fp32" if config.compute.precision == "auto" else config.compute.precision
        self._shared = shared
        self._tokenizer_digest = tokenizer_digest(model.tokenizer) if shared else ""
        self._tokenized: TokenizedSplits | None = None
        self._cut: TokenizedSplits | None = None
        self._words: NDArray[np.int32] | None = None
        self._augments: tuple[Hyperparameters, Augmentation | None] | None = None
        self._known: dict[int, HeldOutRows] = {}
        self.train_targets = task.targets(splits.train.labels)
        """What is learned of each training row; shape (rows, ...)."""
        self.train_strata = task.strata(self.train_targets)
        """What parts of the training rows have their share of; shape (rows, ...)."""
        validation_strata = task.strata(task.targets(splits.validation.labels))
        self.validation_part = stratified_sample(validation_strata, config.evaluation.part_rows, config.seed)
        """Rows of validation that are scored between full evaluations; the same for every trial."""

    def identity(self, assignment: Assignment) -> str:
        """Return what a checkpoint of `assignment` depends on, as a digest: going on from another would be untrue."""
        config = self.config
        parts = [
            assignment.hyperparameters.to_mapping(),
            assignment.seed,
            [[milestone.rung, milestone.full] for milestone in assignment.milestones],
            assignment.maximum_passes,
            self.splits.fingerprint,
            config.model.model_dump(mode="json"),
            config.task.model_dump(mode="json"),
            config.evaluation.model_dump(mode="json"),
            config.seed,
            self.precision,
            # The random state of one is nothing to the other.
            self.device.type,
            version("llm-hpo"),
            SEMANTICS,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def circumstances(self) -> dict[str, str]:
        """Return what else the last bits of a trial depend on: gone on with under others it is the same to rounding."""
        gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if gpu else f"cpu {_processor()}",
            "threads": str(torch.get_num_threads()),
            "ranks": str(self.rank_group.ranks),
            "torch": version("torch"),
            "precision": self.precision,
        }

    def tokenized(self, max_length: int) -> TokenizedSplits:
        """Return the splits cut at `max_length` tokens.

        They are tokenized once for all lengths up to the next power of two, so that a searched length fills no memory.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        self.model.refuse_length(max_length)
        if self._tokenized is None or self._tokenized.max_length < max_length:
            self._tokenized, self._words = self._all_tokenized(max(16, 1 << (max_length - 1).bit_length())), None
        if self._cut is None or self._cut.max_length != max_length:
            self._cut = self._tokenized.cut(self.model.tokenizer, max_length)
        return self._cut

    def _all_tokenized(self, max_length: int) -> TokenizedSplits:
        splits = self.splits
        train = self._tokenize("train", splits.train, max_length)
        return TokenizedSplits(
            max_length=max_length,
            train=train,
            validation=train if splits.folds else self._tokenize("validation", splits.validation, max_length),
            test=self._tokenize_if_any("test", splits.test, max_length),
            confirmation=self._tokenize_if_any("confirmation", splits.confirmation, max_length),
        )

    def task_of(self, fold: int | None) -> Task[Any]:
        """Return the task as it is learned from the training rows of a fold, or from all where that is None."""
        if fold is None or not isinstance(self.task, Scales):
            return self.task
        task: Task[Any] = self.task.scaled_by(self.train_targets[self.splits.folds[fold].train])
        return task

    def begin(
        self, hyperparameters: Hyperparameters, seed: int, total_steps: int, random: RandomState | None = None,
        fold: int | None = None,
    ) -> OptimizerStep:  # fmt: skip
        """Put the model where every training under these values starts, and return the optimizer over it.

        Dropout masks are drawn from `random`, or from generators of its own.

        Raises:
            ModelError, ConfigurationError: the model does not have what the hyperparameters ask for, or one of these
                means nothing to the task.
        """
        task = self.config.task.name
        if idle := unused_hyperparameters(task, dict(hyperparameters)):
            raise ConfigurationError(unused_sentence(task, idle))
        model = TrialModel(
            self.model, self.task_of(fold), hyperparameters, seed=seed, random=random, precision=self.precision,
            shares=self.config.compute.slots > 1,
        )  # fmt: skip
        return OptimizerStep(model, total_steps)

    def training_batch(self, hyperparameters: Hyperparameters, rows: Rows, seed: Sequence[int]) -> Batch:
        """Return training rows side by side, augmented as the trial asks for; an equal seed gives an equal batch.

        Raises:
            ModelError: the tokenizer cannot augment so.
        """
        batch = collate(self.tokenized(hyperparameters.max_length).train, rows, self.model.pad_id)
        augment = self._augmentation(hyperparameters)
        return batch if augment is None else augment.apply(batch, rows, np.random.default_rng(seed))

    def predict(
        self, split: TokenizedSplit, rows: Rows | None = None, check: Check = no_check, fold: int | None = None
    ) -> Predictions:
        """Ask the model as it stands, as trained on a fold, about `rows` of a split, or about all of it.

        `check` is called between batches.
        """
        return predictions(self.model, self.task_of(fold), split, rows, self.precision, check)

    def score(self, split: TokenizedSplit, rows: Rows | None = None, check: Check = no_check) -> Scores:
        """Score the model as it stands on `rows` of a split, or on all of it; `check` is called between batches."""
        return self.task.scores(self.predict(split, rows, check))

    def fit(self, of_validation: Predictions, of_training: Callable[[], Predictions]) -> NDArray[np.float64] | None:
        """Return what the task fits to rows: validation where winners are judged by other rows, else training rows."""
        if not isinstance(self.task, Fits):
            return None
        return self.task.fit(of_validation if self.splits.confirmation else of_training())

    def decided(self, said: Predictions, fitted: NDArray[np.float64] | None) -> Predictions:
        """Return answers under what was fitted."""
        return self.task.with_fitted(said, fitted) if fitted is not None and isinstance(self.task, Fits) else said

    def read(self, examples: Examples, said: Predictions, rows: Rows | None = None) -> HeldOutEvaluation:
        """Return the reading of what was said of `rows` of these examples, or of all of them."""
        known = self._judged(examples)
        return evaluate_held_out(self.task, said, known if rows is None else known.take(rows))

    def files_of(self, *, confirms: bool) -> Path | None:
        """Return where the weights and checkpoints of trials lie, those of a confirmation apart; None for nowhere."""
        return self.files / CONFIRMATION if self.files is not None and confirms else self.files

    def _judged(self, examples: Examples) -> HeldOutRows:
        """Return what is known of examples beside their targets; counted once."""
        if id(examples) not in self._known:
            words = np.array([len(text.split()) for text in examples.texts])
            self._known[id(examples)] = HeldOutRows(words=words, groups=examples.groups or (), seed=self.config.seed)
        return self._known[id(examples)]

    def _augmentation(self, hyperparameters: Hyperparameters) -> Augmentation | None:
        """Return what a trial does to its training batches, made once for it; None where that is nothing."""
        if self._augments is None or self._augments[0] != hyperparameters:
            tokens = self.tokenized(hyperparameters.max_length).train.tokens
            words = self._word_numbers() if hyperparameters.word_swap else None
            self._augments = hyperparameters, augmentation(hyperparameters, tokens, words, self.model.tokenizer)
        return self._augments[1]

    def _word_numbers(self) -> NDArray[np.int32]:
        """Return the word of each training token that there is; found once."""
        assert self._tokenized is not None, "words are those of tokens"
        if self._words is None:
            train, longest = self.splits.train, self._tokenized.max_length
            refuse_word_swap(self.model.tokenizer)
            made = self._held(
                f"train-words-{longest}",
                lambda: {"words": word_numbers(train.texts, train.pairs, self.model.tokenizer, longest)},
            )
            self._words = made["words"]
        return self._words

    def _tokenize_if_any(self, split: str, examples: Examples | None, max_length: int) -> TokenizedSplit | None:
        return None if examples is None else self._tokenize(split, examples, max_length)

    def _tokenize(self, split: str, examples: Examples, max_length: int) -> TokenizedSplit:
        made = self._held(
            f"{split}-tokens-{max_length}",
            lambda: tokenize(examples.texts, examples.pairs, self.model.tokenizer, max_length).arrays(),
        )
        return TokenizedSplit(tokens=Tokens(**made), targets=self.task.targets(examples.labels))

    def _held(self, name: str, make: Callable[[], Mapping[str, NDArray[Any]]]) -> Mapping[str, NDArray[Any]]:
        """Return arrays of the texts, in the memory of this process or, read only, in that of all workers."""
        if self._shared is None:
            return make()
        model = self.config.model.model_dump(mode="json")
        return self._shared.arrays(name, [name, self.splits.fingerprint, model, self._tokenizer_digest], make)


def _processor() -> str:
    """Return which processor this is, and the instructions that torch chooses its sums by."""
    about = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", about.read_text() if about.exists() else "", re.MULTILINE)
    return f"{named[1] if named else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
