"""Each pruner prunes what its definition says, worked out by hand, when asked through the store."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from hpo.messages import Action, Ending
from hpo.search.coordinator import Coordinator
from hpo.search.pruners import PRUNERS, build_pruner
from tests.search.scripted import CPU, SPACE, ended, led, plain_trials, report_at, study_at

RUNGS = (250, 500, 750, 1000)
FOLDS = 8
PrunedAt = dict[int, int]


def flat(score: float) -> list[float]:
    return [score] * len(RUNGS)


def on_folds(*differences: float) -> list[float]:
    """Return the scores on each fold, that much from 0.5, and their mean."""
    scores = [0.5 + difference / 100 for difference in differences]
    return [*scores, sum(scores) / len(scores)]


def bracket_start(trial: int) -> int:
    """Return the first rung of a trial's bracket, of the two that 250 to 1000 by threes has: 250 three times of five.

    Hyperband gives bracket s, of s_max + 1, n = ceil((s_max + 1) / (s + 1) * eta^s) trials: 3 of s = 1, 2 of s = 0.
    """
    return 250 if zlib.crc32(f"scripted_{trial}".encode()) % 5 < 3 else 750


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Scores by trial from 0, the default, which is never pruned; and which trials are, at which rung."""

    scores: Sequence[Sequence[float]]
    pruned: PrunedAt
    search: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)


def hyperband_case() -> Case:
    """Ever worse trials: all but the first of each bracket end where the bracket begins."""
    trials = range(1, 12)
    starts = [bracket_start(trial) for trial in trials]
    assert {250, 750} == set(starts)
    first = {trials[starts.index(start)] for start in (250, 750)}
    pruned = {trial: bracket_start(trial) for trial in trials if trial not in first}
    return Case(
        scores=[flat(0.9), *(flat(0.8 - trial / 100) for trial in trials)], pruned=pruned,
        search={"reduction_factor": 3},
    )  # fmt: skip


KNOWN_ANSWERS: dict[str, Case] = {
    # At each rung the median of 0.5 and 0.7 is 0.6, and so is that of 0.5, 0.6 and 0.7.
    "median": Case(
        scores=[flat(0.5), flat(0.7), flat(0.6), flat(0.59), [0.6, 0.1, 0.1, 0.1]],
        pruned={3: 250},
        search={"pruner_startup_trials": 2},
    ),
    # The median of what came to 250 is 0.5, then 0.495, where the pruned trial counts, then 0.5 and 0.5; the third is
    # pruned against the default alone, and so is the fourth, as far as it came.
    "asynchronous_median": Case(
        scores=[flat(0.5), flat(0.49), [0.7, 0.49, 0.7, 0.7], [0.5, 0.6, 0.4, 0.4], flat(0.55)],
        pruned={1: 250, 2: 500, 3: 750},
        search={"pruner_startup_trials": 1},
    ),
    # The upper quarter begins at 0.65 between 0.5 and 0.7, and at 0.68 among 0.5, 0.66 and 0.7.
    "percentile": Case(
        scores=[flat(0.5), flat(0.7), flat(0.64), flat(0.66), [0.69, 0.1, 0.1, 0.1], flat(0.67)],
        pruned={2: 250, 5: 250},
        search={"pruner_startup_trials": 2, "percentile": 25},
    ),
    # One of three goes on from 250, and one of three from 750; of fewer than three the best does.
    "successive_halving": Case(
        scores=[flat(0.9), flat(0.5), flat(0.6), flat(0.55), [0.61, 0.61, 0.58, 0.58], [0.7, 0.5, 0.6, 0.1]],
        pruned={3: 250, 4: 750},
        search={"reduction_factor": 3},
    ),
    "hyperband": hyperband_case(),
    # One evaluation that is worse is borne, the second in a row is not; the median to reach is 0.6.
    "patient": Case(
        scores=[flat(0.5), flat(0.7), [0.45, 0.4, 0.4, 0.4], [0.4, 0.41, 0.4, 0.42], [0.9, 0.8, 0.8, 0.8]],
        pruned={2: 750},
        search={"pruner_startup_trials": 2, "patience": 1},
    ),
    "threshold": Case(
        scores=[flat(0.1), [0.4, 0.6, 0.6, 0.6], [0.6, 0.49, 0.6, 0.6], flat(0.5)],
        pruned={2: 500},
        search={"lowest_score": 0.5},
        evaluation={"first_rung": 500},
    ),
    # Worse on every fold so far: p = 1 / 2^n, below 0.1 at the fourth. Better by the least on the first, worse on the
    # others: p = 2 / 2^n, below 0.1 at the fifth. Trial 2 is better than the first best, and what trial 3 is held to.
    "wilcoxon": Case(
        scores=[
            on_folds(*range(8)),
            on_folds(*(-1 - 2 * fold for fold in range(8))),
            on_folds(*(3 * fold + 2 for fold in range(8))),
            on_folds(3, *(3 * fold for fold in range(1, 8))),
        ],
        pruned={1: 500, 3: 625},
        search={"p_threshold": 0.1},
        evaluation={"folds": FOLDS},
    ),
    "none": Case(scores=[flat(0.9), flat(0.0), flat(0.0)], pruned={}),
}  # fmt: skip


