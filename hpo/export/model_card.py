"""The README.md of a trained model: what it is, how it scored and how sure that is, and how it is used."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from hpo.config.parsing import write_yaml
from hpo.export.exported_file import Exported
from hpo.export.prediction import ADAPTER_FACTS, CONFIG_KEY
from hpo.messages import Scores

TRAINED_BY = ("llm-hpo", "torch", "transformers")
WHOLE = """\
from transformers import pipeline

folder = "."
ask = pipeline("text-classification", model=folder, tokenizer=folder)
"""
LEARNED = 'learned = ask.model.config.hpo["learned"]\n'
ADAPTER = """\
import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

folder = "."
learned = json.loads(Path(folder, "hpo.json").read_text())["learned"]
labels = dict(enumerate(learned.get("labels", ["number"])))
options = {{"num_labels": len(labels), "id2label": labels, {options}}}
model = AutoModelForSequenceClassification.from_pretrained(folder, **options)
ask = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
"""
USES = {
    "classification": "print(ask({text}, {cut}))",
    "multi_label": """[said] = ask([{text}], top_k=None, {cut})
probability = {{one["label"]: one["score"] for one in said}}
thresholds = zip(learned["labels"], learned["thresholds"])
print([label for label, threshold in thresholds if probability[label] >= threshold])""",
    "regression": """[said] = ask([{text}], function_to_apply="none", {cut})
print(learned["mean"] + learned["sd"] * said["score"])""",
}
"""By task: how `ask`, a pipeline, is asked about a text."""
MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#"})


def model_card(exported: Exported, how: str, scores: Scores | None, *, is_adapter: bool = False) -> str:
    """Return the card in Markdown.

    Args:
        exported: what was trained.
        how: a sentence on what it was trained on.
        scores: of this very model on validation; None where no row was left to score.
        is_adapter: whether it is one, to be put on the pretrained model.
    """
    return "\n".join(
        [
            _front_matter(exported, is_adapter=is_adapter),
            f"# {written(exported.study)}, trial {exported.trial}\n",
            f"{written(exported.model.name)}, fine-tuned by a search of hpo (task {exported.task.name}). {how}\n",
            _usage(exported, is_adapter=is_adapter),
            _verdict(exported),
            _scores(exported, scores),
            "## Hyperparameters\n",
            _fenced(exported.hyperparameters.to_mapping() | {"seed": exported.seed}),
            "## Texts and versions\n",
            f"SHA-256 over the rows of all splits: `{exported.data.fingerprint}`\n",
            _fenced({"search": dict(exported.versions), "training": {name: version(name) for name in TRAINED_BY}}),
        ]
    )


def _front_matter(exported: Exported, *, is_adapter: bool) -> str:
    values = {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-classification",
        "base_model": exported.model.name,
        "tags": ["hpo", *(["lora"] if is_adapter else [])],
    }
    return f"---\n{write_yaml(values)}---\n"


def written(text: str) -> str:
    """Return text as Markdown shows it, whatever is in it."""
    return " ".join(text.split()).translate(MARKS)


def _usage(exported: Exported, *, is_adapter: bool) -> str:
    task, model = exported.task.name, exported.model
    if exported.task.head != "classifier":
        where = f"`{ADAPTER_FACTS}`" if is_adapter else f"`config.json`, under `{CONFIG_KEY}`"
        return f"""## Use

It is a language model, asked for the word of each label behind a prompt; both are in {where}.

Of the rows of a file: `hpo predict . FILE --output CSV`.
"""
    second = exported.data.text_pair_column is not None
    text = '{"text": "A text of yours.", "text_pair": "And its second."}' if second else '"A text of yours."'
    cut = f"truncation=True, max_length={exported.hyperparameters.max_length}"
    options = [f'"dtype": torch.{"bfloat16" if model.dtype == "bf16" else "float32"}']
    options += [f'"gguf_file": {model.gguf_file!r}'] if model.gguf_file else []
    options += ['"problem_type": "multi_label_classification"'] if task == "multi_label" else []
    opened = ADAPTER.format(options=", ".join(options)) if is_adapter else WHOLE + LEARNED * (task != "classification")
    return f"""## Use

In this folder, or with its path in place of the dot:

```python
{opened}{USES[task].format(text=text, cut=cut)}
```

Of the rows of a file: `hpo predict . FILE --output CSV`.
"""


def _verdict(exported: Exported) -> str:
    if not exported.verdict:
        return (
            "## Verdict\n\nNone: nothing was confirmed on fresh seeds, so the score of the search is lucky where the "
            "trial was chosen for it.\n"
        )
    return "## Verdict\n\n" + "\n".join(f"- {written(sentence)}" for sentence in exported.verdict["sentences"]) + "\n"


def _scores(exported: Exported, scores: Scores | None) -> str:
    rows = [("in the search, on validation", f"{exported.score:.4f}")]
    if scores is not None:
        rows.append(("this model, on validation", f"{scores.objective:.4f}"))
    if (confirmed := exported.confirmed) is not None:
        where = f"{confirmed.rows:,} rows, {'unseen by' if confirmed.unseen else 'those of'} the search"
        interval = f"{confirmed.score:.4f} (95%: {confirmed.low:.4f} to {confirmed.high:.4f})"
        rows.append((f"confirmed on {len(confirmed.scores)} fresh seeds, {where}", interval))
    if exported.metric in exported.test:
        rows.append(_tested(exported))
    lines = [f"| | {written(exported.metric)} |", "|---|---|", *(f"| {name} | {score} |" for name, score in rows)]
    return "## Scores\n\n" + "\n".join(lines) + "\n"


def _tested(exported: Exported) -> tuple[str, str]:
    name, score, look = (
        "this configuration, on the test split",
        f"{exported.test[exported.metric]:.4f}",
        exported.test_look,
    )
    if look is None:
        return name, score
    sure = f" (95% over rows: {look.interval.low:.4f} to {look.interval.high:.4f})" if look.interval else ""
    again = "" if look.look == 1 else f", look {look.look} at it: only the first was unbiased"
    return f"{name}, {look.rows:,} rows{again}", f"{score}{sure}"


def _fenced(values: Mapping[str, Any]) -> str:
    return f"```yaml\n{write_yaml(values)}```\n"
