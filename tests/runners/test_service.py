"""The service of a worker, in a process of this machine or of a cluster: its GPU share and its warnings."""

import logging
from threading import Event
from typing import Any, Never
from unittest.mock import MagicMock

import pytest
import torch

from hpo.errors import ModelError
from hpo.runners.processes import worker_process as service
from hpo.runners.processes.protocol import OpenFailed, Start
from hpo.runners.worker_pool import Note


class Deaf:
    def recv(self) -> Never:
        Event().wait()
        raise AssertionError("nobody sets it")


def test_a_worker_takes_its_share_of_a_gpu_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    capped: list[tuple[float, str]] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: capped.append((share, str(device)))
    )
    study: Any = MagicMock()
    for device, share in (("cuda:0", 0.5), ("cuda:0", 1.0), ("cpu", 0.5)):
        service.opened(Start(worker="w", device=device, threads=1, settings=None, gpu_share=share), study)
    assert capped == [(0.5, "cuda:0")]
    assert study.opener.call_count == 3


def test_warnings_of_a_worker_are_said_whoever_carries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModelError("It has no head.")

    def opened(*_: object) -> Never:
        logging.getLogger("hpo.files.remote").warning("The bucket does not answer.")
        raise error

    monkeypatch.setattr(service, "opened", opened)
    monkeypatch.setattr(logging.getLogger("hpo"), "handlers", [])
    said: list[Any] = []
    study: Any = None
    service.serve(Deaf(), said.append, Start(worker="w", device="cpu", threads=1, settings=None), study)
    assert said == [Note(sentence="The bucket does not answer."), OpenFailed(error=error)]
