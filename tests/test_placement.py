"""Where a scan lies: grids, units of length, orientations that disagree, axes that are not at right angles."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scans import oblique_affine, write_nifti

from seg3d.cases import find_faults, read_dataset
from seg3d.errors import DataError, Fault
from seg3d.io import read_header, read_volume, write_like
from seg3d.volume import Grid

SHAPE = (4, 5, 6)


def grid(spacing: float, shift: float = 0.0) -> Grid:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[0, 3] = shift
    return Grid(SHAPE, affine)


def sheared() -> np.ndarray:
    affine = oblique_affine()
    affine[:3, 2] += np.tan(np.deg2rad(15)) * affine[:3, 1] / 1.4 * 2.5  # a gantry tilt of 15 degrees
    return affine


@pytest.mark.parametrize(
    ("spacing", "shift", "same"),
    [(1.0, 0.009, True), (1.0, 0.011, False), (0.002, 0.002, False), (0.002, 0.00019, True)],
)
def test_grids_are_the_same_up_to_a_tenth_of_a_voxel_however_small(spacing: float, shift: float, same: bool) -> None:
    assert grid(spacing).same_as(grid(spacing, shift)) is same
    assert grid(spacing).same_as(grid(spacing, shift), 1.0)


def test_the_finer_of_two_grids_says_what_is_near() -> None:
    coarse, fine = (Grid((1, 1, 1), np.diag([mm, mm, mm, 1.0])) for mm in (1.0, 0.001))
    moved = Grid((1, 1, 1), coarse.affine + np.array([[0, 0, 0, 0.0005], *[[0] * 4] * 3]))
    assert coarse.same_as(moved) is fine.same_as(coarse) is True
    assert not fine.same_as(moved)
    assert not moved.same_as(fine)


def test_distances_of_grids_of_several_shapes_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="one shape"):
        grid(1.0).distance_mm(Grid((1, 1, 1), np.eye(4)))
    assert not grid(1.0).same_as(Grid((1, 1, 1), np.eye(4)))


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        (oblique_affine(), False),
        (oblique_affine().astype(np.float32), False),
        (np.diag([-1.0, 2.0, -0.001, 1.0]), False),
        (sheared(), True),
    ],
)
def test_axes_that_are_not_at_right_angles_are_told(affine: np.ndarray, expected: bool) -> None:
    assert Grid(SHAPE, affine).is_sheared is expected
