"""Distances between surfaces in millimetres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.metrics.elements import element_areas, surface_codes
from seg3d.volume import Spacing, bounding_box

_PERCENTILE = 95
# a step of three voxels of 0.1 mm is 0.30000000000000004 mm: what lies on the tolerance is within it
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SurfaceScores:
    """Surface scores of two masks. Both empty: all ``nan``. One empty: distances infinite, surface Dice 0.

    Attributes:
        hd95_mm: The larger of the two directed 95th percentiles of the distances between surface voxels.
        assd_mm: Mean distance over the surface voxels of both.
        hd95_elements_mm: As ``hd95_mm``, over surface elements weighted by their area.
        surface_dice: Share of the area of both surfaces that is within the tolerance of the other.
    """

    hd95_mm: float
    assd_mm: float
    hd95_elements_mm: float
    surface_dice: float


def surface_scores(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: Spacing,
    tolerance_mm: float,
    thin: Sequence[int] = (),
) -> SurfaceScores:
    """Surface scores of two masks ``(x, y, z)``.

    Args:
        prediction: Mask.
        reference: Mask of the same shape.
        spacing_mm: Voxel spacing.
        tolerance_mm: Tolerance of the surface Dice.
        thin: Axes of one voxel along which there is nothing to see, as in a picture: the surface is then the outline in
            the plane, and its area is its length. Without, both sides of a slice are surface, too.

    Two definitions of a surface are in use, and both are here: *surface voxels* have a face neighbour outside the mask
    (MONAI, nnU-Net's users), *surface elements* lie between voxels and have an area (DeepMind's surface-distance; MONAI
    with sub-voxels). Beyond the volume is outside.

    Source: Taha and Hanbury, Metrics for evaluating 3D medical image segmentation (BMC Med Imaging 2015); Nikolov et
    al., Deep learning to achieve clinically applicable segmentation (2018) for the surface Dice.
    """
    empty = (not prediction.any(), not reference.any())
    if all(empty):
        return SurfaceScores(math.nan, math.nan, math.nan, math.nan)
    if any(empty):
        return SurfaceScores(math.inf, math.inf, math.inf, 0.0)
    box = _joint_box(prediction, reference)
    masks = [np.ascontiguousarray(mask[box]) for mask in (prediction, reference)]
    hd95, assd = _voxel_scores(masks, spacing_mm, thin)
    hd95_elements, surface_dice = _element_scores(masks, spacing_mm, tolerance_mm, thin)
    return SurfaceScores(hd95, assd, hd95_elements, surface_dice)


def _voxel_scores(masks: Sequence[NDArray[np.bool_]], spacing_mm: Spacing, thin: Sequence[int]) -> tuple[float, float]:
    """HD95 and ASSD over surface voxels."""
    surfaces = [_surface(mask, thin) for mask in masks]
    forth, back = (_distances(a, b, spacing_mm) for a, b in (surfaces, surfaces[::-1]))
    hd95 = float(max(np.percentile(forth, _PERCENTILE), np.percentile(back, _PERCENTILE)))
    return hd95, float((forth.sum() + back.sum()) / (forth.size + back.size))


def _surface(mask: NDArray[np.bool_], thin: Sequence[int]) -> NDArray[np.bool_]:
    """Voxels with a face neighbour outside the mask, but for neighbours along thin axes."""
    inner = mask.copy()
    for axis in (axis for axis in range(mask.ndim) if axis not in thin):
        along, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        kept[1:] &= along[:-1]
        kept[:-1] &= along[1:]
        kept[[0, -1]] = False
    return mask & ~inner


def _element_scores(
    masks: Sequence[NDArray[np.bool_]], spacing_mm: Spacing, tolerance_mm: float, thin: Sequence[int]
) -> tuple[float, float]:
    """HD95 and surface Dice over surface elements."""
    codes = [surface_codes(mask, thin) for mask in masks]
    surfaces = [(code != 0) & (code != 255) for code in codes]
    areas = [element_areas(spacing_mm)[code[surface]] for code, surface in zip(codes, surfaces, strict=True)]
    distances = [_distances(a, b, spacing_mm) for a, b in (surfaces, surfaces[::-1])]
    limit = tolerance_mm * (1 + _ROUNDING)
    near = sum(float(area[d <= limit].sum()) for area, d in zip(areas, distances, strict=True))
    hd95 = max(_weighted_percentile(d, area) for d, area in zip(distances, areas, strict=True))
    return hd95, near / sum(float(area.sum()) for area in areas)


def _weighted_percentile(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """The distance within which the percentile's share of the area lies."""
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(areas[order]) / areas.sum()
    place = int(np.searchsorted(share, _PERCENTILE / 100))
    return float(distances[order][min(place, len(order) - 1)])


def _joint_box(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Box of both masks: distances between their surfaces are the same in it."""
    box = bounding_box(prediction | reference)
    assert box is not None  # neither mask is empty
    return box


def _distances(source: NDArray[Any], target: NDArray[Any], spacing_mm: Spacing) -> NDArray[np.float64]:
    """Distance of each surface place of ``source`` to the nearest one of ``target``."""
    nearest: NDArray[np.int32] = ndimage.distance_transform_edt(
        ~target, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    # at the surface only: most voxels of the box lie elsewhere
    steps = (nearest[:, source] - np.stack(np.nonzero(source))) * np.array(spacing_mm)[:, None]
    distances: NDArray[np.float64] = np.sqrt((steps * steps).sum(axis=0))
    return distances
