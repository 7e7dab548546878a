"""Grids and volumes: an array and where its voxels lie in the patient.

World coordinates are millimetres in RAS+ (x to the patient's right, y to the front, z to the head), as in NIfTI.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Border = Literal["constant", "mirror"]  # what lies beyond a volume
_SAME_MM = 0.01  # what float32 headers and writers that round leave of an affine
_SHEARED_COSINE = 1e-3  # of the angle between two axes: the headers' rounding is far below, gantry tilt far above


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array of ``shape`` lie.

    Attributes:
        shape: Number of voxels along the three array axes.
        affine: 4x4 float64 matrix from voxel index to RAS+ millimetres.
    """

    shape: Shape
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"affine is 4x4, got {affine.shape}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @cached_property
    def spacing_mm(self) -> Spacing:
        """Distance between neighbouring voxel centres along each array axis."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)).tolist()
        return x, y, z

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def is_sheared(self) -> bool:
        """Whether two axes are not at right angles (by more than 0.06 degrees), as gantry tilt leaves them in a sform.

        Distances by ``spacing_mm`` are then wrong, volumes by ``voxel_volume_ml`` are not.
        """
        axes = self.affine[:3, :3] / np.array(self.spacing_mm)
        cosines = axes.T @ axes - np.eye(3)
        return bool(np.abs(cosines).max() > _SHEARED_COSINE)

    def distance_mm(self, other: Grid) -> float:
        """The largest distance between the centres of the same voxel in both grids, which have one shape."""
        if self.shape != other.shape:
            raise ValueError(f"grids of one shape, got {self.shape} and {other.shape}")
        corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=np.float64)
        corners[:, :3] *= np.array(self.shape) - 1
        distance = corners @ (self.affine - other.affine).T
        return float(np.sqrt((distance[:, :3] ** 2).sum(axis=1)).max())

    def same_as(self, other: Grid, tolerance_mm: float | None = None) -> bool:
        """Whether both grids have the same shape and no voxel centre is further apart than ``tolerance_mm``.

        Args:
            other: The other grid.
            tolerance_mm: By default 0.01 mm, or a tenth of the smallest spacing of either where that is less, as in
                microscopy.
        """
        if tolerance_mm is None:
            tolerance_mm = min(_SAME_MM, *(mm / 10 for mm in (*self.spacing_mm, *other.spacing_mm)))
        return self.shape == other.shape and self.distance_mm(other) <= tolerance_mm

    def cropped(self, start: ArrayLike, shape: ArrayLike) -> Grid:
        """The grid of the box of ``shape`` voxels whose first voxel is ``start`` (may be negative: a padded grid)."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.asarray(start, dtype=np.float64)
        x, y, z = (int(n) for n in np.asarray(shape))
        return Grid((x, y, z), affine)


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or label map on its grid.

    Attributes:
        data: ``(channel, x, y, z)``; a label map has one channel.
        grid: Where the voxels lie; ``grid.shape == data.shape[1:]``.
    """

    data: NDArray[Any]
    grid: Grid

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.shape[1:] != self.grid.shape:
            raise ValueError(f"data is (channel, x, y, z) on {self.grid.shape}, got {self.data.shape}")


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """The smallest box that holds every true element of a mask of any number of axes; ``None`` where there is none.

    Several times faster than :func:`scipy.ndimage.find_objects`, which looks at one voxel after another.
    """
    if not mask.any():
        return None
    box = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def mirrored(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Index of the voxel that stands at each place from ``start`` to ``stop`` of an axis mirrored at its faces.

    The first and the last voxel stand twice side by side, as in numpy's padding mode ``"symmetric"``.

    Args:
        start: First place; may be negative.
        stop: One past the last place; may be beyond the axis.
        size: Voxels of the axis.
    """
    places = np.arange(start, stop) % (2 * size)
    return np.where(places < size, places, 2 * size - 1 - places)
