"""`hpo dashboard` reads the store of a search that trains a real model meanwhile, and shows what is true."""

from typing import Any

from hpo.config.study_file import StudyConfig
from hpo.messages import Outcome
from hpo.runners.callbacks import SearchCallback
from hpo.runners.run import run
from tests.dashboard.visiting import Visitor, dashboard_at


def test_the_dashboard_shows_a_search_while_it_runs(config: StudyConfig) -> None:
    shown: list[dict[str, Any]] = []

    class Look(SearchCallback):
        def ended(self, outcome: Outcome) -> None:
            if outcome.trial == 1:
                with dashboard_at(config.store.url) as address:
                    shown.append(Visitor(address).page())

    results = run(config, Look())
    (page,) = shown
    assert page["name"] == "tiny"
    assert page["objective_names"] == ["f1"], page.keys()
    assert [trial["state"] for trial in page["trials"]] == ["Complete", "Complete"]
    assert [trial["values"] for trial in page["trials"]] == [[trial.score] for trial in results.trials[:2]]
    attributes = {attribute["key"] for attribute in page["trials"][0]["user_attrs"]}
    assert {"learning_rate", "train_f1", "validation_f1", "seconds"} <= attributes
    assert len(page["trials"][0]["intermediate_values"]) == 4
    assert "The search is still running" in page["note"]["body"]
    assert "hpo-learning_curves" in {figure["id"] for figure in page["plotly_graph_objects"]}
