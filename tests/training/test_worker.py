from pathlib import Path

import numpy as np
import pytest
import torch

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import load_splits
from hpo.errors import ConfigurationError, ModelError, NoResultError
from hpo.messages import Demands, Ending, Outcome
from hpo.training.weights import save_weights
from hpo.training.worker import Worker, choose_device, open_worker
from tests.models import LONGEST, tiny_assignment, tiny_hyperparameters, tiny_study


def test_what_a_worker_says_of_itself(study: StudyConfig):
    splits = load_splits(study.data, study.seed)
    worker = open_worker(study, splits)
    assert worker.splits is splits
    assert (worker.objective.metric, worker.objective.positive) == ("f1", "sport")
    assert (worker.device, worker.longest, worker.free_slots, worker.idle) == ("cpu", LONGEST, 1, True)
    facts = worker.facts()
    assert facts["threads"] == "1"
    assert facts["device"].startswith("cpu")


def test_a_slot_is_taken_and_freed(study: StudyConfig):
    worker = open_worker(study, load_splits(study.data, study.seed))
    assert worker.advance() == []
    worker.admit(tiny_assignment())
    assert (worker.free_slots, worker.idle) == (0, False)
    with pytest.raises(AssertionError, match="free slot"):
        worker.admit(tiny_assignment(trial=1))
    while not worker.idle:
        worker.advance()
    assert worker.free_slots == 1


def test_parts_of_the_data_are_fixed_by_the_study(study: StudyConfig):
    splits = load_splits(study.data, study.seed)
    one, two = (open_worker(study, splits)._bench for _ in range(2))
    assert one.validation_part.tolist() == two.validation_part.tolist()
    assert len(one.validation_part) == 12
    wide = tiny_study(study.model.name, Path(study.data.train), evaluation={"rung_rows": 1000})
    assert open_worker(wide, splits)._bench.validation_part.tolist() == list(range(16))


def test_a_split_is_tokenized_once(study: StudyConfig):
    bench = open_worker(study, load_splits(study.data, study.seed))._bench
    assert bench.tokenized(8) is bench.tokenized(8)
    assert max(bench.tokenized(8).train.tokens.lengths) == 8


def test_test_scores_need_a_test_split_and_weights(tiny_bert: Path, texts: Path, tmp_path: Path):
    without = tiny_study(tiny_bert, texts)
    splits = load_splits(without.data, 0)
    with pytest.raises(NoResultError, match="no test split"):
        open_worker(without, splits, tmp_path).test_scores(0, tiny_hyperparameters())
    config = tiny_study(tiny_bert, texts, data={"train": str(texts), "test_fraction": 0.2})
    splits = load_splits(config.data, 0)
    with pytest.raises(NoResultError, match="No weights of trial 5 were kept"):
        open_worker(config, splits, tmp_path).test_scores(5, tiny_hyperparameters())
    with pytest.raises(NoResultError, match="opened without a folder"):
        open_worker(config, splits).test_scores(5, tiny_hyperparameters())


@pytest.fixture(scope="module")
def worker(study: StudyConfig) -> Worker:
    return open_worker(study, load_splits(study.data, study.seed))


def test_the_share_of_texts_that_are_cut_is_that_of_those_that_fill_the_length(worker: Worker):
    tokens = np.array([len(text.split()) + 2 for text in worker.splits.train.texts])
    for max_length in (5, 8, LONGEST):
        assert worker.cut_share(max_length) == np.mean(tokens >= max_length)
    assert 0 < worker.cut_share(8) < 1
    assert worker.cut_share(LONGEST) == 0


def demands(**values: object) -> Demands:
    nothing = {
        "max_length": 8, "trained_layers": None, "kept_layers": None, "dropout": False, "attention_dropout": False,
        "token_masking": False, "word_swap": False,
    }  # fmt: skip
    return Demands(**(nothing | values))


def test_what_fits_the_model_is_not_refused(worker: Worker):
    most = {"max_length": LONGEST, "trained_layers": 2, "kept_layers": 2}
    worker.refuse_unfit(demands(**most, dropout=True, attention_dropout=True, token_masking=True, word_swap=True))


@pytest.mark.parametrize(
    ("asked", "values"),
    [
        ({"max_length": LONGEST + 1}, {"max_length": LONGEST + 1}),
        ({"trained_layers": 3}, {"method": "top_layers", "trained_layers": 3}),
        ({"kept_layers": 3}, {"kept_layers": 3}),
    ],
)
def test_what_no_trial_could_train_is_refused_in_the_words_of_a_trial(worker: Worker, asked, values):
    with pytest.raises((ModelError, ConfigurationError)) as refused:
        worker.refuse_unfit(demands(**asked))
    assert str(refused.value) == reason(worker, **values)


@pytest.mark.parametrize("asked", [{"dropout": 0.1}, {"token_masking": 0.1}])
def test_what_a_decoder_cannot_do_is_refused_in_the_words_of_a_trial(tiny_llama: Path, texts: Path, asked):
    config = tiny_study(tiny_llama, texts)
    llama = open_worker(config, load_splits(config.data, config.seed))
    with pytest.raises(ModelError) as refused:
        llama.refuse_unfit(demands(**dict.fromkeys(asked, True)))
    assert str(refused.value) == reason(llama, **asked)


def reason(worker: Worker, **values: object) -> str:
    """Return what a trial under these values fails of."""
    worker.admit(tiny_assignment(tiny_hyperparameters(**values)))
    [outcome] = worker.advance()
    assert isinstance(outcome, Outcome)
    assert outcome.ending is Ending.FAILED
    return outcome.reason


def test_weights_are_kept_of_the_trials_that_are_named(study: StudyConfig, tmp_path: Path):
    splits = load_splits(study.data, study.seed)
    worker = open_worker(study, splits, tmp_path)
    for trial in (0, 1, 2):
        save_weights(tmp_path, trial, {"weight": torch.ones(1)}, {})
    worker.keep_files({1, 7})
    assert [worker.has_weights(trial) for trial in (0, 1, 2, 7)] == [False, True, False, False]
    nowhere = open_worker(study, splits)
    nowhere.keep_files({2})
    assert not nowhere.has_weights(1)
    assert worker.has_weights(1)


def test_the_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(ComputeConfig(device="auto")) == torch.device("cpu")
    with pytest.raises(ConfigurationError, match="torch sees no GPU; choose auto or cpu"):
        choose_device(ComputeConfig(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(ComputeConfig(device="auto")) == torch.device("cuda:0")
    assert choose_device(ComputeConfig(device="cpu")) == torch.device("cpu")
