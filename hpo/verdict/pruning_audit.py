"""Audit of the pruner: a random sample of the trials that it stopped, trained to their end."""

from dataclasses import dataclass

from scipy import stats

from hpo.messages import Ending
from hpo.store.results import StudyResults
from hpo.verdict.comparison import COVERAGE
from hpo.verdict.findings import Interval
from hpo.verdict.wording import counted

TOP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Trials that a pruner stopped, and the sample of them that was trained to the end.

    Each stopped trial would have been among the best with the same unknown probability q. The share in the sample
    estimates q, with the exact interval of Clopper and Pearson (1934). At least one of all n stopped trials would have
    been among the best with probability 1 - (1 - q)^n.
    """

    pruned: int
    """Number of trials that the pruner stopped, including the sample."""
    trained_on: int
    """Size of the sample."""
    among_the_best: int
    """Number of trials of the sample among the best three of the study."""

    @property
    def probability(self) -> float | None:
        """Probability that the pruner discarded one of the best three; None without a sample."""
        return self._of_any(self.among_the_best / self.trained_on) if self.trained_on else None

    @property
    def interval(self) -> Interval:
        """The 95% interval of that probability."""
        if not self.trained_on:
            return Interval(low=0.0, high=1.0)
        of_each = stats.binomtest(self.among_the_best, self.trained_on).proportion_ci(COVERAGE)
        return Interval(low=self._of_any(of_each.low), high=self._of_any(of_each.high))

    def _of_any(self, each: float) -> float:
        return float(1 - (1 - each) ** self.pruned)

    @property
    def sentence(self) -> str:
        """The audit in words."""
        pruned = counted(self.pruned, "trial")
        if self.probability is None:
            return (
                f"The pruner stopped {pruned}, none of which was drawn to be trained to its end, so it is unknown "
                "whether one of the best was lost; confirmation.audit is the share that is drawn."
            )
        was = "was" if self.trained_on == 1 else "were"
        between = f"[{self.interval.low:.2f}, {self.interval.high:.2f}]"
        return (
            f"Of {pruned} that the pruner stopped {self.trained_on}, drawn at random, {was} trained to the end, and "
            f"{self.among_the_best} came among the best {TOP}: this pruner would have discarded one of the final top "
            f"{TOP} with probability {self.probability:.2f} {between}."
        )


def audit_of_pruning(results: StudyResults) -> Audit | None:
    """Return the audit of a study; None if the pruner stopped nothing."""
    completed = {trial.number for trial in results.trials if trial.ending == Ending.COMPLETED}
    trained_on = results.audited & completed
    pruned = sum(trial.ending == Ending.PRUNED for trial in results.trials) + len(trained_on)
    best = {trial.number for trial in results.leaderboard[:TOP]} & trained_on
    return Audit(pruned=pruned, trained_on=len(trained_on), among_the_best=len(best)) if pruned else None
