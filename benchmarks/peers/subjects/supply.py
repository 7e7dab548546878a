"""Subject 2: patches a second, half of them centred on background and half on the tumour."""

from __future__ import annotations

import shutil
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.peers.harness import Job, Settings, run_job, with_and_without
from benchmarks.peers.meter import Measures, Meter, cpu_seconds, peak_bytes

NAME = "2 patch supply"
TOOLS = {
    "seg3d": ("ours", "seg3d"),
    "TorchIO": ("torchio", "torchio"),
    "MONAI": ("monai", "monai"),
    "nnU-Net": ("nnunet", "nnunetv2"),
}
WHAT = {"none": "raw", "affine": "affine", "all": "affine + elastic + noise + gamma"}


def jobs(settings: Settings) -> list[Job]:
    """Raw from a middle-sized and a large volume, augmented from the former, and memory by number of cases."""
    quick = settings.quick
    volumes = {"112^3": (112,) * 3} if quick else {"256^3": (256,) * 3, "512 x 512 x 400": (512, 512, 400)}
    found: list[Job] = []
    for name, shape in volumes.items():
        (case,) = _written(settings, name, shape, 1)
        large = not quick and shape[0] > 256
        for workers in (0, 1, 2):
            found += _jobs(f"raw, {name}", [case], workers, "none", 4 if large or quick else 16, quick)
            if not large:
                found += _jobs(f"augmented, {name}", [case], workers, "all", 1 if quick else 4, quick)
        if not large:
            found += _jobs(f"affine only, {name}", [case], 0, "affine", 1 if quick else 4, quick)
    few, many = (2, 4) if quick else (10, 100)
    many_cases = _written(settings, "many", (100,) * 3 if quick else (160, 160, 112), many)
    for count in (few, many):
        found += _memory_jobs(many_cases[:count])
    return found


def _jobs(case: str, files: list[str], workers: int, augment: str, visits: int, quick: bool) -> list[Job]:
    seconds = 0.5 if quick else 5.0
    shared = {"cases": files, "workers": workers, "visits": visits, "augment": augment, "seconds": seconds}
    chosen: dict[str, tuple[str, str, dict[str, Any]]] = {tool: (*names, {}) for tool, names in TOOLS.items()}
    if augment != "none" and workers == 0:
        chosen["TorchIO, patch by patch"] = ("torchio", "torchio", {"each": "patch"})
    name = f"{case}, {workers} workers"
    return with_and_without(
        [
            Job(name, tool, package, f"{__name__}:measure", {**shared, "tool": adapter, "options": options})
            for tool, (adapter, package, options) in chosen.items()
        ]
    )


def _memory_jobs(files: list[str]) -> list[Job]:
    # an epoch goes through all cases; the allocator setting is left as each tool has it
    shared = {"cases": files, "workers": 0, "visits": len(files), "augment": "none", "options": {}}
    return [
        Job(
            f"memory, {len(files)} cases",
            tool,
            package,
            f"{__name__}:measure_memory",
            {**shared, "tool": adapter},
            tuned=package == "seg3d",
            most=1,
        )
        for tool, (adapter, package) in TOOLS.items()
    ]


def _written(settings: Settings, name: str, shape: tuple[int, ...], count: int) -> list[str]:
    folder = settings.folder / name.replace(" ", "")
    folder.mkdir()
    files = [str(folder / f"case_{number:03d}") for number in range(count)]
    run_job(Job(name, "inputs", "", f"{__name__}:make_inputs", {"files": files, "shape": shape}))
    return files


def make_inputs(files: list[str], shape: list[int]) -> None:
    """One made-up case under several names, in the form of every tool."""
    from benchmarks.sampling import PATCH, as_nifti, make_case

    first = Path(files[0])
    i, j, k = shape
    as_nifti(make_case(first.parent, first.name, (i, j, k)))
    import_module("benchmarks.peers.tools.nnunet").write_for_supply([files[0]], PATCH)
    for file in map(Path, files[1:]):
        for suffix in (".h5", ".nii", "_label.nii"):
            shutil.copyfile(f"{first}{suffix}", f"{file}{suffix}")
        for suffix in (".b2nd", "_seg.b2nd", ".pkl"):
            shutil.copyfile(
                first.parent / "nnunet" / f"{first.name}{suffix}", file.parent / "nnunet" / f"{file.name}{suffix}"
            )


def measure(
    tool: str,
    cases: list[str],
    workers: int,
    visits: int,
    augment: str,
    options: dict[str, Any],
    seconds: float,
) -> Measures:
    """Patches a second and CPU time of each, after a round that fills caches and starts workers."""
    work = import_module(f"benchmarks.peers.tools.{tool}").supply(cases, workers, visits, augment, **options)
    work()
    started, cpu, patches = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - started < seconds:
        patches += work()
    wall, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    return {"patches": patches / wall, "CPU per patch": 1e3 * cpu / patches, "peak memory": peak_bytes() / 2**30}


def measure_memory(
    tool: str, cases: list[str], workers: int, visits: int, augment: str, options: dict[str, Any]
) -> Measures:
    """Peak memory of an epoch that visits every case."""
    with Meter() as meter:
        import_module(f"benchmarks.peers.tools.{tool}").supply(cases, workers, visits, augment, **options)()
    return {"peak memory": meter.measures["peak memory"]}
