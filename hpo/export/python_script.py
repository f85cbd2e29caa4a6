"""A configuration as a script that needs no hpo, and the JSON file that it reads beside it.

The script is `train_script.py`, the rules of hpo that this configuration goes by written into it.
"""

import re
from typing import Any

from hpo.export.exported_file import Exported
from hpo.export.expressible import only, refuse_inexpressible
from hpo.export.inlining import inlined

MARK = '"""Trains one configuration that a search by hpo found'
"""How the script begins."""
NEEDED = ("torch", "transformers", "numpy")
OF_OPTIMIZERS = {"lion": "lion-pytorch", "schedule_free_adamw": "schedulefree"}
"""Optimizer -> the package that it is of, where that is not torch."""
FIELDS = {
    "token_masking": only(0.0, "token_masking", "0, or a mask drawn in `steps_of`"),
    "word_swap": only(0.0, "word_swap", "0, or augmented texts of one's own"),
}
"""Hyperparameters that it does not take at any value."""
IS_FILE = re.compile(r"(?!.*://)[^*?\[]*\.(csv|jsonl|ndjson)")


def script(exported: Exported) -> str:
    """Return the script for a configuration."""
    h, task = exported.hyperparameters, exported.task.name
    chosen: dict[str, str] = {"METHODS": h.method, "OPTIMIZERS": h.optimizer, "SCHEDULES": h.schedule}
    chosen |= {"TARGET_TYPES": task, "TASKS": task}
    return inlined("hpo.export.train_script", chosen)


def content_of_script(exported: Exported) -> dict[str, Any]:
    """Return what the script reads of a configuration: all of it.

    Raises:
        ConfigurationError: the script cannot do all of it, which names what.
    """
    sources = ((f"data.{name}", getattr(exported.data, name)) for name in ("train", "validation", "test"))
    beside = [
        (f"{key} {name}", "one .csv or .jsonl file") for key, name in sources if name and not IS_FILE.fullmatch(name)
    ]
    if exported.model.gguf_file:
        beside.append((f"model.gguf_file {exported.model.gguf_file}", "the model as save_pretrained writes it"))
    refuse_inexpressible("The script", FIELDS, exported, beside)
    content = exported.model_dump(mode="json")
    return content | {"evaluation": content["evaluation"] | {"rung_rows": exported.evaluation.part_rows}}


def needed(exported: Exported) -> str:
    """Return the packages that a script needs, as they were in the search."""
    optimizer = exported.hyperparameters.optimizer
    packages = [*NEEDED, *([OF_OPTIMIZERS[optimizer]] if optimizer in OF_OPTIMIZERS else [])]
    return ", ".join(f"{name} {exported.versions.get(name, '')}".strip() for name in packages)
