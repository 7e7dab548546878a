"""Reading and writing by file name."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.io import nifti, nrrd, picture
from seg3d.io.header import ImageHeader
from seg3d.io.picture import fit_channels
from seg3d.volume import Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", *picture.SUFFIXES)
_HEADERS = {"nifti": nifti.read_nifti_header, "nrrd": nrrd.read_nrrd_header, "picture": picture.read_picture_header}
_VOXELS = {"nifti": nifti.read_nifti_voxels, "nrrd": nrrd.read_nrrd_voxels, "picture": picture.read_picture_pixels}


def image_stem(path: Path) -> str:
    """File name without the suffix of its format."""
    name = path.name
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), path.suffix)
    return name[: len(name) - len(suffix)] if suffix else name


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted; hidden ones are none: drafts, and what other systems leave.

    Raises:
        DataError: The name of one cannot be written down, because it is not UTF-8.
    """
    found = sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES) and path.name[0] != ".")
    unwritable = [ascii(path.name) for path in found if not _is_text(path.name)]
    if unwritable:
        fix = "Rename them; they come from a system of another encoding."
        raise DataError("names of files are not UTF-8", where=folder, got=", ".join(unwritable), fix=fix)
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_header(path: Path) -> ImageHeader:
    """Size, place and voxel type of an image file; no voxel is read.

    Raises:
        DataError: The file is missing, of an unknown format, or its header cannot be true.
    """
    return _HEADERS[_format(path)](path)


def read_volume(path: Path) -> Volume:
    """All voxels of an image file ``(channel, x, y, z)`` in the file's own axes and, unless it scales them, type.

    Raises:
        DataError: The file is missing, truncated or otherwise broken, or its voxels do not fit into memory.
    """
    header = read_header(path)
    with _told_memory(header):
        return Volume(_VOXELS[header.format](header), header.grid)


def read_image(paths: Sequence[Path], channels: int) -> list[Volume]:
    """The volumes of an image, one of each file.

    A picture whose colours are equal everywhere counts as grey where one channel is wanted of its file.

    Args:
        paths: One file per channel, or one file with all channels.
        channels: Channels that are wanted of all files together; only pictures are compared with it.

    Raises:
        DataError: A file is broken, or a picture has other channels than are wanted.
    """
    wanted = channels if len(paths) == 1 else 1
    volumes = ((path, read_volume(path)) for path in paths)
    return [fit_channels(volume, wanted, path) if is_picture(path) else volume for path, volume in volumes]


def read_label_map(path: Path, declared: Collection[int | None] = ()) -> Volume:
    """A label map ``(1, x, y, z)`` in the smallest unsigned integer type.

    A picture of black and white, 0 and 255, means 0 and 1, unless 255 is declared as a label.

    Args:
        path: The file.
        declared: Label values that are known; ``None`` among them counts for nothing.

    Raises:
        DataError: The file is broken, has several channels, or holds voxels that are not whole numbers from 0 on.
    """
    if is_picture(path):
        header = read_header(path)
        known = frozenset(value for value in declared if value is not None)
        with _told_memory(header):
            return Volume(as_labels(picture.read_picture_labels(header, known), path), header.grid)
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


def write_like(path: Path, data: NDArray[Any], header: ImageHeader, *, binary: bool = False) -> None:
    """Write ``(x, y, z)`` on the grid of ``header``, atomically.

    Label maps are written in the smallest unsigned integer type, everything else as float32.

    Args:
        path: The file; an answer to a picture is a PNG or TIFF, real numbers are a TIFF.
        data: Values.
        header: Where they lie.
        binary: Write the labels 0 and 1 of a picture as black and white, 0 and 255.

    Raises:
        DataError: The file name is of another format than the header, or of one that cannot hold the values.
    """
    if data.shape != header.grid.shape:
        raise ValueError(f"data lies on the header's grid {header.grid.shape}, got {data.shape}")
    if _format(path) != header.format:
        raise DataError(
            "the answer is written in the format of its scan", where=path, got=_format(path), expected=header.format
        )
    small = as_labels(data, path) if data.dtype.kind in "iub" else data.astype(np.float32)
    if header.format == "picture":
        picture.write_picture(path, small, binary)
        return
    (nifti.write_nifti_like if header.format == "nifti" else nrrd.write_nrrd_like)(path, small, header)


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name."""
    return path.name.lower().endswith(picture.SUFFIXES)


def answer_name(path: Path, *, real: bool = False) -> str:
    """File name of the answer to a scan: its own, unless its format cannot hold it (a JPEG's answer is a PNG).

    Args:
        path: The scan.
        real: The answer is a map of real numbers, which of pictures only a TIFF can hold.
    """
    suffix = path.name[len(image_stem(path)) :]
    lossy, png = (suffix.lower() in kinds for kinds in ((".jpg", ".jpeg"), (".png",)))
    if real and (lossy or png):
        return f"{image_stem(path)}.tif"
    return f"{image_stem(path)}.png" if lossy else path.name


@contextmanager
def _told_memory(header: ImageHeader) -> Iterator[None]:
    """Tell what did not fit into memory."""
    try:
        yield
    except MemoryError as error:
        raise DataError(
            "the voxels do not fit into memory",
            where=header.path,
            got=f"{header.channels * math.prod(header.grid.shape)} values of {header.dtype}",
            fix="Crop or resample it, or use a machine with more memory.",
        ) from error


def _format(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(nifti.SUFFIXES):
        return "nifti"
    if name.endswith(nrrd.SUFFIXES):
        return "nrrd"
    if is_picture(path):
        return "picture"
    raise DataError(
        "unknown image format",
        where=path,
        got=path.suffix or "no suffix",
        expected=", ".join(SUFFIXES),
        fix="DICOM and MetaImage: seg3d convert makes NIfTI of them.",
    )
