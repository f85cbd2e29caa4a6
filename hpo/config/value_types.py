"""Value types of study files: names, paths, moments, durations and delimiters, checked when they are read."""

import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from hpo.config.study_names import checked_study_name
from hpo.config.times import parse_duration, parse_moment

NAMED_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _moment(text: str) -> str:
    # A moment that is past now may have been in the future when the study began; `limits_of` refuses it at a start.
    parse_moment(text, datetime.min.replace(year=2, tzinfo=UTC))
    return text


def _delimiter(text: str) -> str:
    character = NAMED_DELIMITERS.get(text, text)
    if len(character) != 1 or character.isalnum() or character in "\"'\r\n":
        raise ValueError(
            f"'data.delimiter' is {text!r}, but cells are divided by one character that is no letter, digit or "
            f"quotation mark; give it in quotes, or its name: comma, semicolon, tab, pipe."
        )
    return character


Name = Annotated[str, AfterValidator(checked_study_name)]
LocalPath = Annotated[str, BeforeValidator(lambda one: os.path.expanduser(one) if isinstance(one, str | Path) else one)]
"""A path or another name; a leading `~` is expanded to the home folder, because no shell does it in study files."""
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Moment = Annotated[
    str, BeforeValidator(lambda moment: str(moment) if isinstance(moment, date) else moment), AfterValidator(_moment)
]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
FilesUrl = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]+://.+")]
Duration = Annotated[str, AfterValidator(_duration)]
Delimiter = Annotated[str, AfterValidator(_delimiter)]
