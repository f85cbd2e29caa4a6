"""Writes the winning configuration, with all that it takes to train it again, as YAML or JSON."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpo.config.reading import write_yaml
from hpo.errors import ConfigurationError
from hpo.store.results import StudyResults, TrialResult

HEADER = """\
# The best configuration of a search by hpo. `hyperparameters` holds the real learning rate. The score is that of
# the best of the trial's full evaluations: to train it elsewhere, keep the weights of the best one, not the last.
"""


def best_configuration(results: StudyResults) -> dict[str, Any]:
    """Return the winner of a study as plain values.

    Raises:
        NoResultError: no trial has completed.
    """
    winner = results.best
    study = results.configuration
    content: dict[str, Any] = {
        "study": results.name,
        "trial": winner.number,
        "metric": results.metric,
        "score": winner.score,
        "best_epoch": winner.best_epoch,
        "seed": winner.seed,
        "hyperparameters": dict(winner.configuration),
        "model": study["model"],
        "task": study["task"],
        "data": {**study["data"], "fingerprint": results.data_fingerprint},
        "study_seed": study["seed"],
        "evaluation": study["evaluation"],
        "measurements": dict(results.measurements),
        "versions": dict(results.versions),
    }
    if winner.number in results.test:
        content["test"] = dict(results.test[winner.number].values)
    return content


def to_yaml(content: Mapping[str, Any]) -> str:
    """Return a configuration as commented YAML."""
    return HEADER + write_yaml(content)


def to_json(content: Mapping[str, Any]) -> str:
    """Return a configuration as JSON."""
    return json.dumps(content, indent=2) + "\n"


FORMATS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {"yaml": to_yaml, "json": to_json}


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all.

    Raises:
        ConfigurationError: the folder is not there or cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.absolute().parent, delete=False) as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error.strerror}; name another place with --output.") from None


def trial_to_json(trial: TrialResult) -> dict[str, Any]:
    """Return a trial as plain values, for `--json`."""
    return {
        "trial": trial.number,
        "state": trial.state,
        "score": trial.score,
        "train_score": trial.train_score,
        "best_epoch": trial.best_epoch,
        "seconds": trial.seconds,
        "proposed_by": trial.proposed_by,
        "reason": trial.reason,
        "hyperparameters": dict(trial.configuration),
    }
