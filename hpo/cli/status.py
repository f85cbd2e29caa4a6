"""Study status: `hpo status` shows the state of a study, read from its store."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from hpo.cli import options
from hpo.config.times import humanized
from hpo.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from hpo.store.database import Database
    from hpo.store.status import RunningTrial, StudyStatus, WaitingTrial
    from hpo.store.tables import Event
    from hpo.verdict.gain import Gain

REDRAWN_SECONDS = 2.0
MOST_READ = 1000
"""Largest number of finished trials for which the gain over the default is computed."""
WAITS_BECAUSE: Mapping[str, str] = {
    "": "not begun yet",
    "created": "not begun yet",
    "enqueued": "enqueued, not begun yet",
    "paused": "paused; resumes later",
    "died": "its process died; resumes first",
    "too_long": "too long for the time that was left",
    "requeued": "resumes first",
}
REQUEUED_BECAUSE: Mapping[str, str] = {
    "failed": "failed; to be retried on another worker",
    "died": "its process died; resumes first",
}


def status(
    study: options.Study = None,
    store: options.Store = None,
    watch: Annotated[bool, typer.Option("--watch", help="Redraw every two seconds, until the search ends.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show the state of a study: its leader, running and waiting trials, and recent events."""
    if watch and as_json:
        raise ConfigurationError("hpo status takes either --watch, which redraws, or --json, which prints once.")
    from hpo.cli.tables import console

    with options.opened(store) as database:
        if watch:
            _watch(database, study)
            return
        states = _states(database, study)
        gain = _gain(database, states[0])
    if as_json:
        state, confirmation = asdict(states[0]), asdict(states[1]) if len(states) > 1 else None
        more = {"led_by": _leader(states[0]), "confirmation": confirmation, "gain": asdict(gain) if gain else None}
        typer.echo(json.dumps(state | more, indent=2))
    else:
        console().print(_drawn(states))
        console().print(_worded(gain, states[0].metric), end="", soft_wrap=True)


def _states(database: "Database", study: str | None) -> "list[StudyStatus]":
    """Return the state of a study, and that of its confirmation while that has unfinished runs."""
    from hpo.store.status import read_status
    from hpo.store.studies import confirmation_of, study_names

    state = read_status(database, study)
    if (name := confirmation_of(state.name)) not in study_names(database):
        return [state]
    confirming = read_status(database, name)
    return [state, confirming] if confirming.waiting or confirming.running or _leader(confirming) else [state]


def _gain(database: "Database", state: "StudyStatus") -> "Gain | None":
    """Return the gain over the default so far; None for a confirmed study, or one with too many trials to read."""
    from hpo.store.results import read_results
    from hpo.verdict.gain import gain_so_far

    if state.standing.finished > MOST_READ:
        return None
    with suppress(StoreError):
        results = read_results(database, state.name)
        return None if results.confirmation or results.confirms else gain_so_far(results)
    return None


def _watch(database: "Database", study: str | None) -> None:
    """Redraw the study until no process leads it, or until Ctrl-C."""
    from hpo.cli.tables import console

    finished, line = -1, ""
    try:
        with Live(console=console(), auto_refresh=False) as live:
            while True:
                states = _states(database, study)
                if states[0].standing.finished != finished:
                    finished, line = states[0].standing.finished, _worded(_gain(database, states[0]), states[0].metric)
                live.update(Group(_drawn(states), Text(line)), refresh=True)
                if _leader(states[0]) is None:
                    break
                time.sleep(REDRAWN_SECONDS)
    except KeyboardInterrupt:
        return


def _worded(gain: "Gain | None", metric: str) -> str:
    """Return what a gain says after an empty line; empty if the gain is unknown."""
    from hpo.verdict.gain import gain_in_words

    return "" if gain is None else f"\n{gain_in_words(gain, metric)}\n"


def _leader(state: "StudyStatus") -> str | None:
    from hpo.store.leases import leader_of

    return None if state.lease is None else leader_of(state.lease)


