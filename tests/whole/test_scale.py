"""The benchmark of long studies, in its short form: every figure is as it should be."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCALE = Path(__file__).parents[2] / "benchmarks" / "scale.py"
SECTIONS = ("verbs", "pruner", "tpe", "leader", "dispatch")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_figures_are_as_they_should_be() -> None:
    if importlib.util.find_spec("pgserver") is None:
        pytest.skip("pgserver is not installed: it has no wheel for this Python")
    found = subprocess.run([sys.executable, str(SCALE), "--short"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert [section for section in SECTIONS if f"\n{section} (" in found.stdout] == list(SECTIONS)
    assert "  good  next_assignment" in found.stdout
    assert "BAD" not in found.stdout


@pytest.mark.slow
def test_every_section_is_tried() -> None:
    listed = subprocess.run([sys.executable, str(SCALE), "--help"], capture_output=True, text=True, check=True).stdout
    sections = listed.partition("{")[2].partition("}")[0].split(",")
    assert sorted(sections) == sorted(SECTIONS)
