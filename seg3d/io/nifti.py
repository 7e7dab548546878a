"""NIfTI-1 and NIfTI-2 files.

Voxels are read here rather than through nibabel's array proxy, because that allocates what the header promises and
repairs a bad spacing without telling.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from seg3d.atomic import atomic_path
from seg3d.errors import DataError
from seg3d.io.header import ImageHeader, Placement, check_size, check_spacing, checked_grid, truncated
from seg3d.io.packed import DEFLATE_LIMIT, PIECE, read_to_end, skip
from seg3d.volume import Grid

SUFFIXES = (".nii", ".nii.gz")
_HEADERS: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_IMAGES: dict[Any, Any] = {nib.Nifti1Header: nib.Nifti1Image, nib.Nifti2Header: nib.Nifti2Image}
_UNITS = {1: ("metre", 1e3), 3: ("micron", 1e-3)}  # codes and millimetres; unknown ones count as millimetres
_NO_FORM = (ValueError, nib.spatialimages.HeaderDataError)


def read_nifti_header(path: Path) -> ImageHeader:
    """The checked header; no voxel is read.

    Raises:
        DataError: The file is missing, is no NIfTI, or its header cannot be true.
    """
    native = _native_header(path)
    sizes = tuple(int(n) for n in native["dim"][1 : 1 + max(0, min(7, int(native["dim"][0])))])
    shape, channels = _split_channels(path, sizes)
    check_spacing(path, tuple(float(s) for s in native["pixdim"][1 : 1 + min(3, len(sizes))]))
    dtype = _dtype(path, native)
    _check_scaling(path, native)
    needed = _voxel_offset(path, native) + int(np.prod(shape, dtype=object)) * channels * dtype.itemsize
    room = path.stat().st_size * (DEFLATE_LIMIT if _is_compressed(path) else 1)
    check_size(path, needed, room, shape)
    try:
        affine = native.get_best_affine()
    except _NO_FORM as error:
        raise DataError("the orientation in the header cannot be read", where=path, got=error) from error
    grid = checked_grid(path, shape, _in_mm(native, affine))
    kind = dtype.newbyteorder("=")
    return ImageHeader(path, grid, channels, kind, "nifti", native, _placement(native, grid))


def read_nifti_voxels(header: ImageHeader) -> NDArray[Any]:
    """Voxels ``(channel, x, y, z)`` in the file's type, or float when the header scales them.

    Raises:
        DataError: The file ends before its voxels do or long after them, or is damaged.
    """
    native = header.native
    stored = native.get_data_dtype()
    count = header.channels * int(np.prod(header.grid.shape))
    # untouched pages cost nothing: memory grows with what the file really holds
    voxels = np.empty(count, dtype=stored)
    with _open(header.path) as file:
        try:
            skip(file, _voxel_offset(header.path, native))
            filled = _fill(file, voxels)
            if filled < voxels.nbytes:
                raise truncated(header.path, f"{filled} of {voxels.nbytes} bytes of voxels")
            read_to_end(header.path, file)
        except (OSError, EOFError, zlib.error) as error:
            raise truncated(header.path, error) from error
    shaped = voxels.reshape((*header.grid.shape, header.channels), order="F")
    return _scaled(header.path, np.moveaxis(shaped, -1, 0).astype(header.dtype, copy=False), native)


def write_nifti_like(path: Path, data: NDArray[Any], header: ImageHeader) -> None:
    """Write ``(x, y, z)`` with the affine, codes and units of a header; the same content gives the same bytes.

    Numbers of the affine are those of the file, in its own unit.
    """
    native = header.native.copy()
    native.extensions.clear()  # they may hold DICOM fields that name the patient
    native.set_data_shape(data.shape)
    native.set_data_dtype(data.dtype)
    native.set_slope_inter(1, 0)
    native["cal_min"], native["cal_max"] = 0, 0
    native["vox_offset"] = 0
    native.set_intent("none")
    _write(path, _IMAGES[type(native)](data, native.get_best_affine(), native))


def write_nifti(path: Path, data: NDArray[Any], grid: Grid) -> None:
    """Write ``(x, y, z)`` on a grid, in the type of the values; the same content gives the same bytes.

    Raises:
        DataError: The values are integers of more than 32 bits.
    """
    if data.dtype.kind in "iu" and data.dtype.itemsize == 8:  # which some readers of NIfTI do not know
        small = data.astype(np.int32)
        if (small != data).any():
            raise DataError("values are out of range", where=path, got=f"{data.min()} to {data.max()}")
        data = small
    image = nib.Nifti1Image(data, grid.affine)
    image.header.set_xyzt_units("mm")
    image.header.set_sform(grid.affine, "scanner")
    if not grid.is_sheared:  # which a qform cannot say
        image.header.set_qform(grid.affine, "scanner")
    _write(path, image)


def _write(path: Path, image: Any) -> None:
    raw = image.to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(raw, compresslevel=6, mtime=0) if _is_compressed(path) else raw)


def _unit(native: Any) -> tuple[str, float]:
    """The unit of the header's lengths, and its millimetres."""
    return _UNITS.get(int(native["xyzt_units"]) & 7, ("mm", 1.0))


def _in_mm(native: Any, affine: NDArray[Any]) -> NDArray[np.float64]:
    scaled = np.array(affine, dtype=np.float64)
    scaled[:3] *= _unit(native)[1]
    return scaled


def _placement(native: Any, grid: Grid) -> Placement:
    placed = bool(native["sform_code"] or native["qform_code"])
    return Placement(placed, _unit(native)[0], _disagreement(native, grid))


