"""Preparation: geometry, crops by the patient's ends, resampling that loses nothing small, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scans import ORIENTATIONS, centroid_mm, oblique_affine, oriented_affine

from seg3d.errors import DataError
from seg3d.inference.assemble import Assembler
from seg3d.preparation import (
    Crop,
    ForegroundCrop,
    Normalisation,
    Recipe,
    WayBack,
    prepare_image,
    prepare_label,
    restore_label,
    restore_probability,
)
from seg3d.preparation.normalise import _moments
from seg3d.preparation.resample import (
    axis_weights,
    cubic,
    resample_image,
    resample_label,
    resample_probability,
    triangle,
)
from seg3d.volume import Grid, Volume, bounding_box

SHAPE = (20, 24, 28)
NONE = (Normalisation("none"),)
AFFINES = [(codes, oriented_affine(codes, SHAPE, (1.0, 1.5, 2.0))) for codes in ORIENTATIONS]
AFFINES.append(("oblique", oblique_affine()))


def volume(data: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    return Volume(data[None], Grid(data.shape, np.eye(4) if affine is None else affine))


def blob() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[3:9, 10:20, 5:12] = 1
    label[4, 12, 6] = 2
    return label


@pytest.mark.parametrize(("codes", "affine"), AFFINES, ids=[codes for codes, _ in AFFINES])
@pytest.mark.parametrize("spacing", [None, (0.7, 0.8, 0.9)], ids=["kept", "resampled"])
def test_label_maps_come_back_to_their_place(codes: str, affine: np.ndarray, spacing: object) -> None:
    label = blob()
    image = (label * 100).astype(np.int16)
    recipe = Recipe(Crop(ForegroundCrop(threshold=50, margin_mm=4)), spacing, NONE)
    prepared = prepare_image([volume(image, affine)], recipe)
    inner = prepare_label(volume(label, affine), prepared.way_back)
    assert inner.shape == prepared.grid.shape
    # the prepared grid is RAS+ to the nearest axis
    assert (np.diag(prepared.grid.affine)[:3] > 0).all()
    np.testing.assert_allclose(
        centroid_mm(inner == 1, prepared.grid.affine), centroid_mm(label == 1, affine), atol=0.35
    )
    back = restore_label(inner, prepared.way_back)
    assert back.shape == SHAPE
    if spacing is None:
        np.testing.assert_array_equal(back, label)
        np.testing.assert_allclose(centroid_mm(inner, prepared.grid.affine), centroid_mm(label, affine), atol=1e-3)
    else:
        overlap = 2 * ((back == 1) & (label == 1)).sum() / ((back == 1).sum() + (label == 1).sum())
        assert overlap > 0.97  # a finer grid loses next to nothing
        assert (back == 2).any()


def test_the_way_back_survives_json() -> None:
    way_back = prepare_image([volume(blob().astype(np.int16), oblique_affine())], Recipe(normalise=NONE)).way_back
    again = WayBack.from_dict(way_back.as_dict())
    assert again.as_dict() == way_back.as_dict()


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAL", "IRP"])
def test_inferior_slices_are_the_patients_whatever_the_array(codes: str) -> None:
    affine = oriented_affine(codes, SHAPE, (1.0, 1.0, 1.0))
    world_z = np.einsum("j,j...->...", affine[2, :3], np.indices(SHAPE)) + affine[2, 3]
    prepared = prepare_image(
        [volume(world_z.astype(np.float32), affine)], Recipe(Crop(inferior_slices=3, superior_mm=2), None, NONE)
    )
    lowest, highest = world_z.min(), world_z.max()
    assert float(prepared.image.min()) == pytest.approx(lowest + 3, abs=0.1)
    assert float(prepared.image.max()) == pytest.approx(highest - 2, abs=0.1)


def test_millimetres_are_rounded_to_slices() -> None:
    affine = np.diag([1, 1, 2.5, 1.0])
    prepared = prepare_image([volume(blob(), affine)], Recipe(Crop(inferior_mm=7.5), None, NONE))
    assert prepared.image.shape[3] == SHAPE[2] - 3
    np.testing.assert_allclose(prepared.grid.affine[:3, 3], [0, 0, 7.5])


def test_foreground_margin_is_in_millimetres_and_ends_at_the_border() -> None:
    image = np.zeros(SHAPE, np.int16)
    image[1:5, 10:14, 10:14] = 100
    recipe = Recipe(Crop(ForegroundCrop(threshold=50, margin_mm=4)), None, NONE)
    prepared = prepare_image([volume(image, np.diag([1, 2, 4, 1.0]))], recipe)
    assert prepared.way_back.start == (0, 8, 9)
    assert prepared.way_back.cropped == (9, 8, 6)


def test_a_percentile_can_be_the_threshold() -> None:
    image = np.zeros(SHAPE, np.int16)
    image[5:10, 5:10, 5:10] = 7
    prepared = prepare_image([volume(image)], Recipe(Crop(ForegroundCrop(percentile=90)), None, NONE))
    assert prepared.way_back.cropped == (5, 5, 5)


def test_a_scan_without_foreground_is_left_whole() -> None:
    prepared = prepare_image(
        [volume(np.zeros(SHAPE, np.int16))], Recipe(Crop(ForegroundCrop(threshold=50)), None, NONE)
    )
    assert prepared.way_back.cropped == SHAPE


def test_dropping_all_slices_is_an_error() -> None:
    with pytest.raises(DataError, match="leaves no slice"):
        prepare_image([volume(blob())], Recipe(Crop(inferior_slices=20, superior_slices=8), None, NONE))


def test_resampling_agrees_with_simpleitk_on_a_smooth_image() -> None:
    x, y, z = np.indices(SHAPE)
    image = (np.sin(x / 4) + np.cos(y / 5) + np.sin(z / 6)).astype(np.float32)
    prepared = prepare_image([volume(image)], Recipe(Crop(), (0.8, 0.8, 0.8), NONE))
    reference = sitk.GetImageFromArray(image.T)
    target = sitk.Image([int(n) for n in prepared.grid.shape], sitk.sitkFloat32)
    target.SetSpacing(prepared.grid.spacing_mm)
    target.SetOrigin(prepared.grid.affine[:3, 3])
    expected = sitk.GetArrayFromImage(sitk.Resample(reference, target, sitk.Transform(), sitk.sitkBSpline)).T
    inner = (slice(4, -4),) * 3  # both treat borders in their own way
    np.testing.assert_allclose(prepared.image[0][inner].astype(np.float32), expected[inner], atol=0.01)


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((64, 8, 8), np.float32)
    stripes[::2] = 1.0  # the finest pattern there is
    shrunk = resample_image(stripes, (16, 8, 8))
    np.testing.assert_allclose(shrunk[2:-2], 0.5, atol=0.03)


@pytest.mark.parametrize(("kernel", "radius"), [(triangle, 1.0), (cubic, 2.0)])
@pytest.mark.parametrize(("old", "new"), [(10, 7), (7, 10), (5, 1), (1, 5), (9, 9)])
def test_interpolation_weights_keep_a_constant(kernel: object, radius: float, old: int, new: int) -> None:
    weights = axis_weights(old, new, kernel, radius)
    np.testing.assert_allclose(weights @ np.full(old, 3.0, np.float32), 3.0, rtol=1e-5)


def test_a_linear_ramp_stays_linear() -> None:
    weights = axis_weights(20, 33, triangle, 1.0)
    places = (np.arange(33) + 0.5) * 20 / 33 - 0.5
    np.testing.assert_allclose((weights @ np.arange(20, dtype=np.float32))[2:-2], places[2:-2], atol=1e-4)


def test_single_voxel_lesions_survive_shrinking() -> None:
    label = np.zeros((60, 60, 60), np.uint8)
    places = [(5, 5, 5), (31, 32, 33), (59, 59, 59), (0, 30, 58)]
    for place in places:
        label[place] = 3
    shrunk = resample_label(label, (17, 20, 13))
    assert (shrunk == 3).sum() == len(places)
    assert set(np.unique(shrunk)) == {0, 3}


def test_a_kept_lesion_never_takes_the_last_voxel_of_another() -> None:
    label = np.zeros((16, 16, 16), np.uint8)
    label[4, 4, 4], label[5, 5, 5] = 1, 2  # both fall into the same voxel
    shrunk = resample_label(label, (4, 4, 4))
    assert shrunk[1, 1, 1] == 1
    (beside,) = np.argwhere(shrunk == 2)
    assert np.abs(beside - 1).max() == 1


def test_a_kept_lesion_does_not_replace_the_structure_it_touches() -> None:
    label = np.zeros((9, 9, 9), np.uint8)
    label[3:6, 3:6, 3:5], label[4, 4, 5] = 1, 2  # two thirds of one voxel, and a lesion in it
    shrunk = resample_label(label, (3, 3, 3))
    assert np.argwhere(shrunk == 1).tolist() == [[1, 1, 1]]
    assert np.argwhere(shrunk == 2).tolist() == [[1, 1, 2]]  # where its share is the second largest


def test_a_kept_lesion_takes_the_best_voxel_of_a_structure_that_has_others() -> None:
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:9, 3:9, 3:9], label[4, 4, 4] = 1, 2
    shrunk = resample_label(label, (4, 4, 4))
    assert np.argwhere(shrunk == 2).tolist() == [[1, 1, 1]]
    assert (shrunk == 1).sum() == 7


def test_no_class_of_crowded_small_lesions_vanishes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        label = np.zeros((24, 24, 12), np.uint8)
        label[10:14, 2:6, 3:6] = 3
        place = rng.integers(2, (20, 20, 9))
        for value, step in enumerate(((0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1)), start=1):
            label[tuple(place + step)] = value
        shrunk = resample_label(label, (8, 8, 6))
        assert set(np.unique(shrunk)) == set(np.unique(label))


def test_lesions_are_kept_beside_others_up_to_the_edge_of_a_slice() -> None:
    label = np.zeros((12, 12, 1), np.uint8)
    label[0, 0], label[1, 1], label[0, 2], label[2, 0] = 1, 2, 3, 4  # four lesions in the first of 3 x 3 voxels
    shrunk = resample_label(label, (3, 3, 1))[..., 0]
    assert sorted(shrunk[:2, :2].ravel().tolist()) == [1, 2, 3, 4]


def test_what_has_no_room_is_lost_and_nothing_else() -> None:
    label = np.arange(1, 9, dtype=np.uint8).reshape(2, 2, 2)
    assert resample_label(label, (1, 1, 1)).item() in range(1, 9)


def test_labels_are_never_averaged() -> None:
    label = np.zeros((30, 30, 30), np.uint8)
    label[:15], label[15:] = 1, 5
    shrunk = resample_label(label, (11, 13, 17))
    assert set(np.unique(shrunk)) == {1, 5}


def test_volumes_are_kept_within_a_percent_or_two() -> None:
    x, y, z = np.indices((60, 60, 60))
    ball = ((x - 30) ** 2 + (y - 29) ** 2 + (z - 31) ** 2 < 18**2).astype(np.uint8)
    shrunk = resample_label(ball, (37, 41, 29))
    ratio = shrunk.sum() / (37 * 41 * 29) / (ball.sum() / 60**3)
    assert ratio == pytest.approx(1, abs=0.02)


def test_class_probabilities_come_back_as_the_most_probable_class() -> None:
    label = blob()
    recipe = Recipe(Crop(ForegroundCrop(threshold=0)), (1.5, 1.5, 1.5), NONE)
    prepared = prepare_image([volume(label)], recipe)
    inner = prepare_label(volume(label), prepared.way_back)
    probabilities = np.stack([(inner == value).astype(np.float32) for value in (0, 1, 2)])
    whole = Assembler(prepared.way_back, 0, lambda found: found.argmax(axis=0), np.dtype(np.uint8), {})
    for start in range(0, inner.shape[0], 5):
        whole.add(probabilities[:, start : start + 5])
    index = whole.label
    assert index.shape == SHAPE
    assert ((index == 1) & (label == 1)).sum() > 0.9 * (label == 1).sum()
    probability = restore_probability(probabilities[1], prepared.way_back, outside=0.0)
    assert probability[0, 0, 0] == 0.0
    assert 0 <= probability.min() <= probability.max() <= 1


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Normalisation("none"), [0, 100, 300]),
        (Normalisation("divide", by=3071), [0, 100 / 3071, 300 / 3071]),
        (Normalisation("window", lower=50, upper=150), [0, 0.5, 1]),
        (Normalisation("minmax"), [0, 1 / 3, 1]),
        (Normalisation("zscore"), [-1.069, -0.2673, 1.3363]),
        (Normalisation("zscore", foreground=True), [-2, -1, 1]),
        (Normalisation("percentile", lower=0, upper=50), [0, 1, 1]),
    ],
    ids=str,
)
def test_normalisation_by_hand(step: Normalisation, expected: list[float]) -> None:
    image = np.array([0, 100, 300], np.int16).reshape(3, 1, 1)
    prepared = prepare_image([volume(image)], Recipe(Crop(), None, (step,)))
    np.testing.assert_allclose(prepared.image[0, :, 0, 0], expected, atol=2e-3)


@pytest.mark.parametrize("view", ["as it is", "x fastest", "turned", "cropped"])
def test_zscore_takes_the_moments_that_numpy_computes(view: str) -> None:
    """To the bit, though in parts: 700,000 voxels are more than are taken at once."""
    image = np.random.default_rng(0).normal(300, 40, (90, 88, 90)).astype(np.float32)
    views = {"as it is": image, "x fastest": np.asfortranarray(image), "turned": image[::-1], "cropped": image[1:-1]}
    image = views[view]
    assert _moments(image) == (image.mean(dtype=np.float64), image.std(dtype=np.float64))


@pytest.mark.parametrize("kind", ["zscore", "minmax", "percentile"])
def test_a_constant_channel_becomes_zero(kind: str) -> None:
    prepared = prepare_image([volume(np.full(SHAPE, 7, np.int16))], Recipe(normalise=(Normalisation(kind),)))
    assert (prepared.image == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_refused(value: float) -> None:
    image = np.ones(SHAPE, np.float32)
    image[1, 2, 3] = value
    with pytest.raises(DataError, match="not finite"):
        prepare_image([volume(image)], Recipe())


def test_values_beyond_float16_are_refused_rather_than_stored_as_infinity() -> None:
    with pytest.raises(DataError, match="too large to be stored"):
        prepare_image([volume(np.full(SHAPE, 1_700_000.0, np.float32))], Recipe(normalise=NONE))


def test_channels_on_different_grids_are_refused() -> None:
    with pytest.raises(DataError, match="different grids"):
        prepare_image([volume(blob()), volume(blob(), np.diag([1, 1, 1.1, 1]))], Recipe())


def test_each_channel_has_its_own_normalisation() -> None:
    data = np.full(SHAPE, 10.0, np.float32)
    recipe = Recipe(normalise=(Normalisation("divide", by=10), Normalisation("divide", by=100)))
    prepared = prepare_image([volume(data), volume(data)], recipe)
    assert float(prepared.image[0].max()) == pytest.approx(1.0)
    assert float(prepared.image[1].max()) == pytest.approx(0.1, rel=1e-3)


def test_every_setting_changes_the_digest() -> None:
    recipes = [
        Recipe(),
        Recipe(spacing_mm=(1.0, 1.0, 1.0)),
        Recipe(Crop(inferior_slices=1)),
        Recipe(Crop(ForegroundCrop())),
        Recipe(normalise=(Normalisation("minmax"),)),
    ]
    assert len({recipe.digest for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_box_of_a_mask_holds_all_of_it_and_no_more(order: str) -> None:
    mask = np.zeros((5, 6, 7), bool, order=order)
    assert bounding_box(mask) is None
    mask[1, 5, 3] = mask[2, 4, 0] = True
    assert bounding_box(mask) == (slice(1, 3), slice(4, 6), slice(0, 4))
    assert bounding_box(np.ones((2, 3), bool)) == (slice(0, 2), slice(0, 3))


def test_labels_of_small_boxes_are_resampled_as_if_they_filled_the_volume() -> None:
    label = np.zeros((40, 30, 20), np.uint8)
    label[3:9, 20:29, 1:7], label[30:33, 2:5, 15:18], label[20, 20, 10] = 1, 2, 3
    found = resample_label(label, (20, 15, 10))
    shares = {value: resample_probability((label == value).astype(np.float32), found.shape) for value in (1, 2)}
    for value, share in shares.items():
        assert (found[share > 0.5 + 1e-6] == value).all()
        assert (share[found == value] > 0.4).all()
    assert np.argwhere(found == 3).tolist() == [[10, 10, 5]]  # of which less than half would be left
