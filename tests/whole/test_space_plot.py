"""Curves of learning rates as text: each height is right, and a space shows the schedules that it can take."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpo.cli.schedule_charts import BLOCKS, chart, charts, curve_line
from hpo.config.hyperparameters import Hyperparameters
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import load_space
from hpo.training.schedules import SCHEDULES
from tests.command_line import Hpo

ALL = {"schedule": {"values": list(SCHEDULES)}}


def titles(space: SearchSpace) -> list[str]:
    return [drawn.partition(":")[0] for drawn in charts(space)]


def test_a_line_is_as_documented() -> None:
    line = curve_line(Hyperparameters(), 10)
    assert line == "▁█▇▆▅▄▃▃▂▁"
    assert f"`{line}`" in str(curve_line.__doc__)


def test_a_line_of_known_heights() -> None:
    steps = Hyperparameters(schedule="step", warmup_ratio=0.0, decay_every=0.25, decay_factor=0.5)
    # 1, 1/2, 1/4 and 1/8 of seven levels above the lowest; the last step still is before the fourth cut.
    assert curve_line(steps, 5) == "█▅▃▂▂"
    assert curve_line(Hyperparameters(schedule="constant", warmup_ratio=0.0), 3) == "███"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_chart_is_as_wide_and_high_as_asked(schedule: str) -> None:
    lines = chart(Hyperparameters(schedule=schedule), width=30, height=5).splitlines()
    assert len(lines) == 5 + 2
    assert all(len(line) <= 6 + 30 for line in lines)
    assert len(lines[5]) == len(lines[6]) == 6 + 30
    assert set("".join(line[6:] for line in lines[:5])) <= set(BLOCKS)


def test_a_column_of_a_chart_is_as_high_as_the_rate() -> None:
    """In eighths of two lines: 16, 14, 12, 10, 8, 6, 4, 2, 0."""
    drawn = chart(Hyperparameters(schedule="linear", warmup_ratio=0.0), width=9, height=2).splitlines()
    assert drawn == ["peak │█▆▄▂", "   0 │█████▆▄▂", "     └─────────", "      start end"]


def test_a_space_shows_each_schedule_that_it_can_take() -> None:
    assert titles(SearchSpace.from_mapping(ALL, "s")) == list(SCHEDULES)
    assert titles(SearchSpace.from_mapping({"epochs": {"value": 1}}, "s")) == ["linear"]
    assert titles(SearchSpace.from_mapping({"schedule": {"value": "cosine"}}, "s")) == ["cosine"]


def test_a_schedule_that_comes_with_an_optimizer_is_shown_too() -> None:
    optimizer = {"values": ["schedule_free_adamw", "sgd"]}
    schedule = {"values": ["cosine", "step"], "when": {"optimizer": ["sgd"]}}
    assert titles(SearchSpace.from_mapping({"optimizer": optimizer}, "s")) == ["constant", "linear"]
    space = SearchSpace.from_mapping({"optimizer": optimizer, "schedule": schedule}, "s")
    assert titles(space) == ["constant", "cosine", "step"]


def test_a_chart_has_the_defaults_of_the_space() -> None:
    parameters = {
        "schedule": {"values": ["linear", "polynomial"]},
        "warmup_ratio": {"min": 0.0, "max": 0.4, "default": 0.25},
        "power": {"min": 1.0, "max": 3.0, "default": 1.5, "when": {"schedule": ["polynomial"]}},
    }
    linear, polynomial = charts(SearchSpace.from_mapping(parameters, "s"))
    assert "\nwarmup_ratio 0.25, final_rate_ratio 0\n" in linear
    assert "\nwarmup_ratio 0.25, final_rate_ratio 0, power 1.5\n" in polynomial
    values = {"schedule": "polynomial", "warmup_ratio": 0.25, "power": 1.5}
    assert chart(Hyperparameters.model_validate(values)) in polynomial


def test_a_curve_that_depends_on_scores_says_so() -> None:
    [drawn] = charts(SearchSpace.from_mapping({"schedule": {"value": "reduce_on_plateau"}}, "s"))
    assert "depend on the scores" in drawn


def test_the_command_draws_a_shipped_space_and_a_file(hpo: Hpo, tmp_path: Path) -> None:
    answer = hpo("space", "plot", "encoder")
    assert answer.code == 0
    assert answer.out == "".join(f"{drawn}\n" for drawn in charts(load_space("encoder")))
    (tmp_path / "mine.yaml").write_text("parameters: {schedule: {value: one_cycle}}")
    assert hpo("space", "plot", "mine.yaml").out.startswith("one_cycle: rises on half a cosine")


def test_the_command_refuses_what_is_no_space(hpo: Hpo) -> None:
    answer = hpo("space", "plot", "encodr")
    assert answer.code == 2
    assert "Did you mean 'encoder'?" in answer.err


def test_drawing_imports_neither_torch_nor_optuna() -> None:
    code = (
        "import sys; from hpo.cli.schedule_charts import charts; from hpo.space.space_file import load_space; "
        "list(charts(load_space('encoder'))); print(sorted({'optuna', 'torch', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
