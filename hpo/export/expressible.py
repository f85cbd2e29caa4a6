"""Hyperparameters that another trainer can express: each by name, so that none is dropped silently."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError
from hpo.export.exported_file import Exported

Test = Callable[[Hyperparameters], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What a target can say of one hyperparameter."""

    fits: Test = lambda _: True
    """Whether these values can be said so."""
    nearest: str = ""
    """What comes nearest, where they cannot."""


def only(value: object, name: str, nearest: str) -> Field:
    """Return what a target can say of a hyperparameter that it does not know: the value that changes nothing."""
    return Field(fits=lambda h: getattr(h, name) == value, nearest=nearest)


def refuse_inexpressible(
    target: str, fields: Mapping[str, Field], exported: Exported, beside: Sequence[tuple[str, str]] = ()
) -> None:
    """Raise where a target cannot say all of a configuration.

    Args:
        target: its name.
        fields: hyperparameter -> what the target can say of it; all that are not said as they are.
        exported: the configuration.
        beside: (what, nearest) of what it cannot say and is no hyperparameter.

    Raises:
        ConfigurationError: names everything at once, each with its nearest equivalent.
    """
    hyperparameters = exported.hyperparameters
    found = [
        (f"{name} {getattr(hyperparameters, name)}", field.nearest)
        for name, field in fields.items()
        if not field.fits(hyperparameters)
    ]
    if found := [*found, *beside]:
        listed = "; ".join(f"{what} (nearest: {nearest})" for what, nearest in found)
        raise ConfigurationError(
            f"{target} cannot say all of trial {exported.trial} of the study {exported.study!r}, and what it drops "
            f"would make it another experiment: {listed}. Or train it with hpo train."
        )


def study_wide(exported: Exported) -> list[tuple[str, str]]:
    """Return (what, nearest) of a study that no other trainer says here."""
    found = []
    if exported.evaluation.folds:
        found.append((f"evaluation.folds {exported.evaluation.folds}", "one validation split"))
    if exported.task.name == "multi_label" and (smoothing := exported.hyperparameters.label_smoothing):
        found.append((f"label_smoothing {smoothing} of several labels a text", "0, or in compute_loss_func of Trainer"))
    if ":" in exported.metric:
        found.append((f"the metric {exported.metric}", "its function, called in compute_metrics"))
    return found
