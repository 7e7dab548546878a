"""Resampling along the axes of a grid, with anti-aliasing when shrinking.

Both grids have the same centre. Each axis is one sparse matrix of interpolation weights, whose kernel is widened by
the shrink factor, so that no voxel of the source is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from seg3d.io import count_labels
from seg3d.preparation.components import Components, keep_components
from seg3d.volume import Grid, Shape, Spacing, bounding_box

Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def resampled_shape(grid: Grid, spacing_mm: Spacing) -> Shape:
    """Voxels of a grid of another spacing over the same field of view, at least one along each axis."""
    x, y, z = (max(1, round(n * a / b)) for n, a, b in zip(grid.shape, grid.spacing_mm, spacing_mm, strict=True))
    return x, y, z


def resampled_grid(grid: Grid, shape: Shape) -> Grid:
    """The grid of ``shape`` voxels that fills the same box; its spacing follows from the shape."""
    ratio = np.array(grid.shape) / np.array(shape)
    affine = grid.affine.copy()
    affine[:3, :3] *= ratio
    affine[:3, 3] += grid.affine[:3, :3] @ ((ratio - 1) / 2)
    return Grid(shape, affine)


def resample_image(image: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """An image ``(x, y, z)`` with ``shape`` voxels: cubic, anti-aliased when shrinking.

    Source: Keys, Cubic convolution interpolation (IEEE TASSP 1981), a = -0.5, widened by the shrink factor as in
    Turkowski, Filters for common resampling tasks (1990).
    """
    return _along_axes(image, shape, cubic, 2.0)


def resample_probability(values: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """A map ``(x, y, z)`` with ``shape`` voxels: linear, so that it never leaves its range."""
    return _along_axes(values, shape, triangle, 1.0)


def resample_label(label: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """A label map ``(x, y, z)`` with ``shape`` voxels and none but its own values.

    Each voxel takes the label with the largest interpolated share. Then small objects are kept: a connected component
    (26 neighbours) that would lose all its voxels gets one, where its label's share is largest, but never the last one
    of another component; it then gets the best beside it. Components of one label that fall into one voxel share it.
    One is lost only where all these are the last of others, or hold its label already.
    """
    if label.shape == shape:
        return label.copy(order="K")
    found = np.zeros(shape, dtype=label.dtype)
    best = np.ones(shape, dtype=np.float32)  # share of the background: what the others leave
    values = list(count_labels(label))
    if values == [0]:
        return found
    masks = {value: _Mask.of(label == value) for value in values if value != 0}
    share, place = _share(_Mask.of(label != 0), shape)
    best[place] -= share
    for value, mask in masks.items():
        share, place = _share(mask, shape)
        won = share > best[place]
        found[place][won], best[place][won] = value, share[won]
    parts = {
        value: Components(mask.inside, tuple(part.start for part in mask.box), mask.shape, shape)
        for value, mask in masks.items()
    }
    keep_components(found, parts, lambda value: resample_probability(masks[value].whole(), shape))
    return found


def triangle(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation."""
    return np.maximum(0.0, 1.0 - np.abs(t))


def cubic(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys's cubic convolution with a = -0.5."""
    a = np.abs(t)
    near = (1.5 * a - 2.5) * a * a + 1.0
    far = ((-0.5 * a + 2.5) * a - 4.0) * a + 2.0
    return np.where(a < 1, near, np.where(a < 2, far, 0.0))


@lru_cache(maxsize=256)  # patches ask for the same ones again and again; they are small and never changed
def axis_weights(old: int, new: int, kernel: Kernel, radius: float) -> sparse.csr_array:
    """Matrix ``(new, old)`` of interpolation weights along one axis; each row sums to 1, borders are repeated."""
    ratio = old / new
    width = max(1.0, ratio)
    centres = (np.arange(new) + 0.5) * ratio - 0.5
    reach = int(np.ceil(radius * width))
    taps = np.floor(centres)[:, None] + np.arange(-reach, reach + 1)
    weights = kernel((taps - centres[:, None]) / width)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(new), taps.shape[1])
    columns = np.clip(taps, 0, old - 1).astype(np.int64).ravel()
    matrix = sparse.coo_array((weights.ravel().astype(np.float32), (rows, columns)), shape=(new, old)).tocsr()
    matrix.eliminate_zeros()
    return matrix


