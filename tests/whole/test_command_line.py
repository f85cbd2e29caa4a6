"""The command line as a user meets it: what it does, what it prints, and how it ends."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hpo.cli.tables import print_leaderboard, print_recommended
from hpo.config.parsing import parse_yaml, write_yaml
from hpo.messages import Ending
from hpo.openmp import spin_briefly
from tests.command_line import Hpo
from tests.report.studies import report_data, scores, trial
from tests.search.scripted import CPU, ended, led, report_at, study_at
from tests.whole.conftest import SPACE
from tests.whole.test_wrong_input import GOOD, refused, write

ROOT = Path(__file__).parents[2]


def test_run_with_nothing_says_what_it_needs(hpo: Hpo) -> None:
    answer = hpo("run")
    assert answer.code == 2
    assert "--model" in answer.out
    assert "--train" in answer.out
    assert "hpo demo" in answer.out


ENDS = """
import atexit
from hpo.__main__ import console
from hpo.cli import main

class Heavy:
    def __del__(self):
        print("taken apart")

def command(**_):
    main.heavy = Heavy()
    atexit.register(print, "tidied up")
    raise SystemExit(5)

main.app = command
console()
"""


def test_a_command_ends_with_its_code_and_what_was_to_be_tidied_up_without_each_object_being_freed() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDS], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (5, "tidied up\n", "")


INTERRUPTED_IMPORT = """
import sys
from hpo.__main__ import console

