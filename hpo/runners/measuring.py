"""Measured settings: a study's precision, slots and largest shared pass, chosen at its first start and kept."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hpo.config.study_file import StudyConfig
from hpo.config.times import humanized
from hpo.errors import StudyMismatchError
from hpo.messages import Precision, WorkerSettings
from hpo.runners.callbacks import SearchCallback
from hpo.search.coordinator import Coordinator
from hpo.search.preflight import shares_backbone, trials_together
from hpo.search.trial_sizes import dearest
from hpo.space.search_space import SearchSpace
from hpo.training.worker import Worker

MOST_OF_MEASURING = 0.05
"""Share of a run's time that measurements before the first trial may take on a CPU."""
LONGEST_MEASURING = 120.0
"""Seconds that they may take there in a run without a deadline."""
PART_OF_MEASURING = 0.4
"""Share of that in which precision and slots are chosen; the rest is for a few steps at the extremes of the space."""


def measuring_seconds(lead: Worker, deadline: float | None) -> float:
    """Return the seconds for measurements: limited on a CPU, where a few steps may take minutes."""
    # On a CPU the fact has its processor too.
    if not lead.facts()["device"].startswith("cpu"):
        return math.inf
    return LONGEST_MEASURING if deadline is None else MOST_OF_MEASURING * max(0.0, deadline - time.time())


def at_most(seconds: float) -> str:
    """Return a limit in words, after a comma; empty without one."""
    return f", for about {humanized(max(1.0, seconds))} at most" if math.isfinite(seconds) else ""


def measured_settings(
    config: StudyConfig,
    space: SearchSpace,
    lead: Worker,
    coordinator: Coordinator,
    callback: SearchCallback,
    *,
    most_seconds: float,
) -> WorkerSettings:
    """Return how the workers of a study train; `lead` uses its precision from then on.

    Args:
        config: the study.
        space: its space.
        lead: measures what no earlier start has.
        coordinator: stores what was measured.
        callback: receives notes on the measurements.
        most_seconds: limit of all measurements before the first trial.

    Raises:
        StudyMismatchError: the study was begun in another precision than the requested one.
    """
    until, stored = time.time() + PART_OF_MEASURING * most_seconds, coordinator.measurements()
    measured = stored or _precision(config, space, lead, callback, until)
    precision: Precision = measured["precision"]
    if config.compute.precision not in ("auto", precision):
        raise StudyMismatchError(
            f"compute.precision is {config.compute.precision}, but the study {config.study!r} was begun in "
            f"{precision}, and its results would not compare; leave it out, or start a new study with --study NAME."
        )
    lead.use(WorkerSettings(precision=precision))
    slots, shared_tokens = 1 if config.compute.slots == "auto" else config.compute.slots, None
    if config.compute.slots == "auto" and shares_backbone(config, space):
        if "slots" not in measured:
            measured = {**measured, **_slots(config, space, lead, callback, until, measured)}
        slots, shared_tokens = measured["slots"], measured.get("shared_tokens")
    if measured != stored:
        coordinator.record_measurements(measured)
    return WorkerSettings(precision=precision, slots=slots, shared_tokens=shared_tokens)


def _precision(
    config: StudyConfig, space: SearchSpace, lead: Worker, callback: SearchCallback, until: float
) -> dict[str, Any]:
    asked, left = config.compute.precision, until - time.time()
    if asked == "auto":
        callback.note(f"Measuring whether bf16 pays here{at_most(left)}; it is done once for the study.")
    measured = asdict(lead.measure(dearest(space), left))
    if reason := measured["unmeasured"]:
        callback.note(
            f"Whether bf16 pays was not measured, because {reason}. Trials compute in fp32; compute.precision=bf16 "
            "asks for the other."
        )
    return measured


def _slots(
    config: StudyConfig, space: SearchSpace, lead: Worker, callback: SearchCallback, until: float,
    measured: Mapping[str, Any],
) -> dict[str, int | None]:  # fmt: skip
    values, left = space.hyperparameters(space.default_values()), until - time.time()
    example_seconds = measured["bf16_seconds"] or measured["fp32_seconds"]
    # Comparing precisions takes fewer examples than comparing slots.
    is_slow = config.compute.precision == "auto" and not measured["bf16_seconds"] and math.isfinite(left)
    if is_slow or values.batch_size * example_seconds > left:
        callback.note(
            "There was too little time to measure how many trials to train side by side, so each worker trains one; "
            "compute.slots=N asks for more."
        )
        return {"slots": 1}
    callback.note(f"Measuring how many trials to train side by side{at_most(left)}; it is done once for the study.")
    found = lead.slot_rates(values, left)
    slots = trials_together(found.rates)
    if slots > 1:
        more = found.rates[slots] / found.rates[1]
        callback.note(
            f"Each worker trains {slots} trials side by side, {more:.2f} times as many steps a second as one by one."
        )
    return {"slots": slots, "shared_tokens": found.shared_tokens}
