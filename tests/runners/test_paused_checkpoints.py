"""Checkpoints of trials that the pruner `promotion` has paused: removed once the trial is pruned."""

from pathlib import Path

from optuna.trial import TrialState

from hpo.files.checkpoints import trial_folder
from hpo.messages import Assignment, Ending
from hpo.runners.dispatch import Dispatch
from tests.runners.test_dispatch import Seen, replayed
from tests.search.scripted import plain_trials


class WithCheckpoints(Seen):
    """One that writes a checkpoint for each trial that begins."""

    def __init__(self, files: Path) -> None:
        super().__init__()
        self.files = files

    def assigned(self, assignment: Assignment) -> None:
        super().assigned(assignment)
        folder = trial_folder(self.files, assignment.trial)
        folder.mkdir(exist_ok=True)
        (folder / "checkpoint-a.pt").touch()


def test_checkpoints_of_trials_outranked_while_they_were_paused_are_removed(sqlite_url: str, tmp_path: Path) -> None:
    search, budget = {"pruner": "promotion"}, {"trials": 60}
    with replayed(sqlite_url, search=search, budget=budget, evaluation={"first_rung": 62}) as one:
        seen = WithCheckpoints(tmp_path)
        Dispatch(
            one.coordinator, one.pool, seen, one.stop, files=tmp_path,
            clock=one.clock, ticks=one.clock, listens_seconds=60.0,
        ).run()  # fmt: skip
    newest = {outcome.trial: outcome.ending for outcome in seen.outcomes}
    trials = plain_trials(sqlite_url)
    assert any(trial.state == TrialState.PRUNED and newest[trial.number] is Ending.PAUSED for trial in trials)
    waiting = {trial.number for trial in trials if trial.state == TrialState.WAITING}
    assert {path.name for path in tmp_path.glob("trial-*")} == {f"trial-{number:04d}" for number in waiting}
