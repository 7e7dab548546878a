"""Weights of voxels that balance the classes and stress the thin borders between cells.

Source: Ronneberger, Fischer and Brox, U-Net: convolutional networks for biomedical image segmentation (MICCAI 2015),
section 3, equation 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.volume import Spacing

MAX_CLASS_WEIGHT = 100.0  # one voxel of a class in a million would otherwise outweigh all others, and float16 ends
_FLOAT16_MAX = 65504.0


def separation_weights(
    label: NDArray[Any],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_balance: bool | Mapping[int, float] = True,
    spacing: Spacing = (1.0, 1.0, 1.0),
    instances: NDArray[Any] | None = None,
    ignore_label: int | None = None,
) -> NDArray[np.float32]:
    """Weight map ``(x, y, z)``: ``w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2))``, the second term on the background alone.

    ``d1`` and ``d2`` are the distances, between voxel centres, to the nearest voxel of the nearest and of the second
    nearest cell; both are exact. The paper writes the map for every pixel, yet means it "to force the network to learn
    the small separation borders": inside a cell the distance to its own border would be 0 at every outline, also where
    no other cell is near, and would weigh the cells' rims like the borders between them. So there the term is left out,
    as it is in the paper's figure 3d. With fewer than two cells it is 0 everywhere.

    The values lie between 0 (ignored voxels only) and ``MAX_CLASS_WEIGHT + w0``, by default 110; class weights that are
    given are not limited. As float16 they are rounded by at most 0.05 %.

    Args:
        label: Label map ``(x, y, z)``, a picture with ``z`` of size 1; 0 is background.
        w0: Height of the separation term, 0 or more.
        sigma: Its width, above 0, in the units of ``spacing``.
        class_balance: ``True``: ``w_c`` balances the classes of this label map, see :func:`balancing_weights`. A
            mapping: weight by label value, such as those balanced over a whole training set, which is what the paper
            says. ``False``: 1.
        spacing: Distance of neighbouring voxels along each axis. As it stands ``sigma`` is in voxels, as in the paper
            ("about 5 pixels"); with a grid's ``spacing_mm`` it is in mm.
        instances: Cells by number, 0 where there is none, for cells that touch; by default the components of each
            label, connected through faces (4 neighbours in a picture, 6 in a volume), so that cells which meet at a
            corner are two. Touching cells need a border of background in the label map to be told apart by a network.
        ignore_label: Voxels with this label have weight 0, and are neither cell, background nor class.

    Raises:
        ValueError: The shapes differ, a class has no weight, a number is out of range or not safe as float16.

    Source: Ronneberger et al. (MICCAI 2015), equation 2, with ``w0 = 10`` and ``sigma`` of about 5 pixels.
    """
    _check(label, w0, sigma, spacing, instances)
    kept = None if ignore_label is None else label != ignore_label
    classes = class_weights(label, kept, class_balance)
    if w0 + max(classes.values(), default=0.0) > _FLOAT16_MAX:
        raise ValueError(f"the largest weight does not fit float16, got w0 = {w0} and class weights {classes}")
    weights = np.zeros(label.shape, dtype=np.float32)
    for value, weight in classes.items():
        weights[label == value] = weight
    cells = find_cells(label, ignore_label) if instances is None else instances
    background = (label == 0) & (cells == 0)
    if w0 and 0 in classes:
        d1, d2 = two_distances(cells, background, spacing)
        weights[background] += (w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))).astype(np.float32)
    return weights


def balancing_weights(counts: Mapping[int, int]) -> dict[int, float]:
    """Weight of each class, ``n / (classes n_class)``: every class weighs the same in sum, the mean voxel weighs 1.

    A class that would weigh more than ``MAX_CLASS_WEIGHT`` weighs that much, and the mean is then below 1.

    Args:
        counts: Voxels by class; classes without any are left out.
    """
    present = {value: count for value, count in counts.items() if count > 0}
    total = sum(present.values())
    return {value: min(total / (len(present) * count), MAX_CLASS_WEIGHT) for value, count in sorted(present.items())}


def class_weights(
    label: NDArray[Any], kept: NDArray[np.bool_] | None, class_balance: bool | Mapping[int, float]
) -> dict[int, float]:
    """Weight of each class of a label map; ``kept`` are the voxels that are not ignored, ``None`` for all.

    Raises:
        ValueError: ``class_balance`` lacks a class or gives it a weight that is not a number of 0 or more.
    """
    values, counts = np.unique(label if kept is None else label[kept], return_counts=True)
    found = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    if isinstance(class_balance, Mapping):
        missing = sorted(set(found) - set(class_balance))
        if missing:
            raise ValueError(f"class_balance has a weight for every class, got none for {missing}")
        if not all(math.isfinite(weight) and weight >= 0 for weight in class_balance.values()):
            raise ValueError(f"the weights of class_balance are finite and not negative, got {dict(class_balance)}")
        return {value: float(class_balance[value]) for value in found}
    return balancing_weights(found) if class_balance else dict.fromkeys(found, 1.0)


def find_cells(label: NDArray[Any], ignore_label: int | None = None) -> NDArray[np.int32]:
    """Cells by number from 1: the components of each foreground label, connected through faces."""
    cells = np.zeros(label.shape, dtype=np.int32)
    number = 0
    for value in np.unique(label).tolist():
        if value in (0, ignore_label):
            continue
        parts, count = ndimage.label(label == value)
        inside = parts > 0
        cells[inside] = parts[inside] + number
        number += count
    return cells


def two_distances(
    cells: NDArray[Any], where: NDArray[np.bool_], spacing: Spacing
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances ``(n,)`` of the voxels of ``where`` to the nearest and second nearest cell; infinite if there is none.

    The second nearest of ``n`` cells costs no transform per cell: two numbers differ in a bit, so the nearest cell
    other than a voxel's own is the nearest of those that differ from it in some bit, and ``2 log2 n`` transforms
    give it exactly.
    """
    values = np.unique(cells[cells != 0])
    infinite = np.full(int(np.count_nonzero(where)), np.inf)
    if not values.size:
        return infinite, infinite
    numbers = np.searchsorted(values, cells)  # 0 to n - 1, whatever the cells' own numbers are
    inside = cells != 0
    distance, nearest = ndimage.distance_transform_edt(~inside, sampling=spacing, return_indices=True)
    own = numbers[tuple(nearest)][where]
    first, second = distance[where], infinite
    for bit in range(int(values.size - 1).bit_length()):
        for side in (0, 1):
            others = inside & ((numbers >> bit) & 1 == side)
            away = ndimage.distance_transform_edt(~others, sampling=spacing)[where]
            second = np.where((own >> bit) & 1 != side, np.minimum(second, away), second)
    return first, second


def _check(label: NDArray[Any], w0: float, sigma: float, spacing: Spacing, instances: NDArray[Any] | None) -> None:
    if label.ndim != 3 or (instances is not None and instances.shape != label.shape):
        shape = None if instances is None else instances.shape
        raise ValueError(f"label and instances are (x, y, z) of one shape, got {label.shape} and {shape}")
    if not (math.isfinite(w0) and w0 >= 0 and math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"w0 is 0 or more and sigma above 0, got {w0} and {sigma}")
    if len(spacing) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise ValueError(f"spacing is three lengths above 0, got {spacing}")
