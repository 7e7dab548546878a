"""Where a prediction is right and wrong: the outcome of each voxel, and the numbers that a figure of it states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.metrics import count_label
from seg3d.reporting.figures import FigureCase
from seg3d.reporting.panels import Plane, cut

# in this order of importance: where several voxels share a pixel, a fault is not hidden
CORRECT, WRONG, MISSED = 1, 2, 3
ONE_LABEL = {CORRECT: "true positive", WRONG: "false positive", MISSED: "false negative"}
SEVERAL_LABELS = {
    CORRECT: "right label",
    WRONG: "predicted wrongly (background or another label)",
    MISSED: "missed (predicted as background)",
}


@dataclass(frozen=True)
class Tally:
    """What an outcome map shows, in numbers.

    Attributes:
        correct: Foreground voxels with the right label; true positives where there is one label.
        wrong: Voxels predicted as foreground that are background or another label; false positives.
        missed: Foreground voxels predicted as background; false negatives.
        dice: By label name; ``None`` where neither map has the label.
    """

    correct: int
    wrong: int
    missed: int
    dice: Mapping[str, float | None]

    @property
    def mean_dice(self) -> float | None:
        """Mean over the labels that are in either map, ``None`` where none is."""
        known = [value for value in self.dice.values() if value is not None]
        return sum(known) / len(known) if known else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = {"correct": self.correct, "wrong": self.wrong, "missed": self.missed}
        return counts | {"dice": dict(self.dice), "mean_dice": self.mean_dice}


@dataclass(frozen=True)
class SliceClaim:
    """One slice of an outcome map and the numbers written beside it.

    Attributes:
        plane: How it is cut.
        index: Which slice, from 0, in RAS+ order: from the left, from behind or from the feet.
        why: Why this one is shown.
        tally: Its numbers.
    """

    plane: Plane
    index: int
    why: str
    tally: Tally


def outcome_of(prediction: NDArray[Any], reference: NDArray[Any], ignore_label: int | None = None) -> NDArray[np.uint8]:
    """``CORRECT``, ``WRONG``, ``MISSED`` or 0 of each voxel; 0 also where the reference is ``ignore_label``."""
    found = np.zeros(reference.shape, np.uint8)
    found[reference > 0] = MISSED
    found[prediction > 0] = WRONG
    found[(prediction > 0) & (prediction == reference)] = CORRECT
    if ignore_label is not None:
        found[reference == ignore_label] = 0
    return found


def tally_of(
    prediction: NDArray[Any], reference: NDArray[Any], label_names: Mapping[int, str], ignore_label: int | None = None
) -> Tally:
    """The numbers of two label maps of one shape."""
    outcomes = outcome_of(prediction, reference, ignore_label)
    correct, wrong, missed = (int(np.count_nonzero(outcomes == value)) for value in (CORRECT, WRONG, MISSED))
    dice = {
        name: count_label(prediction, reference, value, ignore_label).dice
        for value, name in sorted(label_names.items())
    }
    known = {name: None if math.isnan(value) else value for name, value in dice.items()}
    return Tally(correct, wrong, missed, known)


def tally_case(case: FigureCase) -> Tally | None:
    """The numbers of a whole case, ``None`` where it lacks a map to compare."""
    if case.reference is None or case.prediction is None:
        return None
    return tally_of(case.prediction, case.reference, case.label_names, case.ignore_label)


def claims_of(case: FigureCase, plane: Plane) -> list[SliceClaim]:
    """The slices that the outcome figure of a case shows, and the numbers that it writes beside them.

    First the slice with most reference (or prediction, without any reference), then the one with most differences, if
    it is another.
    """
    if case.reference is None or case.prediction is None:
        return []
    chosen: dict[int, str] = {}
    first = "nothing is marked" if case.marked_by == "neither map" else f"most {case.marked_by}"
    for shown, why in (("foreground", first), ("disagreement", "most differences")):
        chosen.setdefault(case.slice_of(plane, shown), why)
    if case.image.shape[plane.normal] == 1:
        chosen = {0: ""}
    found = []
    for index, why in chosen.items():
        prediction, reference = (cut(m, plane, index) for m in (case.prediction, case.reference))
        found.append(
            SliceClaim(plane, index, why, tally_of(prediction, reference, case.label_names, case.ignore_label))
        )
    return found


def outcome_words(case: FigureCase) -> Mapping[int, str]:
    """What the outcomes of a case are called: they are positives and negatives only where there is one label."""
    return ONE_LABEL if len(case.label_names) == 1 else SEVERAL_LABELS


def number(value: float | None) -> str:
    """A Dice in words."""
    return "undefined" if value is None else f"{value:.3f}"


def where(case: FigureCase, plane: Plane, index: int) -> str:
    """Which slice it is, in words; of a plain picture its size."""
    if plane.is_picture:
        return f"{case.image.shape[0]} x {case.image.shape[1]} pixels"
    return f"{plane.name}, slice {index + 1} of {case.image.shape[plane.normal]}"
