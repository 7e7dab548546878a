"""On a GPU: the same bits twice, the answers of the processor, and the memory that was granted.

Nothing here can run without one; what a processor can tell of it (operators, counted memory) is tested elsewhere.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from study import make_study, result_of

import seg3d
from seg3d.inference.sliding import SlidingWindow
from seg3d.models import ReducedUNet
from seg3d.training.checkpoints import list_checkpoints

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICE = torch.device("cuda")
ON_GPU = ["train.accelerator=gpu", "train.ema_decay=0.9"]
DIGESTS = ("weights_sha256", "optimizer_sha256", "trace_sha256", "best_score")
GIB = 2**30


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    return seg3d.train(config, ON_GPU)


def digests(folder: Path) -> dict[str, object]:
    return {key: result_of(folder)[key] for key in DIGESTS}


def make_network(norm: str, features: tuple[int, ...] = (8, 16, 32)) -> ReducedUNet:
    torch.manual_seed(0)
    network = ReducedUNet(1, 3, features=features, norm=norm)
    network(torch.randn(2, 1, 32, 32, 32))  # statistics for batch norm
    return network.eval()


def make_window(norm: str, tile: tuple[int, int, int] | None = None, limit: int | None = None) -> SlidingWindow:
    tiling = "exact" if norm == "batch" else "blended"
    return SlidingWindow((32, 32, 32), tile_size=tile, tiling=tiling, memory_bytes=limit)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_two_trainings_have_the_same_bits(config: Path, tmp_path: Path, precision: str) -> None:
    settings = [*ON_GPU, f"train.precision={precision}"]
    first, second = (seg3d.train(config, settings, folder=tmp_path / name) for name in ("first", "second"))
    assert digests(first) == digests(second)


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    stopped = shutil.copytree(run, tmp_path / run.name)
    (stopped / "result.json").unlink()
    max(list_checkpoints(stopped / "checkpoints", "last")).path.unlink()
    seg3d.resume(stopped, allow_changed=True, tell=lambda _: None)
    assert digests(stopped) == digests(run)


@pytest.mark.parametrize("mirror", [(), (0, 2)], ids=["plain", "mirrored"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_probabilities_are_those_of_the_processor(norm: str, mirror: tuple[int, ...]) -> None:
    torch.backends.cudnn.allow_tf32 = False
    network, image = make_network(norm), torch.randn(1, 45, 70, 51)
    window = SlidingWindow((32, 32, 32), tiling="exact" if norm == "batch" else "blended", mirror=mirror)
    expected = window.probabilities(network, image, [0.0])
    found = window.probabilities(network.to(DEVICE), image.to(DEVICE), [0.0])
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tile", [(8, 24, 16), (20, 64, 64), (48, 72, 52)])
def test_exact_tiles_of_any_size_give_one_answer(tile: tuple[int, int, int]) -> None:
    torch.backends.cudnn.allow_tf32 = False
    network, image = make_network("batch").to(DEVICE), torch.randn(1, 45, 70, 51, device=DEVICE)
    expected = make_window("batch").probabilities(network, image, [0.0])
    found = make_window("batch", tile).probabilities(network, image, [0.0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_scan_is_answered_to_as_on_the_processor(run: Path, config: Path, tmp_path: Path) -> None:
    scan = sorted((config.parent / "data" / "imagesTr").iterdir())[0]
    for name in ("gpu", "cpu"):
        seg3d.predict(run, [scan], tmp_path / name, overrides=[f"train.accelerator={name}", "train.precision=fp32"])
    found, expected = (np.asanyarray(nib.load(tmp_path / name / scan.name).dataobj) for name in ("gpu", "cpu"))
    assert np.mean(found != expected) < 1e-3


def test_sampled_dropout_is_the_same_twice(run: Path, config: Path, tmp_path: Path) -> None:
    scan = sorted((config.parent / "data" / "imagesTr").iterdir())[0]
    maps = []
    for name in ("first", "second"):
        seg3d.predict(run, [scan], tmp_path / name, mc_dropout=2)
        (sd,) = (tmp_path / name / "uncertainty").glob("*_sd.nii.gz")
        maps.append(np.asanyarray(nib.load(sd).dataobj))
    assert maps[0].any()
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_limit_of_memory_is_held(norm: str) -> None:
    network, image = make_network(norm, (32, 64, 128)).to(DEVICE), torch.randn(1, 256, 256, 96)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(DEVICE)
    limit = total - free + GIB  # what is held by now, and 1 GiB more
    before = torch.cuda.memory_reserved(DEVICE)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    for _ in make_window(norm, limit=limit).slabs(network, image, [0.0], device=DEVICE):
        pass
    assert torch.cuda.max_memory_reserved(DEVICE) - before <= GIB


def test_a_prediction_goes_on_with_smaller_tiles_when_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    network, image = make_network("batch", (32, 64, 128)).to(DEVICE), torch.randn(1, 128, 160, 160)
    expected = make_window("batch", (16, 32, 32)).probabilities(network, image.to(DEVICE), [0.0]).cpu()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info(DEVICE)
    torch.cuda.set_per_process_memory_fraction(min(1.0, GIB / 2 / total), DEVICE)  # less than mem_get_info promises
    try:
        with caplog.at_level(logging.WARNING):
            parts = [part.cpu() for _, part in make_window("batch").slabs(network, image, [0.0], device=DEVICE)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    assert "memory ran out" in caplog.text
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-4, rtol=0)
