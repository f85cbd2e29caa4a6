"""Whole searches over a tiny model: what ends up in the store is what was trained, once, and goes on."""

from pathlib import Path
from threading import Event

import optuna
import pytest

from hpo.cli.tables import single_prediction
from hpo.config.parsing import parse_yaml
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError, ModelError, StudyMismatchError, TrainingError
from hpo.export.configs import configuration_of, stored_verdict, to_json, to_yaml
from hpo.messages import Action, Assignment, Decision, Ending, Outcome, Report
from hpo.runners.callbacks import SearchCallback
from hpo.runners.run import run

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Recorder(SearchCallback):
    def __init__(self) -> None:
        self.assigned_trials: list[tuple[int, int]] = []
        self.reports: list[Report] = []
        self.outcomes: list[Outcome] = []
        self.tested_trials: list[int] = []
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def assigned(self, assignment: Assignment) -> None:
        self.assigned_trials.append((assignment.trial, assignment.attempt))

    def reported(self, report: Report, decision: Decision) -> None:
        self.reports.append(report)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def tested(self, trial: int, scores: object) -> None:
        self.tested_trials.append(trial)


def with_changes(config: StudyConfig, **sections: object) -> StudyConfig:
    content = config.model_dump()
    for name, values in sections.items():
        content[name] = content[name] | values if isinstance(values, dict) and name != "space" else values
    return StudyConfig.model_validate(content)


def test_a_search_trains_its_budget_and_hands_back_the_best(config: StudyConfig) -> None:
    seen = Recorder()
    results = run(config, seen)
    assert [trial.number for trial in results.trials] == [0, 1, 2]
    assert {trial.state for trial in results.trials} == {"COMPLETE"}
    assert results.best.score == max(trial.score or 0 for trial in results.trials)
    assert results.trials[0].proposed_by == "default"
    assert results.trials[0].configuration["learning_rate"] == 1e-2
    assert results.best.seconds is not None
    assert results.best.seconds > 0


def test_what_is_no_study_is_told_in_a_sentence(config: StudyConfig) -> None:
    with pytest.raises(ConfigurationError, match=r"hpo\.run takes a study, but got a dict; read one with hpo\.load_c"):
        run(config.model_dump())  # type: ignore[arg-type]


def test_a_study_keeps_the_evaluations_it_was_begun_with(config: StudyConfig) -> None:
    """As one that an earlier version began, in which what is left open stood for other numbers."""
    begun = with_changes(config, evaluation={"full_reports": 3, "rung_rows": 12}, budget={"trials": 1})
    run(begun)
    results = run(with_changes(config, evaluation={"full_reports": None, "rung_rows": None}, budget={"trials": 2}))
    assert [trial.state for trial in results.trials] == ["COMPLETE"] * 2
    assert (results.configuration["evaluation"]["full_reports"], results.configuration["evaluation"]["rung_rows"]) == (
        3,
        12,
    )


@pytest.mark.parametrize(
    "runner", ["inline", *(pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "ray_tune"))]
)
def test_trials_in_two_slots_of_one_worker_are_what_they_are_one_after_the_other(
    runner: str, config: StudyConfig, tmp_path: Path
) -> None:
    space = {**dict(config.space), "method": {"value": "head"}, "dropout": {"value": 0.2}}  # type: ignore[arg-type]
    usual = with_changes(config, space=space, search={"sampler": "random"}, budget={"trials": 4})
    expected = run(with_changes(usual, compute={"slots": 1}, store={"url": f"sqlite:///{tmp_path / 'other.db'}"}))
    seen = Recorder()
    workers = None if runner == "inline" else 1
    found = run(with_changes(usual, compute={"slots": 2, "runner": runner, "workers": workers}), seen)
    assert [trial.configuration for trial in found.trials] == [trial.configuration for trial in expected.trials]
    for trial, alone in zip(found.trials, expected.trials, strict=True):
        assert (trial.state, trial.score) == (alone.state, pytest.approx(alone.score, abs=1e-5))
    reported = [report.trial for report in seen.reports]
    assert reported != sorted(reported), "side by side"


