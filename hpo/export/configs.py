"""Configuration export: a configuration with everything that is needed to train it again, as YAML or JSON."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import stdev
from typing import Any

from hpo.config.hyperparameters import ADDED_LATER, Hyperparameters
from hpo.config.parsing import parse_yaml, read_model, write_yaml
from hpo.config.study_file import StudyConfig
from hpo.data.readers.hub import HUB
from hpo.data.readers.locations import is_missing
from hpo.errors import ConfigurationError, NoResultError
from hpo.export.writing import begins_with
from hpo.search.pruners import trial_milestones
from hpo.space.search_space import SearchSpace
from hpo.store.results import StudyResults, TrialResult
from hpo.verdict.comparison import interval_of_test, under_another_seed
from hpo.verdict.findings import Interval, Verdict, verdict_to_plain

SCHEMA_VERSION = 1
"""Version of the keys of `study_to_plain`; raised when a key is removed or changes its meaning."""
MARK = "# One configuration of a search by hpo."
"""Start of every export in YAML."""
KIND = "hpo configuration"
JSON_MARK = f'{{\n  "kind": "{KIND}",'
"""Start of every export in JSON."""
HEADER = f"""\
{MARK} `hyperparameters` holds the real learning rate. `score` is that of the best of
# the trial's full evaluations, too high where the trial was chosen for it; `confirmed` is on fresh seeds. Keep the
# weights of the best evaluation, not the last:
#   hpo reproduce FILE                  does it give this score again?
#   hpo train FILE --output FOLDER      the model
"""
NO_CONFIRMATION = {"finalists": 0, "validation_share": 0.0}


def stored_verdict(results: StudyResults) -> Verdict | None:
    """Return the verdict on a study; None if nothing was confirmed."""
    if not results.confirmation:
        return None
    # Only where there is something to judge: it simulates, and takes its time.
    from hpo.verdict.judgement import verdict_on

    return verdict_on(results)


def digest_of(hyperparameters: Hyperparameters, seed: int) -> str:
    """Return SHA-256, hexadecimal, over the values of a configuration and its seed."""
    # Without what came later and changes nothing: the digest of a file that was written before stays what it was.
    fields = {
        name: value for name, value in hyperparameters.to_mapping().items() if (name, value) not in ADDED_LATER.items()
    }
    values = json.dumps([fields, seed], sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()


def configuration_of(results: StudyResults, verdict: Verdict | None, trial: int | None = None) -> dict[str, Any]:
    """Return a configuration of a study, with everything that is needed to train it again, as plain values.

    Args:
        results: the study.
        verdict: the verdict on it; None if nothing was confirmed.
        trial: number of the trial; None for the recommended one, or without a verdict the best of the search.

    Raises:
        NoResultError: no trial has completed, or the requested one has not.
        ConfigurationError: there is no such trial.
    """
    if trial is not None:
        chosen, chosen_by = _trained(results, trial), "user"
    elif verdict is not None:
        chosen, chosen_by = _trained(results, verdict.recommended), "verdict"
    else:
        chosen, chosen_by = results.best, "search"
    return {
        "kind": KIND,
        "study": results.name,
        "study_uid": results.uid,
        "trial": chosen.number,
        "chosen_by": chosen_by,
        "metric": results.metric,
        "score": chosen.score,
        "confirmed": _confirmed(verdict, chosen.number),
        "seed_noise": verdict.seed_noise if verdict else _noise_of_default(results),
        "verdict": verdict_to_plain(verdict) if verdict else None,
        "validation": dict(chosen.validation.values) if chosen.validation else {},
        **_test(results, chosen.number),
        "another_seed": _plain(under_another_seed(results, chosen)),
        "best_epoch": chosen.best_epoch,
        "seed": chosen.seed,
        "hyperparameters": dict(chosen.configuration),
        "digest": digest_of(Hyperparameters.model_validate(chosen.configuration), chosen.seed or 0),
        **_circumstances(results, chosen),
    }


def _circumstances(results: StudyResults, chosen: TrialResult) -> dict[str, Any]:
    """Return the settings of a trial's training: model, data, evaluations, precision, versions."""
    study = results.configuration
    # Another folder may use the export.
    sources = {name: _absolute(study["data"].get(name)) for name in ("train", "validation", "test")}
    config = read_model(StudyConfig, study, f"the study {results.name}")
    space = SearchSpace.from_mapping(results.space, f"of the study {results.name}")
    hyperparameters = Hyperparameters.model_validate(chosen.configuration)
    return {
        "model": {**study["model"], "name": _absolute(study["model"]["name"])},
        "task": study["task"],
        "data": {**study["data"], **sources, "fingerprint": results.data_fingerprint},
        "study_seed": study["seed"],
        "evaluation": study["evaluation"],
        # A study that is older than confirmation has kept no rows for it.
        "confirmation": study.get("confirmation", NO_CONFIRMATION),
        "milestones": [asdict(milestone) for milestone in trial_milestones(config, space, hyperparameters)],
        "maximum_passes": space.maximum_passes(),
        "ranks": config.compute.ranks_of_trial,
        "measurements": dict(results.measurements),
        "versions": dict(results.versions),
    }


