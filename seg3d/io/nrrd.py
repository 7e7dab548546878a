"""NRRD files, read and written by SimpleITK; world coordinates are turned from its LPS to RAS."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from seg3d.atomic import atomic_path
from seg3d.errors import DataError
from seg3d.io.header import ImageHeader, check_size, check_spacing, checked_grid

SUFFIXES = (".nrrd",)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ITEM_SIZE = {"char": 1, "int8": 1, "short": 2, "int16": 2, "int": 4, "int32": 4, "float": 4, "double": 8}
_ITEM_SIZE |= {"longlong": 8, "int64": 8}
_SCALARS = (
    *(sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkUInt32, sitk.sitkInt32),
    *(sitk.sitkUInt64, sitk.sitkInt64, sitk.sitkFloat32, sitk.sitkFloat64),
)
_LARGEST_HEADER = 1 << 20
_BEST_RATIO = {"raw": 1, "gzip": 1032, "gz": 1032, "bzip2": 50_000, "bz2": 50_000}


def read_nrrd_header(path: Path) -> ImageHeader:
    """The checked header; no voxel is read.

    Raises:
        DataError: The file is missing, is no NRRD, or its header cannot be true.
    """
    _check_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError("the NRRD header cannot be read", where=path, got=_reason(error)) from error
    if reader.GetDimension() != 3:
        raise DataError("the image is not 3D", where=path, got=f"{reader.GetDimension()}D", expected="3D")
    check_spacing(path, reader.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    grid = checked_grid(path, tuple(reader.GetSize()), _LPS_TO_RAS @ affine)
    probe = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], _scalar_type(reader)))
    return ImageHeader(path, grid, reader.GetNumberOfComponents(), probe.dtype, "nrrd", reader)


def read_nrrd_voxels(header: ImageHeader) -> NDArray[Any]:
    """Voxels ``(channel, x, y, z)`` in the file's type.

    Raises:
        DataError: The file is damaged.
    """
    try:
        image = header.native.Execute()
    except RuntimeError as error:
        raise DataError("the file is truncated or damaged", where=header.path, got=_reason(error)) from error
    array = sitk.GetArrayFromImage(image)
    array = array[..., None] if array.ndim == 3 else array
    voxels: NDArray[Any] = array.transpose(3, 2, 1, 0)
    return voxels


def write_nrrd_like(path: Path, data: NDArray[Any], header: ImageHeader) -> None:
    """Write ``(x, y, z)`` with origin, spacing and direction of a header, compressed."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetOrigin(header.native.GetOrigin())
    image.SetSpacing(header.native.GetSpacing())
    image.SetDirection(header.native.GetDirection())
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def _scalar_type(reader: sitk.ImageFileReader) -> int:
    """Pixel type of one component."""
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    found = {sitk.GetPixelIDValueAsString(kind): kind for kind in _SCALARS}
    kind = found.get(name.removeprefix("vector of "))
    if kind is None:
        raise DataError("the voxel type cannot be used", where=reader.GetFileName(), got=name)
    return int(kind)


def _check_text_header(path: Path) -> None:
    """Compare the promised voxels with the file's size, which ITK does only after allocating them."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_HEADER)
    except FileNotFoundError as error:
        raise DataError("the file is missing", where=path, fix="Check the path.") from error
    except OSError as error:
        raise DataError("the file cannot be opened", where=path, got=error) from error
    if not raw.startswith(b"NRRD000"):
        raise DataError("this is not a NRRD file", where=path, got="an empty file" if not raw else "another content")
    text, _, _body = raw.partition(b"\n\n")
    fields = dict(re.findall(r"^([a-z ]+): *(.+?)\r?$", text.decode("utf-8", "replace"), flags=re.MULTILINE))
    if "data file" in fields or "datafile" in fields:
        raise DataError(
            "voxels in a second file are not supported", where=path, fix="Save header and voxels in one .nrrd file."
        )
    sizes = [int(n) for n in re.findall(r"-?\d+", fields.get("sizes", ""))]
    item = fields.get("type", "").replace("unsigned", "").replace("signed", "").replace(" ", "").removesuffix("_t")
    item = item.removeprefix("u")
    if sizes and item in _ITEM_SIZE and min(sizes) > 0:
        needed = int(np.prod(sizes, dtype=object)) * _ITEM_SIZE[item]
        body = path.stat().st_size - len(text) - 2
        room = max(0, body) * _BEST_RATIO.get(fields.get("encoding", "raw").lower(), 8)
        x, y, z = (*sizes, 1, 1, 1)[:3]
        check_size(path, needed, room, (x, y, z))
        if "gz" in fields.get("encoding", ""):
            _check_gzip(path, len(text) + 2, needed)


def _check_gzip(path: Path, offset: int, needed: int) -> None:
    """ITK fills what a truncated stream lacks with zeros and only warns."""
    with path.open("rb") as file:
        file.seek(offset)
        count = 0
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                while piece := stream.read(1 << 22):
                    count += len(piece)
        except (OSError, EOFError) as error:
            raise DataError("the file is truncated or damaged", where=path, got=error) from error
    if count < needed:
        raise DataError(
            "the file is truncated or damaged", where=path, got=f"{count} bytes", expected=f"{needed} bytes"
        )


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message, which says what happened."""
    return str(error).strip().splitlines()[-1]
