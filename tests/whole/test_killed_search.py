"""A search whose process is killed in the middle of a trial: started again, it ends as if nothing had happened."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from hpo.config.study_file import StudyConfig
from hpo.files import disk
from hpo.files.checkpoints import Checkpoints
from hpo.messages import Ending
from hpo.runners.run import run
from hpo.training.run import Run
from tests.whole.test_run import Recorder, with_changes


def search_until(config: StudyConfig, steps: int) -> None:
    """Search with a checkpoint before every step, and die as by `kill -9` after so many steps in all."""
    Checkpoints.is_due = lambda *_: True  # type: ignore[method-assign,assignment]
    advance, left = Run.advance, steps

    def deadly(training: Run, answer: object = None) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(training, answer)  # type: ignore[arg-type]

    Run.advance = deadly  # type: ignore[method-assign,assignment]
    run(config)


def search_until_written(config: StudyConfig, files: int) -> None:
    """Search with a checkpoint before every step, and die with so many files written and another half written."""
    Checkpoints.is_due = lambda *_: True  # type: ignore[method-assign,assignment]
    flush, left = disk.flush, files

    def deadly(path: Path) -> None:
        nonlocal left
        left -= path.suffix == ".part"
        if left < 0:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    disk.flush = deadly
    run(config)


def killed(config: StudyConfig, count: int, search: Callable[[StudyConfig, int], None] = search_until) -> None:
    process = multiprocessing.get_context("spawn").Process(target=search, args=(config, count))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("folds", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_twice_it_ends_as_if_it_had_not_been(folds: int | None, config: StudyConfig, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    uncut = with_changes(config, evaluation={"folds": folds})
    expected = run(uncut)
    cut = with_changes(uncut, store={"url": url})
    killed(cut, 13)
    killed(cut, 20)
    seen = Recorder()
    found = run(cut, seen)
    assert [trial.score for trial in found.trials] == [trial.score for trial in expected.trials]
    assert [trial.validation for trial in found.trials] == [trial.validation for trial in expected.trials]
    assert [trial.best_epoch for trial in found.trials] == [trial.best_epoch for trial in expected.trials]
    assert found.test == expected.test
    assert seen.outcomes[0].resumed_examples > 0
    assert {outcome.ending for outcome in seen.outcomes} == {Ending.COMPLETED}
    study = optuna.load_study(study_name=config.study, storage=url)
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}
    assert not list(tmp_path.glob("killed-files/**/checkpoint-*"))


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written_it_ends_as_if_it_had_not_been(
    config: StudyConfig, tmp_path: Path
) -> None:
    expected = run(config)
    cut = with_changes(config, store={"url": f"sqlite:///{tmp_path / 'killed.db'}", "keep_weights": 1})
    killed(cut, 7, search_until_written)
    assert len(list(tmp_path.glob("killed-files/**/*.part"))) == 1
    seen = Recorder()
    found = run(cut, seen)
    assert seen.outcomes[0].resumed_examples > 0
    assert [trial.score for trial in found.trials] == [trial.score for trial in expected.trials]
    assert found.test == expected.test
    assert [path.name for path in tmp_path.glob("killed-files/**/trial-*/*")] == ["weights-2.safetensors"]
