import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartModel

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import load_splits
from hpo.errors import ConfigurationError, ModelError, NoResultError
from hpo.messages import Action, Decision, Demands, Ending, Outcome
from hpo.model.pretrained import multiply
from hpo.training.device import choose_device, refuse_emulated, unseen_gpu_warning
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.run_state import circumstances_of, identity_of
from hpo.training.worker import Worker, open_worker
from tests.data.tokenizers_of_pieces import byte_level, without_special
from tests.models import LONGEST, tiny_assignment, tiny_hyperparameters, tiny_study, trained


def test_what_a_worker_says_of_itself(study: StudyConfig):
    splits = load_splits(study.data, study.seed)
    worker = open_worker(study, splits)
    assert (worker.metric.name, worker.metric.positive) == ("f1", "sport")
    assert (worker.device, worker.free_slots, worker.idle) == ("cpu", 1, True)
    facts = worker.facts()
    assert facts["threads"] == "1"
    assert facts["device"].startswith("cpu")
    assert worker._context.model.fingerprint.startswith(facts["weights"])


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
    one, two = (open_worker(study, splits)._context for _ in range(2))
    assert one.validation_part.tolist() == two.validation_part.tolist()
    assert len(one.validation_part) == 12
    wide = tiny_study(study.model.name, Path(study.data.train), evaluation={"rung_rows": 1000})
    assert open_worker(wide, splits)._context.validation_part.tolist() == list(range(16))


def test_a_split_is_tokenized_once(study: StudyConfig):
    context = open_worker(study, load_splits(study.data, study.seed))._context
    assert context.tokenized(8) is context.tokenized(8)
    assert max(context.tokenized(8)["train"].tokens.lengths) == 8


def test_tokens_of_all_lengths_are_the_same_arrays(study: StudyConfig):
    context = open_worker(study, load_splits(study.data, study.seed))._context
    for length in (32, 5, 17, 8):
        tokens = context.tokenized(length)["train"].tokens
        assert tokens.lengths.max() <= length
        assert tokens.ids is context.tokenized(32)["train"].tokens.ids


def study_of_bart(folder: Path, tokenizer: Any, endings: Sequence[str]) -> StudyConfig:
    """Return a study of a BART, whose head wants as many `</s>` in every row; texts have these endings in turn."""
    tokenizer.save_pretrained(folder / "bart")
    shape = {"vocab_size": 300, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 3, "decoder_start_token_id": 1}
    BartModel(BartConfig(**shape, **heads, **ids, max_position_embeddings=64)).save_pretrained(folder / "bart")
    rows = [f"a goal{endings[row % len(endings)]} {row},{'xy'[row % 2]}" for row in range(40)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *rows]))
    return tiny_study(folder / "bart", folder / "texts.csv")


def test_a_text_that_spells_an_end_token_trains_where_the_model_pools_by_it(tmp_path: Path):
    config = study_of_bart(tmp_path, byte_level(), ["", "</s>", "</s></s>"])
    worker = open_worker(config, load_splits(config.data, config.seed))
    _, outcome = trained(worker, tiny_assignment(tiny_hyperparameters(max_length=32)))
    assert outcome.ending is Ending.COMPLETED


def test_a_model_that_pools_by_an_end_token_is_refused_where_texts_have_none(tmp_path: Path):
    config = study_of_bart(tmp_path, without_special(), [""])
    with pytest.raises(ModelError, match=r"by its end-of-text token, number 1, but its tokenizer puts none behind"):
        open_worker(config, load_splits(config.data, config.seed))


def test_test_scores_need_a_test_split_and_weights(tiny_bert: Path, texts: Path, tmp_path: Path):
    without = tiny_study(tiny_bert, texts)
    splits = load_splits(without.data, 0)
    with pytest.raises(NoResultError, match="no test split"):
        open_worker(without, splits, tmp_path).test_evaluation(tiny_assignment())
    config = tiny_study(tiny_bert, texts, data={"train": str(texts), "test_fraction": 0.2})
    splits = load_splits(config.data, 0)
    with pytest.raises(NoResultError, match="No weights of trial 5 were kept"):
        open_worker(config, splits, tmp_path).test_evaluation(tiny_assignment(trial=5))
    with pytest.raises(NoResultError, match="opened without a folder"):
        open_worker(config, splits).test_evaluation(tiny_assignment(trial=5))


@pytest.fixture(scope="module")
def worker(study: StudyConfig) -> Worker:
    return open_worker(study, load_splits(study.data, study.seed))


def test_the_share_of_texts_that_are_cut_is_that_of_those_that_fill_the_length(worker: Worker):
    tokens = np.array([len(text.split()) + 2 for text in worker._context.splits.train.texts])
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


