"""Where the classes of a label map are: their counts by block and slice, and their connected components.

The map is searched once for the box around each class. All else happens inside the boxes, so that a small organ in a
large scan costs little; background is what the others leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BLOCK = 32  # edge of a block in voxels: a block of labels is 32 KiB, one read
Box = tuple[slice, ...]
_CONNECTIVITY_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class CutOff:
    """What a crop takes from a class of a label map.

    Attributes:
        class_value: Label value.
        lesions: Connected components (26 neighbours) of which nothing is left.
        of_lesions: Those that there were.
        voxels: Voxels outside of the crop, also of components that are cut through.
        of_voxels: Those that there were.
    """

    class_value: int
    lesions: int
    of_lesions: int
    voxels: int
    of_voxels: int


def class_boxes(label: NDArray[Any]) -> dict[int, Box]:
    """The box around each value of a label map ``(x, y, z)``; under 0 the one around all others."""
    found = ndimage.find_objects(label) if label.any() else []
    boxes: dict[int, Box] = {value: box for value, box in enumerate(found, start=1) if box is not None}
    return boxes | ({0: _around(boxes.values())} if boxes else {})


def count_blocks(label: NDArray[Any], value: int, boxes: Mapping[int, Box]) -> NDArray[np.uint32]:
    """Voxels of a class in each block: ``(block x, block y, block z)``."""
    counts = np.zeros([-(-n // BLOCK) for n in label.shape], dtype=np.uint32)
    if value in boxes:
        blocks = tuple(slice(part.start // BLOCK, -(-part.stop // BLOCK)) for part in boxes[value])
        counts[blocks] = _sums(_mask(label, value, tuple(slice(b.start * BLOCK, b.stop * BLOCK) for b in blocks)))
    if value:
        return counts
    lengths = [np.diff([*range(0, n, BLOCK), n]).astype(np.uint32) for n in label.shape]
    voxels: NDArray[np.uint32] = np.einsum("i,j,k->ijk", *lengths)
    return voxels - counts


def count_slices(label: NDArray[Any], value: int, boxes: Mapping[int, Box], axis: int) -> NDArray[np.int64]:
    """Voxels of a class in each slice across an axis."""
    counts = np.zeros(label.shape[axis], dtype=np.int64)
    if value in boxes:
        others = tuple(other for other in range(3) if other != axis)
        counts[boxes[value][axis]] = np.count_nonzero(_mask(label, value, boxes[value]), axis=others)
    return counts if value else label.size // label.shape[axis] - counts


def find_lesions(
    label: NDArray[Any], classes: Sequence[int], boxes: Mapping[int, Box]
) -> tuple[Box, NDArray[np.uint32], list[list[int]]]:
    """Connected components (26 neighbours) of the classes but background.

    Returns:
        The box with all of them, their numbers in it (0: none), and for each its number, class, voxels, the first
        voxel of its box (x, y, z) and the one past its last.
    """
    chosen = {value: boxes[value] for value in classes if value and value in boxes}
    whole = _around(chosen.values()) if chosen else (slice(0, 0),) * 3
    numbers = np.zeros([part.stop - part.start for part in whole], dtype=np.uint32, order="F")
    rows: list[list[int]] = []
    for value, box in chosen.items():
        found, count = ndimage.label(_mask(label, value, box), structure=_CONNECTIVITY_26)
        sizes = np.bincount(found.ravel(order="K"), minlength=count + 1)
        inside = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, whole, strict=True))
        numbers[inside] += np.where(found > 0, found + len(rows), 0).astype(np.uint32)
        for number, part in enumerate(ndimage.find_objects(found), start=1):
            start = [outer.start + p.start for outer, p in zip(box, part, strict=True)]
            stop = [outer.start + p.stop for outer, p in zip(box, part, strict=True)]
            rows.append([len(rows) + 1, value, int(sizes[number]), *start, *stop])
    return whole, numbers, rows


def find_cut_off(label: NDArray[Any], kept: Box, classes: Sequence[int]) -> tuple[CutOff, ...]:
    """The classes but background of which a crop leaves no voxel of at least one connected component.

    Args:
        label: ``(x, y, z)`` before the crop.
        kept: The box that the crop keeps.
        classes: Label values.
    """
    found = []
    for value, box in class_boxes(label).items():
        if value not in classes or not value or _holds(kept, box):
            continue
        numbers, count = ndimage.label(_mask(label, value, box), structure=_CONNECTIVITY_26)
        inside = numbers[
            tuple(slice(max(k.start - b.start, 0), max(k.stop - b.start, 0)) for b, k in zip(box, kept, strict=True))
        ]
        left = int(np.count_nonzero(np.bincount(inside.ravel(), minlength=count + 1)[1:]))
        if left < count:
            voxels = int(np.count_nonzero(numbers))
            found.append(CutOff(value, count - left, count, voxels - int(np.count_nonzero(inside)), voxels))
    return tuple(found)


def _holds(outer: Box, inner: Box) -> bool:
    return all(a.start <= b.start and b.stop <= a.stop for a, b in zip(outer, inner, strict=True))


def _around(boxes: Iterable[Box]) -> Box:
    """The smallest box with all boxes."""
    return tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*boxes, strict=True))


def _mask(label: NDArray[Any], value: int, box: Box) -> NDArray[np.bool_]:
    """Where a class is in a box; for 0 where it is not."""
    mask: NDArray[np.bool_] = label[box] == value if value else label[box] != 0
    return mask


def _sums(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Voxels set in each block of a mask that begins with a block."""
    counts: NDArray[Any] = mask.T  # from the axis that is slowest in memory on
    for axis, size in enumerate(counts.shape):
        counts = np.add.reduceat(counts, np.arange(0, size, BLOCK), axis=axis, dtype=np.uint32)
    return counts.T