def searched(url: str, name: str, case: Case) -> PrunedAt:
    """Search along the script; return which trials were pruned, and where."""
    config = study_at(
        url,
        search={"pruner": name, **case.search},
        evaluation={"rungs": len(RUNGS), "full_reports": 1, **case.evaluation},
        budget={"trials": len(case.scores)},
        space=SPACE | {"epochs": {"value": 3}},
    )
    pruned: PrunedAt = {}
    for number, scores in enumerate(case.scores):
        # Each trial under a leader of its own: a pruner keeps nothing in mind that is not in the store.
        with led(config) as coordinator:
            rung = train(coordinator, f"request-{number}", scores)
        pruned |= {} if rung is None else {number: rung}
    return pruned


def train(coordinator: Coordinator, request: str, scores: Sequence[float]) -> int | None:
    """Report the scores of the next trial at its milestones; return the rung at which it is pruned."""
    assignment = coordinator.next_assignment(request, CPU)
    assert assignment is not None
    for milestone, score in zip(assignment.milestones, scores, strict=True):
        report = report_at(assignment, milestone, score, decides=milestone.rung < 999)
        if coordinator.observe(report).action is Action.STOP:
            coordinator.finish(ended(assignment, Ending.PRUNED))
            return milestone.rung
    coordinator.finish(ended(assignment, Ending.COMPLETED, report))
    return None


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_what_is_pruned_follows_from_the_definition(sqlite_url: str, name: str) -> None:
    case = KNOWN_ANSWERS[name]
    assert searched(sqlite_url, name, case) == case.pruned
    states = {trial.number: trial.state.name for trial in plain_trials(sqlite_url)}
    assert states == {number: "PRUNED" if number in case.pruned else "COMPLETE" for number in states}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hyperband", "wilcoxon"])
def test_those_that_read_the_study_themselves_do_so_on_postgresql(postgresql_url: str, name: str) -> None:
    case = KNOWN_ANSWERS[name]
    assert searched(postgresql_url, name, case) == case.pruned


def test_a_trial_that_equals_the_best_on_every_fold_goes_on(sqlite_url: str) -> None:
    """All differences are zero, and those of a small test set are often: no warning, and no decision from nothing."""
    case = Case(scores=[on_folds(*range(8))] * 2, pruned={}, evaluation={"folds": FOLDS})
    assert searched(sqlite_url, "wilcoxon", case) == {}


def test_ties_and_equal_folds_are_ranked_without_a_warning(sqlite_url: str) -> None:
    """Equal on two folds and worse by the same on the others."""
    best, worse = on_folds(*[5] * 8), on_folds(5, 5, *[4] * 6)
    case = Case(scores=[best, worse], pruned={}, evaluation={"folds": FOLDS})
    [(trial, rung)] = searched(sqlite_url, "wilcoxon", case).items()
    assert (trial, rung > 500) == (1, True)


def test_trials_side_by_side_are_compared_before_any_has_completed(sqlite_url: str) -> None:
    """Optuna's median pruner would train all four to their end; the default goes on, whatever it scores."""
    search = {"pruner": "asynchronous_median", "pruner_startup_trials": 2}
    with led(study_at(sqlite_url, search=search, space=SPACE | {"epochs": {"value": 3}})) as coordinator:
        begun = [coordinator.next_assignment(f"r{number}", CPU) for number in range(4)]
        assert None not in begun
        actions = {
            one.trial: coordinator.observe(report_at(one, one.milestones[0], score, decides=True)).action
            for one, score in zip(begun, (0.1, 0.5, 0.2, 0.4), strict=True)
            if one is not None
        }
    # The third is below 0.3, in the middle of 0.1 and 0.5, and the fourth above 0.2, in that of 0.1, 0.2 and 0.5.
    assert actions == {0: Action.CONTINUE, 1: Action.CONTINUE, 2: Action.STOP, 3: Action.CONTINUE}


