"""Tiling, the sliding window, clean-up and inputs, with answers known by hand."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from seg3d.errors import ConfigError, DataError
from seg3d.inference.cleanup import clean_up
from seg3d.inference.inputs import find_scans
from seg3d.inference.sliding import SlidingWindow
from seg3d.inference.tiling import gaussian_weights, tile_grid, tile_starts
from seg3d.models import ReducedUNet


@pytest.mark.parametrize(
    ("size", "tile", "step"), [(10, 10, 0.5), (11, 10, 0.5), (100, 32, 0.5), (100, 32, 1.0), (97, 31, 0.3)]
)
def test_tiles_cover_the_axis_and_overlap_as_asked(size: int, tile: int, step: float) -> None:
    starts = tile_starts(size, tile, step)
    assert starts[0] == 0
    assert starts[-1] + tile == size
    assert all(0 < b - a <= max(1, int(tile * step)) for a, b in itertools.pairwise(starts))


def test_a_tile_larger_than_the_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="at least the tile"):
        tile_starts(9, 10, 0.5)


def test_tiles_have_a_fixed_order() -> None:
    assert tile_grid((20, 10, 10), (10, 10, 10), 1.0) == [(0, 0, 0), (10, 0, 0)]


def test_weights_are_largest_in_the_middle_and_never_zero() -> None:
    weights = gaussian_weights((8, 6, 4))
    assert weights.shape == (8, 6, 4)
    assert int(weights.argmax()) in {
        int(np.ravel_multi_index((i, j, k), (8, 6, 4))) for i in (3, 4) for j in (2, 3) for k in (1, 2)
    }
    assert weights.min() > 0


class Pointwise(nn.Module):
    """Logits that depend on each voxel alone: any tiling must give the whole-volume answer."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image[:, :1], -image[:, :1], 0.5 * image[:, :1]], dim=1)


@pytest.mark.parametrize("shape", [(16, 16, 16), (30, 21, 17), (5, 40, 9)])
@pytest.mark.parametrize("mirror", [(), (0,), (0, 1, 2)])
def test_a_pointwise_network_gives_the_whole_volume_answer(
    shape: tuple[int, int, int], mirror: tuple[int, ...]
) -> None:
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    window = SlidingWindow((16, 16, 16), step=0.5, batch_size=3, mirror=mirror)
    found = window.probabilities(Pointwise(), image, [0.0])
    torch.testing.assert_close(found, torch.softmax(Pointwise()(image[None])[0], dim=0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_answer_does_not_depend_on_the_batch_of_tiles(batch_size: int) -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1)
    image = torch.randn(1, 40, 20, 30)
    one = SlidingWindow((16, 16, 16), batch_size=1).probabilities(network, image, [0.0])
    many = SlidingWindow((16, 16, 16), batch_size=batch_size).probabilities(network, image, [0.0])
    torch.testing.assert_close(one, many, atol=1e-6, rtol=0)


def test_probabilities_sum_to_one_and_the_mode_is_kept() -> None:
    network = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3)).train()
    found = SlidingWindow((8, 8, 8)).probabilities(network, torch.randn(1, 13, 8, 9), [0.0])
    torch.testing.assert_close(found.sum(dim=0), torch.ones(13, 8, 9))
    assert network.training
    assert int(network[1].num_batches_tracked) == 0


def test_a_small_volume_is_surrounded_by_the_outside_value() -> None:
    seen: list[torch.Tensor] = []

    class Spy(Pointwise):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image)
            return super().forward(image)

    SlidingWindow((8, 8, 8)).probabilities(Spy(), torch.ones(1, 4, 8, 8), [-3.0])
    assert (seen[0][0, 0, :2] == -3).all()
    assert (seen[0][0, 0, 2:6] == 1).all()