def _absolute(source: str | None) -> str | None:
    """Return a path of this machine as an absolute one, and anything else as it is."""
    return source if source is None or source.lower().startswith(HUB) or is_missing(source) else os.path.abspath(source)


def _trained(results: StudyResults, number: int) -> TrialResult:
    found = next((trial for trial in results.trials if trial.number == number), None)
    if found is None:
        raise ConfigurationError(
            f"The study {results.name!r} has no trial {number}; its trials are 0 to {len(results.trials) - 1}."
        )
    if trained := results.trained(number):
        return trained
    why = f"is {found.state}, so it has no score to train towards"
    if not found.configuration:
        waits = found.state in ("WAITING", "RUNNING")
        why = "has not begun" if waits else "was not trained by hpo, which knows no configuration of it"
    raise NoResultError(
        f"Trial {number} of the study {results.name!r} {why}; name a completed one, as hpo best lists them."
    )


def _confirmed(verdict: Verdict | None, trial: int) -> dict[str, Any] | None:
    """Return the confirmed scores of a trial, on fresh seeds; None if it was not confirmed."""
    if verdict is None or (found := verdict.by_trial.get(trial)) is None:
        return None
    return {
        "score": found.score,
        "low": found.interval.low,
        "high": found.interval.high,
        "scores": list(found.scores),
        "rows": verdict.rows,
        "unseen": verdict.unseen,
    }


def _noise_of_default(results: StudyResults) -> float | None:
    """Return the standard deviation over the seeds of two trials of the default; None without two."""
    defaults = (trial for trial in results.leaderboard if trial.proposed_by == "default")
    scores = [trial.score for trial in defaults if trial.score is not None]
    return stdev(scores) or None if len(scores) > 1 else None


def _test(results: StudyResults, trial: int) -> dict[str, Any]:
    """Return the scores of a trial's first evaluation on the test split, with its interval."""
    found = next(((place, test) for place, test in enumerate(results.test, 1) if test.trial == trial), None)
    if found is None:
        return {"test": {}, "test_look": None}
    place, test = found
    sure = {"interval": _plain(interval_of_test(test)), "rows": test.held_out.scores.rows, "look": place}
    return {"test": dict(test.held_out.scores.values), "test_look": sure}


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)


def to_yaml(content: Mapping[str, Any]) -> str:
    """Return a configuration as commented YAML."""
    return HEADER + write_yaml(content)


def to_json(content: Mapping[str, Any]) -> str:
    """Return a configuration as JSON."""
    return json.dumps(content, indent=2) + "\n"


def default_output(study: str, uid: str) -> Path:
    """Return the first of `best.yaml`, `best-STUDY.yaml` and `best-STUDY-UID.yaml` that is free or of this study.

    Args:
        study: name of the study.
        uid: unique id of the study; empty before its start.
    """
    paths = [Path("best.yaml"), Path(f"best-{study}.yaml"), Path(f"best-{study}-{uid[:8]}.yaml")]
    return next((path for path in paths[:-1] if not os.path.lexists(path) or _holds(path, uid)), paths[-1])


def _holds(path: Path, uid: str) -> bool:
    """Return true if a file is an export of the study with this id."""
    try:
        if not path.is_file() or not begins_with(path, MARK):
            return False
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, ConfigurationError):
        return False
    return isinstance(content, dict) and content.get("study_uid") == uid


def study_to_plain(
    results: StudyResults, verdict: Verdict | None, *, output: Path | None = None, interrupted: bool = False
) -> dict[str, Any]:
    """Return the results of a study as plain values, as `--json` prints them and docs/json.md has them.

    Args:
        results: the study.
        verdict: the verdict on it; None if nothing was confirmed.
        output: file that the recommended configuration was written to.
        interrupted: true if the search was ended by a signal or a stop request.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "study": results.name,
        "metric": results.metric,
        "interrupted": interrupted,
        "best": configuration_of(results, verdict) if results.leaderboard else None,
        "best_unfinished": results.best_unfinished.number if results.best_unfinished else None,
        "output": None if output is None else str(output),
        "verdict": None if verdict is None else verdict_to_plain(verdict),
        "trials": [trial_to_json(trial) for trial in results.trials],
    }


def trial_to_json(trial: TrialResult) -> dict[str, Any]:
    """Return a trial as plain values, for `--json`."""
    return {
        "trial": trial.number,
        "state": trial.state,
        "score": trial.score,
        "train_score": trial.train_score,
        "validation": asdict(trial.validation) if trial.validation else None,
        "best_epoch": trial.best_epoch,
        "seconds": trial.seconds,
        "proposed_by": trial.proposed_by,
        "reason": trial.reason,
        "hyperparameters": dict(trial.configuration),
    }
