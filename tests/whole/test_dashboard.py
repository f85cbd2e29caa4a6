"""optuna-dashboard reads the store while a search runs, and shows what is true."""

import json
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna_dashboard import wsgi

from hpo.config.study_file import StudyConfig
from hpo.messages import Outcome
from hpo.runners.run import run
from hpo.runners.watcher import Watcher


def asked(url: str, path: str) -> Any:
    """Return what the dashboard's own pages are told at `path`."""
    environment: dict[str, Any] = {}
    setup_testing_defaults(environment)
    environment |= {"PATH_INFO": path, "REQUEST_METHOD": "GET", "wsgi.input": BytesIO()}
    status: list[str] = []
    body = b"".join(wsgi(url)(environment, lambda code, *_rest: status.append(code)))
    assert status == ["200 OK"], (path, status, body)
    return json.loads(body)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_dashboard_shows_a_search_while_it_runs(config: StudyConfig) -> None:
    shown: list[dict[str, Any]] = []

    class Look(Watcher):
        def ended(self, outcome: Outcome) -> None:
            if outcome.trial == 1:
                study = optuna.load_study(study_name="tiny", storage=config.store.url)
                shown.append(asked(config.store.url, f"/api/studies/{study._study_id}"))

    run(config, Look())
    (page,) = shown
    assert page["name"] == "tiny"
    assert page["objective_names"] == ["f1"], page.keys()
    assert [trial["state"] for trial in page["trials"]] == ["Complete", "Complete"]
    attributes = {attribute["key"] for attribute in page["trials"][0]["user_attrs"]}
    assert {"learning_rate", "train_f1", "validation_f1", "seconds"} <= attributes
    assert len(page["trials"][0]["intermediate_values"]) == 4
