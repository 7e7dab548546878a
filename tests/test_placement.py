"""Where a scan lies: grids, units of length, orientations that disagree, axes that are not at right angles."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scans import oblique_affine, write_nifti

from seg3d.cases import find_faults, read_dataset
from seg3d.errors import DataError, Fault
from seg3d.io import read_header, write_like
from seg3d.volume import Grid

SHAPE = (4, 5, 6)


def grid(spacing: float, shift: float = 0.0) -> Grid:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[0, 3] = shift
    return Grid(SHAPE, affine)


def sheared() -> np.ndarray:
    affine = oblique_affine()
    affine[:3, 2] += np.tan(np.deg2rad(15)) * affine[:3, 1] / 1.4 * 2.5  # a gantry tilt of 15 degrees
    return affine


@pytest.mark.parametrize(
    ("spacing", "shift", "same"),
    [(1.0, 0.009, True), (1.0, 0.011, False), (0.002, 0.002, False), (0.002, 0.00019, True)],
)
def test_grids_are_the_same_up_to_a_tenth_of_a_voxel_however_small(spacing: float, shift: float, same: bool) -> None:
    assert grid(spacing).same_as(grid(spacing, shift)) is same
    assert grid(spacing).same_as(grid(spacing, shift), 1.0)


def test_the_finer_of_two_grids_says_what_is_near() -> None:
    coarse, fine = (Grid((1, 1, 1), np.diag([mm, mm, mm, 1.0])) for mm in (1.0, 0.001))
    moved = Grid((1, 1, 1), coarse.affine + np.array([[0, 0, 0, 0.0005], *[[0] * 4] * 3]))
    assert coarse.same_as(moved) is fine.same_as(coarse) is True
    assert not fine.same_as(moved)
    assert not moved.same_as(fine)


def test_distances_of_grids_of_several_shapes_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="one shape"):
        grid(1.0).distance_mm(Grid((1, 1, 1), np.eye(4)))
    assert not grid(1.0).same_as(Grid((1, 1, 1), np.eye(4)))


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        (oblique_affine(), False),
        (oblique_affine().astype(np.float32), False),
        (np.diag([-1.0, 2.0, -0.001, 1.0]), False),
        (sheared(), True),
    ],
)
def test_axes_that_are_not_at_right_angles_are_told(affine: np.ndarray, expected: bool) -> None:
    assert Grid(SHAPE, affine).is_sheared is expected


def write_in_unit(path: Path, unit: str, per_mm: float, sform: int = 1, qform: int = 1) -> Path:
    """A scan of oblique axes whose header gives lengths in another unit."""
    affine = oblique_affine()
    affine[:3] *= per_mm
    write_nifti(path, np.arange(120, dtype=np.int16).reshape(SHAPE), affine, sform=sform, qform=qform)
    image = nib.load(path)
    image.header.set_xyzt_units(unit, "sec")
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    nib.save(image, path)
    return path


UNITS = [("mm", 1.0), ("unknown", 1.0), ("micron", 1e3), ("meter", 1e-3)]


@pytest.mark.parametrize(("unit", "per_mm"), UNITS)
def test_lengths_of_any_unit_are_read_in_mm_as_simpleitk_reads_them(tmp_path: Path, unit: str, per_mm: float) -> None:
    path = write_in_unit(tmp_path / "scan.nii.gz", unit, per_mm)
    found, reference = read_header(path).grid, sitk.ReadImage(str(path))
    np.testing.assert_allclose(found.affine, oblique_affine(), atol=1e-4)
    np.testing.assert_allclose(found.spacing_mm, reference.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(found.affine[:3, 3], np.array(reference.GetOrigin()) * (-1, -1, 1), rtol=1e-5)
    assert found.voxel_volume_ml == pytest.approx(0.9 * 1.4 * 2.5 / 1000)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1), (0, 0)])
@pytest.mark.parametrize(("unit", "per_mm"), UNITS)
def test_an_answer_lies_on_the_grid_of_its_scan_in_the_scans_unit(
    tmp_path: Path, unit: str, per_mm: float, sform: int, qform: int
) -> None:
    scan = read_header(write_in_unit(tmp_path / "scan.nii.gz", unit, per_mm, sform, qform))
    write_like(tmp_path / "answer.nii.gz", np.ones(SHAPE, np.uint8), scan)
    answer = read_header(tmp_path / "answer.nii.gz")
    np.testing.assert_array_equal(answer.grid.affine, scan.grid.affine)
    for name in ("sform_code", "qform_code", "xyzt_units", "pixdim", "quatern_b", "qoffset_x", "srow_x", "srow_z"):
        np.testing.assert_array_equal(answer.native[name], scan.native[name], err_msg=name)


def write_nrrd(path: Path, *fields: str) -> Path:
    lines = ["NRRD0005", "type: short", "dimension: 3", "sizes: 4 5 6", "encoding: raw", "endian: little", *fields]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join([*lines, "", ""]).encode() + np.ones(120, "<i2").tobytes())
    return path


AXES = ("space directions: (2,0,0) (0,3,0) (0,0,4)", "space origin: (10,20,30)")
UNPLACED = {
    "nothing": (),
    "spacings": ("spacings: 2 3 4",),
    "a space without a name": ("space dimension: 3", *AXES),
    "a space that is not the patient's": ("space: scanner-xyz", *AXES),
    "no directions": ("space: left-posterior-superior",),
}


@pytest.mark.parametrize("fields", UNPLACED.values(), ids=UNPLACED)
def test_nrrd_that_does_not_say_how_the_patient_lies_is_not_placed(tmp_path: Path, fields: tuple[str, ...]) -> None:
    assert not read_header(write_nrrd(tmp_path / "scan.nrrd", *fields)).placement.placed


@pytest.mark.parametrize("space", ["left-posterior-superior", "RAS", "left-anterior-superior"])
def test_nrrd_with_a_named_space_and_directions_is_placed(tmp_path: Path, space: str) -> None:
    path = write_nrrd(tmp_path / "scan.nrrd", f"space: {space}", 'space units: "mm" "mm" "mm"', *AXES)
    assert read_header(path).placement.placed


@pytest.mark.parametrize(
    "fields",
    [
        ("space: RAS", 'space units: "um" "um" "um"', *AXES),
        ("space: RAS", 'space units: "mm" "mm" "m"', *AXES),
        ("spacings: 2 3 4", 'units: "micron" "micron" "micron"'),
    ],
)
def test_nrrd_in_another_unit_than_mm_is_refused(tmp_path: Path, fields: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="unit of lengths"):
        read_header(write_nrrd(tmp_path / "scan.nrrd", *fields))


def test_the_unit_of_an_axis_that_is_no_space_does_not_matter(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "scan.nrrd", "spacings: 2 3 nan", 'units: "mm" "" "s"')
    assert read_header(path).grid.shape == SHAPE


def notes_of(path: Path) -> list[Fault]:
    """What ``check`` says of a case with this image, which is its label map, too."""
    table = path.parent / "t.csv"
    table.write_text(f"case,image,label\na,{path.name},{path.name}\n")
    return [fault for fault in find_faults(read_dataset(table)) if fault.kind != "undeclared_label"]


def test_scans_that_lie_in_the_patient_in_mm_have_no_notes(tmp_path: Path) -> None:
    ones = np.ones((300, 300, 2), np.uint8)
    for sform, qform in ((1, 1), (1, 0), (0, 1)):
        assert notes_of(write_nifti(tmp_path / "scan.nii.gz", ones, oblique_affine(), sform=sform, qform=qform)) == []
    assert notes_of(write_nrrd(tmp_path / "scan.nrrd", "space: RAS", *AXES)) == []


def test_what_is_to_be_known_about_a_scans_place_is_a_note(tmp_path: Path) -> None:
    ones = np.ones(SHAPE, np.uint8)
    write_in_unit(tmp_path / "unit.nii.gz", "micron", 1e3)
    write_nifti(tmp_path / "no_orientation.nii.gz", ones, np.eye(4), sform=0, qform=0)
    write_nifti(tmp_path / "sheared.nii.gz", ones, sheared(), qform=0)
    write_nrrd(tmp_path / "no_orientation.nrrd")
    for path in sorted(tmp_path.iterdir()):
        (note,) = notes_of(path)
        assert (note.kind, note.note, note.where) == (path.name.split(".")[0], True, f"a {path}")
    assert "voxels of 0.9 x 1.4 x 2.5 mm" in notes_of(tmp_path / "unit.nii.gz")[0].got


DISAGREEING = {
    "spacing": (np.diag([2.0, 2.0, 2.0, 1.0]), "voxels of 1 x 1 x 3 mm by the sform, 2 x 2 x 2 mm by the qform"),
    "place": (np.array([[1, 0, 0, 0.6], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]]), "up to 0.6 mm apart"),
    "side": (np.diag([-1.0, 1.0, 3.0, 1.0]), "up to 6 mm apart"),
}


@pytest.mark.parametrize("kind", DISAGREEING)
def test_two_orientations_that_differ_are_told(tmp_path: Path, kind: str) -> None:
    qform, told = DISAGREEING[kind]
    image = nib.Nifti1Image(np.ones(SHAPE, np.uint8), None)
    image.set_sform(np.diag([1.0, 1.0, 3.0, 1.0]), 2)
    image.set_qform(qform, 1)
    nib.save(image, tmp_path / "scan.nii.gz")
    (note,) = notes_of(tmp_path / "scan.nii.gz")
    assert (note.kind, note.note) == ("two_orientations", True)
    assert told in note.got
    np.testing.assert_array_equal(read_header(tmp_path / "scan.nii.gz").grid.spacing_mm, (1, 1, 3))


def test_a_qform_that_cannot_be_read_is_told_beside_a_sform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))
    image.set_qform(np.eye(4), 1)
    image.header["quatern_b"] = 2.0
    nib.save(image, tmp_path / "scan.nii")
    (note,) = notes_of(tmp_path / "scan.nii")
    assert (note.kind, note.got) == ("two_orientations", "the qform cannot be read")
