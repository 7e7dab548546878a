"""Scores by hand and against MONAI and surface-distance."""

from __future__ import annotations

import json
import math

import monai.metrics
import numpy as np
import pytest
import surface_distance
import surface_distance.lookup_tables
import torch
from scipy import ndimage

from seg3d.metrics import (
    LabelScore,
    Lesions,
    Overlap,
    SurfaceScores,
    count_lesions,
    dice_per_label,
    format_summary,
    rows,
    score_case,
    summarise,
    surface_scores,
)
from seg3d.metrics.elements import CORNERS, element_areas, surface_codes

SPACING = (1.0, 1.5, 2.5)


def random_mask(seed: int, smooth: float = 0.0, share: float = 0.7, size: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).random((18 * size, 16 * size, 12 * size))
    field = ndimage.gaussian_filter(noise, smooth) if smooth else noise
    return field > np.quantile(field, share)


def cube(start: int, shape: tuple[int, int, int] = (20, 20, 20), size: int = 6) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[start : start + size, 5 : 5 + size, 5 : 5 + size] = True
    return mask


def batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask)[None, None].float()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("smooth", [0.0, 1.5])
def test_surface_scores_are_monais(seed: int, smooth: float) -> None:
    a, b = random_mask(seed, smooth), random_mask(seed + 100, smooth)
    found = surface_scores(a, b, SPACING, 1.6)
    hd95 = monai.metrics.compute_hausdorff_distance(batch(a), batch(b), True, percentile=95, spacing=SPACING)
    assd = monai.metrics.compute_average_surface_distance(batch(a), batch(b), True, symmetric=True, spacing=SPACING)
    dice = monai.metrics.compute_surface_dice(batch(a), batch(b), [1.6], True, spacing=SPACING, use_subvoxels=True)
    assert found.hd95_mm == pytest.approx(float(hd95), rel=1e-5)
    assert found.surface_dice == pytest.approx(float(dice), rel=1e-5)
    # MONAI gives the mean over all surface voxels of both, too
    assert found.assd_mm == pytest.approx(float(assd), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_overlap_is_monais_and_surface_distances(seed: int) -> None:
    a, b = random_mask(seed), random_mask(seed + 100)
    expected = float(monai.metrics.compute_dice(batch(a), batch(b)))
    assert dice_per_label(a.astype(np.uint8), b.astype(np.uint8), [1])[1] == pytest.approx(expected)
    assert surface_distance.compute_dice_coefficient(b, a) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("smooth", [0.0, 1.5])
@pytest.mark.parametrize("tolerance", [0.9, 2.0])
def test_surface_scores_are_surface_distances(seed: int, smooth: float, tolerance: float) -> None:
    a, b = random_mask(seed, smooth), random_mask(seed + 100, smooth)
    distances = surface_distance.compute_surface_distances(b, a, SPACING)
    found = surface_scores(a, b, SPACING, tolerance)
    assert found.hd95_elements_mm == pytest.approx(surface_distance.compute_robust_hausdorff(distances, 95))
    expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
    assert found.surface_dice == pytest.approx(expected)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_areas_of_all_256_surface_elements_are_surface_distances(spacing: tuple[float, float, float]) -> None:
    expected = surface_distance.lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    kernel = surface_distance.lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    for code in range(256):
        theirs = sum(int(kernel[corner]) for bit, corner in enumerate(CORNERS) if code >> bit & 1)
        assert element_areas(spacing)[code] == pytest.approx(expected[theirs])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("smooth", [0.0, 1.5])
@pytest.mark.parametrize("thin", [0, 1, 2])
def test_outlines_of_pictures_are_those_of_monai_and_surface_distance(seed: int, smooth: float, thin: int) -> None:
    a, b = (random_mask(number, smooth)[:, :, 5] for number in (seed, seed + 100))
    spacing = (1.0, 1.5)
    prediction, reference = (np.expand_dims(mask, thin).astype(np.uint8) for mask in (a, b))
    in_space = tuple(np.insert(spacing, thin, 4.0).tolist())
    found = score_case(prediction, reference, [1], in_space, 0.001, tolerance_mm=1.6)[1].surface
    hd95 = monai.metrics.compute_hausdorff_distance(batch(a), batch(b), True, percentile=95, spacing=spacing)
    assd = monai.metrics.compute_average_surface_distance(batch(a), batch(b), True, symmetric=True, spacing=spacing)
    assert found.hd95_mm == pytest.approx(float(hd95), rel=1e-5)
    assert found.assd_mm == pytest.approx(float(assd), rel=1e-5)
    distances = surface_distance.compute_surface_distances(b, a, spacing)
    assert found.hd95_elements_mm == pytest.approx(surface_distance.compute_robust_hausdorff(distances, 95))
    assert found.surface_dice == pytest.approx(surface_distance.compute_surface_dice_at_tolerance(distances, 1.6))


def test_the_inside_of_a_picture_is_no_surface() -> None:
    prediction, reference = np.zeros((2, 60, 60, 1), np.uint8)
    reference[10:40, 10:40], prediction[18:48, 10:40] = 1, 1
    score = score_case(prediction, reference, [1], (1.0, 1.0, 1.0), 0.001, tolerance_mm=2)[1]
    assert score.surface.hd95_mm == 8  # the upper and lower side are 8 pixels off
    assert score.surface.surface_dice < 0.6
    slab = score_case(np.repeat(prediction, 2, 2), np.repeat(reference, 2, 2), [1], (1.0, 1.0, 1.0), 0.001)[1]
    assert slab.surface.hd95_mm < 8  # a thin slab of a volume has two large sides, which agree
    single = score_case(np.ones((1, 1, 1), np.uint8), np.ones((1, 1, 1), np.uint8), [1], (1.0, 1.0, 1.0), 0.001)[1]
    assert (single.surface.hd95_mm, single.surface.surface_dice) == (0, 1)


def test_the_area_of_a_plane_is_that_of_the_plane() -> None:
    mask = np.zeros((10, 12, 14), bool)
    mask[:5] = True
    codes = surface_codes(mask)[5, 2:-2, 2:-2]  # away from the volume's border
    assert element_areas((1.0, 1.5, 2.5))[codes] == pytest.approx(1.5 * 2.5)


def test_a_shifted_cube_by_hand() -> None:
    scores = score_case(cube(3).astype(np.uint8), cube(5).astype(np.uint8), [1], (1.0, 1.0, 1.0), 0.001)[1]
    assert scores.overlap == Overlap(tp=4 * 36, fp=2 * 36, fn=2 * 36, tn=8000 - 8 * 36)
    assert scores.overlap.dice == pytest.approx(2 / 3)
    assert scores.overlap.iou == pytest.approx(0.5)
    assert scores.surface.hd95_mm == pytest.approx(2.0)
    assert scores.volume_ml == pytest.approx(0.216)
    assert scores.volume_error_ml == pytest.approx(0.0)


def test_distances_are_in_millimetres() -> None:
    a, b = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    a[4, 4, 2], b[4, 4, 6] = True, True
    found = surface_scores(a, b, (1.0, 1.0, 2.5), 9.9)
    assert (found.hd95_mm, found.assd_mm, found.hd95_elements_mm) == (10.0, 10.0, 10.0)
    assert found.surface_dice == pytest.approx(0.5)  # the sides that face each other are 7.5 mm apart
    assert surface_scores(a, b, (1.0, 1.0, 2.5), 10.0).surface_dice == 1.0


def test_both_empty_is_undefined_and_never_a_free_one() -> None:
    empty = np.zeros((5, 5, 5), np.uint8)
    score = score_case(empty, empty, [1], SPACING, 0.001)[1]
    assert score.empty == "both"
    values = [score.overlap.dice, score.overlap.iou, score.overlap.precision, score.overlap.recall]
    assert all(math.isnan(v) for v in [*values, score.surface.hd95_mm, score.surface.surface_dice])


@pytest.mark.parametrize("which", ["prediction", "reference"])
def test_one_empty_is_zero_at_infinite_distance(which: str) -> None:
    empty, full = np.zeros((20, 20, 20), np.uint8), cube(5).astype(np.uint8)
    pair = (empty, full) if which == "prediction" else (full, empty)
    score = score_case(*pair, [1], SPACING, 0.001)[1]
    assert score.empty == which
    assert (score.overlap.dice, score.overlap.precision, score.overlap.recall) == (0.0, 0.0, 0.0)
    assert (score.surface.hd95_mm, score.surface.assd_mm, score.surface.surface_dice) == (math.inf, math.inf, 0.0)


def test_ignored_voxels_count_nowhere() -> None:
    reference, prediction = cube(5).astype(np.uint8), cube(5).astype(np.uint8)
    reference[12:] = 9
    prediction[12:] = 1
    score = score_case(prediction, reference, [1], SPACING, 0.001, ignore_label=9)[1]
    assert score.overlap == Overlap(tp=216, fp=0, fn=0, tn=12 * 400 - 216)
    assert dice_per_label(prediction, reference, [1], ignore_label=9) == {1: 1.0}


def test_lesions_are_counted_once_whatever_their_size() -> None:
    reference, prediction = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    reference[1:6, 1:6, 1:6] = True  # found by one voxel
    reference[10, 10, 10] = reference[11, 11, 11] = True  # one lesion: they touch by a corner; missed
    reference[15:18, 15:18, 15:18] = True  # found by two parts of the prediction
    prediction[5, 5, 5] = prediction[15, 15, 15] = prediction[17, 17, 17] = True
    prediction[1, 18, 1] = True  # nothing there
    lesions = count_lesions(prediction, reference)
    assert lesions == Lesions(reference=3, predicted=4, detected=2, false_positive=1)
    assert (lesions.sensitivity, lesions.precision) == (pytest.approx(2 / 3), 0.75)
    assert lesions.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_no_lesions_give_no_sensitivity() -> None:
    empty = np.zeros((3, 3, 3), bool)
    assert math.isnan(count_lesions(empty, empty).sensitivity)


def cases() -> dict[str, dict[int, LabelScore]]:
    empty = np.zeros((20, 20, 20), np.uint8)
    pairs = {
        "good": (cube(5), cube(5)),
        "shifted": (cube(3), cube(5)),
        "missed": (empty, cube(5)),
        "nothing": (empty, empty),
    }
    return {
        name: score_case(a.astype(np.uint8), b.astype(np.uint8), [1], (1.0, 1.0, 1.0), 0.001)
        for name, (a, b) in pairs.items()
    }


def test_the_summary_has_nnunets_shape_and_is_json() -> None:
    summary = summarise(cases(), {1: "tumour"}, tolerance_mm=2.0)
    json.dumps(summary, allow_nan=False)
    assert [row["case"] for row in summary["metric_per_case"]] == ["good", "missed", "nothing", "shifted"]
    assert {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"} <= set(
        summary["metric_per_case"][0]["metrics"]["1"]
    )
    assert summary["mean"]["1"]["Dice"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert summary["foreground_mean"]["Dice"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_undefined_cases_are_counted_apart_and_infinite_ones_are_told() -> None:
    entry = summarise(cases(), {1: "tumour"}, tolerance_mm=2.0)["per_label"]["1"]
    assert (entry["cases"], entry["both_empty"], entry["prediction_empty"]) == (4, 1, 1)
    assert (entry["Dice"]["n"], entry["HD95_mm"]["n"], entry["HD95_mm"]["n_infinite"]) == (3, 2, 1)
    low, high = entry["Dice"]["ci95"]
    assert 0 <= low < entry["Dice"]["mean"] < high <= 1


def test_pooled_values_come_from_summed_counts() -> None:
    pooled = summarise(cases(), {1: "t"}, tolerance_mm=2.0)["pooled_over_all_voxels_of_all_cases"]["1"]
    assert pooled["Dice"] == pytest.approx(2 * (216 + 144) / (2 * (216 + 144) + 72 + 72 + 216))
    assert pooled["Lesions"]["detected"] == 2


def test_the_summary_does_not_depend_on_the_order_of_cases() -> None:
    found = cases()
    one = summarise(found, {1: "t"}, tolerance_mm=2.0)
    assert summarise(dict(reversed(found.items())), {1: "t"}, tolerance_mm=2.0) == one


def score_with(tp: int) -> LabelScore:
    """A score whose Dice is ``tp / 100``."""
    return LabelScore(
        Overlap(tp, 100 - tp, 100 - tp, 0), SurfaceScores(1.0, 1.0, 1.0, 1.0), Lesions(1, 1, 1, 0), 1.0, 1.0
    )


def test_rows_are_flat_and_the_table_names_every_label() -> None:
    summary = summarise(cases(), {1: "tumour"}, tolerance_mm=2.0)
    flat = rows(summary)
    assert [row["case"] for row in flat] == ["good", "missed", "nothing", "shifted"]
    assert all(not isinstance(value, dict) for row in flat for value in row.values())
    assert "tumour" in format_summary(summary)
    assert "(1 inf)" in format_summary(summary)


def test_no_cases_give_a_summary_without_numbers() -> None:
    summary = summarise({}, {1: "tumour"}, tolerance_mm=2.0)
    json.dumps(summary, allow_nan=False)
    assert summary["per_label"]["1"]["Dice"]["mean"] is None
    assert "tumour" in format_summary(summary)
