"""Reproduction: the score of a configuration that was trained again, compared with the one in its file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpo.config.parsing import differences
from hpo.export.exported_file import Exported

IDLE = ("optuna:", "sqlalchemy:")
"""Recorded packages that have no part in a training."""
UNRECORDED = (
    "On a CPU the number is the same then, unless memory ran short in the search, the trial was trained on another "
    "machine than the study was begun on, or the pretrained weights have changed."
)
ON_GPU = "Nothing that is recorded differs, but a GPU need not add in the same order again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """The score of a configuration that was trained again."""

    expected: float
    score: float
    reproduced: bool
    differs: tuple[str, ...]
    """Differences from the search, as `torch: 2.13.0 before, 2.14.0 now`."""
    sentence: str

    @property
    def to_the_last_bit(self) -> bool:
        """Whether the scores are one and the same number."""
        return self.score == self.expected


def differences_from_search(exported: Exported, now: Mapping[str, str]) -> tuple[str, ...]:
    """Return which of versions, device, threads and ranks differ `now` from the search; one process trains now."""
    before, after = exported.versions | {"ranks": str(exported.ranks)}, {**now, "ranks": "1"}
    return tuple(phrase for phrase in differences(before, after) if not phrase.startswith(IDLE))


def reproduction_of(exported: Exported, score: float, differs: Sequence[str]) -> Reproduction:
    """Compare `score` with the one in the file.

    On a CPU it is equal to the last bit where all that is recorded is equal. Elsewhere rounding differs, which soon
    amounts to another seed: the score is reproduced within the 95% interval of another seed on the same rows, or
    between that and the file's score. Where the interval is unknown, it is not reproduced.
    """
    expected, near, numbers = exported.score, exported.another_seed, _numbers(exported, score)
    exact = not differs and exported.versions.get("device", "").startswith("cpu")
    why = f"What differs: {'; '.join(differs)}." if differs else ON_GPU
    is_same = score == expected
    if is_same:
        told = f"Reproduced to the last bit: {exported.metric} {score:.4f}."
    elif exact:
        told = f"Not reproduced: {numbers}, though nothing that is recorded differs. {UNRECORDED}"
    elif near is not None:
        is_same = min(near.low, expected) <= score <= max(near.high, expected)
        verb = "Reproduced, though not to the last bit" if is_same else "Not reproduced"
        where = f"{'where' if is_same else 'not where'} 95% of runs under another seed lie"
        told = f"{verb}: {numbers}, {where}, {near.low:.4f} to {near.high:.4f}. {why}"
    else:
        told = (
            f"It cannot be told whether it is reproduced: {numbers}, and how much seeds move the score is not known; "
            f"hpo confirm tells. {why}"
        )
    return Reproduction(expected=expected, score=score, reproduced=is_same, differs=tuple(differs), sentence=told)


def _numbers(exported: Exported, score: float) -> str:
    return f"{exported.metric} is {score:.6f}, in the file {exported.score:.6f}"
