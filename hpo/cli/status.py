"""`hpo status`: how a study stands, read from its store alone, wherever it is led."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpo.cli import options
from hpo.config.times import humanized
from hpo.errors import ConfigurationError

if TYPE_CHECKING:
    from hpo.store.database import Database
    from hpo.store.events import Event
    from hpo.store.status import RunningTrial, StudyStatus, WaitingTrial

REDRAWN_SECONDS = 2.0
WAITS_BECAUSE: Mapping[str, str] = {
    "": "not begun yet",
    "created": "not begun yet",
    "enqueued": "enqueued, not begun yet",
    "paused": "paused; goes on first",
    "died": "its process died; goes on first",
    "too_long": "too long for the time that was left",
    "requeued": "goes on first",
}
REQUEUED_BECAUSE: Mapping[str, str] = {
    "failed": "failed; to be tried on another worker",
    "died": "its process died; goes on first",
}


def status(
    study: options.Study = None,
    store: options.Store = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every two seconds, until the search ends.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show how a study stands: who leads it, what trains, what waits and why, what happened last."""
    from hpo.store.status import read_status

    if watch and as_json:
        raise ConfigurationError("hpo status takes --watch, which draws, or --json, which prints once; not both.")
    with options.opened(store) as database:
        if watch:
            _watch(database, study)
            return
        state = read_status(database, study)
        confirming = _confirming(database, state)
    leader = _leader(state)
    if as_json:
        more = {"led_by": leader, "confirmation": None if confirming is None else asdict(confirming)}
        typer.echo(json.dumps(asdict(state) | more, indent=2))
    else:
        _console().print(_drawn_together(state, leader, confirming))


def drawn(state: "StudyStatus", leader: str | None) -> RenderableType:
    """Return how `state` is shown; `leader` says who leads the study, None for nobody."""
    sections: list[RenderableType] = [Text(line) for line in _head(state, leader)]
    if state.running:
        sections.append(_running(state))
    sections += [Text(f"trial {trial.trial} waits: {_why(trial)}") for trial in state.waiting]
    sections += [Text(""), *(Text(_line(event), style="dim") for event in state.events)]
    return Group(*sections)


def _drawn_together(state: "StudyStatus", leader: str | None, confirming: "StudyStatus | None") -> RenderableType:
    """Return how a study is shown, and while its confirmation is not over that too."""
    if confirming is None:
        return drawn(state, leader)
    return Group(drawn(state, leader), Text(""), drawn(confirming, _leader(confirming)))


def _confirming(database: "Database", state: "StudyStatus") -> "StudyStatus | None":
    """Return how the confirmation of a study stands while it goes on, or waits to; None at other times."""
    from hpo.store.status import read_status
    from hpo.store.studies import confirmation_of, study_names

    name = confirmation_of(state.name)
    if name not in study_names(database):
        return None
    confirming = read_status(database, name)
    return confirming if confirming.waiting or confirming.running or _leader(confirming) else None


def _watch(database: "Database", study: str | None) -> None:
    """Draw the study anew until nobody leads it, or until Ctrl-C."""
    from hpo.store.status import read_status

    console = _console()
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                state = read_status(database, study)
                leader = _leader(state)
                live.update(_drawn_together(state, leader, _confirming(database, state)), refresh=True)
                if leader is None:
                    break
                time.sleep(REDRAWN_SECONDS)
    except KeyboardInterrupt:
        return


def _leader(state: "StudyStatus") -> str | None:
    from hpo.search.leases import leader_of

    return None if state.lease is None else leader_of(state.lease)


def _console() -> Console:
    from hpo.cli.tables import console

    return console()


def _head(state: "StudyStatus", leader: str | None) -> list[str]:
    now = state.standing
    best = f"best {state.metric} {now.best[0]:.4f} (trial {now.best[1]})" if now.best else "none completed yet"
    counts = f"{now.completed} completed, {now.pruned} pruned, {now.failed} failed"
    return [
        f"study {state.name}: {f'led by {leader}' if leader else f'nobody leads it; {_last_run(state)}'}",
        f"{now.finished} {'trial is' if now.finished == 1 else 'trials are'} over: {counts}; {best}",
        f"{_at_work(state, leader)}, {len(state.waiting)} waiting; {state.device_seconds / 3600:.2f} device-hours"
        + (_deadline(state) if leader else ""),
    ]


def _at_work(state: "StudyStatus", leader: str | None) -> str:
    """Count what workers were given: each trains the first of it, and the next is asked for ahead."""
    training = len({trial.worker for trial in state.running})
    ahead = len(state.running) - training
    if leader is None and state.running:
        return f"{training} were training and go on"
    return f"{training} running" + (f" and {ahead} next" if ahead else "")


def _last_run(state: "StudyStatus") -> str:
    if state.run_ended is not None:
        reason = str(state.run_ended.detail.get("reason", "")).rstrip(".")
        return f"the last run ended {_moment(state.run_ended.happened_at)}{f': {reason}' if reason else ''}"
    if state.run_begun is None:
        return "it has not run yet"
    return f"the last run, begun {_moment(state.run_begun.happened_at)}, was cut; the next goes on"


def _deadline(state: "StudyStatus") -> str:
    deadline = state.run_begun.detail.get("deadline") if state.run_begun else None
    if deadline is None:
        return ""
    left = deadline - state.now
    return f"; ends {_moment(deadline)}, {f'in {humanized(left)}' if left > 0 else 'which is past'}"


def _running(state: "StudyStatus") -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("trial", "attempt", "worker", "device", "given", "rung", state.metric, "last word"):
        table.add_column(column, justify="left" if column in ("worker", "device") else "right", no_wrap=True)
    for trial in state.running:
        table.add_row(*_cells(trial, state.now))
    return table


def _cells(trial: "RunningTrial", now: float) -> tuple[str, ...]:
    given = _ago(trial.begun_at, now)
    scored = ("-", "-", "-")
    if trial.rung is not None and trial.score is not None and trial.reported_at is not None:
        scored = (str(trial.rung), f"{trial.score:.4f}", _ago(trial.reported_at, now))
    return str(trial.trial), str(trial.attempt), trial.worker, trial.device, given, *scored


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
    """Return what is worth a word of an event's detail, on one line."""
    said = [str(detail[key]).strip() for key in ("worker", "why", "reason") if detail.get(key)]
    return f": {', '.join(said)}" if said else ""


def _ago(moment: float, now: float) -> str:
    return f"{humanized(max(0.0, now - moment))} ago"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
