"""What a process may hold is a limit: measured as the kernel counts it, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from seg3d.errors import ConfigError, DataError
from seg3d.inference.ensemble import McDropout
from seg3d.inference.predictor import Prediction, Predictor
from seg3d.inference.sliding import SlidingWindow
from seg3d.models import ReducedUNet
from seg3d.preparation import Crop, Normalisation, Recipe
from seg3d.volume import Grid, Volume

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is asked of Linux")

_PASS = """
import json, re, sys
from pathlib import Path
import psutil, torch
from seg3d.inference import sliding
from seg3d.models import ReducedUNet
from seg3d.training.memory import keep_freed_memory

norm, tile, shape, most = json.loads(sys.argv[1])
keep_freed_memory()
network = ReducedUNet(1, 3, features=(8, 16), norm=norm).eval()
image = torch.zeros(1, *shape)
image.add_(1)  # its pages are there before the limit is set
before = psutil.Process().memory_info().rss
window = sliding.SlidingWindow(tile, memory_bytes=None if most is None else before + most * 2**20)
planes = sum(values.shape[1] for _, values in window.slabs(network, image, [0.0]))
status = Path("/proc/self/status").read_text()  # resource.getrusage would begin with the memory of the parent
peak = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024
print(json.dumps({"planes": planes, "grown": (peak - before) / 2**20, "imports": "sympy" in sys.modules}))
"""


_SEVERAL = """
import json, re, sys
from pathlib import Path
import numpy as np, psutil, torch
from seg3d.inference.predictor import Predictor
from seg3d.inference.sliding import SlidingWindow
from seg3d.models import ReducedUNet
from seg3d.preparation import Crop, Normalisation, Recipe
from seg3d.training.memory import keep_freed_memory
from seg3d.volume import Grid, Volume

shape, most = json.loads(sys.argv[1])
keep_freed_memory()
networks = [ReducedUNet(1, 3, features=(8, 16), norm="batch").eval() for _ in range(3)]
scan = Volume(np.ones((1, *shape), np.int16), Grid(tuple(shape), np.eye(4)))
before = psutil.Process().memory_info().rss
window = SlidingWindow((32, 32, 32), memory_bytes=None if most is None else before + most * 2**20)
recipe, device = Recipe(Crop(), None, (Normalisation("none"),)), torch.device("cpu")
others = tuple((network, window) for network in networks[1:])
predictor = Predictor(networks[0], window, recipe, ("CT",), (0, 1, 2), device, others=others)
planes = len(predictor.predict([scan]).label)
status = Path("/proc/self/status").read_text()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024
print(json.dumps({"planes": planes, "grown": (peak - before) / 2**20, "imports": "sympy" in sys.modules}))
"""


def grown(norm: str, tile: int, shape: tuple[int, int, int], most: int | None) -> float:
    """MiB by which a process grows at most, that may grow by ``most`` MiB."""
    return measured(_PASS, [norm, [tile] * 3, shape, most], shape)


def measured(script: str, arguments: list[Any], shape: tuple[int, int, int]) -> float:
    """MiB by which a process grows that runs a script."""
    command = [sys.executable, "-c", script, json.dumps(arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["planes"] == shape[0]
    assert not found["imports"]  # torch's compiler takes 80 MiB, and more than a second
    return float(found["grown"])


@pytest.mark.parametrize(
    ("norm", "tile", "shape", "most"),
    [
        ("batch", 16, (48, 96, 96), 72),
        ("batch", 16, (32, 256, 256), 110),
        pytest.param("batch", 16, (12, 384, 384), 120, marks=pytest.mark.slow),
        ("instance", 96, (96, 96, 96), 100),
    ],
)
def test_a_process_holds_no_more_than_it_may(norm: str, tile: int, shape: tuple[int, int, int], most: int) -> None:
    assert grown(norm, tile, shape, most) <= most


@pytest.mark.slow
def test_without_a_limit_it_holds_more() -> None:
    """The limits above are not kept by chance."""
    assert grown("batch", 16, (32, 256, 256), None) > 110
    assert grown("instance", 96, (96, 96, 96), None) > 100


@pytest.mark.parametrize("most", [160, 130])
def test_several_answers_are_held_within_the_limit(most: int) -> None:
    """Three networks: mean, spread and entropy of the whole scan are seven maps of 4.7 MiB, the answers four more."""
    shape = (48, 160, 160)
    assert measured(_SEVERAL, [shape, most], shape) <= most
    assert measured(_SEVERAL, [shape, None], shape) > 160


def several(scan: Volume, limit: int | None, how: dict[str, Any], folder: Path | None = None) -> Prediction:
    """The answer of several networks, or passes, to a scan of 2 mm that is computed at 3 mm."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.Dropout(0.5)).eval() for _ in range(2)]
    window = SlidingWindow((16, 16, 16), tiling="blended", memory_bytes=limit)
    recipe, device = Recipe(Crop(), (3.0, 3.0, 3.0), (Normalisation("none"),)), torch.device("cpu")
    if how == {"others": True}:
        how = {"others": ((networks[1], window),)}
    made = Predictor(networks[0], window, recipe, ("CT",), (0, 1, 2), device, scratch=folder, **how)
    return made.predict([scan], probabilities=True, name="a")


