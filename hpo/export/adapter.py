"""Adapter: the trained weights of a LoRA trial, in a folder that PEFT loads on top of the pretrained model."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.parsing import read_model
from hpo.config.study_file import ModelConfig
from hpo.errors import ConfigurationError, ModelError, error_line
from hpo.model.backbone import Backbone
from hpo.model.lora import LoraLinear
from hpo.model.trial_model import TrialModel
from hpo.tasks.protocol import ClassifierHead, Task

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix of PEFT's weight names."""


def save_adapter(model: TrialModel, base: ModelConfig, folder: Path) -> None:
    """Write the adapters and the head of a trial, and PEFT's `adapter_config.json`."""
    # Here, as it takes seconds to import.
    from peft import LoraConfig

    h, alpha = model.hyperparameters, float(model.hyperparameters.lora_alpha or 0)
    adapters = {path: module for path, module in model.modules.items() if isinstance(module, LoraLinear)}
    others = {path: module for path, module in model.modules.items() if path not in adapters}
    values: dict[str, Any] = {
        "task_type": task_type(model.backbone),
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
        "r": h.lora_rank,
        # What reads it may want a whole number.
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": h.lora_dropout,
        "use_rslora": h.lora_scaling == "rslora",
        "target_modules": sorted(adapters),
        "modules_to_save": [path for path, module in others.items() if [*module.parameters()]] or None,
        "fan_in_fan_out": any(isinstance(module.base, Conv1D) for module in adapters.values()),
    }
    LoraConfig(**values).save_pretrained(str(folder))
    weights = {f"{PREFIX}{name}": weight.detach().cpu().contiguous() for name, weight in model.parameters.items()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def refuse_broken_peft() -> None:
    """Refuse to train an adapter that could not be written afterwards, because PEFT cannot be imported.

    Raises:
        ConfigurationError: with the reason, such as a version of another package that PEFT does not support.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"PEFT, which writes the adapter, cannot be imported: {error_line(error)}. Install a PEFT that suits the "
            "other packages, or say --merge for a whole model."
        ) from error


def task_type(backbone: Backbone) -> str | None:
    """Return PEFT's task type of a network; None for masked models, for which PEFT has none."""
    if isinstance(backbone.head, ClassifierHead):
        return "SEQ_CLS"
    return "CAUSAL_LM" if backbone.network.can_generate() else None


def load_adapter(backbone: Backbone, task: Task[Any], folder: Path) -> TrialModel:
    """Load the adapter that `save_adapter` wrote into a folder, and mount it in its pretrained model.

    Raises:
        ModelError: the adapter cannot be read, or belongs to another model.
        ConfigurationError: the model does not have the layers that it adapts.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
        values = {
            "method": "lora",
            "lora_rank": config["r"],
            "lora_alpha": config["lora_alpha"],
            "lora_dropout": config["lora_dropout"],
            "lora_targets": ",".join(sorted(config["target_modules"])),
            "lora_scaling": "rslora" if config["use_rslora"] else "standard",
        }
        hyperparameters = read_model(Hyperparameters, values, ADAPTER_CONFIG)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"The adapter in {folder} cannot be read: {str(error).rstrip('.')}.") from None
    model = TrialModel(backbone, task, hyperparameters, seed=0)
    model.load({name.removeprefix(PREFIX): weight for name, weight in weights.items()})
    return model
