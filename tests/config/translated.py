"""Spaces with names of other libraries, translated or refused."""

from typing import Any

import pytest

from hpo.errors import SpaceError
from hpo.space.search_space import SearchSpace


def space(parameters: dict[str, Any]) -> SearchSpace:
    """Return the space of `parameters`."""
    return SearchSpace.from_mapping(parameters, "s")


def refusal(parameters: dict[str, Any]) -> str:
    """Return the sentence with which a space of `parameters` is refused."""
    with pytest.raises(SpaceError) as error:
        space(parameters)
    return str(error.value)
