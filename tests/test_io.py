"""Readers and writers: geometry as SimpleITK sees it, and every broken file a clear error."""

from __future__ import annotations

import gzip
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from full_disk import room_for
from scans import ORIENTATIONS, oblique_affine, oriented_affine, write_nifti

from seg3d.errors import DataError
from seg3d.io import image_stem, images_in, read_header, read_label_map, read_volume, write_like

SHAPE = (7, 9, 11)
AFFINES = [(codes, oriented_affine(codes, SHAPE, (1.0, 1.5, 2.25))) for codes in ORIENTATIONS]
AFFINES.append(("oblique", oblique_affine()))


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def sitk_world(image: sitk.Image, index: tuple[int, int, int]) -> np.ndarray:
    return np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)  # LPS to RAS


@pytest.mark.parametrize(("codes", "affine"), AFFINES, ids=[codes for codes, _ in AFFINES])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_voxels_and_their_places_are_those_that_simpleitk_reads(
    tmp_path: Path, codes: str, affine: np.ndarray, suffix: str
) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", voxels(), affine)
    if suffix == ".nrrd":
        sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "scan.nrrd"))
        path = tmp_path / "scan.nrrd"
    volume, reference = read_volume(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.data[0], sitk.GetArrayFromImage(reference).transpose(2, 1, 0))
    for index in ((0, 0, 0), (6, 0, 0), (0, 8, 0), (0, 0, 10), (3, 4, 5)):
        ours = (volume.grid.affine @ (*index, 1))[:3]
        np.testing.assert_allclose(ours, sitk_world(reference, index), atol=1e-3)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 0), (1, 1), (4, 3)])
def test_an_answer_has_the_codes_affine_and_units_of_its_scan(tmp_path: Path, sform: int, qform: int) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", voxels(), oblique_affine(), sform=sform, qform=qform)
    label = (voxels() > 0).astype(np.int64)
    write_like(tmp_path / "answer.nii.gz", label, read_header(path))
    scan, answer = nib.load(path), nib.load(tmp_path / "answer.nii.gz")
    assert answer.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(answer.dataobj), label)
    for name in ("sform_code", "qform_code", "xyzt_units", "pixdim", "quatern_b", "srow_x", "srow_z", "dim"):
        np.testing.assert_array_equal(answer.header[name], scan.header[name], err_msg=name)


def test_a_qform_whose_handedness_is_left_at_0_is_a_right_handed_one(tmp_path: Path) -> None:
    """The standard says so; other writers leave ``pixdim[0]`` at 0."""
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None)
    image.header.set_qform(oblique_affine(), 1)
    content = bytearray(image.to_bytes())
    content[76:80] = struct.pack("<f", 0)
    path.write_bytes(content)
    np.testing.assert_allclose(read_header(path).grid.affine, oblique_affine(), atol=1e-4)
    write_like(tmp_path / "b.nii", np.zeros((3, 4, 5), np.uint8), read_header(path))
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").affine, oblique_affine(), atol=1e-4)


def test_the_same_answer_has_the_same_bytes(tmp_path: Path) -> None:
    header = read_header(write_nifti(tmp_path / "scan.nii.gz", voxels()))
    for name in ("a", "b"):
        write_like(tmp_path / f"{name}.nii.gz", voxels() > 0, header)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_an_nrrd_answer_lies_where_its_scan_lies(tmp_path: Path) -> None:
    sitk.WriteImage(
        sitk.ReadImage(str(write_nifti(tmp_path / "s.nii", voxels(), oblique_affine()))), tmp_path / "s.nrrd"
    )
    write_like(tmp_path / "a.nrrd", voxels() > 0, read_header(tmp_path / "s.nrrd"))
    scan, answer = sitk.ReadImage(tmp_path / "s.nrrd"), sitk.ReadImage(tmp_path / "a.nrrd")
    assert answer.GetDirection() == pytest.approx(scan.GetDirection())
    assert answer.GetOrigin() == pytest.approx(scan.GetOrigin())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(answer).T, voxels() > 0)


def test_an_nrrd_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """SimpleITK would end the process."""
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), str(path))
    latin = path.rename(tmp_path / os.fsdecode(b"Sch\xe4del.nrrd"))
    with pytest.raises(DataError, match=r"Sch\\xe4del.nrrd: the path is not UTF-8.*Rename it"):
        read_header(latin)
    header = read_header(latin.rename(path))
    with pytest.raises(DataError, match="the path is not UTF-8"):
        write_like(latin, np.zeros((6, 5, 4), np.uint8), header)
    assert [file.name for file in tmp_path.iterdir()] == ["a.nrrd"]


