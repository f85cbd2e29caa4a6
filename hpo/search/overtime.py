"""Trials that begin although a forecast says that they will not end in time, since none has completed yet."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hpo.config.times import spoken
from hpo.messages import Ending, Outcome


@dataclass(slots=True)
class Overtime:
    """When these trials are paused, and what is told of them."""

    _until: dict[int, float] = field(default_factory=dict)
    """Trial -> when what was left of time and device hours is over, in seconds since 1970."""
    _notes: dict[str, None] = field(default_factory=dict)

    @property
    def until(self) -> Sequence[float]:
        """When such trials are to be paused, in seconds since 1970."""
        return tuple(self._until.values())

    def begun(self, trial: int, *, expected: float, left: float, at: float) -> None:
        """Take in that a trial begins; told twice, nothing changes.

        Args:
            trial: its number.
            expected: seconds that it will take.
            left: seconds that it may take.
            at: when it begins, in seconds since 1970.
        """
        if expected <= left:
            return
        self._until[trial] = at + left
        self._notes[
            f"Trial {trial} may not end in time: it is expected to take {spoken(expected)}, and {spoken(left)} are "
            "left. It begins all the same, since none has completed yet; if time runs out it is paused, and the next "
            "run goes on with it."
        ] = None

    def ended(self, outcome: Outcome) -> None:
        """Take in that an attempt has ended; the time of one that was paused is over for the others too."""
        if outcome.ending is not Ending.PAUSED:
            self._until.pop(outcome.trial, None)

    def taken_notes(self) -> Sequence[str]:
        """Return, once each, sentences for people."""
        notes, self._notes = tuple(self._notes), {}
        return notes
