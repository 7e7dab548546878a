"""Cell scores: answers known by hand, against counted pairs and scikit-image; and the extra scores of evaluate."""

from __future__ import annotations

import collections
import itertools
import json
import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scans import write_nifti
from scipy import ndimage
from skimage.metrics import adapted_rand_error, contingency_table, variation_of_information
from typer.testing import CliRunner, Result

from seg3d.cli import app
from seg3d.errors import DataError, FaultsError
from seg3d.metrics.cell_summary import summarise_cells
from seg3d.metrics.cells import THRESHOLDS, CellScore, cell_scores, mean_score, partition_score, thin_borders
from seg3d.metrics.soft import SoftOverlap, pooled_soft_dice, soft_overlap
from seg3d.verbs.evaluate import evaluate, format_summary

ISBI = Path(__file__).parents[2] / "shared" / "data" / "isbi2012_em" / "label"


def row(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers)[:, None]


def counted_pairs(segments: NDArray[np.int64], cells: NDArray[np.int64]) -> CellScore:
    """The scores by going through all pairs of pixels, and through all pixels for the information."""
    pixels = [
        ((number, s) if s == 0 else s, t)  # each border is a segment of its own
        for number, (s, t) in enumerate(zip(segments.ravel().tolist(), cells.ravel().tolist(), strict=True))
        if t > 0
    ]
    same_s = same_t = same_both = 0
    for (s, t), (s2, t2) in itertools.product(pixels, repeat=2):  # ordered pairs, a pixel with itself among them
        same_s, same_t, same_both = same_s + (s == s2), same_t + (t == t2), same_both + (s == s2 and t == t2)
    n = len(pixels)
    joint = collections.Counter(pixels)
    of_s, of_t = (collections.Counter(pixel[side] for pixel in pixels) for side in (0, 1))
    shared = sum(c / n * math.log(c * n / (of_s[s] * of_t[t])) for (s, t), c in joint.items())
    h_s, h_t = (-sum(c / n * math.log(c / n) for c in counts.values()) for counts in (of_s, of_t))
    return CellScore(
        2 * same_both / (same_s + same_t),
        same_both / same_t,
        same_both / same_s,
        2 * shared / (h_s + h_t),
        shared / h_s,
        shared / h_t,
    )


