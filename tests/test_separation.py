"""The separation weight map: by hand, against brute force, and on real membranes."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from seg3d.preparation.separation import (
    MAX_CLASS_WEIGHT,
    balancing_weights,
    find_cells,
    separation_weights,
    two_distances,
)

ISBI = Path(__file__).parents[2] / "shared" / "data" / "isbi2012_em" / "label"


def flood(label: NDArray[np.uint8]) -> dict[tuple[int, ...], int]:
    """Cell of each foreground voxel, found by walking from face to face."""
    found: dict[tuple[int, ...], int] = {}
    number = 0
    for start in zip(*np.nonzero(label), strict=True):
        if start in found:
            continue
        number += 1
        reached = [start]
        while reached:
            place = reached.pop()
            if place in found or not all(0 <= p < n for p, n in zip(place, label.shape, strict=True)):
                continue
            if label[place] != label[start]:
                continue
            found[place] = number
            for axis, step in itertools.product(range(3), (-1, 1)):
                reached.append(tuple(p + step * (a == axis) for a, p in enumerate(place)))
    return found


def brute_force(
    label: NDArray[np.uint8], w0: float, sigma: float, spacing: tuple[float, float, float] = (1, 1, 1)
) -> NDArray[np.float64]:
    """The equation as it is written: every background voxel against every voxel of every cell."""
    cells = flood(label)
    counts = {value: int((label == value).sum()) for value in np.unique(label)}
    weights = np.zeros(label.shape)
    for place in np.ndindex(label.shape):
        weights[place] = label.size / (len(counts) * counts[label[place]])
        if label[place]:
            continue
        nearest: dict[int, float] = {}
        for voxel, cell in cells.items():
            steps = (s * (a - b) for s, a, b in zip(spacing, place, voxel, strict=True))
            nearest[cell] = min(nearest.get(cell, math.inf), math.sqrt(sum(step**2 for step in steps)))
        if len(nearest) > 1:
            d1, d2 = sorted(nearest.values())[:2]
            weights[place] += w0 * math.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return weights


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("shape", "spacing"), [((17, 14, 1), (1.0, 1.0, 1.0)), ((8, 7, 6), (1.0, 1.0, 1.0)), ((9, 6, 5), (0.5, 0.8, 3.0))]
)
def test_weights_are_those_of_brute_force(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int
) -> None:
    # many small cells, some of which meet at corners or edges, with two labels that touch
    noise = np.random.default_rng(seed)
    label = (noise.random(shape) > 0.8).astype(np.uint8) * noise.integers(1, 3, shape, dtype=np.uint8)
    found = separation_weights(label, sigma=3.0, spacing=spacing)
    assert len(set(flood(label).values())) > 8
    np.testing.assert_allclose(found, brute_force(label, 10.0, 3.0, spacing), atol=1e-5, rtol=0)


def test_two_cells_two_apart_weigh_as_worked_out() -> None:
    label = np.zeros((5, 1, 1), np.uint8)
    label[[1, 3]] = 1
    weights = separation_weights(label, class_balance=False)[:, 0, 0]
    # between: both at 1; outside: one at 1, one at 3; in the cells: no term
    expected = [1 + 10 * math.exp(-16 / 50), 1, 1 + 10 * math.exp(-4 / 50), 1, 1 + 10 * math.exp(-16 / 50)]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_cells_that_meet_at_a_corner_are_two() -> None:
    label = np.zeros((4, 4, 1), np.uint8)
    label[1, 1] = label[2, 2] = 1
    assert find_cells(label).max() == 2
    assert separation_weights(label, class_balance=False)[1, 2, 0] == pytest.approx(1 + 10 * math.exp(-4 / 50))
    label[1, 2] = 1  # joined through faces
    assert find_cells(label).max() == 1
    assert (separation_weights(label, class_balance=False) == 1).all()


def test_touching_cells_are_told_apart_by_their_numbers() -> None:
    label = np.zeros((6, 3, 1), np.uint8)
    label[1:5, 1] = 1
    cells = label.astype(np.int32) * 7  # any numbers do
    cells[3:5, 1] = 70_000
    weights = separation_weights(label, class_balance=False, instances=cells)
    assert weights[2, 0, 0] == pytest.approx(1 + 10 * math.exp(-((1 + math.sqrt(2)) ** 2) / 50))
    assert (weights[label == 1] == 1).all()


@pytest.mark.parametrize("cells", [0, 1])
def test_fewer_than_two_cells_have_no_border(cells: int) -> None:
    label = np.zeros((6, 6, 2), np.uint8)
    label[:2, :2] = cells
    assert (separation_weights(label, class_balance=False) == 1).all()
    d1, d2 = two_distances(find_cells(label), label == 0, (1, 1, 1))
    assert np.isfinite(d1).all() == bool(cells)
    assert np.isinf(d2).all()


def test_a_volume_without_background_has_class_weights_alone() -> None:
    label = np.ones((3, 3, 3), np.uint8)
    label[0] = 2
    weights = separation_weights(label)
    assert (weights[0] == 1.5).all()
    assert (weights[1:] == 0.75).all()


def test_classes_weigh_the_same_in_sum_and_1_in_the_mean() -> None:
    label = np.zeros((10, 10, 1), np.uint8)
    label[:4, :5] = 1
    label[9, 9] = 2
    weights = separation_weights(label, w0=0.0)
    sums = [float(weights[label == value].sum()) for value in range(3)]
    np.testing.assert_allclose(sums, 100 / 3, rtol=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_a_rare_class_is_limited_so_that_float16_holds_every_weight() -> None:
    label = np.zeros((300, 300, 1), np.uint8)
    label[7, 7] = label[7, 9] = 1
    weights = separation_weights(label)
    assert weights.dtype == np.float32
    assert weights.max() == MAX_CLASS_WEIGHT
    assert np.abs(weights.astype(np.float16) / weights - 1).max() <= 2**-11
    assert balancing_weights({0: 10**9, 1: 1, 2: 0}) == {0: pytest.approx(0.5), 1: MAX_CLASS_WEIGHT}


def test_class_weights_of_a_whole_training_set_may_be_given() -> None:
    label = np.zeros((3, 1, 1), np.uint8)
    label[1] = 4
    weights = separation_weights(label, class_balance={0: 2.0, 4: 0.5, 9: 1.0})
    assert weights[:, 0, 0].tolist() == [2.0, 0.5, 2.0]
    with pytest.raises(ValueError, match=r"none for \[4\]"):
        separation_weights(label, class_balance={0: 1.0})


def test_ignored_voxels_weigh_nothing_and_are_no_cell() -> None:
    label = np.zeros((6, 1, 1), np.uint8)
    label[1], label[3] = 1, 255
    weights = separation_weights(label, ignore_label=255)[:, 0, 0]
    assert weights.tolist() == pytest.approx([0.625, 2.5, 0.625, 0, 0.625, 0.625])
    label[5] = 1
    weights = separation_weights(label, class_balance=False, ignore_label=255)[:, 0, 0]
    assert weights[2] == pytest.approx(1 + 10 * math.exp(-16 / 50))
    assert weights[3] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"w0": -1.0},
        {"w0": 70_000.0},
        {"sigma": 0.0},
        {"sigma": math.nan},
        {"spacing": (1.0, 0.0, 1.0)},
        {"instances": np.zeros((3, 3, 2), np.int32)},
        {"class_balance": {0: math.inf}},
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got"):
        separation_weights(np.zeros((3, 3, 1), np.uint8), **options)


@pytest.mark.real_data
@pytest.mark.skipif(not ISBI.is_dir(), reason="no real data: ../shared/data/isbi2012_em")
def test_membranes_between_real_cells_weigh_most() -> None:
    from PIL import Image

    label = (np.asarray(Image.open(ISBI / "0.png")).T[..., None] > 0).astype(np.uint8)
    start = time.perf_counter()
    weights = separation_weights(label)
    assert time.perf_counter() - start < 20  # about half a second; this catches a transform per cell
    membrane = weights[label == 0]
    assert weights.shape == (512, 512, 1)
    assert weights[label == 1].max() == weights[label == 1].min() == pytest.approx(label.size / 2 / label.sum())
    assert 10 < membrane.max() <= MAX_CLASS_WEIGHT + 10
    assert np.median(membrane) > 2 * membrane.min()  # most membranes are thin
