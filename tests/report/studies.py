"""Report data of studies made by hand, without a store."""

from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from hpo.config.loading import load_config
from hpo.messages import HeldOutEvaluation, Scores, Slice, Standing
from hpo.report.report_data import ReportData
from hpo.store.results import ConfirmingRun, Evaluation, StudyHistory, StudyResults, TestEvaluation, TrialResult
from hpo.store.status import StudyStatus
from hpo.verdict.findings import BaselineScore, Confirmed, Difference, Interval, Verdict

BEGUN = 1_767_290_400.0
LABELS = ("no", "yes")
STATES = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}


def scores(objective: float, labels: Sequence[str] = LABELS, *, one_class: bool = False) -> Scores:
    """Return scores on 30 texts of each label, all of them taken for the first where `one_class`."""
    size = len(labels)
    right = [[30 if guess == (0 if one_class else true) else 0 for guess in range(size)] for true in range(size)]
    row = {"precision": objective, "recall": objective, "f1": objective, "support": 30.0}
    return Scores(
        metric="macro_f1",
        values={"macro_f1": objective, "accuracy": objective, "loss": 1 - objective},
        rows=30 * size,
        per_class=dict.fromkeys(labels, row),
        confusion=tuple(map(tuple, right)),
    )


def trial(
    number: int, score: float | None = None, *, state: str = "COMPLETE", rate: float | None = None, **rest: Any
) -> TrialResult:
    """Return a trial; of two neighbours one is trained with momentum, which only then has `momentum`."""
    heavy = number % 2 == 1
    values: dict[str, Any] = {
        "optimizer": "momentum" if heavy else "adamw",
        "learning_rate": rate or 10.0 ** -(5 - number % 4),
        "momentum": 0.9 - number / 1000 if heavy else None,
        "batch_size": 16,
    }
    fields: dict[str, Any] = {
        "number": number, "state": state, "ending": STATES.get(state), "score": score, "train_score": score,
        "validation": None if score is None else scores(score), "best_epoch": 2.0, "rung": 1000, "seconds": 90.0,
        "device": "cpu", "ended_at": BEGUN + 600 * (number + 1) if STATES.get(state) else None,
        "seed": 7 + number, "proposed_by": "default" if number == 0 else "tpe", "reason": "", "configuration": values,
        "parameters": {name: values[name] for name in ("optimizer", "learning_rate", "momentum")[: 2 + heavy]},
    }  # fmt: skip
    return TrialResult(**fields | rest)


def several(number: int) -> list[TrialResult]:
    """Return so many completed trials, no two with the same score."""
    return [trial(place, 0.6 + 0.3 * ((place * 7) % number) / number) for place in range(number)]


def held_out(objective: float, *slices: Slice, labels: Sequence[str] = LABELS) -> HeldOutEvaluation:
    return HeldOutEvaluation(scores=scores(objective, labels), deviations=(), slices=slices)


def confirming(of: int, objective: float, *slices: Slice, seed: int = 1) -> ConfirmingRun:
    return ConfirmingRun(
        trial=seed, confirms=of, seed=seed, held_out=held_out(objective, *slices), validation=scores(objective),
        train=None, epoch=2.0, seconds=100.0,
    )  # fmt: skip


def look_at_test(of: int, objective: float, *slices: Slice) -> TestEvaluation:
    return TestEvaluation(trial=of, held_out=held_out(objective, *slices), read_at=BEGUN + 90_000)


