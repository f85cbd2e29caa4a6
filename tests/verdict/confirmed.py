"""Studies and their confirmation made by hand: what a store would give of them, without one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.messages import HeldOutEvaluation, Scores
from hpo.store.results import ConfirmingRun, StudyResults, TrialResult
from hpo.verdict.comparison import Runs

ROWS = 400
STATES = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}


def scores(objective: float, metric: str = "macro_f1") -> Scores:
    return Scores(metric=metric, values={metric: objective}, rows=ROWS)


def held_out(
    objective: float, deviations: Sequence[float] = (0.001, -0.001), metric: str = "macro_f1", of_a_unit: float = 0.0
) -> HeldOutEvaluation:
    return HeldOutEvaluation(scores=scores(objective, metric), deviations=tuple(deviations), of_a_unit=of_a_unit)


def trial(number: int, score: float | None, *, state: str = "COMPLETE", **rest: Any) -> TrialResult:
    """Return a trial; the first is the default. Those with an equal `batch_size` are of one configuration."""
    values = {"batch_size": 16 + number} | rest.pop("configuration", {})
    fields: dict[str, Any] = {
        "number": number, "state": state, "ending": STATES.get(state), "score": score, "train_score": None,
        "validation": None if score is None else scores(score), "best_epoch": 2.0, "rung": 1000, "seconds": 90.0,
        "seed": number, "proposed_by": "default" if number == 0 else "tpe", "reason": "", "configuration": values,
        "parameters": dict(values),
    }  # fmt: skip
    return TrialResult(**fields | rest)


def confirming(of: int, objectives: Sequence[float], *, seconds: float = 100.0, **rest: Any) -> list[ConfirmingRun]:
    """Return the runs of one trial under seeds 0, 1, ..., scored alike on the rows of the search."""
    return [
        ConfirmingRun(
            trial=100 * (seed + 1) + of, confirms=of, seed=seed, held_out=held_out(objective, **rest),
            validation=scores(objective), train=None, epoch=2.0, seconds=seconds,
        )
        for seed, objective in enumerate(objectives)
    ]  # fmt: skip


def study(trials: Sequence[TrialResult], *runs: Sequence[ConfirmingRun], **rest: Any) -> StudyResults:
    fields: dict[str, Any] = {
        "name": "by hand", "configuration": {}, "data_fingerprint": "f1", "versions": {}, "measurements": {},
        "metric": "macro_f1", "trials": tuple(trials), "confirmation": tuple(one for of in runs for one in of),
        "confirmed_on_unseen": True, "audited": frozenset(), "baselines": {}, "test": (), "space": {},
    }  # fmt: skip
    return StudyResults(**fields | rest)


def runs(objectives: Sequence[float], deviations: Sequence[Sequence[float]] | None = None, **rest: Any) -> Runs:
    """Return runs of which rows make no difference, unless `deviations` says more."""
    apart = np.zeros((len(objectives), 4)) if deviations is None else np.array(deviations)
    return Runs(np.array(objectives, dtype=np.float64), apart, **rest)


def answered(correct: NDArray[np.bool_]) -> Runs:
    """Return runs by which rows they answer correctly, shape (seeds, rows); their score is accuracy."""
    rows = correct.shape[1]
    share = correct.mean(axis=1, keepdims=True)
    # The exact jackknife of a mean that leaves out one row at a time.
    return Runs(share[:, 0], (share - correct) / (rows * (rows - 1)) ** 0.5)


def numbered(values: Mapping[str, Sequence[Any]], scored: Sequence[float], **rest: Sequence[Any]) -> list[TrialResult]:
    """Return completed trials with these values of hyperparameters and other fields."""
    made = []
    for place, score in enumerate(scored):
        chosen = {name: of[place] for name, of in values.items()}
        more = {name: of[place] for name, of in rest.items()}
        made.append(trial(place, score, configuration=chosen, parameters=chosen, **more))
    return made
