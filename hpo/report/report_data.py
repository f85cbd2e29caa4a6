"""Report data: everything that the store has on a study, read once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from hpo.messages import Scores, Slice
from hpo.metrics.metric import mean_scores
from hpo.store.database import Database
from hpo.store.results import StudyHistory, StudyResults, TrialResult, read_history, read_search
from hpo.store.status import StudyStatus, read_status
from hpo.verdict.findings import Interval, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialScores:
    """Scores of one trial, from its most reliable evaluation."""

    trial: int
    source: str
    """Scored rows in words that follow "on": `the test split`, `the rows of the confirmation, mean of 5 seeds`."""
    scores: Scores
    slices: Sequence[Slice] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """A study, as read from its store."""

    results: StudyResults
    state: StudyStatus
    history: StudyHistory
    verdict: Verdict | None
    """The verdict; None if nothing was confirmed."""
    audit: str | None
    """Sentence of the pruner's audit; None if it pruned nothing."""
    advice: tuple[str, ...]
    """Sentences of advice on the next search."""
    led_by: str | None
    """The process that leads the study now; None if its search is not running."""

    @property
    def recommended(self) -> TrialResult | None:
        """The trial to take: by the verdict, or else the best of the search; None if no trial has completed."""
        if self.verdict is not None:
            return self.results.trained(self.verdict.recommended)
        return self.results.best if self.results.leaderboard else None

    @property
    def in_folds(self) -> bool:
        """True if a trial is scored on folds, one after another, which are its rungs."""
        return self.results.configuration["evaluation"].get("folds") is not None

    @property
    def will_confirm(self) -> bool:
        """True if the search is still running and ends with a confirmation."""
        asked = self.results.configuration.get("confirmation", {})
        return self.led_by is not None and bool(asked.get("finalists"))

    @property
    def baselines(self) -> list[tuple[str, float, Interval | None]]:
        """Name, score and interval of each baseline; the interval is None if nothing was confirmed."""
        if self.verdict is not None and self.verdict.baselines:
            return [(one.name, one.score, one.interval) for one in self.verdict.baselines]
        return [(name, one.scores.objective, None) for name, one in self.results.baselines.items()]

    @property
    def recommended_scores(self) -> TrialScores | None:
        """Scores of the trial to take: on the test split, or in the confirmation, or else in the search."""
        trial = self.recommended
        return None if trial is None else trial_scores(self.results, trial, self.verdict)


def read_report_data(database: Database, name: str | None = None) -> ReportData:
    """Read a study.

    Args:
        database: the store.
        name: name of the study; None for the only one of the store.

    Raises:
        ConfigurationError: no such study, several if none was named, or one that confirms another.
        NoResultError: there is no study yet.
        StoreError: a study that hpo did not make.
    """
    from hpo.store.leases import leader_of
    from hpo.verdict.advice import advice
    from hpo.verdict.judgement import verdict_on
    from hpo.verdict.pruning_audit import audit_of_pruning

    results = read_search(database, name)
    audit = audit_of_pruning(results)
    state = read_status(database, results.name)
    return ReportData(
        results=results,
        state=state,
        history=read_history(database, results.name),
        verdict=verdict_on(results),
        audit=audit.sentence if audit else None,
        advice=advice(results),
        led_by=None if state.lease is None else leader_of(state.lease),
    )


def trial_scores(results: StudyResults, trial: TrialResult, verdict: Verdict | None = None) -> TrialScores | None:
    """Return the scores of `trial` from its most reliable evaluation; None if it was never scored."""
    number = trial.number
    if first := next((test.held_out for test in results.test if test.trial == number), None):
        return TrialScores(trial=number, source="the test split", scores=first.scores, slices=first.slices)
    runs = sorted((run for run in results.confirmation if run.confirms == number), key=lambda run: run.trial)
    if not runs:
        if trial.validation is None:
            return None
        return TrialScores(trial=number, source="validation, in the search", scores=trial.validation)
    confirmed = verdict.by_trial.get(number) if verdict else None
    held_out = [run.held_out for run in runs[confirmed.left_out if confirmed else 0 :]]
    scores = _mean_scores([one.scores for one in held_out])
    seeds = f"mean of {len(held_out)} seeds" if len(held_out) > 1 else "one seed"
    corrected = ""
    if confirmed is not None and confirmed.score != scores.objective:
        scores = replace(scores, values={**scores.values, scores.metric: confirmed.score})
        corrected = f"; of these {scores.metric} alone is corrected for selection bias"
    return TrialScores(
        trial=number,
        source=f"the rows of the confirmation, {seeds}{corrected}",
        scores=scores,
        slices=_mean_slices([one.slices for one in held_out]),
    )


def _mean_scores(several: Sequence[Scores]) -> Scores:
    """Return the mean of scores on the same rows, which count once, and the sum of their confusion matrices."""
    mean, first = mean_scores(several), several[0]
    per_class = {label: {**row, "support": first.per_class[label]["support"]} for label, row in mean.per_class.items()}
    return replace(mean, rows=first.rows, per_class=per_class)


def _mean_slices(several: Sequence[Sequence[Slice]]) -> list[Slice]:
    scores: dict[tuple[str, str], list[float]] = {}
    for one in (one for slices in several for one in slices):
        scores.setdefault((one.by, one.name), []).append(one.score)
    return [replace(one, score=fmean(scores[one.by, one.name])) for one in several[0]]
