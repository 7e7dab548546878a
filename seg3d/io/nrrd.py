"""NRRD files, read and written by SimpleITK; world coordinates are turned from its LPS to RAS."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from seg3d.atomic import atomic_path
from seg3d.errors import DataError
from seg3d.io.header import ImageHeader, Placement, check_size, first_bytes, truncated
from seg3d.io.itk import grid_of, itk_reason, name_for_itk, open_volume, voxel_type, voxels_of
from seg3d.io.packed import DEFLATE_LIMIT, read_to_end, skip

SUFFIXES = (".nrrd",)
_ITEM_SIZE = {"char": 1, "int8": 1, "short": 2, "int16": 2, "int": 4, "int32": 4, "float": 4, "double": 8}
_ITEM_SIZE |= {"longlong": 8, "int64": 8}
_MILLIMETRES = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "???")  # or none that is told
_LARGEST_HEADER = 1 << 20
_BEST_RATIO = {"raw": 1, "gzip": DEFLATE_LIMIT, "gz": DEFLATE_LIMIT}  # bytes of voxels that a byte can stand for
_BEST_RATIO |= dict.fromkeys(("hex", "text", "txt", "ascii"), 4)  # the shortest number of 8 bytes: "0 "
_EXPECTED = f"a type of numbers, sizes, and one of the encodings {', '.join(_BEST_RATIO)}"


def read_nrrd_header(path: Path) -> ImageHeader:
    """The checked header; no voxel is read.

    Raises:
        DataError: The file is missing, is no NRRD, or its header cannot be true.
    """
    fields = _check_text_header(path)
    _refuse_other_units(path, fields)
    reader = open_volume(path, "NrrdImageIO")
    placement = Placement(_is_placed(reader, fields))
    grid, channels = grid_of(reader, path), reader.GetNumberOfComponents()
    return ImageHeader(path, grid, channels, voxel_type(reader), "nrrd", reader, placement)


def _is_placed(reader: sitk.ImageFileReader, fields: Mapping[str, str]) -> bool:
    """Whether the axes have directions, in a space that names the patient's sides; ITK has turned those that do."""
    named = reader.HasMetaDataKey("NRRD_space") and reader.GetMetaData("NRRD_space") == "left-posterior-superior"
    return named and "space directions" in fields


def _refuse_other_units(path: Path, fields: Mapping[str, str]) -> None:
    """ITK, which would also write the answer, takes all lengths for millimetres."""
    units = _words(fields.get("space units", ""))
    # axes that are no space, as colours, have no spacing
    spacings = [*fields.get("spacings", "").lower().split(), *["nan"] * 16]
    units += [unit for unit, one in zip(_words(fields.get("units", "")), spacings, strict=False) if one != "nan"]
    others = [unit for unit in units if unit.lower() not in _MILLIMETRES]
    if others:
        raise DataError(
            "the unit of lengths cannot be used",
            where=path,
            got=others[0],
            expected="mm",
            fix="Give spacing, directions and origin in mm, or save it as NIfTI, which may be in micron or metre.",
        )


def _words(text: str) -> list[str]:
    """The words of a field, each in quotation marks or none."""
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', text)]


def read_nrrd_voxels(header: ImageHeader) -> NDArray[Any]:
    """Voxels ``(channel, x, y, z)`` in the file's type.

    Raises:
        DataError: The file is damaged.
    """
    return voxels_of(header.native, header.path)


def write_nrrd_like(path: Path, data: NDArray[Any], header: ImageHeader) -> None:
    """Write ``(x, y, z)`` with origin, spacing and direction of a header, compressed.

    Raises:
        DataError: It could not be written whole, as on a full disk.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetOrigin(header.native.GetOrigin())
    image.SetSpacing(header.native.GetSpacing())
    image.SetDirection(header.native.GetDirection())
    with atomic_path(path) as temporary:
        name = name_for_itk(temporary)
        try:
            sitk.WriteImage(image, name, useCompression=True)
            _check_text_header(temporary)  # ITK does not tell that the last bytes found no room
        except (RuntimeError, DataError) as error:
            got = error.got if isinstance(error, DataError) else itk_reason(error)
            raise DataError("the file cannot be written", where=path, got=got, fix="Is the disk full?") from error


def item_size(kind: str) -> int | None:
    """Bytes of a value of a type in any of its spellings, such as ``unsigned short int`` or ``uint16_t``."""
    plain = re.sub(r"unsigned|signed|\s", "", kind.lower()).removesuffix("_t")
    spellings = (plain, plain.removeprefix("u"), plain.removesuffix("int"))
    return next((_ITEM_SIZE[name] for name in spellings if name in _ITEM_SIZE), None)


def _check_text_header(path: Path) -> dict[str, str]:
    """The header's fields; the promised voxels are compared with the file's size, which ITK does after allocating."""
    raw = first_bytes(path, _LARGEST_HEADER)
    if not raw.startswith(b"NRRD000"):
        raise DataError("this is not a NRRD file", where=path, got="an empty file" if not raw else "another content")
    fields, start = _text_fields(path, raw)
    if "data file" in fields or "datafile" in fields:
        raise DataError(
            "voxels in a second file are not supported", where=path, fix="Save header and voxels in one .nrrd file."
        )
    encoding, item = fields.get("encoding", "").lower(), item_size(fields.get("type", ""))
    sizes = tuple(int(n) for n in fields.get("sizes", "").split() if re.fullmatch("[0-9]{1,18}", n))
    if encoding not in _BEST_RATIO or item is None or not sizes:
        told = {name: fields.get(name) for name in ("type", "sizes", "encoding")}
        raise DataError("the NRRD header cannot be read", where=path, got=told, expected=_EXPECTED)
    needed = math.prod(sizes) * item
    x, y, z = (*sizes, 1, 1, 1)[:3]
    check_size(path, needed, max(0, path.stat().st_size - start) * _BEST_RATIO[encoding], (x, y, z))
    if encoding in ("gz", "gzip"):
        _refuse_skips(path, fields)
        _check_gzip(path, start, needed)
    return fields


def _text_fields(path: Path, raw: bytes) -> tuple[dict[str, str], int]:
    """The fields of a header by their names in small letters, and where it ends."""
    end = re.search(rb"\r?\n\r?\n", raw)
    # a lone carriage return, which ITK takes for the end of a line, could hide a field
    if end is None or re.search(rb"\r(?!\n)", raw[: end.end()]):
        raise DataError("the NRRD header has no end that can be read", where=path, fix="Export the scan again.")
    fields: dict[str, str] = {}
    for line in raw[: end.start()].decode("utf-8", "replace").split("\n")[1:]:
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):  # neither a comment nor a user's own key
            fields[name.lower()] = value.strip()
    return fields, end.end()


def _refuse_skips(path: Path, fields: dict[str, str]) -> None:
    skips = {name: fields[name] for name in ("line skip", "lineskip", "byte skip", "byteskip") if name in fields}
    if any(value != "0" for value in skips.values()):
        raise DataError(
            "skipping into packed voxels is not supported", where=path, got=skips, fix="Export the scan again."
        )


def _check_gzip(path: Path, start: int, needed: int) -> None:
    """ITK fills what a truncated stream lacks with zeros and only warns."""
    with path.open("rb") as file:
        file.seek(start)
        try:
            with gzip.GzipFile(fileobj=file) as opened:
                stream: Any = opened
                skip(stream, needed)
                read_to_end(path, stream)
        except (OSError, EOFError, zlib.error) as error:
            raise truncated(path, error) from error
