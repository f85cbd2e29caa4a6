"""What a process holds for all its trials: the study's data and its pretrained model, read once."""

from dataclasses import dataclass
from pathlib import Path

from hpo.config.study_file import StudyConfig
from hpo.data.batching import Rows
from hpo.data.sources import Examples
from hpo.data.splits import Splits, label_numbers, stratified_part
from hpo.data.tokenization import TokenizedSplit, tokenize
from hpo.messages import Scores
from hpo.tasks import Task
from hpo.training.evaluation import score_rows
from hpo.training.models import PretrainedModel
from hpo.training.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedSplits:
    """All splits of a study, cut at one length."""

    train: TokenizedSplit
    validation: TokenizedSplit
    test: TokenizedSplit | None


class Bench:
    """Data, model and settings that every trial of a process shares; only `precision` changes, between trials."""

    def __init__(
        self, config: StudyConfig, splits: Splits, task: Task, model: PretrainedModel, files: Path | None
    ) -> None:
        self.config, self.splits, self.task, self.model = config, splits, task, model
        self.device = model.device
        self.files = files
        """Where weights are kept; None for nowhere."""
        self.precision: Precision = "fp32" if config.compute.precision == "auto" else config.compute.precision
        self._tokenized: dict[int, TokenizedSplits] = {}
        rows = min(config.evaluation.rung_rows, splits.validation.rows)
        self.validation_part = self._part(splits.validation, rows)
        """Rows of validation that are scored between full evaluations; the same for every trial."""
        self.train_sample = self._part(splits.train, rows)
        """Rows of training that are scored at full evaluations; the same for every trial."""

    def tokenized(self, max_length: int) -> TokenizedSplits:
        """Return the splits cut at `max_length` tokens; tokenized once.

        Raises:
            ModelError: the model cannot read as many tokens.
        """
        self.model.refuse_length(max_length)
        if max_length not in self._tokenized:
            test = self.splits.test
            self._tokenized[max_length] = TokenizedSplits(
                train=self._tokenize(self.splits.train, max_length),
                validation=self._tokenize(self.splits.validation, max_length),
                test=None if test is None else self._tokenize(test, max_length),
            )
        return self._tokenized[max_length]

    def score(self, split: TokenizedSplit, rows: Rows | None = None) -> Scores:
        """Score the model as it stands on `rows` of a split, or on all of it."""
        return score_rows(self.model, self.task, split, rows, self.precision)

    def _tokenize(self, examples: Examples, max_length: int) -> TokenizedSplit:
        tokens = tokenize(examples.texts, examples.pairs, self.model.tokenizer, max_length)
        return TokenizedSplit(tokens=tokens, labels=label_numbers(examples.labels, self.task.label_names))

    def _part(self, examples: Examples, rows: int) -> Rows:
        labels = label_numbers(examples.labels, self.task.label_names)
        return stratified_part(labels, rows, self.config.seed)
