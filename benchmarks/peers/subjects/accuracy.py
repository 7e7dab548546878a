"""Subject 4: how well a network segments after so many minutes of CPU time: hippocampus.

    python -m benchmarks.peers.subjects.accuracy MINUTES [path=value ...]

trains and scores the *validation* cases once, to choose the settings below; the benchmark itself scores the test cases.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib import import_module
from pathlib import Path

from benchmarks.peers.harness import Job, Settings, run_job
from benchmarks.peers.meter import Measures

NAME = "4 accuracy"
MINUTES = (2.0, 5.0, 10.0, 20.0)
TOOLS = {"seg3d": ("ours", "seg3d"), "nnU-Net": ("nnunet", "nnunetv2")}


def jobs(settings: Settings) -> list[Job]:
    """Every budget is a training of its own, with a schedule that ends with it; nothing where the scans are absent."""
    data = settings.data / "hippocampus"
    if not data.exists():
        print(f"{NAME}: no scans in {data}")
        return []
    shared = {"data": str(data), "folder": str(settings.folder)}
    for tool, (adapter, package) in TOOLS.items():
        run_job(Job("prepare", tool, package, f"{__name__}:prepare", {**shared, "tool": adapter}))
    return [
        Job(
            f"after {minutes:g} CPU-minutes",
            tool,
            package,
            f"{__name__}:measure",
            {**shared, "tool": adapter, "minutes": minutes, "part": "test"},
            tuned=package == "seg3d",
            most=1,
        )
        for minutes in ((0.1,) if settings.quick else MINUTES)
        for tool, (adapter, package) in TOOLS.items()
    ]


def prepare(tool: str, data: str, folder: str) -> None:
    """What each tool does once before it trains; its time is that of subject 5."""
    import_module(f"benchmarks.peers.tools.{tool}").prepare_training(Path(data), Path(folder))


def measure(tool: str, data: str, folder: str, minutes: float, part: str, overrides: tuple[str, ...] = ()) -> Measures:
    """Train for the budget, then predict and score a part of the cases."""
    from seg3d.verbs.evaluate import evaluate

    adapter = import_module(f"benchmarks.peers.tools.{tool}")
    started = time.perf_counter()
    trained: Measures = adapter.train_for(Path(folder), 60 * minutes, *([overrides] if overrides else []))
    wall = time.perf_counter() - started
    answers = Path(folder) / f"answers_{tool}_{minutes:g}"
    adapter.predict_part(Path(folder), part, answers)
    summary = evaluate(answers, data, answers / "scores.json", tolerance_mm=1.0, subset=True, report=False)
    return {"Dice": summary["foreground_mean"]["Dice"], **trained, "wall": wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float)
    parser.add_argument("overrides", nargs="*", metavar="path=value")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/hippocampus"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared = {"tool": "ours", "data": str(options.data.resolve()), "folder": folder}
        run_job(Job("prepare", "seg3d", "seg3d", "benchmarks.peers.subjects.accuracy:prepare", shared))
        chosen = {**shared, "minutes": options.minutes, "part": "val", "overrides": options.overrides}
        name = "benchmarks.peers.subjects.accuracy:measure"
        print(json.dumps(run_job(Job("try", "seg3d", "seg3d", name, chosen, True))))


if __name__ == "__main__":
    main()
