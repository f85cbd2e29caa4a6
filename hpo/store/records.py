"""Records of a study: what the store holds beside Optuna's own picture, as values."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.engine import RowMapping

from hpo.errors import StudyMismatchError
from hpo.messages import SEMANTICS, SEMANTICS_KEY, HeldOutEvaluation, Report, Scores

AUDIT_EVENT = "audited"
BASELINE_EVENT = "baseline"
TEST_EVENT = "test_read"
_READING = TypeAdapter(HeldOutEvaluation)


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
    """Seconds after its machine was started."""
    machine: str | None
    """What its process number is good for: see `leases.machine_id`."""
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
    micro_batch_size: int | None
    ended: bool
    confirms: int | None = None
    """The trial of the search that it confirms; None of a search's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """How an attempt at a trial ended."""

    attempt: int
    worker: str
    ending: str | None
    """None where it never did: whoever led the study died with it."""
    seen: int
    """Examples seen at its newest evaluation; 0 where there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far an attempt came."""

    trial: int
    rung: int
    seconds: float
    """Of training and evaluation, to there."""
    configuration: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of a study's log."""

    number: int
    kind: str
    trial: int | None
    detail: Mapping[str, Any]


def scores_to_json(scores: Scores) -> str:
    """Return scores as JSON that `scores_from_json` reads back equal."""
    return json.dumps(asdict(scores))


def scores_from_json(text: str) -> Scores:
    """Return the scores that `scores_to_json` wrote."""
    content = json.loads(text)
    content["confusion"] = tuple(tuple(row) for row in content["confusion"])
    return Scores(**content)


def held_out_to_json(reading: HeldOutEvaluation) -> str:
    """Return a reading as JSON that `held_out_from_json` reads back equal."""
    return json.dumps(asdict(reading))


def held_out_from_json(text: str) -> HeldOutEvaluation:
    """Return the reading that `held_out_to_json` wrote."""
    return _READING.validate_json(text)


def read_attempt(row: RowMapping | None) -> AttemptRecord | None:
    """Return a row of attempts as a value."""
    if row is None:
        return None
    return AttemptRecord(
        trial=row["trial"], attempt=row["attempt"], configuration=json.loads(row["configuration"]),
        seed=row["seed"], score_to_beat=row["score_to_beat"], micro_batch_size=row["rows_at_once"],
        ended=row["ended_at"] is not None, confirms=row["confirms"],
    )  # fmt: skip


def read_report(row: RowMapping) -> Report:
    """Return a row of evaluations as it was reported, but for whether it might decide."""
    names = (
        "trial", "attempt", "rung", "step", "epoch", "examples_seen", "learning_rate", "train_loss", "seconds",
        "peak_memory_bytes",
    )  # fmt: skip
    return Report(
        **{name: row[name] for name in names},
        full=row["is_full"],
        decides=False,
        validation=scores_from_json(row["validation_scores"]),
        train=scores_from_json(row["train_scores"]) if row["train_scores"] else None,
        held_out=held_out_from_json(row["reading"]) if row["reading"] else None,
    )


def refuse_other_semantics(name: str, versions: Mapping[str, str], confirms: str | None = None) -> None:
    """Raise StudyMismatchError if a study's trials were trained by an hpo under which they score otherwise.

    Args:
        name: the study.
        versions: that are recorded with it.
        confirms: the study whose trials its runs confirm; None for one that searches.
    """
    if int(versions.get(SEMANTICS_KEY, 1)) == SEMANTICS:
        return
    begun = "was begun by another version of hpo, under which the same configuration scores a little otherwise, so new"
    if confirms is not None:
        raise StudyMismatchError(
            f"The confirmation of {confirms!r} {begun} runs would not compare. hpo best, report and export work with "
            f"what it gave; to confirm anew, delete its runs first: hpo studies delete {shlex.quote(name)}"
        )
    raise StudyMismatchError(
        f"The study {name!r} {begun} trials would not compare. hpo best, report and export work with it, and hpo "
        "confirm unless it had begun; to search on, start a new study with --study NAME. Nothing was changed."
    )
