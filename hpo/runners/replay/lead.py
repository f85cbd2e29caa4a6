"""The worker that a replay asks before and after a search: it knows what its source of curves knows."""

import math
from collections.abc import Sequence

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import (
    Assignment,
    Decision,
    Demands,
    Dimensions,
    Ending,
    HeldOutEvaluation,
    Milestone,
    Outcome,
    Probe,
    Progress,
    Report,
    Timed,
)
from hpo.metrics.metric import Objective
from hpo.runners.replay.attempt import PEAK_MEMORY_BYTES, ReplayedAttempt, ReplayState, scores_of, steps_of
from hpo.runners.replay.curves import LAST_RUNG, TRAIN_ROWS, CurveSource, passes_of
from hpo.runners.workforce import Lost
from hpo.training.precision import Measurement, Precision

WEIGHTS_BYTES = 2**20


class ReplayLead:
    """A `LeadWorker` without a model: nothing is measured, and what it trains takes no time."""

    def __init__(self, source: CurveSource, metric: str) -> None:
        self._source = source
        self._metric = metric
        self._training: ReplayedAttempt | None = None

    @property
    def objective(self) -> Objective:
        """What the scores are called."""
        return Objective(metric=self._metric, positive=None, note=f"The objective is {self._metric}, as replayed.")

    def facts(self) -> dict[str, str]:
        """Return that nothing was trained."""
        return {"device": "replay"}

    def refuse_unfit(self, demands: Demands) -> None:
        """Refuse nothing."""

    def cut_share(self, max_length: int) -> float:
        """Return 0: there are no texts."""
        return 0.0

    def dimensions(self, max_length: int) -> Dimensions:
        """Return that of each text a token is counted, and nothing is scored: steps have those seconds too."""
        return Dimensions(train_rows=TRAIN_ROWS, layers=12)

    def measure(self, hyperparameters: Hyperparameters, most_seconds: float = math.inf) -> Measurement:
        """Return that bf16 does not pay."""
        return Measurement(fp32_seconds=1.0, bf16_seconds=1.0, difference=0.0, precision="fp32")

    def use(self, precision: Precision) -> None:
        """Go on as before: curves know no precision."""

    def probe(self, hyperparameters: Hyperparameters, steps: int, most_seconds: float = math.inf) -> Probe:
        """Return what a whole trial would cost, evaluations among it, spread evenly over its steps."""
        curve = self._source.curve(_whole_trial(hyperparameters))
        feasible = curve.ending is not Ending.INFEASIBLE
        seconds = curve.seconds / steps_of(hyperparameters) if feasible else 0.0
        return Probe(
            feasible=feasible,
            micro_batch_size=None,
            seconds_per_step=seconds,
            timed=(Timed(trained_tokens=hyperparameters.batch_size, updates=1, seconds=seconds),) if feasible else (),
            seconds_per_scored_row=0.0,
            peak_memory_bytes=PEAK_MEMORY_BYTES if feasible else 0,
            checkpoint_bytes=WEIGHTS_BYTES if feasible else 0,
            weights_bytes=WEIGHTS_BYTES if feasible else 0,
            first_loss=1.0 if feasible else 0.0,
        )

    def has_weights(self, report: Report) -> bool:
        """Return True: a curve can be read again."""
        return True

    def test_evaluation(self, assignment: Assignment) -> HeldOutEvaluation:
        """Return what the configuration scores apart from the luck of one seed."""
        truth = self._source.true_score(_whole_trial(assignment.hyperparameters))
        return HeldOutEvaluation(scores=scores_of(self._metric, truth, full=True), deviations=())

    def baseline(self, name: str, max_length: int) -> HeldOutEvaluation:
        """Not to be asked: a curve says nothing of baselines."""
        raise AssertionError(f"a replay has no {name}, of whatever length ({max_length})")

    def admit(self, assignment: Assignment) -> None:
        """Take an assignment, to be trained at once."""
        curve = self._source.curve(assignment)
        self._training = ReplayedAttempt(
            assignment, curve, ReplayState(), began=0.0, speaks_every=math.inf, metric=self._metric
        )

    def advance(self) -> Sequence[Report | Progress | Outcome]:
        """Return the next thing that it says; an `Outcome` is the last."""
        assert self._training is not None, "admit before advancing"
        said = self._training.speak()
        assert not isinstance(said, Lost), "nothing goes wrong here"
        return (said,)

    def apply(self, decision: Decision) -> None:
        """Go on: what takes no time needs not be given up."""

    def drop(self, trial: int) -> None:
        """Forget what it trained."""
        self._training = None


def _whole_trial(hyperparameters: Hyperparameters) -> Assignment:
    """Return an assignment that is evaluated at its end alone."""
    return Assignment(
        trial=0,
        attempt=1,
        hyperparameters=hyperparameters,
        seed=0,
        milestones=(Milestone(rung=LAST_RUNG, full=True),),
        maximum_passes=passes_of(hyperparameters),
    )
