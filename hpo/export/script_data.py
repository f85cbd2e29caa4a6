"""The lines of a script that read and divide texts, and the steps after which the search scored it."""

import inspect
from collections.abc import Callable
from typing import Any

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.fractions import stratified_beginning
from hpo.data.sources import read_examples
from hpo.data.splits import Splits, _quotas, stratified_part
from hpo.export.exported import Exported
from hpo.messages import Milestone
from hpo.training.milestones import milestone_steps, steps_per_epoch

PART = """\
    wanted = max(round(DATA_FRACTION * len(train)), len(LABELS))
    numbers = np.array([LABELS.index(row[-1]) for row in train])
    train = [train[number] for number in stratified_beginning(numbers, wanted, SPLIT_SEED)]
"""


def columns_of(exported: Exported) -> tuple[str, ...]:
    """Return the columns of texts, and then of the label."""
    data = exported.data
    columns = read_examples(
        data.train,
        text_column=data.text_column,
        text_pair_column=data.text_pair_column,
        label_column=data.label_column,
        strict=data.strict,
    ).columns
    return (columns.text, columns.label) if columns.pair is None else (columns.text, columns.pair, columns.label)


def split_functions(exported: Exported, splits: Splits) -> str:
    """Return the source of hpo's own functions that choose rows, where any are chosen."""
    data = exported.data
    functions: list[Callable[..., Any]] = []
    if data.validation is None or splits.confirmation or (data.test is None and data.test_fraction):
        functions += [stratified_part, _quotas]
    if exported.hyperparameters.data_fraction < 1:
        functions.append(stratified_beginning)
    return "".join(f"\n{inspect.getsource(function)}\n" for function in functions)


def made_splits(exported: Exported) -> str:
    """Return the lines that make the splits which have no file of their own."""
    data = exported.data
    lines = [] if data.validation is None else ["validation = read(VALIDATION)"]
    shares = {"test": data.test_fraction if data.test is None else 0.0}
    shares["validation"] = data.validation_fraction if data.validation is None else 0.0
    if any(shares.values()):
        lines += ["names, rows = sorted({row[-1] for row in train}), len(train)"]
    for offset, (name, share) in enumerate(shares.items()):
        if share:
            lines += [
                f"wanted = max(round(rows * {share}), len(names))",
                "numbers = [names.index(row[-1]) for row in train]",
                f"chosen = set(stratified_part(numbers, wanted, SPLIT_SEED + {offset}).tolist())",
                f"{name} = [row for number, row in enumerate(train) if number in chosen]",
                "train = [row for number, row in enumerate(train) if number not in chosen]",
            ]
    return "\n".join(f"    {line}" for line in lines)


def unseen_rows(exported: Exported) -> str:
    """Return the lines that take out of validation the rows kept for the confirmation, and others of their texts."""
    share = exported.confirmation.validation_share
    lines = [
        "names = sorted({row[-1] for row in validation})",
        "numbers = [names.index(row[-1]) for row in validation]",
        f"chosen = set(stratified_part(numbers, round(len(validation) * {share}), SPLIT_SEED + 2).tolist())",
        "unseen = [row for number, row in enumerate(validation) if number in chosen]",
        "validation = without(validation, unseen)",
    ]
    return "".join(f"    {line}\n" for line in lines)


def full_steps(exported: Exported, splits: Splits) -> list[int]:
    """Return the steps after which the search scored all of validation."""
    values, rows = exported.hyperparameters, _trained_rows(exported.hyperparameters, splits)
    reached = milestone_steps(
        [Milestone(rung=place.rung, full=place.full) for place in exported.milestones],
        maximum_examples=exported.maximum_passes * splits.train.rows,
        train_rows=rows,
        batch_size=values.batch_size,
        epochs=values.epochs,
    )
    return [step for step, milestone in reached.items() if milestone.full]


def epoch_ends(values: Hyperparameters, splits: Splits) -> list[int]:
    """Return the last step of each epoch."""
    per_epoch = steps_per_epoch(_trained_rows(values, splits), values.batch_size)
    return [per_epoch * epoch for epoch in range(1, values.epochs + 1)]


def _trained_rows(values: Hyperparameters, splits: Splits) -> int:
    if values.data_fraction == 1:
        return splits.train.rows
    return max(round(values.data_fraction * splits.train.rows), len(splits.label_names))
