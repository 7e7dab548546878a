"""What is read together for a patch: the image's channels and, where a case has them, its voxel weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from seg3d.store import StoredVolume
from seg3d.volume import Border, Shape, mirrored

WEIGHT_OUTSIDE = 1.0  # as a loss without weights counts a voxel


def layers(volume: StoredVolume, box: tuple[slice, ...]) -> torch.Tensor:
    """A box of the image ``(channel, z, y, x)`` float16; the weights are the last channel where there are any."""
    image = file_order(volume.image, (slice(None), *box))
    return image if volume.weights is None else torch.cat([image, file_order(volume.weights, box)[None]])


def labels(volume: StoredVolume, box: tuple[slice, ...]) -> torch.Tensor:
    """A box of the label map ``(z, y, x)``: uint8, or int32 where values need two bytes."""
    found = file_order(volume.label, box)
    return found if found.dtype == torch.uint8 else found.int()  # torch neither compares nor flips uint16


def outside(volume: StoredVolume) -> torch.Tensor:
    """What each layer is beyond the volume, ``(channel, 1, 1, 1)``: the image's minimum, and the weight 1."""
    values = [*volume.info.minimum, *(() if volume.weights is None else (WEIGHT_OUTSIDE,))]
    return torch.tensor(values).reshape(-1, 1, 1, 1)


def file_order(array: NDArray[Any] | None, box: tuple[slice, ...]) -> torch.Tensor:
    """A box of a mapped array as a tensor in file order; torch converts float16 six times faster than numpy."""
    assert array is not None
    view = array[box]
    flipped = view.transpose(0, 3, 2, 1) if view.ndim == 4 else view.T
    return torch.from_numpy(flipped)


def read_box(volume: StoredVolume, start: Shape, size: Shape, border: Border) -> tuple[torch.Tensor, torch.Tensor]:
    """Layers ``(channel, z, y, x)`` float32 and label ``(z, y, x)`` of a box that may reach beyond the volume."""
    shape = volume.info.grid.shape
    if all(a >= 0 and a + n <= s for a, n, s in zip(start, size, shape, strict=True)):
        box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        return layers(volume, box).float(), labels(volume, box).clone()
    return (_read_mirrored if border == "mirror" else _read_padded)(volume, start, size)


def _read_mirrored(volume: StoredVolume, start: Shape, size: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    places = [mirrored(a, a + n, s) for a, n, s in zip(start, size, volume.info.grid.shape, strict=True)]
    # the part that the places lie in is read, then its voxels are put where they stand
    box = tuple(slice(int(p.min()), int(p.max()) + 1) for p in places)
    inner = [torch.from_numpy(p - part.start) for p, part in zip(places, box, strict=True)]
    return _picked(layers(volume, box).float(), inner), _picked(labels(volume, box), inner)


def _picked(values: torch.Tensor, places: Sequence[torch.Tensor]) -> torch.Tensor:
    """Voxels of ``(…, z, y, x)`` at the places along x, y and z."""
    for axis, chosen in enumerate(places, start=1):
        values = values.index_select(values.ndim - axis, chosen)
    return values


def _read_padded(volume: StoredVolume, start: Shape, size: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    shape = volume.info.grid.shape
    inside = tuple(slice(max(a, 0), min(a + n, s)) for a, n, s in zip(start, size, shape, strict=True))
    place = tuple(slice(part.start - a, part.stop - a) for a, part in zip(start, inside, strict=True))[::-1]
    found = layers(volume, inside)
    whole = torch.empty((found.shape[0], *size[::-1]))
    whole[:] = outside(volume)
    whole[(slice(None), *place)] = found.float()
    label = labels(volume, inside)
    padded = torch.zeros(size[::-1], dtype=label.dtype)
    padded[place] = label
    return whole, padded
