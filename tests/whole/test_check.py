"""`hpo check`: its findings for a real tiny model, that it keeps nothing, and when it refuses."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.loading import load_config
from hpo.config.parsing import write_yaml
from hpo.config.study_file import StudyConfig
from hpo.config.times import humanized
from hpo.data.splits import load_splits
from hpo.errors import ConfigurationError, DataError, StoreError
from hpo.messages import Dimensions, Probe, Timed
from hpo.runners.callbacks import SearchCallback
from hpo.runners.check import check as checking
from hpo.runners.check.check import check
from hpo.runners.check.search_forecast import ShortCheck, short_check
from hpo.search.trial_sizes import cheapest
from hpo.space.search_space import SearchSpace
from hpo.training.worker import Worker
from tests.command_line import Hpo
from tests.search.scripted import led, search, study_at
from tests.whole.conftest import SPACE

Hpo = Hpo
EASY = Probe(
    feasible=True,
    micro_batch_size=None,
    seconds_per_step=2.0,
    seconds_per_scored_row=0.1,
    timed=(Timed(trained_tokens=128, updates=1, seconds=2.0), Timed(scored_tokens=200, seconds=1.0)),
    peak_memory_bytes=1000,
    checkpoint_bytes=300,
    weights_bytes=100,
    first_loss=math.log(2),
)
NO_ROOM = replace(EASY, feasible=False, seconds_per_step=0.0, seconds_per_scored_row=0.0, timed=())


def changed(config: StudyConfig, *overrides: str, **values: Any) -> StudyConfig:
    return load_config(values=config.model_dump(mode="json") | values, overrides=overrides)


def files_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> dict[int, Probe]:
    """What the real worker's probe answers, by batch size, to be filled in; 16 is the dearest, 8 the cheapest."""
    answers: dict[int, Probe] = {}

    def probe(_worker: Worker, hyperparameters: Hyperparameters, steps: int, _most: float = math.inf) -> Probe:
        assert steps == checking.STEPS
        return answers[hyperparameters.batch_size]

    monkeypatch.setattr(Worker, "probe", probe)
    return answers


# What it says


