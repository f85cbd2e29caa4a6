"""Pruning decisions: after an evaluation a trial continues, is paused, or is stopped; some are audited instead."""

from collections.abc import Callable
from dataclasses import dataclass, field

from optuna.trial import TrialState

from hpo.config.study_file import StudyConfig
from hpo.messages import Action, Report
from hpo.search.pruners import PLACES_PAUSED, PromotionPruner, build_pruner
from hpo.search.samplers import SEEDS, derived_seed
from hpo.store.study_store import StudyStore
from hpo.store.tables import AUDIT_EVENT


@dataclass(slots=True)
class Pruning:
    """Pruning decisions of one study, within the store's open transaction."""

    store: StudyStore
    config: StudyConfig
    prune_waiting: Callable[[int, str], None]
    """Prunes a waiting trial, with a reason."""
    would_resume: Callable[[int], bool]
    """Returns true if a trial, were it paused now, would be the next to begin."""
    _promotion: PromotionPruner | None = field(init=False)

    def __post_init__(self) -> None:
        pruner = build_pruner(self.config)
        self._promotion = pruner if isinstance(pruner, PromotionPruner) else None

    def judge(self, report: Report) -> Action:
        """Record the score of an evaluation with Optuna, and return whether its trial continues."""
        promotion, trials = self._promotion, self.store.trials
        reached = trials.get(report.trial).last_step
        # A trial that was resumed without its checkpoint repeats rungs, at which it would be paused again and again.
        repeats = promotion is not None and reached is not None and report.rung <= reached
        trials.set_intermediate_value(report.trial, report.rung, report.validation.objective)
        if not report.decides or repeats or not trials.should_prune(report.trial, enqueued=promotion is not None):
            return Action.CONTINUE
        pauses = promotion is not None and promotion.pauses(trials.get(report.trial), trials.get_all())
        if self._is_audited(report.trial, begins=not pauses):
            return Action.CONTINUE
        if pauses and self.would_resume(report.trial):
            # As if it were paused and resumed.
            self.prune_outranked()
            return Action.CONTINUE
        return Action.PAUSE if pauses else Action.STOP

    def prune_outranked(self) -> None:
        """Prune the paused trials that are too many places below the promoted ones to stay paused."""
        self._prune_held_back("Outranked at its rung while it was paused.", places=PLACES_PAUSED)

    def prune_paused(self, *, at_least: int) -> None:
        """Prune the paused trials that are not promoted, but the best `at_least` of each rung."""
        self._prune_held_back("Not promoted before the search ended.", at_least=at_least)

    def _prune_held_back(self, reason: str, *, places: int = 0, at_least: int = 0) -> None:
        if self._promotion is not None:
            waiting, trials = self.store.trials.get_all(TrialState.WAITING), self.store.trials.get_all()
            for trial in self._promotion.held_back(waiting, trials, places=places, at_least=at_least):
                self.prune_waiting(trial.number, reason)

    def _is_audited(self, trial: int, *, begins: bool) -> bool:
        """Return true if a trial is trained to its end although it is pruned, to measure the cost of pruning.

        Args:
            trial: its number.
            begins: true if it is pruned now, and not only paused; the audit of a trial that is drawn then begins.
        """
        drawn = derived_seed(self.config.seed, "audit", trial) < self.config.confirmation.audit * SEEDS
        audited = drawn and self.store.events.has(AUDIT_EVENT, trial)
        if drawn and begins and not audited:
            self.store.events.add(AUDIT_EVENT, trial)
        return audited or (drawn and begins)