def test_hidden_files_of_a_folder_are_no_images(tmp_path: Path) -> None:
    """A Mac leaves one beside each file, and a process that was killed its draft."""
    for name in ("b.nii.gz", "a.NRRD", "c.txt", "._b.nii.gz", ".tmp-1-2-b.nii.gz"):
        (tmp_path / name).touch()
    assert [path.name for path in images_in(tmp_path)] == ["a.NRRD", "b.nii.gz"]


def test_labels_above_255_are_written_as_uint16(tmp_path: Path) -> None:
    header = read_header(write_nifti(tmp_path / "scan.nii.gz", voxels()))
    write_like(tmp_path / "answer.nii.gz", np.full(SHAPE, 300), header)
    assert nib.load(tmp_path / "answer.nii.gz").get_data_dtype() == np.uint16


def test_scaled_voxels_are_scaled(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, tmp_path / "scan.nii.gz")
    expected = np.asanyarray(nib.load(tmp_path / "scan.nii.gz").dataobj)
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii.gz").data[0], expected, rtol=1e-6)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii").data[0], voxels())


def test_nifti_2_is_read_and_answered_in_nifti_2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(voxels(), oblique_affine()), tmp_path / "scan.nii.gz")
    write_like(tmp_path / "answer.nii.gz", voxels() > 0, read_header(tmp_path / "scan.nii.gz"))
    answer = nib.load(tmp_path / "answer.nii.gz")
    assert isinstance(answer, nib.Nifti2Image)
    np.testing.assert_allclose(answer.affine, oblique_affine(), atol=1e-6)


def test_the_fourth_axis_is_the_channels(tmp_path: Path) -> None:
    data = np.stack([voxels(0), voxels(1)], axis=-1)
    volume = read_volume(write_nifti(tmp_path / "scan.nii.gz", data))
    assert volume.data.shape == (2, *SHAPE)
    np.testing.assert_array_equal(volume.data[1], voxels(1))


def test_nibabel_extensions_which_may_name_the_patient_are_not_copied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "scan.nii")
    write_like(tmp_path / "answer.nii", voxels() > 0, read_header(tmp_path / "scan.nii"))
    assert b"Jane" not in (tmp_path / "answer.nii").read_bytes()
    np.testing.assert_array_equal(read_volume(tmp_path / "answer.nii").data[0], voxels() > 0)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("a.b.nii", "a.b"), ("A.NRRD", "A"), ("x.tar.gz", "x.tar"), ("plain", "plain")],
)
def test_the_stem_is_the_name_without_its_format(name: str, stem: str) -> None:
    assert image_stem(Path(name)) == stem


