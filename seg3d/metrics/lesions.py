"""Detection of lesions, each counted once whatever its size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_CONNECTIVITY_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Lesions:
    """Connected components (26 neighbours) by outcome. Every ratio is ``nan`` where it would divide by 0.

    Attributes:
        reference: Components of the reference.
        predicted: Components of the prediction.
        detected: Components of the reference that the prediction touches by a voxel.
        false_positive: Components of the prediction that touch no reference.
    """

    reference: int
    predicted: int
    detected: int
    false_positive: int

    def __add__(self, other: Lesions) -> Lesions:
        return Lesions(
            self.reference + other.reference,
            self.predicted + other.predicted,
            self.detected + other.detected,
            self.false_positive + other.false_positive,
        )

    @property
    def sensitivity(self) -> float:
        """Detected share of the reference's components."""
        return self.detected / self.reference if self.reference else math.nan

    @property
    def precision(self) -> float:
        """Share of the predicted components that touch a reference."""
        return (self.predicted - self.false_positive) / self.predicted if self.predicted else math.nan

    @property
    def f1(self) -> float:
        """``2 detected / (2 detected + missed + false positive)``."""
        whole = self.detected + self.reference + self.false_positive
        return 2 * self.detected / whole if whole else math.nan


def count_lesions(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Lesions:
    """Components of two masks ``(x, y, z)`` by outcome."""
    wanted, wanted_count = ndimage.label(reference, structure=_CONNECTIVITY_26)
    found, found_count = ndimage.label(prediction, structure=_CONNECTIVITY_26)
    both = prediction & reference
    return Lesions(
        reference=wanted_count,
        predicted=found_count,
        detected=len(np.unique(wanted[both])),
        false_positive=found_count - len(np.unique(found[both])),
    )
