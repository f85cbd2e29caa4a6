"""Path of one trial: the modules of hpo in which a function runs between `next_assignment` and `finish`.

Run: python benchmarks/trial_path.py MODEL TRAIN.csv

A search of three trials on the runner `processes`, with one worker. The path is that of the last, which begins warm, in
the leader and in the worker. A module only carries if no function of it that ran branches, computes, reads or writes.
"""

import ast
import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import hpo
from hpo.config.parsing import read_model
from hpo.config.study_file import StudyConfig
from hpo.search.coordinator import Coordinator

ROOT = Path(hpo.__file__).parent
FOLDER = "HPO_TRIAL_PATH"
"""Variable with the folder that processes write what they ran to; hook and flag are in it."""
HOOK = "import sys; sys.path.append({here!r}); from trial_path import record; record()"
TRIAL = 2
IO_CALLS = {
    "open", "read", "write", "read_text", "write_text", "read_bytes", "write_bytes", "send", "recv", "poll", "execute",
    "commit", "flush", "fsync", "replace", "unlink", "mkdir", "save_file", "put", "get_nowait", "sendall", "begin",
}  # fmt: skip
Ran = tuple[str, int]
"""File and first line of a function."""


@dataclass(frozen=True, kw_only=True)
class TrialPath:
    """The modules of a trial's path, relative to `hpo/`."""

    modules: tuple[str, ...]
    carriers: tuple[str, ...]
    """Those of them that only carry."""


def record() -> None:
    """Note in this process, from now on, which functions of hpo run while the flag in the folder is up."""
    folder = Path(os.environ[FOLDER])
    with (folder / "flag").open("r+b") as file:
        flag = mmap.mmap(file.fileno(), 1)
    said: set[Ran] = set()
    notes = os.open(folder / f"ran-{os.getpid()}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    root = f"{ROOT}{os.sep}"

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and flag[0] and code.co_filename.startswith(root):
            ran = (code.co_filename, code.co_firstlineno)
            if ran not in said and code.co_name != "<module>":
                said.add(ran)
                os.write(notes, f"{ran[0]}\t{ran[1]}\n".encode())

    threading.setprofile(note)
    sys.setprofile(note)


def traced(model: Path, train: Path) -> TrialPath:
    """Return the path of a trial that fine-tunes the model in the folder `model` on the file `train`."""
    with tempfile.TemporaryDirectory() as folder, _recorded(Path(folder)):
        config = _study(model, train, Path(folder))
        hpo.run(config)
        ran = {tuple(line.split("\t")) for file in Path(folder).glob("ran-*") for line in file.read_text().splitlines()}
    lines: dict[str, set[int]] = {}
    for path, line in ran:
        lines.setdefault(str(Path(path).relative_to(ROOT)), set()).add(int(line))
    carriers = tuple(sorted(path for path, of_functions in lines.items() if not _acts(ROOT / path, of_functions)))
    return TrialPath(modules=tuple(sorted(lines)), carriers=carriers)


def _study(model: Path, train: Path, folder: Path) -> StudyConfig:
    values = {
        "study": "path",
        "model": {"name": str(model)},
        "data": {"train": str(train)},
        "space": {"learning_rate": {"min": 1e-4, "max": 1e-3}, "max_length": {"value": 16}, "epochs": {"value": 4}},
        "budget": {"trials": TRIAL + 1},
        "compute": {"runner": "processes", "workers": 1, "device": "cpu", "precision": "fp32"},
        "confirmation": {"finalists": 0},
        "store": {"url": f"sqlite:///{folder / 'path.db'}"},
    }
    return read_model(StudyConfig, values, "the study of the trial's path")


@contextmanager
def _recorded(folder: Path) -> Iterator[None]:
    """Return a context in which this process and those that it starts note what runs for the trial."""
    (folder / "flag").write_bytes(b"\0")
    (folder / "sitecustomize.py").write_text(HOOK.format(here=str(Path(__file__).parent)))
    with (folder / "flag").open("r+b") as file:
        flag = mmap.mmap(file.fileno(), 1)
    ask, finish = Coordinator.next_assignment, Coordinator.finish

    def asking(self: Coordinator, *arguments: Any, **words: Any) -> Any:
        before, flag[0] = flag[0], 1
        assignment = ask(self, *arguments, **words)
        flag[0] = 1 if assignment is not None and assignment.trial == TRIAL else before
        return assignment

    def finishing(self: Coordinator, outcome: Any, *arguments: Any, **words: Any) -> Any:
        try:
            return finish(self, outcome, *arguments, **words)
        finally:
            flag[0] = 0 if outcome.trial == TRIAL else flag[0]

    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (
        patch.dict(os.environ, {FOLDER: str(folder), "PYTHONPATH": paths}),
        patch.object(Coordinator, "next_assignment", asking),
        patch.object(Coordinator, "finish", finishing),
    ):
        record()
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def _acts(path: Path, first_lines: set[int]) -> bool:
    """Return whether one of the functions of a file, by their first lines, branches, computes, reads or writes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            decorated = [one.lineno for one in getattr(node, "decorator_list", [])]
            if min([node.lineno, *decorated]) in first_lines and any(map(_is_act, ast.walk(node))):
                return True
    return False


def _is_act(node: ast.AST) -> bool:
    branches = ast.If | ast.IfExp | ast.While | ast.Try | ast.Match | ast.BoolOp | ast.Compare | ast.For
    if isinstance(node, branches | ast.BinOp | ast.AugAssign | ast.comprehension):
        return not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.BitOr)
    called = node.func if isinstance(node, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in IO_CALLS


def main() -> None:
    """Print the path."""
    path = traced(Path(sys.argv[1]), Path(sys.argv[2]))
    for module in path.modules:
        print(f"{module}{' (only carries)' if module in path.carriers else ''}")
    print(f"{len(path.modules)} modules, {len(path.carriers)} of which only carry")


if __name__ == "__main__":
    main()
