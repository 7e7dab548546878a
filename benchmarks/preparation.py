"""Seconds and peak memory of preparing one whole CT: ``python -m benchmarks.preparation [SCAN LABEL]``.

Each setting runs in a process of its own, so that its peak memory is its own. Without arguments the CT of
``../shared/data`` is taken, and without that a phantom of the same size.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.table import describe_machine

if TYPE_CHECKING:
    from seg3d.preparation import Recipe

DATA = Path("../shared/data/ct_lung_tumour")
SPACINGS = {"own spacing": "", "1 x 1 x 1.5 mm": "1,1,1.5", "1.5 x 1.5 x 3 mm": "1.5,1.5,3"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = options.files or find_scan(Path(folder))
        if options.one is not None:
            print(*prepare_once(files[0], files[1], options.one, Path(folder)))
            return
        print(f"\n### Preparing {files[0].name} with its label map\n\n{describe_machine(['numpy', 'scipy', 'h5py'])}\n")
        print("| | median s | peak memory GB |\n| --- | ---: | ---: |")
        for name, spacing in SPACINGS.items():
            runs = [measure(files, spacing) for _ in range(options.repeats)]
            seconds, peak = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"| {name} | {seconds:.1f} | {peak:.2f} |")


def find_scan(folder: Path) -> list[Path]:
    scan, label = DATA / "LUNG1-001_ct.nii.gz", DATA / "LUNG1-001_seg.nii.gz"
    if scan.exists():
        return [scan, label]
    from seg3d.phantom import PhantomSpec, write_phantom_dataset

    write_phantom_dataset(folder, PhantomSpec(cases=1, shape=(512, 512, 134), spacing_mm=(0.98, 0.98, 3.0)))
    return [next((folder / kind).iterdir()) for kind in ("imagesTr", "labelsTr")]


def measure(files: list[Path], spacing: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.preparation", *map(str, files), "--one", spacing]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def prepare_once(scan: Path, label: Path, spacing: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak resident memory in GB of reading, preparing and storing."""
    from seg3d.preparation import Crop, ForegroundCrop, Normalisation, Recipe

    x, y, z = map(float, spacing.split(",")) if spacing else (0.0, 0.0, 0.0)
    recipe = Recipe(
        Crop(ForegroundCrop(threshold=-500, margin_mm=5)),
        (x, y, z) if spacing else None,
        (Normalisation("divide", 3071),),
    )
    started = time.perf_counter()
    prepare_case(scan, label, recipe, folder / "case.h5")
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def prepare_case(scan: Path, label: Path, recipe: Recipe, path: Path) -> None:
    """Read, prepare and store a case."""
    from seg3d.io import read_label_map, read_volume
    from seg3d.preparation import prepare_image, prepare_label
    from seg3d.store import write_stored

    prepared = prepare_image([read_volume(scan)], recipe, x_fastest=True)
    labels = prepare_label(read_label_map(label), prepared.way_back)
    values = np.flatnonzero(np.bincount(labels.ravel(order="K"))).tolist()
    write_stored(
        path,
        case_id=path.stem,
        image=prepared.image,
        label=labels,
        grid=prepared.grid,
        way_back=prepared.way_back.as_dict(),
        recipe_sha256=recipe.digest,
        source_sha256={},
        labels={"background": 0, **{str(value): value for value in values if value}},
        ignore_label=None,
    )


if __name__ == "__main__":
    main()
