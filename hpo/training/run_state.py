"""The place of a trial in training: what it must remember, beside weights and optimizer, to go on from there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from hpo.messages import Report, Scores
from hpo.metrics.metric import mean_scores
from hpo.tasks.held_out import mean_held_out

_REPORT = TypeAdapter(Report)


@dataclass(slots=True, kw_only=True)
class RunState:
    """How far a trial has come, and what it has seen on the way."""

    fold_run: int = 0
    """Which of its trainings it is in: the fold, or 0."""
    seen: int = 0
    """Examples seen, those of earlier folds among them."""
    owes_report: bool = False
    """Whether it stands at a milestone that is not yet evaluated."""
    seconds: float = 0.0
    """Training and evaluation time."""
    best: Report | None = None
    """The best full report."""
    reports_since_best: int = 0
    """Full reports after it."""
    of_folds: list[Report] = field(default_factory=list)
    """A report of each fold that is over."""
    circumstances: dict[str, str] = field(default_factory=dict)
    """What the last bits depend on beside the assignment: device, threads, versions."""
    changes: list[str] = field(default_factory=list)
    """What of that was another when it went on: from there on it is the same to rounding, not to the last bit."""

    def go_on_under(self, circumstances: Mapping[str, str]) -> None:
        """Take in what a trial goes on under, and what of it has changed."""
        before = self.circumstances
        self.changes += [
            f"{name}: {before[name]} before, {now} now"
            for name, now in circumstances.items()
            if before.get(name, now) != now
        ]
        self.circumstances = dict(circumstances)

    def remember(self, report: Report) -> bool:
        """Take in a full report; return whether it is the best so far."""
        if not self.would_be_best(report.validation):
            self.reports_since_best += 1
            return False
        self.best, self.reports_since_best = report, 0
        return True

    def would_be_best(self, validation: Scores) -> bool:
        """Return whether a full report of these scores would be the best so far."""
        return self.best is None or validation.objective > self.best.validation.objective

    def to_state(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "RunState":
        """Return what `to_state` was called on."""
        best = None if state["best"] is None else _report(state["best"])
        return cls(**{**state, "best": best, "of_folds": [_report(one) for one in state["of_folds"]]})


def mean_report(of_folds: Sequence[Report], rung: int) -> Report:
    """Return the one full report of a trial in folds: the mean over them, told at `rung`."""
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


def _report(values: Mapping[str, Any]) -> Report:
    # Checkpoints of earlier versions have a `reading`.
    return _REPORT.validate_python({"held_out": values.get("reading"), **values})
