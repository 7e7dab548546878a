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
    """Voxels by outcome. Every ratio but ``accuracy`` is ``nan`` when both masks are empty, 0 when one is.

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

    @property
    def accuracy(self) -> float:
        """``(TP + TN) / all``; ``nan`` without any voxel. It flatters where foreground is rare."""
        counted = self.tp + self.fp + self.fn + self.tn
        return (self.tp + self.tn) / counted if counted else math.nan

    def _ratio(self, part: int, whole: int) -> float:
        if self.tp + self.fp + self.fn == 0:
            return math.nan
        return part / whole if whole else 0.0


def count_overlap(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], counted: int) -> Overlap:
    """Counts of two masks of one shape, of which ``counted`` voxels count at all; the others are in neither."""
    found, wanted = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    both = int(np.count_nonzero(prediction & reference))
    return Overlap(both, found - both, wanted - both, counted - found - wanted + both)


def count_label(
    prediction: NDArray[Any], reference: NDArray[Any], label: int, ignore_label: int | None = None
) -> Overlap:
    """Counts of one label in two label maps of one shape; voxels whose reference is ``ignore_label`` count nowhere.

    Raises:
        ValueError: The shapes differ.
    """
    counted, size = counted_voxels(prediction, reference, ignore_label)
    return count_overlap(*label_masks(prediction, reference, label, counted), size)


def counted_voxels(
    prediction: NDArray[Any], reference: NDArray[Any], ignore_label: int | None
) -> tuple[NDArray[np.bool_] | None, int]:
    """Mask of the voxels that count (``None``: all of them), and how many they are.

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction and reference have one shape, got {prediction.shape} and {reference.shape}")
    if ignore_label is None:
        return None, reference.size
    counted: NDArray[np.bool_] = reference != ignore_label
    return counted, int(np.count_nonzero(counted))


def label_masks(
    prediction: NDArray[Any], reference: NDArray[Any], label: int, counted: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of one label in prediction and reference, without the voxels that do not count."""
    found, wanted = prediction == label, reference == label
    if counted is not None:
        found &= counted
        wanted &= counted  # matters when somebody asks for the ignore label itself
    return found, wanted


def dice_per_label(
    prediction: NDArray[Any], reference: NDArray[Any], labels: Sequence[int], *, ignore_label: int | None = None
) -> dict[int, float]:
    """Dice of each label; ``nan`` where neither prediction nor reference has it.

    Args:
        prediction: Label map.
        reference: Label map of the same shape.
        labels: Label values.
        ignore_label: Voxels with this reference count nowhere.

    Raises:
        ValueError: The shapes differ.

    Source: Dice, Measures of the amount of ecologic association between species (Ecology 26, 1945).
    """
    counted, size = counted_voxels(prediction, reference, ignore_label)
    return {label: count_overlap(*label_masks(prediction, reference, label, counted), size).dice for label in labels}