def test_a_search_begins_from_an_earlier_one_of_its_store_and_has_results_of_its_own_alone(config: StudyConfig) -> None:
    first, seen = run(config), Recorder()
    confirmed = {"finalists": 1, "runs": 2, "audit": 0}
    second = run(with_changes(config, study="second", warm_start="tiny", confirmation=confirmed), seen)
    assert any(note.startswith("3 of 3 trials of tiny are used.") for note in seen.notes)
    best = next(trial for trial in first.leaderboard if trial.proposed_by != "default")
    assert [trial.proposed_by for trial in second.trials] == ["default", "warm_start", "warm_start"]
    assert second.trials[1].configuration == best.configuration
    assert second.confirmation


def test_every_report_of_a_search_is_in_the_store_as_optuna_reads_it(config: StudyConfig) -> None:
    seen = Recorder()
    run(config, seen)
    study = optuna.load_study(study_name="tiny", storage=config.store.url)
    for trial in study.trials:
        reports = [report for report in seen.reports if report.trial == trial.number]
        assert trial.intermediate_values == {r.rung: r.validation.objective for r in reports}
        full = [report.validation.objective for report in reports if report.full]
        assert trial.value == max(full)
        assert len(full) == 2
        assert trial.user_attrs["learning_rate"] == trial.params["learning_rate"]
        named = {"seconds", "peak_memory_bytes", "best_epoch", "validation_accuracy", "train_f1"}
        assert named <= set(trial.user_attrs)


@pytest.mark.slow
def test_a_search_in_which_no_trial_can_end_trains_and_says_what_it_needs(config: StudyConfig) -> None:
    """A trial of 100,000 epochs in a few seconds, on however busy a machine."""
    seen = Recorder()
    space = {**dict(config.space), "epochs": {"value": 100_000}}  # type: ignore[arg-type]
    results = run(with_changes(config, space=space, budget={"trials": None, "time": "12s"}), seen)
    assert not results.leaderboard
    assert any("the shortest trial of this space seems to take about" in note for note in seen.notes)
    assert all(outcome.ending is Ending.PAUSED for outcome in seen.outcomes)
    assert len(seen.outcomes) == len(seen.assigned_trials)
    [needs] = [note for note in seen.notes if note.startswith("No trial has completed: a trial takes about")]
    assert "; give --for" in needs
    if seen.assigned_trials:
        assert any(note.startswith("Trial 0 may not end in time") for note in seen.notes)


def test_the_same_command_goes_on_up_to_its_trials_in_all(config: StudyConfig) -> None:
    before = run(config)
    seen = Recorder()
    after = run(with_changes(config, budget={"trials": 5}), seen)
    assert [number for number, _ in seen.assigned_trials] == [3, 4]
    assert after.trials[:3] == before.trials
    proposed = [tuple(sorted(trial.configuration.items(), key=str)) for trial in after.trials]
    assert len(set(map(str, proposed))) == 5


def test_an_interrupted_search_goes_on_with_the_same_trial_and_ends_the_same(
    config: StudyConfig, tmp_path: Path
) -> None:
    undisturbed = run(with_changes(config, store={"url": f"sqlite:///{tmp_path / 'other.db'}"}))
    stop = Event()

    class Stopper(Recorder):
        def reported(self, report: Report, decision: Decision) -> None:
            super().reported(report, decision)
            if report.trial == 1:
                stop.set()

    seen = Stopper()
    cut = run(config, seen, stop)
    assert seen.outcomes[-1].ending is Ending.PAUSED
    assert [trial.state for trial in cut.trials] == ["COMPLETE", "WAITING"]
    again = Recorder()
    whole = run(config, again)
    assert again.assigned_trials == [(1, 2), (2, 1)]
    assert [trial.score for trial in whole.trials] == [trial.score for trial in undisturbed.trials]
    assert [trial.configuration for trial in whole.trials] == [trial.configuration for trial in undisturbed.trials]


