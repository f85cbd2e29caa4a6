"""README and the page of commands: their commands, make targets, YAML and flags are there."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from hpo.cli.main import app
from hpo.config.parsing import parse_yaml, read_model
from hpo.config.study_file import StudyConfig
from hpo.space.search_space import SearchSpace

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
MOST_WORDS = 1500
SECTIONS = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
# The flags whose names users' scripts rely on.
FLAGS = {
    "--model", "--train", "--validation", "--test", "--text-column", "--label-column", "--space", "--study", "--store",
    "--trials", "--seed", "--runner", "--output", "--json", "--for", "--until", "--gpu-hours", "--workers",
    "--keep-weights", "--notify",
}  # fmt: skip


def test_every_command_is_a_verb() -> None:
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    shown = [set(re.findall(r"(?:^    |`)hpo ([a-z]+)", page, re.MULTILINE)) for page in (README, COMMANDS)]
    assert shown[0] <= set(verbs)
    assert shown[1] == set(verbs), "every verb is on the page of commands"


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(README.split()) <= MOST_WORDS


def test_every_make_target_is_one() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


def test_every_file_it_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / link).exists(), link
    for page in ("commands", "figures"):
        for link in re.findall(r"\]\(([^)h][^)]*)\)", (ROOT / "docs" / f"{page}.md").read_text()):
            assert (ROOT / "docs" / link).exists(), link


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
