"""Dashboard routes: those of optuna-dashboard that reach the store, each in one transaction of ours."""

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
NOT_THERE = "The store holds no such study or trial now."
OFFERS = (
    ".MuiCard-root:has(input[type=file])",  # Beside artifacts.
    ".MuiBox-root:has(> .MuiBox-root > input[type=file])",  # In the editor of a trial's note.
    "[aria-labelledby=delete-study-dialog-title] .MuiFormControlLabel-root",  # To delete artifacts with a study.
    "button:has([data-testid=AddBoxIcon])",  # To make a study.
    "[aria-label='rename study']",
)
"""Elements of pages whose use is always refused."""
OFFERS_OF_CHANGES = ("button:has([data-testid=EditIcon])", "[aria-label='delete study']")
"""Elements whose use is refused where the dashboard only reads."""
REFUSED = (
    "Here notes can be changed and studies deleted, nothing else: trials, names and files of a study are written by "
    "its search alone."
)


def pages(database: Database, *, allow_changes: bool = False) -> "WSGIApplication":
    """Return optuna-dashboard over a store, unguarded; `allow_changes` says whether it offers any."""
    application = wsgi(database.storage)
    application.install(RouteFilter(database, OFFERS if allow_changes else OFFERS + OFFERS_OF_CHANGES))
    return application  # type: ignore[no-any-return]


class RouteFilter:
    """A plugin of Bottle: reads are consistent and lock nothing, changes are whole, all others are refused."""

    name = "hpo"
    api = 2

    def __init__(self, database: Database, hidden: Sequence[str]) -> None:
        """Take a store, and selectors of the elements of pages whose use is refused."""
        self._database, self._hidden = database, hidden
        self._additions = DashboardAdditions(database)

    def apply(self, callback: Callback, route: Route) -> Callback:
        """Return what is called for `route` instead of `callback`."""
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
                # So Optuna says it, and a transaction in which it did is over, even where its dashboard has an answer.
                return _answer(404, NOT_THERE)

        return within

    def _with_additions(self, read: Callback) -> Callback:
        def shown(**arguments: Any) -> Any:
            page = read(**arguments)
            # A refusal has a reason and no trials.
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
    """Return a callback whose page hides the elements that these selectors match."""

    def page(**arguments: Any) -> Any:
        answer = callback(**arguments)
        if not hasattr(answer.body, "read"):
            return answer  # To a request for its head alone, or for news of it.
        with answer.body as file:
            style = f"<style>{','.join(hidden)} {{display: none !important}}</style>"
            text = file.read().decode().replace("</head>", f"{style}</head>")
        return HTTPResponse(text, headers={"Content-Type": "text/html; charset=UTF-8"})

    return page


def _with_reasons(callback: Callback) -> Callback:
    """Return a callback that answers an error of hpo with its sentence, which the pages show."""

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
