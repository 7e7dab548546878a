"""Laying overlays on the grid of their image, for the eye."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.errors import DataError
from seg3d.reporting.figures import canonical
from seg3d.volume import Grid, Volume, bounding_box

_SAMPLES = 48  # voxel centres along an axis at which two grids are compared


@dataclass(frozen=True, eq=False)
class Placed:
    """An overlay on the grid of its image.

    Attributes:
        data: ``(x, y, z)`` on the image's grid in RAS+ order; 0 where the overlay does not reach.
        notes: What a reader has to know of how it came there; empty where the grids are the same.
    """

    data: NDArray[Any]
    notes: tuple[str, ...] = ()


def place(overlay: Volume, grid: Grid, what: str, *, nearest: bool, picture: bool) -> Placed:
    """The overlay on ``grid``.

    Args:
        overlay: ``(1, x, y, z)``, in any orientation.
        grid: Of the image, in RAS+ order.
        what: The overlay in words, for notes and errors.
        nearest: Take the nearest voxel, as labels ask for; linear interpolation where false.
        picture: Image and overlay are plain pictures, which lie nowhere: their sizes are the same or it is an error.

    Raises:
        DataError: It has several channels, lies elsewhere than the image, or is a picture of another size.
    """
    if overlay.data.shape[0] != 1:
        raise DataError(f"the {what} has several channels", got=overlay.data.shape[0], expected=1)
    own, _ = canonical(overlay)
    if own.grid.same_as(grid) or (picture and own.grid.shape == grid.shape):
        return Placed(own.data[0])
    if picture:
        raise DataError(
            f"the {what} is a picture of another size than its image",
            got=own.grid.shape,
            expected=grid.shape,
            fix="A picture says nothing of where it lies, so both must have the same pixels.",
        )
    to_own = np.linalg.inv(own.grid.affine) @ grid.affine
    covered = _covered_share(grid, own.grid, to_own)
    if covered == 0:
        raise DataError(
            f"the {what} does not overlap the image",
            got=_extent(own.grid),
            expected=f"within {_extent(grid)}",
            fix="Do they belong to the same scan? Compare the headers' origin and direction.",
        )
    order = 0 if nearest else 1
    data = own.data[0] if nearest else own.data[0].astype(np.float32)
    placed = ndimage.affine_transform(
        data, to_own[:3, :3], to_own[:3, 3], output_shape=grid.shape, order=order, mode="grid-constant", cval=0
    )
    return Placed(placed, _notes(what, own, grid, covered, nearest))


def _notes(what: str, own: Volume, grid: Grid, covered: float, nearest: bool) -> tuple[str, ...]:
    way = "nearest voxel" if nearest else "linear"
    shape, spacing = (" × ".join(f"{n:.4g}" for n in values) for values in (own.grid.shape, own.grid.spacing_mm))
    notes = [
        f"The {what} lies on another grid ({shape} voxels of {spacing} mm) and was resampled to that of the image for "
        f"display ({way})."
    ]
    if covered < 0.995:
        notes.append(f"The {what} covers {covered:.0%} of the image; beyond it is drawn as 0.")
    if nearest and _reaches_beyond(own, grid):
        notes.append(f"The {what} has foreground beyond the image, which is counted but cannot be shown.")
    return tuple(notes)


def _covered_share(grid: Grid, own: Grid, to_own: NDArray[np.float64]) -> float:
    """Share of the image's voxel centres that lie in a voxel of the overlay."""
    axes = [np.unique(np.linspace(0, n - 1, min(n, _SAMPLES)).round()) for n in grid.shape]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return float(_inside(centres, to_own, own).mean())


def _reaches_beyond(own: Volume, grid: Grid) -> bool:
    box = bounding_box(own.data[0] != 0)
    if box is None:
        return False
    corners = np.array(list(itertools.product(*((part.start, part.stop - 1) for part in box))), float)
    return not bool(_inside(corners, np.linalg.inv(grid.affine) @ own.grid.affine, grid).all())


def _inside(places: NDArray[np.float64], to_own: NDArray[np.float64], own: Grid) -> NDArray[np.bool_]:
    at = places @ to_own[:3, :3].T + to_own[:3, 3]
    inside: NDArray[np.bool_] = np.all((at > -0.5) & (at < np.array(own.shape) - 0.5), axis=1)
    return inside


def _extent(grid: Grid) -> str:
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape))))
    world = corners @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return " × ".join(f"{low:.0f}..{high:.0f}" for low, high in zip(world.min(0), world.max(0), strict=True)) + " mm"