@pytest.mark.parametrize("how", [{"others": True}, {"mc_dropout": McDropout(2, 0)}], ids=["ensemble", "dropout"])
def test_maps_that_do_not_fit_the_memory_lie_in_a_file_and_the_answer_is_the_same(
    how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(1, 40, 48, 44)).astype(np.float32)
    scan = Volume(values, Grid((40, 48, 44), np.diag([2.0, 2.0, 2.0, 1.0])))
    made = []
    taken = tempfile.TemporaryFile

    def counted(**settings: Any) -> Any:
        made.append(settings["dir"])
        return taken(**settings)

    monkeypatch.setattr("seg3d.inference.held.tempfile.TemporaryFile", counted)
    expected = several(scan, None, how, tmp_path)
    assert not made
    monkeypatch.setattr("seg3d.inference.predictor.available_bytes", lambda *_: 1 << 10)
    found = several(scan, None, how, tmp_path)
    assert made == [tmp_path]
    assert not list(tmp_path.iterdir())  # nobody sees it
    np.testing.assert_array_equal(found.label, expected.label)
    assert expected.uncertainty["sd"].max() > 0.01
    for kind in ("probabilities", "uncertainty"):
        for key, values in getattr(expected, kind).items():
            np.testing.assert_array_equal(getattr(found, kind)[key], values)


def test_a_disk_without_room_for_the_maps_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = Volume(np.ones((1, 20, 20, 20), np.float32), Grid((20, 20, 20), np.eye(4)))
    monkeypatch.setattr("seg3d.inference.held.shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    monkeypatch.setattr("seg3d.inference.predictor.available_bytes", lambda *_: 1 << 10)
    monkeypatch.setattr(SlidingWindow, "slabs", lambda *_, **__: pytest.fail("it was computed"))
    with pytest.raises(DataError, match=r"no room for the maps.*Make room there"):
        several(scan, None, {"others": True}, tmp_path)


def test_maps_on_the_grid_of_the_scan_count_too() -> None:
    """Resampled to an eighth of its voxels, a scan needs little while it is computed, and its maps much in the end."""
    limit = psutil.Process().memory_info().rss + (90 << 20)
    window = SlidingWindow((16, 16, 16), memory_bytes=limit, advance=lambda *_: pytest.fail("it was computed"))
    recipe, device = Recipe(Crop(), (2.0, 2.0, 2.0), (Normalisation("none"),)), torch.device("cpu")
    others = ((ReducedUNet(1, 2, features=(4, 8), norm="batch"), window),)
    network = ReducedUNet(1, 2, features=(4, 8), norm="batch")
    predictor = Predictor(network, window, recipe, ("CT",), (0, 1), device, others=others)
    shape = (128, 256, 256)
    with pytest.raises(ConfigError, match=r"too small for the smallest tile.*Allow .* GiB more"):
        predictor.predict([Volume(np.ones((1, *shape), np.int16), Grid(shape, np.eye(4)))])
