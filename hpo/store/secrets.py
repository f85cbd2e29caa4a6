"""Secrets: the environment variables with a password of the store, which workers must not inherit."""

import json
import re
from collections.abc import Mapping
from urllib.parse import unquote, unquote_plus

PASSWORD = "PGPASSWORD"
"""Variable in which PostgreSQL's own library looks for a password that is not in the URL."""
NEEDED = frozenset({"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "HOME", "USER", "LOGNAME", "TMPDIR"})
"""Variables without which a process may not start; parts of paths are not secrets."""
STRONG, LONG = 8, 16
"""Length from which a password, or one of letters only, is recognised anywhere in a value: shorter ones are parts of
many words."""


def secret_names(environment: Mapping[str, str], store: str) -> frozenset[str]:
    """Return the names of the variables that contain a password of the URL `store`, or that of `PGPASSWORD`.

    A weak password counts only if it is the whole value, or is written as a password: in a URL, or after `password=`.
    """
    passwords = _passwords_of(store) | {environment.get(PASSWORD, "")} - {""}
    holding = {name for name, value in environment.items() if any(_holds(value, one) for one in passwords)}
    return frozenset(holding - NEEDED | {PASSWORD} & environment.keys())


def _passwords_of(store: str) -> set[str]:
    # Processes that only pass messages import this, and open no store.
    from hpo.store.database import parsed_url

    url = parsed_url(store)
    asked = [value for name in ("password", "sslpassword") for value in url.normalized_query.get(name, ())]
    return {one for one in (str(url.password or ""), *asked) if one}


def _holds(value: str, password: str) -> bool:
    """Return true if `password` is in `value`, as it is or escaped as in a URL or in JSON."""
    forms = {password, json.dumps(password)[1:-1]}
    return any(_stands_in(text, form) for text in {value, unquote(value), unquote_plus(value)} for form in forms)


def _stands_in(text: str, form: str) -> bool:
    if len(form) >= (LONG if form.isalpha() else STRONG):
        return form in text
    word = re.escape(form)
    return text == form or bool(re.search(rf"//[^/@\s]*:{word}@|(?i:passw(or)?d|pwd)\W{{1,4}}{word}(?!\w)", text))
