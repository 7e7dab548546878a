"""Damaged headers and packed bombs: readers answer or say what is wrong, and do no more than the file is worth."""

from __future__ import annotations

import gzip
import io
import resource
import time
import tracemalloc
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from mutants import fuzz
from served import bright, nifti_bytes, nrrd_bytes, picture_bytes, png_of

from seg3d.errors import DataError
from seg3d.io import read_label_map, read_volume

MIB = 1 << 20


def scaled_nifti() -> bytes:
    image = nib.Nifti1Image(bright().astype(np.float32), None)
    image.header.set_slope_inter(2, -1)
    image.header.set_qform(np.diag([1.0, 2, 3, 1]), 1)
    return bytes(image.to_bytes())


def tiff_bytes(**options: Any) -> bytes:
    rows = (np.arange(20 * 30).reshape(20, 30) * 100).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, rows, metadata=None, **options)
    return file.getvalue()


def deep_png() -> bytes:
    """A PNG of 30 columns, 20 rows and three channels with 16 bits each."""
    rows = np.random.default_rng(0).integers(0, 256, (20, 1 + 30 * 6), np.uint8)
    rows[:, 0] = 0  # no filter
    return png_of(30, 20, rows.tobytes(), bits=16, colour=2)


def bases() -> dict[str, tuple[str, bytes, int]]:
    """Suffix, good file and how many of its first bytes are header."""
    nrrd, tiff = nrrd_bytes(bright()), tiff_bytes()
    second = nib.Nifti2Image(bright(), np.eye(4)).to_bytes()
    return {
        "NIfTI": (".nii", nifti_bytes(bright(), packed=False), 352),
        "scaled NIfTI": (".nii", scaled_nifti(), 352),
        "NIfTI-2": (".nii", second, 544),
        "NRRD": (".nrrd", nrrd, nrrd.index(b"\n\n") + 12),
        "raw NRRD": (".nrrd", nrrd_bytes(bright(), encoding="raw"), nrrd.index(b"\n\n") + 2),
        "PNG": (".png", picture_bytes(), 60),
        "deep PNG": (".png", deep_png(), 60),
        "JPEG": (".jpg", picture_bytes("JPEG"), 400),
        "TIFF": (".tif", tiff, tiff.index(tiff[-20:])),
        "deflate TIFF": (".tif", tiff_bytes(compression="zlib"), 300),
        "tiled TIFF": (".tif", tiff_bytes(compression="zlib", tile=(16, 16)), 300),
    }


BASES = bases()


def check_mutant(folder: Path, suffix: str, content: bytes, packed: bool) -> None:
    """Read a damaged file: voxels or an error that is told come of it, without much memory or time."""
    packed = packed and suffix == ".nii"
    path = folder / f"scan{suffix}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    peak, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    tracemalloc.start()
    for read in (read_volume, read_label_map):
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  # either outcome is right
    _, allocated = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert allocated < 16 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 * 1024  # kB
    assert time.process_time() - started < 5


@pytest.mark.parametrize("name", BASES)
def test_a_damaged_header_never_crashes_hangs_or_allocates(tmp_path: Path, name: str) -> None:
    suffix, content, header = BASES[name]
    fuzz(partial(check_mutant, tmp_path, suffix), content, header, 60)


