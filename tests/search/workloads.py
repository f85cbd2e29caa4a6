"""Workload of the space `encoder_small` on 750 short rows, with probes and reports of its trials."""

import numpy as np

from hpo.config.loading import load_config
from hpo.messages import Dimensions, Probe, Report, Timed
from hpo.search.trial_sizes import Workload
from hpo.space.space_file import space_of
from tests.models import tiny_report

CONFIG = load_config(
    values={"study": "s", "model": {"name": "none"}, "data": {"train": "none.csv"}, "space": "encoder_small"}
)
SPACE = space_of("encoder_small")
LENGTHS = tuple(sorted((2 + 60 * np.random.default_rng(0).beta(2, 4, 500)).astype(int).tolist()))
DIMENSIONS = Dimensions(
    train_rows=600,
    validation_rows=150,
    least_rows=5,
    train_lengths=LENGTHS,
    validation_lengths=LENGTHS,
    layers=6,
    pass_tokens=128,
)
WORKLOAD = Workload(config=CONFIG, space=SPACE, dimensions=DIMENSIONS)
DEFAULT = SPACE.hyperparameters(SPACE.default_values())
OPENING = Timed(openings=1, seconds=0.5)


def probe_of(*timed: Timed) -> Probe:
    return Probe(
        feasible=True,
        micro_batch_size=None,
        seconds_per_step=timed[0].seconds,
        seconds_per_scored_row=0.0,
        timed=timed,
        peak_memory_bytes=0,
        checkpoint_bytes=0,
        weights_bytes=0,
        first_loss=0.7,
    )


def report_of(trial: int, rung: int, seconds: float, attempt: int = 1) -> Report:
    return tiny_report(trial, attempt=attempt, rung=rung, full=False, seconds=seconds)
