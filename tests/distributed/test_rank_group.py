"""Two real processes that train one trial give what one gives, and survive the faults of one."""

from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.distributed.rank_group import VALUE_BYTES
from hpo.files.weights import load_weights
from hpo.messages import Action, Ending, Outcome, Report, WorkerSettings
from hpo.model.randomness import dropout_seed
from hpo.training.run import Run
from hpo.training.worker import Worker, open_worker
from tests.distributed.rank_groups import PATIENCE, always_due, inject, opened_ranks
from tests.models import stepped, tiny_assignment, tiny_hyperparameters, tiny_study, trained, write_texts

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def odd_study(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """A study of 65 training examples: eight batches of eight, and one of a single row."""
    texts = write_texts(tmp_path_factory.mktemp("odd") / "texts.csv", rows=81)
    study = tiny_study(tiny_bert, texts)
    assert load_splits(study.data, study.seed).train.rows == 65
    return study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def pair(odd_study: StudyConfig, folder: Path) -> Iterator[tuple[Worker, list[SpawnProcess]]]:
    with opened_ranks(odd_study, folder / "files", folder) as (worker, others):
        yield worker, others
        # Closed in the middle of a trial, as when a search is told to end, it lets the others go.
        worker.admit(tiny_assignment())
        worker.advance()
        worker.close()
        others[0].join(PATIENCE)
        assert others[0].exitcode == 0


@pytest.fixture
def two(pair: tuple[Worker, list[SpawnProcess]], folder: Path) -> Iterator[Worker]:
    """The worker of two ranks. After the test both live, and train on as if nothing had been."""
    worker, others = pair
    inject(folder, 0, "nothing")
    yield worker
    inject(folder, 0, "nothing")
    assert others[0].is_alive()
    assert worker.idle


@pytest.fixture(scope="module")
def alone(odd_study: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return open_worker(odd_study, load_splits(odd_study.data, odd_study.seed), tmp_path_factory.mktemp("alone"))


def without_dropout(**values: object) -> dict[str, object]:
    return {"dropout": 0.0, "learning_rate": 1e-3, **values}


def weights_after(worker: Worker) -> Weights:
    return {name: tensor.clone() for name, tensor in worker._context.model.network.state_dict().items()}


def assert_close(found: list[Report], wanted: list[Report]) -> None:
    assert [report.rung for report in found] == [report.rung for report in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert (one.step, one.examples_seen, one.learning_rate) == (
            other.step,
            other.examples_seen,
            other.learning_rate,
        )
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert dict(one.validation.values) == pytest.approx(dict(other.validation.values), rel=1e-3, abs=1e-5)
        assert (one.train is None) == (other.train is None)


def assert_equal(found: list[Report], wanted: list[Report]) -> None:
    """Hold all of the reports, beside how long they took, against each other, to the last bit."""
    timeless = [
        [replace(report, seconds=0.0, peak_memory_bytes=0, attempt=1) for report in reports]
        for reports in (found, wanted)
    ]
    assert timeless[0] == timeless[1]


def compare(two: Worker, alone: Worker, assignment) -> tuple[list[Report], Outcome]:
    """Train on two ranks and on one, and hold losses, scores and weights against each other."""
    wanted, ending = trained(alone, assignment)
    expected = weights_after(alone)
    found, outcome = trained(two, assignment)
    assert (outcome.ending, outcome.micro_batch_size) == (ending.ending, None), outcome.reason
    assert_close(found, wanted)
    for name, weight in weights_after(two).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)
    return found, outcome


# -- what one rank gives


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"batch_size": 1},
        {"batch_size": 3},
        {"optimizer": "sgd", "learning_rate": 1e-2, "label_smoothing": 0.1, "class_weights": "balanced"},
        {"optimizer": "schedule_free_adamw", "max_grad_norm": 0.1, "head_rate": 5.0, "head_scale": 0.2},
        {"schedule": "reduce_on_plateau", "plateau_patience": 0, "early_stopping_patience": 1},
        {"method": "top_layers", "trained_layers": 1, "kept_layers": 1},
        {"l1_strength": 1e-3, "l2_strength": 1e-2, "regularize_towards": "pretrained"},
        {"token_masking": 0.3, "word_swap": 0.2, "data_fraction": 0.5},
    ],
    ids=lambda values: "-".join(values) or "usual",
)
def test_a_trial_on_two_ranks_is_the_one_on_one_to_rounding(values, two: Worker, alone: Worker) -> None:
    compare(two, alone, tiny_assignment(tiny_hyperparameters(**without_dropout(**values))))


