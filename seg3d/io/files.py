"""Reading and writing by file name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.io import nifti, nrrd
from seg3d.io.header import ImageHeader
from seg3d.volume import Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd")


def image_stem(path: Path) -> str:
    """File name without the suffix of its format."""
    name = path.name
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), path.suffix)
    return name[: len(name) - len(suffix)] if suffix else name


def read_header(path: Path) -> ImageHeader:
    """Size, place and voxel type of an image file; no voxel is read.

    Raises:
        DataError: The file is missing, of an unknown format, or its header cannot be true.
    """
    return nifti.read_nifti_header(path) if _format(path) == "nifti" else nrrd.read_nrrd_header(path)


def read_volume(path: Path) -> Volume:
    """All voxels of an image file ``(channel, x, y, z)`` in the file's own axes and, unless it scales them, type.

    Raises:
        DataError: The file is missing, truncated or otherwise broken.
    """
    header = read_header(path)
    read = nifti.read_nifti_voxels if header.format == "nifti" else nrrd.read_nrrd_voxels
    return Volume(read(header), header.grid)


def read_label_map(path: Path) -> Volume:
    """A label map ``(1, x, y, z)`` in the smallest unsigned integer type.

    Raises:
        DataError: The file is broken, has several channels, or holds voxels that are not whole numbers from 0 on.
    """
    volume = read_volume(path)
    if volume.data.shape[0] != 1:
        raise DataError(
            "a label map has one channel", where=path, got=volume.data.shape[0], fix="Give one value per voxel."
        )
    return Volume(as_labels(volume.data, path), volume.grid)


def as_labels(data: NDArray[Any], path: Path) -> NDArray[Any]:
    """The voxels in the smallest unsigned integer type.

    Raises:
        DataError: They are not whole numbers from 0 to 65535.
    """
    if data.dtype.kind == "f":
        # finite first: comparisons with NaN are silent
        wrong = ~np.isfinite(data) | (data != np.floor(data))
        if wrong.any():
            first = data[wrong].ravel()[0]
            raise DataError(
                "voxels of the label map are not whole numbers",
                where=path,
                got=f"{int(wrong.sum())} such voxels, the first {first}",
                fix="Was it resampled with interpolation? Use nearest neighbour.",
            )
    lowest, highest = (float(data.min()), float(data.max())) if data.size else (0.0, 0.0)
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise DataError(
            "label values are out of range", where=path, got=f"{lowest:g} to {highest:g}", expected="0 to 65535"
        )
    return data.astype(np.uint8 if highest < 256 else np.uint16)


def write_like(path: Path, data: NDArray[Any], header: ImageHeader) -> None:
    """Write ``(x, y, z)`` on the grid of ``header``, atomically.

    Label maps are written in the smallest unsigned integer type, everything else as float32.

    Raises:
        DataError: The file name is of another format than the header.
    """
    if data.shape != header.grid.shape:
        raise ValueError(f"data lies on the header's grid {header.grid.shape}, got {data.shape}")
    if _format(path) != header.format:
        raise DataError(
            "the answer is written in the format of its scan", where=path, got=_format(path), expected=header.format
        )
    small = as_labels(data, path) if data.dtype.kind in "iub" else data.astype(np.float32)
    (nifti.write_nifti_like if header.format == "nifti" else nrrd.write_nrrd_like)(path, small, header)


def _format(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(nifti.SUFFIXES):
        return "nifti"
    if name.endswith(nrrd.SUFFIXES):
        return "nrrd"
    raise DataError("unknown image format", where=path, got=path.suffix or "no suffix", expected=", ".join(SUFFIXES))
