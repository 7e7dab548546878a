"""The index of a label map equals what is counted over the whole map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.label_index import BLOCK, class_boxes, count_blocks, count_slices, find_cut_off, find_lesions


def label_map(shape: tuple[int, int, int], values: list[int], seed: int) -> NDArray[np.uint8]:
    """A map ``(x, y, z)`` with a few boxes of each value."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8, order="F" if seed % 2 else "C")
    for value in values:
        for _ in range(3):
            start = [int(rng.integers(n)) for n in shape]
            label[tuple(slice(a, a + int(rng.integers(1, 9))) for a in start)] = value
    return label


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 40), st.integers(1, 36)),
    st.lists(st.integers(1, 6), max_size=3),
    st.integers(0, 99),
)
def test_boxes_do_not_change_what_is_counted(shape: tuple[int, int, int], values: list[int], seed: int) -> None:
    label = label_map(shape, values, seed)
    boxes = class_boxes(label)
    for value in (0, 1, 2, 6):
        mask = label == value
        blocks = count_blocks(label, value, boxes)
        for place in np.ndindex(*blocks.shape):
            assert blocks[place] == mask[tuple(slice(n * BLOCK, (n + 1) * BLOCK) for n in place)].sum()
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            np.testing.assert_array_equal(count_slices(label, value, boxes, axis), mask.sum(others))


@given(st.lists(st.integers(1, 4), max_size=3), st.integers(0, 99))
def test_lesions_are_those_of_the_whole_map(values: list[int], seed: int) -> None:
    label = label_map((30, 24, 20), values, seed)
    box, numbers, rows = find_lesions(label, [0, 1, 3], class_boxes(label))
    whole = np.zeros(label.shape, np.uint32)
    whole[box] = numbers
    expected, total = np.zeros(label.shape, np.uint32), 0
    for value in (1, 3):
        found, count = ndimage.label(label == value, structure=np.ones((3, 3, 3)))
        expected[found > 0] = found[found > 0] + total
        total += count
    np.testing.assert_array_equal(whole, expected)
    assert [row[0] for row in rows] == list(range(1, total + 1))
    for number, value, size, *place in rows:
        assert (label[whole == number] == value).all()
        assert size == (whole == number).sum()
        part = ndimage.find_objects((whole == number).astype(np.uint8))[0]
        assert place == [p.start for p in part] + [p.stop for p in part]


@pytest.mark.parametrize("shape", [(1, 1, 1), (BLOCK, BLOCK + 1, 3)])
def test_a_map_of_background_has_no_box(shape: tuple[int, int, int]) -> None:
    label = np.zeros(shape, np.uint8)
    assert class_boxes(label) == {}
    assert count_blocks(label, 0, {}).sum() == label.size
    assert find_lesions(label, [0, 1], {})[2] == []


@pytest.mark.parametrize("seed", range(8))
def test_what_a_crop_cuts_off_is_what_is_missing_after_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = (rng.random((12, 14, 10)) < 0.05).astype(np.uint8) * rng.integers(1, 4, (12, 14, 10), dtype=np.uint8)
    kept = tuple(slice(start, start + 4) for start in rng.integers(0, 7, 3).tolist())
    cropped = np.zeros_like(label)
    cropped[kept] = label[kept]
    for cut in find_cut_off(label, kept, (0, 1, 2)):  # 3 is not asked for
        numbers, count = ndimage.label(label == cut.class_value, np.ones((3, 3, 3)))
        left = set(numbers[cropped == cut.class_value].tolist())
        assert (cut.lesions, cut.of_lesions) == (count - len(left), count)
        inside, all_of_it = ((part == cut.class_value).sum() for part in (cropped, label))
        assert (cut.voxels, cut.of_voxels) == (all_of_it - inside, all_of_it)
    assert {cut.class_value for cut in find_cut_off(label, kept, (0, 1, 2))} == {1, 2}
    assert find_cut_off(label, (slice(0, 12), slice(0, 14), slice(0, 10)), (0, 1, 2)) == ()
