"""Writes the winning configuration, with all that it takes to train it again, as YAML or JSON."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpo.config.reading import parse_yaml, write_yaml
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
        "validation": dict(winner.validation.values) if winner.validation else {},
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


def default_output(study: str) -> Path:
    """Return `best.yaml`, or a name of the study's own where that holds the winner of another study."""
    path = Path("best.yaml")
    try:
        other = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, ConfigurationError):
        return path
    mine = not isinstance(other, dict) or other.get("study", study) == study
    return path if mine else Path(f"best-{study}.yaml")


def check_writable(path: Path) -> None:
    """Refuse, before a night of work, a place that `write_text` could not write to.

    Raises:
        ConfigurationError: it is a folder, or is in a folder that is not there or cannot be written.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        wrong = "it is a folder" if path.is_dir() else f"the folder {folder} is not there or cannot be written"
        raise ConfigurationError(f"Cannot write {path}: {wrong}; name another place with --output.")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all; a link stays one, and a pipe or a device is written into.

    Raises:
        ConfigurationError: the folder is not there or cannot be written.
    """
    check_writable(path)
    path = path.resolve()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error.strerror}; name another place with --output.") from None
    finally:
        part.unlink(missing_ok=True)


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
