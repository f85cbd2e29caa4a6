"""What all errors share: the end of a sentence that names the choices."""

import pytest

from hpo.errors import nearest


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("epoch", ["epochs", "batch_size"], "Did you mean 'epochs'? Known: batch_size, epochs."),
        ("EPOCHS", ["epochs"], "Did you mean 'epochs'? Known: epochs."),
        ("xyz", ["epochs", "batch_size"], "Known: batch_size, epochs."),
    ],
)
def test_the_nearest_name_comes_first(name: str, known: list[str], said: str) -> None:
    assert nearest(name, known) == said


def test_the_documented_example_is_what_it_returns() -> None:
    assert f"`{nearest('epoch', ['epochs', 'batch_size'])}`" in str(nearest.__doc__)
