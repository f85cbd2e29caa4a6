"""Training context: the study's data, tokenized, its pretrained model and its files, for all trials of a process."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.config.tasks import unused_hyperparameters, unused_sentence
from hpo.data.augmentation import augmentation, refuse_word_swap
from hpo.data.batching import Batch, Rows, collate
from hpo.data.sources import Examples
from hpo.data.splits import Splits
from hpo.data.stratify import stratified_sample
from hpo.data.tokenization import TokenizedSplit, Tokens, tokenize, tokenizer_digest, word_numbers
from hpo.distributed.rank_group import ALONE, RankGroup
from hpo.errors import ConfigurationError
from hpo.files.remote import NO_REMOTE, open_remote_files
from hpo.files.shared import SharedFiles
from hpo.messages import HeldOutEvaluation, Precision, WorkerSettings
from hpo.metrics.metric import Predictions
from hpo.model.backbone import Backbone
from hpo.model.frozen_layers import FrozenLayers, StateCache
from hpo.model.methods import METHODS, frozen_layers
from hpo.model.randomness import RandomState
from hpo.model.trial_model import TrialModel
from hpo.tasks.held_out import HeldOutRows, evaluate_held_out
from hpo.tasks.protocol import Fits, Scales, Task
from hpo.training.evaluation import Check, predictions
from hpo.training.gradients import Gradients
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.optimizers import OPTIMIZERS

logger = logging.getLogger(__name__)

CONFIRMATION = "confirmation"
"""Subfolder of a study's files for the trials of its confirmation."""

TokenizedSplits = Mapping[str, TokenizedSplit]
"""Splits of a study by name: train, validation, test, confirmation (validation rows on which no trial of the search is
scored)."""
BatchMaker = Callable[[Rows, Sequence[int]], Batch]
"""Function from training rows and a seed to a batch; equal arguments give an equal batch."""


