"""Environment variables that hold the password of a store, in whatever form: workers never need it."""

import json
import re
from collections.abc import Mapping
from urllib.parse import unquote, unquote_plus

PASSWORD = "PGPASSWORD"
"""Variable in which PostgreSQL's own library looks for a password that no URL holds."""
NEEDED = frozenset({"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "HOME", "USER", "LOGNAME", "TMPDIR"})
"""Variables without which a process may not start; what is part of a path is no secret."""
STRONG, LONG = 8, 16
"""Characters from which a password, or one of letters alone, is recognised wherever it stands: a shorter one is part of
many words."""


def secret_names(environment: Mapping[str, str], store: str) -> frozenset[str]:
    """Return the names of the variables that hold a password of the store at the URL `store`, or that of `PGPASSWORD`.

    A weak password counts where it is all of a value, or is written as a password: in a URL, or after `password=`.
    """
    passwords = _passwords_of(store) | {environment.get(PASSWORD, "")} - {""}
    holding = {name for name, value in environment.items() if any(_holds(value, one) for one in passwords)}
    return frozenset(holding - NEEDED | {PASSWORD} & environment.keys())


def _passwords_of(store: str) -> set[str]:
    # Whoever carries messages imports this, and opens no store.
    from hpo.store.database import parsed_url

    url = parsed_url(store)
    asked = [value for name in ("password", "sslpassword") for value in url.normalized_query.get(name, ())]
    return {one for one in (str(url.password or ""), *asked) if one}


def _holds(value: str, password: str) -> bool:
    """Return whether `password` is in `value`, as it is or escaped as in a URL or in JSON."""
    forms = {password, json.dumps(password)[1:-1]}
    return any(_stands_in(text, form) for text in {value, unquote(value), unquote_plus(value)} for form in forms)


def _stands_in(text: str, form: str) -> bool:
    if len(form) >= (LONG if form.isalpha() else STRONG):
        return form in text
    word = re.escape(form)
    return text == form or bool(re.search(rf"//[^/@\s]*:{word}@|(?i:passw(or)?d|pwd)\W{{1,4}}{word}(?!\w)", text))
