"""Voxel counts and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Overlap:
    """Voxels by outcome. Every ratio is ``nan`` when prediction and reference are both empty, 0 when one is.

    Attributes:
        tp: In both.
        fp: In the prediction alone.
        fn: In the reference alone.
        tn: In neither.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def dice(self) -> float:
        """``2 TP / (2 TP + FP + FN)``."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """``TP / (TP + FP + FN)``, the Jaccard index."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """``TP / (TP + FP)``."""
        return self._ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """``TP / (TP + FN)``, the sensitivity."""
        return self._ratio(self.tp, self.tp + self.fn)

    def _ratio(self, part: int, whole: int) -> float:
        if self.tp + self.fp + self.fn == 0:
            return math.nan
        return part / whole if whole else 0.0


def count_overlap(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], counted: int) -> Overlap:
    """Counts of two masks of one shape, of which ``counted`` voxels count at all; the others are in neither."""
    found, wanted = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    both = int(np.count_nonzero(prediction & reference))
    return Overlap(both, found - both, wanted - both, counted - found - wanted + both)


def dice_per_label(
    prediction: NDArray[Any], reference: NDArray[Any], labels: Sequence[int], *, ignore_label: int | None = None
) -> dict[int, float]:
    """Dice of each label; ``nan`` where neither prediction nor reference has it.

    Args:
        prediction: Label map.
        reference: Label map of the same shape.
        labels: Label values.
        ignore_label: Voxels with this reference count nowhere.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction and reference have one shape, got {prediction.shape} and {reference.shape}")
    counted = None if ignore_label is None else reference != ignore_label
    found = {}
    for label in labels:
        mask = prediction == label if counted is None else (prediction == label) & counted
        found[label] = count_overlap(mask, reference == label, reference.size).dice
    return found
