"""The benchmark of real learning curves, on tables made up here: look-up, what is handed over, and what is compared."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import curves
from curve_peers import PEERS, Handed, judged_at, search
from curve_tables import EPOCH_SECONDS, Table, TableSource, handed_over, read_table

from hpo.messages import Assignment, Ending, Milestone
from hpo.space.search_space import SearchSpace

MILESTONES = (Milestone(rung=250, full=True), Milestone(rung=500, full=True))


def deberta(rate: float, final: float, **changed: Any) -> dict[str, Any]:
    """A configuration whose matched score is best in the middle of its training, by a little."""
    curve = [[50, final + 0.01], [100, final]]
    return {
        "num_train_epochs": 2, "train_batch_size": 32, "learning_rate": rate, "warmup_steps": 6136, "cls_drop_out": 0.1,
        "learning_curves": {"matched": curve, "mismatched": [[step, score - 0.1] for step, score in curve]},
    } | changed  # fmt: skip


def imagenet(rate: float, scores: list[float], *, diverged: bool = False) -> dict[str, Any]:
    return {
        "nan_train_loss": diverged, "epochs": 40, "batch_size": 256, "lr": rate, "lr_peak_epoch": 8, "momentum": 0.9,
        "weight_decay": 1e-5, "label_smoothing": 0.1,
        "learning_curve": [{"time": 10.0 * (at + 1), "top_1": score} for at, score in enumerate(scores)],
    }  # fmt: skip


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def made_up(folder: Path) -> Path:
    """Nine rates, of which the fifth scores best, each with 1 and with 4 epochs."""
    rates = [10 ** -(3 + 3 * step / 8) for step in range(9)]
    return written(
        folder / "made-up.jsonl.gz",
        [
            deberta(rate, 0.85 - 0.05 * abs(at - 4) + epochs / 1000, num_train_epochs=epochs)
            for at, rate in enumerate(rates)
            for epochs in (1, 4)
        ],
    )


def curve_of(table: Table, **values: Any) -> Any:
    space = SearchSpace.from_mapping(table.search_space().to_mapping(), "made up")
    hyperparameters = space.hyperparameters(space.default_values() | values)
    return TableSource(table).curve(
        Assignment(
            trial=0, attempt=1, hyperparameters=hyperparameters, seed=0, milestones=MILESTONES, maximum_passes=4.0
        )
    )  # fmt: skip


def test_the_nearest_row_answers_over_its_own_share_of_the_trial(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.jsonl.gz", [deberta(1e-5, 0.8), deberta(1e-3, 0.4)]))

    curve = curve_of(table, learning_rate=9e-6, epochs=3)

    assert [(point.rung, point.score) for point in curve.points] == [(250, pytest.approx(0.81)), (500, 0.8)]
    # Its seconds are those of its own passes; the warm-up is half of the first epoch, so a sixth of three.
    assert [point.seconds for point in curve.points] == [1.5 * EPOCH_SECONDS, 3 * EPOCH_SECONDS]
    assert curve.hyperparameters.warmup_ratio == pytest.approx(table.rows[0].values["warmup_ratio"] / 3)
    assert (curve.ending, curve.seconds) == (Ending.COMPLETED, 3 * EPOCH_SECONDS)


def test_what_is_handed_over_is_chosen_by_one_score_and_judged_by_the_other(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.jsonl.gz", [deberta(1e-5, 0.8)]))
    assert handed_over(table.rows[0], MILESTONES) == (pytest.approx(0.81), pytest.approx(0.71))
    assert handed_over(table.turned_round().rows[0], MILESTONES) == (pytest.approx(0.71), pytest.approx(0.81))


def test_what_became_nan_ends_in_the_epoch_after_its_last_evaluation(tmp_path: Path) -> None:
    records = [imagenet(1.0, [0.1] * 40), imagenet(40.0, [0.05] * 19, diverged=True), imagenet(50.0, [], diverged=True)]
    table = read_table(written(tmp_path / "t.jsonl.gz", records))

    late, at_once = (curve_of(table, learning_rate=rate, epochs=40) for rate in (40.0, 50.0))

    # The first milestone is in the middle, after 20 epochs, when it had become NaN.
    assert (late.ending, late.points, late.seconds) == (Ending.DIVERGED, (), pytest.approx(200.0))
    assert (at_once.ending, at_once.points, at_once.seconds) == (Ending.DIVERGED, (), pytest.approx(10.0))
    assert table.best == 0.1


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_begins_with_the_default_and_keeps_to_its_time(tmp_path: Path, peer: Any, workers: int) -> None:
    table = read_table(made_up(tmp_path))
    default = table.search_space().default_values()["epochs"] * EPOCH_SECONDS

    handed = search(peer, table, seed=0, workers=workers, seconds=12 * EPOCH_SECONDS)

    assert min(one.moment for one in handed) <= default
    assert max(one.moment for one in handed) <= 12 * EPOCH_SECONDS
    assert judged_at([Handed(5.0, 0.7), Handed(9.0, 0.8)], 8.9) == 0.7


def test_the_table_is_printed_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    command = ["curves.py", "--curves", str(made_up(tmp_path)), "--seeds", "2", "--workers", "2"]
    monkeypatch.setattr(curves, "AVERAGE_TRIALS", 4)
    monkeypatch.setattr(sys, "argv", command)

    failed = curves.main(curves.parsed())

    printed = capsys.readouterr().out
    assert [name for name in (curves.SHIPPED, *(peer.name for peer in PEERS)) if name not in printed] == []
    assert ("BAD:" in printed) is bool(failed)


def test_worse_than_the_best_by_more_than_two_standard_errors_is_bad(capsys: pytest.CaptureFixture[str]) -> None:
    """The second peer is the best at all moments; ours differs from it by 0, 1, 3 and -3 standard errors."""
    noise = [0.01, -0.01, 0.01, -0.01]
    error = 2 * 0.01 / 3**0.5 / 2
    ours = [(0.5, *(0.5 + apart * error + one for apart in (1, 3, -3))) for one in noise]
    found = {curves.SHIPPED: ours, "first": [(0.9,) * 4] * 4, "second": [(0.5,) * 4] * 4}

    assert curves.verdict(found) == 1
    assert capsys.readouterr().out.split("\n")[1].split() == ["good", "good", "BAD", "good"]


def test_without_tables_it_says_that_it_is_skipped(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["curves.py"])
    assert curves.main(curves.parsed()) == 0
    assert capsys.readouterr().out.startswith("skipped: no tables of learning curves; give --curves FILE")
