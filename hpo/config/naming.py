"""Name look-up: what a name or value of another library is called here, by the tables of `other_names`."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hpo.config import other_names
from hpo.config.other_names import Alias, CountAlias, Entry, Meaning
from hpo.errors import misspelt, nearest

_BEST = r"(?:(?:best|max|final)[/_.-])?"
_PART = r"(?:(?:val|valid|validation|eval|evaluation|dev)[/_.-])?"
_ON_VALIDATION = re.compile(f"^{_BEST}{_PART}{_BEST}|(?<=.)[/_.-](?:val|valid|validation|eval|dev)$", re.IGNORECASE)


def normalized(name: object) -> str:
    """Return a name without case, dashes, underscores and the like: that by which names are compared."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


def look_up(name: object, table: Mapping[str, Entry]) -> Entry | None:
    """Return the entry of a name, however it is spelled; None where there is none."""
    return {normalized(key): entry for key, entry in table.items()}.get(normalized(name))


def known_name(name: object, known: Iterable[str]) -> str | None:
    """Return which of `known` a name is but for case, dashes and underscores."""
    return look_up(name, {one: one for one in known})


def meaning(name: str, known: Collection[str], beside: Iterable[object] = ()) -> Meaning | None:
    """Return what the hyperparameter `name` is here; None for what is not understood.

    Args:
        name: as it was given, perhaps with words before it, as in `training.lr`.
        known: what there is here.
        beside: all names of the same file: a prefix that every one of them bears is taken off.
    """
    for form in _forms(name, [str(one) for one in beside]):
        ours = known_name(form, known)
        if entry := Alias(ours) if ours else look_up(form, other_names.NAMES):
            return entry
    return None


def _forms(name: str, beside: list[str]) -> Iterable[str]:
    """Return the name as it is, then without the prefix of all of them, then without the words of `PREFIXES`."""
    yield name
    if len(beside) > 1:
        heads = [name[: sign.end()] for sign in re.finditer(r"[./_-]+", name)]
        yield from (name.removeprefix(head) for head in heads if all(one.startswith(head) for one in beside))
    words = re.split(r"[./]", name)
    for place, word in enumerate(words[:-1], 1):
        if not known_name(word, other_names.PREFIXES):
            return
        rest = "_".join(words[place:])
        # First, since `alpha` and `dropout` alone are something else.
        yield from (f"lora_{rest}", rest) if known_name(word, other_names.OF_LORA) else (rest,)


def advice(name: str, known: Collection[str], also: Iterable[str] = ()) -> str:
    """Return the end of a message about an unknown `name`: what it is here, else what it is misspelt for, else `known`.

    Args:
        name: what was given.
        known: what it could have been there.
        also: what else it may be misspelt for.
    """
    entry = None if misspelt(name, known) else meaning(name, known)
    if isinstance(entry, Alias) and entry.ours in known:
        return f"Here it is {entry.ours}."
    if isinstance(entry, CountAlias) and entry.share in known:
        return f"Here it is {entry.share}, a share."
    return nearest(name, known, also)


def metric_of(name: str) -> tuple[str, bool]:
    """Return what a metric is called here, and whether it is what is maximised in place of something minimised."""
    score = _ON_VALIDATION.sub("", name)
    if loss := look_up(score, other_names.LOSSES):
        return loss, True
    return look_up(score, other_names.METRICS) or known_name(score, other_names.METRICS.values()) or score, False


def metric_note(name: str, ours: str) -> list[str]:
    """Return what to say of a metric of another name."""
    what = " (F1 of two classes, macro F1 of more)" if ours == "auto" else ""
    return [] if name == ours else [f"The metric {name} is taken for {ours}{what}."]


def study_key(key: str, here: Collection[str]) -> str | None:
    """Return the key of a study file that an unknown `key` means: one of `here` spelled otherwise, or a dotted one."""
    return known_name(key, here) or look_up(key, other_names.STUDY_KEYS)


def study_value(path: str, value: Any) -> str | None:
    """Return what a value of the key at `path` is called here, if another library's word."""
    return look_up(value, other_names.STUDY_VALUES.get(path, {})) if isinstance(value, str) else None
