"""Whether a configuration, trained again, gives the score in its file; and what differs where it does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpo.config.differences import differences
from hpo.export.exported import Exported

IDLE = ("optuna:", "sqlalchemy:")
"""Recorded packages that have no part in a training."""
UNRECORDED = (
    "Nothing that is recorded differs. On a CPU the number is the same then, unless memory ran short in the search, "
    "the trial was trained on another machine than the study was begun on, or the pretrained weights have changed."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What came of training a configuration again."""

    expected: float
    score: float
    reproduced: bool
    differs: tuple[str, ...]
    """What is other than in the search, as `torch: 2.13.0 before, 2.14.0 now`."""
    sentence: str

    @property
    def to_the_last_bit(self) -> bool:
        """Whether the scores are one and the same number."""
        return self.score == self.expected


def differing(exported: Exported, now: Mapping[str, str]) -> tuple[str, ...]:
    """Return what of versions, device, threads and ranks is other `now`, where one process trains, than it was."""
    before, after = exported.versions | {"ranks": str(exported.ranks)}, {**now, "ranks": "1"}
    return tuple(phrase for phrase in differences(before, after) if not phrase.startswith(IDLE))


def compared(exported: Exported, score: float, differs: Sequence[str]) -> Reproduction:
    """Say whether `score` is the one in the file.

    To the last bit it is only on the same processor, with the same threads and versions. Elsewhere it is where it is
    no further from the file's score than half the confirmed score's interval is wide, or lies in that interval; where
    nothing was confirmed, no further than twice the standard deviation over seeds. Where neither is known it is not
    taken for reproduced.
    """
    expected, confirmed, noise = exported.score, exported.confirmed, exported.seed_noise
    why = f"What differs: {'; '.join(differs)}." if differs else UNRECORDED
    if score == expected:
        is_same, told = True, f"Reproduced to the last bit: {exported.metric} {score:.4f}."
    elif confirmed is not None:
        half = (confirmed.high - confirmed.low) / 2
        is_same = abs(score - expected) <= half or confirmed.low <= score <= confirmed.high
        near = f"half the confirmed score's interval, {half:.4f}, or in it, {confirmed.low:.4f} to {confirmed.high:.4f}"
        told = f"{_verb(is_same)}: {_numbers(exported, score)}, {_within(is_same)} {near}. {why}"
    elif noise:
        is_same = abs(score - expected) <= 2 * noise
        near = f"twice the seed noise, {2 * noise:.4f}"
        told = f"{_verb(is_same)}: {_numbers(exported, score)}, {_within(is_same)} {near}. {why}"
    else:
        is_same = False
        told = (
            f"It cannot be told whether it is reproduced: {_numbers(exported, score)}, and how much seeds move the "
            f"score is not known; hpo confirm tells. {why}"
        )
    return Reproduction(expected=expected, score=score, reproduced=is_same, differs=tuple(differs), sentence=told)


def _verb(is_same: bool) -> str:
    return "Reproduced, though not to the last bit" if is_same else "Not reproduced"


def _within(is_same: bool) -> str:
    return "within" if is_same else "not within"


def _numbers(exported: Exported, score: float) -> str:
    return f"{exported.metric} is {score:.6f}, in the file {exported.score:.6f}"
