"""Scripts for PEFT and Trainer, exported and imported, and configurations of LoRA of tiny models."""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ModelConfig
from hpo.config.tasks import TaskConfig
from hpo.data.splits import Splits
from hpo.export.exported_file import Exported
from hpo.export.peft_script import peft_script, rows_json
from hpo.export.retraining import compute_of, study_and_splits
from tests.export.lora_cases import LORA, MODELS
from tests.tasks.language_models import save_tiny_decoder, save_tiny_masked_model

KINDS: dict[str, Callable[[Path], Path]] = {
    **MODELS,
    "decoder": save_tiny_decoder,
    **{f"decoder {name}": partial(save_tiny_decoder, name=name) for name in ("gpt2", "bloom")},
    "masked model": save_tiny_masked_model,
}
PROMPTED = {"prompt": "Text : {text} Label :"}


def with_values(exported: Exported, kind: str, folder: Path, dtype: str = "fp32", **values: Any) -> Exported:
    """Return a configuration of LoRA of a tiny model, saved in a folder."""
    model = ModelConfig.model_validate({"name": str(KINDS[kind](folder / kind)), "dtype": dtype})
    return exported.model_copy(
        update={"model": model, "hyperparameters": Hyperparameters.model_validate(LORA | values)}
    )


def with_words(
    exported: Exported, kind: str, folder: Path, task: Mapping[str, Any] = PROMPTED, **values: Any
) -> Exported:
    """Return a configuration of LoRA of a tiny language model that is asked for label words."""
    chosen = with_values(exported, kind, folder, **values)
    return chosen.model_copy(update={"task": TaskConfig.model_validate({"head": "label_words", **task})})


def splits_of(exported: Exported) -> Splits:
    return study_and_splits(exported, compute_of(exported))[1]


def written(exported: Exported, folder: Path) -> ModuleType:
    """Write script and rows into a folder; return the script as a module that has not run."""
    (folder / "train.py").write_text(peft_script(exported, splits_of(exported)))
    (folder / "train.json").write_text(rows_json(exported, splits_of(exported)))
    spec = importlib.util.spec_from_file_location("train", folder / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
