"""What a study asks of its model follows from all that its space can propose."""

from typing import Any

import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.loading import load_config
from hpo.messages import Demands
from hpo.search.preflight import demands_of
from hpo.search.pruners import trial_milestones
from hpo.space.search_space import SearchSpace

NOTHING: dict[str, Any] = {
    "max_length": 128, "trained_layers": None, "kept_layers": None, "dropout": False, "attention_dropout": False,
    "token_masking": False, "word_swap": False,
}  # fmt: skip
TOP = {"method": {"values": ["full", "top_layers"]}}


@pytest.mark.parametrize(
    ("space", "demanded"),
    [
        ({"epochs": {"value": 1}}, {}),
        ({"max_length": {"values": [64, 512, 256]}}, {"max_length": 512}),
        # What is not said is the usual number of layers, and so is null.
        (TOP, {"trained_layers": 2}),
        (TOP | {"trained_layers": {"values": [1, None], "when": {"method": ["top_layers"]}}}, {"trained_layers": 2}),
        (TOP | {"trained_layers": {"min": 1, "max": 4, "when": {"method": ["top_layers"]}}}, {"trained_layers": 4}),
        ({"kept_layers": {"values": [None, 3]}}, {"kept_layers": 3}),
        ({"dropout": {"value": 0.0}}, {"dropout": True}),
        ({"dropout": {"value": None}, "attention_dropout": {"values": [None, 0.1]}}, {"attention_dropout": True}),
        ({"token_masking": {"min": 0.0, "max": 0.1}, "word_swap": {"value": 0.0}}, {"token_masking": True}),
    ],
)
def test_the_most_that_a_trial_asks_of_its_model(space: dict[str, Any], demanded: dict[str, Any]) -> None:
    assert demands_of(SearchSpace.from_mapping(space, "mine")) == Demands(**(NOTHING | demanded))


def test_a_run_that_confirms_is_scored_only_where_its_best_epoch_is_chosen() -> None:
    """Nothing prunes it, so the rungs between its full evaluations would only cost time."""
    config = load_config(values={"study": "one", "model": {"name": "none"}, "data": {"train": "none.csv"}})
    space = SearchSpace.from_mapping({"epochs": {"value": 3}}, "mine")
    given = Hyperparameters(learning_rate=1e-4, epochs=3)
    searched, confirming = (trial_milestones(config, space, given, confirms=confirms) for confirms in (False, True))
    assert confirming == tuple(milestone for milestone in searched if milestone.full)
    assert len(confirming) < len(searched)
