"""A worker in another process, asked as if it were in this one."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Assignment, Decision, Demands, Dimensions, Outcome, Probe, Progress, Reading, Report
from hpo.metrics.metric import Objective
from hpo.runners.workforce import LeadWorker
from hpo.training.precision import Measurement, Precision

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


class RemoteWorker:
    """Every call waits for its answer, and raises what it raised there; for the rest see `LeadWorker`."""

    def __init__(self, ask: Callable[[str, tuple[Any, ...]], Any]) -> None:
        """Ask by `ask`, which is given the name of a method and its arguments."""
        self._ask = ask

    @property
    def objective(self) -> Objective:
        """The metric trials are compared by, without a function of the user's: that stays where it is called."""
        objective: Objective = self._ask("objective", ())
        return objective

    def facts(self) -> dict[str, str]:
        """Return what of its process a result depends on."""
        return self._call(LeadWorker.facts)

    def refuse_unfit(self, demands: Demands) -> None:
        """Refuse what its model cannot do."""
        self._call(LeadWorker.refuse_unfit, demands)

    def cut_share(self, max_length: int) -> float:
        """Return the share of training texts that are cut at so many tokens."""
        return self._call(LeadWorker.cut_share, max_length)

    def dimensions(self, max_length: int) -> Dimensions:
        """Return what the work of trials is counted from."""
        return self._call(LeadWorker.dimensions, max_length)

    def measure(self, hyperparameters: Hyperparameters, most_seconds: float = math.inf) -> Measurement:
        """Time both precisions and choose."""
        return self._call(LeadWorker.measure, hyperparameters, most_seconds)

    def use(self, precision: Precision) -> None:
        """Compute in this precision from the next trial on."""
        self._call(LeadWorker.use, precision)

    def probe(self, hyperparameters: Hyperparameters, steps: int, most_seconds: float = math.inf) -> Probe:
        """Take a few steps and say what they cost."""
        return self._call(LeadWorker.probe, hyperparameters, steps, most_seconds)

    def has_weights(self, report: Report) -> bool:
        """Return whether the weights of that evaluation were kept."""
        return self._call(LeadWorker.has_weights, report)

    def test_reading(self, assignment: Assignment) -> Reading:
        """Read the test split with a trial's kept weights."""
        return self._call(LeadWorker.test_reading, assignment)

    def baseline(self, name: str, max_length: int) -> Reading:
        """Train and read a baseline."""
        return self._call(LeadWorker.baseline, name, max_length)

    def admit(self, assignment: Assignment) -> None:
        """Put an assignment into a free slot."""
        self._call(LeadWorker.admit, assignment)

    def advance(self) -> Sequence[Report | Progress | Outcome]:
        """Train until a trial has something to say."""
        return self._call(LeadWorker.advance)

    def apply(self, decision: Decision) -> None:
        """Hand a decision to its trial."""
        self._call(LeadWorker.apply, decision)

    def drop(self, trial: int) -> None:
        """Give up a trial without an outcome."""
        self._call(LeadWorker.drop, trial)

    def _call(
        self,
        method: Callable[Concatenate[LeadWorker, Given], Returned],
        *arguments: Given.args,
        **_: Given.kwargs,
    ) -> Returned:
        answer: Returned = self._ask(method.__name__, arguments)
        return answer
