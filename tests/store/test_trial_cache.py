"""Trial cache: it holds what the store has, after our writes, others' writes, and rollbacks."""

from collections import Counter
from collections.abc import Callable, Iterator

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.messages import Ending, Outcome
from hpo.store.database import Database, open_database
from hpo.store.study_store import StudyStore
from hpo.store.trial_cache import STATES
from hpo.store.trials import AttemptRecord
from tests.search.scripted import CPU, led, plain_study, plain_trials, study_at

Write = Callable[[StudyStore], object]


@pytest.fixture
def store(database_url: str) -> Iterator[StudyStore]:
    database = open_database(database_url)
    yield StudyStore(database, "scripted", RandomSampler(seed=0), NopPruner())
    database.close()


def suggested(store: StudyStore, value: float | None = None) -> optuna.Trial:
    """Ask for a new trial as a verb does: with parameters, attributes and a score."""
    trial = store.trials.ask(None)
    trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("c", ["a", None])
    store.trials.set_attributes(trial.number, {"seed": 1, "proposed_by": "default" if trial.number == 0 else "random"})
    if value is not None:
        store.trials.set_intermediate_value(trial.number, 500, value)
    return trial


def begun(store: StudyStore, value: float) -> int:
    """Begin an attempt at a new trial, as a verb does."""
    number = suggested(store, value).number
    record = AttemptRecord(
        trial=number, attempt=1, configuration={}, seed=1, score_to_beat=None, micro_batch_size=None, ended=False
    )
    store.attempts.begin(record, request=f"request-{number}", worker="cpu", device="cpu")
    return number


def finished(store: StudyStore, value: float = 0.5) -> None:
    """Train a new trial to its end."""
    complete(store, begun(store, value), value)


def complete(store: StudyStore, number: int, value: float) -> None:
    """End a trial as a verb does."""
    store.attempts.end(
        Outcome(trial=number, attempt=1, ending=Ending.COMPLETED, seconds=1.0, peak_memory_bytes=1, reason="")
    )
    store.study.tell(number, value)


def pruned(store: StudyStore) -> None:
    store.study.tell(suggested(store, 0.1).number, state=TrialState.PRUNED)


def paused(store: StudyStore) -> None:
    store.trials.set_waiting(suggested(store, 0.2).number)


def gone_on(store: StudyStore) -> None:
    for trial in store.trials.get_all(TrialState.WAITING):
        store.trials.ask(trial.number)


def constrained(store: StudyStore) -> None:
    store.trials.set_constraint(suggested(store).number, "trainable", 1.0)


def enqueued(store: StudyStore) -> None:
    store.trials.enqueue({"x": 0.5})


OURS: list[Write] = [suggested, finished, pruned, paused, gone_on, constrained, enqueued]


def held(store: StudyStore) -> list[FrozenTrial]:
    with store.transaction():
        return store.trials.get_all()


def recounted(trials: list[FrozenTrial]) -> tuple[dict[TrialState, int], list[tuple[float, int]]]:
    ended = Counter(trial.state for trial in trials if trial.state.is_finished())
    complete = [(trial.values[0], trial.number) for trial in trials if trial.state == TrialState.COMPLETE]
    return dict(ended), sorted(complete, key=lambda one: (-one[0], one[1]))


class Lost(Exception):
    pass


def lose(store: StudyStore, write: Write) -> None:
    """Write, look at what was written, and lose it."""
    with store.transaction():
        write(store)
        assert store.trials.statistics().bests
        raise Lost


def test_our_own_writes_are_held_as_they_are_stored(store: StudyStore, database_url: str) -> None:
    held(store)
    for write in OURS:
        with store.transaction():
            write(store)
            within = store.trials.get_all()
        assert within == held(store) == plain_trials(database_url)


def test_within_a_transaction_what_it_wrote_counts(store: StudyStore, database_url: str) -> None:
    with store.transaction():
        for write in OURS:
            write(store)
        within, size = store.trials.get_all(), store.trials.count()
    assert size == len(within)
    assert within == plain_trials(database_url)


def test_what_was_rolled_back_never_was(store: StudyStore, database_url: str) -> None:
    with store.transaction():
        finished(store)
        paused(store)
    before = held(store)
    for write in OURS:
        with pytest.raises(Lost):
            lose(store, write)
        assert held(store) == before == plain_trials(database_url)
        with store.transaction():
            assert store.trials.statistics().states == {TrialState.COMPLETE: 1}


OTHERS: list[Callable[[optuna.Study], object]] = [
    lambda study: study.tell(1, 0.9),
    lambda study: study.tell(1, state=TrialState.FAIL),
    lambda study: study._storage.set_trial_state_values(study.trials[1]._trial_id, TrialState.WAITING),
    lambda study: study.enqueue_trial({"x": 0.1}),
    lambda study: study.ask({"x": FloatDistribution(0, 1)}),
    lambda study: study.add_trial(create_trial(value=0.7, params={}, distributions={})),
]


