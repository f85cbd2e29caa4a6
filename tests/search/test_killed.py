"""A leader killed in mid-transaction leaves whole transactions only, and the next start goes on with what it had."""

import multiprocessing
from multiprocessing.context import ForkServerContext

import pytest
from optuna.trial import TrialState

from tests.search.killed import lead_until, search_until
from tests.search.scripted import led, plain_trials, rows, search, study_at

# Where the leader dies: at the end of the n-th call of a method of the store or its parts, in a search of 4 trials.
POINTS = [
    ("sqlite", "create", 1),
    ("sqlite", "begin", 3),
    ("sqlite", "set_attributes", 3),
    ("sqlite", "set_intermediate_value", 2),
    ("sqlite", "add_evaluation", 7),
    ("sqlite", "end", 2),
    ("sqlite", "set_attributes", 4),
    ("postgresql", "create", 1),
    ("postgresql", "set_attributes", 3),
    ("postgresql", "add_evaluation", 7),
    ("postgresql", "set_attributes", 4),
]


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that start in no time, each a fork of a clean one that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.search.killed", "psycopg"])
    return context


@pytest.mark.parametrize(("database_url", "method", "calls"), POINTS, indirect=["database_url"])
def test_the_next_start_goes_on_after_a_kill(
    database_url: str, processes: ForkServerContext, method: str, calls: int
) -> None:
    killed = processes.Process(target=search_until, args=(database_url, method, calls))
    killed.start()
    killed.join()
    assert killed.exitcode == -9
    assert torn(database_url) == []
    unfinished = parameters_of_unfinished(database_url)

    # The dead leader's lease is in force for half a minute yet; it is taken over at once.
    with led(study_at(database_url)) as coordinator:
        search(coordinator, name="second")
    assert torn(database_url) == []
    trials = plain_trials(database_url)
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    for number, parameters in unfinished.items():
        assert trials[number].params == parameters
        assert [attempt for (attempt,) in attempts_at(database_url, number)] == [1, 2]


@pytest.mark.slow
def test_of_leaders_that_start_at_once_exactly_one_leads(empty_database_url: str, processes: ForkServerContext) -> None:
    """First on a store whose tables all of them make at once, then on one whose last lease has ended."""
    for fence in (1, 2):
        start, stop, answers = processes.Event(), processes.Event(), processes.Queue()
        arguments = (empty_database_url, start, stop, answers)
        leaders = [processes.Process(target=lead_until, args=arguments) for _ in range(4)]
        for leader in leaders:
            leader.start()
        start.set()
        said = [answers.get(timeout=60) for _ in leaders]
        stop.set()
        for leader in leaders:
            leader.join()
        assert [leader.exitcode for leader in leaders] == [0, 0, 0, 0]
        assert said.count("leads") == 1
        assert sum("is led by process" in sentence for sentence in said) == 3
        assert rows(empty_database_url, "SELECT fence FROM hpo_leases") == [(fence,)]


def torn(url: str) -> list[str]:
    """Return what of Optuna's tables and ours does not go together, each as it would be after half a transaction."""
    found: list[str] = []
    trials = {number: (trial_id, state) for trial_id, number, state in rows(url, TRIALS)}
    begun = dict(rows(url, "SELECT trial, max(attempt) FROM hpo_attempts GROUP BY trial"))
    finished = {number for number, (_, state) in trials.items() if state in ("COMPLETE", "PRUNED", "FAIL")}
    running = {number for number, (_, state) in trials.items() if state == "RUNNING"}
    closed = {trial for (trial,) in rows(url, "SELECT trial FROM hpo_attempts WHERE ended_at IS NOT NULL")}
    told = {number for (number,) in rows(url, "SELECT number FROM trials JOIN trial_values USING (trial_id)")}
    seeded = rows(url, "SELECT number FROM trials JOIN trial_user_attributes USING (trial_id) WHERE key = 'seed'")
    scores = rows(url, "SELECT number, step FROM trials JOIN trial_intermediate_values USING (trial_id)")
    evaluations = rows(url, "SELECT DISTINCT trial, rung FROM hpo_evaluations")
    starts = rows(url, "SELECT trial, attempt FROM hpo_events WHERE kind = 'begun'")
    found += ["a trial and no attempt"] * (set(begun) != finished | running)
    found += ["a finished trial and an open attempt"] * (closed != finished)
    found += ["a finished trial without its value"] * (told != finished)
    found += ["a trial without its attributes"] * ({number for (number,) in seeded} != set(begun))
    found += ["an evaluation in one set of tables only"] * (set(scores) != set(evaluations))
    found += ["an attempt without its line in the log"] * (sorted(starts) != sorted(rows(url, ATTEMPTS)))
    found += ["two studies"] * (len(rows(url, "SELECT 1 FROM hpo_studies")) > 1)
    return found


TRIALS = "SELECT trial_id, number, CAST(state AS VARCHAR(16)) FROM trials"
ATTEMPTS = "SELECT trial, attempt FROM hpo_attempts"


def attempts_at(url: str, trial: int) -> list[tuple[int]]:
    return rows(url, f"SELECT attempt FROM hpo_attempts WHERE trial = {trial} ORDER BY attempt")


def parameters_of_unfinished(url: str) -> dict[int, dict[str, object]]:
    """Return number -> parameters of the trials that the dead leader left running."""
    if not rows(url, "SELECT 1 FROM studies"):
        return {}
    return {trial.number: trial.params for trial in plain_trials(url) if trial.state == TrialState.RUNNING}
