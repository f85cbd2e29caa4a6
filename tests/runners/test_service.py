"""What a served worker says of itself, whoever carries it: a process of this machine or one of a cluster."""

import logging
from threading import Event
from typing import Any, Never

import pytest

from hpo.errors import ModelError
from hpo.runners.worker_process import service
from hpo.runners.worker_process.conversation import Refused, Start
from hpo.runners.workforce import Note


class Deaf:
    def recv(self) -> Never:
        Event().wait()
        raise AssertionError("nobody sets it")


def test_warnings_of_a_worker_are_said_whoever_carries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModelError("It has no head.")

    def opened(*_: object) -> Never:
        logging.getLogger("hpo.training.mirror").warning("The bucket does not answer.")
        raise error

    monkeypatch.setattr(service, "opened", opened)
    monkeypatch.setattr(logging.getLogger("hpo"), "handlers", [])
    said: list[Any] = []
    study: Any = None
    service.serve(Deaf(), said.append, Start(worker="w", device="cpu", threads=1, precision=None), study)
    assert said == [Note(sentence="The bucket does not answer."), Refused(error=error)]