def test_the_test_split_is_read_once_for_the_winner_and_recorded(config: StudyConfig) -> None:
    first, second = Recorder(), Recorder()
    results = run(config, first)
    run(config, second)
    assert first.tested_trials == [results.best.number]
    assert second.tested_trials == []
    assert [(look.trial, look.held_out.scores.rows) for look in results.test] == [(results.best.number, 24)]


def test_an_interrupted_search_leaves_the_test_split_alone(config: StudyConfig) -> None:
    stop, seen = Event(), Recorder()
    stop.set()
    run(config, seen, stop)
    assert seen.tested_trials == []
    assert seen.assigned_trials == []


def test_a_changed_space_is_explained_before_anything_runs(config: StudyConfig) -> None:
    run(config)
    narrower = {**dict(config.space)["learning_rate"], "max": 0.05}  # type: ignore[arg-type]
    space = {**dict(config.space), "learning_rate": narrower}  # type: ignore[arg-type]
    seen = Recorder()
    with pytest.raises(StudyMismatchError, match=r"space\.learning_rate\.max: 0\.1 before, 0\.05 now"):
        run(with_changes(config, space=space), seen)
    assert seen.assigned_trials == []


def test_changed_texts_are_noticed(config: StudyConfig, tmp_path: Path) -> None:
    run(config)
    other = tmp_path / "other.csv"
    lines = Path(config.data.train).read_text().splitlines()
    other.write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(StudyMismatchError, match="texts, labels or splits"):
        run(with_changes(config, data={"train": other}))


def test_a_rate_at_which_training_diverges_is_pruned_with_a_reason_and_never_the_best(config: StudyConfig) -> None:
    space = {**dict(config.space), "learning_rate": {"values": [1e-2, 1e9], "default": 1e9}}  # type: ignore[arg-type]
    results = run(with_changes(config, space=space, budget={"trials": 1}))
    trial = optuna.load_study(study_name="tiny", storage=config.store.url).trials[0]
    assert results.leaderboard == ()
    assert trial.state.name == "PRUNED"
    assert trial.constraints == {"trainable": 1.0}
    assert "no longer" in results.trials[0].reason


def test_the_best_configuration_is_read_back_from_each_format(config: StudyConfig) -> None:
    results = run(config)
    content = configuration_of(results, stored_verdict(results))
    for written in (to_yaml(content), to_json(content)):
        assert parse_yaml(written, "best") == content
    assert content["hyperparameters"]["learning_rate"] > 0
    assert content["data"]["fingerprint"]


def test_decisions_reach_the_worker(config: StudyConfig) -> None:
    pruning = with_changes(
        config,
        search={"pruner": "median", "pruner_startup_trials": 1, "sampler": "random"},
        space={**dict(config.space), "batch_size": {"value": 2}},  # type: ignore[arg-type]
        budget={"trials": 8},
    )
    decided: list[tuple[int, int]] = []

    class Watch(Recorder):
        def reported(self, report: Report, decision: Decision) -> None:
            super().reported(report, decision)
            if decision.action is Action.STOP:
                decided.append((report.trial, report.rung))

    seen = Watch()
    results = run(pruning, seen)
    assert decided, "the median pruner gives up one of eight random trials"
    pruned = {trial.number: trial for trial in results.trials if trial.state == "PRUNED"}
    assert set(pruned) == {trial for trial, _ in decided}
    for trial, rung in decided:
        assert pruned[trial].rung == rung, "nothing is reported after the decision"