class SlabResampler:
    """Maps resampled linearly while they come in along one axis, with no more of them held than the kernel needs.

    Args:
        old: Voxels of the maps, the axis along which they come first.
        new: Voxels wanted, in the same order.

    The answer is that of :func:`resample_probability` but for rounding.
    """

    def __init__(self, old: Shape, new: Shape) -> None:
        first, *self._others = (
            None if a == b else axis_weights(a, b, triangle, 1.0) for a, b in zip(old, new, strict=True)
        )
        self._first = first
        self._held: NDArray[np.float32] | None = None
        self._begin = 0  # first plane that is held
        self._done = 0  # planes given
        if first is not None:
            rows = np.split(first.indices, first.indptr[1:-1])
            self._needs = np.array([[row.min(), row.max() + 1] for row in rows])

    def feed(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next planes wanted, perhaps none, ``(map, planes, y, z)``, after these of ``(map, planes, y, z)``."""
        fine = np.stack([_apply(one, [None, *self._others]) for one in planes])
        if self._first is None:
            return fine
        held = fine if self._held is None else np.concatenate([self._held, fine], axis=1)
        end = self._begin + held.shape[1]
        stop = self._done + int(np.searchsorted(self._needs[self._done :, 1], end, side="right"))
        chosen = self._first[self._done : stop, self._begin : end]
        found = np.stack([(chosen @ one.reshape(len(one), -1)).reshape(-1, *one.shape[1:]) for one in held])
        keep = int(self._needs[stop, 0]) if stop < len(self._needs) else end
        self._held, self._begin, self._done = held[:, keep - self._begin :].copy(), keep, stop
        return found


def _along_axes(values: NDArray[np.float32], shape: Shape, kernel: Kernel, radius: float) -> NDArray[np.float32]:
    sizes = zip(values.shape, shape, strict=True)
    return _apply(values, [None if old == new else axis_weights(old, new, kernel, radius) for old, new in sizes])


def _apply(values: NDArray[np.float32], weights: Sequence[sparse.csr_array | None]) -> NDArray[np.float32]:
    """Multiply each axis by its matrix; ``None`` leaves an axis as it is."""
    chosen = [(axis, matrix) for axis, matrix in enumerate(weights) if matrix is not None]
    # shrinking axes first: fewer voxels for the others
    for axis, matrix in sorted(chosen, key=lambda item: item[1].shape[0] / item[1].shape[1]):
        moved = np.moveaxis(values, axis, 0)
        flat = matrix @ np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
        values = np.moveaxis(flat.reshape(-1, *moved.shape[1:]), 0, axis)
    return values


@dataclass(frozen=True, eq=False)
class _Mask:
    """A mask that is not empty, as its box and what is in it: most labels fill a small part of a volume.

    Attributes:
        inside: The mask in its box.
        box: Where that lies.
        shape: Voxels of the whole.
    """

    inside: NDArray[np.bool_]
    box: tuple[slice, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> _Mask:
        """A mask ``(x, y, z)``."""
        box = bounding_box(mask)
        assert box is not None  # the label is there
        return cls(mask[box].copy(), box, mask.shape)

    def whole(self) -> NDArray[np.float32]:
        """The mask ``(x, y, z)`` as 0 and 1."""
        values = np.zeros(self.shape, dtype=np.float32)
        values[self.box] = self.inside
        return values


def _share(mask: _Mask, shape: Shape) -> tuple[NDArray[np.float32], tuple[slice, ...]]:
    """Interpolated share of a mask, and the box of the new grid beyond which it is 0."""
    weights, place = [], []
    for old, new, part in zip(mask.shape, shape, mask.box, strict=True):
        touched = axis_weights(old, new, triangle, 1.0)[:, part]
        rows = np.flatnonzero(np.diff(touched.indptr))
        place.append(slice(int(rows[0]), int(rows[-1]) + 1))
        weights.append(touched[place[-1]])
    return _apply(mask.inside.astype(np.float32), weights), tuple(place)
