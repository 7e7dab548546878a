"""Removing what cannot be right: all but the largest part of an organ, parts too small to be real."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_CONNECTIVITY_26 = np.ones((3, 3, 3), dtype=bool)


def clean_up(
    label: NDArray[Any],
    voxel_volume_ml: float,
    keep_largest: Collection[int] = (),
    min_size_ml: Mapping[int, float] | None = None,
) -> NDArray[Any]:
    """A copy of a label map in which unwanted connected components (26 neighbours) are background.

    Args:
        label: ``(x, y, z)``.
        voxel_volume_ml: Volume of a voxel in millilitres.
        keep_largest: Label values of which only the largest component stays; of equal ones the first in array order.
        min_size_ml: Smallest volume by label value; a component below it goes.
    """
    smallest = dict(min_size_ml or {})
    cleaned = label.copy()
    for value in sorted(set(keep_largest) | set(smallest)):
        mask = label == value
        if not mask.any():
            continue
        components, count = ndimage.label(mask, structure=_CONNECTIVITY_26)
        sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
        keep = sizes * voxel_volume_ml >= smallest.get(value, 0.0)
        if value in keep_largest:
            keep &= np.arange(count) == sizes.argmax()
        cleaned[mask & ~np.append(False, keep)[components]] = 0
    return cleaned