@pytest.mark.parametrize("seed", range(6))
def test_scores_are_those_of_counted_pairs(seed: int) -> None:
    noise = np.random.default_rng(seed)
    cells, segments = noise.integers(0, 5, (2, 9, 8))
    segments = np.where(noise.random(cells.shape) < 0.6, cells, segments)  # mostly right
    found = partition_score(segments, cells)
    np.testing.assert_allclose(astuple(found), astuple(counted_pairs(segments, cells)), rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_scores_are_those_of_scikit_image(seed: int) -> None:
    noise = np.random.default_rng(seed)
    cells = ndimage.zoom(noise.integers(0, 4, (5, 5)), 6, order=0)
    segments = 1 + ndimage.zoom(noise.integers(0, 5, (6, 6)), 5, order=0)
    found = partition_score(segments, cells)
    table = contingency_table(cells, segments, ignore_labels=(0,), normalize=True).toarray()
    pairs, s, t = (table**2).sum(), (table.sum(axis=0) ** 2).sum(), (table.sum(axis=1) ** 2).sum()
    np.testing.assert_allclose((found.rand_split, found.rand_merge), (pairs / t, pairs / s), rtol=1e-12)
    # scikit-image leaves out the pairs of a pixel with itself
    once = 1 / np.count_nonzero(cells)
    error, *_ = adapted_rand_error(cells, segments)
    assert 2 * (pairs - once) / (s + t - 2 * once) == pytest.approx(1 - error)
    assert found.rand == pytest.approx(2 * pairs / (s + t))
    # conditional entropies, in bits: of the segments given the cells, of the cells given the segments
    splits, merges = variation_of_information(cells, segments, ignore_labels=(0,))
    h_s, h_t = (-sum(p * math.log2(p) for p in table.sum(axis=axis) if p) for axis in (0, 1))
    assert found.info_split == pytest.approx(1 - splits / h_s)
    assert found.info_merge == pytest.approx(1 - merges / h_t)
    assert found.info == pytest.approx(1 - (splits + merges) / (h_s + h_t))


def test_the_right_cells_under_other_numbers_are_perfect() -> None:
    cells = row(1, 1, 1, 0, 2, 2, 0, 3)
    assert partition_score(row(9, 9, 9, 5, 4, 4, 5, 7), cells) == CellScore(1, 1, 1, 1, 1, 1)


def test_one_merged_pair_of_three_equal_cells_is_as_worked_out() -> None:
    found = partition_score(row(1, 1, 1, 1, 2, 2), row(1, 1, 2, 2, 3, 3))
    assert (found.rand, found.rand_split, found.rand_merge) == pytest.approx((0.75, 1, 3 / 5))
    shared = math.log(3) - 2 / 3 * math.log(2)
    expected = (2 * shared / (shared + math.log(3)), 1, shared / math.log(3))
    assert (found.info, found.info_split, found.info_merge) == pytest.approx(expected)


def test_one_split_of_three_equal_cells_is_as_worked_out() -> None:
    found = partition_score(row(1, 2, 3, 3, 4, 4), row(1, 1, 2, 2, 3, 3))
    assert (found.rand, found.rand_split, found.rand_merge) == pytest.approx((10 / 11, 5 / 6, 1))
    whole = math.log(3) + math.log(2) / 3
    assert (found.info_split, found.info_merge) == pytest.approx((math.log(3) / whole, 1))


def test_everything_merged_or_a_single_cell_split_has_no_information() -> None:
    assert partition_score(row(1, 1, 1, 1), row(1, 1, 2, 2)) == CellScore(2 / 3, 1, 0.5, 0, 1, 0)
    assert partition_score(row(1, 1, 2, 2), row(1, 1, 1, 1)) == CellScore(2 / 3, 0.5, 1, 0, 0, 1)
    assert partition_score(row(3, 3), row(1, 1)) == CellScore(1, 1, 1, 1, 1, 1)


def test_what_is_no_cell_of_the_reference_counts_nowhere() -> None:
    cells = row(1, 1, 0, 0, 2, 2)
    assert partition_score(row(1, 1, 7, 0, 2, 2), cells) == partition_score(row(1, 1, 1, 2, 2, 2), cells)
    assert all(map(math.isnan, astuple(partition_score(row(1, 2), row(0, 0)))))


def test_each_border_in_a_cell_is_a_segment_of_its_own() -> None:
    cells = row(1, 1, 1, 1, 2, 2)
    assert partition_score(row(1, 1, 0, 0, 2, 2), cells) == partition_score(row(1, 1, 8, 9, 2, 2), cells)


def grid_of_cells(membrane: int, gap: bool = False) -> NDArray[np.bool_]:
    """Nine cells whose membranes have their middles at 20 and 41; perhaps a gap of a pixel in one of them."""
    inside = np.ones((62, 62), bool)
    for middle in (20, 41):
        band = slice(middle - membrane // 2, middle + membrane // 2 + 1)
        inside[band], inside[:, band] = False, False
    if gap:
        inside[18:23, 10] = True
    return inside


@pytest.mark.parametrize("membrane", [3, 5, 9])
def test_the_thickness_of_membranes_does_not_matter(membrane: int) -> None:
    reference, prediction = grid_of_cells(1), grid_of_cells(membrane)
    segments = thin_borders(prediction)
    assert segments.max() == 9
    assert (segments[reference] > 0).all()
    assert np.count_nonzero(segments[~reference]) <= 4  # where four cells meet, the middle may go to one of them
    assert cell_scores(prediction[..., None], reference[..., None], (0.5,))[0.5] == CellScore(1, 1, 1, 1, 1, 1)


def test_a_gap_of_one_pixel_merges_two_cells() -> None:
    found = cell_scores(grid_of_cells(3, gap=True)[..., None], grid_of_cells(3)[..., None], (0.5,))[0.5]
    assert found.rand_split == 1
    assert found.rand_merge < 0.85
    assert found.info_merge < 0.95


def test_a_membrane_that_ends_in_a_cell_is_gone_after_thinning() -> None:
    prediction = grid_of_cells(3)
    prediction[9:11, 2:14] = False
    reference = grid_of_cells(1)
    np.testing.assert_array_equal(thin_borders(prediction)[reference], ndimage.label(reference)[0][reference])


def test_borders_are_one_pixel_thin_and_keep_segments_apart() -> None:
    inside = ndimage.gaussian_filter(np.random.default_rng(3).random((80, 70)), 3) > 0.5
    segments = thin_borders(inside)
    assert segments.max() == ndimage.label(inside)[1] > 5
    neighbours = np.stack(
        [np.roll(np.pad(segments, 1), shift, axis)[1:-1, 1:-1] for axis in (0, 1) for shift in (1, -1)]
    )
    for own, around in zip(segments.ravel(), neighbours.reshape(4, -1).T, strict=True):
        others = set(around.tolist()) - {0}
        assert others <= {own} if own else len(others) > 1


def test_a_prediction_without_any_cell_is_one_segment() -> None:
    assert (thin_borders(np.zeros((4, 5), bool)) == 1).all()
    found = cell_scores(np.zeros((62, 62, 1), bool), grid_of_cells(3)[..., None], (0.5,))[0.5]
    assert (found.rand_split, found.info) == (1, 0)


def test_slices_are_scored_apart_and_those_without_cells_left_out() -> None:
    right, merged = grid_of_cells(3), grid_of_cells(3, gap=True)
    reference = np.stack([right, right, np.zeros_like(right)], axis=2)
    prediction = np.stack([right, merged, right], axis=2)
    alone = cell_scores(merged[..., None], right[..., None], (0.5,))[0.5]
    found = cell_scores(prediction, reference, (0.5,))[0.5]
    assert astuple(found) == pytest.approx([(1 + value) / 2 for value in astuple(alone)])
    nothing = cell_scores(prediction, np.zeros_like(reference), (0.5,))[0.5]
    assert math.isnan(nothing.rand)
    assert math.isnan(mean_score([]).info)


def leaky_probability() -> NDArray[np.float32]:
    """Nine cells; a membrane has a weak spot, and there is another membrane of low probability inside a cell."""
    probability = np.where(grid_of_cells(3), 0.95, 0.05).astype(np.float32)
    probability[19:22, 10] = 0.75  # joined unless the threshold is 0.8
    probability[50, 42:] = 0.85  # split above it
    return probability


def test_thresholds_join_and_split_cells_as_they_should() -> None:
    found = cell_scores(leaky_probability()[..., None], grid_of_cells(3)[..., None])
    assert list(found) == list(THRESHOLDS)
    assert 0.5 in found
    assert found[0.0].rand_merge < found[0.5].rand_merge < 1
    assert found[0.5].rand_split == 1
    assert found[0.8] == CellScore(1, 1, 1, 1, 1, 1)
    assert found[0.9].rand_split < found[0.9].rand_merge == 1


def test_one_threshold_serves_all_cases_and_0_5_is_always_told() -> None:
    reference = grid_of_cells(3)[..., None]
    cases = {"a": cell_scores(leaky_probability()[..., None], reference), "b": cell_scores(1.0 * reference, reference)}
    summary = summarise_cells(cases, "cell")
    assert summary["best_one_threshold"]["V_Rand"]["threshold"] == 0.8
    assert summary["best_one_threshold"]["V_Info"]["V_Info"] == 1
    expected = (cases["a"][0.5].rand + 1) / 2
    assert summary["at_0.5"]["V_Rand"]["mean"] == summary["by_threshold"]["0.5"]["V_Rand"] == pytest.approx(expected)
    assert summary["at_0.5"]["V_Rand"]["n"] == 2
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summarise_cells(dict(reversed(cases.items())), "cell") == summary


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        cell_scores(np.ones((4, 4, 1)), np.ones((4, 5, 1), bool))
    with pytest.raises(ValueError, match="one shape"):
        partition_score(np.ones((4, 4), int), np.ones((4, 1), int))


@pytest.mark.real_data
@pytest.mark.skipif(not ISBI.is_dir(), reason="no real data: ../shared/data/isbi2012_em")
def test_real_cells_suffer_from_gaps_and_not_from_thick_membranes() -> None:
    from PIL import Image

    reference = np.asarray(Image.open(ISBI / "0.png")).T[..., None] > 0
    thick = ndimage.binary_erosion(reference, np.ones((3, 3, 1)), border_value=1)
    thin = ndimage.binary_dilation(reference, np.ones((3, 3, 1)))
    right, worse, gaps = (cell_scores(mask, reference, (0.5,))[0.5] for mask in (reference, thick, thin))
    assert right.rand > 0.999  # no border runs inside a cell
    assert worse.rand > 0.98
    assert gaps.rand_merge < 0.9 < 0.99 < gaps.rand_split


def test_soft_dice_is_as_worked_out_and_pooled() -> None:
    probability = np.array([0.5, 1.0, 0.25, 0.0], np.float32).reshape(4, 1, 1)
    reference = np.array([True, True, False, False]).reshape(4, 1, 1)
    one = soft_overlap(probability, reference)
    assert one == SoftOverlap(1.5, 1.75, 2)
    ignored = soft_overlap(probability, reference, np.array([True, False, True, True]).reshape(4, 1, 1))
    assert ignored == SoftOverlap(0.5, 0.75, 1)
    assert pooled_soft_dice({"a": one, "b": SoftOverlap(0, 0.25, 0)}) == 3 / 4
    assert math.isnan(pooled_soft_dice({}))
    assert math.isnan(pooled_soft_dice({"a": SoftOverlap(0, 0, 0)}))


def test_soft_sums_are_exact_in_spite_of_float32() -> None:
    probability = np.full((1, 1, 2**24 + 2), 1, np.float32)  # which float32 cannot count
    assert soft_overlap(probability, np.ones(probability.shape, bool)).probability == 2**24 + 2


SHAPE = (62, 62, 1)


def make_cells(folder: Path, probabilities: bool = True) -> None:
    """Two pictures of nine cells, label 1: one right, one with a weak spot in a membrane."""
    for name, probability in (("a", leaky_probability()), ("b", np.where(grid_of_cells(3), 0.92, 0.08))):
        write_nifti(folder / "labels" / f"{name}.nii.gz", grid_of_cells(3).astype(np.uint8).reshape(SHAPE))
        write_nifti(folder / "found" / f"{name}.nii.gz", (probability > 0.5).astype(np.uint8).reshape(SHAPE))
        if probabilities:
            path = folder / "found" / "probabilities" / f"{name}_probability_1.nii.gz"
            write_nifti(path, probability.astype(np.float32).reshape(SHAPE))


def call(folder: Path, *arguments: object) -> Result:
    paths = ("evaluate", folder / "found", folder / "labels", "--output", folder / "s.json")
    return CliRunner().invoke(app, [str(argument) for argument in (*paths, *arguments)])


def test_evaluate_scores_cells_and_soft_dice_where_there_are_probabilities(tmp_path: Path) -> None:
    make_cells(tmp_path)
    done = call(tmp_path, "--cells", "label 1")
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "s.json").read_text())
    by_hand = cell_scores(leaky_probability()[..., None], grid_of_cells(3)[..., None])
    first, second = summary["metric_per_case"]
    assert first["cells"]["0.5"]["V_Rand"] == pytest.approx(by_hand[0.5].rand)
    assert second["cells"]["0.5"]["V_Info"] == 1
    assert summary["cells"]["at_0.5"]["V_Rand"]["mean"] == pytest.approx((by_hand[0.5].rand + 1) / 2)
    assert summary["cells"]["best_one_threshold"]["V_Rand"]["threshold"] == 0.8
    wanted = grid_of_cells(3)
    other = np.where(wanted, 0.92, 0.08)
    both = leaky_probability()[wanted].sum(dtype=float) + other[wanted].sum()
    whole = leaky_probability().sum(dtype=float) + other.sum() + 2 * wanted.sum()
    assert summary["pooled_soft_dice"]["1"]["value"] == pytest.approx(2 * both / whole)
    assert "not comparable" in summary["rules"]["pooled_soft_dice"]
    assert "flatters" in summary["rules"]["cells best_one_threshold"]
    for words in ("V_Rand", "at 0.8", "pooled soft Dice", "pixel accuracy"):
        assert words in done.output