class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
console()
"""


def test_ctrl_c_while_the_command_is_still_being_imported_is_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "hpo: stopped.\n")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {"GOMP_SPINCOUNT": "20000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_threads_do_not_spin_long_unless_one_said_how_they_wait(given: dict[str, str], kept: dict[str, str]) -> None:
    spin_briefly(given)
    assert given == kept


def test_a_table_of_ones_own_with_odd_column_names(hpo: Hpo, model_folder: Path, texts_file: Path) -> None:
    space = Path("space.yaml")
    space.write_text(write_yaml({"parameters": SPACE}))
    words = ("run", "--model", model_folder, "--train", texts_file, "--space", space, "--trials", 2)
    columns = ("--text-column", "was gesagt wurde", "--label-column", "worüber")
    answer = hpo(*words, *columns)
    assert answer.code == 0, answer.err
    assert "2 trials in all" in answer.out
    assert f"Store: {Path('hpo.db').absolute()}" in answer.out
    best = parse_yaml(Path("best.yaml").read_text(), "best.yaml")
    assert best["study"] == f"post-{model_folder.name}"
    assert 1e-3 <= best["hyperparameters"]["learning_rate"] <= 1e-1


def test_a_study_file_with_values_changed_by_their_path(hpo: Hpo, study_file: Path) -> None:
    answer = hpo("run", study_file, "budget.trials=2", "space.learning_rate.max=0.02", "--output", "won.yaml")
    assert answer.code == 0, answer.err
    best = parse_yaml(Path("won.yaml").read_text(), "won.yaml")
    assert best["hyperparameters"]["learning_rate"] <= 0.02


def test_json_is_all_that_is_printed_on_standard_output(hpo: Hpo, study_file: Path) -> None:
    answer = hpo("run", study_file, "--json")
    content = json.loads(answer.out)
    assert [trial["trial"] for trial in content["trials"]] == [0, 1, 2]
    assert content["best"]["score"] == max(trial["score"] for trial in content["trials"])
    assert set(content) <= set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "json.md").read_text()))
    again = json.loads(hpo("best", "--json").out)
    assert again == {**content, "output": None}
    assert "trial 0 begins" in answer.err


def test_what_a_store_holds(hpo: Hpo, finished: Path) -> None:
    assert "tiny" in hpo("studies").out
    assert json.loads(hpo("studies", "--json").out)[0]["completed"] == 3
    best = hpo("best")
    assert "learning_rate" in best.out
    exported = parse_yaml(hpo("export").out, "export")
    assert (
        exported == json.loads(hpo("export", "--format", "json").out) == json.loads(hpo("best", "--json").out)["best"]
    )
    assert hpo("export", "--output", "mine.yaml").code == 0
    assert parse_yaml(Path("mine.yaml").read_text(), "mine.yaml") == exported


def test_nothing_finished_has_an_exit_code_of_its_own(hpo: Hpo, study_file: Path) -> None:
    values = "space.learning_rate={values: [1e9]}"
    answer = hpo("run", study_file, values, "budget.trials=1")
    assert answer.code == 5
    assert "No trial has completed" in answer.out
    assert hpo("best").code == 5


def test_before_a_trial_has_completed_the_unfinished_one_that_leads_is_shown(hpo: Hpo) -> None:
    with led(study_at("sqlite:///hpo.db", budget={"trials": 3})) as coordinator:
        for worker, score in (("a", 0.3), ("b", 0.7)):
            assignment = coordinator.next_assignment(worker, CPU)
            coordinator.observe(report_at(assignment, assignment.milestones[0], score))
        assert hpo("best", "--json").code == 5
        answer = hpo("best")
        leading = json.loads(hpo("best", "--json").out)
        rate = assignment.hyperparameters.learning_rate
        third = coordinator.next_assignment("c", CPU)
        whole = report_at(third, third.milestones[-1], 0.6)
        whole = replace(whole, validation=replace(whole.validation, confusion=()))
        coordinator.observe(whole)
        coordinator.finish(ended(third, Ending.COMPLETED, whole))
        beside = hpo("best")
    assert answer.code == 5
    assert "No trial has completed. The leading unfinished trial, at its newest evaluation:" in answer.out
    assert "Trial 1 of study scripted: macro_f1 0.7000 on validation" in answer.out
    assert f"learning_rate: {rate:.3g}" in answer.out
    assert (leading["best"], leading["best_unfinished"]) == (None, 1)
    assert beside.code == 0
    assert "Trial 2 of study scripted: macro_f1 0.6000" in beside.out
    at = f"at its newest evaluation: macro_f1 0.7000, with learning_rate {rate:.3g},"
    assert f"Trial 1, unfinished, already scores higher {at}" in beside.out


def test_the_shipped_spaces_are_listed_and_checked(hpo: Hpo) -> None:
    listed = hpo("space", "list").out
    for name in ("quickstart", "encoder", "encoder_small"):
        assert name in listed
        checked = hpo("space", "check", name)
        assert checked.code == 0
        assert "learning_rate" in checked.out


def test_doctor_looks_at_everything_and_makes_nothing(hpo: Hpo, tmp_path: Path) -> None:
    answer = hpo("doctor", "--json")
    found = json.loads(answer.out)
    assert {"python", "torch", "device", "memory", "disk", "store"} <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_a_plain_path_is_a_store_for_every_command(hpo: Hpo, study_file: Path) -> None:
    assert hpo("run", study_file, "--store", "mine.db", "budget.trials=1").code == 0
    assert Path("mine-files", "tiny").is_dir()
    for verb in ("best", "export", "studies", "doctor"):
        assert hpo(verb, "--store", "mine.db").code == 0


def test_the_winner_is_shown_class_by_class(hpo: Hpo, finished: Path) -> None:
    shown = hpo("best").out
    assert "precision" in shown
    assert "money" in shown
    assert "as sport" in shown
    assert "on validation, not confirmed" in shown
    assert "There is no test split" not in shown


def test_a_search_without_a_test_split_says_what_cannot_be_said(hpo: Hpo, study_file: Path) -> None:
    missing = "There is no test split, so the recommended trial has no score"
    assert missing in hpo("run", study_file, "data.test_fraction=0").out
    assert missing in hpo("best").out


@pytest.mark.parametrize("width", [40, 60, 200])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr("hpo.cli.tables.console", lambda: Console(width=width, highlight=False, markup=False))
    trials = [trial(0, 0.5), trial(1, 0.75), trial(12, 0.625)]
    print_leaderboard(report_data(trials).results)
    lines = capsys.readouterr().out.splitlines()
    for number, score in ((1, "0.7500"), (12, "0.6250"), (0, "0.5000")):
        assert any(line.split()[:2] == [str(number), score] and "1 min 30 s" in line for line in lines)
    also = next((line for line in lines if line.startswith("Also varied")), "")
    assert ("momentum" in also) == (width < 200)
    table = [line for line in lines if not line.startswith(("Also varied", "3 trials"))]
    assert max(map(len, table)) <= width


def test_labels_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    steering = scores(0.5, ("\x1b[2J", "two\nlines"))
    print_recommended(report_data([trial(0, 0.5, validation=steering)]).results, None)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "as ·[2J" in shown
    assert "two·lines" in shown


def test_a_study_that_is_not_there_is_told_with_the_nearest(hpo: Hpo, finished: Path) -> None:
    refused(hpo("best", "--study", "tinny"), 2, "'tiny'")


def test_reading_commands_make_no_store(hpo: Hpo, tmp_path: Path) -> None:
    for verb in ("best", "export", "studies"):
        refused(hpo(verb), 3, "no store at")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("statement", ["import hpo", "import hpo.cli.main", "from hpo import load_config, SearchSpace"])
def test_what_is_light_stays_light(statement: str) -> None:
    heavy = ("torch", "ray", "optuna", "transformers")
    code = f"import sys\n{statement}\nprint([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_another_studys_best_configuration_is_not_written_over(hpo: Hpo, finished: Path) -> None:
    before = Path("best.yaml").read_text()
    assert hpo("run", "study.yaml", "--study", "other", "budget.trials=1").code == 0
    assert Path("best.yaml").read_text() == before
    assert parse_yaml(Path("best-other.yaml").read_text(), "")["study"] == "other"


def test_nor_is_that_of_a_study_of_the_same_name_in_another_store(hpo: Hpo, finished: Path) -> None:
    before = Path("best.yaml").read_text()
    for _ in range(2):
        answer = hpo("run", "study.yaml", "--store", "other.db", "budget.trials=1")
        assert answer.code == 0
        assert "best.yaml in this folder belongs to another study, and was not changed." in answer.out
    assert Path("best.yaml").read_text() == before
    assert sorted(path.name for path in Path().glob("best*")) == ["best-tiny.yaml", "best.yaml"]


def test_a_study_that_never_began_is_not_in_the_way(hpo: Hpo, finished: Path) -> None:
    refused(hpo("run", "study.yaml", "--study", "typo", "model.name=nowhere/at/all"), 2, "nowhere/at/all")
    assert "typo" not in hpo("studies").out
    assert hpo("best").code == 0


def test_what_is_missing_may_come_as_an_override(hpo: Hpo, model_folder: Path) -> None:
    train = write(GOOD)
    refused(hpo("run", "--train", train), 2, "--model")
    refused(hpo("run", "--model", model_folder), 2, "--train")
    answer = hpo("run", "--train", train, f"model={{name: {model_folder}}}", "space={learning_rate: {value: 1e-2}}")
    assert "max_length" in answer.err, "it got as far as the model, which reads fewer tokens than the default"


def test_a_place_that_is_no_plain_file_is_written_into(hpo: Hpo, finished: Path) -> None:
    real, link, pipe = finished / "real.yaml", finished / "link.yaml", finished / "pipe"
    real.write_text("# One configuration of a search by hpo. An earlier one.\n")
    link.symlink_to(real)
    assert hpo("export", "--output", link).code == 0
    assert link.is_symlink()
    assert parse_yaml(real.read_text(), "real.yaml")["study"] == "tiny"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        assert hpo("export", "--output", pipe).code == 0
        assert read.result(timeout=30) == real.read_text()
    assert pipe.is_fifo()


def test_a_finished_study_says_that_nothing_is_left(hpo: Hpo, study_file: Path, finished: Path) -> None:
    out = hpo("run", study_file).out
    assert "3 of 3 trials finished\n" in out
    assert "For more, add --trials N, N above 3." in out


def test_a_second_look_at_the_test_split_is_told(hpo: Hpo, study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Test split, read once: trial 0" in hpo("run", study_file, "budget.trials=1").out
    out = hpo("run", study_file, "budget.trials=6").out
    looks = out.count("test split read for trial")
    assert ("read 2 times, for another trial each time: only the first was unbiased" in out) == (looks == 1)