HEAD_ALONE = {"method": {"value": "head"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep", "space", "kept"),
    [(None, {}, 0), (0, {}, 0), (1, {}, 1), (2, {}, 2), (None, HEAD_ALONE, 1), (0, HEAD_ALONE, 0)],
)
def test_the_weights_of_the_best_are_kept_but_by_themselves_none_of_full_fine_tunes(
    keep: int | None, space: dict[str, object], kept: int, config: StudyConfig, tmp_path: Path
) -> None:
    asked = with_changes(config, space={**dict(config.space), **space}, store={"keep_weights": keep})  # type: ignore[arg-type]
    results = run(asked)
    found = {path.parent.name for path in tmp_path.rglob("*.safetensors")}
    assert found == {f"trial-{trial.number:04d}" for trial in results.leaderboard[:kept]}
    assert results.test, "the test split was read before they went"


@pytest.mark.slow
def test_a_winner_whose_weights_are_gone_is_trained_again_for_the_test_split(
    config: StudyConfig, tmp_path: Path
) -> None:
    expected = run(with_changes(config, store={"url": f"sqlite:///{tmp_path / 'other.db'}"}))

    class Remover(Recorder):
        def ended(self, outcome: Outcome) -> None:
            for path in tmp_path.rglob("*.safetensors"):
                path.unlink()

    seen = Remover()
    results = run(config, seen)
    assert any("trained again" in note for note in seen.notes)
    assert results.test == expected.test


class Sabotage(SearchCallback):
    """Breaks training from the second report on, as a full disk or a sick device would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def reported(self, report: Report, decision: Decision) -> None:
        def broken(*_arguments: object) -> None:
            raise RuntimeError("device lost")

        self._monkeypatch.setattr("hpo.training.optimizer_step.OptimizerStep.take", broken)


def test_three_failures_in_a_row_end_the_search_and_leave_the_rest_of_its_budget(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        TrainingError, match=r"^RuntimeError: device lost: the last of 3 failures running, so the search ends"
    ):
        run(with_changes(config, budget={"trials": 9}), Sabotage(monkeypatch))
    trials = optuna.load_study(study_name="tiny", storage=config.store.url).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "FAIL"]
    assert "device lost" in trials[0].user_attrs["reason"]


def test_another_precision_than_the_study_was_begun_in_is_refused(config: StudyConfig) -> None:
    run(with_changes(config, budget={"trials": 1}))
    with pytest.raises(StudyMismatchError, match="bf16, but the study 'tiny' was begun in fp32"):
        run(with_changes(config, compute={"precision": "bf16"}))


def test_what_no_trial_could_train_is_refused_before_the_first(config: StudyConfig) -> None:
    too_long = with_changes(config, space={**dict(config.space), "max_length": {"value": 4096}})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="4096"):
        run(too_long)
    assert run(config).trials[0].number == 0, "the corrected study is not taken for another one"


def test_texts_that_are_cut_are_told(config: StudyConfig) -> None:
    short = with_changes(config, space={**dict(config.space), "max_length": {"value": 6}}, budget={"trials": 1})  # type: ignore[arg-type]
    seen = Recorder()
    run(short, seen)
    assert any("longer texts are cut there" in note for note in seen.notes)


def test_a_class_of_few_rows_is_told_before_the_first_trial_and_one_answer_for_all_at_the_end(
    config: StudyConfig, tmp_path: Path
) -> None:
    texts = tmp_path / "few.csv"
    texts.write_text("text,label\n" + "".join(f"the goal {n},{'no' if n > 6 else 'yes'}\n" for n in range(100)))
    seen = Recorder()
    data = {"train": str(texts), "text_column": None, "label_column": None}
    never = {name: {"value": value} for name, value in {"learning_rate": 1e-12, "epochs": 1, "max_length": 16}.items()}
    results = run(with_changes(config, data=data, space=never, budget={"trials": 1}), seen)
    assert any("Fewer than 10 validation rows for 'yes' (1)" in note for note in seen.notes)
    [answer] = single_prediction(results, 0)
    assert "for all 20 validation rows: it has learned nothing" in answer


def not_a_number(true: object, predicted: object) -> float:
    return float("nan") if len(true) > 4 else 1.0  # type: ignore[arg-type]


def test_a_metric_of_ones_own_that_is_no_number_fails_its_trials(config: StudyConfig) -> None:
    seen = Recorder()
    with pytest.raises(TrainingError, match="it returned nan: the last of 3 failures running") as told:
        run(with_changes(config, task={"metric": f"{__name__}:not_a_number"}, budget={"trials": 9}), seen)
    assert told.value.exit_code == 1
    assert [outcome.ending for outcome in seen.outcomes] == [Ending.FAILED] * 3
    assert all("must return one finite number" in outcome.reason for outcome in seen.outcomes)
