"""Who takes part in a confirmation: the best few configurations of a search, and its default."""

import json

from hpo.config.study_file import ConfirmationConfig
from hpo.store.results import StudyResults, TrialResult
from hpo.verdict.race import Race, finalists_for, most_runs

LEAST_RUNS = 4
"""Two configurations under two seeds: less tells nothing of how far seeds are apart."""


def race_of(results: StudyResults, config: ConfirmationConfig, trials: int | None) -> Race | None:
    """Return the race that a search ends with; None where nothing but the default has completed, or none is asked for.

    Args:
        results: of the search.
        config: how many finalists and seeds, and the share of the budget.
        trials: of the budget; None where it is one of time.
    """
    default = results.default
    whole = most_runs(config.finalists, config.seeds)
    runs = min(whole, config.runs or (whole if trials is None else max(LEAST_RUNS, int(config.share * trials))))
    rivals = distinct(results)[: finalists_for(runs, config.finalists, config.seeds)]
    if not rivals:
        return None
    takes_part = default is not None and default.state == "COMPLETE"
    return Race(
        finalists=tuple(trial.number for trial in rivals),
        default=default.number if default is not None and takes_part else None,
        runs=min(runs, most_runs(len(rivals), config.seeds)),
        seeds=config.seeds,
    )


def distinct(results: StudyResults) -> list[TrialResult]:
    """Return completed trials, from best to worst: each configuration once, without the default's.

    What differs in the seed alone, where the space names it, is the same configuration: all get fresh ones.
    """
    default = [] if results.default is None else [results.default]
    first: dict[str, TrialResult] = {}
    for trial in (*default, *results.leaderboard):
        first.setdefault(json.dumps(dict(trial.configuration) | {"seed": None}, sort_keys=True), trial)
    return [trial for trial in first.values() if trial not in default]
