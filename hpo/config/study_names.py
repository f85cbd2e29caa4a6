"""Study names: valid as names of folders and files on every machine."""

import re
import unicodedata

MOST_CHARACTERS, MOST_BYTES = 128, 200
"""Largest length of a name; file names, which add a prefix and an ending to it, may have 255 bytes."""


def checked_study_name(name: str) -> str:
    """Return `name` in Unicode's composed form (NFC); raise a ValueError if it is not a valid study name."""
    name = unicodedata.normalize("NFC", name)
    if not is_study_name(name):
        raise ValueError(
            f"'study' is {name!r}, but a study's name is made of letters and digits of any script, space . _ - and "
            f"starts with a letter or a digit, and has at most {MOST_CHARACTERS} characters and {MOST_BYTES} bytes in "
            "UTF-8."
        )
    return name


def is_study_name(name: str) -> bool:
    """Return true if `name` is a valid study name."""
    return bool(name) and as_study_name(name, "") == name


def as_study_name(text: str, otherwise: str) -> str:
    """Return a valid name made from `text`, with dashes for other characters, cut if long; `otherwise` if empty."""
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(character if _is_allowed(character) else "\0" for character in composed)
    name = re.sub("\0+", "-", kept)
    while name and unicodedata.category(name[0])[0] not in "LN":
        name = name[1:]
    return name[:MOST_CHARACTERS].encode()[:MOST_BYTES].decode(errors="ignore") or otherwise


def _is_allowed(character: str) -> bool:
    """Return true for a letter, a digit, a combining mark, a space, a dot, an underscore or a dash."""
    return character in " ._-" or unicodedata.category(character)[0] in "LNM"
