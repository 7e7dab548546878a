"""``seg3d convert``: DICOM series and MetaImage files, beside what SimpleITK's own readers make of them."""

from __future__ import annotations

import gzip
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import COLUMN, ROW, values, write_series
from typer.testing import CliRunner

import seg3d
from seg3d.cli import app
from seg3d.errors import DataError, FaultsError
from seg3d.io import dicom, read_header, read_label_map, read_volume


def by_itk(folder: Path) -> tuple[np.ndarray[Any, Any], sitk.Image]:
    """What SimpleITK's reader of series makes of a folder."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), image


def same_place(image: sitk.Image, affine: np.ndarray[Any, Any], index: Sequence[int]) -> bool:
    x, y, z = image.TransformIndexToPhysicalPoint([int(i) for i in index])
    return np.allclose(affine @ [*index, 1], [-x, -y, z, 1], atol=1e-4)


def convert(*inputs: Path, output: Path) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    return [path.name for path in seg3d.convert(inputs, output, tell=lines.append)], lines


def test_a_series_lies_where_itk_puts_it(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", values())
    names, lines = convert(tmp_path / "scan", output=tmp_path / "out")
    assert names == ["scan.nii.gz"]
    assert lines == ["scan.nii.gz: CT, 7 x 9 x 6 voxels of 0.7 x 0.9 x 2.5 mm"]
    volume, (expected, image) = read_volume(tmp_path / "out" / "scan.nii.gz"), by_itk(tmp_path / "scan")
    np.testing.assert_array_equal(volume.data[0], expected)
    assert volume.data.dtype == np.int16
    np.testing.assert_array_equal(np.sort(volume.data[0].ravel()), np.sort(values().ravel()))
    assert all(same_place(image, volume.grid.affine, index) for index in ((0, 0, 0), (6, 0, 0), (0, 8, 0), (3, 4, 5)))
    header = read_header(tmp_path / "out" / "scan.nii.gz")
    assert header.placement.placed
    assert not header.placement.disagreement


def test_the_same_series_gives_the_same_bytes_and_nothing_of_the_patient(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", values())
    for name in ("one", "two"):
        convert(tmp_path / "scan", output=tmp_path / name)
    one, two = ((tmp_path / name / "scan.nii.gz").read_bytes() for name in ("one", "two"))
    assert one == two
    assert b"Doe" not in gzip.decompress(one)
    assert b"4711" not in gzip.decompress(one)


def test_slices_from_head_to_foot_are_turned_round(tmp_path: Path) -> None:
    write_series(tmp_path / "up", values())
    write_series(tmp_path / "down", values()[::-1], step=(0, 0, -2.5), uid="1.2.826.0.1.3680043.2.1125.2")
    convert(tmp_path / "up", tmp_path / "down", output=tmp_path / "out")
    up, down = (read_volume(tmp_path / "out" / f"{name}.nii.gz") for name in ("up", "down"))
    np.testing.assert_array_equal(up.data, down.data)
    assert up.grid.affine[2, 3] == 30
    assert down.grid.affine[2, 3] == 30 - 5 * 2.5


def test_a_tilted_gantry_shears_the_grid_and_is_told(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", values(), step=(0.0, 0.5, 2.5))
    _, lines = convert(tmp_path / "scan", output=tmp_path / "out")
    assert "not at right angles" in lines[0]
    volume = read_volume(tmp_path / "out" / "scan.nii.gz")
    assert volume.grid.is_sheared
    np.testing.assert_allclose(volume.grid.affine[:3, 2], [0, -0.5, 2.5], atol=1e-6)


def test_every_slice_has_its_own_slope(tmp_path: Path) -> None:
    """As in PET; ITK's reader of series takes the type from the first slice and would cut the others' fractions off."""
    stored = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    for k, slope in enumerate((1, 0.5, 0.25, 2)):
        planes = stored.astype(np.int16) if slope == 1 else stored * float(slope)
        stored_as = {"0028|0100": "16", "0028|0101": "16", "0028|0102": "15", "0028|0103": "1"}
        tags = {"0028|1053": str(slope), "0028|1052": "0", "0008|0060": "PT", **stored_as}
        files = write_series(tmp_path / f"part{k}", planes, tags=tags)
        (tmp_path / "scan").mkdir(exist_ok=True)
        files[k].rename(tmp_path / "scan" / f"{k}.dcm")
    written = [sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "scan" / f"{k}.dcm")))[0] for k in range(4)]
    assert {plane.dtype.kind for plane in written} == {"i", "f"}  # else this shows nothing
    convert(tmp_path / "scan", output=tmp_path / "out")
    volume = read_volume(tmp_path / "out" / "scan.nii.gz")
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data[0], np.stack(written).transpose(2, 1, 0))


def test_an_archive_is_searched_to_the_bottom(tmp_path: Path) -> None:
    archive, base = tmp_path / "archive", "1.2.826.0.1.3680043.2.1125"
    write_series(archive / "p1" / "ct", values(), uid=f"{base}.1")
    write_series(archive / "p2" / "all", values((3, 5, 5)), uid=f"{base}.2", number=4)
    write_series(archive / "p2" / "all", values((4, 5, 5)), uid=f"{base}.3", number=11)
    write_series(archive / "p3", values((1, 5, 5)), uid=f"{base}.4", number=1)
    write_series(archive / "p4", values((2, 5, 5)), uid=f"{base}.5", number=1)
    sagittal = [np.array([0.0, 1, 0]), np.array([0.0, 0, -1])]
    other = write_series(tmp_path / "other", values((1, 5, 5)), uid=f"{base}.5", directions=sagittal)
    other[0].rename(archive / "p4" / "sagittal.dcm")
    (archive / "p1" / "ct" / "notes.txt").write_text("no DICOM")
    names, lines = convert(archive, output=tmp_path / "out")
    assert names == ["p1_ct.nii.gz", "p2_all_4.nii.gz", "p2_all_11.nii.gz"]
    left = sorted(line.removeprefix(f"left out: {archive}/") for line in lines if line.startswith("left out"))
    assert left == ["p3, series 1: a single image", "p4, series 1: images in several directions, as of a localiser"]


def test_a_series_in_several_folders_is_refused_and_its_copies_are_not(tmp_path: Path) -> None:
    """Every second slice alone is evenly spaced, too."""
    for name in ("one", "two"):
        write_series(tmp_path / "copies" / name, values())
    assert convert(tmp_path / "copies", output=tmp_path / "out")[0] == ["one.nii.gz", "two.nii.gz"]
    for k, file in enumerate(write_series(tmp_path / "spread" / "0", values())):
        (tmp_path / "spread" / str(k % 2)).mkdir(exist_ok=True)
        file.rename(tmp_path / "spread" / str(k % 2) / file.name)
    with pytest.raises(FaultsError, match="slices of one series lie in several folders"):
        convert(tmp_path / "spread", output=tmp_path / "none")
    folders = [tmp_path / "spread" / name for name in "01"]
    assert convert(*folders, output=tmp_path / "out")[0] == ["0.nii.gz", "1.nii.gz"]


def test_half_a_series_is_no_volume_though_the_other_half_lies_beside_a_broken_file(tmp_path: Path) -> None:
    for k, file in enumerate(write_series(tmp_path / "in" / "0", values())):
        (tmp_path / "in" / str(k % 2)).mkdir(exist_ok=True)
        file.rename(tmp_path / "in" / str(k % 2) / file.name)
    (tmp_path / "in" / "1" / "lost.dcm").touch()
    with pytest.raises(FaultsError, match=r"(?s)DICOM header cannot be read.*slices of one series lie in several"):
        convert(tmp_path / "in", output=tmp_path / "out")
    assert not list(tmp_path.rglob("*.nii*"))


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write_series(tmp_path / "elsewhere", values())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "in")
    metaimage(tmp_path / "elsewhere" / "labels.mha", compressed=False)
    names, _ = convert(tmp_path / "in", output=tmp_path / "out")
    assert names == ["linked_labels.nii.gz", "linked.nii.gz"]


def test_another_volume_is_not_overwritten_and_the_same_one_may_be(tmp_path: Path) -> None:
    for patient in (1, 2):
        write_series(tmp_path / f"p{patient}" / "CT", values() + patient)
    for _ in range(2):
        assert convert(tmp_path / "p1", output=tmp_path / "out")[0] == ["CT.nii.gz"]
    with pytest.raises(FaultsError, match="another volume has this name already"):
        convert(tmp_path / "p2", output=tmp_path / "out")
    np.testing.assert_array_equal(read_volume(tmp_path / "out" / "CT.nii.gz").data[0], values().T + 1)


def test_slices_that_lost_the_uid_of_their_series_are_one(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", values())
    write_series(tmp_path / "in" / "b", values(), tags={"0020|000e": ""})
    assert convert(tmp_path / "in", output=tmp_path / "out")[0] == ["a.nii.gz", "b.nii.gz"]


def edited(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert len(old) == len(new)
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))


def test_values_shown_with_the_lowest_white_are_not_turned_round(tmp_path: Path) -> None:
    for file in write_series(tmp_path / "in", values()):
        edited(file, b"MONOCHROME2 ", b"MONOCHROME1 ")
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(next((tmp_path / "in").iterdir()))))
    assert not np.isin(stored, values()).all()  # else this shows nothing
    convert(tmp_path / "in", output=tmp_path / "out")
    np.testing.assert_array_equal(read_volume(tmp_path / "out" / "in.nii.gz").data[0], values().T)


@pytest.mark.parametrize(("colours", "why"), [("MONOCHROME2", "no place in the patient"), ("PALETTE COLOR", "colours")])
def test_colours_by_a_palette_are_left_out(colours: str, why: str) -> None:
    """ITK makes three values of each."""
    fields = {"0028|0010": "5", "0028|0002": "1", "0028|0004": colours}
    header = Mock(HasMetaDataKey=fields.__contains__, GetMetaData=fields.__getitem__)
    assert dicom._why_no_slice(header) == why


def test_packed_slices_keep_their_values_and_a_packing_that_is_not_known_is_told(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in", values(), packed=True)
    convert(tmp_path / "in", output=tmp_path / "out")
    np.testing.assert_array_equal(read_volume(tmp_path / "out" / "in.nii.gz").data[0], values().T)
    edited(files[3], b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.94")
    with pytest.raises(FaultsError, match=r"pixels cannot be read \(got transfer syntax 1.2.840.10008.1.2.4.94"):
        convert(tmp_path / "in", output=tmp_path / "other")


def test_unsigned_values_of_32_bits_stay_as_they_are() -> None:
    assert dicom._type_of(np.array([3_000_000_000], np.uint32)) is np.uint32
    assert dicom._type_of(np.array([-40_000], np.int64)) is np.int32
    assert dicom._type_of(np.array([40_000], np.uint16)) is np.int32


def test_two_patients_of_one_series_number_are_not_mixed(tmp_path: Path) -> None:
    """Some ways of anonymising give everybody the same UID."""
    write_series(tmp_path / "all", values((2, 5, 5)))
    files = write_series(tmp_path / "more", values((2, 5, 5)), step=(0, 0, 5), tags={"0010|0020": "P-2"})
    for file in files:
        file.rename(tmp_path / "all" / f"b{file.name}")
    write_series(tmp_path / "all" / "another", values((2, 5, 5)), uid="1.2.826.0.1.3680043.2.1125.5")
    with pytest.raises(FaultsError, match="several volumes would have the same name"):
        convert(tmp_path / "all", output=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["another.nii.gz"]


def spoil_missing(files: list[Path]) -> None:
    files[3].unlink()


def spoil_double(files: list[Path]) -> None:
    (files[0].parent / "copy.dcm").write_bytes(files[2].read_bytes())


def spoil_truncated(files: list[Path]) -> None:
    files[3].write_bytes(files[3].read_bytes()[:-20])


def spoil_header(files: list[Path]) -> None:
    files[3].write_bytes(files[3].read_bytes()[:160])


def spoil_empty(files: list[Path]) -> None:
    files[5].write_bytes(b"")  # the last one: what is left is evenly spaced


def spoil_empty_without_suffix(files: list[Path]) -> None:
    (files[0].parent / "IM0007").touch()


def spoil_link(files: list[Path]) -> None:
    (files[0].parent / "linked").symlink_to(files[0].parent / "gone")


def spoil_directions(files: list[Path]) -> None:
    for file in files:
        edited(file, b".8\\.6\\0\\-.6\\.8\\0", b"16\\12\\0\\-.6\\.8\\0")


def spoil_line(files: list[Path]) -> None:
    edited(files[3], b"-20\\10\\37.5", b"-22\\10\\37.5")


def spoil_size(files: list[Path]) -> None:
    other = write_series(files[0].parents[2] / "other", values((6, 4, 4)))
    files[5].write_bytes(other[5].read_bytes())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_missing, "not evenly spaced.*got 5 mm between .*expected 2.5 mm"),
        (spoil_double, "several slices are at the same place"),
        (spoil_truncated, "truncated or damaged|header cannot be read"),
        (spoil_header, "cannot be read|not evenly spaced|at the same place"),
        (spoil_size, "slices of one series differ in size"),
        (spoil_directions, r"directions of rows and columns cannot be true, nor 5 more \(got 16"),
        (spoil_line, "shifted against each other in their plane.*got 2 mm"),
    ],
)
def test_a_series_that_cannot_be_trusted_is_refused_and_the_others_go_on(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    write_series(tmp_path / "in" / "good", values((3, 5, 5)), uid="1.2.826.0.1.3680043.2.1125.2")
    spoil(write_series(tmp_path / "in" / "bad", values()))
    with pytest.raises(FaultsError, match=message):
        convert(tmp_path / "in", output=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_empty, "DICOM header cannot be read"),
        (spoil_empty_without_suffix, "IM0007: the DICOM header cannot be read"),
        (spoil_link, "linked: the file cannot be opened"),
    ],
)
def test_a_file_that_was_lost_is_told_though_the_rest_is_even(tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(write_series(tmp_path / "in", values()))
    (tmp_path / "in" / "._1.dcm").write_bytes(b"what a Mac leaves beside a file")
    with pytest.raises(FaultsError, match=message):
        convert(tmp_path / "in", output=tmp_path / "out")


def other_file(kind: str) -> bytes:
    """The beginning of a DICOM file of some kind, with nothing after it."""
    uid = kind.encode() + b"\0" * (len(kind) % 2)
    return bytes(128) + b"DICM" + b"\x02\x00\x02\x00UI" + len(uid).to_bytes(2, "little") + uid


def test_reports_and_plans_are_left_out_and_told_and_a_broken_slice_is_told(tmp_path: Path) -> None:
    write_series(tmp_path / "in", values())
    (tmp_path / "in" / "plan.dcm").write_bytes(other_file("1.2.840.10008.5.1.4.1.1.481.5"))
    (tmp_path / "in" / "DICOMDIR").write_bytes(other_file("1.2.840.10008.1.3.10"))
    names, lines = convert(tmp_path / "in", output=tmp_path / "out")
    assert names == ["in.nii.gz"]
    (line,) = [line for line in lines if line.startswith("left out")]
    assert line.endswith(
        "/in, series without a number: no image that can be read, of class 1.2.840.10008.5.1.4.1.1.481.5"
    )
    for name in ("a.dcm", "b.dcm"):  # as the last slices of the series would be
        (tmp_path / "in" / name).write_bytes(other_file("1.2.840.10008.5.1.4.1.1.2"))
    with pytest.raises(FaultsError, match=r"a.dcm: the DICOM header cannot be read, nor 1 more"):
        convert(tmp_path / "in", output=tmp_path / "later")
    assert not list(tmp_path.glob("later/*"))


def test_a_float_is_not_exactly_a_tenth(tmp_path: Path) -> None:
    """0.6 and 0.7 mm, as the positions of slices 0.625 mm apart are rounded, may differ by more than 0.1."""
    folder, first = tmp_path / "scan", 30.0
    for k in range(8):
        place = round(-312.7 + 0.625 * k, 1) - first
        file = write_series(tmp_path / f"part{k}", values((8, 5, 5)), step=(0, 0, place / max(k, 1)))[k]
        folder.mkdir(exist_ok=True)
        file.rename(folder / f"{k}.dcm") if k else None
    assert convert(folder, output=tmp_path / "out")[0] == ["scan.nii.gz"]


def test_rounded_positions_are_even_enough(tmp_path: Path) -> None:
    files = [
        write_series(tmp_path / f"part{k}", values((8, 5, 5)), step=(0, 0, round(0.66 * k, 1) / max(k, 1)))[k]
        for k in range(8)
    ]
    (tmp_path / "scan").mkdir()
    for k, file in enumerate(files):
        file.rename(tmp_path / "scan" / f"{k}.dcm")
    names, _ = convert(tmp_path / "scan", output=tmp_path / "out")
    assert names == ["scan.nii.gz"]
    spacing = read_header(tmp_path / "out" / "scan.nii.gz").grid.spacing_mm[2]
    assert math.isclose(spacing, 4.6 / 7, rel_tol=1e-5)


def metaimage(path: Path, *, compressed: bool, kind: type = np.int16) -> np.ndarray[Any, Any]:
    data = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(kind)
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((1, 2, 3))
    image.SetOrigin((5, 6, 7))
    image.SetDirection((*ROW[:1], COLUMN[0], 0, ROW[1], COLUMN[1], 0, 0, 0, 1))
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return data


@pytest.mark.parametrize("name", ["scan.mha", "scan.mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_metaimage_lies_where_itk_puts_it(tmp_path: Path, name: str, compressed: bool) -> None:
    data = metaimage(tmp_path / name, compressed=compressed, kind=np.int64)
    convert(tmp_path / name, output=tmp_path / "out")
    volume, image = read_volume(tmp_path / "out" / "scan.nii.gz"), sitk.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(volume.data[0], data.transpose(2, 1, 0))
    assert all(same_place(image, volume.grid.affine, index) for index in ((0, 0, 0), (6, 0, 0), (0, 5, 0), (3, 4, 2)))
    assert read_label_map(tmp_path / "out" / "scan.nii.gz").data.dtype == np.uint8


@pytest.mark.parametrize("name", ["scan.mha", "scan.mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("lost", [1, 40])
def test_a_truncated_metaimage_is_refused(tmp_path: Path, name: str, compressed: bool, lost: int) -> None:
    metaimage(tmp_path / name, compressed=compressed)
    (data,) = [path for path in tmp_path.iterdir() if path.suffix in (".raw", ".zraw")] or [tmp_path / name]
    data.write_bytes(data.read_bytes()[:-lost])
    with pytest.raises(FaultsError, match=r"smaller than its header says|truncated or damaged"):
        convert(tmp_path / name, output=tmp_path / "out")
    assert not list(tmp_path.rglob("*.nii*"))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (b"ElementDataFile = /etc/passwd", "files that cannot be read"),
        (b"ElementDataFile = ../scan.raw", "files that cannot be read"),
        (b"ElementDataFile = LIST", "files that cannot be read"),
        (b"ElementDataFile = gone.raw", "the file with the voxels is missing"),
        (b"HeaderSize = -1\nElementDataFile = LOCAL", "the header cannot be read"),
        (b"DistanceUnits = um\nElementDataFile = LOCAL", "DistanceUnits is not minded"),
        (b"ElementNumberOfChannels = 2\nElementDataFile = LOCAL", "smaller than its header says|one channel"),
        (b"Other = LOCAL", "not a MetaImage"),
        (b"elementByteOrderMSB = True\nElementDataFile = LOCAL", "spelt in another way.*expected ElementByteOrderMSB"),
        (b"Position = 5,5 6 7\nElementDataFile = LOCAL", "Position cannot be read.*expected 3 numbers"),
        (b"DistanceUnits : um\nElementDataFile = LOCAL", "a line of the header is no field"),
        (b"DimSize = 7 6 5\nElementDataFile = LOCAL", "a field is given twice"),
        (b"compressedDataSize = 5\nElementDataFile = LOCAL", "spelt in another way"),
    ],
)
def test_a_metaimage_field_that_cannot_be_used_is_told(tmp_path: Path, field: bytes, message: str) -> None:
    metaimage(tmp_path / "scan.mha", compressed=False)
    content = (tmp_path / "scan.mha").read_bytes()
    (tmp_path / "scan.mha").write_bytes(content.replace(b"ElementDataFile = LOCAL", field))
    with pytest.raises(FaultsError, match=message):
        convert(tmp_path / "scan.mha", output=tmp_path / "out")


@pytest.mark.parametrize("size", [b"7 6.0 5", b"7, 6, 5", b"7 6 five", b""])
def test_a_metaimage_whose_size_is_no_whole_numbers_is_told(tmp_path: Path, size: bytes) -> None:
    metaimage(tmp_path / "scan.mha", compressed=False)
    content = (tmp_path / "scan.mha").read_bytes()
    (tmp_path / "scan.mha").write_bytes(content.replace(b"DimSize = 7 6 5", b"DimSize = " + size))
    with pytest.raises(FaultsError, match="the header cannot be read"):
        convert(tmp_path / "scan.mha", output=tmp_path / "out")


@pytest.mark.parametrize(("name", "data"), [("scan.mha", "scan.mha"), ("scan.mhd", "scan.zraw")])
@pytest.mark.parametrize("size", [None, 0, -40, 40])
def test_a_packed_metaimage_is_unpacked_as_far_as_its_header_says_or_refused(
    tmp_path: Path, name: str, data: str, size: int | None
) -> None:
    """ITK tells nothing and gives what was in memory."""
    voxels = metaimage(tmp_path / name, compressed=True)
    content = (tmp_path / name).read_bytes()
    (line,) = [line for line in content.split(b"\n") if line.startswith(b"CompressedDataSize")]
    known = int(line.split(b"=")[1])
    other = b"" if size is None else b"CompressedDataSize = %d\n" % (known + size if size else 0)
    (tmp_path / name).write_bytes(content.replace(line + b"\n", other))
    if data != name and not size:  # the whole file beside it
        convert(tmp_path / name, output=tmp_path / "out")
        np.testing.assert_array_equal(read_volume(tmp_path / "out" / "scan.nii.gz").data[0], voxels.T)
        return
    why = f"CompressedDataSize = {known}" if not size else "truncated or damaged"
    with pytest.raises(FaultsError, match=rf"{data}: .*{why}"):
        convert(tmp_path / name, output=tmp_path / "out")


def test_a_metaimage_without_directions_is_told(tmp_path: Path) -> None:
    metaimage(tmp_path / "scan.mha", compressed=False)
    content = (tmp_path / "scan.mha").read_bytes()
    kept = b"\n".join(line for line in content.split(b"\n") if not line.startswith(b"TransformMatrix"))
    (tmp_path / "scan.mha").write_bytes(kept)
    _, lines = convert(tmp_path / "scan.mha", output=tmp_path / "out")
    assert "does not say how the patient lies" in lines[0]


@pytest.mark.parametrize(("field", "other"), [(b"7 6 5", b"7 6 4"), (b"MET_SHORT", b"MET_UCHAR")])
def test_a_header_of_other_data_is_refused(tmp_path: Path, field: bytes, other: bytes) -> None:
    metaimage(tmp_path / "scan.mhd", compressed=False)
    edited(tmp_path / "scan.mhd", field, other)
    with pytest.raises(FaultsError, match="the file holds more than its header says"):
        convert(tmp_path / "scan.mhd", output=tmp_path / "out")


def test_a_metaimage_without_voxel_size_is_refused(tmp_path: Path) -> None:
    metaimage(tmp_path / "scan.mha", compressed=False)
    edited(tmp_path / "scan.mha", b"ElementSpacing =", b"ElementSpace   =")
    with pytest.raises(FaultsError, match="does not say how large a voxel is"):
        convert(tmp_path / "scan.mha", output=tmp_path / "out")


def test_files_whose_names_are_not_utf_8_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    """SimpleITK would end the process."""
    latin = os.fsdecode(b"Sch\xe4del")
    write_series(tmp_path / "in" / "good", values((3, 5, 5)), uid="1.2.826.0.1.3680043.2.1125.2")
    file = write_series(tmp_path / "in" / "bad", values())[0]
    file.rename(file.with_name(f"{latin}.dcm"))
    metaimage(tmp_path / "in" / "labels.mha", compressed=True)
    (tmp_path / "in" / "labels.mha").rename(tmp_path / "in" / f"{latin}.mha")
    command = [sys.executable, "-c", "from seg3d.cli import main; main()", "convert", "in", "--output", "out"]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}  # a terminal of UTF-8
    done = subprocess.run(command, cwd=tmp_path, env=strict, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    for name in ("bad/Sch\\xe4del.dcm", "Sch\\xe4del.mha"):
        assert f"in/{name}: the path is not UTF-8" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]


def test_the_command_tells_what_it_wrote(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "p1", values((3, 5, 5)))
    metaimage(tmp_path / "in" / "labels.mha", compressed=True)
    (tmp_path / "in" / "._labels.mha").write_bytes(b"what a Mac leaves beside a file")
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "in"), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert [line.split(":")[0] for line in done.output.splitlines()] == ["labels.nii.gz", "p1.nii.gz"]


def test_what_is_no_volume_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="nothing to convert"):
        convert(tmp_path / "in", output=tmp_path / "out")
    (tmp_path / "a.nii").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be converted"):
        convert(tmp_path / "a.nii", output=tmp_path / "out")
    with pytest.raises(FaultsError, match="missing"):
        convert(tmp_path / "gone.mha", output=tmp_path / "out")
    with pytest.raises(DataError, match="need a folder"):
        convert(tmp_path / "in", output=tmp_path / "a.nii")
