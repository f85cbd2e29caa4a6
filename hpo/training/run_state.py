"""Training plan and run state: rows and seeds of a trial, and the state and circumstances it needs to resume."""

import hashlib
import json
import logging
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from hpo.data.batching import Batch, Rows, training_batches
from hpo.data.stratify import class_count, stratified_prefix, stratified_sample
from hpo.distributed.rank_group import RankGroup
from hpo.files.checkpoints import Checkpoints, State
from hpo.messages import SEMANTICS, Assignment, Milestone, Report, Scores
from hpo.metrics.metric import mean_scores
from hpo.tasks.held_out import mean_held_out
from hpo.training.context import TokenizedSplits, TrainingContext
from hpo.training.milestones import milestones_of, steps_per_epoch

CHECKPOINT_FORMAT = 2
"""Raised if a checkpoint has other content: 2 has only those rows of embeddings that are trained."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldRun:
    """One training from the pretrained weights: its rows, its seed, its milestones and the rows scored there."""

    data: TokenizedSplits
    rows: Rows
    """Training rows used in each epoch."""
    train_sample: Rows
    """Training rows that are scored."""
    validation_part: Rows
    """Validation rows scored at a milestone that is not full; for a fold, all rows that it left out."""
    milestones: dict[int, Milestone]
    """Optimizer step -> the milestone reached there."""
    total_steps: int
    seed: int
    """Seed of initialisation and data order."""
    fold: int | None
    """Index of the fold, from 0; None without folds."""
    last: bool
    """True if the trial ends with it."""

    def batches(self, assignment: Assignment, context: TrainingContext, taken: int = 0) -> Iterator[Batch]:
        """Return its batches in order, with the trial's augmentation, without the first `taken`."""
        hyperparameters, make_batch = assignment.hyperparameters, context.batch_maker(assignment.hyperparameters)
        first_epoch, begun = divmod(taken, steps_per_epoch(self.rows.size, hyperparameters.batch_size))
        for epoch in range(first_epoch, hyperparameters.epochs):
            chosen = training_batches(self.rows.size, hyperparameters.batch_size, self.seed, epoch)
            for number in range(begun if epoch == first_epoch else 0, len(chosen)):
                # Numbered from 1: numpy ignores a trailing 0, and the seed without it gives the order of the epoch.
                yield make_batch(self.rows[chosen[number]], [self.seed, epoch, number + 1])


def fold_runs(assignment: Assignment, context: TrainingContext) -> list[FoldRun]:
    """Return the trainings of a trial: one, or one for each fold.

    Raises:
        ModelError: the model cannot read texts as long as the trial's.
    """
    splits = context.splits
    if not splits.folds:
        return [_fold_run(assignment, context, np.arange(splits.train.rows), context.validation_part, None)]
    return [
        _fold_run(assignment, context, fold.train, fold.validation, number) for number, fold in enumerate(splits.folds)
    ]


def _fold_run(
    assignment: Assignment, context: TrainingContext, rows: Rows, validation_part: Rows, fold: int | None
) -> FoldRun:
    hyperparameters, seed = assignment.hyperparameters, context.config.seed
    if hyperparameters.data_fraction < 1:
        # At least one row of each class; the same rows for every trial.
        strata = context.train_strata[rows]
        wanted = max(round(hyperparameters.data_fraction * rows.size), class_count(strata))
        rows = rows[stratified_prefix(strata, wanted, seed)]
    # At most as many as are scored of validation, so that both scores have about the same variance.
    scored = context.splits.validation.rows if fold is None else validation_part.size
    sample = min(context.config.evaluation.part_rows, scored)
    return FoldRun(
        data=context.tokenized(hyperparameters.max_length),
        rows=rows,
        train_sample=rows[stratified_sample(context.train_strata[rows], sample, seed)],
        validation_part=validation_part,
        milestones=milestones_of(assignment, rows.size, context.splits.train.rows, fold),
        total_steps=hyperparameters.epochs * steps_per_epoch(rows.size, hyperparameters.batch_size),
        seed=_fold_seed(assignment.seed, fold) if fold else assignment.seed,
        fold=fold,
        last=fold is None or fold == len(context.splits.folds) - 1,
    )


def _fold_seed(seed: int, fold: int) -> int:
    """Return the seed of a fold; seeds of different trials share no fold run."""
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0] >> 1)


logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class RunState:
    """Progress of a trial, and its results so far."""

    fold_run: int = 0
    """Index of the current training: the fold, or 0."""
    seen: int = 0
    """Examples seen, including those of earlier folds."""
    owes_report: bool = False
    """True if it has reached a milestone that is not yet evaluated."""
    seconds: float = 0.0
    """Seconds of training and evaluation."""
    best: Report | None = None
    """The best full report."""
    reports_since_best: int = 0
    """Number of full reports after it."""
    of_folds: list[Report] = field(default_factory=list)
    """A report of each fold that has ended."""
    circumstances: dict[str, str] = field(default_factory=dict)
    """Result of `circumstances_of`."""
    changes: list[str] = field(default_factory=list)
    """Circumstances that had changed when it resumed; from then on it is equal only up to rounding."""

    def resume_under(self, circumstances: Mapping[str, str]) -> None:
        """Record the circumstances under which a trial resumes, and which of them have changed."""
        before = self.circumstances
        self.changes += [
            f"{name}: {before[name]} before, {now} now"
            for name, now in circumstances.items()
            if before.get(name, now) != now
        ]
        self.circumstances = dict(circumstances)

    def remember(self, report: Report) -> bool:
        """Record a full report; return whether it is the best so far."""
        if not self.would_be_best(report.validation):
            self.reports_since_best += 1
            return False
        self.best, self.reports_since_best = report, 0
        return True

    def would_be_best(self, validation: Scores) -> bool:
        """Return true if a full report with these scores would be the best so far."""
        return self.best is None or validation.objective > self.best.validation.objective

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "RunState":
        """Return the state from its mapping by `asdict`, of this or an earlier version."""

        def renamed(report: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
            return report and {"held_out": report.get("reading"), **report}

        reports = {"best": renamed(state["best"]), "of_folds": list(map(renamed, state["of_folds"]))}
        return TypeAdapter(cls).validate_python({"fold_run": state.get("course"), **state, **reports})


def load_alike(checkpoints: Checkpoints, rank_group: RankGroup, trial: int) -> State | None:
    """Return the checkpoint that all ranks can resume from; None without one."""
    # Ranks on one machine may fetch it to one folder.
    state = rank_group.in_turns(checkpoints.load)
    seen = rank_group.all_gather(None if state is None else state["seen"])
    if seen.count(seen[0]) == len(seen):
        return state
    logger.warning(
        "Trial %d starts from the beginning: not all its ranks read the same checkpoint; let store.files be a folder "
        "that they share, or a URL.",
        trial,
    )
    return None


def identity_of(assignment: Assignment, context: TrainingContext) -> str:
    """Return a digest of everything that a checkpoint of `assignment` depends on; only equal ones are resumed."""
    config = context.config
    parts = [
        assignment.hyperparameters.to_mapping(),
        assignment.seed,
        [[milestone.rung, milestone.full] for milestone in assignment.milestones],
        assignment.maximum_passes,
        context.splits.fingerprint,
        *(section.model_dump(mode="json") for section in (config.model, config.task, config.evaluation)),
        config.seed,
        context.precision,
        context.model.fingerprint,
        context.tokenizer_digest,
        # The random states of CPU and GPU cannot be exchanged.
        context.device.type,
        version("llm-hpo"),
        SEMANTICS,
        CHECKPOINT_FORMAT,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def circumstances_of(context: TrainingContext) -> dict[str, str]:
    """Return device, threads and versions: a trial resumed under others is equal only up to rounding."""
    device = context.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {_processor()}",
        "threads": str(torch.get_num_threads()),
        "ranks": str(context.rank_group.ranks),
        "torch": version("torch"),
        "precision": context.precision,
    }


def mean_report(of_folds: Sequence[Report], rung: int) -> Report:
    """Return the one full report of a trial in folds: the mean over them, at `rung`."""
    held_out_evaluations = [report.held_out for report in of_folds if report.held_out is not None]
    return replace(
        of_folds[-1],
        rung=rung,
        full=True,
        decides=False,
        train_loss=sum(report.train_loss for report in of_folds) / len(of_folds),
        validation=mean_scores([report.validation for report in of_folds]),
        train=mean_scores([report.train for report in of_folds if report.train is not None]),
        held_out=mean_held_out(held_out_evaluations) if held_out_evaluations else None,
    )


def _processor() -> str:
    """Return the processor and its instruction set, by which torch chooses the order of its sums."""
    about = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", about.read_text() if about.exists() else "", re.MULTILINE)
    return f"{named[1] if named else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
