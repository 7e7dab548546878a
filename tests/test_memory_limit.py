"""What a process may hold is a limit: measured as the kernel counts it, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def grown(norm: str, tile: int, shape: tuple[int, int, int], most: int | None) -> float:
    """MiB by which a process grows at most, that may grow by ``most`` MiB."""
    command = [sys.executable, "-c", _PASS, json.dumps([norm, [tile] * 3, shape, most])]
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
        ("batch", 16, (12, 384, 384), 120),
        ("instance", 96, (96, 96, 96), 100),
    ],
)
def test_a_process_holds_no_more_than_it_may(norm: str, tile: int, shape: tuple[int, int, int], most: int) -> None:
    assert grown(norm, tile, shape, most) <= most


def test_without_a_limit_it_holds_more() -> None:
    """The limits above are not kept by chance."""
    assert grown("batch", 16, (32, 256, 256), None) > 110
    assert grown("instance", 96, (96, 96, 96), None) > 100