@pytest.mark.parametrize("write", OTHERS)
def test_what_another_program_writes_is_seen_by_the_next_transaction(
    store: StudyStore, database_url: str, write: Callable[[optuna.Study], object]
) -> None:
    with store.transaction():
        finished(store)
        suggested(store, 0.3)
    held(store)
    with plain_study(database_url) as study:
        write(study)
    trials = plain_trials(database_url)
    assert held(store) == trials
    with store.transaction():
        assert dict(store.trials.statistics().states) == recounted(trials)[0]
        assert store.trials.count() == len(trials)


@pytest.mark.parametrize("made", [None, create_trial(value=0.7)])
def test_a_trial_that_another_makes_just_before_ours_is_seen(
    store: StudyStore, database_url: str, made: FrozenTrial | None
) -> None:
    """It is numbered before ours, of which we know already: what is looked for is not only what comes after that."""
    with store.transaction():
        finished(store)
    held(store)
    with store.transaction():
        store.trials.get_all()
        # As it is where ours waited for the other's commit on PostgreSQL.
        store._cache.backend.create_new_trial(store.rows.study_id, made)
        store.trials.enqueue({"x": 0.5})
        ours = suggested(store)
        store.trials.get_all()
    assert ours.number == 3
    assert [trial.number for trial in held(store)] == [0, 1, 2, 3]
    assert held(store) == plain_trials(database_url)


def test_a_trial_that_another_tells_while_it_is_read_does_not_end_with_nothing(postgresql_url: str) -> None:
    """On SQLite a writer is alone; on PostgreSQL every statement sees what is committed by then."""
    database = open_database(postgresql_url)
    store = StudyStore(database, "scripted", RandomSampler(seed=0), NopPruner())
    with store.transaction():
        suggested(store, 0.3)
    store._cache.forget()
    told: list[float] = []

    def tell(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FROM trial_values" in statement and not told:
            told.append(0.9)
            with plain_study(postgresql_url) as study:
                study.tell(0, 0.9)

    sa.event.listen(database.engine, "after_cursor_execute", tell)
    held(store)
    assert told
    assert held(store) == plain_trials(postgresql_url)
    with store.transaction():
        assert store.trials.statistics().states == {TrialState.COMPLETE: 1}
    database.close()


def test_the_statistics_are_what_a_recount_gives(store: StudyStore) -> None:
    values = [0.5, 0.7, 0.6, 0.7]
    with store.transaction():
        finished(store, values[0])
        pruned(store)
    for value in values[1:]:
        with store.transaction():
            finished(store, value)
            suggested(store)
    with store.transaction():
        kept = store.trials.statistics()
    states, best = recounted(held(store))
    assert dict(kept.states) == states
    assert kept.best(10) == best
    assert [number for _, number in kept.best(2)] == [2, 6]
    assert kept.default_values == [0.5]
    store._cache.forget()
    with store.transaction():
        assert store.trials.statistics() == kept


def test_the_best_so_far_is_told_in_the_order_in_which_trials_ended(store: StudyStore) -> None:
    with store.transaction():
        first, second, third = (begun(store, 0.4) for _ in range(3))
    for trial, value in ((third, 0.6), (first, 0.5)):
        with store.transaction():
            complete(store, trial, value)
    with store.transaction():
        store.study.tell(second, state=TrialState.PRUNED)
    for _ in range(2):
        with store.transaction():
            assert store.trials.statistics().bests == [0.6, 0.6, 0.6]
        store._cache.forget()


def test_a_trial_that_another_program_trained_or_told_can_not_be_the_best(store: StudyStore, database_url: str) -> None:
    with store.transaction():
        finished(store, 0.5)
        begun(store, 0.3)
    with plain_study(database_url) as study:
        study.add_trial(create_trial(value=0.9))
        study.tell(1, 0.95)
    with store.transaction():
        assert store.trials.statistics().best(3) == [(0.5, 0)]
        assert store.trials.statistics().bests == [0.5, 0.5, 0.5]


def test_a_trial_told_in_the_midst_of_its_training_is_no_winner_without_weights(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        assignment = coordinator.next_assignment("request", CPU)
        assert assignment is not None
        with plain_study(sqlite_url) as study:
            study.tell(assignment.trial, 0.9)
        assert coordinator.standing().completed == 1
        assert coordinator.files_needed() == (set(), set())
        assert coordinator.winner() is None


def statements_of(database: Database, read: Callable[[], object]) -> list[str]:
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith(("BEGIN", "SET LOCAL")):
            asked.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        read()
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)
    return asked


def test_what_trains_is_not_read_again_and_again(store: StudyStore) -> None:
    with store.transaction():
        for _ in range(5):
            suggested(store, 0.3)
    held(store)

    def read_twice() -> None:
        with store.transaction():
            store.trials.get_all()
            store.trials.get_all(TrialState.RUNNING)

    [asked] = statements_of(store.database, read_twice)
    assert "trial_params" not in asked


def test_what_others_have_changed_is_found_by_the_indexes(sqlite_url: str) -> None:
    database = open_database(sqlite_url)
    whole = STATES.params(of_study=1, of_trial=5)
    asked = str(whole.compile(database.engine, compile_kwargs={"render_postcompile": True}))
    with database.read_transaction() as connection:
        plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}", (1, 1, 5)))
    database.close()
    assert "hpo_trials_by_state (study_id=? AND state=?)" in plan
    assert "hpo_trials_by_number (study_id=? AND number>?)" in plan
