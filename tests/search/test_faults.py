"""Whose fault a failure is: nights by hand, and what holds whatever happens."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.search.outcomes import Fault, Faults

BROKEN = "RuntimeError: CUDA error: an illegal memory access was encountered"
ODD = "ValueError: nothing to train"

# -- the trial's


def test_a_trial_that_fails_is_tried_once_more_on_another_worker_and_then_fails_for_good() -> None:
    faults = Faults(["a", "b", "c"])
    assert faults.failed(0, "a", ODD) is Fault.ELSEWHERE
    assert faults.avoid(0) == {"a"}
    assert faults.failed(0, "b", ODD) is Fault.TRIAL
    assert faults.avoid(0) == frozenset()
    assert not faults.quarantined
    assert faults.abort_reason() is None


def test_on_a_lone_worker_every_failure_is_the_trials() -> None:
    faults = Faults(["a"])
    assert [faults.failed(trial, "a", ODD) for trial in (0, 1)] == [Fault.TRIAL] * 2
    assert not faults.quarantined


def test_where_the_others_are_left_out_a_failure_is_the_trials() -> None:
    faults = Faults(["a", "b"])
    faults.quarantine("b", "It cannot be started.")
    assert faults.failed(0, "a", ODD) is Fault.TRIAL


def test_a_trial_may_go_back_to_where_it_failed_when_no_other_worker_is_left() -> None:
    faults = Faults(["a", "b"])
    faults.failed(0, "a", ODD)
    faults.quarantine("b", "It cannot be started.")
    assert faults.avoid(0) == frozenset()
    assert faults.failed(0, "a", ODD) is Fault.TRIAL


def test_a_trial_that_fails_everywhere_takes_back_what_it_said_against_a_worker() -> None:
    faults = Faults(["a", "b"])
    for trial in range(5):
        assert faults.failed(trial, "a", ODD) is Fault.ELSEWHERE
        assert faults.failed(trial, "b", ODD) is Fault.TRIAL
        faults.ended_well(100 + trial, "a")
    assert not faults.quarantined


# -- the worker's


def test_a_worker_on_which_two_trials_failed_is_left_out() -> None:
    faults = Faults(["a", "b"])
    faults.failed(0, "a", BROKEN)
    faults.ended_well(1, "b")
    assert not faults.quarantined
    assert faults.failed(2, "a", BROKEN) is Fault.ELSEWHERE
    assert faults.quarantined == {"a": f"Trials 0 and 2 failed on a: {BROKEN}."}
    assert faults.abort_reason() is None


def test_one_trial_that_fails_twice_on_a_worker_is_one_against_it() -> None:
    faults = Faults(["a", "b", "c"])
    faults.died(0, "a")
    faults.died(0, "a")
    assert not faults.quarantined


def test_that_a_trial_ended_well_elsewhere_stays_against_the_worker() -> None:
    faults = Faults(["a", "b"])
    faults.failed(0, "a", BROKEN)
    faults.ended_well(0, "b")
    for trial in range(1, 4):
        faults.ended_well(trial, "a")
    faults.failed(4, "a", BROKEN)
    assert list(faults.quarantined) == ["a"]


def test_a_process_that_dies_counts_as_a_failure_on_its_worker() -> None:
    faults = Faults(["a", "b"])
    faults.died(0, "a")
    assert faults.avoid(0) == {"a"}
    faults.failed(1, "a", BROKEN)
    assert not faults.quarantined
    assert faults.is_held_back("a"), "until it is known whether others do well"
    faults.ended_well(2, "b")
    assert list(faults.quarantined) == ["a"]


def test_where_trials_die_on_all_workers_none_is_left_out_or_held_back() -> None:
    faults = Faults(["a", "b", "c"])
    for trial, worker in enumerate("abcabc"):
        faults.died(trial, worker)
    assert not faults.quarantined
    assert not any(map(faults.is_held_back, "abc"))


def test_what_ended_well_before_says_nothing_of_failures_that_come_later() -> None:
    faults = Faults(["a", "b"])
    faults.ended_well(0, "b")
    faults.died(1, "a")
    faults.died(2, "a")
    assert not faults.quarantined


def test_a_trial_under_which_two_workers_died_speaks_against_neither_while_it_is_not_over() -> None:
    faults = Faults(["a", "b", "c"])
    faults.died(0, "a")
    faults.died(0, "b")
    faults.failed(1, "a", BROKEN)
    assert not faults.quarantined


def test_two_workers_that_die_under_a_trial_which_then_ends_well_are_both_held_to_it() -> None:
    faults = Faults(["a", "b", "c"])
    faults.died(0, "a")
    faults.died(0, "b")
    faults.ended_well(0, "c")
    faults.died(1, "b")
    assert faults.quarantined == {"b": "Trials 0 and 1 failed on b: its process died."}


def test_a_trial_that_ends_well_where_it_had_failed_speaks_no_longer_against_it() -> None:
    faults = Faults(["a", "b"])
    faults.died(0, "a")
    faults.ended_well(0, "a")
    faults.died(1, "a")
    assert not faults.quarantined


def test_the_last_worker_is_never_left_out_for_what_failed_on_it() -> None:
    faults = Faults(["a", "b"])
    for trial in range(4):
        faults.died(trial, "a")
        faults.died(10 + trial, "b")
        faults.ended_well(20 + trial, "ab"[trial % 2])
    assert len(faults.quarantined) == 1
    assert faults.abort_reason() is None


def test_what_was_left_out_first_stays_the_reason() -> None:
    faults = Faults(["a", "b"])
    faults.quarantine("a", "It cannot be started.")
    faults.quarantine("a", "Something else.")
    assert faults.quarantined == {"a": "It cannot be started."}


# -- everyone's


def test_the_same_error_three_times_running_on_two_workers_ends_the_search_and_blames_neither() -> None:
    faults = Faults(["a", "b"])
    faults.failed(0, "a", "OSError: [Errno 28] No space left on device: '/data/t-0/f.pt'.")
    faults.failed(1, "b", "OSError: [Errno 28] No space left on device: '/data/t-1/f.pt'.")
    assert faults.abort_reason() is None
    faults.failed(2, "a", "OSError: [Errno 28] No space left on device: '/data/t-2/f.pt'.")
    assert faults.abort_reason() == (
        "OSError: [Errno 28] No space left on device: '/data/t-2/f.pt': the same error 3 times running, on a and b, so "
        "the search ends; mend it, and the same command resumes it."
    )
    assert not faults.quarantined


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("at 0x7f28137898f0 of row 3", "at 0x55d0aa of row 1,204"),
        ("loss 1e-05 is below -3.5", "loss 0.003 is below 12"),
        ("shape (8, 128)", "shape (64, 32)"),
    ],
)
def test_numbers_and_addresses_do_not_tell_errors_apart(one: str, other: str) -> None:
    faults = Faults(["a", "b"])
    for trial, (worker, reason) in enumerate((("a", one), ("b", other), ("b", one))):
        faults.failed(trial, worker, reason)
    assert str(faults.abort_reason()).startswith(one)


def between_nothing(_faults: Faults) -> None:
    """Let nothing happen."""


def between_a_good_end(faults: Faults) -> None:
    """Let a trial end well."""
    faults.ended_well(99, "b")


@pytest.mark.parametrize(
    ("happening", "workers", "words"),
    [
        (between_a_good_end, ("a", "b", "c"), (BROKEN, BROKEN, BROKEN)),
        (between_nothing, ("a", "b", "c"), (BROKEN, BROKEN, ODD)),
        (between_nothing, ("a", "b", "c"), (BROKEN, ODD, BROKEN)),
        (between_nothing, ("a", "a", "a"), (BROKEN, BROKEN, BROKEN)),
    ],
)
def test_a_good_end_another_error_or_a_single_worker_among_several_is_no_run(
    happening: Callable[[Faults], None], workers: tuple[str, ...], words: tuple[str, ...]
) -> None:
    faults = Faults(["a", "b", "c"])
    for trial, (worker, reason) in enumerate(zip(workers, words, strict=True)):
        if trial == 2:
            happening(faults)
        faults.failed(trial, worker, reason)
    assert faults.abort_reason() is None


def test_three_failures_running_on_a_lone_worker_end_the_search_whatever_their_words() -> None:
    faults = Faults(["a"])
    for trial, reason in enumerate(("one", "two")):
        faults.failed(trial, "a", reason)
    faults.ended_well(2, "a")
    for trial, reason in enumerate(("three", "four", "five."), start=3):
        assert faults.abort_reason() is None
        faults.failed(trial, "a", reason)
    assert faults.abort_reason() == (
        "five: the last of 3 failures running, so the search ends; mend it, and the same command resumes it."
    )


def test_the_last_worker_left_answers_for_its_own_failures_only() -> None:
    faults = Faults(["a", "b"])
    faults.failed(0, "a", "one")
    faults.failed(1, "a", "two")
    faults.ended_well(9, "b")
    assert list(faults.quarantined) == ["a"]
    for trial, reason in enumerate(("three", "four"), start=2):
        faults.failed(trial, "b", reason)
    assert faults.abort_reason() is None
    faults.failed(4, "b", "five")
    assert str(faults.abort_reason()).startswith("five: the last of 3 failures running")


def test_a_verdict_stands_whatever_ends_well_afterwards() -> None:
    faults = Faults(["a", "b"])
    for trial, worker in enumerate(("a", "b", "a")):
        faults.failed(trial, worker, BROKEN)
    faults.ended_well(9, "b")
    assert faults.abort_reason() is not None


def test_without_any_worker_left_the_search_ends() -> None:
    faults = Faults(["a", "b"])
    faults.quarantine("a", "Its process cannot be started.")
    assert faults.abort_reason() is None
    faults.quarantine("b", "The driver is gone.")
    assert faults.abort_reason() == "No worker is left to train on; the last one was b: The driver is gone."


def test_before_any_worker_is_known_nothing_is_wrong() -> None:
    assert Faults(()).abort_reason() is None


# -- whatever happens

WORKERS = ("a", "b", "c", "d")
trials = st.integers(0, 5)
names = st.sampled_from(WORKERS)
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("failed"), trials, names, st.sampled_from([BROKEN, ODD, "error 1", "error 2"])),
        st.tuples(st.just("died"), trials, names),
        st.tuples(st.just("ended_well"), trials, names),
    ),
    max_size=60,
)
some_workers = st.integers(1, len(WORKERS)).map(lambda count: WORKERS[:count])


@settings(deadline=None)
@given(some_workers, happenings, st.lists(names, max_size=2))
def test_what_holds_whatever_happens(
    workers: tuple[str, ...], night: list[tuple[object, ...]], unfit: list[str]
) -> None:
    """The last worker stays, who is left out stays so, and every trial has somewhere to go."""
    faults = Faults(workers)
    for worker in unfit[: len(workers) - 1]:
        faults.quarantine(worker, "It cannot be started.")
    out, abort_reason = dict(faults.quarantined), faults.abort_reason()
    for verb, *about in night:
        if about[1] not in workers:
            continue
        getattr(faults, str(verb))(*about)
        in_play = set(workers) - faults.quarantined.keys()
        assert in_play
        assert out.items() <= faults.quarantined.items()
        assert all(in_play - faults.avoid(trial) for trial in range(6))
        assert abort_reason is None or faults.abort_reason() == abort_reason
        out, abort_reason = dict(faults.quarantined), faults.abort_reason()


@settings(deadline=None)
@given(some_workers, happenings)
def test_a_trial_fails_for_good_at_the_latest_on_its_second_worker(
    workers: tuple[str, ...], night: list[tuple[object, ...]]
) -> None:
    faults, failed_on = Faults(workers), dict[int, set[str]]()
    for verb, trial, worker, *reason in night:
        if worker not in workers or not isinstance(trial, int):
            continue
        where = failed_on.setdefault(trial, set())
        if verb == "failed" and worker not in faults.avoid(trial):
            where.add(str(worker))
            fault = faults.failed(trial, str(worker), str(reason[0]))
            others = set(workers) - faults.quarantined.keys() - where
            assert fault is Fault.TRIAL or (len(where) == 1 and others)
            if fault is Fault.TRIAL:
                where.clear()
        elif verb == "ended_well":
            faults.ended_well(trial, str(worker))
            where.clear()


@settings(deadline=None)
@given(some_workers, st.lists(st.tuples(trials, names), max_size=40))
def test_one_bad_worker_is_left_out_and_no_other(workers: tuple[str, ...], night: list[tuple[int, str]]) -> None:
    """On `a` everything fails, elsewhere everything ends well: at most two trials are lost to it."""
    faults, struck = Faults(workers), set[int]()
    for number, (_, worker) in enumerate(night):
        if worker not in workers or worker in faults.quarantined or faults.is_held_back(worker):
            continue
        if worker == "a":
            faults.failed(number, "a", BROKEN)
            struck.add(number)
        else:
            faults.ended_well(number, worker)
    assert set(faults.quarantined) <= {"a"}
    if len(workers) > 1:
        faults.ended_well(99, "b")
        assert len(struck) <= 2
        assert ("a" in faults.quarantined) == (len(struck) == 2)
