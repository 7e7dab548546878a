"""Preparing a scan and its label map, and bringing answers back to the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.label_index import CutOff, find_cut_off
from seg3d.preparation.crop import find_crop
from seg3d.preparation.normalise import as_stored, normalise
from seg3d.preparation.recipe import Recipe
from seg3d.preparation.resample import (
    resample_image,
    resample_label,
    resample_probability,
    resampled_grid,
    resampled_shape,
)
from seg3d.preparation.separation import separation_weights
from seg3d.preparation.wayback import WayBack, turn_to_ras
from seg3d.volume import Grid, Shape, Volume

_OBLIQUE_DEG = 40.0  # at 45 two axes would be equally near


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared image.

    Attributes:
        image: ``(channel, x, y, z)`` float16 in RAS+ order.
        grid: Its grid.
        way_back: The way to the source grid.
    """

    image: NDArray[np.float16]
    grid: Grid
    way_back: WayBack


def prepare_image(volumes: Sequence[Volume], recipe: Recipe, *, x_fastest: bool = False) -> Prepared:
    """An image turned to RAS+, cropped, normalised and, if the recipe says so, resampled; no label is needed.

    Args:
        volumes: One volume per channel, or one with all, on one grid.
        recipe: How to prepare it.
        x_fastest: How the voxels lie in memory: as they are stored, which is how most scans have them; else z varies
            fastest, as a network takes them.

    Raises:
        DataError: The channels lie on different grids, or the recipe cannot be followed.
    """
    source = volumes[0].grid
    for number, volume in enumerate(volumes):
        if not volume.grid.same_as(source):
            raise DataError(
                "the channels lie on different grids",
                where=f"channel {number}",
                got=volume.grid.shape,
                expected=f"{source.shape} and the same affine",
                fix="Resample them onto one grid.",
            )
    channels = [channel for volume in volumes for channel in volume.data]
    turn, grid = turn_to_ras(source)
    if recipe.slice_axis is not None:
        refuse_oblique(grid, recipe.slice_axis)
        refuse_lines(grid, recipe.slice_axis)
    whole = WayBack(source, turn, (0, 0, 0), grid.shape, grid.shape)
    start, shape = find_crop([whole.turned(channel) for channel in channels], grid, recipe.crop)
    cropped = grid.cropped(start, shape)
    prepared = prepared_shape(cropped, recipe)
    way_back = WayBack(source, turn, start, shape, prepared)
    steps = recipe.normalise * (len(channels) if len(recipe.normalise) == 1 else 1)
    image = np.empty((len(channels), *(prepared[::-1] if x_fastest else prepared)), dtype=np.float16)
    image = image.transpose(0, 3, 2, 1) if x_fastest else image
    for number, (channel, step) in enumerate(zip(channels, steps, strict=True)):
        image[number] = as_stored(resample_image(normalise(way_back.cut(channel), step), prepared))
    return Prepared(image, resampled_grid(cropped, prepared), way_back)


def prepared_shape(grid: Grid, recipe: Recipe) -> Shape:
    """Voxels of a cropped RAS+ grid after it is resampled as the recipe says."""
    if recipe.size is not None:
        x, y, z = (own if wanted is None else wanted for own, wanted in zip(grid.shape, recipe.size, strict=True))
        return x, y, z
    return grid.shape if recipe.spacing_mm is None else resampled_shape(grid, recipe.spacing_mm)


def refuse_oblique(grid: Grid, axis: int) -> None:
    """Refuse a grid in RAS+ order of which it cannot be told which slices lie across a patient's axis.

    Raises:
        DataError: The grid's axis is turned away from the patient's by more than 40 degrees, so that another is about
            as near.
    """
    column = grid.affine[:3, axis]
    degrees = float(np.degrees(np.arccos(min(1.0, abs(column[axis]) / grid.spacing_mm[axis]))))
    if degrees > _OBLIQUE_DEG:
        plane = ("sagittal", "coronal", "axial")[axis]
        raise DataError(
            f"the affine does not tell which slices are {plane}",
            got=f"an axis {degrees:.0f} degrees from the patient's",
            expected=f"at most {_OBLIQUE_DEG:g}",
            fix="Resample the scan to the patient's axes, or use a network of 3 dimensions.",
        )


def refuse_lines(grid: Grid, axis: int) -> None:
    """Refuse a grid in RAS+ order, of a picture or a single slice, whose slices across an axis are lines.

    Raises:
        DataError: It has one voxel along another axis and several along this one.
    """
    thin = [other for other, size in enumerate(grid.shape) if size == 1 and other != axis]
    if grid.shape[axis] > 1 and thin:
        raise DataError(
            f"slices across {'xyz'[axis]} are lines: the scan has one voxel along {'xyz'[thin[-1]]}",
            got=grid.shape,
            expected=f"sampling.patch_size with its 1 along {'xyz'[thin[-1]]}",
            fix="[256, 256, 1] is axial and takes pictures, [256, 1, 256] is coronal, [1, 256, 256] sagittal.",
        )


def prepare_weights(label: NDArray[Any], recipe: Recipe, ignore_label: int | None) -> NDArray[np.float16] | None:
    """Weights ``(x, y, z)`` of a prepared label map's voxels in the loss; ``None`` where all are alike."""
    chosen = recipe.separation
    if chosen is None:
        return None
    weights = separation_weights(
        label, w0=chosen.w0, sigma=chosen.sigma, class_balance=chosen.class_balance, ignore_label=ignore_label
    )
    return weights.astype(np.float16)


def prepare_label(label: Volume, way_back: WayBack) -> NDArray[Any]:
    """A label map ``(x, y, z)`` on the prepared grid of its image."""
    return resample_label(way_back.cut(label.data[0]), way_back.prepared)


def find_lost(label: Volume, way_back: WayBack, classes: Sequence[int]) -> tuple[CutOff, ...]:
    """The classes of a label map of which the crop of its image leaves nothing of a lesion."""
    turned = way_back.turned(label.data[0])
    return () if way_back.cropped == turned.shape else find_cut_off(turned, way_back.box, classes)


def restore_label(label: NDArray[Any], way_back: WayBack) -> NDArray[Any]:
    """A label map on the prepared grid brought to the source's array; 0 outside the crop.

    Without resampling this is the exact inverse of :func:`prepare_label` inside the crop.
    """
    return way_back.whole(resample_label(label, way_back.cropped), 0)


def restore_probability(values: NDArray[np.float32], way_back: WayBack, outside: float) -> NDArray[np.float32]:
    """A map ``(x, y, z)`` brought to the source's array; ``outside`` beyond the crop."""
    return way_back.whole(resample_probability(values, way_back.cropped), outside)