def _drawn(states: "list[StudyStatus]") -> RenderableType:
    """Return the display of studies, separated by empty lines."""
    shown = [part for state in states for part in (Text(""), *_sections(state))]
    return Group(*shown[1:])


def _sections(state: "StudyStatus") -> list[RenderableType]:
    from hpo.cli.tables import table_of

    sections: list[RenderableType] = [Text(line) for line in _head(state)]
    if state.running:
        columns = ("trial", "attempt", "worker", "device", "begun", "rung", state.metric, "reported")
        table = table_of(columns, left=("worker", "device"), no_wrap=True)
        for trial in state.running:
            table.add_row(*_cells(trial, state.now))
        sections.append(table)
    sections += [Text(f"trial {trial.trial} waits: {_why(trial)}") for trial in state.waiting]
    return [*sections, Text(""), *(Text(_line(event), style="dim") for event in state.events)]


def _head(state: "StudyStatus") -> list[str]:
    now, leader = state.standing, _leader(state)
    best = f"best {state.metric} {now.best[0]:.4f} (trial {now.best[1]})" if now.best else "none completed yet"
    finished = "1 trial" if now.finished == 1 else f"{now.finished} trials"
    return [
        f"study {state.name}: {f'led by {leader}' if leader else f'nobody leads it; {_last_run(state)}'}",
        f"{finished} finished: {now.completed} completed, {now.pruned} pruned, {now.failed} failed; {best}",
        f"{_at_work(state, leader)}, {len(state.waiting)} waiting; {state.device_seconds / 3600:.2f} device-hours"
        + (_deadline(state) if leader else ""),
    ]


def _at_work(state: "StudyStatus", leader: str | None) -> str:
    """Count running trials, and those assigned to a worker as its next one."""
    training = len({trial.worker for trial in state.running})
    ahead = len(state.running) - training
    if leader is None and state.running:
        return f"{training} were training and resume"
    return f"{training} running" + (f", {ahead} assigned next" if ahead else "")


def _last_run(state: "StudyStatus") -> str:
    if state.run_ended is not None:
        reason = str(state.run_ended.detail.get("reason", "")).rstrip(".")
        return f"the last run ended {_moment(state.run_ended.happened_at)}{f': {reason}' if reason else ''}"
    if state.run_begun is None:
        return "it has not run yet"
    return f"the last run, begun {_moment(state.run_begun.happened_at)}, was cut off; the next resumes it"


def _deadline(state: "StudyStatus") -> str:
    deadline = state.run_begun.detail.get("deadline") if state.run_begun else None
    if deadline is None:
        return ""
    left = deadline - state.now
    return f"; ends {_moment(deadline)}, {f'in {humanized(left)}' if left > 0 else 'which has passed'}"


def _cells(trial: "RunningTrial", now: float) -> tuple[str, ...]:
    scored = ("-", "-", "-")
    if trial.rung is not None and trial.score is not None and trial.reported_at is not None:
        scored = (str(trial.rung), f"{trial.score:.4f}", _ago(trial.reported_at, now))
    return str(trial.trial), str(trial.attempt), trial.worker, trial.device, _ago(trial.begun_at, now), *scored


def _why(trial: "WaitingTrial") -> str:
    because = WAITS_BECAUSE.get(trial.last, trial.last)
    if trial.last == "requeued":
        return REQUEUED_BECAUSE.get(trial.reason, f"{trial.reason}; {because}" if trial.reason else because)
    return f"{because} ({trial.reason.rstrip('.')})" if trial.reason else because


def _line(event: "Event") -> str:
    about = "" if event.trial is None else f" trial {event.trial}"
    about += "" if event.attempt is None else f", attempt {event.attempt}"
    return f"{_moment(event.happened_at)} {event.kind}{about}{_detail(event.detail)}"


def _detail(detail: Mapping[str, Any]) -> str:
    """Return the worker and the reason of an event, on one line."""
    parts = [str(detail[key]).strip() for key in ("worker", "why", "reason") if detail.get(key)]
    return f": {', '.join(parts)}" if parts else ""


def _ago(moment: float, now: float) -> str:
    return f"{humanized(max(0.0, now - moment))} ago"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
