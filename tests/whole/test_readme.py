"""What the README shows is there: its commands, its make targets, its YAML, its flags."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from hpo.cli.main import app
from hpo.config.reading import parse_yaml, read_model
from hpo.config.study_file import StudyConfig
from hpo.space.search_space import SearchSpace

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECTIONS = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
# The flags whose names users' scripts rely on.
FLAGS = {
    "--model", "--train", "--validation", "--test", "--text-column", "--label-column", "--space", "--study", "--store",
    "--trials", "--seed", "--runner", "--output", "--json", "--for", "--until", "--gpu-hours", "--workers",
    "--keep-weights", "--notify",
}  # fmt: skip


def test_every_command_is_a_verb() -> None:
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    shown = set(re.findall(r"(?:^    |`)hpo ([a-z]+)", README, re.MULTILINE))
    assert shown <= set(verbs)
    assert set(verbs) <= shown, "every verb is shown"


def test_every_make_target_is_one() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


def test_every_file_it_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("number", range(len(SECTIONS)))
def test_its_yaml_is_read(number: int) -> None:
    content = parse_yaml(SECTIONS[number], "README")
    if "parameters" in content:
        assert SearchSpace.from_mapping(content["parameters"], "README").parameters
    else:
        assert read_model(StudyConfig, content, "README").study


def test_the_flags_of_run_keep_their_names() -> None:
    run = get_command(app).commands["run"]  # type: ignore[attr-defined]
    offered = {name for parameter in run.params for name in parameter.opts}
    assert offered >= FLAGS


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README