def verdict(winner: int = 3) -> Verdict:
    """Return a verdict on the default, trial 0, and on `winner`, which is better."""
    best = Confirmed(
        trial=winner, is_default=False, scores=(0.9, 0.92), score=0.91, interval=Interval(low=0.89, high=0.93),
        search_score=0.95, seconds=100.0,
    )  # fmt: skip
    default = Confirmed(
        trial=0, is_default=True, scores=(0.8, 0.82), score=0.81, interval=Interval(low=0.79, high=0.83),
        search_score=0.8, seconds=100.0,
    )  # fmt: skip
    interval = Interval(low=0.06, high=0.14)
    lead = Difference(trial=winner, against="the default", against_trial=0, difference=0.1, interval=interval)
    return Verdict(
        metric="macro_f1", rows=60, unseen=True, selection_bias=0.0, seed_noise=0.01, confirmed=(best, default),
        baselines=(BaselineScore(name="majority class", score=0.4, interval=Interval(low=0.35, high=0.45)),),
        differences=(lead,), best_of_search=0.95, winner=winner, recommended=winner,
        sentences=(f"Take trial {winner}: it is better than the default.", "It was confirmed with 2 seeds."),
    )  # fmt: skip


def report_data(trials: Sequence[TrialResult], **changes: Any) -> ReportData:
    """Return the data of a study with these trials, each evaluated four times; `changes` by field of any part."""
    configuration = load_config(
        values={"study": "by hand", "model": {"name": "none"}, "data": {"train": "none.csv", "group_column": "source"}}
    ).model_dump(mode="json", exclude={"store", "space", "notify"})
    standing = Standing(completed=len(trials), pruned=0, failed=0, best=None)
    parts: dict[type, dict[str, Any]] = {
        StudyResults: {
            "name": "by hand", "configuration": configuration, "data_fingerprint": "f1f1", "versions": {"hpo": "1"},
            "measurements": {}, "metric": "macro_f1", "trials": tuple(trials), "confirmation": (),
            "confirmed_on_unseen": False, "audited": frozenset(), "space": {}, "baselines": {}, "test": (),
        },
        StudyStatus: {
            "name": "by hand", "metric": "macro_f1", "now": BEGUN + 86_400, "lease": None, "standing": standing,
            "running": (), "waiting": (), "device_seconds": 5400.0, "run_begun": None, "run_ended": None, "events": (),
        },
        StudyHistory: {
            "begun_at": BEGUN if trials else None,
            "evaluations": tuple(one for each in trials for one in curve(each)),
            "completed": frozen([each for each in trials if each.state == "COMPLETE"]),
        },
        ReportData: {"verdict": None, "audit": None, "advice": (), "led_by": None},
    }  # fmt: skip
    for fields in parts.values():
        fields |= {name: changes.pop(name) for name in fields.keys() & changes.keys()}
    assert not changes, changes
    return ReportData(
        results=StudyResults(**parts[StudyResults]),
        state=StudyStatus(**parts[StudyStatus]),
        history=StudyHistory(**parts[StudyHistory]),
        **parts[ReportData],
    )


def curve(of: TrialResult) -> list[Evaluation]:
    """Return four evaluations up to the trial's score; two where it was given up, none where it failed."""
    reached = {"COMPLETE": 4, "PRUNED": 2, "RUNNING": 1}.get(of.state, 0)
    return [
        Evaluation(
            trial=of.number, attempt=1, rung=250 * place, full=place == 4, epoch=place / 2, examples_seen=100 * place,
            learning_rate=1e-4, train_loss=0.5, score=(of.score or 0.0) * (0.6 + place / 10), seconds=20.0 * place,
            reported_at=BEGUN + 60 * of.number,
        )
        for place in range(1, reached + 1)
    ]  # fmt: skip


def frozen(trials: Sequence[TrialResult]) -> tuple[FrozenTrial, ...]:
    """Return trials as Optuna has them; a hyperparameter is from among the values that they have of it."""
    made = []
    for one in trials:
        distributions = {name: drawn_from(trials, name) for name in one.parameters}
        made.append(create_trial(params=dict(one.parameters), distributions=distributions, value=one.score))
    return tuple(made)


def drawn_from(trials: Sequence[TrialResult], name: str) -> BaseDistribution:
    values = [one.parameters[name] for one in trials if name in one.parameters]
    if all(isinstance(value, float) for value in values):
        return FloatDistribution(min(values), max(values), log=name == "learning_rate")
    return CategoricalDistribution(tuple(dict.fromkeys(values)))