def patch_header(path: Path, offset: int, fmt: str, *values: float) -> Path:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(fmt, raw, offset, *values)
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p.with_name("absent.nii.gz"), "missing"),
    "empty": (lambda p: (p.write_bytes(b""), p)[1], "not a NIfTI|truncated"),
    "text": (lambda p: (p.write_bytes(gzip.compress(b"hello " * 100)), p)[1], "not a NIfTI"),
    "not gzip": (lambda p: (p.write_bytes(b"hello " * 100), p)[1], "truncated or damaged"),
    "truncated": (truncated, "truncated"),
    "too short": (lambda p: patch_header(p, 42, "<hhh", 70, 9, 11), "truncated|smaller than its header"),
    "huge": (lambda p: patch_header(p, 42, "<hhh", 30000, 30000, 30000), "smaller than its header"),
    "zero axis": (lambda p: patch_header(p, 42, "<h", 0), "sizes"),
    "negative axis": (lambda p: patch_header(p, 42, "<h", -7), "sizes"),
    "zero spacing": (lambda p: patch_header(p, 80, "<f", 0.0), "spacing is not positive"),
    "negative spacing": (lambda p: patch_header(p, 80, "<f", -1.0), "spacing is not positive"),
    "nan spacing": (lambda p: patch_header(p, 80, "<f", float("nan")), "spacing is not positive"),
    "singular affine": (lambda p: patch_header(p, 280, "<4f", 0, 0, 0, 0), "singular"),
    "nan affine": (lambda p: patch_header(p, 280, "<f", float("nan")), "not finite"),
    "unknown type": (lambda p: patch_header(p, 70, "<h", 9999), "voxel type"),
    "complex": (lambda p: patch_header(p, 70, "<hh", 32, 64), "voxel type|smaller"),
    "other format": (lambda p: p.rename(p.with_name("scan.dcm")), "unknown image format"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_a_clear_error(tmp_path: Path, fault: str) -> None:
    damage, message = BROKEN[fault]
    path = damage(write_nifti(tmp_path / "scan.nii.gz", voxels()))
    with pytest.raises(DataError, match=message) as error:
        read_volume(path)
    assert str(path) in str(error.value)


def test_a_changed_byte_is_noticed_by_the_checksum(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", voxels())
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1  # the CRC itself
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match="damaged"):
        read_volume(path)


def test_a_header_larger_than_the_file_allocates_nothing(tmp_path: Path) -> None:
    path = patch_header(write_nifti(tmp_path / "scan.nii.gz", voxels()), 42, "<hhh", 20000, 20000, 20000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="smaller than its header"):
        read_volume(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw.replace(b"sizes: 7 9 11", b"sizes: 7000 9000 11000"), "smaller than its header"),
        (lambda raw: raw[: len(raw) - 60], "truncated|damaged"),
        (lambda raw: b"NOPE" + raw[4:], "not a NRRD"),
        (lambda raw: b"", "not a NRRD"),
        (lambda raw: raw.replace(b"encoding: gzip", b"encoding: gzip\ndata file: x.raw"), "second file"),
        (lambda raw: raw.replace(b"type: short", b"type: blocky"), "cannot be read"),
    ],
)
def test_a_broken_nrrd_is_a_clear_error(tmp_path: Path, edit: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "scan.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(voxels().T), str(path), useCompression=True)
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        read_volume(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.full(SHAPE, 0.5, np.float32), "not whole numbers"),
        (np.full(SHAPE, np.nan, np.float32), "not whole numbers"),
        (np.full(SHAPE, -1, np.int16), "out of range"),
        (np.full(SHAPE, 70000, np.int32), "out of range"),
        (np.zeros((*SHAPE, 2), np.uint8), "one channel"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path: Path, data: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_label_map(write_nifti(tmp_path / "label.nii.gz", data))


def test_whole_numbers_stored_as_floats_are_labels(tmp_path: Path) -> None:
    label = read_label_map(write_nifti(tmp_path / "label.nii.gz", np.full(SHAPE, 7.0, np.float32)))
    assert label.data.dtype == np.uint8
    assert (label.data == 7).all()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    header = read_header(write_nifti(tmp_path / "in" / "scan.nii.gz", voxels()))
    with pytest.raises(DataError, match="format of its scan"):
        write_like(tmp_path / "out" / "answer.nrrd", voxels() > 0, header)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", [1, 5, 100, 10**9])
@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".nii"])
def test_a_full_disk_leaves_no_torn_answer(tmp_path: Path, suffix: str, missing: int) -> None:
    """Of NRRD the last bytes are written when the file is closed, which ITK does not look at."""
    scan, answer = tmp_path / f"scan{suffix}", tmp_path / f"answer{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(voxels().T), str(scan))
    write_like(answer, voxels() > 0, read_header(scan))
    whole = answer.read_bytes()
    with pytest.raises((DataError, OSError)), room_for(max(0, len(whole) - missing)):
        write_like(answer, voxels() > 0, read_header(scan))
    assert answer.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == [answer.name, scan.name]


@pytest.mark.real_data
def test_real_files_are_read_as_simpleitk_reads_them(real_data: Callable[[str], Path]) -> None:
    files = sorted(real_data("formats").rglob("*.nrrd"))[:2] + sorted(real_data("formats").rglob("*.nii.gz"))[:2]
    files.append(real_data("sarcoma_pet_ct_mr") / "STS_001" / "PET_image.nii.gz")
    for path in files:
        volume, reference = read_volume(path), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(volume.data[0], sitk.GetArrayFromImage(reference).transpose(2, 1, 0))
        last = tuple(n - 1 for n in volume.grid.shape)
        np.testing.assert_allclose((volume.grid.affine @ (*last, 1))[:3], sitk_world(reference, last), atol=0.01)
