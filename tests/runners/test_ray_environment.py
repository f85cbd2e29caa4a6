"""The switches that hpo sets or reads in Ray's environment are ones that the installed Ray reads: it ignores others."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from hpo.runners.ray.setup import ENVIRONMENT

READ = [*ENVIRONMENT, "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]


@pytest.fixture(scope="module")
def source() -> str:
    """All of Ray's Python that may read a switch, without importing it: some are read when it is imported."""
    found = find_spec("ray")
    if found is None or found.origin is None:
        pytest.skip("Ray is not installed")
    ray = Path(found.origin).parent
    files = [
        path for folder in ("_common", "_private", "air", "tune", "train") for path in (ray / folder).rglob("*.py")
    ]
    return "\n".join(path.read_text() for path in files if "tests" not in path.parts)


@pytest.mark.parametrize("name", READ)
def test_the_installed_ray_reads_the_switch(source: str, name: str) -> None:
    assert f'"{name}"' in source


def test_a_switch_that_ray_has_not_is_found(source: str) -> None:
    assert '"TUNE_DISABLE_ALL_LOGGERS"' not in source
