"""Augmentation: right geometry, whole labels, and bits that depend on the key alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from stored import make_store

from seg3d.keyed import keyed
from seg3d.sampling.augment import (
    Affine,
    Augmentation,
    Blur,
    Brightness,
    Contrast,
    Elastic,
    Flip,
    Gamma,
    LowResolution,
    Noise,
    draw,
)
from seg3d.sampling.patches import read_augmented, read_patch
from seg3d.sampling.spatial import Resampling, _smooth_field, resample_patch
from seg3d.store import StoredVolume

SIZE, START = (32, 24, 16), (10, 12, 8)
ALL = Augmentation(
    flip=Flip(0.5, ["x", "y", "z"]),
    affine=Affine(1.0, (15, 15, 15), (0.85, 1.2), (3, 3, 3)),
    elastic=Elastic(1.0, 10, 2),
    noise=Noise(1.0, (0.05, 0.1)),
    blur=Blur(1.0, (0.5, 1.0)),
    brightness=Brightness(1.0, (0.8, 1.2)),
    contrast=Contrast(1.0, (0.8, 1.2)),
    gamma=Gamma(1.0, (0.7, 1.5)),
    low_resolution=LowResolution(1.0, (1.2, 2.0)),
)
PARTS = ("flip", "affine", "elastic", "noise", "blur", "brightness", "contrast", "gamma", "low_resolution")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> StoredVolume:
    return StoredVolume(make_store(tmp_path_factory.mktemp("store"), 1)[0])


@pytest.fixture
def two_thread_counts() -> Iterator[tuple[int, int]]:
    threads = torch.get_num_threads()
    yield 1, 2
    torch.set_num_threads(threads)


def augmented(
    volume: StoredVolume,
    augmentation: Augmentation | None,
    key: int = 0,
    start: tuple[int, ...] = START,
    size: tuple[int, ...] = SIZE,
) -> tuple[np.ndarray, np.ndarray]:
    image, label = read_augmented(volume, start, size, augmentation, keyed(3, key))
    return image.numpy().copy(), label.numpy().copy()


def resampled(
    volume: StoredVolume, matrix: np.ndarray, shift_mm: tuple[float, ...] = (0, 0, 0), start: tuple[int, ...] = START
) -> tuple[np.ndarray, np.ndarray]:
    image, label = resample_patch(volume, start, SIZE, Resampling(matrix, np.array(shift_mm, float), None))
    return image.numpy().transpose(0, 3, 2, 1), label.numpy().T


def plain(volume: StoredVolume, start: tuple[int, ...] = START) -> tuple[np.ndarray, np.ndarray]:
    image, label = read_patch(volume, start, SIZE)
    return image.numpy(), label.numpy()


def test_bits_depend_neither_on_threads_nor_on_the_call(
    volume: StoredVolume, two_thread_counts: tuple[int, int]
) -> None:
    found = []
    for threads in (*two_thread_counts, 1):
        torch.set_num_threads(threads)
        # more voxels than torch leaves to one thread (32768), and sizes that no vector length divides
        found.append([augmented(volume, ALL, key, (1, 2, 1), (65, 47, 37)) for key in range(3)])
    for other in found[1:]:
        for (image, label), (image_2, label_2) in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(image, image_2)
            np.testing.assert_array_equal(label, label_2)


def test_other_keys_give_other_patches(volume: StoredVolume) -> None:
    assert not np.array_equal(augmented(volume, ALL, 0)[0], augmented(volume, ALL, 1)[0])


@pytest.mark.parametrize("part", PARTS)
def test_probability_zero_changes_nothing(volume: StoredVolume, part: str) -> None:
    off = Augmentation(**{part: replace(getattr(ALL, part), p=0.0)})
    for found, expected in zip(augmented(volume, off), plain(volume), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_changes_the_image_and_only_spatial_ones_the_label(volume: StoredVolume, part: str) -> None:
    on = Augmentation(**{part: replace(getattr(ALL, part), p=1.0)})
    image, label = augmented(volume, on)
    assert not np.array_equal(image, plain(volume)[0])
    assert np.isfinite(image).all()
    if part not in ("flip", "affine", "elastic"):
        np.testing.assert_array_equal(label, plain(volume)[1])


@pytest.mark.parametrize("part", PARTS)
def test_the_probability_of_one_part_leaves_the_draws_of_the_others_alone(part: str) -> None:
    spacing = (1.0, 1.0, 2.0)
    whole, without = (
        draw(augmentation, 2, SIZE, spacing, keyed(1)) for augmentation in (ALL, replace(ALL, **{part: None}))
    )
    names = {"noise_sd": "noise", "blur_sd_mm": "blur", "low_resolution": "low_resolution"}
    names |= {name: name for name in ("brightness", "contrast", "gamma")}
    for name, of in names.items():
        if of != part:
            np.testing.assert_array_equal(getattr(whole, name), getattr(without, name))
    if part not in ("flip", "affine", "elastic"):
        np.testing.assert_array_equal(whole.resampling.matrix, without.resampling.matrix)
        np.testing.assert_array_equal(whole.resampling.displacement_mm, without.resampling.displacement_mm)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_is_a_flip(volume: StoredVolume, axis: int) -> None:
    image, label = augmented(volume, Augmentation(flip=Flip(1.0, ["xyz"[axis]])))
    np.testing.assert_array_equal(image, np.flip(plain(volume)[0], axis + 1))
    np.testing.assert_array_equal(label, np.flip(plain(volume)[1], axis))


def test_a_flip_inside_the_resampling_is_the_same_flip(volume: StoredVolume) -> None:
    image, label = resampled(volume, np.diag([-1.0, 1.0, 1.0]))
    np.testing.assert_allclose(image, np.flip(plain(volume)[0], 1), atol=1e-4)
    np.testing.assert_array_equal(label, np.flip(plain(volume)[1], 0))


def test_identity_gives_the_patch(volume: StoredVolume) -> None:
    image, label = resampled(volume, np.eye(3))
    np.testing.assert_allclose(image, plain(volume)[0], atol=1e-4)
    np.testing.assert_array_equal(label, plain(volume)[1])


@pytest.mark.parametrize("start", [START, (-3, 40, 30)])
@pytest.mark.parametrize("flip", [None, Flip(1.0, ["x", "z"])])
def test_neutral_parameters_keep_every_bit(volume: StoredVolume, start: tuple[int, ...], flip: Flip | None) -> None:
    neutral = Augmentation(
        flip=flip,
        affine=Affine(1.0, (0, 0, 0), (1, 1), (0, 0, 0)),
        elastic=Elastic(1.0, 10, 0),
        noise=Noise(1.0, (0, 0)),
        blur=Blur(1.0, (0, 0)),
        brightness=Brightness(1.0, (1, 1)),
        gamma=Gamma(1.0, (1, 1)),
        low_resolution=LowResolution(1.0, (1, 1)),
    )
    image, label = augmented(volume, neutral, start=start)
    expected, expected_label = plain(volume, start)
    if flip is not None:
        expected, expected_label = np.flip(expected, (1, 3)), np.flip(expected_label, (0, 2))
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(label, expected_label)


def test_a_quarter_turn_about_z_is_rot90(volume: StoredVolume) -> None:
    size, start = (24, 24, 10), (15, 8, 6)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    image, label = resample_patch(volume, start, size, Resampling(turn, np.zeros(3), None))
    before, before_label = read_patch(volume, start, size)
    # the patch's x reads the volume's y: a turn by -90 degrees is seen
    expected = np.rot90(before.numpy(), -1, (1, 2))
    np.testing.assert_allclose(image.numpy().transpose(0, 3, 2, 1), expected, atol=1e-4)
    np.testing.assert_array_equal(label.numpy().T, np.rot90(before_label.numpy(), -1))


def test_a_shift_reads_the_voxels_beyond_the_patch(volume: StoredVolume) -> None:
    image, label = resampled(volume, np.eye(3), shift_mm=(3.0, -2.0, 4.0))  # z voxels are 2 mm
    expected = plain(volume, (START[0] + 3, START[1] - 2, START[2] + 2))
    np.testing.assert_allclose(image, expected[0], atol=1e-4)
    np.testing.assert_array_equal(label, expected[1])


def test_beyond_the_volume_is_the_minimum_and_background(volume: StoredVolume) -> None:
    image, label = resampled(volume, np.eye(3), shift_mm=(-500.0, 0.0, 0.0))
    np.testing.assert_allclose(image, volume.info.minimum[0], atol=1e-6)
    assert (label == 0).all()


def test_a_patch_larger_than_the_volume_is_padded(volume: StoredVolume) -> None:
    start = (-20, -10, -5)
    image, label = resampled(volume, np.eye(3), start=start)
    np.testing.assert_allclose(image, plain(volume, start)[0], atol=1e-4)
    np.testing.assert_array_equal(label, plain(volume, start)[1])


def test_rotation_and_scale_are_in_millimetres_as_scipy_computes_them(volume: StoredVolume) -> None:
    angle = np.deg2rad(25)
    matrix = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]) / 1.2
    image, label = resampled(volume, matrix)
    spacing = np.array(volume.info.grid.spacing_mm)
    centre = np.array(START) + (np.array(SIZE) - 1) / 2
    step = np.diag(1 / spacing) @ matrix @ np.diag(spacing)
    offset = centre - step @ ((np.array(SIZE) - 1) / 2)
    source = volume.image[0].astype(np.float32)
    expected = ndimage.affine_transform(source, step, offset, SIZE, order=1, cval=volume.info.minimum[0])
    np.testing.assert_allclose(image[0], expected, atol=2e-3)
    nearest = ndimage.affine_transform(volume.label, step, offset, SIZE, order=0)
    assert (label == nearest).mean() > 0.999  # ties may be rounded otherwise


def test_labels_are_never_interpolated(volume: StoredVolume) -> None:
    for key in range(5):
        label = augmented(volume, ALL, key)[1]
        assert label.dtype == volume.label.dtype
        assert set(np.unique(label)) <= {0, 1, 2}


def test_image_and_label_stay_together(volume: StoredVolume) -> None:
    """The stored image is its label plus little noise, and so it is after any displacement."""
    spatial = Augmentation(flip=ALL.flip, affine=ALL.affine, elastic=ALL.elastic)
    for key in range(5):
        image, label = augmented(volume, spatial, key)
        assert np.abs(image[0] - label).mean() < 0.2


def test_the_elastic_field_has_the_asked_size_and_is_smooth() -> None:
    fields = [
        draw(Augmentation(elastic=Elastic(1.0, 10, 2.5)), 1, (40, 40, 40), (1.0, 1.0, 1.0), keyed(0, i)).resampling
        for i in range(20)
    ]
    values = np.concatenate([field.displacement_mm.ravel() for field in fields])
    assert values.std() == pytest.approx(2.5, rel=0.05)
    assert abs(values.mean()) < 0.1


@pytest.mark.parametrize("planes", [1, 4, 8, 16])
def test_an_elastic_field_turns_no_thin_patch_inside_out(planes: int) -> None:
    size, spacing = (64, 64, planes), (1.0, 1.0, 1.0)
    for number in range(20):
        found = draw(Augmentation(elastic=Elastic(1.0, 24, 3.0)), 1, size, spacing, keyed(0, number)).resampling
        assert found is not None
        field = _smooth_field(found, spacing, size)
        assert field is not None
        along = np.diff(field, axis=3) * field.shape[3] / planes  # voxels by which neighbouring planes part
        assert np.abs(along).max(initial=0) < 1


def test_noise_has_the_asked_standard_deviation(volume: StoredVolume) -> None:
    image, _ = augmented(volume, Augmentation(noise=Noise(1.0, (0.3, 0.3))))
    assert (image - plain(volume)[0]).std() == pytest.approx(0.3, rel=0.02)


def test_gamma_and_contrast_stay_in_the_range(volume: StoredVolume) -> None:
    before = plain(volume)[0]
    for part in (Augmentation(gamma=Gamma(1.0, (0.5, 0.5))), Augmentation(contrast=Contrast(1.0, (1.5, 1.5)))):
        image, _ = augmented(volume, part)
        assert image.min() >= before.min() - 1e-5
        assert image.max() <= before.max() + 1e-5


def test_global_random_state_is_left_alone(volume: StoredVolume, tmp_path: Path) -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # it is what is tested
    augmented(volume, ALL)
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002  # it is what is tested
