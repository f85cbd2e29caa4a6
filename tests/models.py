"""Tiny random models, synthetic labelled texts and a study over them, so that tests train in a second."""

import csv
import io
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast, set_seed

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.data.batching import Batch
from hpo.data.tokenization import Tokens
from hpo.messages import Action, Assignment, Milestone, Outcome, Progress, Report, Scores
from hpo.model.backbone import Backbone
from hpo.model.trial_model import TrialModel
from hpo.tasks.protocol import Task
from hpo.training import run as run_module
from hpo.training.gradients import Gradients
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.worker import Worker, train

SPORT = ("goal", "team", "match", "ball", "coach", "win", "league", "score")
MONEY = ("bank", "price", "market", "trade", "tax", "profit", "share", "loan")
BOTH = ("the", "a", "of", "in", "and", "on", "new", "last", "for", "with")
WORDS = SPORT + MONEY + BOTH
LONGEST = 32


def said_by_card(folder: Path, text: str) -> str:
    """Return what the lines in the README.md of a trained model print of a text."""
    [lines] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    lines = lines.replace('"."', repr(str(folder))).replace('"A text of yours."', repr(text))
    with redirect_stdout(io.StringIO()) as printed:
        exec(lines, {})
    return printed.getvalue().strip()


def save_tiny_bert(folder: Path, *, layers: int = 2, longest: int = LONGEST) -> Path:
    """Save a random BERT without a head, and its tokenizer."""
    set_seed(0)
    tokenizer = _word_tokenizer("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    tokenizer.add_special_tokens(["[MASK]"])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    shape = _shape() | {"num_hidden_layers": layers, "max_position_embeddings": longest}
    BertModel(BertConfig(**shape, type_vocab_size=2)).save_pretrained(folder)
    return folder


def save_tiny_llama(folder: Path) -> Path:
    """Save a 2-layer random Llama, and its tokenizer, which has an end-of-text but no padding token."""
    set_seed(0)
    PreTrainedTokenizerFast(
        tokenizer_object=_word_tokenizer("</s>", "<unk>"), eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    LlamaModel(LlamaConfig(**_shape(), num_key_value_heads=2, eos_token_id=0)).save_pretrained(folder)
    return folder


def write_texts(path: Path, rows: int, seed: int = 0) -> Path:
    """Write a CSV of texts about sport or money, of 3 to 12 words, three in four of the topic's own."""
    random = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for row in range(rows):
            label, topic = (("sport", SPORT), ("money", MONEY))[row % 2]
            lengths = random.integers(3, 13)
            words = [random.choice(topic if random.random() < 0.75 else BOTH) for _ in range(lengths)]
            writer.writerow([" ".join(words), label])
    return path


def write_label_sets(path: Path, rows: int, seed: int = 0) -> Path:
    """Write a CSV of texts that are about sport, money, both or neither, and may be long."""
    random = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "labels"])
        for _ in range(rows):
            has = {name: bool(random.random() < 0.4) for name in ("sport", "money", "long")}
            words = [*random.choice(BOTH, size=8 if has["long"] else 2)]
            for name, topic in (("sport", SPORT), ("money", MONEY)):
                words += [*random.choice(topic, size=2)] if has[name] else []
            writer.writerow([" ".join(random.permutation(words)), " | ".join(name for name in has if has[name])])
    return path


def write_texts_of(task: str, path: Path, rows: int = 60) -> Path:
    """Write a CSV of texts for a task: about a topic, a set of topics, or with the number of their words."""
    if task == "multi_label":
        return write_label_sets(path, rows)
    write_texts(path, rows)
    if task == "regression":
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        texts = [line.rpartition(",")[0] for line in lines]
        path.write_text("\n".join([header, *(f"{text},{len(text.split())}" for text in texts)]), encoding="utf-8")
    return path


def tiny_study(model: Path, texts: Path, /, **values: Any) -> StudyConfig:
    """Return a study of that model and those texts, on one CPU thread in fp32, without a confirmation.

    `values` are further sections.
    """
    sections: dict[str, Any] = {
        "study": "tiny",
        "model": {"name": str(model)},
        "data": {"train": str(texts)},
        "evaluation": {"rung_rows": 12},
        "confirmation": {"finalists": 0, "audit": 0},
        "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
    }
    return StudyConfig.model_validate(sections | values)


