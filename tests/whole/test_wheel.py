"""The wheel: what it holds, that it works without the checkout, and that its page on an index has no dead link."""

import os
import re
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BESIDE_CODE = (".jinja", ".css", ".js", ".txt", ".typed")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def test_it_holds_every_module_and_every_file_beside_the_code(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [file for file in (ROOT / "hpo").rglob("*") if file.suffix in (".py", *BESIDE_CODE)]
    spaces = {f"hpo/search_spaces/{file.name}" for file in (ROOT / "search_spaces").glob("*.yaml")}
    assert {str(file.relative_to(ROOT)) for file in files} | spaces <= held
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/"))]


def test_its_page_has_no_link_to_a_file_of_the_checkout(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
    page = message_from_string(archive.read(metadata).decode()).get_payload()
    assert "docs/study-file.md" in page
    assert re.findall(r"\]\((?!https?:)[^)]*\)", page) == []


def test_it_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    for words in (["space", "list"], ["space", "check", "encoder"], ["demo", "--help"]):
        run = subprocess.run(
            [sys.executable, "-c", "import hpo; print(hpo.__file__); from hpo.cli.main import main; main()", *words],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert run.stdout.startswith(str(site))
