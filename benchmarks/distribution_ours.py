"""Searches over the runners `processes` and `ray_tune`, with workers that train nothing and note when they would."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from chaos_material import TIMED, Timed, study_in
from distribution_notes import Asked, Measured, Watch, note
from transformers.utils.logging import disable_progress_bar

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Assignment, Ending, Outcome
from hpo.runners import run as runner
from hpo.runners.processes.launcher import open_processes
from hpo.runners.ray.setup import set_up_ray
from hpo.runners.worker_pool import WorkerPool

MORE_THAN_THERE_IS_TIME_FOR = 10_000


def searched(asked: Asked, *, name: Literal["processes", "ray_tune"]) -> Measured:
    """Search until that is measured."""
    disable_progress_bar()
    watch = Watch(asked)
    config = study_in(
        asked.folder,
        space={"epochs": {"value": 2}},
        search={"sampler": "tpe"},
        evaluation={"rungs": asked.reports},
        compute={"runner": name, "workers": asked.workers, "ray_address": asked.cluster},
        budget={"trials": MORE_THAN_THERE_IS_TIME_FOR},
        confirmation={"finalists": 0, "audit": 0},
    )
    files = runner.files_folder(config)
    files.mkdir(parents=True)
    (files / TIMED).write_text(json.dumps({"seconds": asked.seconds, "notes": str(watch.notes)}))
    with patch.dict(runner.OPENERS, {name: OPENERS[name]}), watch:
        runner.run(config, stop=watch.over)
    return watch.measured()


class Noting(Timed):
    """A worker whose trials take a fixed time, and note when they train."""

    def __init__(self, files: Path) -> None:
        super().__init__(files)
        self._notes = Path(json.loads((files / TIMED).read_text())["notes"])

    def admit(self, assignment: Assignment) -> None:
        """Begin the clock."""
        super().admit(assignment)
        note(self._notes, "began")

    def close(self) -> None:
        """Leave nothing behind."""

    def _ended(self, ending: Ending) -> Outcome:
        note(self._notes, "ended")
        return super()._ended(ending)


def open_noting(config: StudyConfig, splits: Splits, files: Path, **_: Any) -> Noting:
    """Open a worker whose trials note when they train."""
    return Noting(files)


def processes(config: StudyConfig, splits: Splits, files: Path, *ends: Any) -> AbstractContextManager[WorkerPool]:
    """Open worker processes of such workers."""
    return open_processes(config, splits, files, *ends, opener=open_noting)  # type: ignore[arg-type]


def ray_tune(config: StudyConfig, splits: Splits, files: Path, *ends: Any) -> AbstractContextManager[WorkerPool]:
    """Open cluster workers of this kind."""
    set_up_ray()
    # As for any search: Ray reads when it is imported what was set up.
    from hpo.runners.ray.tune_launcher import open_ray_tune

    return open_ray_tune(config, splits, files, *ends, opener=open_noting)  # type: ignore[arg-type]


OPENERS = {"processes": processes, "ray_tune": ray_tune}
