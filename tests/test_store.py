"""The stored volume: what goes in comes out, whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from full_disk import room_for
from scipy import ndimage

from seg3d import store
from seg3d.errors import StoreError
from seg3d.keyed import keyed
from seg3d.label_index import BLOCK
from seg3d.store import StoredVolume, read_info, stored_path, write_stored
from seg3d.volume import Grid

LABELS = {"background": 0, "organ": 1, "tumour": 2}


def write_example(path: Path, shape: tuple[int, int, int] = (70, 33, 40), **changes: Any) -> dict[str, Any]:
    rng = keyed(0, "store", *shape)
    label = np.zeros(shape, np.uint8)
    label[5:20, 5:20, 5:20] = 1
    label[8:10, 8:10, 8:10] = 2
    label[60:64, 1:3, 30:38] = 2
    label[10:12, 8:10, 8:10] = 2  # touches the first: one lesion
    values: dict[str, Any] = {
        "case_id": "case",
        "image": rng.standard_normal((2, *shape)).astype(np.float16),
        "label": label,
        "grid": Grid(shape, np.diag([1.0, 2.0, 3.0, 1.0])),
        "way_back": {"kept": [1, 2, 3]},
        "recipe_sha256": "r",
        "source_sha256": {"a.nii": "0"},
        "labels": LABELS,
        "ignore_label": None,
    } | changes
    write_stored(path, **values)
    return values


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    given = write_example(tmp_path / "case.h5")
    info = read_info(tmp_path / "case.h5")
    volume = StoredVolume(info)
    np.testing.assert_array_equal(volume.image, given["image"])
    assert volume.label is not None
    np.testing.assert_array_equal(volume.label, given["label"])
    assert info.grid.same_as(given["grid"])
    assert info.way_back == {"kept": [1, 2, 3]}
    assert list(info.labels) == list(LABELS)
    assert info.class_counts == {v: int((given["label"] == v).sum()) for v in (0, 1, 2)}
    volume.verify()


def test_blocks_count_every_class(tmp_path: Path) -> None:
    label = write_example(tmp_path / "case.h5")["label"]
    blocks = StoredVolume(read_info(tmp_path / "case.h5")).blocks
    assert blocks.shape == (3, 3, 2, 2)
    for value in (0, 1, 2):
        for i, j, k in np.ndindex(3, 2, 2):
            box = tuple(slice(n * BLOCK, (n + 1) * BLOCK) for n in (i, j, k))
            assert blocks[value, i, j, k] == (label[box] == value).sum()


def test_lesions_are_the_connected_components_of_each_class(tmp_path: Path) -> None:
    label = write_example(tmp_path / "case.h5")["label"]
    info = read_info(tmp_path / "case.h5")
    assert [(lesion.class_value, lesion.size) for lesion in info.lesions] == [(1, 15**3 - 16), (2, 16), (2, 64)]
    volume = StoredVolume(info)
    whole = volume.components((0, 0, 0), info.grid.shape)
    for lesion in info.lesions:
        mask = whole == lesion.number
        assert mask.sum() == lesion.size
        assert set(label[mask].tolist()) == {lesion.class_value}
        box = tuple(slice(a, b) for a, b in zip(lesion.start, lesion.stop, strict=True))
        assert ndimage.find_objects(mask.astype(np.uint8))[0] == box
        np.testing.assert_array_equal(volume.components(lesion.start, lesion.stop), whole[box])


def test_axial_slices_and_rows_lie_in_one_piece_on_disk(tmp_path: Path) -> None:
    write_example(tmp_path / "case.h5")
    volume = StoredVolume(read_info(tmp_path / "case.h5"))
    assert volume.image[0, :, :, 5].T.flags["C_CONTIGUOUS"]
    with h5py.File(tmp_path / "case.h5") as file:
        assert file["image"].chunks is None
        assert file["image"].dtype.itemsize == 2


def test_a_case_without_label_and_a_thin_one_are_stored(tmp_path: Path) -> None:
    shape = (20, 30, 1)
    image = np.ones((1, *shape), np.float16)
    write_example(tmp_path / "a.h5", shape, image=image, label=None)
    volume = StoredVolume(read_info(tmp_path / "a.h5"))
    assert volume.label is None
    assert volume.info.lesions == ()
    assert volume.image.shape == (1, *shape)


def test_the_ignored_label_is_neither_counted_nor_a_lesion(tmp_path: Path) -> None:
    write_example(tmp_path / "case.h5", ignore_label=2)
    info = read_info(tmp_path / "case.h5")
    assert set(info.class_counts) == {0, 1}
    assert {lesion.class_value for lesion in info.lesions} == {1}


def test_a_full_disk_leaves_the_earlier_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "case.h5"
    write_example(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "find_lesions", fail)
    with pytest.raises(StoreError, match="disk is full"):
        write_example(path, recipe_sha256="other")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["case.h5"]


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_disk_that_fills_up_while_a_volume_is_written_is_told(tmp_path: Path, share: float) -> None:
    """HDF5 raises another error, or crashes the process, where a write fails under it."""
    path = tmp_path / "case.h5"
    write_example(path)
    before = path.read_bytes()
    with room_for(int(share * len(before))), pytest.raises(StoreError, match="cannot be written"):
        write_example(path, recipe_sha256="other")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["case.h5"]


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "case.h5"
    write_example(path)
    raw = bytearray(path.read_bytes())
    raw[read_info(path).image_offset + 1000] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(StoreError, match="digest"):
        StoredVolume(read_info(path)).verify()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(StoreError, match="not a complete"):
        read_info(path)
    with pytest.raises(StoreError, match="missing"):
        read_info(tmp_path / "none.h5")


@pytest.mark.parametrize(
    ("attribute", "value"), [("way_back", '{"a": '), ("labels", "{"), ("cut_off", "[[1]]"), ("affine", [1.0, 2.0])]
)
def test_damage_of_what_a_volume_says_of_itself_is_told(tmp_path: Path, attribute: str, value: Any) -> None:
    write_example(tmp_path / "case.h5")
    with h5py.File(tmp_path / "case.h5", "a") as file:
        file.attrs[attribute] = value
    with pytest.raises(StoreError, match="not a complete"):
        read_info(tmp_path / "case.h5")


def test_damage_of_an_index_is_told_when_it_is_read(tmp_path: Path) -> None:
    write_example(tmp_path / "case.h5")
    with h5py.File(tmp_path / "case.h5", "a") as file:
        del file["components"], file["slices"]
    volume = StoredVolume(read_info(tmp_path / "case.h5"))
    with pytest.raises(StoreError, match="not a complete"):
        volume.components((0, 0, 0), volume.info.grid.shape)
    with pytest.raises(StoreError, match="not a complete"):
        volume.info.slice_counts(2)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    write_example(tmp_path / "case.h5")
    with h5py.File(tmp_path / "case.h5", "a") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(StoreError, match="schema version"):
        read_info(tmp_path / "case.h5")


@pytest.mark.parametrize("name", ["../escape", "", ".hidden", "a/b"])
def test_a_case_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="file name"):
        stored_path(tmp_path, name)
