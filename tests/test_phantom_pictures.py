"""Phantoms of pictures: what they claim is true, they are shaped as the sets they stand for, the bytes repeat."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from seg3d.phantom import KINDS, PhantomSpec, Truth, make_phantom, write_phantom_dataset

PICTURES = ("cells", "mip", "xray")
Drawn = tuple[NDArray[np.uint8], NDArray[np.uint8], Truth]


def drawn(index: int, **settings: object) -> Drawn:
    """Picture and label (columns, rows) and the truth of one case."""
    spec = PhantomSpec(**settings)
    image, label, truth = make_phantom(spec, index)
    return image.data[0, :, :, 0], label.data[0, :, :, 0], truth


def opened(path: Path) -> tuple[str, NDArray[np.uint8]]:
    """Mode and pixels (rows, columns, ...) of a file."""
    with Image.open(path) as picture:
        return picture.mode, np.asarray(picture)


def ring(label: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """What lies outside, but no farther than ``width`` pixels."""
    return ndimage.binary_dilation(label, iterations=width) & (label == 0)


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_is_a_thin_volume_of_8_bit_grey(kind: str) -> None:
    image, label, _ = make_phantom(PhantomSpec(kind=kind, shape=(80, 64, 1)), 3)
    assert image.data.shape == label.data.shape == (1, 80, 64, 1)
    assert image.data.dtype == label.data.dtype == np.uint8
    assert image.data.std() > 15
    np.testing.assert_array_equal(image.grid.affine, np.eye(4))


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_depends_on_seed_and_index_alone(kind: str) -> None:
    one, same, other = (drawn(4, kind=kind, cases=cases, seed=seed) for cases, seed in ((5, 0), (40, 0), (5, 1)))
    np.testing.assert_array_equal(one[0], same[0])
    np.testing.assert_array_equal(one[1], same[1])
    assert one[0].shape != other[0].shape or (one[0] != other[0]).mean() > 0.3


def test_a_control_does_not_depend_on_the_number_of_patients() -> None:
    few, many = (drawn(cases + 1, kind="mip", cases=cases, negatives=3) for cases in (2, 9))
    assert few[2].case_id == many[2].case_id == "control_001"
    np.testing.assert_array_equal(few[0], many[0])


@pytest.mark.parametrize("kind", PICTURES)
def test_the_same_spec_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    spec = PhantomSpec(kind=kind, cases=3, negatives=2 if kind == "mip" else 0, scale=0.5)
    found = []
    for name in ("a", "b"):
        write_phantom_dataset(tmp_path / name, spec)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append({str(f.relative_to(tmp_path / name)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files})
    assert found[0] == found[1]
    assert len(found[0]) == (8 if kind == "mip" else 6)


def test_xray_files_are_grey_with_masks_of_the_same_name(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, PhantomSpec(kind="xray", cases=6, scale=0.5))
    names = [path.stem for path in sorted((tmp_path / "CXR_png").iterdir())]
    assert names == ["siteA_000", "siteA_005", "siteB_001", "siteC_002", "siteD_003", "siteE_004"]
    for name in names:
        mode, image = opened(tmp_path / "CXR_png" / f"{name}.png")
        mask_mode, mask = opened(tmp_path / "masks" / f"{name}_mask.png")
        assert (mode, mask_mode, image.shape) == ("L", "L", mask.shape)
        assert set(np.unique(mask)) == {0, 255}


def test_mip_files_are_opaque_rgba_and_controls_grey_without_a_mask(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, PhantomSpec(kind="mip", cases=2, negatives=3))
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert files == [
        *(f"controls/imgs/control_00{n}.png" for n in range(3)),
        *(f"patients/imgs/patient_00{n}.png" for n in range(2)),
        *(f"patients/labels/segmentation_00{n}.png" for n in range(2)),
    ]
    for name in files[3:]:
        mode, pixels = opened(tmp_path / name)
        red, green, blue, alpha = np.moveaxis(pixels, -1, 0)
        assert mode == "RGBA"
        assert (alpha == 255).all()
        np.testing.assert_array_equal(red, green)
        np.testing.assert_array_equal(red, blue)
        assert "labels" not in name or set(np.unique(red)) == {0, 255}
    assert all(opened(tmp_path / name)[0] == "L" for name in files[:3])


def test_cells_files_are_numbered_slices(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, PhantomSpec(kind="cells", cases=11, shape=(48, 48, 1)))
    for folder in ("image", "label"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == {f"{number}.png" for number in range(11)}
    mode, label = opened(tmp_path / "label" / "10.png")
    assert mode == "L"
    assert set(np.unique(label)) == {0, 255}


def test_files_hold_rows_from_the_top(tmp_path: Path) -> None:
    spec = PhantomSpec(kind="mip", cases=1, shape=(64, 90, 1))
    write_phantom_dataset(tmp_path, spec)
    on_disk = opened(tmp_path / "patients" / "imgs" / "patient_000.png")[1][:, :, 0]
    image = make_phantom(spec, 0)[0].data[0, :, :, 0]
    np.testing.assert_array_equal(on_disk, image.T)
    brain, thighs = on_disk[:10].min(), on_disk[-5:].min()
    assert brain < 30 < thighs


def test_lungs_are_darker_than_what_lies_around_them() -> None:
    for index in range(10):
        image, label, _ = drawn(index, kind="xray", cases=10)
        assert image[label > 0].mean() < image[ring(label, 6)].mean() - 20
        assert 0.15 < label.mean() < 0.6


def test_there_are_two_lungs_and_the_heart_is_on_the_right_of_the_picture() -> None:
    shares = []
    for index in range(10):
        _, label, _ = drawn(index, kind="xray", cases=10)
        pieces, count = ndimage.label(label)
        assert count == 2
        left, right = sorted((1, 2), key=lambda n: ndimage.center_of_mass(pieces == n)[0])
        shares.append((pieces == right).sum() / (pieces == left).sum())
    assert np.median(shares) < 0.95


def test_sites_differ_more_than_films_of_one_site() -> None:
    # noise in the flat belly, which a site's exposure sets
    noise = np.zeros((5, 6))
    for number in range(6):
        for site in range(5):
            image, _, truth = drawn(5 * number + site, kind="xray", cases=30)
            assert truth.case_id.startswith("site" + "ABCDE"[site])
            noise[site, number] = np.median(abs(np.diff(image[:, -12:].astype(float), axis=0)))
    assert noise.mean(axis=1).std() > noise.std(axis=1).mean()


def test_tumours_are_dark_small_and_where_the_truth_says() -> None:
    shares = []
    for index in range(30):
        image, label, truth = drawn(index, kind="mip", cases=30)
        shares.append(label.mean())
        assert truth.tumours
        for tumour in truth.tumours:
            column, row, _ = tumour.centre_mm
            assert label[round(column), round(row)] == 1
        assert image[label > 0].mean() < 0.6 * image[label == 0].mean()
    assert 0.002 < np.median(shares) < 0.01
    assert min(shares) > 0


def test_darkness_alone_does_not_tell_a_tumour() -> None:
    dice = []
    for index in range(30):
        image, label, _ = drawn(index, kind="mip", cases=30)
        dark = image < 50
        dice.append(2 * (dark & (label > 0)).sum() / (dark.sum() + label.sum()))
    assert 0.1 < np.mean(dice) < 0.4


def test_controls_have_uptake_and_no_tumour() -> None:
    for index in range(4, 10):
        image, label, truth = drawn(index, kind="mip", cases=4, negatives=6)
        assert truth.tumours == ()
        assert not label.any()
        assert (image < 50).mean() > 0.01


@pytest.mark.parametrize("shape", [(128, 128, 1), (96, 60, 1), (256, 256, 1)])
def test_every_cell_is_one_piece_and_touches_no_other(shape: tuple[int, int, int]) -> None:
    for index in range(6):
        _, label, truth = drawn(index, kind="cells", cases=6, shape=shape)
        assert truth.cells > 20
        for corners in (False, True):
            structure = ndimage.generate_binary_structure(2, 2 if corners else 1)
            assert ndimage.label(label, structure)[1] == truth.cells


def test_membranes_are_dark_and_thin() -> None:
    for index in range(4):
        image, label, _ = drawn(index, kind="cells", cases=4)
        assert image[label == 0].mean() < image[label == 1].mean() - 20
        assert 0.15 < (label == 0).mean() < 0.4


def test_cells_hold_organelles_as_dark_as_membranes() -> None:
    inner = []
    for index in range(4):
        image, label, _ = drawn(index, kind="cells", cases=4)
        middle = ndimage.binary_erosion(label, iterations=3)
        inner.append((image[middle] < np.median(image[label == 0])).mean())
    assert 0.005 < np.mean(inner) < 0.25


def test_slices_change_slowly_into_others() -> None:
    labels = [drawn(index, kind="cells", cases=30)[1] for index in range(30)]

    def agreement(apart: int) -> float:
        return float(np.mean([np.mean(a == b) for a, b in zip(labels, labels[apart:], strict=False)]))

    next_one, far = agreement(1), agreement(25)
    assert next_one > far + 0.1
    assert next_one < 0.99


@pytest.mark.parametrize("kind", ["mip", "xray"])
def test_sizes_vary_as_in_the_real_set(kind: str) -> None:
    spec = PhantomSpec(kind=kind, cases=60)
    sizes = np.array([spec.grid_of(index)[0] for index in range(60)])
    assert (sizes[:, 2] == 1).all()
    assert len(set(map(tuple, sizes))) > 20
    if kind == "mip":
        assert set(sizes[:, 0]) == {100}
        assert 115 < np.median(sizes[:, 1]) < 126
        assert sizes[:, 1].max() > 150
    else:
        assert (sizes[:, 0].min() >= 96) & (sizes[:, 0].max() <= 160)


def test_scale_enlarges_pictures_and_shape_fixes_them() -> None:
    small, large = (PhantomSpec(kind="xray", scale=scale).grid_of(2)[0] for scale in (1, 4))
    np.testing.assert_allclose(np.array(large[:2]) / small[:2], 4, rtol=0.02)
    assert PhantomSpec(kind="xray", shape=(70, 50, 1)).grid_of(2)[0] == (70, 50, 1)


def test_a_picture_takes_a_fraction_of_a_second() -> None:
    for kind in PICTURES:
        started = time.process_time()
        for index in range(4):
            make_phantom(PhantomSpec(kind=kind, cases=4), index)
        assert (time.process_time() - started) / 4 < 0.1


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "xray", "shape": (64, 64, 2)},
        {"kind": "xray", "shape": (16, 64, 1)},
        {"kind": "xray", "spacing_mm": (1.0, 1.0, 1.0)},
        {"kind": "mip", "orientations": ("LPS",)},
        {"kind": "mip", "scale": 0.1},
        {"kind": "mip", "negatives": -1},
        {"kind": "cells", "negatives": 2},
        {"kind": "heart", "scale": 2.0},
        {"kind": "cells", "labels": ("cell", "membrane")},
    ],
)
def test_a_spec_that_makes_no_sense_for_its_kind_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"got"):
        PhantomSpec(**settings)


def test_pictures_have_one_layout(tmp_path: Path) -> None:
    assert all(KINDS[kind].is_picture for kind in PICTURES)
    with pytest.raises(ValueError, match=r"folders"):
        write_phantom_dataset(tmp_path / "data", PhantomSpec(kind="xray", cases=1), "msd")
    assert not (tmp_path / "data").exists()


def test_a_small_chest_ct_still_has_its_tumours() -> None:
    spec = PhantomSpec(cases=4, shape=(64, 64, 24), tumour_free_share=0.0)
    for index in range(4):
        image, label, truth = make_phantom(spec, index)
        assert sorted(image.data.shape[1:]) == [24, 64, 64]
        assert truth.tumours
        assert label.data.sum() > 20
