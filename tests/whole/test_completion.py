"""Help and shell completion: verbs in groups, the choices of an option shown and completed, the same as in a file."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command

from hpo.cli.main import VERBS, app
from hpo.config.study_file import ComputeConfig
from tests.command_line import Hpo


def completed(words: str) -> list[str]:
    """Return what bash is offered for the last of the words."""
    asked = {"_HPO_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    command = [sys.executable, "-c", "from hpo.__main__ import console; console()"]
    ended = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=True)
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hpo st", ["status", "stop", "studies"]),
        ("hpo space p", ["plot"]),
        ("hpo run --runner ", ["auto", "inline", "processes", "ray_tune"]),
        ("hpo train best.yaml --on train+", ["train+validation"]),
        ("hpo export --format y", ["yaml"]),
        ("hpo confirm --keep", []),
    ],
)
def test_a_shell_completes_verbs_options_and_choices(words: str, offered: list[str]) -> None:
    assert sorted(completed(words)) == offered


def test_a_shell_is_told_how_to_complete() -> None:
    # Typer asks which shell has started it; without the second command bash would be replaced by the first.
    asked = f"{sys.executable} -m hpo --show-completion; exit $?"
    shown = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert "_HPO_COMPLETE=complete_bash" in shown.stdout


def test_every_verb_has_a_group_in_the_help(hpo: Hpo) -> None:
    shown = hpo("--help").out
    assert all(f"─ {heading} ─" in shown for heading in VERBS)
    assert {verb for verbs in VERBS.values() for verb in verbs} == set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", ["", "run", "enqueue", "space check", "curves export"])
def test_the_help_names_no_type_beside_what_has_no_value_or_names_its_form(hpo: Hpo, verb: str) -> None:
    shown = hpo(*verb.split(), "--help").out
    assert "--help" in shown
    assert "<bool>" not in shown
    assert "<list" not in shown


@pytest.mark.parametrize("option", ["runner", "device", "precision"])
def test_an_option_takes_what_a_study_file_does(hpo: Hpo, option: str) -> None:
    shown = {"runner": "run", "device": "predict", "precision": "predict"}
    allowed = get_args(ComputeConfig.model_fields[option].annotation)
    helped = "".join(hpo(shown[option], "--help").out.split())
    assert all(one in helped for one in allowed if (option, one) != ("precision", "auto"))
    refused = hpo(shown[option], *(["x", "y"] if option != "runner" else []), f"--{option}", "none")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert f"--{option} cannot be 'none'. Known: " in refused.err


def test_a_word_with_an_equals_sign_is_a_file_where_there_is_one(hpo: Hpo, tmp_path: Path) -> None:
    (tmp_path / "a=b.yaml").write_text("model: {name: nowhere}\n")
    assert "hpo run takes one study file and overrides PATH=VALUE" in hpo("run", "a=b.yaml", "other.yaml").err
    assert "hpo simulate takes one study file" in hpo("simulate", "budget.trials=3", "--curves", "generated").err
    assert "hpo train takes one file that hpo export wrote" in hpo("train", "a.yaml", "b.yaml", "--output", "m").err
