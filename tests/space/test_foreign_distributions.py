"""W&B's distributions and keys that a space does not have: each is refused with what to write instead."""

from typing import Any

import pytest

from hpo.errors import SpaceError
from hpo.space.search_space import SearchSpace

ENDS = "which has no smallest and no largest value; write `min:` and `max:`, or the `values:`."
STEPS = "which is not known here; write the `values:`, or `distribution: log_uniform_values` for a real number."
BETA = "which is not known here; write `min: 0.0` and `max: 1.0`."
LIKELY = "but every value is as likely as the others here; "
EXPONENTS = "which takes exponents; write `distribution: log_uniform_values` with the smallest and the largest value"
# Every distribution of W&B's schema that is not ours, with keys that it has there.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "log_uniform": ({"min": -11.5129, "max": -6.9078}, f"{EXPONENTS}, here `min: 1e-05` and `max: 0.001`."),
    "inv_log_uniform": ({"min": 7, "max": 11}, f"{EXPONENTS}."),
    "inv_log_uniform_values": ({"min": 1e-5, "max": 1e-3}, "which is the same as log_uniform_values; write that."),
    "q_log_uniform": ({"min": 1, "max": 3, "q": 1}, STEPS),
    "q_log_uniform_values": ({"min": 8, "max": 64, "q": 8}, STEPS),
    "normal": ({"mu": 0.1, "sigma": 0.01}, ENDS),
    "q_normal": ({"mu": 1, "sigma": 1, "q": 1}, ENDS),
    "log_normal": ({"mu": -9, "sigma": 1}, ENDS),
    "q_log_normal": ({"mu": 1, "sigma": 1, "q": 1}, ENDS),
    "beta": ({"a": 1, "b": 2}, BETA),
    "q_beta": ({"a": 1, "b": 2, "q": 0.1}, BETA),
    "categorical_w_probabilities": ({"values": [1, 2]}, f"{LIKELY}leave distribution out."),
}


def sentence(spec: dict[str, Any]) -> str:
    with pytest.raises(SpaceError) as error:
        SearchSpace.from_mapping({"l2_strength": spec}, "s")
    return str(error.value)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_distribution_of_wandb_is_refused_with_its_remedy(kind: str) -> None:
    keys, said = REFUSED[kind]
    assert sentence({"distribution": kind} | keys) == f"Space s, l2_strength has W&B's distribution {kind}, {said}"


@pytest.mark.parametrize("ends", [{}, {"min": "a", "max": 1}, {"min": 1, "max": 1e6}, {"min": float("nan"), "max": 1}])
def test_exponents_that_come_to_no_number_are_not_reckoned(ends: dict[str, Any]) -> None:
    said = sentence({"distribution": "log_uniform"} | ends)
    assert said == f"Space s, l2_strength has W&B's distribution log_uniform, {EXPONENTS}."


def test_keys_of_wandb_are_refused_with_their_remedy() -> None:
    said = sentence({"values": [0.1, 0.2], "probabilities": [0.5, 0.5]})
    assert said == f"Space s, l2_strength has probabilities, {LIKELY}leave it out."
    said = sentence({"value": 0.1, "parameters": {"beta1": {"value": 0.9}}})
    assert said == (
        "Space s, l2_strength has parameters, but hyperparameters are not nested here; write those in it one level up."
    )
