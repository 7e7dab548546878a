"""Golden losses: a change that is not meant to alter the computation leaves them bit-identical.

``python tests/test_golden.py`` writes them anew. Bits depend on the processor's instructions and on torch's build, so
they are compared exactly where those are the same as when they were written, and closely elsewhere.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from study import losses_of, make_study

import seg3d

GOLDEN = Path(__file__).with_name("golden_losses.json")
SETTINGS = ["reproducibility.portable=true", "reproducibility.threads=1", "train.max_epochs=2"]


def machine() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"torch": torch.__version__, "instructions": torch.backends.cpu.get_cpu_capability(), "cpu": model}


def train(folder: Path) -> list[str]:
    return losses_of(seg3d.train(make_study(folder), SETTINGS))


def test_losses_are_the_golden_ones(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    threads = torch.get_num_threads()
    try:
        found = train(tmp_path)
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.set_flags(True)
    if machine() == golden["machine"]:
        assert found == golden["losses"]
    else:
        assert list(map(float.fromhex, found)) == pytest.approx(list(map(float.fromhex, golden["losses"])), rel=1e-3)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps({"machine": machine(), "losses": train(Path(folder))}, indent=1) + "\n")
