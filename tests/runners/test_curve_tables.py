"""The benchmark of real learning curves, on tables made up here: what is answered, handed over, and compared."""

import gzip
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import curves
from curve_peers import CLAIRVOYANT, PEERS, search
from curve_responses import Responses, ResponseSource, fit_table
from curve_tables import EPOCH_SECONDS, Table, read_table

from hpo.messages import Assignment, Ending, Milestone

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
    """48 rates, of which those about 3e-5 score best, with 1 to 4 epochs, and noise of 0.002."""
    rates = [10 ** -(3 + 3 * step / 47) for step in range(48)]
    noise = 0.002 * np.random.default_rng(0).standard_normal(48)
    return written(
        folder / "made-up.jsonl.gz",
        [deberta(rate, smooth(rate) + noise[at], num_train_epochs=1 + at % 4) for at, rate in enumerate(rates)],
    )


def smooth(rate: float) -> float:
    return 0.85 - 0.1 * math.log10(rate / 3e-5) ** 2


def responses_of(table: Table) -> Responses:
    return Responses(table, fit_table(table))


def assignment(responses: Responses, *, seed: int = 0, **values: Any) -> Assignment:
    space = responses.table.search_space()
    hyperparameters = space.hyperparameters(space.default_values() | values)
    return Assignment(
        trial=0, attempt=1, hyperparameters=hyperparameters, seed=seed, milestones=MILESTONES, maximum_passes=4.0
    )  # fmt: skip


def test_a_configuration_is_worth_the_smooth_mean_of_the_score_that_is_not_searched(tmp_path: Path) -> None:
    responses = responses_of(read_table(made_up(tmp_path)))
    usual = responses.table.search_space().default_values() | {"warmup_ratio": 0.5}

    for rate in (1e-5, 3e-5, 1e-4):
        worth = responses.worth(usual | {"learning_rate": rate})
        assert worth == pytest.approx(smooth(rate) - 0.1, abs=0.01)
    assert responses.best == pytest.approx(0.75, abs=0.004)
    assert responses.noise == pytest.approx(0.002, rel=0.5)


def test_trials_of_one_configuration_differ_by_the_residuals_of_five_neighbours(tmp_path: Path) -> None:
    responses = responses_of(read_table(made_up(tmp_path)))
    values = responses.table.search_space().default_values()

    ends = [responses.trained(values, seed).score(1.0) for seed in range(10)]

    assert ends[:5] == ends[5:]
    assert len({round(end, 9) for end in ends}) == 5
    assert np.ptp(ends) < 0.02


def test_a_replayed_curve_takes_as_long_as_its_own_passes_and_warms_up_in_its_first(tmp_path: Path) -> None:
    responses = responses_of(read_table(made_up(tmp_path)))

    curve = ResponseSource(responses).curve(assignment(responses, epochs=3, warmup_ratio=0.3))

    assert [point.seconds for point in curve.points] == pytest.approx([1.5 * EPOCH_SECONDS, 3 * EPOCH_SECONDS])
    assert (curve.ending, curve.seconds) == (Ending.COMPLETED, pytest.approx(3 * EPOCH_SECONDS))
    assert curve.hyperparameters.warmup_ratio == pytest.approx(0.1)


def test_a_trial_diverges_where_its_neighbour_did_in_the_epoch_after_its_last_evaluation(tmp_path: Path) -> None:
    fine = [imagenet(0.01 * (1 + at), [0.1 + at / 1000] * 40) for at in range(20)]
    gone = [imagenet(40.0 + at, [0.05] * 19, diverged=True) for at in range(5)]
    responses = responses_of(read_table(written(tmp_path / "t.jsonl.gz", fine + gone)))

    curve = ResponseSource(responses).curve(assignment(responses, learning_rate=42.0, epochs=40))

    # It had become NaN in the middle, after 20 epochs of 10 seconds, where the first milestone is.
    assert (curve.ending, curve.points, curve.seconds) == (Ending.DIVERGED, (), pytest.approx(200.0, rel=1e-3))


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("peer", [*PEERS, CLAIRVOYANT], ids=lambda peer: peer.name)
def test_a_peer_begins_with_the_default_and_keeps_to_its_time(tmp_path: Path, peer: Any, workers: int) -> None:
    responses = responses_of(read_table(made_up(tmp_path)))
    space = responses.table.search_space()

    handed = search(peer, responses, space, seed=0, workers=workers, seconds=12 * EPOCH_SECONDS)

    assert min(one.moment for one in handed) <= space.default_values()["epochs"] * EPOCH_SECONDS
    assert max(one.moment for one in handed) <= 12 * EPOCH_SECONDS
    first = search(peer, responses, space, seed=0, workers=1, seconds=12 * EPOCH_SECONDS, until=lambda _worth: True)
    assert [one.worth for one in first] == [responses.worth(space.default_values())]


def test_the_table_is_printed_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    command = ["curves.py", "--curves", str(made_up(tmp_path)), "--seeds", "4", "--workers", "2"]
    monkeypatch.setattr(curves, "AVERAGE_TRIALS", 4)
    monkeypatch.setattr(curves, "RATES", (1.0,))
    monkeypatch.setattr(curves.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(sys, "argv", command)

    failed = curves.main(curves.parsed())

    printed = capsys.readouterr().out
    assert [name for name in curves.METHODS if name not in printed] == []
    assert ("BAD:" in printed) is bool(failed)


def test_ours_is_compared_with_the_peer_that_is_best_on_the_other_half_of_the_seeds() -> None:
    """One peer is best on odd seeds and chosen for even ones, where ours takes half of its time; and a second so."""
    names = [peer.name for peer in curves.PEERS]
    logs = {name: [9.0] * 6 for name in names}
    logs[names[0]] = [1.0, 0.0] * 3
    logs[names[1]] = [0.0, 1.0] * 3
    logs[curves.SHIPPED] = [1.0 - math.log(2)] * 6

    assert curves.ratio_to_best(logs) == pytest.approx((0.5, 0.5, 0.5))


def test_without_tables_it_says_that_it_is_skipped(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["curves.py"])
    assert curves.main(curves.parsed()) == 0
    assert capsys.readouterr().out.startswith("skipped: no tables of learning curves; give --curves FILE")
