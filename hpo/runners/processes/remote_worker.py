"""A worker in another process, asked as if it were in this one."""

from collections.abc import Callable
from typing import Any

from hpo.metrics.metric import Objective


class RemoteWorker:
    """What `LeadWorker` has: every call waits for its answer, and raises what it raised there."""

    def __init__(self, ask: Callable[[str, tuple[Any, ...]], Any]) -> None:
        """Ask by `ask`, which is given the name of a method and its arguments."""
        self._ask = ask

    @property
    def objective(self) -> Objective:
        """The metric trials are compared by, without a function of the user's: that stays where it is called."""
        objective: Objective = self._ask("objective", ())
        return objective

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return lambda *arguments: self._ask(method, arguments)