def test_evaluate_scores_cells_of_label_maps_alone_at_one_threshold(tmp_path: Path) -> None:
    make_cells(tmp_path, probabilities=False)
    summary = evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json", cells="1")
    assert list(summary["cells"]["by_threshold"]) == ["0.5"]
    assert summary["cells"]["best_one_threshold"] == {"V_Rand": None, "V_Info": None}
    assert "pooled_soft_dice" not in summary
    assert "best of all" not in format_summary(summary)


def test_cells_may_be_the_background_between_membranes(tmp_path: Path) -> None:
    make_cells(tmp_path)
    right = evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json", cells="1")
    for path in (*tmp_path.glob("*/*.nii.gz"), *tmp_path.glob("found/probabilities/*.nii.gz")):
        import nibabel as nib

        data = np.asanyarray(nib.load(path).dataobj)
        write_nifti(path, (1 - data).astype(data.dtype))
    turned = evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json", cells="0")
    assert turned["cells"]["by_threshold"] == right["cells"]["by_threshold"]


def test_without_the_option_and_without_probabilities_nothing_is_added(tmp_path: Path) -> None:
    make_cells(tmp_path, probabilities=False)
    summary = evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json")
    assert not {"cells", "pooled_soft_dice"} & {*summary, *summary["metric_per_case"][0]}


