"""DICOM series: slices in files of their own, read by SimpleITK (GDCM) and put together here.

ITK's own reader of series takes the type of all voxels from the first slice and the distance of all slices from the
first two; here every slice is asked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.io.below import files_below
from seg3d.io.header import check_spacing, checked_grid, first_bytes, truncated
from seg3d.io.itk import LPS_TO_RAS, itk_reason, name_for_itk
from seg3d.volume import Grid, Volume

_IMAGE_POSITION, _IMAGE_ORIENTATION, _PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
_ROWS, _COLUMNS, _FRAMES, _SAMPLES = "0028|0010", "0028|0011", "0028|0008", "0028|0002"
_COLOURS, _BITS, _SIGNED, _SLOPE, _INTERCEPT = "0028|0004", "0028|0101", "0028|0103", "0028|1053", "0028|1052"
# unknown, CT, MR, PET, nuclear medicine and what research tools write (secondary capture): a file of these kinds that
# cannot be read is told, while of others most are no images
_KINDS = ("2", "2.1", "2.2", "4", "4.1", "4.4", "7", "20", "128", "128.1", "130")
_VOLUME_CLASSES = ("", *(f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in _KINDS))
_DIRECTORY = "1.2.840.10008.1.3.10"  # of an exported disc
_SUFFIXES = (".dcm", ".ima")  # what is called so is a slice, even if it does not begin like one
_SERIES, _PATIENT, _NUMBER, _MODALITY = "0020|000e", "0010|0020", "0020|0011", "0008|0060"
# how far a gap may be from the usual one: positions are rounded to a tenth of a millimetre (and a float is not exactly
# that), while a missing slice makes a gap of two
_UNEVEN, _ROUNDED_MM, _MISSING = 0.1, 0.101, 0.4
_START = 1024  # bytes of a file that hold its group 0002
_CLASS, _SYNTAX = 0x02, 0x10  # of group 0002: what a file is, and how it is written
_PLAIN_SYNTAXES = ("", *(f"1.2.840.10008.1.2{kind}" for kind in ("", ".1", ".1.99", ".2")))
_SAME_DIRECTION, _SQUARE = 1e-3, 1e-2
_Key = tuple[Path, str, str]  # folder, patient, series


@dataclass(frozen=True)
class Slice:
    """What the header of a slice says.

    Attributes:
        path: The file.
        position: Of its first pixel, in mm, LPS.
        orientation: Directions of a row and of a column.
        spacing: Distances of rows and of columns, in mm.
        size: Rows and columns.
    """

    path: Path
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    size: tuple[int, int]


@dataclass
class Series:
    """The files in a folder that are of one series of one patient.

    Attributes:
        folder: Where they are.
        number: Of the series, as the scanner counted it; may be empty.
        modality: ``CT``, ``MR``, ``PT``, ...
        slices: Their slices, in the order of their names until :func:`read_series` sorts them.
        without: Why files of it are no slices, by file name.
    """

    folder: Path
    number: str
    modality: str
    slices: list[Slice] = field(default_factory=list)
    without: dict[str, str] = field(default_factory=dict)


def find_series(folder: Path) -> tuple[list[Series], list[DataError]]:
    """The series in a folder and those below it, in the order of their paths and numbers, and what cannot be read.

    Only files that begin as DICOM files do, or are called so, are looked at; no pixel is read. Reports, plans and the
    like, which GDCM does not read, are a series without slices for each kind. A series whose slices are spread over
    several folders is an error, and so is each in a folder with a file that cannot be read: that may be its last slice.
    """
    found: dict[_Key, Series] = {}
    errors: dict[Path, list[DataError]] = {}
    for path, kind in _files(folder, errors):
        try:
            reader = _opened(path)
        except DataError as error:
            if kind in _VOLUME_CLASSES:
                errors.setdefault(path.parent, []).append(error)
            elif kind != _DIRECTORY:
                other = found.setdefault((path.parent, "", kind), Series(path.parent, "", ""))
                other.without[path.name] = f"no image that can be read, of class {kind}"
            continue
        try:
            _take(path, reader, found)
        except DataError as error:
            errors.setdefault(path.parent, []).append(error)
    # parts of a series are looked for in all folders: beside a broken one, what is left may be evenly spaced, too
    kept, spread = _part_spread(found)
    series = [one for one in kept if one.folder not in errors]
    return sorted(series, key=lambda s: (s.folder, s.number.zfill(12))), [*map(_joined, errors.values()), *spread]


def _part_spread(found: dict[_Key, Series]) -> tuple[list[Series], list[DataError]]:
    """The series that lie in one folder, or in several that hold the same places, and the errors of the others."""
    parts: dict[tuple[str, str], list[Series]] = {}
    for (_, patient, uid), series in found.items():
        parts.setdefault((patient, uid), []).append(series)
    kept, errors = [], []
    for (_, uid), same in parts.items():
        places = {frozenset(tuple(one.position.round(2)) for one in series.slices) for series in same}
        if not uid or len(places - {frozenset()}) < 2:
            kept += same
            continue
        errors.append(
            DataError(
                "the slices of one series lie in several folders, each with a part of the volume",
                where=same[0].folder,
                got=f"more in {', '.join(str(series.folder) for series in same[1:4])}",
                expected="one folder",
                fix="Put them into one; if these are volumes of their own, convert the folders one at a time.",
            )
        )
    return kept, errors


def _joined(errors: Sequence[DataError]) -> DataError:
    """One error for all files of a folder."""
    first = errors[0]
    if len(errors) == 1:
        return first
    return DataError(f"{first.what}, nor {len(errors) - 1} more", where=first.where, got=first.got, fix=first.fix)


def why_no_volume(series: Series) -> str:
    """Why a series is none of parallel slices, and never was meant to be; empty if it is one."""
    if not series.slices:
        return ", ".join(sorted(set(series.without.values()))) or "no image"
    if len(series.slices) == 1:
        return "a single image"
    first = series.slices[0].orientation
    if any(np.abs(one.orientation - first).max() > _SAME_DIRECTION for one in series.slices):
        return "images in several directions, as of a localiser"
    return ""


def read_series(series: Series) -> Volume:
    """The volume ``(1, x, y, z)`` of parallel slices: x along rows, y along columns, z as the patient's axes turn.

    Values are those after the slices' own slope and intercept: Hounsfield units of CT, activity (not SUV) of PET. They
    are integers of 16 bits (or 32 where need be) if all slices are integers, else float32. A tilted gantry gives a
    sheared grid.

    Raises:
        DataError: Slices are missing, double, of several sizes or spacings, or damaged.
    """
    slices = _sorted(series)
    grid = _grid(series, slices)
    planes = [_pixels(one) for one in slices]
    data = np.stack([plane.T for plane in planes], axis=-1)[None]
    return Volume(data.astype(_type_of(data), copy=False), grid)


def _type_of(data: NDArray[np.generic]) -> type[np.generic]:
    if data.dtype.kind == "f":
        return np.float32
    low, high = data.min(), data.max()
    fitting = (kind for kind in (np.int16, np.int32) if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return next(fitting, data.dtype.type)


def _files(folder: Path, errors: dict[Path, list[DataError]]) -> Iterator[tuple[Path, str]]:
    """Files that begin as DICOM files do or should, sorted by path, with the UID of what they are."""
    for place, paths in files_below(folder, lambda error: errors.setdefault(Path(str(error.where)), []).append(error)):
        starts: dict[Path, bytes] = {}
        for path in paths:
            try:
                with path.open("rb") as file:
                    starts[path] = file.read(_START)
            except OSError as error:
                what = DataError("the file cannot be opened", where=path, got=error.strerror)
                errors.setdefault(place, []).append(what)
        beside = any(_is_dicom(start) for start in starts.values())
        for path, start in starts.items():
            # copying that was broken off leaves empty files
            lost = path.suffix.lower() in _SUFFIXES or (beside and not start)
            if _is_dicom(start) or (lost and not path.name.startswith(".")):
                yield path, _uid_of(start, _CLASS)


def _is_dicom(start: bytes) -> bool:
    return start[128:132] == b"DICM"


def _uid_of(start: bytes, element: int) -> str:
    """A UID in the first bytes of a file, those of group 0002, which are always written in the same way."""
    place = start.find(struct.pack("<HH2s", 2, element, b"UI"), 132)
    if place < 0 or place + 8 > len(start):
        return ""
    (length,) = struct.unpack_from("<H", start, place + 6)
    return start[place + 8 : place + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")


def _take(path: Path, reader: sitk.ImageFileReader, found: dict[_Key, Series]) -> None:
    """Add a file to its series, that of one patient in one folder."""
    if not (_tag(reader, _SERIES) or _tag(reader, _ROWS)):
        return  # the directory of an exported disc, for instance; a slice may have lost its UID
    why = _why_no_slice(reader)
    slices = [] if why else [_slice(path, reader)]
    key = (path.parent, _tag(reader, _PATIENT), _tag(reader, _SERIES))
    series = found.setdefault(key, Series(path.parent, _tag(reader, _NUMBER), _tag(reader, _MODALITY)))
    series.slices += slices
    if why:
        series.without[path.name] = why


def _opened(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(name_for_itk(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(
            "the DICOM header cannot be read",
            where=path,
            got=itk_reason(error),
            fix="Copy the file again from its source, or move it elsewhere if it is no image.",
        ) from error
    return reader


def _tag(reader: sitk.ImageFileReader, tag: str) -> str:
    return str(reader.GetMetaData(tag)).strip(" \0") if reader.HasMetaDataKey(tag) else ""


def _why_no_slice(reader: sitk.ImageFileReader) -> str:
    if not _tag(reader, _ROWS):
        return "no image"
    if _tag(reader, _FRAMES) not in ("", "1"):
        return "several frames in a file"
    if _tag(reader, _SAMPLES) not in ("", "1") or _tag(reader, _COLOURS) not in ("", "MONOCHROME1", "MONOCHROME2"):
        return "colours"
    if not (_tag(reader, _IMAGE_POSITION) and _tag(reader, _IMAGE_ORIENTATION) and _tag(reader, _PIXEL_SPACING)):
        return "no place in the patient"
    return ""


def _slice(path: Path, reader: sitk.ImageFileReader) -> Slice:
    position, orientation, spacing = (
        _numbers(path, reader, tag, count)
        for tag, count in ((_IMAGE_POSITION, 3), (_IMAGE_ORIENTATION, 6), (_PIXEL_SPACING, 2))
    )
    check_spacing(path, tuple(spacing))
    axes = orientation.reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > _SQUARE:
        raise DataError(
            "the directions of rows and columns cannot be true",
            where=path,
            got=_tag(reader, _IMAGE_ORIENTATION),
            expected="two of length 1 at right angles",
            fix="Export the series again.",
        )
    size = int(_tag(reader, _ROWS)), int(_tag(reader, _COLUMNS))
    return Slice(path, position, orientation, (float(spacing[0]), float(spacing[1])), size)


def _numbers(path: Path, reader: sitk.ImageFileReader, tag: str, count: int) -> NDArray[np.float64]:
    text = _tag(reader, tag)
    try:
        found = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        found = np.array([np.nan])
    if found.shape != (count,) or not np.isfinite(found).all():
        raise DataError(f"({tag.replace('|', ',')}) cannot be read", where=path, got=text, expected=f"{count} numbers")
    return found


def _sorted(series: Series) -> list[Slice]:
    """The slices along their normal."""
    first = series.slices[0]
    for name in ("size", "spacing"):
        other = next((one for one in series.slices if not np.allclose(getattr(one, name), getattr(first, name))), None)
        if other is not None:
            raise DataError(
                f"slices of one series differ in {name}",
                where=other.path,
                got=getattr(other, name),
                expected=f"{getattr(first, name)}, as {first.path.name}",
                fix="Put each volume into a folder of its own.",
            )
    if series.without:
        name, why = next(iter(series.without.items()))
        raise DataError(
            f"{len(series.without)} of {len(series.slices) + len(series.without)} files of the series are no slices",
            where=series.folder / name,
            got=why,
            fix="Move them elsewhere if the volume is complete without them.",
        )
    return sorted(series.slices, key=lambda one: (float(one.position @ _normal(first)), one.path.name))


def _grid(series: Series, slices: Sequence[Slice]) -> Grid:
    """The grid of sorted slices."""
    _refuse_gaps(series, slices)
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.spacing[1]  # along a row the column changes
    affine[:3, 1] = first.orientation[3:] * first.spacing[0]
    affine[:3, 2] = (last.position - first.position) / (len(slices) - 1)
    affine[:3, 3] = first.position
    rows, columns = first.size
    return checked_grid(series.folder, (columns, rows, len(slices)), LPS_TO_RAS @ affine)


def _refuse_gaps(series: Series, slices: Sequence[Slice]) -> None:
    """Refuse slices that are not evenly spaced.

    Raises:
        DataError: Some are missing, or at the same place.
    """
    places = np.array([one.position for one in slices])
    gaps = np.diff(places @ _normal(slices[0]))
    usual = float(np.median(gaps))
    double = np.flatnonzero(gaps <= 0.1 * max(usual, 1e-6))
    if len(double):
        a, b = (slices[double[0] + i].path.name for i in (0, 1))
        raise DataError(
            "several slices are at the same place",
            where=series.folder,
            got=f"{a} and {b}" + (f", and {len(double) - 1} more pairs" if len(double) > 1 else ""),
            fix="Are they of several times, echoes or copies? Put each volume into a folder of its own.",
        )
    wrong = np.abs(gaps - usual) > min(max(_UNEVEN * usual, _ROUNDED_MM), _MISSING * usual)
    off = places - np.linspace(places[0], places[-1], len(places))
    along = off @ _normal(slices[0])
    if wrong.any() or np.abs(along).max() > _MISSING * max(usual, *slices[0].spacing):
        worst = int(np.abs(gaps - usual).argmax())
        raise DataError(
            "slices are not evenly spaced: some are missing, or were taken at other distances",
            where=series.folder,
            got=f"{gaps[worst]:.4g} mm between {slices[worst].path.name} and {slices[worst + 1].path.name}",
            expected=f"{usual:.4g} mm, as between most",
            fix="Copy the series again from its source; what was taken so has to be resampled first.",
        )
    across = np.linalg.norm(off - along[:, None] * _normal(slices[0]), axis=1)
    if across.max() > _MISSING * max(slices[0].spacing):
        raise DataError(
            "slices are shifted against each other in their plane",
            where=slices[int(across.argmax())].path,
            got=f"{across.max():.4g} mm off the line from the first to the last",
            expected=f"at most {_MISSING * max(slices[0].spacing):.2g} mm",
            fix="Is this one volume? Put each into a folder of its own; what was taken so has to be resampled first.",
        )


def _normal(one: Slice) -> NDArray[np.float64]:
    """The direction of a row times that of a column."""
    return np.cross(one.orientation[:3], one.orientation[3:])


def _pixels(one: Slice) -> NDArray[np.generic]:
    """The values ``(row, column)`` of a slice after its slope and intercept."""
    reader = _opened(one.path)
    try:
        array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _unreadable(one.path, itk_reason(error)) from error
    plane: NDArray[np.generic] = array.reshape(array.shape[-2:])
    if plane.shape != one.size:
        raise truncated(one.path, f"{plane.shape} pixels of {one.size}")
    return _turned_back(plane, reader) if _tag(reader, _COLOURS) == "MONOCHROME1" else plane


def _unreadable(path: Path, reason: str) -> DataError:
    """The error of pixels that GDCM does not read: damaged, or packed in a way that it does not know."""
    syntax = _uid_of(first_bytes(path, _START), _SYNTAX)
    if syntax in _PLAIN_SYNTAXES:
        return truncated(path, reason)
    what, fix = "the compressed pixels cannot be read", "Export the series without compression."
    return DataError(what, where=path, got=f"transfer syntax {syntax}: {reason}", fix=fix)


def _turned_back(plane: NDArray[np.generic], reader: sitk.ImageFileReader) -> NDArray[np.generic]:
    """The values of a slice that is shown with its lowest ones white: ITK turns them round, as if it were a picture.

    Before the slope it gives ``-1 - value``, or of unsigned values ``2^bits - 1 - value``.
    """
    slope, intercept = float(_tag(reader, _SLOPE) or 0) or 1.0, float(_tag(reader, _INTERCEPT) or 0)
    both = -1 if _tag(reader, _SIGNED) == "1" else 2 ** int(_tag(reader, _BITS)) - 1
    values = slope * both + 2 * intercept - plane.astype(np.float64)
    return (values.round() if plane.dtype.kind in "iu" else values).astype(plane.dtype)
