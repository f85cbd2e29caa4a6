"""Confidence intervals of means over seeds."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.stats import t


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of at least two values between the ends of its 95% interval, by Student's t."""
    reach = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - reach, fmean(values), fmean(values) + reach
