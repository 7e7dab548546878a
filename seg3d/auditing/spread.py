"""How far a number spreads over runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Spread:
    """A number over runs; ``None`` where it is undefined.

    Attributes:
        values: The number of each run, ``None`` where it is undefined.
        mean: Mean over the runs where it is defined.
        sd: Sample standard deviation.
        sd_low: Lower end of its 95 % interval, for numbers that are normally distributed.
        sd_high: Upper end.
        low: Smallest.
        high: Largest.
    """

    values: tuple[float | None, ...]
    mean: float | None
    sd: float | None
    sd_low: float | None
    sd_high: float | None
    low: float | None
    high: float | None


def spread_of(values: Sequence[float | None]) -> Spread:
    """Mean, standard deviation with its 95 % interval, and range; runs without a value are left out.

    Equal values have a standard deviation of exactly 0, whatever rounding makes of their mean.

    Source: the interval of a variance by the chi-square distribution, e.g. Snedecor and Cochran, Statistical Methods.
    """
    known = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=np.float64)
    if known.size == 0:
        return Spread(tuple(values), None, None, None, None, None, None)
    low, high, mean = float(known.min()), float(known.max()), float(known.mean())
    if known.size == 1:
        return Spread(tuple(values), mean, None, None, None, low, high)
    if low == high:
        return Spread(tuple(values), low, 0.0, 0.0, 0.0, low, high)
    sd, free = float(known.std(ddof=1)), known.size - 1
    sd_low, sd_high = (sd * math.sqrt(free / float(stats.chi2.ppf(p, free))) for p in (0.975, 0.025))
    return Spread(tuple(values), mean, sd, sd_low, sd_high, low, high)