def test_a_study_that_is_well_has_nothing_wrong(config: StudyConfig, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    found = check(config)
    assert found.refusals == ()
    assert found.warnings == ()
    assert files_below(tmp_path) == before, "it keeps nothing"
    ends = found.forecast.extremes
    assert [ends[name].hyperparameters.batch_size for name in ("dearest", "slowest", "cheapest")] == [16, 8, 8]
    # 72 of the 120 texts are trained on, for two epochs.
    assert [ends[name].steps for name in ("dearest", "slowest", "cheapest")] == [10, 18, 18]
    assert ends["slowest"] is ends["cheapest"], "one configuration is probed once"
    assert all(end.fits and end.seconds > 0 for end in ends.values())
    assert found.forecast.trial_seconds is not None
    assert found.forecast.search_seconds == tuple(3 * seconds for seconds in found.forecast.trial_seconds)
    assert found.forecast.fitting is None
    assert 0 < found.forecast.disk_bytes < found.disk_free
    assert found.precision == "fp32"


@pytest.mark.slow
def test_two_worker_processes_are_counted_and_leave_nothing(config: StudyConfig, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    found = check(changed(config, "compute.workers=2"))
    assert found.forecast.workers == 2
    assert found.forecast.search_seconds == tuple(2 * seconds for seconds in found.forecast.trial_seconds or ())
    assert files_below(tmp_path) == before


def test_the_data_is_told_of_as_a_run_tells_it(config: StudyConfig) -> None:
    notes: list[str] = []

    class Notes(SearchCallback):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    check(config, Notes())
    assert any(note.startswith("Made ") for note in notes)


def test_it_is_told_which_steps_are_taken_and_how_long_the_rest_may_take(
    config: StudyConfig, probes: dict[int, Probe]
) -> None:
    probes |= {16: EASY, 8: EASY}
    notes: list[str] = []

    class Notes(SearchCallback):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    check(config, Notes())
    assert f"Loading {config.model.name}." in notes
    first, second = (one for one in notes if one.startswith("Taking a few steps"))
    assert first.startswith("Taking a few steps at the dearest configuration of the space, 1 of 2")
    assert second.startswith("Taking a few steps at the slowest configuration of the space, 2 of 2; about ")
    assert second.endswith(" s left.")


def test_what_a_warm_start_would_take_over_is_told(config: StudyConfig) -> None:
    with led(study_at(config.store.url, study="monday", space=SPACE)) as leader:
        search(leader)
    notes: list[str] = []

    class Notes(SearchCallback):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    check(changed(config, "task.metric=macro_f1", warm_start=["monday"]), Notes())
    assert any(note.startswith("4 of 4 trials of monday are used.") for note in notes)


def test_warnings_are_of_what_was_measured(config: StudyConfig, probes: dict[int, Probe]) -> None:
    probes |= {16: replace(EASY, first_loss=3.0), 8: EASY}
    limits = ("budget.time=7m", "budget.trial_time=40s", "budget.trials=40")
    found = check(changed(config, "space.max_length.value=4", *limits))
    longest = max(end.seconds for end in found.forecast.extremes.values())
    assert [one.partition(",")[0] for one in found.warnings] == [
        "The loss at the first step is 3.00",
        "100% of the training examples reach max_length (4 tokens); longer texts are cut there.",
        f"Only {int(410 // longest)} of the longest trials fit into the time",
        found.warnings[3].partition(",")[0],
    ]
    assert f"The longest trial takes about {humanized(longest)}" in found.warnings[3]
    assert found.refusals == ()


def test_a_grace_is_held_against_the_time_that_this_disk_takes_for_a_checkpoint(
    config: StudyConfig, probes: dict[int, Probe], tmp_path: Path
) -> None:
    before = files_below(tmp_path)
    probes |= {16: replace(EASY, checkpoint_bytes=10_000), 8: EASY}
    config = changed(config, "compute.grace_seconds=1000")
    assert not any("compute.grace_seconds" in one for one in check(config).warnings)
    probes[16] = replace(EASY, checkpoint_bytes=2**50)
    assert any("take about" in one and "compute.grace_seconds (16 min 40 s)" in one for one in check(config).warnings)
    assert files_below(tmp_path) == before


def test_rows_that_are_dropped_are_a_warning_with_their_lines(
    config: StudyConfig, probes: dict[int, Probe], texts_file: Path, tmp_path: Path
) -> None:
    probes |= {16: EASY, 8: EASY}
    (tmp_path / "hole.csv").write_text(texts_file.read_text() + "a text without a label,\n")
    found = check(changed(config, f"data.train={tmp_path / 'hole.csv'}"))
    assert found.warnings == ("hole.csv: rows dropped for having no label: 1 (line 122).",)


# When it refuses


def test_a_dearest_configuration_that_does_not_fit(config: StudyConfig, probes: dict[int, Probe]) -> None:
    probes |= {16: NO_ROOM, 8: EASY}
    found = check(config)
    assert len(found.refusals) == 1
    assert "The dearest configuration of the space does not fit into memory" in found.refusals[0]
    assert found.forecast.trial_seconds is not None


def test_nothing_fits_at_all(config: StudyConfig, probes: dict[int, Probe]) -> None:
    probes |= {16: NO_ROOM, 8: NO_ROOM}
    found = check(changed(config, "budget.time=10m"))
    assert len(found.refusals) == 1
    assert "The cheapest configuration of the space does not fit into memory" in found.refusals[0]
    assert found.forecast.fitting is None


def test_a_loss_that_is_no_number_cannot_run(config: StudyConfig, probes: dict[int, Probe]) -> None:
    probes |= {16: replace(EASY, first_loss=math.nan), 8: EASY}
    found = check(config)
    assert [sentence.partition(":")[0] for sentence in found.refusals] == ["The loss at the first step is not a number"]
    assert found.warnings == ()


def test_a_time_shorter_than_the_shortest_trial(config: StudyConfig, probes: dict[int, Probe]) -> None:
    probes |= {16: EASY, 8: EASY}
    found = check(changed(config, "budget.time=20s"))
    assert found.refusals == ()
    assert "the shortest trial of this space seems to take about" in found.warnings[0]
    assert found.forecast.fitting == (0, 0)


def test_bad_data_ends_it_as_it_ends_a_run(config: StudyConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        check(changed(config, f"data.train={tmp_path / 'none.csv'}"))


def test_a_place_that_cannot_be_written(config: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refused)
    with pytest.raises(StoreError, match=r" written to .*: Permission denied; name another"):
        check(config)


# The short form, that a run begins with


def shortly(
    config: StudyConfig,
    answer: Callable[[Hyperparameters], Probe],
    *,
    lengths: tuple[int, ...] = (1,),
    **limits: float,
) -> ShortCheck:
    """Check with a lead worker of which only the probe is real enough; its texts have `lengths` in tokens."""

    class Lead:
        def dimensions(self, _max_length: int) -> Dimensions:
            return Dimensions(train_rows=72, validation_rows=24, least_rows=2, layers=1, train_lengths=lengths)

        def probe(self, hyperparameters: Hyperparameters, steps: int, most_seconds: float) -> Probe:
            assert steps in (1, 2)
            return answer(hyperparameters)

    space = SearchSpace.from_mapping(SPACE, "tiny")
    return short_check(cast(Worker, Lead()), config, space, load_splits(config.data, config.seed), **limits)


def of_rows(hyperparameters: Hyperparameters) -> Probe:
    """Answer for a machine on which a row takes 0.2 seconds, forwards a third of that, and an update 0.4."""
    rows = hyperparameters.batch_size
    timed = [Timed(trained_tokens=each, updates=1, seconds=0.4 + 0.2 * each) for each in (2 * rows, rows)]
    return replace(EASY, timed=(*timed, Timed(scored_tokens=10, seconds=10 * 0.2 / 3)))


def test_both_ends_tell_what_trials_will_take(config: StudyConfig) -> None:
    short = shortly(config, of_rows)
    # 10 steps of 16 and 18 of 8, for 144 rows; four rungs, of which two are full: 2 x (24 + 12) + 2 x 12 rows.
    of_both = 144 * 0.2 + 96 * 0.2 / 3
    assert short.longest == pytest.approx(10 * 0.4 + of_both, rel=0.01)
    assert short.shortest == short.longest
    assert short.costs.trial_seconds(cheapest(SearchSpace.from_mapping(SPACE, "tiny"))) == pytest.approx(
        18 * 0.4 + of_both, rel=0.01
    )
    assert short.reserve == pytest.approx(24 * 0.1 * 2 + 1)
    assert short.notes == ()


def test_where_a_step_would_take_longer_than_there_is_the_cheap_end_tells_of_the_dear_one(config: StudyConfig) -> None:
    """A step of 8 rows takes 2 seconds, and one of 16 takes 3.6, with its share of the evaluations more."""
    batches: list[int] = []
    short = shortly(config, lambda values: batches.append(values.batch_size) or of_rows(values), most_seconds=3)
    assert batches == [8]
    assert short.longest == pytest.approx(10 * 0.4 + 144 * 0.2 + 96 * 0.2 / 3, rel=0.02)
    assert short.notes == ()


def test_the_dear_end_is_left_out_if_a_step_on_its_longest_texts_would_take_longer_than_there_is(
    config: StudyConfig,
) -> None:
    batches: list[int] = []

    def answer(values: Hyperparameters) -> Probe:
        batches.append(values.batch_size)
        return of_rows(values)

    for lengths, probed in (((1,) * 9, [8, 16]), ((1,) * 8 + (9,), [8])):
        batches.clear()
        shortly(config, answer, lengths=lengths, most_seconds=6)
        assert batches == probed


def test_without_a_test_split_nothing_is_kept_for_it(config: StudyConfig) -> None:
    assert shortly(changed(config, "data.test_fraction=0"), lambda values: EASY).reserve == 0


def test_what_does_not_fit_is_noted_and_the_cheap_end_speaks_for_both(config: StudyConfig) -> None:
    short = shortly(config, lambda values: NO_ROOM if values.batch_size == 16 else EASY)
    assert short.longest == short.shortest > 0
    assert len(short.notes) == 1
    assert "dearest" in short.notes[0]


def test_where_nothing_fits_a_run_does_not_begin(config: StudyConfig) -> None:
    with pytest.raises(ConfigurationError, match="The cheapest configuration"):
        shortly(config, lambda values: NO_ROOM)


def test_one_doubt_is_noted_once(config: StudyConfig) -> None:
    assert len(shortly(config, lambda values: replace(EASY, first_loss=9.0)).notes) == 1


# The command


def test_the_command_prints_both_extremes_and_stores_nothing(hpo: Hpo, study_file: Path) -> None:
    answer = hpo("check", study_file, "budget.trials=7", "--for", "1h")
    assert answer.code == 0, answer.err
    for shown in (
        "dearest",
        "slowest and cheapest",
        "batch size",
        "7 trials take",
        "trials fit into 59 min",
        "No warnings",
    ):
        assert shown in answer.out
    assert {path.name for path in study_file.parent.iterdir()} == {"study.yaml"}


def test_the_command_takes_what_run_takes(hpo: Hpo, model_folder: Path, texts_file: Path, tmp_path: Path) -> None:
    space = Path("space.yaml")
    space.write_text(write_yaml({"parameters": SPACE}))
    words = ("check", "--model", model_folder, "--train", texts_file, "--space", space, "--trials", 2)
    answer = hpo(*words, "--text-column", "was gesagt wurde", "--label-column", "worüber")
    assert answer.code == 0, answer.err
    assert f"Study post-{model_folder.name}" in answer.out


def test_json_is_the_whole_check_and_nothing_else(hpo: Hpo, study_file: Path) -> None:
    answer = hpo("check", study_file, "--json")
    content = json.loads(answer.out)
    assert content["ends"]["dearest"]["hyperparameters"]["batch_size"] == 16
    assert content["ends"]["dearest"]["trial_seconds"] > 0
    assert content["refusals"] == []
    assert content["trials"] == 3


def test_where_best_yaml_cannot_be_written_it_is_a_doubt_as_the_check_writes_none(
    hpo: Hpo, study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, may = tmp_path.resolve(), os.access
    monkeypatch.setattr(os, "access", lambda where, mode: Path(where) != here and may(where, mode))
    monkeypatch.chdir(here)
    answer = hpo("check", study_file)
    assert answer.code == 0, answer.err
    told = " ".join(answer.out.split())
    assert "hpo run would refuse: Cannot write best.yaml: the folder" in told


def test_what_cannot_run_has_the_code_of_bad_input_and_its_sentence(
    hpo: Hpo, study_file: Path, probes: dict[int, Probe]
) -> None:
    probes |= {16: NO_ROOM, 8: EASY}
    answer = hpo("check", study_file)
    assert answer.code == 2
    assert "not even 1" in answer.out
    assert answer.err.startswith("hpo: The dearest configuration of the space does not fit into memory")
    assert hpo("check", study_file, "--json").code == 2


def test_a_time_that_is_past_and_a_study_that_is_not_said_are_refused_at_once(hpo: Hpo, study_file: Path) -> None:
    past = hpo("check", study_file, "--until", "2020-01-01 07:30")
    assert (past.code, "is past" in past.err) == (2, True)
    nothing = hpo("check", "--trials", 3)
    assert (nothing.code, "hpo check needs --model" in nothing.err) == (2, True)
