"""Generated learning curves: a synthetic function of the hyperparameters that resembles fine-tuning."""

import json
import math
import random
from collections.abc import Mapping

from hpo.config.hyperparameters import Hyperparameters, MethodName, OptimizerName
from hpo.messages import Assignment, Ending, Milestone
from hpo.runners.replay.curves import Curve, Point
from hpo.search.pruners import passes_of
from hpo.search.samplers import derived_seed

ADAMW_RATE = 3e-5
RATE_OF: Mapping[OptimizerName, float] = {
    "adamax": 6e-5, "adagrad": 1e-4, "adadelta": 0.4, "adafactor": 5e-4, "rmsprop": 1e-5, "lion": 2e-5,
    "schedule_free_adamw": 5e-5, "muon": 1e-4, "sgd": 0.3, "momentum": 1e-2, "nesterov": 1e-2,
}  # fmt: skip
"""Best learning rates of optimizers other than AdamW, about as in the shipped spaces."""
RATE_TIMES: Mapping[MethodName, float] = {"full": 1.0, "top_layers": 2.0, "lora": 10.0, "head": 30.0}
LOST_BY: Mapping[MethodName, float] = {"full": 0.0, "top_layers": 0.01, "lora": 0.005, "head": 0.05}
"""Score lost if less than the whole model is trained."""
COST_TIMES: Mapping[MethodName, float] = {"full": 1.0, "top_layers": 0.6, "lora": 0.7, "head": 0.35}

FLOOR = 0.3
"""Score before training."""
TRIAL_NOISE = 0.006
"""Standard deviation of the final score between seeds."""
EVALUATION_NOISE = {True: 0.002, False: 0.008}
"""Standard deviation of a single evaluation: on all validation rows, and on a part."""
COST_SPREAD = 0.5
"""Standard deviation of the log of the seconds between configurations that should cost the same."""
SECONDS_PER_PASS = 600.0
"""Seconds of a full fine-tune at `USUAL_LENGTH` tokens, before the spread."""
USUAL_LENGTH = 128
DIVERGES_FROM = 1.6
"""Decades above the best learning rate from which the loss becomes NaN."""
MOST_TOKENS = 384
"""Tokens of a text above which a full fine-tune does not fit into memory, even with one row at once."""


class GeneratedCurves:
    """Curves drawn from a seed: smooth in learning rate, regularisation, length and method, with noise per trial.

    The best learning rate, its importance and the best possible score depend on the seed. Curves saturate, earlier at
    higher learning rates, so that curves cross. Seconds depend on passes, length and method, with a log-normal spread
    between configurations. Learning rates far above the best diverge; full fine-tunes on long texts do not fit into
    memory.
    """

    def __init__(self, seed: int) -> None:
        """Draw the parameters of the curves from `seed`, 0 or more."""
        self._seed = seed
        drawn = random.Random(derived_seed(seed, "truth"))
        self._best_score = drawn.uniform(0.85, 0.95)
        self._rate_shift = drawn.uniform(-0.4, 0.4)
        self._rate_matters = drawn.uniform(0.04, 0.12)
        self._l2_exponent = drawn.uniform(-4.0, -1.5)

    def curve(self, assignment: Assignment) -> Curve:
        """Return the curve of a trial; the same for the same configuration, seed and milestones."""
        hyperparameters = assignment.hyperparameters
        seconds, end = self._seconds(hyperparameters), assignment.milestones[-1].rung
        reached, ending = self._reach(hyperparameters)
        noise = random.Random(derived_seed(self._seed, "noise", assignment.seed, _spelled(hyperparameters)))
        final = self.true_score(assignment) + noise.gauss(0.0, TRIAL_NOISE)
        decay = 4.0 * 2.0 ** max(-1.0, min(1.0, self._decades_off(hyperparameters)))
        points = tuple(
            Point(
                rung=milestone.rung,
                score=_noisy(_saturating(final, decay, milestone.rung / end), milestone, noise),
                seconds=seconds * milestone.rung / end,
            )
            for milestone in assignment.milestones
            if milestone.rung / end <= reached
        )
        return Curve(
            hyperparameters=hyperparameters, length=end, points=points, ending=ending, seconds=seconds * reached
        )

    def true_score(self, assignment: Assignment) -> float:
        """Return the score of a configuration at its end, without noise; at least `FLOOR`."""
        hyperparameters = assignment.hyperparameters
        off = self._decades_off(hyperparameters)
        lost = (
            self._rate_matters * off**2 * (1.5 if off > 0 else 1.0),
            0.003 * (math.log10(hyperparameters.l2_strength + 1e-7) - self._l2_exponent) ** 2 / 4,
            0.06 * math.exp(-passes_of(hyperparameters) / 1.2),
            0.03 * (1.0 - hyperparameters.data_fraction),
            0.02 * math.exp(-hyperparameters.max_length / 64),
            0.3 * ((0.1 if hyperparameters.dropout is None else hyperparameters.dropout) - 0.1) ** 2,
            0.02 * abs(hyperparameters.warmup_ratio - 0.08),
            0.006 if hyperparameters.schedule == "constant" else 0.0,
            LOST_BY[hyperparameters.method],
        )
        return max(FLOOR, self._best_score - sum(lost))

    def _decades_off(self, hyperparameters: Hyperparameters) -> float:
        """Return how many decades the learning rate is above the best one, which grows with the batch size."""
        usual = RATE_OF.get(hyperparameters.optimizer, ADAMW_RATE) * RATE_TIMES[hyperparameters.method]
        best = usual * math.sqrt(hyperparameters.batch_size / 16) * 10**self._rate_shift
        return math.log10(hyperparameters.learning_rate / best)

    def _reach(self, hyperparameters: Hyperparameters) -> tuple[float, Ending]:
        """Return the share of its length that a trial reaches, and its ending there."""
        if hyperparameters.method == "full" and hyperparameters.max_length > MOST_TOKENS:
            return 0.01, Ending.INFEASIBLE
        off = self._decades_off(hyperparameters)
        if off > DIVERGES_FROM:
            return 0.5 * math.exp(DIVERGES_FROM - off), Ending.DIVERGED
        return 1.0, Ending.COMPLETED

    def _seconds(self, hyperparameters: Hyperparameters) -> float:
        spread = random.Random(derived_seed(self._seed, "cost", _spelled(hyperparameters))).gauss(0.0, COST_SPREAD)
        length = hyperparameters.max_length / USUAL_LENGTH
        work = passes_of(hyperparameters) * length * COST_TIMES[hyperparameters.method]
        return SECONDS_PER_PASS * work * math.exp(spread)


def _saturating(final: float, decay: float, share: float) -> float:
    """Return the score after `share` of a trial, which rises from `FLOOR` to `final` at the end."""
    return FLOOR + (final - FLOOR) * math.expm1(-decay * share) / math.expm1(-decay)


def _noisy(score: float, milestone: Milestone, noise: random.Random) -> float:
    return min(1.0, max(0.0, score + noise.gauss(0.0, EVALUATION_NOISE[milestone.full])))


def _spelled(hyperparameters: Hyperparameters) -> str:
    """Return a text that identifies a configuration, without its seed."""
    return json.dumps(hyperparameters.model_dump(exclude={"seed"}), sort_keys=True)
