"""Prediction answers on the scan's own grid: all 48 orientations and an oblique one, as SimpleITK sees them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scans import ORIENTATIONS, centroid_mm, oblique_affine, oriented_affine, write_nifti
from torch import nn

from seg3d.errors import DataError
from seg3d.inference.predictor import Predictor
from seg3d.inference.sliding import SlidingWindow
from seg3d.inference.source import Source
from seg3d.io import read_header, read_volume, write_like
from seg3d.models import UNet
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


class Broken(Threshold):
    """Its answer is no number where the image is dark."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image).masked_fill(image < 0.5, torch.nan)


def test_an_answer_that_is_no_number_is_refused_instead_of_being_background(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", bright())
    broken = replace(predictor(None), network=Broken())
    for made in (broken, replace(broken, others=((Threshold(), broken.window),))):
        with pytest.raises(DataError, match="no numbers"):
            made.predict([read_volume(path)])


@pytest.mark.parametrize("spacing", [None, (0.5, 0.5, 0.5)], ids=["own spacing", "resampled"])
@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_an_answer_is_whole_though_memory_ran_out_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spacing: tuple[float, float, float] | None, failing: int
) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", bright())
    expected = predictor(spacing).predict([read_volume(path)]).label
    calls, cut = itertools.count(1), Source.cut

    def fail_once(source: Any, *box: Any) -> torch.Tensor:
        if next(calls) == failing:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 70 bytes.")
        return cut(source, *box)

    monkeypatch.setattr(Source, "cut", fail_once)
    found = predictor(spacing).predict([read_volume(path)]).label
    assert next(calls) > failing
    np.testing.assert_array_equal(found, expected)


def test_maps_for_which_there_is_no_memory_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", bright())
    made = predictor(None)

    def none_left(*_: Any) -> None:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr("seg3d.inference.ensemble.SpreadOfScan.add", none_left)
    with pytest.raises(DataError, match="memory ran out"):
        replace(made, others=((Threshold(), made.window),)).predict([read_volume(path)])


def test_members_of_an_ensemble_see_as_far_as_they_each_do(tmp_path: Path) -> None:
    """A network of valid convolutions with a margin beside one without: no answer is shifted."""
    torch.manual_seed(0)
    path = write_nifti(tmp_path / "scan.nii.gz", bright())
    valid = UNet(1, 2, dims=3, features=(2, 4), norm="instance", padding="valid").eval()
    made = predictor(None)
    wide = replace(made.window, patch_size=(8, 8, 8), margin=(valid.margin,) * 3)
    alone = [replace(made, network=valid, window=wide), made]
    maps = [one.predict([read_volume(path)], probabilities=True).probabilities[1] for one in alone]
    for first, other in (alone, alone[::-1]):
        both = replace(first, others=((other.network, other.window),))
        found = both.predict([read_volume(path)], probabilities=True).probabilities[1]
        np.testing.assert_allclose(found, (maps[0] + maps[1]) / 2, atol=1e-6)
