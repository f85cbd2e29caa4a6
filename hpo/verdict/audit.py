"""What the pruner may have cost: some of the trials that it gave up, drawn at random, were trained to their end."""

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
    """Of the trials that a pruner gave up, what those came to that were trained on."""

    given_up: int
    """Trials that the pruner gave up, those that were trained on among them."""
    trained_on: int
    among_the_best: int
    """Of these, that came among the best three of the study."""
    probability: float | None
    """That the pruner would have discarded at least one of the final best three; None where none was trained on."""
    interval: Interval
    """Of that probability."""

    @property
    def sentence(self) -> str:
        """It in words."""
        given_up = counted(self.given_up, "trial")
        if self.probability is None:
            return (
                f"The pruner gave up {given_up}, none of which was drawn to be trained on, so what that "
                "cost cannot be said; confirmation.audit says how many are drawn."
            )
        was = "was" if self.trained_on == 1 else "were"
        between = f"[{self.interval.low:.2f}, {self.interval.high:.2f}]"
        return (
            f"Of {given_up} that the pruner gave up {self.trained_on}, drawn at random, {was} trained "
            f"to the end, and {self.among_the_best} came among the best {TOP}: this pruner would have discarded one of "
            f"the final top {TOP} with probability {self.probability:.2f} {between}."
        )


def audited(results: StudyResults) -> Audit | None:
    """Return what the pruner may have cost; None where it gave nothing up.

    Each trial that was given up would have come among the best with the same unknown probability q, of which the
    share among those trained on is an estimate with the exact interval of Clopper and Pearson (1934); that at least
    one of all n would have is 1 - (1 - q)^n.
    """
    over = {trial.number for trial in results.trials if trial.ending == Ending.COMPLETED}
    trained_on = results.audited & over
    given_up = sum(trial.ending == Ending.PRUNED for trial in results.trials) + len(trained_on)
    if not given_up:
        return None
    best = {trial.number for trial in results.leaderboard[:TOP]} & trained_on
    return _audit(given_up, len(trained_on), len(best))


def _audit(given_up: int, trained_on: int, among_the_best: int) -> Audit:
    low, high = _clopper_pearson(among_the_best, trained_on)

    def any_of_all(each: float) -> float:
        return float(1 - (1 - each) ** given_up)

    return Audit(
        given_up=given_up,
        trained_on=trained_on,
        among_the_best=among_the_best,
        probability=any_of_all(among_the_best / trained_on) if trained_on else None,
        interval=Interval(low=any_of_all(low), high=any_of_all(high)),
    )


def _clopper_pearson(hits: int, tries: int) -> tuple[float, float]:
    outside = (1 - COVERAGE) / 2
    low = float(stats.beta.ppf(outside, hits, tries - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - outside, hits + 1, tries - hits)) if hits < tries else 1.0
    return low, high