def tiny_hyperparameters(**values: Any) -> Hyperparameters:
    """Return values at which the tiny models learn within a few steps."""
    usual: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 2, "max_length": 16}
    return Hyperparameters.model_validate(usual | values)


def tiny_assignment(hyperparameters: Hyperparameters | None = None, **values: Any) -> Assignment:
    """Return an assignment with a part milestone in each epoch and a full one at its end; maximum 2 epochs."""
    chosen = hyperparameters or tiny_hyperparameters()
    milestones = [
        Milestone(rung=250 * half, full=half % 2 == 0) for half in range(1, 2 * chosen.epochs + 1) if half <= 4
    ]
    usual: dict[str, Any] = {
        "trial": 0,
        "attempt": 1,
        "hyperparameters": chosen,
        "seed": 7,
        "milestones": tuple(milestones),
        "maximum_passes": 2,
    }
    return Assignment(**(usual | values))


def tiny_report(trial: int = 1, *, score: float = 0.5, **values: Any) -> Report:
    """Return a report of a full evaluation in the middle of a trial, with that macro F1; `values` are other fields."""
    usual: dict[str, Any] = {
        "attempt": 1,
        "rung": 500,
        "full": True,
        "decides": False,
        "step": 8,
        "epoch": 1.0,
        "examples_seen": 64,
        "learning_rate": 1e-3,
        "train_loss": 0.5,
        "validation": Scores(metric="macro_f1", values={"macro_f1": score}, rows=16),
        "seconds": 1.0,
        "peak_memory_bytes": 0,
    }
    return Report(trial=trial, **(usual | values))


def trained(
    worker: Worker, assignment: Assignment, answers: Mapping[int, Action] | None = None
) -> tuple[list[Report], Outcome]:
    """Train to the end, answering the report at a rung with its action; return the reports and the outcome."""
    reports: list[Report] = []

    def answer(message: Report | Progress) -> Action:
        if isinstance(message, Progress):
            return Action.CONTINUE
        reports.append(message)
        return (answers or {}).get(message.rung, Action.CONTINUE)

    return reports, train(worker, assignment, answer)


def stepped(worker: Worker) -> Report | Progress | Outcome:
    """Let a worker's one trial get ready, or take one step; return what it says then."""
    with patch.object(run_module, "SECONDS_BETWEEN_PROGRESS", 0.0):
        [said] = worker.advance()
    return said


class Training(OptimizerStep):
    """A trial that is trained batch by batch, alone."""

    def __init__(self, backbone: Backbone, task: Task[Any], hyperparameters: Hyperparameters, total_steps: int) -> None:
        """Put the backbone where it starts."""
        super().__init__(TrialModel(backbone, task, hyperparameters, seed=0), total_steps)
        self.gradients = Gradients()

    def step(self, batch: Batch) -> None:
        """Train on one batch."""
        self.take(self.gradients.of(self.model, batch))


def assert_trained_alike(
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    pretrained: Path,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Compare trained weights with those of hpo, which changes the embeddings of no tokens but those that occur."""
    assert theirs.keys() == ours.keys()
    name, embeddings = "embeddings.word_embeddings.weight", load_file(pretrained / "model.safetensors")
    for weight, expected in ours.items():
        rows: Any = (expected != embeddings[name]).any(1) if weight.endswith(name) else slice(None)
        torch.testing.assert_close(theirs[weight][rows], expected[rows], rtol=rtol, atol=atol)


def plain_tokens(ids: Any, lengths: Any, types: Any = None) -> Tokens:
    """Return rows of so many tokens each, taken from `ids` one after the other, without special tokens."""
    sizes = np.asarray(lengths, dtype=np.int64)[None]
    return Tokens(
        ids=np.asarray(ids, dtype=np.int32),
        types=None if types is None else np.asarray(types, dtype=np.int8),
        layout=np.array([-1]),
        begins=np.cumsum(sizes, axis=1) - sizes,
        sizes=sizes,
        whole=sizes,
    )


def row_of(tokens: Tokens, row: int) -> Any:
    """Return the tokens of one row; shape (length,)."""
    return tokens.ids[tokens.positions(np.array([row]))]


def _word_tokenizer(*special: str) -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=special[1]))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def _shape() -> dict[str, int]:
    return {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": LONGEST,
    }
