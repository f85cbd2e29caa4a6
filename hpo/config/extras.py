"""Optional packages: which extra of llm-hpo installs each, and the refusal where it is missing."""

from importlib.util import find_spec

from hpo.errors import ConfigurationError

EXTRAS = {"cmaes": "samplers", "plotly": "report", "schedulefree": "optimizers"}
"""Module -> the extra that installs it."""


def refuse_missing(module: str, user: str) -> None:
    """Refuse what needs a module that is not installed.

    Args:
        module: one of `EXTRAS`.
        user: what needs it, as the sentence begins.

    Raises:
        ConfigurationError: it is not installed; says what installs it.
    """
    if find_spec(module) is None:
        package = module.replace("_", "-")
        raise ConfigurationError(f"{user} needs {package}: pip install 'llm-hpo[{EXTRAS[module]}]'.")
