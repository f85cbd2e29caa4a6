"""Heads over a pooled text: how they are loaded, and which parameters they are."""

from typing import Any

from transformers import AutoModelForSequenceClassification


def load_with_head(source: str, **options: Any) -> Any:
    """Load a pretrained model under a linear head, by transformers' `from_pretrained`."""
    return AutoModelForSequenceClassification.from_pretrained(source, **options)


def head_of(network: Any) -> set[str]:
    """Name the parameters that are drawn anew for each trial: all outside the pretrained model.

    None of a class that does not say which of its parts that is, such as one of remote code.
    """
    prefix = f"{network.base_model_prefix}."
    outside = {name for name, _ in network.named_parameters() if not name.startswith(prefix)}
    return set() if network.base_model is network else outside
