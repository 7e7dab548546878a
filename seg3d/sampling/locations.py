"""Where a patch lies: a centre drawn evenly among the voxels of a class or lesion, and the box around it."""

from __future__ import annotations

import numpy as np

from seg3d.label_index import BLOCK
from seg3d.store import Lesion, StoredVolume
from seg3d.volume import Shape

_SMALL_BOX = 64**3  # voxels; up to here a lesion's whole box is read, beyond a centre is drawn by rejection


def draw_centre(volume: StoredVolume, class_value: int, lesion: int, rng: np.random.Generator) -> Shape:
    """A voxel drawn evenly among those of a class, or of one of its lesions.

    Args:
        volume: The case.
        class_value: Label value; the case holds it.
        lesion: Component number, or 0 for any voxel of the class.
        rng: Keyed generator.
    """
    if lesion == 0:
        return _draw_in_class(volume, class_value, rng)
    found = volume.info.lesions[lesion - 1]
    if np.prod(np.subtract(found.stop, found.start)) <= _SMALL_BOX:
        return _draw_in_box(volume, found, rng)
    while True:  # a lesion this large fills a good part of the blocks that its box touches
        centre = _draw_in_class(volume, class_value, rng, found)
        box = volume.components(centre, (centre[0] + 1, centre[1] + 1, centre[2] + 1))
        if box.item() == lesion:
            return centre


def draw_in_slice(volume: StoredVolume, class_value: int, axis: int, index: int, rng: np.random.Generator) -> Shape:
    """A voxel drawn evenly among those of a class in one slice.

    Args:
        volume: The case.
        class_value: Label value; the slice holds it.
        axis: The slice lies across this axis (0, 1, 2).
        index: Its number along the axis.
        rng: Keyed generator.
    """
    assert volume.label is not None
    cut = volume.label.take(index, axis=axis)
    voxels = np.flatnonzero(cut == class_value)
    found = [int(n) for n in np.unravel_index(voxels[rng.integers(len(voxels))], cut.shape)]
    found.insert(axis, index)
    return found[0], found[1], found[2]


def place_patch(centre: Shape, patch_size: Shape, shape: Shape) -> Shape:
    """First voxel of the patch around ``centre``, moved into the volume.

    Along an axis on which the volume is smaller than the patch, the volume is centred in the patch and the start is
    negative (or zero).
    """
    return (
        _place(centre[0], patch_size[0], shape[0]),
        _place(centre[1], patch_size[1], shape[1]),
        _place(centre[2], patch_size[2], shape[2]),
    )


def _place(centre: int, size: int, limit: int) -> int:
    if limit <= size:
        return -((size - limit) // 2)
    return min(max(centre - size // 2, 0), limit - size)


def _draw_in_class(
    volume: StoredVolume, class_value: int, rng: np.random.Generator, near: Lesion | None = None
) -> Shape:
    assert volume.label is not None
    counts = volume.blocks[list(volume.info.class_counts).index(class_value)]
    first = np.zeros(3, dtype=np.int64) if near is None else np.array(near.start) // BLOCK
    if near is not None:
        last = (np.array(near.stop) - 1) // BLOCK + 1
        counts = counts[first[0] : last[0], first[1] : last[1], first[2] : last[2]]
    cumulative = np.cumsum(counts, dtype=np.int64)
    rank = int(rng.integers(cumulative[-1]))  # the rank-th voxel, counted block by block
    block = int(np.searchsorted(cumulative, rank, side="right"))
    inside = rank - int(cumulative[block - 1] if block else 0)
    i, j, k = ((np.array(np.unravel_index(block, counts.shape)) + first) * BLOCK).tolist()
    labels = volume.label[i : i + BLOCK, j : j + BLOCK, k : k + BLOCK]
    voxel = np.unravel_index(np.flatnonzero(labels == class_value)[inside], labels.shape)
    return i + int(voxel[0]), j + int(voxel[1]), k + int(voxel[2])


def _draw_in_box(volume: StoredVolume, lesion: Lesion, rng: np.random.Generator) -> Shape:
    box = volume.components(lesion.start, lesion.stop)
    voxels = np.flatnonzero(box == lesion.number)
    voxel = np.unravel_index(voxels[rng.integers(len(voxels))], box.shape)
    return lesion.start[0] + int(voxel[0]), lesion.start[1] + int(voxel[1]), lesion.start[2] + int(voxel[2])