def _disagreement(native: Any, grid: Grid) -> str:
    """How the qform differs from the sform, which the grid is of; empty if there are not both.

    By less than half a voxel and a hundredth of a spacing it does not: rounding of its quaternion may come to that.
    """
    if not (native["sform_code"] and native["qform_code"]):
        return ""
    try:
        other = Grid(grid.shape, _in_mm(native, native.get_qform()))
    except _NO_FORM:
        return "the qform cannot be read"
    apart = grid.distance_mm(other)
    alike = np.allclose(grid.spacing_mm, other.spacing_mm, rtol=0.01, atol=0)
    if alike and apart <= min(grid.spacing_mm) / 2:
        return ""
    sizes = [" x ".join(f"{mm:.4g}" for mm in one.spacing_mm) for one in (grid, other)]
    return f"voxels of {sizes[0]} mm by the sform, {sizes[1]} mm by the qform, up to {apart:.4g} mm apart"


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path) -> BinaryIO:
    try:
        file: Any = gzip.GzipFile(path) if _is_compressed(path) else path.open("rb")
    except FileNotFoundError as error:
        raise DataError("the file is missing", where=path, fix="Check the path.") from error
    except OSError as error:
        raise DataError("the file cannot be opened", where=path, got=error) from error
    opened: BinaryIO = file
    return opened


def _native_header(path: Path) -> Any:
    with _open(path) as file:
        try:
            raw = file.read(4096)
        except (OSError, EOFError, zlib.error) as error:
            raise truncated(path, error) from error
    sizes = {struct.unpack(order + "i", raw[:4])[0] for order in "<>"} if len(raw) >= 4 else set()
    size = next((n for n in sorted(sizes) if n in _HEADERS), None)
    if size is None or len(raw) < size:
        raise DataError(
            "this is not a NIfTI file",
            where=path,
            got="an empty file" if not raw else "another content",
            fix="Export the scan as NIfTI or NRRD.",
        )
    kind = _HEADERS[size]
    # unchecked, because nibabel's check repairs a negative spacing in silence
    native = kind(raw[:size], endianness=None, check=False)
    if bytes(native["magic"])[:3] not in (b"n+1", b"n+2"):
        raise DataError(
            "this is not a single-file NIfTI", where=path, got=bytes(native["magic"]), expected="n+1 or n+2"
        )
    if native["pixdim"][0] == 0:
        native["pixdim"][0] = 1  # as the standard says; nibabel refuses a qform without
    return native


def _split_channels(path: Path, sizes: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """Spatial sizes and channels; a fourth axis is the channels, as in the Medical Segmentation Decathlon."""
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    if not sizes or min(sizes) < 1 or len(sizes) > 4:
        raise DataError(
            "the image has sizes that cannot be read",
            where=path,
            got=sizes,
            expected="(x, y, z) or (x, y, z, channel), all positive",
        )
    x, y, z = (*sizes[:3], 1, 1)[:3]
    return (x, y, z), sizes[3] if len(sizes) == 4 else 1


def _dtype(path: Path, native: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = native.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError) as error:
        raise DataError("unknown voxel type", where=path, got=int(native["datatype"])) from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DataError("the voxel type cannot be used", where=path, got=dtype, expected="integers or real numbers")
    return dtype


def _voxel_offset(path: Path, native: Any) -> int:
    """Where the voxels begin, which NIfTI stores as a real number."""
    offset = float(native["vox_offset"])
    # libraries do not agree what an offset within the header means
    if not np.isfinite(offset) or offset != int(offset) or offset < int(native["sizeof_hdr"]):
        raise DataError(
            "the place of the voxels in the file cannot be true",
            where=path,
            got=f"vox_offset {offset}",
            expected=f"a whole number from {int(native['sizeof_hdr'])} on",
            fix="Correct the header, or export the scan again.",
        )
    return int(offset)


def _check_scaling(path: Path, native: Any) -> None:
    """Refuse a scaling that makes every voxel infinite; a slope of 0 or NaN means that there is none."""
    slope, inter = (float(native[name]) for name in ("scl_slope", "scl_inter"))
    if np.isinf(slope) or (_is_scaled(slope) and not np.isfinite(inter)):
        raise _unscalable(path, slope, inter)


def _is_scaled(slope: float) -> bool:
    return slope != 0 and not np.isnan(slope)


def _fill(file: BinaryIO, voxels: NDArray[Any]) -> int:
    """Bytes read into ``voxels``; fewer than it has where the file ends."""
    target = voxels.view(np.uint8).data
    reader: io.BufferedIOBase = file  # type: ignore[assignment]  # both openers return buffered readers
    filled = 0
    while filled < voxels.nbytes:
        count = reader.readinto(target[filled : filled + PIECE])
        if not count:
            break
        filled += count
    return filled


def _scaled(path: Path, voxels: NDArray[Any], native: Any) -> NDArray[Any]:
    slope, inter = (float(native[name]) for name in ("scl_slope", "scl_inter"))
    if not _is_scaled(slope) or (slope == 1 and inter == 0):
        return voxels
    kind = np.float64 if voxels.dtype.itemsize > 4 else np.float32
    scaled: NDArray[Any] = voxels.astype(kind)
    try:
        with np.errstate(over="raise", invalid="ignore"):
            np.multiply(scaled, slope, out=scaled)
            np.add(scaled, inter, out=scaled)
    except FloatingPointError as error:
        raise _unscalable(path, slope, inter) from error
    return scaled


def _unscalable(path: Path, slope: float, inter: float) -> DataError:
    return DataError(
        "the scaling makes voxels infinite",
        where=path,
        got=f"scl_slope {slope}, scl_inter {inter}",
        fix="Correct the header, or export the scan again.",
    )