def promoted(url: str, scores: Sequence[float], finalists: int = 0) -> list[tuple[int, int, str]]:
    """Search by promotion of one of two, each trial with a score of its own; return (trial, attempt, how it ended)."""
    config = study_at(
        url,
        search={"pruner": "promotion", "reduction_factor": 2},
        evaluation={"full_reports": 1},
        budget={"trials": len(scores)},
        confirmation={"finalists": finalists},
        space=SPACE | {"epochs": {"value": 3}},
    )
    endings, came_to = [], dict.fromkeys(range(len(scores)), 0)
    with led(config) as coordinator:
        while one := coordinator.next_assignment(f"request-{len(endings)}", CPU):
            ending, report = Ending.COMPLETED, None
            for milestone in [point for point in one.milestones if point.rung > came_to[one.trial]]:
                came_to[one.trial] = milestone.rung
                report = report_at(one, milestone, scores[one.trial], decides=milestone.rung < 1000)
                action = coordinator.observe(report).action
                if action is not Action.CONTINUE:
                    ending, report = Ending.PAUSED if action is Action.PAUSE else Ending.PRUNED, None
                    break
            coordinator.finish(ended(one, ending, report))
            endings.append((one.trial, one.attempt, str(ending)))
        coordinator.prune_held_back()
    return endings


def test_a_trial_waits_at_a_rung_until_it_is_among_the_best_there(sqlite_url: str) -> None:
    """The default waits for a second trial, which it beats; the third beats both. At the end the default resumes."""
    assert promoted(sqlite_url, [0.5, 0.4, 0.6]) == [
        (0, 1, "paused"), (1, 1, "paused"), (0, 2, "paused"), (2, 1, "completed"), (0, 3, "completed"),
    ]  # fmt: skip
    assert [trial.state.name for trial in plain_trials(sqlite_url)] == ["COMPLETE", "PRUNED", "COMPLETE"]


def test_only_a_few_places_below_the_promoted_ones_are_paused(sqlite_url: str) -> None:
    """Each trial is worse than all before: of nine the ninth is five places below the fourth, the last promoted.

    The default stays paused, although it is worse than most, and is trained to its end.
    """
    ended = promoted(sqlite_url, [0.1, *(1 - number / 100 for number in range(8)), 0.05])
    first = {trial: ending for trial, attempt, ending in ended if attempt == 1}
    assert first == dict.fromkeys(range(9), "paused") | {9: "pruned"}
    assert {0, 1} <= {trial for trial, _, ending in ended if ending == "completed"}


def test_a_trial_that_would_be_resumed_at_once_is_not_paused(sqlite_url: str) -> None:
    """The first of two waits, since another may begin; then none may, and each is trained to its end."""
    assert promoted(sqlite_url, [0.5, 0.6]) == [(0, 1, "paused"), (1, 1, "completed"), (0, 2, "completed")]


def test_the_only_trial_is_trained_to_its_end(sqlite_url: str) -> None:
    assert promoted(sqlite_url, [0.5]) == [(0, 1, "completed")]


def test_as_many_as_are_to_be_confirmed_are_trained_to_their_end_beside_the_default(sqlite_url: str) -> None:
    ended = promoted(sqlite_url, [0.2, 0.4, 0.6, 0.3], finalists=1)
    assert {trial for trial, _, ending in ended if ending == "completed"} == {0, 1, 2}


def test_auto_is_promotion_where_there_are_rungs_and_with_folds_wilcoxon() -> None:
    url = "sqlite:///unused.db"
    assert type(build_pruner(study_at(url, search={"pruner": "auto"}))).__name__ == "PromotionPruner"
    only_full = study_at(url, search={"pruner": "auto"}, evaluation={"rungs": 0})
    assert type(build_pruner(only_full)).__name__ == "AsynchronousMedianPruner"
    folds = study_at(url, search={"pruner": "auto"}, evaluation={"folds": 5})
    assert type(build_pruner(folds)).__name__ == "WilcoxonPruner"


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_is_described(name: str) -> None:
    assert PRUNERS[name].description
    assert PRUNERS[name].source
