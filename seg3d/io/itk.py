"""What is read by SimpleITK: volumes, whose world coordinates are turned from its LPS to RAS, and some pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.io.header import ImageHeader, check_spacing, checked_grid, truncated
from seg3d.volume import Grid

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SCALARS = (
    *(sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkUInt32, sitk.sitkInt32),
    *(sitk.sitkUInt64, sitk.sitkInt64, sitk.sitkFloat32, sitk.sitkFloat64),
)


def name_for_itk(path: Path) -> str:
    """The path as SimpleITK takes it.

    Raises:
        DataError: It is not UTF-8, as names in archives of another system may be: SimpleITK would end the process.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            "the path is not UTF-8",
            where=os.fsencode(path).decode(errors="backslashreplace"),
            expected="names of folders and files in UTF-8",
            fix="Rename it.",
        ) from error
    return str(path)


def open_volume(path: Path, reader: str) -> sitk.ImageFileReader:
    """A reader that has read the header of a 3D file.

    Args:
        path: The file.
        reader: What SimpleITK is to read it with, whatever its name, such as ``"NrrdImageIO"``.

    Raises:
        DataError: The header cannot be read, or is not of three axes.
    """
    opened = sitk.ImageFileReader()
    opened.SetFileName(name_for_itk(path))
    opened.SetImageIO(reader)
    try:
        opened.ReadImageInformation()
    except RuntimeError as error:
        raise DataError("the header cannot be read", where=path, got=itk_reason(error)) from error
    if opened.GetDimension() != 3:
        raise DataError("the image is not 3D", where=path, got=f"{opened.GetDimension()}D", expected="3D")
    return opened


def grid_of(reader: sitk.ImageFileReader, path: Path) -> Grid:
    """The grid of an opened volume.

    Raises:
        DataError: Its header cannot be true.
    """
    check_spacing(path, reader.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    return checked_grid(path, tuple(reader.GetSize()), LPS_TO_RAS @ affine)


def voxel_type(reader: sitk.ImageFileReader) -> np.dtype[Any]:
    """Type of one component of an opened volume.

    Raises:
        DataError: It is none of numbers.
    """
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    found = {sitk.GetPixelIDValueAsString(kind): kind for kind in _SCALARS}
    kind = found.get(name.removeprefix("vector of "))
    if kind is None:
        raise DataError("the voxel type cannot be used", where=reader.GetFileName(), got=name)
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], int(kind))).dtype
    return dtype


def voxels_of(reader: sitk.ImageFileReader, path: Path) -> NDArray[Any]:
    """Voxels ``(channel, x, y, z)`` of an opened volume in the file's type.

    Raises:
        DataError: The file is damaged.
    """
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise truncated(path, itk_reason(error)) from error
    array = sitk.GetArrayFromImage(image)
    array = array[..., None] if array.ndim == 3 else array
    voxels: NDArray[Any] = array.transpose(3, 2, 1, 0)
    return voxels


def itk_reason(error: RuntimeError) -> str:
    """The last line of ITK's message, which says what happened."""
    return re.sub(r"^ITK ERROR: \w+\(0x[0-9a-f]+\): ", "", str(error).strip().splitlines()[-1])


def read_by_itk(header: ImageHeader, reader: str) -> NDArray[Any]:
    """The samples ``(row, column, sample)`` of a picture, alpha last.

    Args:
        header: Of the picture, with its :class:`~seg3d.io.header.PictureFacts`.
        reader: What SimpleITK is to read it with, whatever its name: ``"PNGImageIO"`` or ``"TIFFImageIO"``.

    Raises:
        DataError: The file is damaged, or ITK makes something else of it than its header says.
    """
    try:
        array: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(name_for_itk(header.path), imageIO=reader))
    except RuntimeError as error:
        raise truncated(header.path, itk_reason(error)) from error
    width, height, _ = header.grid.shape
    array = array if array.ndim == 3 else array[..., None]
    expected = (height, width, header.channels + header.native.alpha)
    # what it does not know ITK turns into 8 bits of red, green, blue and alpha, and only warns
    if (array.shape, array.dtype) != (expected, header.dtype):
        raise DataError(
            "the picture cannot be read as its header says",
            where=header.path,
            got=f"{array.dtype} {array.shape}",
            expected=f"{header.dtype} {expected}",
            fix="Convert it: save it without transparency or compression.",
        )
    return array
