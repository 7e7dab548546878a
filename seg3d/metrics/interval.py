"""Means over cases with intervals that stay honest where cases are few or belong together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from seg3d.keyed import keyed

Array = npt.NDArray[np.float64]

SHARE = (0.0, 1.0)
SIZE = (0.0, math.inf)
SIGNED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals over cases are made.

    Groups of cases, such as the scans of a patient, are resampled as wholes. The percentile interval of few units is
    too narrow, because what is resampled varies by ``n - 1`` of ``n`` and because the spread itself is uncertain: its
    distances from the mean are stretched by what Student's t adds to the normal quantile, and end at the bounds.

    Attributes:
        resamples: Number of resamples.
        seed: Their seed.
        groups: What a case belongs to, where that is known; any other case is by itself.

    Source: Efron and Tibshirani, An introduction to the bootstrap (1993), chapter 13, for the percentile interval;
        Hesterberg, What teachers should know about the bootstrap (The American Statistician 69, 2015), for its being
        too narrow and the factor; Field and Welsh, Bootstrapping clustered data (Journal of the Royal Statistical
        Society B 69, 2007), for resampling groups.
    """

    resamples: int = 2000
    seed: int = 0
    groups: Mapping[str, str] = field(default_factory=dict)

    def interval(self, values: Mapping[str, float], bounds: tuple[float, float] = SHARE) -> dict[str, Any]:
        """Mean, 95 % interval and median over the cases where the value is defined and finite.

        The same units are drawn for every score of the same cases, so that equal scores have equal intervals.

        Args:
            values: By case; ``nan`` undefined.
            bounds: Smallest and largest value that there can be.

        Returns:
            ``mean``, ``ci95`` (``None`` with fewer than two units), ``median``, ``n``, ``n_infinite``, and ``groups``
            where they are fewer than the cases.
        """
        kept = [case for case in sorted(values) if math.isfinite(values[case])]
        finite = np.array([values[case] for case in kept])
        units = _numbered([(True, self.groups[case]) if case in self.groups else (False, case) for case in kept])
        rng = keyed(self.seed, "bootstrap")
        found: dict[str, Any] = {
            "mean": plain(mean_of(list(values.values()))),
            "ci95": _stretched(finite, units, rng, self.resamples, bounds),
            "median": float(np.median(finite)) if finite.size else None,
            "n": int(finite.size),
            "n_infinite": sum(math.isinf(value) for value in values.values()),
        }
        number = len(np.unique(units))
        return found | ({"groups": number} if number < finite.size else {})


def _numbered(names: Sequence[Hashable]) -> npt.NDArray[np.intp]:
    """A number for each name, from 0 on in the order in which they first come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)


def _stretched(
    values: Array, units: npt.NDArray[np.intp], rng: np.random.Generator, resamples: int, bounds: tuple[float, float]
) -> list[float] | None:
    number = int(units.max()) + 1 if units.size else 0
    if number < 2:
        return None
    sums, counts = np.bincount(units, values), np.bincount(units)
    chosen = rng.integers(number, size=(resamples, number))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    factor = special.stdtrit(number - 1, 0.975) / special.ndtri(0.975) * math.sqrt(number / (number - 1))
    mean = float(sums.sum() / counts.sum())
    return [float(np.clip(mean + factor * (end - mean), *bounds)) for end in np.percentile(means, (2.5, 97.5))]


def mean_of(values: Sequence[float]) -> float:
    """Mean over the defined, finite values; ``nan`` without any. ``fsum`` rounds once, in whatever order."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def plain(value: float) -> float | str | None:
    """What JSON knows."""
    if math.isnan(value):
        return None
    return "inf" if math.isinf(value) else float(value)