def test_all_that_no_trial_could_train_is_told_at_once(worker: Worker):
    asked = demands(max_length=LONGEST + 1, kept_layers=3, lora_targets=("all-linear", "nope"))
    with pytest.raises(ConfigurationError, match="There are 3 mistakes") as refused:
        worker.refuse_unfit(asked)
    told = [reason(worker, max_length=LONGEST + 1), reason(worker, kept_layers=3)]
    assert refused.value.mistakes[:2] == tuple(told)
    assert refused.value.mistakes[2].startswith("lora_targets names nope, but ")


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


def test_weights_are_those_of_the_evaluation_at_which_they_were_kept(study: StudyConfig, tmp_path: Path):
    splits = load_splits(study.data, study.seed)
    worker = open_worker(study, splits, tmp_path)
    reports, outcome = trained(worker, tiny_assignment())
    assert outcome.best is not None
    assert worker.has_weights(outcome.best)
    for other in (
        *(report for report in reports if report != outcome.best),
        replace(outcome.best, trial=1),
        replace(outcome.best, attempt=2),
    ):
        assert not worker.has_weights(other)
    assert not open_worker(study, splits).has_weights(outcome.best)


def test_a_decision_from_another_thread_has_its_effect_before_the_next_step(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch
):
    worker = open_worker(study, load_splits(study.data, study.seed))
    take = OptimizerStep.take

    def step_while_another_thread_decides(training: OptimizerStep, loss: torch.Tensor) -> None:
        take(training, loss)
        if training.taken == 3:
            decision = Decision(trial=0, attempt=1, action=Action.STOP)
            other = Thread(target=worker.apply, args=(decision,))
            other.start()
            other.join()

    monkeypatch.setattr(OptimizerStep, "take", step_while_another_thread_decides)
    reports, outcome = trained(worker, tiny_assignment())
    assert (reports, outcome.ending, outcome.reason) == ([], Ending.PRUNED, "At step 3 of 16.")


def test_a_device_that_is_given_is_used_as_it_is(study: StudyConfig):
    # Of a study that asks for a GPU, which is not asked about.
    config = tiny_study(study.model.name, Path(study.data.train), compute={"device": "cuda", "threads": 1})
    worker = open_worker(config, load_splits(config.data, config.seed), device=torch.device("cpu"))
    assert worker.device == "cpu"


def test_a_worker_without_a_folder_has_nothing_to_share(study: StudyConfig):
    with pytest.raises(AssertionError, match="below the folder of files"):
        open_worker(study, load_splits(study.data, study.seed), shared=True)


def test_circumstances_are_what_the_last_bits_depend_on(worker: Worker):
    found = circumstances_of(worker._context)
    assert found.keys() == {"device", "threads", "ranks", "torch", "precision"}
    # Of two processors of one kind, a cap on instructions (ATEN_CPU_CAPABILITY) gives other bits.
    assert found["device"].endswith(torch.backends.cpu.get_cpu_capability())
    assert (found["threads"], found["torch"], found["precision"]) == ("1", version("torch"), "fp32")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_trial_resumes_under_other_threads(study: StudyConfig, texts: Path, tmp_path: Path):
    splits = load_splits(study.data, study.seed)
    expected, _ = trained(open_worker(study, splits), tiny_assignment())
    before, paused = trained(open_worker(study, splits, tmp_path), tiny_assignment(), {500: Action.PAUSE})
    assert paused.ending is Ending.PAUSED
    with threads(2):
        wide = tiny_study(study.model.name, texts, compute={"device": "cpu", "precision": "fp32", "threads": 2})
        second = open_worker(wide, splits, tmp_path)
        assert second.facts()["threads"] == "2"
        after, outcome = trained(second, tiny_assignment(attempt=2))
    assert outcome.resumed_examples == before[-1].examples_seen
    for found, report in zip([*before, *after], expected, strict=True):
        assert found.rung == report.rung
        assert found.validation.values["loss"] == pytest.approx(report.validation.values["loss"], rel=1e-4)


def test_what_a_checkpoint_is_of(study: StudyConfig, texts: Path):
    def identity(threads_: int = 1, **values: object) -> str:
        config = tiny_study(study.model.name, texts, **values)
        context = open_worker(config, load_splits(config.data, config.seed))._context
        with threads(threads_):
            return identity_of(tiny_assignment(), context)

    usual = identity()
    assert identity(threads_=2) == usual
    assert identity(compute={"device": "cpu", "precision": "bf16", "threads": 1}) != usual
    assert identity(data={"train": str(texts), "validation_fraction": 0.3}) != usual
    context = open_worker(study, load_splits(study.data, study.seed))._context
    # What an assignment says of this attempt alone, and not of the trial.
    same = tiny_assignment(attempt=2, score_to_beat=0.5, micro_batch_size=2, limit_seconds=60.0)
    assert identity_of(same, context) == usual
    assert identity_of(tiny_assignment(seed=8), context) != usual
    context.device = torch.device("cuda:1")
    on_a_gpu = identity_of(tiny_assignment(), context)
    assert on_a_gpu != usual
    context.device = torch.device("cuda:0")
    assert identity_of(tiny_assignment(), context) == on_a_gpu