def test_each_trial_begins_anew(two: Worker) -> None:
    """Their ranks have nothing left of the one before: the same trial gives the same bits, dropout among them."""
    chosen = tiny_hyperparameters(dropout=0.2)
    first, _ = trained(two, tiny_assignment(chosen))
    trained(two, tiny_assignment(tiny_hyperparameters(learning_rate=0.1), trial=1))
    second, _ = trained(two, tiny_assignment(chosen))
    assert_equal(second, first)


def test_decisions_are_those_of_rank_0(two: Worker) -> None:
    reports, outcome = trained(two, tiny_assignment(), {250: Action.STOP})
    assert ([report.rung for report in reports], outcome.ending) == ([250], Ending.PRUNED)
    _, outcome = trained(two, tiny_assignment(limit_seconds=0.0))
    assert outcome.ending is Ending.INFEASIBLE
    assert outcome.reason.startswith("Over its limit")


def test_a_trial_that_is_dropped_leaves_the_ranks_free(two: Worker, alone: Worker) -> None:
    two.admit(tiny_assignment())
    two.advance()
    two.drop(0)
    two.admit(tiny_assignment())
    two.drop(0)
    compare(two, alone, tiny_assignment(tiny_hyperparameters(**without_dropout()), trial=1))


def test_the_winner_is_scored_by_rank_0(two: Worker, alone: Worker, folder: Path) -> None:
    _, outcome = compare(two, alone, tiny_assignment(tiny_hyperparameters(**without_dropout())))
    assert outcome.best is not None
    assert two.has_weights(outcome.best)
    assert load_weights(folder / "files", 0).keys() == two._context.model.network.state_dict().keys()


def test_precision_and_probes_are_of_the_whole_group(two: Worker, alone: Worker) -> None:
    chosen = tiny_hyperparameters(**without_dropout())
    found, wanted = two.probe(chosen, 1), alone.probe(chosen, 1)
    assert found.first_loss == pytest.approx(wanted.first_loss, rel=1e-4)
    assert (found.feasible, found.micro_batch_size) == (True, None)
    two.measure(tiny_hyperparameters(max_length=16))
    try:
        for worker in (two, alone):
            worker.use(WorkerSettings(precision="bf16"))
        (one, *_), _ = trained(two, tiny_assignment(chosen))
        (other, *_), _ = trained(alone, tiny_assignment(chosen))
        assert one.train_loss == pytest.approx(other.train_loss, rel=2e-2)
    finally:
        for worker in (two, alone):
            worker.use(WorkerSettings(precision="fp32"))


def test_a_rank_draws_dropout_masks_of_its_own(two: Worker, alone: Worker) -> None:
    """Were its masks those of rank 0, one row twice would go through alike on both."""
    seeds = {dropout_seed(seed, rank) for seed in range(50) for rank in range(8)}
    assert len(seeds - set(range(50))) == 400, "nor those of a head"
    chosen = tiny_hyperparameters(dropout=0.5, learning_rate=1e-9)
    (on_two, *_), _ = trained(two, tiny_assignment(chosen))
    (on_one, *_), _ = trained(alone, tiny_assignment(chosen))
    assert on_two.train_loss != pytest.approx(on_one.train_loss, rel=1e-6)


