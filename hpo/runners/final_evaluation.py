"""Final evaluation: the recommended configuration is scored on the test split, once.

It uses the kept weights; if they are gone, the trial is trained again.
"""

import math
import time
from dataclasses import dataclass
from threading import Event

from hpo.messages import Action, Assignment, Ending, Outcome, Progress, Report
from hpo.runners.callbacks import SearchCallback
from hpo.search.coordinator import Coordinator
from hpo.training.worker import Worker, train


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalEvaluation:
    """Final evaluation of a study that has a test split."""

    coordinator: Coordinator
    """Of the search."""
    lead: Worker
    callback: SearchCallback
    stop: Event

    def run(self, assignment: Assignment, report: Report) -> None:
        """Score a trial's weights on the test split, unless that was done before.

        Args:
            assignment: a trial of the search, or one of its confirmation runs.
            report: its best evaluation.
        """
        trial = assignment.trial if assignment.confirms is None else assignment.confirms
        if self.coordinator.test_was_read(trial):
            return
        if not self.lead.has_weights(report):
            self.callback.note(
                f"The weights of trial {trial} are no longer here; it is trained again for the test split."
            )
            outcome = self._trained_again(assignment)
            if outcome.ending is not Ending.COMPLETED:
                self._note_failure(f"trial {trial} {outcome.ending}. {outcome.reason}")
                return
            if outcome.best is None or not self.lead.has_weights(outcome.best):
                self._note_failure(f"there was no room for the weights of trial {trial}.")
                return
        held_out = self.lead.test_evaluation(assignment)
        self.coordinator.record_test(trial, held_out)
        self.callback.tested(trial, held_out.scores)

    def _note_failure(self, why: str) -> None:
        self.callback.note(f"The test split was not read: {why} The same command reads it later.")

    def _trained_again(self, assignment: Assignment) -> Outcome:
        until = self.coordinator.limits.deadline or math.inf

        def answer(message: Report | Progress) -> Action:
            if isinstance(message, Progress):
                self.callback.progressed(message)
            return Action.PAUSE if self.stop.is_set() or time.time() > until else Action.CONTINUE

        return train(self.lead, assignment, answer)
