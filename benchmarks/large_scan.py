"""What a large scan takes: ``python -m benchmarks.large_scan``; peak memory as the kernel counts it.

Each row is a process of its own, which makes the scan, prepares it, and predicts it with networks of fresh weights: how
much is held and computed does not depend on the values. The scan itself is held throughout (2 bytes a voxel).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.table import describe_machine


def predict(shape: Sequence[int], features: Sequence[int], members: int, memory_gib: float | None) -> dict[str, float]:
    """Wall and CPU seconds of preparing and of predicting, and the peak of this process in GiB after each."""
    import numpy as np
    import torch

    from seg3d.forecast import usage
    from seg3d.inference.predictor import Predictor
    from seg3d.inference.sliding import SlidingWindow
    from seg3d.models import ReducedUNet
    from seg3d.preparation import Crop, Normalisation, Recipe
    from seg3d.training.memory import keep_freed_memory
    from seg3d.volume import Grid, Volume

    keep_freed_memory()
    x, y, z = shape
    values = np.arange(x * y * z, dtype=np.int16).reshape(1, x, y, z)
    scan = Volume(values, Grid((x, y, z), np.diag([0.8, 0.8, 1.0, 1.0])))
    torch.manual_seed(0)
    networks = [ReducedUNet(1, 3, features=tuple(features), norm="batch").eval() for _ in range(members)]
    window = SlidingWindow((96, 96, 96), memory_bytes=None if memory_gib is None else int(memory_gib * 2**30))
    recipe = Recipe(Crop(), None, (Normalisation("window", lower=-1000, upper=400),))
    others = tuple((network, window) for network in networks[1:])
    made = Predictor(networks[0], window, recipe, ("CT",), (0, 1, 2), torch.device("cpu"), others=others)
    begin = usage.now()
    prepared = made.prepare([scan])
    ready, peak = usage.now(), usage.peak_bytes()
    made.answer(prepared, name="scan")
    preparing, predicting = ready - begin, usage.now() - ready
    return {
        "preparing, CPU s": preparing.cpu,
        "preparing, peak GiB": peak / 2**30,
        "predicting, wall s": predicting.wall,
        "predicting, CPU s": predicting.cpu,
        "peak GiB": usage.peak_bytes() / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 1000])
    parser.add_argument("--features", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--members", type=int, nargs="+", default=[1], help="networks whose answers are averaged")
    parser.add_argument("--memory-gib", type=float, default=4.0, help="0: no limit")
    chosen = parser.parse_args()
    print(describe_machine(["torch"]))
    for members in chosen.members:
        call = (chosen.shape, chosen.features, members, chosen.memory_gib or None)
        code = f"import json, benchmarks.large_scan as b; print(json.dumps(b.predict(*{call!r})))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        size = " x ".join(map(str, chosen.shape))
        told = ", ".join(f"{what} {value:.3g}" for what, value in found.items())
        print(f"{size}, features {chosen.features}, {members} network(s), limit {chosen.memory_gib:g} GiB: {told}")


if __name__ == "__main__":
    main()
