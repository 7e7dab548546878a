"""Distances between surfaces in millimetres."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.volume import Spacing

_PERCENTILE = 95
# a step of three voxels of 0.1 mm is 0.30000000000000004 mm: what lies on the tolerance is within it
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SurfaceScores:
    """Surface scores of two masks. Both empty: all ``nan``. One empty: distances infinite, surface Dice 0.

    Attributes:
        hd95_mm: The larger of the two directed 95th percentiles of the surface distances.
        assd_mm: Mean distance over the voxels of both surfaces.
        surface_dice: Share of both surfaces that is within the tolerance of the other.
    """

    hd95_mm: float
    assd_mm: float
    surface_dice: float


def surface_scores(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Spacing, tolerance_mm: float
) -> SurfaceScores:
    """Surface scores of two masks ``(x, y, z)``.

    The surface of a mask are its voxels with a face neighbour outside it; beyond the volume is outside.

    Source: Taha and Hanbury, Metrics for evaluating 3D medical image segmentation (BMC Med Imaging 2015); Nikolov et
    al., Deep learning to achieve clinically applicable segmentation (2018) for the surface Dice; MONAI for the surface
    voxels and the percentile.
    """
    empty = (not prediction.any(), not reference.any())
    if all(empty):
        return SurfaceScores(math.nan, math.nan, math.nan)
    if any(empty):
        return SurfaceScores(math.inf, math.inf, 0.0)
    box = _joint_box(prediction, reference)
    surfaces = [_surface(mask[box]) for mask in (prediction, reference)]
    forth, back = (_distances(a, b, spacing_mm) for a, b in (surfaces, surfaces[::-1]))
    limit = tolerance_mm * (1 + _ROUNDING)
    near = int(np.count_nonzero(forth <= limit)) + int(np.count_nonzero(back <= limit))
    return SurfaceScores(
        hd95_mm=float(max(np.percentile(forth, _PERCENTILE), np.percentile(back, _PERCENTILE))),
        assd_mm=float((forth.sum() + back.sum()) / (forth.size + back.size)),
        surface_dice=near / (forth.size + back.size),
    )


def _joint_box(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Box of both masks: distances between surface voxels are the same in it."""
    box: tuple[slice, ...] = ndimage.find_objects((prediction | reference).view(np.uint8))[0]
    return box


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    surface: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask, border_value=0)
    return surface


def _distances(source: NDArray[Any], target: NDArray[Any], spacing_mm: Spacing) -> NDArray[np.float64]:
    """Distance of each surface voxel of ``source`` to the nearest one of ``target``."""
    field: NDArray[np.float64] = ndimage.distance_transform_edt(~target, sampling=spacing_mm)
    distances: NDArray[np.float64] = field[source]
    return distances
