"""Machine check: `hpo doctor` shows versions and resources of this machine, and what a search lacks."""

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hpo.cli import options
from hpo.config.optional_packages import EXTRAS
from hpo.errors import HpoError

if TYPE_CHECKING:
    from hpo.config.study_file import ComputeConfig

PACKAGES = ("llm-hpo", "torch", "transformers", "optuna", "scikit-learn", "sqlalchemy")


def doctor(
    words: options.StudyWords = None,
    store: options.Store = None,
    runner: options.Runner = None,
    ray_address: options.RayAddress = None,
    as_json: options.Json = False,
) -> None:
    """Show versions, devices, memory and disk of this machine, and whether the store answers.

    With `--runner ray_tune` also the resources of the cluster, and how many trials of the study fit in parallel.
    """
    given = {"store.url": store, "compute.runner": runner, "compute.ray_address": ray_address}
    compute, url = _compute_and_store(words, {key: value for key, value in given.items() if value is not None})
    checks: dict[str, Callable[[], str]] = {
        "python": platform.python_version,
        **{name: partial(version, name) for name in PACKAGES},
        **{name: partial(_optional, name) for name in EXTRAS},
        "device": _device,
        "cpu": lambda: f"{os.cpu_count()} cores, {'with' if _has_bf16() else 'without'} bf16 instructions",
        "memory": _memory,
        "disk": lambda: f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free in {Path.cwd()}",
        "store": partial(_store, url),
    }
    if compute.runner == "ray_tune":
        checks["cluster"] = partial(_cluster, compute)
    found, code = {}, 0
    for name, check in checks.items():
        try:
            found[name] = check()
        except (HpoError, PackageNotFoundError) as error:
            found[name], code = f"wrong: {error}", 1
    lines = (f"{name:>20}  {answer}" for name, answer in found.items())
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines))
    raise typer.Exit(code)


def _compute_and_store(words: list[str] | None, given: Mapping[str, Any]) -> "tuple[ComputeConfig, str]":
    """Return the compute settings and the URL of the store: those of the study, if one is named."""
    from hpo.cli.study_arguments import nested, study_of_words
    from hpo.config.parsing import read_model
    from hpo.config.study_file import ComputeConfig

    if words:
        study, _ = study_of_words(words, given, "hpo doctor")
        return study.compute, study.store.url
    compute = read_model(ComputeConfig, nested(given).get("compute", {}), "compute")
    return compute, given.get("store.url", options.DEFAULT_STORE)


def _cluster(compute: "ComputeConfig") -> str:
    from hpo.runners.ray.setup import described, machines_at

    return described(compute, machines_at(compute.ray_address))


def _optional(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        extra, user = EXTRAS[name]
        return f"not installed; needed for {user}: pip install 'llm-hpo[{extra}]'"


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"cpu, {torch.get_num_threads()} threads for a trial"
    count = torch.cuda.device_count()
    names = (torch.cuda.get_device_properties(index) for index in range(count))
    return ", ".join(f"cuda: {p.name}, {p.total_memory / 2**30:.0f} GiB" for p in names)


def _has_bf16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and any(flag in cpuinfo.read_text() for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f} GiB"


def _store(url: str) -> str:
    from hpo.store.database import open_database, sqlite_path, without_password
    from hpo.store.studies import read_studies

    file = sqlite_path(url)
    if file is not None and not file.exists():
        return f"{url} does not exist yet; hpo run creates it"
    with closing(open_database(url, must_exist=True)) as database:
        return f"{without_password(database.engine.url)} answers, {len(read_studies(database))} studies"
