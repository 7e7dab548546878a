"""The forecast of a study: exact where it can be counted, measured where it cannot, and nothing is left behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from study import make_study
from typer.testing import CliRunner

import seg3d
from seg3d.cases import Case
from seg3d.cli import app
from seg3d.config import load_config
from seg3d.config.method import TrainSection
from seg3d.errors import Seg3dError
from seg3d.forecast import made_up
from seg3d.forecast.forecast import _longest, kept_checkpoints, of_all_devices
from seg3d.forecast.probe import _beyond
from seg3d.forecast.sizes import CaseSize, pick_sample, stored_bytes
from seg3d.forecast.tiles import work_voxels
from seg3d.forecast.usage import Seconds
from seg3d.inference.sliding import SlidingWindow
from seg3d.preparation import Crop, ForegroundCrop, Recipe
from seg3d.verbs.plan import _typical_grid, format_plan
from seg3d.verbs.plan_sample import in_process
from seg3d.verbs.prepare import prepare
from seg3d.volume import Grid


def size_of(shape: tuple[int, int, int], name: str = "a", spacing: float = 1.0) -> CaseSize:
    grid = Grid(shape, np.diag([spacing, spacing, spacing, 1.0]))
    return CaseSize(Case(name, (Path("image.nii"),), Path("label.nii"), name), grid, math.prod(shape))


def test_a_resampled_case_has_the_voxels_of_its_field_of_view() -> None:
    assert size_of((100, 80, 60), spacing=2.0).shape(Recipe(spacing_mm=(1.0, 4.0, 2.0))) == (200, 40, 60)


def test_a_crop_to_the_foreground_keeps_its_share() -> None:
    recipe = Recipe(crop=Crop(foreground=ForegroundCrop(threshold=0.0)))
    assert size_of((100, 80, 60)).shape(recipe, (0.5, 0.25, 1.0)) == (50, 20, 60)


@pytest.mark.parametrize(
    ("labelled", "weighted", "expected"),
    [(False, False, 2 * 2 * 64**3), (True, False, 5 * 64**3 + 8 * 2 * 4), (True, True, 7 * 64**3 + 8 * 2 * 4)],
)
def test_bytes_of_a_stored_case_are_two_a_channel_and_one_of_its_label(
    labelled: bool, weighted: bool, expected: int
) -> None:
    assert stored_bytes((64, 64, 64), 2, (0, 1), labelled=labelled, weighted=weighted) == expected


def test_the_sample_holds_the_largest_case_the_median_and_the_smallest() -> None:
    sizes = [size_of((n, 1, 1), name=str(n)) for n in (3, 9, 1, 5, 7)]
    assert [size.voxels for size in pick_sample(sizes)] == [9, 5, 1]
    assert [size.voxels for size in pick_sample(sizes[:1])] == [3]


def test_overlapping_tiles_are_work_for_each_of_them_and_exact_ones_only_once() -> None:
    window = SlidingWindow((16, 16, 16), step=0.5)
    assert work_voxels(window, (32, 16, 10), exact=False) == 3 * 16**3  # at 0, 8 and 16; the short axis is padded
    assert work_voxels(window, (32, 16, 10), exact=True) == 32 * 16 * 16


@pytest.mark.parametrize(("shape", "labels"), [((48, 48, 48), 40), ((96, 96, 1), 104), ((2, 2, 1), 3), ((9, 9, 9), 2)])
def test_a_made_up_case_holds_every_label_and_background(shape: tuple[int, int, int], labels: int) -> None:
    label = np.zeros(shape, np.uint8)
    made_up._fill(label, range(1, labels + 1))
    assert set(np.unique(label)) == set(range(labels + 1))


@pytest.mark.parametrize(
    ("train", "validates", "expected"),
    [
        ({"max_epochs": 5}, True, 3),
        ({"max_epochs": 5}, False, 2),
        ({"max_epochs": 1}, True, 2),
        ({"max_epochs": 1, "checkpoint_steps": 4}, True, 2),
        ({"max_epochs": 1, "checkpoint_steps": 3}, True, 3),
        ({"max_epochs": 1, "checkpoint_steps": 3, "accumulate": 4}, True, 2),
    ],
)
def test_the_last_two_checkpoints_and_the_best_are_kept(train: dict[str, Any], validates: bool, expected: int) -> None:
    assert kept_checkpoints(TrainSection(**train), 4, validates=validates) == expected


def test_devices_share_the_validation_and_each_has_a_process() -> None:
    cases = [Seconds(wall, 2 * wall) for wall in (4.0, 1.0, 2.0)]
    assert _longest(cases, 1) == Seconds(7, 14)
    assert _longest(cases, 2) == Seconds(6, 14)
    assert _longest([], 2) == Seconds()
    assert of_all_devices(10, TrainSection(), 3) == 10
    assert of_all_devices(10, TrainSection(devices=2), 3) == 23


def test_an_epoch_takes_no_less_than_its_steps() -> None:
    assert _beyond(Seconds(3, 4), Seconds(1, 5)) == Seconds(2, 0)


def test_a_crop_does_not_change_the_spacing_of_the_made_up_case() -> None:
    recipe = Recipe(crop=Crop(foreground=ForegroundCrop(threshold=0.0)))
    study = SimpleNamespace(sizes=[size_of((40, 40, 40))], recipe=recipe, kept=(0.5, 0.5, 1.0))
    study.shape = lambda size: (20, 20, 40)
    assert _typical_grid(study).spacing_mm == (1, 1, 1)  # all that is asked of a study
    study.recipe = Recipe(crop=recipe.crop, size=(10, 20, None))
    study.shape = lambda size: (10, 20, 40)
    assert _typical_grid(study).spacing_mm == (2, 1, 1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def found(study: Path) -> dict[str, Any]:
    return seg3d.plan(study, ["prepare.spacing_mm=[2,2,2]"], budget_seconds=5)


def test_planning_leaves_nothing_behind(study: Path, found: dict[str, Any]) -> None:
    assert {path.name for path in study.parent.iterdir()} == {"data", "tiny.yaml"}
    assert json.loads(json.dumps(found)) == found


def test_disk_is_what_preparing_takes(study: Path, found: dict[str, Any]) -> None:
    store = prepare(load_config(study, ["prepare.spacing_mm=[2,2,2]", f"data.store={study.parent}/other"]))
    taken = sum(info.path.stat().st_size for info in store.infos.values())
    assert found["store"]["bytes"] == pytest.approx(taken, rel=0.1)


def test_times_add_up(found: dict[str, Any]) -> None:
    training = found["training"]
    assert (training["batches_per_epoch"], training["epochs"], training["validations"]) == (4, 2, 2)
    whole = 2 * training["seconds_per_epoch"]["wall"] + 2 * training["seconds_per_validation"]["wall"]
    assert training["seconds"]["wall"] == pytest.approx(whole)
    assert training["seconds_per_epoch"]["wall"] > 3 * training["seconds_per_batch"]["wall"] > 0


def test_the_largest_case_is_predicted_by_its_tiles(found: dict[str, Any]) -> None:
    assert found["prediction"]["shape"] == [12, 12, 12]
    assert (found["prediction"]["tiling"], found["prediction"]["work_voxels"]) == ("exact", 16**3)  # batch norm
    assert found["prediction"]["seconds"]["wall"] > 0


def test_memory_on_a_gpu_is_called_an_estimate_where_there_is_none(found: dict[str, Any]) -> None:
    if found["machine"]["device"] == "cpu":
        assert not found["training"]["gpu_measured"]
        assert "estimated by a model" in format_plan(found)
    # 2 patches of 16^3 and 4 features: one activation alone
    assert found["training"]["gpu_bytes"] > 2 * 4 * 16**3 * 4


def test_a_dataset_that_is_not_there_is_told_as_ever(study: Path) -> None:
    with pytest.raises(Seg3dError, match="nowhere"):
        seg3d.plan(study, ["data.source=nowhere"])


def test_a_loss_that_does_not_fit_is_told_before_anything_is_measured(study: Path) -> None:
    with pytest.raises(Seg3dError, match="unknown labels"):
        seg3d.plan(study, ["loss.class_weights={nothing: 1}"])


def test_an_unreadable_scan_is_named(tmp_path: Path) -> None:
    config = make_study(tmp_path, cases=4)
    broken = sorted((tmp_path / "data" / "imagesTr").iterdir())[0]
    broken.write_bytes(b"nothing")
    with pytest.raises(Seg3dError, match=broken.name):
        seg3d.plan(config)


def test_the_command_refuses_an_epoch_of_broken_batches(study: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(study), "sampling.patches_per_epoch=7"])
    assert isinstance(result.exception, Seg3dError)
    assert "whole batches" in str(result.exception)


WAIT = """
import sys, tempfile, time
from pathlib import Path
from seg3d.verbs.plan_sample import in_process

def wait(place):
    with tempfile.TemporaryDirectory(dir=place) as folder:
        (Path(folder) / "large").touch()
        time.sleep(60)

if __name__ == "__main__":
    in_process(wait, sys.argv[1])
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_measured_ends_with_a_plan_that_is_killed_and_leaves_nothing(tmp_path: Path, how: int) -> None:
    script, folder = tmp_path / "wait.py", tmp_path / "in"
    script.write_text(WAIT)
    folder.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(folder)]) as plan:
        until(lambda: any(folder.rglob("large")))
        children = psutil.Process(plan.pid).children()
        plan.send_signal(how)
    until(lambda: not any(folder.iterdir()))
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def until(there: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_process_that_is_ended_is_told() -> None:
    with pytest.raises(Seg3dError, match="exit code 9"):
        in_process(os._exit, 9)
