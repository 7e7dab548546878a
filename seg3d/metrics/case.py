"""All scores of one case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from seg3d.metrics.lesions import Lesions, count_lesions
from seg3d.metrics.overlap import Overlap, count_overlap, counted_voxels, label_masks
from seg3d.metrics.surface import SurfaceScores, surface_scores
from seg3d.volume import Spacing, bounding_box


@dataclass(frozen=True)
class LabelScore:
    """Scores of one label in one case.

    Attributes:
        overlap: Voxel counts.
        surface: Surface distances.
        lesions: Components by outcome.
        volume_ml: Volume of the prediction.
        reference_volume_ml: Volume of the reference.
    """

    overlap: Overlap
    surface: SurfaceScores
    lesions: Lesions
    volume_ml: float
    reference_volume_ml: float

    @property
    def volume_error_ml(self) -> float:
        """Prediction minus reference."""
        return self.volume_ml - self.reference_volume_ml

    @property
    def empty(self) -> str:
        """What is empty: ``"both"``, ``"prediction"``, ``"reference"`` or ``"none"``."""
        found, wanted = self.overlap.tp + self.overlap.fp > 0, self.overlap.tp + self.overlap.fn > 0
        return {(False, False): "both", (False, True): "prediction", (True, False): "reference"}.get(
            (found, wanted), "none"
        )


def score_case(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    labels: Sequence[int],
    spacing_mm: Spacing,
    voxel_volume_ml: float,
    *,
    ignore_label: int | None = None,
    tolerance_mm: float = 2.0,
) -> dict[int, LabelScore]:
    """Scores of each label; surfaces of a volume with an axis of one voxel are outlines in the plane.

    Args:
        prediction: Label map ``(x, y, z)``.
        reference: Label map of the same shape.
        labels: Label values.
        spacing_mm: Voxel spacing.
        voxel_volume_ml: Volume of a voxel.
        ignore_label: Voxels with this reference count nowhere: they are background in both.
        tolerance_mm: Tolerance of the surface Dice.

    Raises:
        ValueError: The shapes differ.
    """
    counted, size = counted_voxels(prediction, reference, ignore_label)
    # both sides of a picture or slice would else be its surface, where nothing can be wrong
    thin = [axis for axis, n in enumerate(reference.shape) if n == 1] if reference.size > 1 else []
    scores = {}
    for label in labels:
        found, wanted = label_masks(prediction, reference, label, counted)
        overlap = count_overlap(found, wanted, size)
        # everything that is left to do happens where either mask is
        box = bounding_box(found | wanted) or (slice(0, 0),) * 3
        scores[label] = LabelScore(
            overlap,
            surface_scores(found[box], wanted[box], spacing_mm, tolerance_mm, thin),
            count_lesions(found[box], wanted[box]),
            (overlap.tp + overlap.fp) * voxel_volume_ml,
            (overlap.tp + overlap.fn) * voxel_volume_ml,
        )
    return scores
