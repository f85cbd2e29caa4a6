"""What a report is made from: everything that the store knows of a study, read once."""

from dataclasses import dataclass, replace
from statistics import fmean

from hpo.errors import NoResultError
from hpo.messages import Scores, Slice
from hpo.metrics.averaging import mean_scores
from hpo.store.database import Database
from hpo.store.history import StudyHistory, read_history
from hpo.store.results import StudyResults, TrialResult, read_search
from hpo.store.status import StudyStatus, read_status
from hpo.verdict.findings import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How one configuration did, on the rows that say most about it."""

    trial: int
    source: str
    """In words, to stand after "on": `the test split`, `the rows of the confirmation, mean of 5 seeds`."""
    scores: Scores
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """A study, as read from its store."""

    results: StudyResults
    state: StudyStatus
    course: StudyHistory
    verdict: Verdict | None
    """None where nothing was confirmed."""
    audit: str | None
    """What the pruner may have cost, in a sentence; None where it gave nothing up."""
    advice: tuple[str, ...]
    """In sentences."""
    led_by: str | None
    """Who leads the study now; None where its search does not run."""

    @property
    def taken(self) -> TrialResult | None:
        """The trial to take: by the verdict, or else the best of the search; None where no trial has completed."""
        if self.verdict is not None:
            recommended = self.verdict.recommended
            return next((trial for trial in self.results.trials if trial.number == recommended), None)
        try:
            return self.results.best
        except NoResultError:
            return None

    @property
    def in_folds(self) -> bool:
        """Whether a trial is scored on folds, one after the other, and its rungs are these."""
        return self.results.configuration["evaluation"].get("folds") is not None

    @property
    def will_confirm(self) -> bool:
        """Whether the search still runs and trains the best again at its end."""
        asked = self.results.configuration.get("confirmation", {})
        return self.led_by is not None and bool(asked.get("finalists"))

    @property
    def judged(self) -> Judged | None:
        """How the trial to take did: on the test split, or when it was confirmed, or in the search."""
        return judged(self.results, self.taken, self.verdict)


def gathered(database: Database, name: str | None = None) -> ReportData:
    """Read a study.

    Args:
        database: the store.
        name: the study; None for the only one of the store.

    Raises:
        ConfigurationError: no such study, several where none was named, or one that confirms another.
        NoResultError: there is no study yet.
        StoreError: a study that hpo did not make.
    """
    from hpo.search.leases import leader_of
    from hpo.verdict.advice import advice
    from hpo.verdict.audit import audit_of_pruning
    from hpo.verdict.judgement import verdict_on

    results = read_search(database, name)
    audit = audit_of_pruning(results)
    state = read_status(database, results.name)
    return ReportData(
        results=results,
        state=state,
        course=read_history(database, results.name),
        verdict=verdict_on(results),
        audit=audit.sentence if audit else None,
        advice=advice(results),
        led_by=None if state.lease is None else leader_of(state.lease),
    )


def judged(results: StudyResults, trial: TrialResult | None, verdict: Verdict | None = None) -> Judged | None:
    """Return how `trial` did on the rows that say most about it; None where it was never scored."""
    if trial is None:
        return None
    number = trial.number
    if first_look := next((one.held_out for one in results.test if one.trial == number), None):
        return Judged(trial=number, source="the test split", scores=first_look.scores, slices=first_look.slices)
    runs = [run for run in results.confirmation if run.confirms == number]
    if runs:
        one = verdict.by_trial.get(number) if verdict else None
        counted = sorted(runs, key=lambda run: run.trial)[one.left_out if one else 0 :]
        held_out_evaluations = [run.held_out for run in counted]
        seeds = f"mean of {len(held_out_evaluations)} seeds" if len(held_out_evaluations) > 1 else "one seed"
        scores = _mean_scores([held_out.scores for held_out in held_out_evaluations])
        corrected = ""
        if one is not None and one.score != scores.objective:
            scores = replace(scores, values={**scores.values, scores.metric: one.score})
            corrected = f"; of these {scores.metric} alone is corrected for luck"
        return Judged(
            trial=number,
            source=f"the rows of the confirmation, {seeds}{corrected}",
            scores=scores,
            slices=_mean_slices([held_out.slices for held_out in held_out_evaluations]),
        )
    if trial.validation is None:
        return None
    return Judged(trial=number, source="validation, in the search", scores=trial.validation, slices=())


def _mean_scores(several: list[Scores]) -> Scores:
    """Return the mean of scores on the same rows, which are counted once; of confusions the sum."""
    mean, once = mean_scores(several), several[0]
    per_class = {label: {**row, "support": once.per_class[label]["support"]} for label, row in mean.per_class.items()}
    return replace(mean, rows=once.rows, per_class=per_class)


def _mean_slices(several: list[tuple[Slice, ...]]) -> tuple[Slice, ...]:
    scores: dict[tuple[str, str], list[float]] = {}
    for slices in several:
        for one in slices:
            scores.setdefault((one.by, one.name), []).append(one.score)
    return tuple(
        Slice(by=one.by, name=one.name, rows=one.rows, score=fmean(scores[one.by, one.name])) for one in several[0]
    )
