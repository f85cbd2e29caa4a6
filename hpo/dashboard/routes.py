"""Dashboard routes: optuna-dashboard's routes to the store, each in one transaction of hpo."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bottle import HTTPResponse, Route, response  # type: ignore[import-untyped]
from optuna_dashboard import wsgi

from hpo.dashboard.pictures import KIND
from hpo.dashboard.study_page import DashboardAdditions
from hpo.errors import HpoError, StoreError
from hpo.search.steering import refuse_led
from hpo.store.database import Database
from hpo.store.optuna_adapter import studies_in
from hpo.store.studies import delete_study

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

Callback = Callable[..., Any]

STUDY = "/api/studies/<study_id:int>"
META = "/api/meta"
PAGE = "/dashboard<:re:(/.*)?>"
PICTURE = "/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"
NOTES = (f"{STUDY}/note", f"{STUDY}/<trial_id:int>/note")
WITH_THE_STORE = ("/api/", "/csv/", "/artifacts/")
NOT_THERE = "The store does not contain this study or trial."
OFFERS = (
    ".MuiCard-root:has(input[type=file])",  # Upload beside artifacts.
    ".MuiBox-root:has(> .MuiBox-root > input[type=file])",  # Upload in the editor of a trial's note.
    "[aria-labelledby=delete-study-dialog-title] .MuiFormControlLabel-root",  # Deletion of artifacts with a study.
    "button:has([data-testid=AddBoxIcon])",  # Creation of a study.
    "[aria-label='rename study']",
)
"""Selectors of controls that the server always refuses."""
OFFERS_OF_CHANGES = ("button:has([data-testid=EditIcon])", "[aria-label='delete study']")
"""Selectors of controls that a read-only dashboard refuses."""
REFUSED = (
    "The dashboard can only change notes and delete studies; the trials, names and files of a study are written only "
    "by its search."
)


def pages(database: Database, *, allow_changes: bool = False) -> "WSGIApplication":
    """Return optuna-dashboard over a store, without access control; it offers changes only if `allow_changes`."""
    application = wsgi(database.storage)
    application.install(RouteFilter(database, OFFERS if allow_changes else OFFERS + OFFERS_OF_CHANGES))
    return application  # type: ignore[no-any-return]


class RouteFilter:
    """Bottle plugin: reads are consistent and lock nothing, changes are atomic, all other requests are refused."""

    name = "hpo"
    api = 2

    def __init__(self, database: Database, hidden: Sequence[str]) -> None:
        """Take a store, and the selectors of controls to hide."""
        self._database, self._hidden = database, hidden
        self._additions = DashboardAdditions(database)

    def apply(self, callback: Callback, route: Route) -> Callback:
        """Return the function that replaces `callback` for `route`."""
        if route.method == "GET":
            if route.rule == PICTURE:
                return _with_reasons(self._picture)
            if route.rule == META:
                return lambda **arguments: callback(**arguments) | {"artifact_is_available": True}
            if route.rule == PAGE:
                return _hiding(self._hidden, callback)
            if not route.rule.startswith(WITH_THE_STORE):
                return callback
            read = _with_reasons(self._within(self._database.read_transaction, callback))
            return self._with_additions(read) if route.rule == STUDY else read
        if route.method == "PUT" and route.rule in NOTES:
            return _with_reasons(self._within(self._database.transaction, callback))
        if route.method == "DELETE" and route.rule == STUDY:
            return _with_reasons(self._delete)
        return lambda **_: _answer(403, REFUSED)

    def _within(self, opened: Callable[[], Any], callback: Callback) -> Callback:
        def within(**arguments: Any) -> Any:
            try:
                with opened():
                    return callback(**arguments)
            except KeyError:
                # Optuna's error for an unknown study or trial, which also ends the transaction.
                return _answer(404, NOT_THERE)

        return within

    def _with_additions(self, read: Callback) -> Callback:
        def shown(**arguments: Any) -> Any:
            page = read(**arguments)
            # The answer to a refused request has a reason but no trials.
            return _with_reasons(self._additions.add_to)(page) if isinstance(page, dict) and "trials" in page else page

        return shown

    def _picture(self, study_id: int, artifact_id: str, **_trial: Any) -> Any:
        drawn = self._additions.picture(name, artifact_id) if (name := self._names().get(study_id)) else None
        if drawn is None:
            return _answer(404, NOT_THERE)
        return HTTPResponse(drawn, headers={"Content-Type": KIND})

    def _names(self) -> dict[int, str]:
        """Return the name of each study."""
        with self._database.read_transaction():
            return {study_id: study.study_name for study_id, study in studies_in(self._database.storage).items()}

    def _delete(self, study_id: int) -> dict[str, Any]:
        """Delete a study without its files, unless a process leads it."""
        names = self._names()
        if study_id not in names:
            return _answer(404, NOT_THERE)
        delete_study(self._database, names[study_id], refuse=refuse_led)
        response.status = 204
        return {}


def _hiding(hidden: Sequence[str], callback: Callback) -> Callback:
    """Return a callback whose page hides the elements that match these selectors."""

    def page(**arguments: Any) -> Any:
        answer = callback(**arguments)
        if not hasattr(answer.body, "read"):
            return answer  # To HEAD, or to a conditional request for an unchanged page.
        with answer.body as file:
            style = f"<style>{','.join(hidden)} {{display: none !important}}</style>"
            text = file.read().decode().replace("</head>", f"{style}</head>")
        return HTTPResponse(text, headers={"Content-Type": "text/html; charset=UTF-8"})

    return page


def _with_reasons(callback: Callback) -> Callback:
    """Return a callback that answers an error of hpo with its message, which the pages show."""

    def answered(*arguments: Any, **named: Any) -> Any:
        try:
            return callback(*arguments, **named)
        except StoreError as error:
            return _answer(503, str(error))
        except HpoError as error:
            return _answer(409, str(error))

    return answered


def _answer(status: int, reason: str) -> dict[str, str]:
    response.status = status
    return {"reason": reason}
