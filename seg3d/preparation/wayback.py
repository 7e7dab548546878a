"""The way from the source grid to the prepared one, and exactly back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from seg3d.volume import Grid, Shape


@dataclass(frozen=True, eq=False)
class WayBack:
    """How a prepared volume lies in its source.

    Attributes:
        source: The grid of the source.
        turn: nibabel's orientation transform (3 x 2) from the source's axes to RAS+.
        start: First voxel of the crop in RAS+ order.
        cropped: Voxels of the crop.
        prepared: Voxels after resampling; equal to ``cropped`` without.
    """

    source: Grid
    turn: NDArray[np.float64]
    start: Shape
    cropped: Shape
    prepared: Shape

    @property
    def resampled(self) -> bool:
        """Whether voxels were interpolated."""
        return self.prepared != self.cropped

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """A source array ``(x, y, z)`` as a view in RAS+ order."""
        view: NDArray[Any] = nib.orientations.apply_orientation(array, self.turn)
        return view

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """A source array ``(x, y, z)`` as a view of the crop in RAS+ order."""
        return self.turned(array)[self.box]

    def whole(self, cropped: NDArray[Any], outside: float) -> NDArray[Any]:
        """A crop ``(x, y, z)`` in RAS+ order put back: the source's array, ``outside`` beyond the crop."""
        array: NDArray[Any] = np.full(self.source.shape, outside, dtype=cropped.dtype)
        self.turned(array)[self.box] = cropped
        return array

    @property
    def box(self) -> tuple[slice, ...]:
        """The crop in RAS+ order."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.cropped, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """JSON of the way back."""
        return {
            "source_shape": list(self.source.shape),
            "source_affine": self.source.affine.tolist(),
            "turn": np.asarray(self.turn).tolist(),
            "start": list(self.start),
            "cropped": list(self.cropped),
            "prepared": list(self.prepared),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> WayBack:
        """The way back from its JSON."""
        return cls(
            Grid(tuple(value["source_shape"]), np.array(value["source_affine"])),
            np.array(value["turn"]),
            tuple(value["start"]),
            tuple(value["cropped"]),
            tuple(value["prepared"]),
        )


def turn_to_ras(grid: Grid) -> tuple[NDArray[np.float64], Grid]:
    """The orientation transform to the nearest RAS+ order, and the grid after it."""
    turn = nib.orientations.io_orientation(grid.affine)
    shape = [0, 0, 0]
    for axis, (target, _) in enumerate(turn):
        shape[int(target)] = grid.shape[axis]
    x, y, z = shape
    return turn, Grid((x, y, z), grid.affine @ nib.orientations.inv_ornt_aff(turn, grid.shape))