def test_mirroring_averages_the_views() -> None:
    class Left(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            ramp = torch.linspace(-4, 4, image.shape[2]).reshape(1, 1, -1, 1, 1).expand_as(image)
            return torch.cat([ramp, -ramp], dim=1)

    found = SlidingWindow((8, 8, 8), mirror=(0,)).probabilities(Left(), torch.zeros(1, 8, 8, 8), [0.0])
    torch.testing.assert_close(found, torch.full_like(found, 0.5))


@pytest.mark.parametrize("tiling", ["exact", "blended"])
def test_a_window_tells_its_planes_before_it_hands_them_on(tiling: Literal["exact", "blended"]) -> None:
    told: list[tuple[int, int]] = []
    network = ReducedUNet(1, 2, features=(4, 8), norm="batch")
    window = SlidingWindow((8, 8, 8), (8, 8, 8), tiling, advance=lambda planes, total: told.append((planes, total)))
    given = 0
    for start, values in window.slabs(network, torch.zeros(1, 20, 9, 9), (0.0,)):
        given += values.shape[1]
        assert sum(planes for planes, _ in told) == given == start + values.shape[1]
    assert len(told) > 1
    assert {total for _, total in told} == {given} == {20}


def parts() -> np.ndarray:
    label = np.zeros((20, 10, 10), np.uint8)
    label[1:4, 1:4, 1:4] = 1  # 27 voxels
    label[8:10, 1:3, 1:3] = 1  # 8 voxels
    label[15, 5, 5] = 2
    label[16, 6, 6] = 2  # touches by a corner: one component
    return label


def test_only_the_largest_component_is_kept() -> None:
    cleaned = clean_up(parts(), 0.001, keep_largest=[1])
    assert (cleaned == 1).sum() == 27
    assert (cleaned == 2).sum() == 2


def test_small_components_go_by_volume() -> None:
    assert (clean_up(parts(), 0.001, min_size_ml={1: 0.009}) == 1).sum() == 27
    assert (clean_up(parts(), 0.001, min_size_ml={2: 0.002}) == 2).sum() == 2
    assert (clean_up(parts(), 0.001, min_size_ml={2: 0.0021}) == 2).sum() == 0


def test_cleaning_nothing_changes_nothing() -> None:
    np.testing.assert_array_equal(clean_up(parts(), 0.001), parts())


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_files_of_a_folder_are_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "b.nii.gz", "a.nrrd", "notes.txt")
    touch(folder, "._b.nii.gz")  # which a Mac leaves beside it
    assert [scan.name for scan in find_scans([folder], 1)] == ["a.nrrd", "b.nii.gz"]


def test_hidden_files_are_no_scans(tmp_path: Path) -> None:
    """Drafts of an answer that is being written, and what macOS puts beside each file."""
    folder = touch(tmp_path / "in", "a.nii.gz", "._a.nii.gz", ".tmp-0123abcd-1-a.nii.gz")
    assert [scan.name for scan in find_scans([folder], 1)] == ["a.nii.gz"]


def test_a_name_that_no_record_can_hold_is_refused(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "a.nii.gz", os.fsdecode(b"sc\xe9an.nii.gz"))
    with pytest.raises(DataError, match="not UTF-8"):
        find_scans([folder], 1)


def test_channels_are_brought_together_by_their_number(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "x_0001.nii.gz", "x_0000.nii.gz")
    (scan,) = find_scans([folder], 2)
    assert scan.name == "x.nii.gz"
    assert [path.name for path in scan.images] == ["x_0000.nii.gz", "x_0001.nii.gz"]


def test_a_file_without_a_channel_number_holds_all_channels(tmp_path: Path) -> None:
    (scan,) = find_scans([touch(tmp_path / "in", "x.nii.gz")], 3)
    assert [path.name for path in scan.images] == ["x.nii.gz"]


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        (["x_0000.nii.gz"], 2, "not complete"),
        (["x.nii.gz", "x.nrrd"], 1, "same name"),
        (["notes.txt"], 1, "holds no image"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path, names: list[str], channels: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_scans([touch(tmp_path / "in", *names)], channels)


@pytest.mark.parametrize(
    "names",
    [
        (["x_0000.nii.gz", "x_0001.nii.gz"], ["x_0000.nii.gz", "x_0001.nii.gz"]),  # one of two patients was dropped
        (["x_0000.nii.gz", "x_0001.nii.gz"], ["x_0001.nii.gz"]),  # two patients became one
    ],
)
def test_scans_of_the_same_name_in_two_folders_are_never_mixed(tmp_path: Path, names: tuple[list[str], ...]) -> None:
    folders = [touch(tmp_path / name, *files) for name, files in zip("ab", names, strict=True)]
    with pytest.raises(DataError, match=r"two files are channel \d of one scan") as error:
        find_scans(folders, 2)
    assert all(str(folder) in str(error.value) for folder in folders)


@pytest.mark.parametrize("limit", [None, 1 << 20])
def test_tiles_that_are_to_stay_as_asked_are_refused_where_they_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr("seg3d.inference.budget._free_memory", lambda: 1 << 20)
    network, image = ReducedUNet(1, 2, features=(4, 8), norm="instance"), torch.zeros(1, 32, 32, 32)
    window = SlidingWindow((32, 32, 32), memory_bytes=limit)
    with pytest.raises(ConfigError, match=r"predict\.memory_gib.*too small for the blended tiles that are asked for"):
        replace(window, as_asked=True).probabilities(network, image, [0.0])


def test_tiles_that_are_to_stay_as_asked_do_not_shrink_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: object) -> Iterator[object]:
        raise MemoryError("full")
        yield

    monkeypatch.setattr("seg3d.inference.sliding.blended_slabs", run_out)
    network, image = ReducedUNet(1, 2, features=(4, 8), norm="instance"), torch.zeros(1, 32, 32, 32)
    with pytest.raises(ConfigError, match="blended tiles that are asked for"):
        SlidingWindow((32, 32, 32), as_asked=True).probabilities(network, image, [0.0])
