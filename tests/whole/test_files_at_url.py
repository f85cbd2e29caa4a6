"""Whole searches whose files lie in an object store end as those do whose files lie in a folder."""

from pathlib import Path
from threading import Event

import pytest

from hpo.config.study_file import StudyConfig
from hpo.errors import StoreError
from hpo.messages import Decision, Outcome, Report
from hpo.runners.callbacks import SearchCallback
from hpo.runners.check.check import check
from hpo.runners.run import files_folder, run
from tests.command_line import Hpo
from tests.object_store import ObjectStore, names_at
from tests.whole.test_run import with_changes


@pytest.fixture
def url(store: ObjectStore) -> str:
    return store.fresh_url()


def kept_at(url: str) -> list[str]:
    return [name for name in names_at(url) if "trial-" in name]


@pytest.mark.parametrize("runner", ["inline", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_search_ends_as_it_does_with_a_folder(runner: str, config: StudyConfig, url: str, tmp_path: Path) -> None:
    compute = {"runner": runner, "workers": 1 if runner == "processes" else None}
    expected = run(with_changes(config, store={"url": f"sqlite:///{tmp_path / 'other.db'}", "keep_weights": 1}))
    sent = with_changes(config, store={"files": url, "keep_weights": 1}, compute=compute)
    found = run(sent)
    assert [trial.score for trial in found.trials] == [trial.score for trial in expected.trials]
    assert found.test == expected.test
    assert kept_at(url) == [f"tiny/trial-{found.best.number:04d}/weights.safetensors"]
    assert not list(files_folder(sent).rglob("checkpoint-*"))
    assert len(list(files_folder(sent).rglob("*.safetensors"))) <= 1


@pytest.mark.slow
def test_a_search_that_was_cut_goes_on_from_another_machines_folder(
    config: StudyConfig, url: str, tmp_path: Path
) -> None:
    """Its store is moved, and nothing of its folder."""
    undisturbed = run(with_changes(config, store={"url": f"sqlite:///{tmp_path / 'other.db'}"}))
    stop = Event()

    class Stopper(SearchCallback):
        def reported(self, report: Report, decision: Decision) -> None:
            if report.trial == 1:
                stop.set()

    run(with_changes(config, store={"files": url}), Stopper(), stop)
    assert {"tiny/trial-0000/weights.safetensors", "tiny/trial-0001/checkpoint-a.pt"} <= set(kept_at(url))
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "hpo.db").rename(moved / "hpo.db")
    resumed: dict[int, int] = {}

    class Recorder(SearchCallback):
        def ended(self, outcome: Outcome) -> None:
            resumed[outcome.trial] = outcome.resumed_examples

    whole = run(with_changes(config, store={"url": f"sqlite:///{moved / 'hpo.db'}", "files": url}), Recorder())
    assert resumed[1] > 0
    assert [trial.score for trial in whole.trials] == [trial.score for trial in undisturbed.trials]
    assert whole.test == undisturbed.test
    assert kept_at(url) == []


def test_a_store_that_cannot_be_written_is_refused_before_any_trial(config: StudyConfig, store: ObjectStore) -> None:
    nowhere = with_changes(config, store={"files": f"s3://nobucket/x?{store.options}"})
    for begin in (run, check):
        with pytest.raises(StoreError, match=r"cannot be written to s3://nobucket/x/tiny: .*bucket does not exist"):
            begin(nowhere)


def test_a_check_leaves_nothing_at_the_url(config: StudyConfig, url: str) -> None:
    check(with_changes(config, store={"files": url}))
    assert names_at(url) == []


@pytest.mark.slow
def test_a_study_is_deleted_with_what_it_has_at_the_url(
    hpo: Hpo, config: StudyConfig, url: str, tmp_path: Path
) -> None:
    kept = with_changes(config, store={"files": url, "keep_weights": 2})
    run(kept)
    run(kept.model_copy(update={"study": "other"}))
    answer = hpo("studies", "delete", "tiny", "--yes", "--store", kept.store.url)
    assert answer.code == 0, answer.err
    assert f"Deleted {url.partition('?')[0]}/tiny." in answer.out
    assert {name.partition("/")[0] for name in names_at(url)} == {"other"}
    assert not files_folder(kept).exists()


def test_what_cannot_be_deleted_at_the_url_is_said(hpo: Hpo, config: StudyConfig, store: ObjectStore, url: str) -> None:
    kept = with_changes(config, store={"files": url, "keep_weights": 1}, budget={"trials": 1})
    run(kept)
    store.stop()
    try:
        answer = hpo("studies", "delete", "tiny", "--yes", "--store", kept.store.url)
    finally:
        store.start()
    assert answer.code == 3
    assert "/tiny could not be deleted: AWS Error NETWORK_CONNECTION" in answer.err
    assert answer.err.count("Traceback") == 0
    assert f"Deleted {files_folder(kept)}." in answer.out, "no second answer would be given: the study is gone"


def test_a_study_whose_url_is_of_no_use_here_is_not_deleted(
    hpo: Hpo, config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = with_changes(config, store={"files": f"file://{tmp_path}/far", "keep_weights": 1}, budget={"trials": 1})
    run(kept)

    def missing(name: str) -> None:
        raise ImportError(name)

    delete = ("studies", "delete", "tiny", "--yes", "--store", kept.store.url)
    with monkeypatch.context() as patched:
        patched.setattr("hpo.files.remote.import_module", missing)
        answer = hpo(*delete)
    assert (answer.code, "needs pyarrow" in answer.err, answer.out) == (2, True, "")
    assert files_folder(kept).exists()
    assert hpo(*delete).code == 0
    assert not (tmp_path / "far" / "tiny").exists()
