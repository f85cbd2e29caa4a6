"""Scripts that were exported, as modules, and configurations of a task with several labels a text."""

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hpo.config.tasks import TaskConfig
from hpo.data.splits import splits_of
from hpo.export.configs import to_json
from hpo.export.exported_file import Exported
from hpo.export.python_script import content_of_script, script
from hpo.export.retraining import compute_of
from tests.models import write_label_sets


def written(exported: Exported, folder: Path) -> ModuleType:
    """Write script and JSON file into a folder, and return the script as a module that has not run."""
    path = folder / "train.py"
    path.write_text(script(exported))
    path.with_suffix(".json").write_text(to_json(content_of_script(exported)))
    spec = importlib.util.spec_from_file_location("train", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def of_texts(exported: Exported, **values: Any) -> Exported:
    """Return a configuration with other data and what else is given, and the fingerprint of its rows."""
    chosen = exported.model_copy(update=values)
    fingerprint = splits_of(chosen.study_config(compute_of(exported))).fingerprint
    return chosen.model_copy(update={"data": chosen.data.model_copy(update={"fingerprint": fingerprint})})


def with_label_sets(exported: Exported, folder: Path, form: str = "column", rows: int = 160, **values: Any) -> Exported:
    """Return a configuration for texts of several labels: in a `column`, in `columns` of 0 and 1, or in JSON `lists`.

    `values` are those of the task, and of the data under `data`.
    """
    texts = write_label_sets(folder / "sets.csv", rows=rows)
    data: dict[str, Any] = values.pop("data", {}) | {"train": str(texts)}
    records = list(csv.DictReader(texts.read_text().splitlines()))
    sets = [[name for name in record["labels"].split(" | ") if name] for record in records]
    if form == "columns":
        data["label_columns"] = ("long", "money", "sport")
        lines = [
            [record["text"], *(int(name in held) for name in data["label_columns"])]
            for record, held in zip(records, sets, strict=True)
        ]
        with texts.open("w", newline="") as stream:
            csv.writer(stream).writerows([["text", *data["label_columns"]], *lines])
    if form == "lists":
        data["train"] = str(texts.with_suffix(".jsonl"))
        rows_of = ({"text": record["text"], "labels": held} for record, held in zip(records, sets, strict=True))
        Path(data["train"]).write_text("\n".join(map(json.dumps, rows_of)))
    task = TaskConfig(name="multi_label", **values)
    metric = "micro_f1" if task.metric == "auto" else task.metric
    return of_texts(exported, data=exported.data.model_copy(update=data), task=task, metric=metric)