class TrainingContext:
    """Data, model and files shared by all trials of a process; only settings change, between trials."""

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
        self.device, self.rank_group = model.device, rank_group
        self.gradients = Gradients(rank_group, config.compute.gradient_checkpointing)
        self.files = files
        """Folder in which weights are kept; None to keep none."""
        self.remote = NO_REMOTE if files is None else open_remote_files(config, files)
        self.precision: Precision = "fp32" if config.compute.precision == "auto" else config.compute.precision
        self.slots = 1 if config.compute.slots == "auto" else config.compute.slots
        """Number of trials that are trained together."""
        self._shared = shared
        self.tokenizer_digest = tokenizer_digest(model.tokenizer)
        self._tokenized: TokenizedSplits = {}
        self._longest = 0
        """Most tokens of a row in the cached splits."""
        self._cut: dict[int, TokenizedSplits] = {}
        self._words: NDArray[np.int32] | None = None
        self._used: dict[int, Tensor] = {}
        self._held_out_rows: dict[int, HeldOutRows] = {}
        self._states = StateCache(shared, model.fingerprint, model.device)
        self.keeps_states = True
        """True if frozen layers are computed once, as far as is known."""
        self.train_targets = task.targets(splits.train.labels)
        """Targets of the training rows; shape (rows, ...)."""
        self.train_strata = task.strata(self.train_targets)
        """Strata of the training rows; shape (rows, ...)."""
        validation_strata = task.strata(task.targets(splits.validation.labels))
        self.validation_part = stratified_sample(validation_strata, config.evaluation.part_rows, config.seed)
        """Validation rows that are scored between full evaluations; the same for every trial."""

    def files_of(self, *, confirms: bool) -> Path | None:
        """Return the folder of weights and checkpoints, a separate one for a confirmation; None if none are kept."""
        return self.files / CONFIRMATION if self.files is not None and confirms else self.files

    def tokenized(self, max_length: int) -> TokenizedSplits:
        """Return the splits truncated to `max_length` tokens.

        They are tokenized once for all lengths up to the next power of two, so that searching over lengths does not
        fill memory.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        self.model.refuse_length(max_length)
        if self._longest < max_length:
            longest = max(16, 1 << (max_length - 1).bit_length())
            self._tokenized, self._longest = self._all_tokenized(longest), longest
            self._cut, self._words = {}, None
        if max_length not in self._cut:
            self._cut = {
                max_length: {
                    name: replace(
                        split,
                        tokens=split.tokens.cut(self.model.tokenizer, max_length),
                        source=f"{split.source} cut at {max_length}",
                    )
                    for name, split in self._tokenized.items()
                }
            }
        return self._cut[max_length]

    def batch_maker(self, hyperparameters: Hyperparameters) -> BatchMaker:
        """Return the function that collates training rows, with the trial's augmentation.

        Raises:
            ModelError: the tokenizer does not support the augmentation.
        """
        split = self.tokenized(hyperparameters.max_length)["train"]
        words = self._word_numbers() if hyperparameters.word_swap else None
        augment = augmentation(hyperparameters, split.tokens, words, self.model.tokenizer)

        def make_batch(rows: Rows, seed: Sequence[int]) -> Batch:
            batch = collate(split, rows, self.model.pad_id)
            return batch if augment is None else augment.apply(batch, rows, np.random.default_rng(seed))

        return make_batch

    def task_of(self, fold: int | None) -> Task[Any]:
        """Return the task for the training rows of a fold, or for all of them if `fold` is None."""
        if fold is None or not isinstance(self.task, Scales):
            return self.task
        task: Task[Any] = self.task.scaled_by(self.train_targets[self.splits.folds[fold].train])
        return task

    def use(self, settings: WorkerSettings) -> None:
        """Train with these settings from the next trial on."""
        self.precision = settings.precision
        self.slots = settings.slots or self.slots
        self.gradients.shared_tokens = settings.shared_tokens or self.gradients.shared_tokens

    def begin(
        self, hyperparameters: Hyperparameters, seed: int, total_steps: int, random: RandomState | None = None,
        fold: int | None = None,
    ) -> OptimizerStep:  # fmt: skip
        """Reset the model to the start of training under these values, and return the optimizer over it.

        Dropout masks are drawn from `random`, or from generators of their own.

        Raises:
            ModelError, ConfigurationError: the model does not support the hyperparameters, or the task does not use
                one.
        """
        task = self.config.task.kind
        if idle := unused_hyperparameters(task, dict(hyperparameters)):
            raise ConfigurationError(unused_sentence(task, idle))
        model = TrialModel(
            self.model, self.task_of(fold), hyperparameters, seed=seed, random=random, precision=self.precision,
            shares=self.slots > 1, tokens=self._tokens_used(hyperparameters),
        )  # fmt: skip
        model.frozen = self._frozen_layers(model)
        return OptimizerStep(model, total_steps)

    def _tokens_used(self, hyperparameters: Hyperparameters) -> Tensor | None:
        """Return the tokens of all texts, in rising order, each once.

        None if the method trains no embeddings, or the optimizer needs all of them.
        """
        if METHODS[hyperparameters.method].shares or not OPTIMIZERS[hyperparameters.optimizer].is_elementwise:
            return None
        if hyperparameters.max_length not in self._used:
            used = np.array([self.model.pad_id, *self.model.tokenizer.all_special_ids])
            for split in self.tokenized(hyperparameters.max_length).values():
                used = np.union1d(used, split.tokens.used())
            self._used = {hyperparameters.max_length: torch.from_numpy(used)}
        return self._used[hyperparameters.max_length]

    def _frozen_layers(self, model: TrialModel) -> FrozenLayers | None:
        """Return the cached layers below the trained ones; None if each pass must compute them."""
        layers = frozen_layers(self.model.network, model.parameters)
        if not layers:
            return None
        frozen = FrozenLayers(self.model, layers, model.precision, self._states)
        split = self.tokenized(model.hyperparameters.max_length)["train"]
        rising = np.argsort(split.tokens.lengths, kind="stable")
        if frozen.agrees(collate(split, rising[[0, rising.size // 2]], self.model.pad_id)):
            return frozen
        if self.keeps_states:
            logger.warning(
                "The frozen layers of %s are computed in every pass: what they give is not one hidden state for each "
                "token that follows from the text alone.",
                type(self.model.network).__name__,
            )
        self.keeps_states = False
        return None

    def predict(
        self, split: TokenizedSplit, rows: Rows | None = None, check: Check = lambda: None, fold: int | None = None
    ) -> Predictions:
        """Predict `rows` of a split, or all of it, with the current weights, as trained on a fold.

        `check` is called between batches.
        """
        return predictions(self.model, self.task_of(fold), split, rows, self.precision, check)

    def fit(self, of_validation: Predictions, of_training: Callable[[], Predictions]) -> NDArray[np.float64] | None:
        """Return what the task fits: to validation if other rows decide the verdict, else to training rows."""
        if not isinstance(self.task, Fits):
            return None
        return self.task.fit(of_validation if self.splits.confirmation else of_training())

    def decided(self, answers: Predictions, fitted: NDArray[np.float64] | None) -> Predictions:
        """Return predictions under the fitted values."""
        return self.task.with_fitted(answers, fitted) if fitted is not None and isinstance(self.task, Fits) else answers

    def held_out_evaluation(
        self, examples: Examples, answers: Predictions, rows: Rows | None = None
    ) -> HeldOutEvaluation:
        """Run a held-out evaluation of the predictions for `rows` of these examples, or for all of them."""
        if id(examples) not in self._held_out_rows:
            words = np.array([len(text.split()) for text in examples.texts])
            groups = examples.groups or ()
            self._held_out_rows[id(examples)] = HeldOutRows(words=words, groups=groups, seed=self.config.seed)
        known = self._held_out_rows[id(examples)]
        return evaluate_held_out(self.task, answers, known if rows is None else known.take(rows))

    def _all_tokenized(self, max_length: int) -> TokenizedSplits:
        splits = self.splits
        there = {"train": splits.train, "test": splits.test, "confirmation": splits.confirmation}
        # With folds, validation is the training rows.
        there |= {} if splits.folds else {"validation": splits.validation}
        found = {name: self._tokenize(name, one, max_length) for name, one in there.items() if one is not None}
        return {"validation": found["train"], **found}

    def _tokenize(self, split: str, examples: Examples, max_length: int) -> TokenizedSplit:
        tokens = self._shared_arrays(
            f"{split}-tokens-{max_length}",
            lambda: tokenize(
                examples.texts, examples.pairs, self.model.tokenizer, max_length, self.model.head.prompt
            ).arrays(),
        )
        source = json.dumps(self._made_of(split))
        return TokenizedSplit(tokens=Tokens(**tokens), targets=self.task.targets(examples.labels), source=source)

    def _word_numbers(self) -> NDArray[np.int32]:
        """Return the word of each training token; computed once."""
        if self._words is None:
            train = self.splits.train
            refuse_word_swap(self.model.tokenizer)
            self._words = self._shared_arrays(
                f"train-words-{self._longest}",
                lambda: {
                    "words": word_numbers(
                        train.texts, train.pairs, self.model.tokenizer, self._longest, self.model.head.prompt
                    )
                },
            )["words"]
        return self._words

    def _shared_arrays(self, name: str, make: Callable[[], Mapping[str, NDArray[Any]]]) -> Mapping[str, NDArray[Any]]:
        """Return arrays of the texts, in this process's memory, or read-only in memory shared by all workers."""
        return make() if self._shared is None else self._shared.arrays(name, self._made_of(name), make)

    def _made_of(self, name: str) -> list[object]:
        """Return what the arrays of the texts depend on, besides package versions, as JSON values."""
        model = self.config.model.model_dump(mode="json")
        return [name, self.splits.fingerprint, model, self.tokenizer_digest, repr(self.model.head.prompt)]
