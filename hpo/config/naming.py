"""Name translation: hpo's names for names and values of other libraries, from the tables of `other_names`."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hpo.config import other_names
from hpo.config.other_names import Alias, CountAlias, Entry, Meaning
from hpo.errors import misspelt, nearest

TRANSLATION = " is taken for "
"""Words of every note on a translated name."""
_BEST = r"(?:(?:best|max|final)[/_.-])?"
_PART = r"(?:(?:val|valid|validation|eval|evaluation|dev)[/_.-])?"
_ON_VALIDATION = re.compile(f"^{_BEST}{_PART}{_BEST}|(?<=.)[/_.-](?:val|valid|validation|eval|dev)$", re.IGNORECASE)


def normalized(name: object) -> str:
    """Return a name in lower case without dashes, underscores and other signs, as names are compared."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


def look_up(name: object, table: Mapping[str, Entry]) -> Entry | None:
    """Return the entry of a name in any spelling that `normalized` makes equal; None if there is none."""
    return {normalized(key): entry for key, entry in table.items()}.get(normalized(name))


def known_name(name: object, known: Iterable[str]) -> str | None:
    """Return the one of `known` that differs from `name` only in case, dashes or underscores; None if none does."""
    return look_up(name, {one: one for one in known})


def meaning(name: str, known: Collection[str], beside: Iterable[object] = ()) -> Meaning | None:
    """Return the meaning in hpo of a hyperparameter's `name`; None if it is unknown.

    Args:
        name: as given, possibly with a prefix, as in `training.lr`.
        known: names in hpo.
        beside: all names of the same file; a prefix that they have in common is removed.
    """
    for form in _forms(name, [str(one) for one in beside]):
        ours = known_name(form, known)
        if entry := Alias(ours) if ours else look_up(form, other_names.NAMES):
            return entry
    return None


def _forms(name: str, beside: list[str]) -> Iterable[str]:
    """Yield the name as it is, then without the prefix that all names share, then without the words of `PREFIXES`."""
    yield name
    if len(beside) > 1:
        heads = [name[: sign.end()] for sign in re.finditer(r"[./_-]+", name)]
        yield from (name.removeprefix(head) for head in heads if all(one.startswith(head) for one in beside))
    words = re.split(r"[./]", name)
    for place, word in enumerate(words[:-1], 1):
        if not known_name(word, other_names.PREFIXES):
            return
        rest = "_".join(words[place:])
        # LoRA's name first, because `alpha` and `dropout` alone are other hyperparameters.
        yield from (f"lora_{rest}", rest) if known_name(word, other_names.OF_LORA) else (rest,)


def advice(name: str, known: Collection[str], also: Iterable[str] = ()) -> str:
    """Return the end of a message about an unknown `name`: hpo's name, else the likely spelling, else all of `known`.

    Args:
        name: the given name.
        known: names that are valid there.
        also: further names that may be suggested.
    """
    entry = None if misspelt(name, known) else meaning(name, known)
    if isinstance(entry, Alias) and entry.ours in known:
        return f"Here it is {entry.ours}."
    if isinstance(entry, CountAlias) and entry.share in known:
        return f"Here it is {entry.share}, a share."
    return nearest(name, known, also)


def with_translations_joined(notes: Iterable[str]) -> list[str]:
    """Return notes in which those on translated names are one, in the place of the first."""
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault("" if TRANSLATION in note else note, []).append(note)
    return [" ".join(dict.fromkeys(alike)) for alike in kinds.values()]


def metric_of(name: str) -> tuple[str, bool]:
    """Return hpo's name of a metric, and true if `name` is a loss, in place of which hpo maximises that metric."""
    score = _ON_VALIDATION.sub("", name)
    if loss := look_up(score, other_names.LOSSES):
        return loss, True
    return look_up(score, other_names.METRICS) or known_name(score, other_names.METRICS.values()) or score, False


def metric_note(name: str, ours: str) -> list[str]:
    """Return a note that a metric's name was translated; none if it has the same name in hpo."""
    what = " (F1 of two classes, macro F1 of more; named once the labels are read)" if ours == "auto" else ""
    return [] if name == ours else [f"The metric {name} is taken for {ours}{what}."]


def study_key(key: str, here: Collection[str]) -> str | None:
    """Return the key that an unknown `key` means: one of `here` in another spelling, or a dotted one; else None."""
    return known_name(key, here) or look_up(key, other_names.STUDY_KEYS)


def study_value(path: str, value: Any) -> str | None:
    """Return hpo's name of a value of the key `path`, if `value` is another library's name; else None."""
    return look_up(value, other_names.STUDY_VALUES.get(path, {})) if isinstance(value, str) else None