def patched(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


NIFTI, NAN, INF = nifti_bytes(bright(), packed=False), np.float32(np.nan).tobytes(), np.float32(np.inf).tobytes()
FIELDS = {
    "vox_offset NaN": (108, NAN, "place of the voxels"),
    "vox_offset infinite": (108, INF, "place of the voxels"),
    "vox_offset in the header": (108, np.float32(16).tobytes(), "place of the voxels"),
    "vox_offset of half a byte": (108, np.float32(352.5).tobytes(), "place of the voxels"),
    "vox_offset behind the end": (108, np.float32(1e9).tobytes(), "smaller than its header"),
    "negative number of axes": (40, b"\xff\xff", "sizes"),
    "scl_slope infinite": (112, INF, "scaling makes voxels infinite"),
    "scl_inter NaN": (112, np.array([2, np.nan], np.float32).tobytes(), "scaling makes voxels infinite"),
    "scl_slope too large": (112, np.array([3e38, 0], np.float32).tobytes(), "scaling makes voxels infinite"),
    "qform and sform NaN": (252, bytes([1, 0, 1, 0]) + NAN * 18, "affine|orientation"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_cannot_be_true_is_told(tmp_path: Path, name: str) -> None:
    place, value, message = FIELDS[name]
    (tmp_path / "a.nii").write_bytes(patched(NIFTI, place, value))
    with pytest.raises(DataError, match=message):
        read_volume(tmp_path / "a.nii")


def test_a_slope_that_is_no_number_means_no_scaling(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(patched(NIFTI, 112, NAN + NAN))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").data[0], bright())


def test_an_affine_too_large_to_be_multiplied_is_told(tmp_path: Path) -> None:
    image = nib.Nifti2Image(bright(), None)
    image.header["sform_code"], image.header["pixdim"] = 1, 1
    for axis, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = np.eye(3, 4)[axis] * 1e200
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    with pytest.raises(DataError, match="voxels have no volume"):
        read_volume(tmp_path / "a.nii")


ZEROS = gzip.compress(bytes(16 * MIB), 9) * 64  # a megabyte that unpacks to a gigabyte
BOMBS = {
    "NIfTI": (".nii.gz", lambda: gzip.compress(NIFTI, 9) + ZEROS),
    "NRRD": (".nrrd", lambda: nrrd_bytes(bright()) + ZEROS),
    "PNG": (".png", lambda: png_of(30, 20, bytes(100 * MIB))),
    "TIFF": (".tif", lambda: tiff_bomb(100 * MIB)),
}


def tiff_bomb(size: int) -> bytes:
    """A TIFF of 20 rows and 30 columns whose strip unpacks to ``size`` bytes."""
    packed = zlib.compress(bytes(size), 9)
    base = tiff_bytes(compression="zlib", rowsperstrip=20)
    with tifffile.TiffFile(io.BytesIO(base)) as file:
        tags = file.pages.first.tags
        start, count = tags["StripOffsets"].valueoffset, tags["StripByteCounts"].valueoffset
    content = patched(base, start, len(base).to_bytes(4, "little"))
    return patched(content, count, len(packed).to_bytes(4, "little")) + packed


@pytest.mark.parametrize("name", BOMBS)
def test_packed_data_is_unpacked_no_further_than_its_header_says(tmp_path: Path, name: str) -> None:
    suffix, make = BOMBS[name]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(make())
    peak, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError, match="holds more than its header says"):
        read_volume(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 32 * 1024  # kB
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_padding_after_the_voxels_counts_for_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        path.write_bytes(nrrd_bytes(bright()) + gzip.compress(bytes(512)))
    else:
        path.write_bytes(gzip.compress(NIFTI + bytes(512)) if suffix == ".nii.gz" else NIFTI + bytes(512))
    np.testing.assert_array_equal(read_volume(path).data[0], bright())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Data_File": "other.raw"}, "second file"),
        ({"content": "a\rdata file: other.raw"}, "no end that can be read"),
        ({"sizes": "many"}, "cannot be read"),
        ({"type": "block"}, "cannot be read"),
        ({"encoding": "gzip", "byte_skip": "9999999999"}, "skipping"),
        ({"SIZES": "9000 9000 9000"}, "smaller than its header"),
    ],
)
def test_a_nrrd_header_hides_nothing(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(nrrd_bytes(bright(), **fields))
    with pytest.raises(DataError, match=message):
        read_volume(tmp_path / "a.nrrd")


def test_strips_that_overlap_promise_no_more_than_the_file_holds(tmp_path: Path) -> None:
    rows = np.zeros((4000, 50), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", rows, rowsperstrip=1, metadata=None)
    content = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        offsets = file.pages.first.tags["StripOffsets"].valueoffset
        first = file.pages.first.dataoffsets[0]
    content = patched(content, offsets, first.to_bytes(4, "little") * 4000)[: first + 50]
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match="smaller than its header"):
        read_volume(tmp_path / "a.tif")


def test_what_does_not_fit_into_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nii").write_bytes(NIFTI)

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("seg3d.io.nifti.np.empty", full)
    with pytest.raises(DataError, match="do not fit into memory"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_many_damaged_headers_never_crash_hang_or_allocate(tmp_path: Path, name: str) -> None:
    suffix, content, header = BASES[name]
    fuzz(partial(check_mutant, tmp_path, suffix), content, header, 1500)
