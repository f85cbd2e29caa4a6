"""Path of one trial: it passes few modules of hpo on its way from an assignment to a stored outcome."""

import sys
from pathlib import Path

import pytest

from tests.models import save_tiny_bert, write_texts

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from trial_path import traced

MOST_MODULES = 62
MOST_CARRIERS = 8


@pytest.mark.slow
def test_a_trial_passes_few_modules_and_fewer_that_only_carry(tmp_path: Path) -> None:
    path = traced(save_tiny_bert(tmp_path / "bert"), write_texts(tmp_path / "texts.csv", rows=80))
    assert {"search/coordinator.py", "runners/dispatch.py", "training/gradients.py"} <= set(path.modules)
    assert len(path.modules) <= MOST_MODULES, path.modules
    assert len(path.carriers) <= MOST_CARRIERS, path.carriers
