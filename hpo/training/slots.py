"""The trials that one worker trains side by side: slots that are filled, advanced together, and free again."""

from torch import Tensor

from hpo.messages import Assignment, Decision, Outcome
from hpo.training.context import TrainingContext
from hpo.training.gradients import SlotBatch
from hpo.training.run import Clock, Message, Run


class Slots:
    """Runs in slots. Each has its own optimizer, schedule and random state; what they share is the bench."""

    def __init__(self, context: TrainingContext) -> None:
        self._context = context
        self._clock = Clock()
        self._runs: dict[int, Run] = {}
        self._waiting: dict[int, SlotBatch] = {}
        self._answers: dict[int, Tensor | Exception] = {}

    @property
    def free_slots(self) -> int:
        """How many assignments may be admitted."""
        return self._context.config.compute.slots - len(self._runs)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to advance."""
        return not self._runs

    def admit(self, assignment: Assignment) -> None:
        """Put an assignment into a free slot; it is read and its model reset at the next `advance`."""
        assert self.free_slots, "admit only into a free slot"
        self._runs[assignment.trial] = Run(assignment, self._context, self._clock)

    def advance(self) -> list[Message]:
        """Train all slots, step by step, until at least one has something to say; an `Outcome` frees its slot."""
        messages: list[Message] = []
        with self._clock:
            while self._runs and not messages:
                messages = self._said()
                if not messages:
                    found = self._context.gradients.of_slots(list(self._waiting.values()))
                    self._answers, self._waiting = dict(zip(self._waiting, found, strict=True)), {}
        return messages

    def _said(self) -> list[Message]:
        """Let each run go on to its next batch, unless it waits for one, and return what is said on the way."""
        messages: list[Message] = []
        for trial in [trial for trial in self._runs if trial not in self._waiting]:
            said = self._runs[trial].advance(self._answers.pop(trial, None))
            if isinstance(said, SlotBatch):
                self._waiting[trial] = said
                continue
            messages.append(said)
            if isinstance(said, Outcome):
                del self._runs[trial]
        return messages

    def apply(self, decision: Decision) -> None:
        """Hand a decision to its trial; one about a trial that has ended, or an older attempt, has no effect.

        From any thread: beside `advance` it only looks a trial up, and sets what its run looks at between two steps.
        """
        run = self._runs.get(decision.trial)
        if run is not None and run.assignment.attempt == decision.attempt:
            run.decide(decision.action)

    def drop(self, trial: int) -> None:
        """Give up a trial without an outcome, where whoever carried it is gone."""
        run = self._runs.pop(trial, None)
        self._waiting.pop(trial, None)
        self._answers.pop(trial, None)
        if run is not None:
            run.close()

    def close(self) -> None:
        """Give up all trials without an outcome."""
        for trial in list(self._runs):
            self.drop(trial)
