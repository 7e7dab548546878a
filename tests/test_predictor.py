"""Prediction answers on the scan's own grid: all 48 orientations and an oblique one, as SimpleITK sees them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scans import ORIENTATIONS, centroid_mm, oblique_affine, oriented_affine, write_nifti
from torch import nn

from seg3d.inference.predictor import Predictor
from seg3d.inference.sliding import SlidingWindow
from seg3d.io import read_header, read_volume, write_like
from seg3d.preparation import Crop, ForegroundCrop, Normalisation, Recipe

SHAPE = (24, 28, 20)
AFFINES = [(codes, oriented_affine(codes, SHAPE, (1.0, 1.5, 2.0))) for codes in ORIENTATIONS]
AFFINES.append(("oblique", oblique_affine()))


class Threshold(nn.Module):
    """A network that finds what is brighter than a half."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 20 * torch.cat([0.5 - image, image - 0.5], dim=1)


def predictor(spacing: tuple[float, float, float] | None, labels: tuple[int, ...] = (0, 1)) -> Predictor:
    crop = Crop(ForegroundCrop(threshold=10, margin_mm=5), superior_mm=2)
    recipe = Recipe(crop, spacing, (Normalisation("divide", by=100),))
    return Predictor(Threshold(), SlidingWindow((16, 16, 16)), recipe, ("CT",), labels, torch.device("cpu"))


def bright() -> np.ndarray:
    image = np.zeros(SHAPE, np.int16)
    image[4:11, 9:22, 5:10] = 100
    image[15:18, 5:8, 11:13] = 100
    return image


@pytest.mark.parametrize(("codes", "affine"), AFFINES, ids=[codes for codes, _ in AFFINES])
@pytest.mark.parametrize("spacing", [None, (0.5, 0.5, 0.5)], ids=["own spacing", "resampled"])
def test_an_answer_lies_where_the_object_is(
    tmp_path: Path, codes: str, affine: np.ndarray, spacing: tuple[float, float, float] | None
) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", bright(), affine)
    found = predictor(spacing).predict([read_volume(path)])
    write_like(tmp_path / "answer.nii.gz", found.label, read_header(path))
    scan, answer = nib.load(path), nib.load(tmp_path / "answer.nii.gz")
    assert answer.shape == scan.shape
    np.testing.assert_array_equal(answer.affine, scan.affine)
    assert answer.header["sform_code"] == scan.header["sform_code"]
    if spacing is None:
        np.testing.assert_array_equal(np.asanyarray(answer.dataobj), bright() == 100)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(sitk.ReadImage(str(tmp_path / "answer.nii.gz")))
    seen = np.array(statistics.GetCentroid(1)) * (-1, -1, 1)  # LPS to RAS
    np.testing.assert_allclose(seen, centroid_mm(bright(), affine), atol=0.1)


def test_label_values_are_the_datasets(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", bright())
    label = predictor(None, labels=(0, 300)).predict([read_volume(path)]).label
    assert set(np.unique(label)) == {0, 300}
    assert label.dtype == np.uint16


def test_probability_maps_lie_on_the_scans_grid_and_are_zero_outside_the_crop(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", bright(), oblique_affine())
    found = predictor((1.0, 1.0, 1.0)).predict([read_volume(path)], probabilities=True)
    assert list(found.probabilities) == [1]
    assert found.probabilities[1].shape == SHAPE
    assert found.probabilities[1][0, 0, 0] == 0.0
    np.testing.assert_array_equal(found.probabilities[1] > 0.5, found.label == 1)
