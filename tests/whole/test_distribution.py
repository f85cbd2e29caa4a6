"""The benchmark of how busy workers are kept: what it counts, and that its short form is as it should be."""

import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from distribution import is_good, told  # noqa: E402
from distribution_notes import Asked, Measured, Span, Watch, note, spans_in, trained_share  # noqa: E402


def span(process: int, began: float, ended: float = inf) -> Span:
    return Span(process=process, began=began, ended=ended)


def measured(share: float, begun: int = 32) -> Measured:
    return Measured(begun=begun, start_up=1.0, share=share, trials=7, longest=5.0)


def asked(folder: Path, workers: int, patience: float) -> Asked:
    return Asked(folder=folder, cluster="", workers=workers, seconds=600.0, reports=4, steady=0.01, patience=patience)


def test_training_counts_only_between_the_two_moments_and_against_all_workers() -> None:
    spans = [span(1, 0.0, 4.0), span(1, 5.0), span(2, 9.0, 11.0), span(2, 30.0, 31.0)]
    # Of 2 to 10: two seconds of the first, five of the one without an end, one of the third.
    assert trained_share(spans, 2, 2.0, 10.0) == pytest.approx(8 / 16)
    assert trained_share(spans, 4, 2.0, 10.0) == pytest.approx(8 / 32)


def test_what_was_noted_is_read_back_and_a_trial_in_training_has_no_end(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    assert spans_in(notes) == []
    for what in ("began", "ended", "began"):
        note(notes, what)
    first, second = spans_in(notes)
    assert first.began <= first.ended <= second.began < second.ended == inf
    assert first.process == second.process


def test_a_trial_whose_process_died_counts_for_no_more_than_its_length() -> None:
    assert span(1, 3.0).at_most(5.0) == span(1, 3.0, 8.0)
    assert span(1, 3.0, 9.0).at_most(5.0) == span(1, 3.0, 9.0)


def test_the_steady_state_begins_when_all_workers_train_and_ends_the_search(tmp_path: Path) -> None:
    with Watch(asked(tmp_path, workers=2, patience=600)) as watch:
        noted_by_another_process(watch.notes)
        assert not watch.over.is_set()
        note(watch.notes, "began")
        assert watch.over.wait(60)
    found = watch.measured()
    assert (found.begun, found.trials) == (2, 0)
    assert found.share == pytest.approx(1.0)


def test_without_all_workers_it_begins_with_those_that_there_are(tmp_path: Path) -> None:
    with Watch(asked(tmp_path, workers=2, patience=0.01)) as watch:
        note(watch.notes, "began")
        assert watch.over.wait(60)
    assert watch.measured().begun <= 1


def test_a_search_that_fails_is_no_longer_watched(tmp_path: Path) -> None:
    watch = Watch(asked(tmp_path, workers=2, patience=600))
    with pytest.raises(ZeroDivisionError), watch:
        raise ZeroDivisionError
    assert watch.over.is_set()
    with pytest.raises(AssertionError):
        watch.measured()


def noted_by_another_process(notes: Path) -> None:
    command = f"from distribution_notes import note; from pathlib import Path; note(Path({str(notes)!r}), 'began')"
    subprocess.run([sys.executable, "-c", command], cwd=BENCHMARKS, check=True)


@pytest.mark.parametrize(
    ("way", "workers", "share", "good"),
    [
        ("processes", 2, 0.91, True),
        ("ray_tune", 8, 0.89, False),
        ("plain", 8, 0.30, True),
        ("ray_tune", 32, 0.60, True),
        ("ray_tune", 32, 0.50, False),
        ("processes", 32, 0.50, True),
    ],
)
def test_few_workers_are_held_to_a_share_and_many_to_plain_rays(
    way: str, workers: int, share: float, good: bool
) -> None:
    found = {"plain": measured(0.2), "plain_reusing": measured(0.55)}
    assert is_good(way, workers, found | {way: measured(share, begun=workers)}) is good


def test_workers_that_did_not_all_start_are_no_good_result() -> None:
    assert not is_good("ray_tune", 8, {"ray_tune": measured(0.99, begun=7)})
    assert "only 7 of 8" in told(measured(0.99, begun=7), 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_short_form_is_as_it_should_be() -> None:
    command = [sys.executable, str(BENCHMARKS / "distribution.py"), "--short"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("  good  ") == 2