def test_a_checkpoint_is_not_resumed_with_another_tokenizer(study: StudyConfig, tiny_bert: Path, texts: Path, tmp_path):
    """Its rows of embeddings would be those of other tokens."""

    def identity(model: Path) -> str:
        config = tiny_study(model, texts)
        return identity_of(tiny_assignment(), open_worker(config, load_splits(config.data, config.seed))._context)

    other = Path(shutil.copytree(tiny_bert, tmp_path / "other"))
    vocabulary = (other / "tokenizer.json").read_text()
    usual = identity(other)
    swapped = vocabulary.replace('"goal"', '"swapped"').replace('"team"', '"goal"').replace('"swapped"', '"team"')
    (other / "tokenizer.json").write_text(swapped)
    assert identity(other) != usual


def test_the_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(ComputeConfig(device="auto")) == torch.device("cpu")
    with pytest.raises(ConfigurationError, match="torch sees no GPU; choose auto or cpu"):
        choose_device(ComputeConfig(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(ComputeConfig(device="auto")) == torch.device("cuda:0")
    assert choose_device(ComputeConfig(device="cpu")) == torch.device("cpu")


def test_a_gpu_that_torch_does_not_see_is_doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hpo.training.device.GPU_FILE", tmp_path / "nvidia0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert unseen_gpu_warning(ComputeConfig()) is None
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "has an NVIDIA GPU, but torch" in (unseen_gpu_warning(ComputeConfig()) or "")
    assert "is a build for the CPU" in (unseen_gpu_warning(ComputeConfig()) or "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "is built for CUDA 13.0, for which the driver may be too old" in (unseen_gpu_warning(ComputeConfig()) or "")
    assert unseen_gpu_warning(ComputeConfig(device="cpu")) is None
    assert unseen_gpu_warning(ComputeConfig(runner="ray_tune")) is None
    with monkeypatch.context() as hidden:
        hidden.setenv("CUDA_VISIBLE_DEVICES", "")
        assert unseen_gpu_warning(ComputeConfig()) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert unseen_gpu_warning(ComputeConfig()) is None


def test_a_model_that_the_device_has_no_room_for_is_refused_in_a_sentence(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(ModelError, match=r"The weights of .*, 0\.0 GiB, do not fit into what is free of cpu"):
        open_worker(study, load_splits(study.data, study.seed))


def test_an_evaluation_leaves_each_module_in_its_mode(worker: Worker):
    context = worker._context
    context.begin(tiny_hyperparameters(method="head"), seed=0, total_steps=1)
    before = [module.training for module in context.model.network.modules()]
    assert set(before) == {True, False}
    context.task.scores(context.predict(context.tokenized(16)["validation"]))
    assert [module.training for module in context.model.network.modules()] == before


def test_what_a_module_keeps_of_an_evaluation_serves_training(worker: Worker):
    """As rotary embeddings and masks are kept; a tensor made in inference mode cannot be saved for a backward pass."""
    context, kept = worker._context, []

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        kept.extend([] if kept else [torch.ones(1) * 2])
        return output * kept[0]

    handle = context.model.network.classifier.register_forward_hook(keep)
    try:
        context.task.scores(context.predict(context.tokenized(16)["validation"]))
        assert trained(worker, tiny_assignment())[1].ending is Ending.COMPLETED
    finally:
        handle.remove()


def test_a_device_that_cannot_multiply_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply(torch.device("cpu"))
    broken = RuntimeError("CUDA error: no kernel image is available for execution on the device")
    monkeypatch.setattr(torch, "ones", MagicMock(side_effect=broken))
    with pytest.raises(ConfigurationError, match=r"cannot compute on cpu: RuntimeError: CUDA error: no kernel image"):
        multiply(torch.device("cpu"))


def test_bf16_is_refused_on_a_gpu_that_would_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a T4 does: torch says that it is supported unless it is asked for what the GPU has itself."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    gpu = torch.device("cuda:0")
    refuse_emulated(gpu, "fp32")
    refuse_emulated(torch.device("cpu"), "bf16")
    with pytest.raises(ConfigurationError, match=r"bf16, but cuda:0 \(Tesla T4\) has none; set compute"):
        refuse_emulated(gpu, "bf16")
