"""What a scan's header says, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.volume import Grid, Shape


@dataclass(frozen=True)
class Placement:
    """What the header of a scan says, beyond its grid, about where it lies.

    Attributes:
        placed: Whether it says how the patient lies in it.
        unit: Of its lengths; those of the grid are millimetres.
        disagreement: How a second orientation that it gives differs from that of the grid; empty if none does.
    """

    placed: bool = True
    unit: str = "mm"
    disagreement: str = ""


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """Size, place and voxel type of an image file.

    Attributes:
        path: The file.
        grid: Where its voxels lie.
        channels: Values per voxel.
        dtype: Voxel type in the file, in native byte order.
        format: ``"nifti"``, ``"nrrd"`` or ``"picture"``.
        native: The header of the library that reads the format, with whose codes an answer is written; of a picture
            its :class:`PictureFacts`.
        placement: What it says about its place beyond the grid.
    """

    path: Path
    grid: Grid
    channels: int
    dtype: np.dtype[Any]
    format: str
    native: Any = field(repr=False)
    placement: Placement = Placement()

    @property
    def shown_turned(self) -> bool:
        """Whether it is a picture that viewers are told to show turned or mirrored; it is read as it is stored."""
        return isinstance(self.native, PictureFacts) and self.native.turned


@dataclass(frozen=True)
class PictureFacts:
    """What the header of a picture says beyond its size.

    Attributes:
        kind: ``"png"``, ``"tiff"`` or ``"jpeg"``.
        bits: Bits of a sample in the file.
        alpha: Whether it has an alpha channel, which counts for nothing.
        palette: Red, green and blue of each index, 8 bits each, where its pixels are indices into a table of colours.
        turned: Whether viewers are told to show it turned or mirrored; its pixels are read as they are stored.
    """

    kind: str
    bits: int
    alpha: bool = False
    palette: bytes = b""
    turned: bool = False


def picture_grid(path: Path, width: int, height: int) -> Grid:
    """The grid of a picture: x is the column, y the row, z has one voxel; a pixel stands for 1 mm.

    Raises:
        DataError: The picture has no pixels.
    """
    return checked_grid(path, (width, height, 1), np.eye(4))


def first_bytes(path: Path, most: int) -> bytes:
    """The beginning of a file.

    Raises:
        DataError: It is missing or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError as error:
        raise DataError("the file is missing", where=path, fix="Check the path.") from error
    except OSError as error:
        raise DataError("the file cannot be opened", where=path, got=error) from error


def truncated(path: Path, got: object) -> DataError:
    """The error of a file that ends too early or whose content cannot be decoded."""
    return DataError(
        "the file is truncated or damaged", where=path, got=got, fix="Copy the file again from its source."
    )


def checked_grid(path: Path, shape: tuple[int, ...], affine: NDArray[Any]) -> Grid:
    """The grid of a file.

    Raises:
        DataError: An axis without voxels, or an affine that is not finite or cannot be inverted.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise DataError("an axis of the image has no voxels", where=path, got=shape, expected="three positive sizes")
    matrix = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise DataError("the affine is not finite", where=path, got=matrix.tolist())
    columns = matrix[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        # volume of the cell against that of a box of the same edges: 0 when the axes lie in a plane
        cell, box = abs(float(np.linalg.det(columns))), float(np.sqrt((columns**2).sum(axis=0)).prod())
        if not (0 < box < math.inf and cell >= 1e-6 * box):  # so put that NaN is refused
            raise DataError(
                "the affine is singular: voxels have no volume",
                where=path,
                got=columns.round(6).tolist(),
                expected="three independent axes",
                fix="Correct the header's sform or direction.",
            )
    x, y, z = shape
    return Grid((x, y, z), matrix)


def check_spacing(path: Path, spacing: tuple[float, ...]) -> None:
    """Refuse voxels without size.

    Raises:
        DataError: A spacing is zero, negative or not finite.
    """
    if any(not math.isfinite(s) or s <= 0 for s in spacing):
        raise DataError(
            "the voxel spacing is not positive",
            where=path,
            got=tuple(float(s) for s in spacing),
            expected="three lengths above 0 mm",
            fix="Correct the header (NIfTI: pixdim).",
        )


def check_size(path: Path, needed: int, available: int, shape: Shape) -> None:
    """Refuse a header that promises more voxels than the file can hold.

    Args:
        path: The file.
        needed: Bytes that the header promises.
        available: Most bytes that the file can hold.
        shape: Promised voxels.

    Raises:
        DataError: The file is too small.
    """
    if needed > available:
        raise DataError(
            "the file is smaller than its header says",
            where=path,
            got=f"room for at most {available} bytes",
            expected=f"{needed} bytes for {'x'.join(map(str, shape))} voxels",
            fix="Copy the file again from its source.",
        )
