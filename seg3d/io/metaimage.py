"""MetaImage files (``.mha``, ``.mhd`` with its data file), read by SimpleITK once they are known to be whole."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seg3d.errors import DataError
from seg3d.io.header import check_size, first_bytes, truncated
from seg3d.io.itk import grid_of, open_volume, voxels_of
from seg3d.io.packed import DEFLATE_LIMIT, PIECE, deflated_size, too_much
from seg3d.volume import Volume

SUFFIXES = (".mha", ".mhd")
_LARGEST_HEADER = 1 << 16
_ITEM_SIZE = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
# fields that not every reader minds, and the only values that then mean the same to all
_PLAIN = {
    "DistanceUnits": ("mm", "?", ""),
    "ElementToIntensityFunctionSlope": ("1", "1.0"),
    "ElementToIntensityFunctionOffset": ("0", "0.0"),
}
_DIRECTIONS = {"TransformMatrix", "Rotation", "Orientation"}  # what the field may be called
_SPACINGS, _PLACES = {"ElementSpacing", "ElementSize"}, {"Offset", "Position", "Origin"}
# of which each is a number for every axis, or for every pair; ITK makes another number of a decimal comma
_NUMBERS = dict.fromkeys(_SPACINGS | _PLACES, 1) | dict.fromkeys(_DIRECTIONS, 2)
# ITK passes over a field that is written in another way, and takes 1 mm, 0 or its own byte order
_MINDED = {
    *(*_NUMBERS, *_PLAIN, "NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "HeaderSize", "BinaryData"),
    *("CompressedData", "CompressedDataSize", "BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
}


@dataclass(frozen=True)
class _Facts:
    fields: dict[str, str]
    data: Path  # the file with the voxels
    start: int  # where in it they begin


def read_metaimage(path: Path) -> tuple[Volume, bool]:
    """The volume ``(1, x, y, z)`` of a file, and whether it says how the patient lies in it.

    Raises:
        DataError: The file or its data file is missing or damaged, its header cannot be true, or it has several
            channels.
    """
    facts = _facts(path)
    _refuse_misread(path, facts.fields)
    _refuse_other_values(path, facts.fields)
    _check_data(facts, _needed_bytes(path, facts.fields))
    reader = open_volume(path, "MetaImageIO")
    if reader.GetNumberOfComponents() != 1:
        channels = reader.GetNumberOfComponents()
        raise DataError("a volume has one channel", where=path, got=channels, fix="Save a file for each channel.")
    return Volume(voxels_of(reader, path), grid_of(reader, path)), bool(_DIRECTIONS & facts.fields.keys())


def _facts(path: Path) -> _Facts:
    """The fields of a header up to the one that ends it, and where the voxels are."""
    raw = first_bytes(path, _LARGEST_HEADER)
    end = re.search(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?(\n|\Z)", raw, re.MULTILINE)
    if end is None:
        raise DataError("this is not a MetaImage file", where=path, got="another content" if raw else "an empty file")
    lines = [line for line in raw[: end.start()].decode("utf-8", "replace").splitlines() if line.strip()]
    fields = _fields(path, lines)
    place = end[1].decode("utf-8", "replace")
    if place.upper() == "LOCAL":
        return _Facts(fields, path, end.end())
    if not place or Path(place).name != place or "%" in place or place.startswith("LIST"):
        raise DataError(
            "the voxels are in files that cannot be read", where=path, got=place, expected="LOCAL, or a file beside it"
        )
    if not (path.parent / place).is_file():
        raise DataError("the file with the voxels is missing", where=path, expected=path.parent / place)
    return _Facts(fields, path.parent / place, 0)


def _fields(path: Path, lines: Sequence[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or name in fields:
            what = "a field is given twice" if equals else "a line of the header is no field"
            raise DataError(what, where=path, got=line.strip()[:60], expected="name = value, each once")
        fields[name] = value
    return fields


def _refuse_misread(path: Path, fields: dict[str, str]) -> None:
    """Refuse fields of which ITK would make something else without telling."""
    meant = {name.lower(): name for name in _MINDED}
    axes = int(fields["NDims"]) if re.fullmatch("[1-9]", fields.get("NDims", "")) else 3
    for name, value in fields.items():
        known = meant.get(name.lower())
        if known not in (None, name):
            raise DataError("a field is spelt in another way", where=path, got=name, expected=known)
        numbers = re.findall(r"(?<!\S)[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\S)", value)
        wanted = axes ** _NUMBERS.get(name, 0)
        if name in _NUMBERS and not len(numbers) == len(value.split()) == wanted:
            raise DataError(f"{name} cannot be read", where=path, got=value, expected=f"{wanted} numbers")
    if not _SPACINGS & fields.keys():
        fix = "Add ElementSpacing = X Y Z, the millimetres of a voxel."
        raise DataError("the header does not say how large a voxel is", where=path, expected="ElementSpacing", fix=fix)


def _refuse_other_values(path: Path, fields: dict[str, str]) -> None:
    for name, plain in _PLAIN.items():
        if fields.get(name, plain[0]) not in plain:
            raise DataError(
                f"{name} is not minded", where=path, got=fields[name], expected=plain[0], fix="Save it without."
            )


def _needed_bytes(path: Path, fields: dict[str, str]) -> int:
    """Bytes of all voxels by the header."""
    kind = re.fullmatch("MET_U?([A-Z_]+?)(_ARRAY)?", fields.get("ElementType", ""))
    item = _ITEM_SIZE.get(kind[1]) if kind else None
    sizes = fields.get("DimSize", "").split()
    channels = fields.get("ElementNumberOfChannels", "1")
    unread = fields.get("HeaderSize", "0") != "0" or fields.get("BinaryData", "True").lower() not in ("true", "1")
    counts = sizes and all(re.fullmatch("[0-9]{1,9}", n) for n in sizes) and re.fullmatch("[0-9]{1,4}", channels)
    if item is None or unread or not counts:
        names = ("ElementType", "DimSize", "ElementNumberOfChannels", "HeaderSize", "BinaryData")
        raise DataError(
            "the header cannot be read",
            where=path,
            got={name: fields[name] for name in names if name in fields},
            expected="a type of numbers, sizes, and binary data without a header of its own",
            fix="Save it anew, for instance with 3D Slicer.",
        )
    return math.prod(map(int, sizes)) * item * int(channels)


def _check_data(facts: _Facts, needed: int) -> None:
    """Refuse data that end too early, for which ITK puts what it likes, and such as go on after their end."""
    there = facts.data.stat().st_size - facts.start
    packed = facts.fields.get("CompressedData", "False").lower() in ("true", "1")
    check_size(facts.data, needed, there * (DEFLATE_LIMIT if packed else 1), _shape(facts.fields))
    if not packed:
        if there > needed:  # headers of raw data are written by hand: another size, type or a header before the voxels
            raise too_much(facts.data)
        return
    found = deflated_size(facts.data, _pieces(facts, _packed_size(facts, there)), needed)
    if found < needed:
        raise truncated(facts.data, f"{found} of {needed} bytes of voxels")


def _packed_size(facts: _Facts, there: int) -> int:
    """Bytes of packed voxels; ITK unpacks as many as the header says, and keeps what it likes where these are few."""
    text = facts.fields.get("CompressedDataSize", "0")
    size = int(text) if re.fullmatch("[0-9]{1,18}", text) else -1
    if size == 0 and facts.start == 0:
        return there  # of a file of voxels alone it takes all
    if size > there:
        raise truncated(facts.data, f"{there} of {size} packed bytes")
    if size <= 0:
        raise DataError(
            "the header does not say how many bytes the packed voxels have",
            where=facts.data,
            got=text,
            expected=f"CompressedDataSize = {there}",
            fix="Add that line before ElementDataFile, or save it anew, for instance with 3D Slicer.",
        )
    return size


def _shape(fields: dict[str, str]) -> tuple[int, int, int]:
    x, y, z = (*(int(n) for n in fields["DimSize"].split()), 1, 1, 1)[:3]
    return x, y, z


def _pieces(facts: _Facts, size: int) -> Iterator[bytes]:
    with facts.data.open("rb") as file:
        file.seek(facts.start)
        while piece := file.read(min(PIECE, size)):
            size -= len(piece)
            yield piece