def test_a_case_without_probability_leaves_the_pooled_value_undefined_and_is_named(tmp_path: Path) -> None:
    make_cells(tmp_path)
    (tmp_path / "found" / "probabilities" / "b_probability_1.nii.gz").unlink()
    summary = evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json")
    entry = summary["pooled_soft_dice"]["1"]
    assert (entry["value"], entry["cases"], entry["without_probability"]) == (None, 1, ["b"])
    assert "soft" not in format_summary(summary)


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (np.full(SHAPE, 1.5, np.float32), "no probabilities"),
        (np.full(SHAPE, math.nan, np.float32), "no probabilities"),
        (np.zeros((62, 61, 1), np.float32), "another grid"),
    ],
)
def test_a_probability_map_that_cannot_be_one_is_told_and_nothing_is_written(
    tmp_path: Path, probability: NDArray[np.float32], words: str
) -> None:
    make_cells(tmp_path)
    write_nifti(tmp_path / "found" / "probabilities" / "a_probability_1.nii.gz", probability)
    with pytest.raises(FaultsError, match=words):
        evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()


def test_whole_numbers_hold_parts_of_their_largest_value(tmp_path: Path) -> None:
    make_cells(tmp_path)
    path = tmp_path / "found" / "probabilities" / "a_probability_1.nii.gz"
    write_nifti(path, np.round(leaky_probability() * 65535).astype(np.uint16).reshape(SHAPE))
    exact = evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json")["pooled_soft_dice"]["1"]["value"]
    write_nifti(path, leaky_probability().reshape(SHAPE))
    again = evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json")["pooled_soft_dice"]["1"]["value"]
    assert exact == pytest.approx(again, abs=1e-5)


def test_an_unknown_label_of_cells_is_told(tmp_path: Path) -> None:
    make_cells(tmp_path)
    with pytest.raises(DataError, match=r"--cells.*nucleus"):
        evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json", cells="nucleus")


def test_controls_are_told_by_their_false_positives(tmp_path: Path) -> None:
    nothing, lesion = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    lesion[:2, :2, :2] = 1
    pairs = {
        "ill": (lesion, lesion),
        "fine": (nothing, nothing),
        "alarm": (lesion, nothing),
        "fine2": (nothing, nothing),
    }
    for name, (found, wanted) in pairs.items():
        write_nifti(tmp_path / "found" / f"{name}.nii.gz", found)
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", wanted)
    summary = evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json")
    entry = summary["negatives"]["1"]
    assert (entry["cases"], entry["cases_with_false_positives"]) == (3, 1)
    assert entry["false_positive_voxels"] == {"mean": 8 / 3, "median": 0, "max": 8}
    assert entry["false_positive_mL"] == {"mean": pytest.approx(0.008 / 3), "median": 0, "max": pytest.approx(0.008)}
    text = format_summary(summary)
    assert "wrongly found in 1 of 3 cases" in text
    assert "accuracy" not in text  # these are volumes
