"""What the store holds of a study beside Optuna's own picture, as values."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.engine import RowMapping

from hpo.messages import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """What a study was made from; a later start must match it."""

    configuration: Mapping[str, Any]
    space: Mapping[str, Any]
    data_fingerprint: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """Who leads a study; times are seconds since 1970 by the database's clock."""

    fence: int
    host: str
    pid: int
    process_started: float
    acquired_at: float
    expires_at: float
    now: float
    """The database's clock when this was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt at a trial, as it was assigned."""

    trial: int
    attempt: int
    configuration: Mapping[str, Any]
    seed: int
    score_to_beat: float | None
    ended: bool


def scores_to_json(scores: Scores) -> str:
    """Return scores as JSON that `scores_from_json` reads back equal."""
    return json.dumps(asdict(scores))


def scores_from_json(text: str) -> Scores:
    """Return the scores that `scores_to_json` wrote."""
    content = json.loads(text)
    content["confusion"] = tuple(tuple(row) for row in content["confusion"])
    return Scores(**content)


def read_attempt(row: RowMapping | None) -> AttemptRecord | None:
    """Return a row of attempts as a value."""
    if row is None:
        return None
    return AttemptRecord(
        trial=row["trial"], attempt=row["attempt"], configuration=json.loads(row["configuration"]),
        seed=row["seed"], score_to_beat=row["score_to_beat"], ended=row["ended_at"] is not None,
    )  # fmt: skip
