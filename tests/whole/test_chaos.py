"""The benchmark of what goes wrong at night, in its short form: every figure is as it should be."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
SECTIONS = ("kills", "slots", "memory", "postgresql", "sqlite", "leaders", "clocks", "disks", "deadlines", "overhead")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("section", SECTIONS)
def test_its_figures_are_as_they_should_be(section: str) -> None:
    if section == "postgresql" and importlib.util.find_spec("pgserver") is None:
        pytest.skip("pgserver is not installed: it has no wheel for this Python")
    command = [sys.executable, str(CHAOS), "--short", "--only", section]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "  good  " in found.stdout


@pytest.mark.slow
def test_every_section_is_tried() -> None:
    listed = subprocess.run([sys.executable, str(CHAOS), "--help"], capture_output=True, text=True, check=True).stdout
    sections = listed.partition("{")[2].partition("}")[0].split(",")
    assert sorted(sections) == sorted(SECTIONS)
