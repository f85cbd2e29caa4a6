"""The benchmarks of settings on learning curves: extrapolation at rungs, and what patience uses and keeps."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runners.test_curve_tables import deberta, made_up, written

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import curve_settings
import patience
import rung_metric


def test_a_power_law_and_a_line_are_extrapolated_to_the_end() -> None:
    shares = np.array(rung_metric.SHARES) / 1000

    assert rung_metric.power_law(shares, 0.9 - 0.1 * shares**-0.5) == pytest.approx(0.8)
    assert rung_metric.line(shares, 0.9 + 0.1 * np.log(shares)) == pytest.approx(0.9)
    assert rung_metric.power_law(shares[:1], np.array([0.4])) == 0.4


def test_trials_whose_order_never_changes_correlate_fully_by_their_scores(tmp_path: Path) -> None:
    """The better a trial, the more it gains: extrapolation keeps the order too."""
    curves = [[[step, 0.4 + good * step / 100] for step in range(5, 101, 5)] for good in (0.1, 0.2, 0.3)]
    records = [
        deberta(1e-5, 0.0, learning_curves={"matched": curve, "mismatched": curve}) for curve in curves
    ]  # fmt: skip

    found = rung_metric.correlations(rung_metric.published(written(tmp_path / "table.jsonl.gz", records)))

    assert found == {share: dict.fromkeys(("score", "line", "power law"), pytest.approx(1.0)) for share in found}
    assert tuple(found) == rung_metric.SHARES


def test_patience_uses_a_part_of_the_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "RATES", (1.0,))
    monkeypatch.setattr(patience, "AVERAGE_TRIALS", 8)
    command = ["patience.py", "--curves", str(made_up(tmp_path)), "--patience", "1", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", command)

    patience.main()

    lines = capsys.readouterr().out.splitlines()
    used = [float(line[14:].split(" / ")[0]) for line in lines[1:]]
    assert [line[:14].strip() for line in lines] == ["", "no patience", "patience 1"]
    assert 0 < used[1] < used[0] <= 1.1
    assert "keeps 1.00 [1.00, 1.00]" in lines[1]


def test_a_setting_is_compared_with_what_is_shipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (tmp_path / f"opda-{name}.jsonl.gz" for name in ("one", "other"))
    took = {(one, ()): 4.0, (one, ("a=1",)): 8.0, (other, ()): 9.0, (other, ("a=1",)): 1.0}
    monkeypatch.setattr(curve_settings, "mapped", lambda tasks, _: [took[task.path, task.overrides] for task in tasks])
    command = ["curve_settings.py", "--curves", str(one), str(other), "--seeds", "2", "a=1"]
    monkeypatch.setattr(sys, "argv", command)

    curve_settings.main()

    _, *lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-6:] == ["4.00", "9.00", "6.00", "1.00", "[1.00,", "1.00]"]
    assert lines[1].split() == ["a=1", "8.00", "1.00", "2.83", "0.47", "[0.47,", "0.47]"]
    assert lines[2] == "best without one: a=1, there 2.00 of what is shipped"
    assert lines[3] == "best without other: what is shipped, there 1.00 of what is shipped"
