"""Standard output that is closed, full, cut or of few letters: no traceback, a search that finished exits with 0."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.config.parsing import write_yaml
from hpo.config.study_file import StudyConfig

LOST = "hpo: the output is lost, because standard output cannot be written to:"


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which $HPO is the command; its exit code is that of the first command of a pipe."""
    hpo = f"{sys.executable} -m hpo"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment, "HPO": hpo}
    line = f"{line}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, timeout=200)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("$HPO space check encoder >&-", 1, f"{LOST} it is closed.\n"),
        ("$HPO space check encoder > /dev/full", 1, f"{LOST} No space left on device.\n"),
        ("$HPO space check encoder 2> /dev/full > /dev/full", 1, ""),
        ("$HPO space check encoder | head -1 > /dev/null", 0, ""),
        ("$HPO space check nowhere 2>&-", 2, ""),
        ("$HPO space check encoder <&- >/dev/null", 0, ""),
    ],
)
def test_a_command_whose_output_fails_has_no_traceback(line: str, code: int, said: str, tmp_path: Path) -> None:
    run = shell(line, tmp_path)
    assert (run.returncode, run.stderr.decode()) == (code, said)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_an_encoding_lacks_are_shown_by_their_numbers(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "ж.yaml").write_text("parameters:\n  epochs: {min: 1, max: 3, source: Кто-то}\n", encoding="utf-8")
    run = shell("$HPO space check ж.yaml", tmp_path, PYTHONIOENCODING=encoding, COLUMNS="200")
    assert (run.returncode, run.stderr) == (0, b"")
    assert "Кто-то".encode(encoding, "backslashreplace") in run.stdout


@pytest.mark.parametrize(
    ("redirected", "said"),
    [
        ("> /dev/full", f"{LOST} No space left on device."),
        pytest.param(">&-", f"{LOST} it is closed.", marks=pytest.mark.slow),
        pytest.param("| head -2", "", marks=pytest.mark.slow),
    ],
)
def test_a_search_that_finished_exits_with_0_whatever_became_of_its_output(
    redirected: str, said: str, config: StudyConfig, tmp_path: Path
) -> None:
    values = config.model_dump(mode="json", exclude={"store"}) | {"budget": {"trials": 1}}
    (tmp_path / "study.yaml").write_text(write_yaml(values))
    run = shell(f"$HPO run study.yaml {redirected}", tmp_path)
    assert (run.returncode, run.stderr.decode().strip()) == (0, said)
    assert (tmp_path / "best.yaml").exists()
