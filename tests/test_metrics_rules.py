"""Rules of the metrics that are easy to get wrong, with answers known by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from seg3d.metrics import (
    Bootstrap,
    Lesions,
    Overlap,
    count_label,
    count_lesions,
    dice_per_label,
    format_summary,
    rows,
    score_case,
    summarise,
    surface_scores,
)

UNIT = (1.0, 1.0, 1.0)


def cube(start=(2, 2, 2), size=4, label=1):
    volume = np.zeros((20, 12, 12), np.uint8)
    volume[tuple(slice(s, s + size) for s in start)] = label
    return volume


def scored(prediction, reference, labels=(1,), **options):
    return score_case(prediction, reference, labels, UNIT, 0.001, **options)


def some_cases():
    nothing = np.zeros((20, 12, 12), np.uint8)
    pairs = {
        "c": (cube(), cube()),
        "a": (cube((3, 2, 2)), cube()),
        "d": (nothing, cube(size=2)),
        "b": (nothing, nothing),
    }
    return {case: scored(*pair, (0, 1, 2)) for case, pair in pairs.items()}


def summary_of(per_case, **options):
    return summarise(per_case, {1: "lesion", 2: "absent"}, tolerance_mm=1, **options)


def test_a_cube_shifted_by_one_voxel_has_the_counts_one_can_work_out():
    overlap = count_label(cube((3, 2, 2)), cube(), 1)
    assert overlap == Overlap(tp=48, fp=16, fn=16, tn=20 * 12 * 12 - 80)
    assert (overlap.dice, overlap.iou, overlap.precision, overlap.recall) == (0.75, 0.6, 0.75, 0.75)


def test_ignored_voxels_count_nowhere():
    reference, prediction = cube(), cube()
    reference[10:] = 255
    prediction[10:] = 1  # wrong everywhere, where nobody looks
    assert count_label(prediction, reference, 1, 255) == Overlap(64, 0, 0, 10 * 144 - 64)
    assert dice_per_label(prediction, reference, [1], ignore_label=255) == {1: 1.0}
    assert dice_per_label(prediction, reference, [1])[1] < 0.2
    assert math.isnan(dice_per_label(reference, reference, [255], ignore_label=255)[255])
    score = scored(prediction, reference, ignore_label=255)[1]
    assert (score.overlap.tn, score.surface.hd95_mm, score.lesions.false_positive) == (1376, 0, 0)


def test_memory_order_strides_and_type_do_not_matter():
    prediction, reference = np.random.default_rng(0).integers(0, 3, (2, 9, 10, 11))
    backwards = np.asfortranarray(prediction[::-1].astype(np.int16))[::-1]
    other = np.asfortranarray(reference.astype(np.uint8))
    assert scored(backwards, other, (1, 2)) == scored(prediction, reference, (1, 2))


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_what_lies_on_the_tolerance_is_within_it(shift):
    a, b = np.zeros((2, 12, 7, 7), bool)
    a[2], b[2 + shift] = True, True
    scores = surface_scores(a, b, (0.1, 5, 5), shift / 10)
    assert (scores.hd95_mm, scores.assd_mm) == (pytest.approx(0.1 * shift),) * 2
    assert scores.surface_dice == 1  # although 3 * 0.1 > 0.3 in floating point
    assert surface_scores(a, b, (0.1, 5, 5), shift / 10 - 0.01).surface_dice < 1


def test_hd95_is_the_larger_direction():
    reference = np.zeros((60, 9, 9), bool)
    reference[:3] = True
    prediction = reference.copy()
    prediction[40:43] = True  # half of the prediction is far off, all of the reference is found
    assert surface_scores(reference, prediction, UNIT, 1) == surface_scores(prediction, reference, UNIT, 1)
    assert surface_scores(prediction, reference, UNIT, 1).hd95_mm == pytest.approx(40)


def test_lesions_are_counted_once_whatever_their_size():
    reference, prediction = np.zeros((2, 30, 8, 8), bool)
    reference[1:6, 1:6, 1:6] = True  # found by one voxel
    prediction[5:7, 5:7, 5:7] = True
    reference[10, 1, 1] = reference[11, 2, 2] = True  # one lesion by a corner, missed
    prediction[20, 1, 1] = prediction[22, 1, 1] = True  # two false alarms
    lesions = count_lesions(prediction, reference)
    assert lesions == Lesions(reference=2, predicted=3, detected=1, false_positive=2)
    assert (lesions.sensitivity, lesions.precision, lesions.f1) == (1 / 2, 1 / 3, 2 / 5)


def test_means_counts_and_empty_cases_are_as_worked_out():
    summary = summary_of(some_cases())
    entry = summary["per_label"]["1"]
    assert (entry["cases"], entry["both_empty"], entry["one_empty"]) == (4, 1, 1)
    assert entry["Dice"]["mean"] == summary["mean"]["1"]["Dice"] == pytest.approx(1.75 / 3)
    assert (summary["mean"]["1"]["TP"], summary["foreground_mean"]["TP"]) == (28, 14)
    assert summary["mean"]["2"]["Dice"] is None
    assert summary["foreground_mean"]["Dice"] == entry["Dice"]["mean"]
    by_case = {c["case"]: c["metrics"]["1"] for c in summary["metric_per_case"]}
    assert (by_case["d"]["HD95_mm"], by_case["b"]["HD95_mm"]) == ("inf", None)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_foreground_dice_leaves_out_labels_nobody_named():
    found = summary_of(some_cases())["foreground_dice"]  # the scores hold the background, with a Dice near 1
    assert (found["mean"], found["n"]) == (pytest.approx(1.75 / 3), 3)


def test_a_summary_depends_on_its_inputs_alone():
    per_case = some_cases()
    turned = {case: dict(reversed(per_case[case].items())) for case in reversed(per_case)}
    assert json.dumps(summary_of(per_case)) == json.dumps(summary_of(turned))


def test_the_seed_moves_the_interval_and_not_the_mean():
    one, two = (summary_of(some_cases(), bootstrap=Bootstrap(25, s))["per_label"]["1"] for s in (0, 1))
    assert any(one[m]["ci95"] != two[m]["ci95"] for m in ("Dice", "IoU", "VolumeError_mL", "SurfaceDice"))
    assert [one[m]["mean"] for m in ("Dice", "IoU")] == [two[m]["mean"] for m in ("Dice", "IoU")]


def test_one_case_has_no_interval_and_none_has_no_mean():
    one = summary_of({"a": some_cases()["a"]})["per_label"]["1"]["Dice"]
    assert (one["mean"], one["ci95"]) == (0.75, None)
    none = summary_of({})
    json.dumps(none, allow_nan=False)
    assert "foreground Dice over 0 cases" in format_summary(none)


def test_the_table_tells_the_worst_cases_and_the_infinite_distances():
    summary = summary_of(some_cases())
    text = format_summary(summary)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("worst")] == ["d", "a", "c"]
    assert "(1 inf)" in text
    assert "2 of 3" in text
    assert len({tuple(row) for row in rows(summary)}) == 1


def test_accuracy_counts_the_background_and_is_defined_without_foreground():
    score = scored(cube((3, 2, 2)), cube())[1].overlap
    assert score.accuracy == 1 - 32 / 2880
    assert Overlap(0, 0, 0, 5).accuracy == 1
    assert math.isnan(Overlap(0, 0, 0, 0).accuracy)
    summary = summary_of(some_cases())
    by_case = {c["case"]: c["metrics"]["1"]["Accuracy"] for c in summary["metric_per_case"]}
    assert by_case == {"a": 1 - 32 / 2880, "b": 1, "c": 1, "d": 1 - 8 / 2880}
    assert summary["per_label"]["1"]["Accuracy"]["n"] == 4
    pooled = summary["pooled_over_all_voxels_of_all_cases"]["1"]
    assert pooled["Accuracy"] == (pooled["TP"] + pooled["TN"]) / (4 * 2880) == 1 - 40 / (4 * 2880)
    assert "flatters" in summary["rules"]["accuracy"]


def test_negatives_are_the_cases_without_the_label_and_labels_without_any_are_left_out():
    found = summary_of(some_cases())["negatives"]
    assert {label: entry["cases"] for label, entry in found.items()} == {"1": 1, "2": 4}
    assert found["2"]["cases_with_false_positives"] == 0
    alarms = {"a": scored(cube(), 0 * cube(), (1, 2)), "b": scored(cube(label=2), cube(label=2), (1, 2))}
    found = summary_of(alarms)["negatives"]
    assert found["1"]["false_positive_voxels"] == {"mean": 32, "median": 32, "max": 64}
    assert found["1"]["false_positive_mL"]["max"] == pytest.approx(0.064)
    assert found["2"]["cases"] == 1
    always = {"a": scored(cube(), cube(), (1, 2))}
    assert "1" not in summary_of(always)["negatives"]
    assert "negatives: absent wrongly found in 0 of 1 cases" in format_summary(summary_of(always))
