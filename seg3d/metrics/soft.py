"""Dice of probabilities, pooled over the voxels of all cases: what some reports call their Dice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SoftOverlap:
    """Sums over the voxels of a case.

    Attributes:
        both: Of probability times reference.
        probability: Of the probability.
        reference: Of the reference, which is 0 or 1.
    """

    both: float
    probability: float
    reference: float


def soft_overlap(
    probability: NDArray[Any], reference: NDArray[np.bool_], counted: NDArray[np.bool_] | None = None
) -> SoftOverlap:
    """Sums of a probability map and a mask of one shape in float64; voxels that are not ``counted`` are left out.

    Raises:
        ValueError: The shapes differ.
    """
    if probability.shape != reference.shape:
        raise ValueError(f"probability and reference have one shape, got {probability.shape} and {reference.shape}")
    wanted = reference if counted is None else reference & counted
    everything = probability if counted is None else probability[counted]
    return SoftOverlap(
        float(probability[wanted].sum(dtype=np.float64)),
        float(everything.sum(dtype=np.float64)),
        float(np.count_nonzero(wanted)),
    )


def pooled_soft_dice(per_case: Mapping[str, SoftOverlap]) -> float:
    """``2 sum p y / (sum p + sum y)`` over all voxels of all cases; ``nan`` if all of it is 0.

    Large lesions count more than small ones, no case has a score of its own, and unsure answers count in part: the
    value is not comparable with means over cases of a thresholded Dice.

    Source: Milletari, Navab and Ahmadi, V-Net (3DV 2016), without the squares in the denominator.
    """
    sums = per_case.values()
    whole = math.fsum(case.probability for case in sums) + math.fsum(case.reference for case in sums)
    return 2 * math.fsum(case.both for case in sums) / whole if whole else math.nan
