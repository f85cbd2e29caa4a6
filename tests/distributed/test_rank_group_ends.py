"""The end of a rank group: closed, or lost."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.distributed.rank_group import ALONE, RankGroupLost, RankInfo, free_address, join
from hpo.messages import Ending
from hpo.search.pruners import fold_milestones
from hpo.training.worker import open_worker
from tests.distributed.rank_groups import PATIENCE, inject, opened_ranks
from tests.models import tiny_assignment, tiny_hyperparameters, tiny_study, trained


@pytest.mark.slow
def test_three_ranks_train_folds_as_one_does_and_end_where_one_dies(
    tiny_bert: Path, texts: Path, tmp_path: Path
) -> None:
    config = tiny_study(tiny_bert, texts, evaluation={"rung_rows": 12, "folds": 3})
    chosen = tiny_hyperparameters(dropout=0.0, learning_rate=1e-3, batch_size=16, epochs=1)
    assignment = tiny_assignment(chosen, milestones=fold_milestones(3), maximum_passes=1)
    one = open_worker(config, load_splits(config.data, config.seed, folds=3), tmp_path / "one")
    wanted, _ = trained(one, assignment)
    with opened_ranks(config, tmp_path / "three", tmp_path, ranks=3) as (three, others):
        found, outcome = trained(three, assignment)
        inject(tmp_path, 2, "death")
        with pytest.raises(RankGroupLost, match="A rank is gone, or does not answer"):
            trained(three, replace(assignment, trial=1))
        for other in others:
            other.join(PATIENCE)
        assert [other.exitcode for other in others] == [3, -9]
    assert outcome.ending is Ending.COMPLETED
    assert [report.rung for report in found] == [report.rung for report in wanted]
    for report, expected in zip(found, wanted, strict=True):
        assert report.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
        assert report.validation.values["loss"] == pytest.approx(expected.validation.values["loss"], rel=1e-4)


@pytest.mark.slow
def test_where_rank_0_leaves_without_a_word_the_other_ends(study: StudyConfig, tmp_path: Path) -> None:
    with opened_ranks(study, tmp_path / "files", tmp_path) as (worker, [other]):
        trained(worker, tiny_assignment())
        torch.distributed.destroy_process_group()
        other.join(PATIENCE)
        assert other.exitcode == 3


def test_an_address_at_which_nobody_can_listen_is_a_lost_group() -> None:
    rank_info = RankInfo(rank=0, ranks=2, address=free_address())
    host, _, port = rank_info.address.partition(":")
    with socket.create_server((host, int(port))), pytest.raises(RankGroupLost, match="in use"):
        join(rank_info, torch.device("cpu"), 1.0)


def test_a_group_whose_others_do_not_come_is_lost() -> None:
    with pytest.raises(RankGroupLost):
        join(RankInfo(rank=0, ranks=2, address=free_address()), torch.device("cpu"), 0.2)


def test_one_rank_is_no_group() -> None:
    cpu = torch.device("cpu")
    assert join(None, cpu, 1.0) is ALONE
    assert join(RankInfo(rank=0, ranks=1, address="nowhere:1"), cpu, 1.0) is ALONE
