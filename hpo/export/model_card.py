"""Model card: the README.md of a trained model, with its scores, their uncertainty, and its usage."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from hpo.export.exported_file import Exported
from hpo.export.prediction import ADAPTER_FACTS, CONFIG_KEY
from hpo.export.templates import rendered
from hpo.messages import Scores
from hpo.model.model_files import is_folder

TRAINED_BY = ("llm-hpo", "torch", "transformers")


def model_card(exported: Exported, how: str, scores: Scores | None, *, is_adapter: bool = False) -> str:
    """Return the card in Markdown.

    Args:
        exported: the trained configuration.
        how: a sentence on the training rows.
        scores: scores of this model on validation; None if all rows were used for training.
        is_adapter: true for an adapter, which needs the pretrained model.
    """
    name = exported.model.name
    # The hub takes only its own ids for `base_model`, and the path of a folder is nobody else's concern.
    base = {} if is_folder(name) else {"base_model": name}
    return rendered(
        "model_card.md.jinja",
        exported=exported,
        metadata={
            "library_name": "peft" if is_adapter else "transformers",
            "pipeline_tag": "text-classification",
            **base,
            "tags": ["hpo", "lora"] if is_adapter else ["hpo"],
        },
        base=name if base else Path(name).expanduser().resolve().name,
        how=how,
        is_adapter=is_adapter,
        where=f"`{ADAPTER_FACTS}`" if is_adapter else f"`config.json`, under `{CONFIG_KEY}`",
        scores=list(_scores(exported, scores)),
        hyperparameters=exported.hyperparameters.to_mapping() | {"seed": exported.seed},
        versions={"search": dict(exported.versions), "training": {name: version(name) for name in TRAINED_BY}},
    )


def _scores(exported: Exported, scores: Scores | None) -> Iterator[tuple[str, str]]:
    """Yield lines with a score each, preceded by the rows that were scored."""
    yield "in the search, on validation", f"{exported.score:.4f}"
    if scores is not None:
        yield "this model, on validation", f"{scores.objective:.4f}"
    if (confirmed := exported.confirmed) is not None:
        where = f"{confirmed.rows:,} rows, {'unseen by' if confirmed.unseen else 'those of'} the search"
        interval = f"{confirmed.score:.4f} (95%: {confirmed.low:.4f} to {confirmed.high:.4f})"
        yield f"confirmed on {len(confirmed.scores)} fresh seeds, {where}", interval
    if exported.metric in exported.test:
        name, score = "this configuration, on the test split", f"{exported.test[exported.metric]:.4f}"
        if (look := exported.test_look) is not None:
            again = "" if look.look == 1 else f", look {look.look} at it: only the first was unbiased"
            name += f", {look.rows:,} rows{again}"
            sure = look.interval
            score += f" (95% over rows: {sure.low:.4f} to {sure.high:.4f})" if sure else ""
        yield name, score