def test_a_step_takes_two_exchanges_of_words_beside_its_sums(two: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    gather = torch.distributed.all_gather
    exchanges: list[int] = []

    def noted(read_report_data: list[torch.Tensor], said: torch.Tensor) -> None:
        exchanges.append(said.numel())
        gather(read_report_data, said)

    two.admit(tiny_assignment())
    stepped(two)
    with monkeypatch.context() as patched:
        patched.setattr(torch.distributed, "all_gather", noted)
        patched.setattr("hpo.files.checkpoints.Checkpoints.is_due", lambda *_: False)
        stepped(two)
        stepped(two)
    assert exchanges == [VALUE_BYTES] * 4
    two.drop(0)


# -- faults of one rank


@pytest.mark.parametrize("rank", [0, 1])
def test_out_of_memory_on_one_rank_lets_all_take_fewer_rows(rank: int, two: Worker, alone: Worker, folder: Path):
    # Of a size of its own: later trials of that size begin with what this one came to.
    chosen = tiny_hyperparameters(**without_dropout(max_length=14 + rank))
    wanted, _ = trained(alone, tiny_assignment(chosen))
    inject(folder, rank, "memory")
    found, outcome = trained(two, tiny_assignment(chosen))
    assert (outcome.ending, outcome.micro_batch_size) == (Ending.COMPLETED, 1)
    assert_close(found, wanted)


@pytest.mark.parametrize("rank", [0, 1])
def test_without_room_for_one_row_the_trial_cannot_be_trained(rank: int, two: Worker, alone: Worker, folder: Path):
    inject(folder, rank, "no-memory")
    chosen = tiny_hyperparameters(max_length=12 + rank)
    _, outcome = trained(two, tiny_assignment(chosen))
    assert outcome.ending is Ending.INFEASIBLE
    assert outcome.reason == (
        f"Out of memory on cpu in training with 1 of a batch's 8 examples at once, max_length {12 + rank}."
    )
    assert not two.probe(chosen, 1).feasible
    inject(folder, rank, "nothing")
    compare(two, alone, tiny_assignment(tiny_hyperparameters(**without_dropout()), trial=1))


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_one_rank_is_the_trials(rank: int, two: Worker, alone: Worker, folder: Path) -> None:
    inject(folder, rank, "error")
    _, outcome = trained(two, tiny_assignment())
    where = "On rank 1: " if rank else ""
    assert (outcome.ending, outcome.reason) == (
        Ending.FAILED,
        f"{where}ValueError: the rows of this rank are odd",
    )
    with pytest.raises(Exception, match="the rows of this rank are odd"):
        two.probe(tiny_hyperparameters(), 1)
    inject(folder, rank, "nothing")
    compare(two, alone, tiny_assignment(tiny_hyperparameters(**without_dropout()), trial=1))


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_no_number_on_one_rank_is_none_on_all(rank: int, two: Worker, alone: Worker, folder: Path) -> None:
    inject(folder, rank, "nan")
    _, outcome = trained(two, tiny_assignment())
    assert outcome.ending is Ending.DIVERGED
    inject(folder, rank, "nothing")
    compare(two, alone, tiny_assignment(tiny_hyperparameters(**without_dropout()), trial=1))


def test_an_error_of_what_rank_0_does_alone_is_the_trials(
    two: Worker, alone: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(*_: object) -> None:
        raise ValueError("the scores are odd")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_evaluated", odd)
        _, outcome = trained(two, tiny_assignment())
    assert (outcome.ending, outcome.reason) == (Ending.FAILED, "ValueError: the scores are odd")
    compare(two, alone, tiny_assignment(tiny_hyperparameters(**without_dropout()), trial=1))


def test_what_the_model_cannot_do_is_told_as_it_is(two: Worker) -> None:
    _, outcome = trained(two, tiny_assignment(tiny_hyperparameters(max_length=64)))
    assert outcome.ending is Ending.FAILED
    assert outcome.reason.startswith("max_length is 64, but the model reads at most 32 tokens")


# -- cut, and resumed


def test_a_trial_resumes_to_the_last_bit(two: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    always_due(monkeypatch)
    assignment = tiny_assignment(tiny_hyperparameters(dropout=0.3, token_masking=0.2))
    expected, _ = trained(two, assignment)
    wanted = weights_after(two)
    before, paused = trained(two, assignment, {500: Action.PAUSE})
    assert paused.ending is Ending.PAUSED
    after, outcome = trained(two, replace(assignment, attempt=2))
    assert (outcome.ending, outcome.changes) == (Ending.COMPLETED, ())
    assert outcome.resumed_examples == before[-1].examples_seen
    assert_equal([*before, *after], expected)
    for name, weight in weights_after(two).items():
        assert torch.equal(weight, wanted[name])


def test_one_rank_resumes_where_two_were_cut_and_says_so(two: Worker, odd_study: StudyConfig, folder: Path) -> None:
    assignment = tiny_assignment(tiny_hyperparameters(**without_dropout()))
    expected, _ = trained(two, assignment)
    before, _ = trained(two, assignment, {500: Action.PAUSE})
    one = open_worker(odd_study, two._context.splits, folder / "files")
    after, outcome = trained(one, replace(assignment, attempt=2))
    assert outcome.changes == ("ranks: 2 before, 1 now",)
    assert outcome.resumed_examples > 0
    assert_close([*before, *after], expected)


def test_where_one_rank_cannot_read_the_checkpoint_all_begin_anew(
    two: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assignment = tiny_assignment(tiny_hyperparameters(dropout=0.3))
    expected, _ = trained(two, assignment)
    trained(two, assignment, {500: Action.PAUSE})
    with monkeypatch.context() as patched:
        patched.setattr("hpo.files.checkpoints.Checkpoints.load", lambda _: None)
        found, outcome = trained(two, replace(assignment, attempt=2))
    assert outcome.resumed_examples == 0
    assert_equal(found, expected)
    assert "not all its ranks read the same checkpoint" in caplog.text
