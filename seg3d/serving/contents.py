"""What an upload is, by its content and never by its name, and how much it promises to hold.

Nothing is allocated here by what a header says.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from seg3d.io import read_header
from seg3d.io.header import ImageHeader
from seg3d.io.nrrd import item_size
from seg3d.serving.packed import check_gzip, check_gzip_start, check_jpeg, check_png
from seg3d.serving.refusals import Refusal

FORMATS = ("NIfTI", "NRRD", "PNG", "JPEG")
_STARTS = ((b"NRRD000", ".nrrd"), (b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"\x1f\x8b", ".nii.gz"))
_HINTS = (  # where in the file, what stands there, what to do
    (128, b"DICM", "DICOM is read as a series: convert it to NIfTI first: seg3d convert FOLDER --output DIR."),
    (0, b"PK\x03\x04", "Unzip the archive and upload the scan in it."),
    (0, b"II*\0", "Save the TIFF as PNG, or a stack as NIfTI."),
    (0, b"MM\0*", "Save the TIFF as PNG, or a stack as NIfTI."),
    (0, b"ObjectType", "MetaImage: convert it to NIfTI first: seg3d convert FILE.mha --output DIR."),
    (0, b"\x89HDF", "Export the scan as NIfTI."),
)
_LARGEST_NRRD_HEADER = 1 << 16
# fields that tell where voxels lie and what they are; none that names or skips into a file
_NRRD_FIELDS = frozenset(
    (
        *("type", "dimension", "space", "space dimension", "sizes", "spacings", "thicknesses", "axis mins", "axismins"),
        *("axis maxs", "axismaxs", "centers", "centerings", "kinds", "labels", "units", "space units", "endian"),
        *("space directions", "space origin", "measurement frame", "encoding", "content", "min", "max", "old min"),
        *("oldmin", "old max", "oldmax", "sample units"),
    )
)


@dataclass(frozen=True)
class _NrrdFacts:
    start: int  # of the voxels
    sizes: tuple[int, ...]
    bytes: int
    packed: bool


def suffix_of(path: Path) -> str:
    """The suffix of the format that a file's first bytes are of.

    Raises:
        Refusal: 400 for an empty file, 415 for anything but NIfTI, NRRD, PNG and JPEG.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise Refusal(400, "the file is empty", fix="Choose a scan.")
    for beginning, suffix in _STARTS:
        if start.startswith(beginning):
            return suffix
    if len(start) >= 4 and {struct.unpack(order + "i", start[:4])[0] for order in "<>"} & {348, 540}:
        return ".nii"
    hint = next((fix for place, mark, fix in _HINTS if start[place:].startswith(mark)), None)
    raise Refusal(415, "this is not an image that can be read", expected=", ".join(FORMATS), fix=hint)


def checked_header(path: Path, most_voxels: int) -> ImageHeader:
    """The header of a file under the suffix of its format, once what it promises is known to be there and no more.

    Args:
        path: The file.
        most_voxels: Values (voxels times channels) that it may hold.

    Raises:
        Refusal: It promises or unpacks to too much (413), or is damaged (422).
        DataError: Its header cannot be true.
    """
    nrrd = _nrrd_facts(path) if path.suffix == ".nrrd" else None
    if nrrd is not None:
        _check_count(nrrd.sizes, most_voxels)
        if nrrd.packed:
            check_gzip(path, nrrd.bytes, nrrd.start)
    if path.suffix == ".png":
        check_png(path)
    if path.suffix == ".jpg":
        check_jpeg(path)
    if path.suffix == ".gz":
        check_gzip_start(path)
    header = read_header(path)
    _check_count((*header.grid.shape, header.channels), most_voxels)
    if path.suffix == ".gz":
        values = math.prod(header.grid.shape) * header.channels
        check_gzip(path, int(header.native["vox_offset"]) + values * header.native.get_data_dtype().itemsize)
    return header


def _check_count(sizes: tuple[int, ...], most: int) -> None:
    count = math.prod(sizes)
    if count > most:
        raise Refusal(
            413,
            "the image has too many voxels",
            got=f"{'x'.join(map(str, sizes))} = {count}",
            expected=f"at most {most}",
            fix="Crop or resample it.",
        )


def _nrrd_facts(path: Path) -> _NrrdFacts:
    """What a NRRD header says, line by line; what is not known is refused, because another reader might know it."""
    with path.open("rb") as file:
        raw = file.read(_LARGEST_NRRD_HEADER)
    end = re.search(rb"\r?\n\r?\n", raw)
    if end is None:
        raise Refusal(422, "the NRRD header has no end", fix="Export the scan again.")
    fields: dict[str, str] = {}
    for line in raw[: end.start()].decode("utf-8", "replace").split("\n")[1:]:
        _take_nrrd_line(line.removesuffix("\r"), fields)
    sizes = tuple(int(n) for n in fields.get("sizes", "").split() if n.isdecimal() and len(n) < 10)
    item = item_size(fields.get("type", ""))
    encoding = fields.get("encoding", "")
    if not sizes or min(sizes) < 1 or fields.get("dimension") != str(len(sizes)) or item is None:
        raise Refusal(422, "the NRRD header has no sizes and type that can be read", fix="Export the scan again.")
    if encoding not in ("raw", "gzip", "gz"):
        raise Refusal(422, "the NRRD encoding cannot be used", got=encoding or "none", expected="raw or gzip")
    return _NrrdFacts(end.end(), sizes, math.prod(sizes) * item, encoding != "raw")


def _take_nrrd_line(line: str, fields: dict[str, str]) -> None:
    if not line.replace("\t", " ").isprintable():  # a lone carriage return may end a line for another reader
        raise Refusal(422, "the NRRD header has a line that cannot be read", fix="Export the scan again.")
    name, colon, value = line.partition(": ")
    if line.startswith("#") or ":=" in name:
        return
    if name.lower() in ("data file", "datafile"):
        raise Refusal(422, "the voxels are in a second file", fix="Save header and voxels in one .nrrd file.")
    if not colon or name not in _NRRD_FIELDS or name in fields:
        raise Refusal(422, "the NRRD header has a field that cannot be used", fix="Export the scan again.")
    fields[name] = value.strip()
