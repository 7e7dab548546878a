"""Where a scan is cropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.errors import DataError
from seg3d.preparation.recipe import Crop, ForegroundCrop
from seg3d.volume import Grid, Shape


def find_crop(channels: Sequence[NDArray[Any]], grid: Grid, crop: Crop) -> tuple[Shape, Shape]:
    """First voxel and shape of the box that is kept.

    Args:
        channels: ``(x, y, z)`` in RAS+ order.
        grid: Their grid.
        crop: What to cut off.

    Raises:
        DataError: Nothing would be left, or the channel does not exist.
    """
    start, stop = [0, 0, 0], list(grid.shape)
    spacing = grid.spacing_mm[2]
    start[2] = crop.inferior_slices + round(crop.inferior_mm / spacing)
    stop[2] -= crop.superior_slices + round(crop.superior_mm / spacing)
    if start[2] >= stop[2]:
        raise DataError(
            "cropping leaves no slice",
            got=f"{grid.shape[2]} slices of {spacing:g} mm",
            expected=f"more than {start[2]} inferior and {grid.shape[2] - stop[2]} superior ones",
            fix="Lower prepare.crop.inferior_* or superior_*.",
        )
    if crop.foreground is not None:
        inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        box = _foreground_box(channels, inside, grid, crop.foreground)
        start, stop = (
            [a + b.start for a, b in zip(start, box, strict=True)],
            [a + b.stop for a, b in zip(start, box, strict=True)],
        )
    x, y, z = (b - a for a, b in zip(start, stop, strict=True))
    return (start[0], start[1], start[2]), (x, y, z)


def _foreground_box(
    channels: Sequence[NDArray[Any]], inside: tuple[slice, ...], grid: Grid, crop: ForegroundCrop
) -> list[slice]:
    if crop.channel >= len(channels):
        raise DataError(
            "the channel to crop by does not exist",
            where="prepare.crop.foreground.channel",
            got=crop.channel,
            expected=f"0 to {len(channels) - 1}",
        )
    channel = channels[crop.channel][inside]
    threshold = crop.threshold if crop.percentile is None else float(np.percentile(channel, crop.percentile))
    found = ndimage.find_objects((channel > (0.0 if threshold is None else threshold)).view(np.uint8))
    box = found[0] if found and found[0] is not None else tuple(slice(0, n) for n in channel.shape)
    margins = [int(np.ceil(crop.margin_mm / s - 1e-6)) for s in grid.spacing_mm]
    return [
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, margin, size in zip(box, margins, channel.shape, strict=True)
    ]
