"""Columns of a table: text, pair and label, by the names given, by their usual names, or by their values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpo.data.readers.table import Cells, Table
from hpo.errors import DataError, nearest

PAIR_NAMES = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("sentence_a", "sentence_b"),
    ("text_a", "text_b"),
)
TEXT_NAMES = (
    "text", "sentence", "content", "review", "body", "document", "message", "comment", "tweet", "post",
    "article", "abstract", "description", "utterance", "query", "question", "title", "headline",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "category", "class", "target", "sentiment", "intent", "topic", "gold_label", "y",
)  # fmt: skip
ROW_NUMBER_NAMES = ("", "unnamed: 0", "id", "idx", "index")

SHOWN_COLUMNS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of a table's columns."""

    text: str
    pair: str | None
    """Column of the second text; None if the task is not about pairs."""
    label: str
    group: str | None = None
    """Column of the group that a row belongs to; None if rows are independent."""
    detected: bool
    """True if any of them was detected rather than named by the user."""


def find_columns(
    table: Table, *, text: str | None, pair: str | None, label: str | None, group: str | None = None
) -> Columns:
    """Return the named columns, and detect text, pair and label where they are None.

    Usual names come first (pairs before single texts). If one column is then left for one role, it is used; if two are
    left for two roles, the label is the one with fewer distinct values and shorter cells. The group column may also be
    the text or its pair: pairs with one premise belong together.

    Raises:
        DataError: a named column does not exist, or one that is not named cannot be detected.
    """
    named = [name for name in (text, pair, label) if name is not None]
    _refuse_unfit_names(table, named, group, label)
    free = [name for name in table.names if name not in named]
    detected = text is None or label is None
    label = label or _usual(LABEL_NAMES, _without(free, group))
    free = _without(free, label)
    if text is None and pair is None:
        text, pair = _usual_pair(free)
    free = _without(free, group)
    text = text or _usual(TEXT_NAMES, free)
    text, label = _by_elimination(table, text, label, _without(free, text))
    if text is None or label is None:
        raise DataError(_cannot_tell(table, text, label))
    return Columns(text=text, pair=pair, label=label, group=group, detected=detected)


def _refuse_unfit_names(table: Table, named: Sequence[str], group: str | None, label: str | None) -> None:
    """Refuse names of columns that do not exist, or that have two roles which cannot share a column."""
    for name in (*named, *([group] if group else [])):
        if name not in table.names:
            raise DataError(f"{table.source} has no column {name!r}. {nearest(name, _shown(table.names))}")
        if named.count(name) > 1:
            raise DataError(
                f"Column {name!r} of {table.source} is named twice; text, pair and label are different columns."
            )
    if group is not None and group == label:
        raise DataError(
            f"Column {group!r} of {table.source} is named as label and as group; they are different columns."
        )


def refuse_missing_texts(table: Table, text: str, pair: str | None) -> None:
    """Refuse a table without the columns of these names, which the model was trained on."""
    keys = {"data.text_column": text, "data.text_pair_column": pair}
    missing = {key: name for key, name in keys.items() if name is not None and name not in table.names}
    if missing:
        raise DataError(
            f"{table.source} has no column {' and no column '.join(map(repr, missing.values()))}, where the model's "
            f"texts were; it has {', '.join(map(repr, _shown(table.names)))}. Say which it is here: "
            f"{' '.join(f'{key}=NAME' for key in missing)}.{_undivided(table)}"
        )


def _usual(usual: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the first of `usual` that is among `names`, as it is written there."""
    written = {name.casefold(): name for name in reversed(names)}
    return next((written[name] for name in usual if name in written), None)


def _usual_pair(names: Sequence[str]) -> tuple[str | None, str | None]:
    found = ((_usual((first,), names), _usual((second,), names)) for first, second in PAIR_NAMES)
    return next(((text, pair) for text, pair in found if text and pair), (None, None))


def _without(names: Sequence[str], taken: str | None) -> list[str]:
    return [name for name in names if name != taken]


def _by_elimination(
    table: Table, text: str | None, label: str | None, free: Sequence[str]
) -> tuple[str | None, str | None]:
    """Give the only column left to the role that is still None, or decide between two columns by their values."""
    free = [name for name in free if name.casefold() not in ROW_NUMBER_NAMES]
    match text, label, free:
        case None, str(), [only]:
            return only, label
        case str(), None, [only]:
            return text, only
        case None, None, [one, other]:
            return _by_values(table, one, other)
        case _:
            return text, label


def _by_values(table: Table, one: str, other: str) -> tuple[str | None, str | None]:
    """Return text and label, if one column has both fewer distinct values and shorter cells."""
    (label_values, label_length, label), (text_values, text_length, text) = sorted(
        (*_measured(table.column(name)), name) for name in (one, other)
    )
    if label_values == text_values or label_length >= text_length:
        return None, None
    if label in {str(cell).strip() for cell in table.column(label)}:
        raise DataError(
            f"The first line of {table.source} looks like a row and not like column names; put a line such as "
            "`text,label` above it."
        )
    return text, label


def _measured(cells: Cells) -> tuple[int, int]:
    """Return the number of distinct values, and the length of all cells together in characters."""
    written = [str(cell) for cell in cells]
    return len(set(written)), sum(map(len, written))


def _cannot_tell(table: Table, text: str | None, label: str | None) -> str:
    missing = {"text": "--text-column (data.text_column)", "label": "--label-column (data.label_column)"}
    asked = [part for part, found in (("text", text), ("label", label)) if found is None]
    columns = ", ".join(map(repr, _shown(table.names)))
    return (
        f"Cannot tell which column of {table.source} holds the {' and which the '.join(asked)}; it has "
        f"{columns}. Name it with {' and '.join(missing[part] for part in asked)}.{_undivided(table)}"
    )


def _undivided(table: Table) -> str:
    """Return a hint for a table that has only one column."""
    return "" if len(table.names) > 1 else " If another character divides its cells, name that by data.delimiter."


def _shown(names: Sequence[str]) -> Sequence[str]:
    return names[:SHOWN_COLUMNS]
