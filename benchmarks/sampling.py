"""Class-weighted 96^3 image + label patches a second, no augmentation, one process, beside TorchIO's stock queue.

    python -m benchmarks.sampling [--seconds 3] [--repeats 5]

Every row gives the loader's batches: float32 image and label, drawn half background, half tumour.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
import torchio as tio
from torch.utils.data import DataLoader

from benchmarks.table import describe_machine, print_table, rates
from seg3d.keyed import keyed
from seg3d.sampling.augment import Augmentation
from seg3d.sampling.patches import PatchReader
from seg3d.sampling.plan import SamplingPlan
from seg3d.sampling.queue import PatchQueue, VisitDataset, patch_loader
from seg3d.store import StoredInfo, read_info, write_stored
from seg3d.training.memory import keep_freed_memory
from seg3d.volume import Grid, Shape

PATCH = (96, 96, 96)
BATCH = 4


def make_case(folder: Path, name: str, shape: Shape) -> StoredInfo:
    rng = keyed(0, "benchmark", name)
    image = rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
    label = np.zeros(shape, np.uint8)
    for _ in range(5):
        i, j, k = (int(rng.integers(8, n - 24)) for n in shape)
        label[i : i + 16, j : j + 16, k : k + 12] = 1
    path = folder / f"{name}.h5"
    write_stored(
        path,
        case_id=name,
        image=image[None],
        label=label,
        grid=Grid(shape, np.eye(4)),
        way_back={},
        recipe_sha256="",
        source_sha256={},
        labels={"background": 0, "tumour": 1},
        ignore_label=None,
    )
    return read_info(path)


def make_loader(
    cases: tuple[StoredInfo, ...], workers: int = 0, patches: int = 128, augmentation: Augmentation | None = None
) -> DataLoader[dict[str, object]]:
    plan = SamplingPlan(cases, {0: 1.0, 1: 1.0}, patches_per_epoch=patches, patches_per_visit=8, balance="case", seed=0)
    queue = PatchQueue(VisitDataset(plan, PatchReader(cases, PATCH, augmentation, 0)), 32, PATCH, workers)
    return patch_loader(queue, BATCH)


def ours(cases: tuple[StoredInfo, ...], workers: int = 0) -> Callable[[], int]:
    loader = make_loader(cases, workers)
    epoch = iter(range(10**9))

    def work() -> int:
        loader.dataset.set_epoch(next(epoch))  # type: ignore[attr-defined]
        return sum(len(batch["case_id"]) for batch in loader)  # type: ignore[arg-type]

    return work


def stock(info: StoredInfo) -> Callable[[], int]:
    """TorchIO's queue and label sampler on the same case as uncompressed NIfTI, loaded by its own reader."""
    return stock_queue([as_nifti(info)], visits=4)


def as_nifti(info: StoredInfo) -> tuple[Path, Path]:
    """A case's image and label map as uncompressed NIfTI, float32 and uint8, beside it."""
    from seg3d.store import StoredVolume

    volume = StoredVolume(info)
    folder = info.path.parent
    image, label = folder / f"{info.case_id}.nii", folder / f"{info.case_id}_label.nii"
    tio.ScalarImage(tensor=torch.from_numpy(np.array(volume.image, np.float32))).save(image)
    tio.LabelMap(tensor=torch.from_numpy(np.array(volume.label)[None])).save(label)
    return image, label


def stock_queue(
    files: Sequence[tuple[Path, Path]], visits: int, workers: int = 0, transform: tio.Transform | None = None
) -> Callable[[], int]:
    """TorchIO's queue and label sampler over image and label files, each as often as makes so many visits."""
    subjects = [tio.Subject(image=tio.ScalarImage(image), label=tio.LabelMap(label)) for image, label in files]
    dataset = tio.SubjectsDataset((subjects * visits)[: max(visits, len(files))], transform=transform)
    sampler = tio.data.LabelSampler(PATCH, "label", {0: 1, 1: 1})
    queue = tio.Queue(dataset, 32, 8, sampler, num_workers=workers)

    def work() -> int:
        return sum(len(batch["image"][tio.DATA]) for batch in tio.SubjectsLoader(queue, batch_size=BATCH))

    return work


def memory_growth() -> tuple[float, float]:
    """Resident MiB after an epoch over 10 and over 200 cases, each in a process of its own."""
    found = []
    for cases in (10, 200):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.sampling", "--memory", str(cases)], capture_output=True, check=True
        )
        found.append(float(done.stdout))
    return found[0], found[1]


def resident(cases: int) -> float:
    """Peak resident MiB over epochs that visit every case."""
    with tempfile.TemporaryDirectory() as folder:
        one = make_case(Path(folder), "case", (160, 160, 112))
        raw = one.path.read_bytes()
        infos = []
        for number in range(cases):
            path = Path(folder) / f"case_{number:03d}.h5"
            path.write_bytes(raw)
            infos.append(read_info(path))
        del raw
        peak = 0.0
        loader = make_loader(tuple(infos), patches=1600)
        for _ in loader:
            peak = max(peak, psutil.Process().memory_info().rss / 2**20)
        return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, default=0, help="only print resident MiB for so many cases")
    chosen = parser.parse_args()
    keep_freed_memory()
    if chosen.memory:
        print(resident(chosen.memory))
        return
    machine = describe_machine(["torch", "torchio", "numpy"])
    with tempfile.TemporaryDirectory() as folder:
        medium = make_case(Path(folder), "medium", (256, 256, 128))
        large = make_case(Path(folder), "large", (512, 512, 400))
        rows = [
            ("seg3d, 256x256x128", rates(ours((medium,)), chosen.seconds, chosen.repeats)),
            ("seg3d, 512x512x400", rates(ours((large,)), chosen.seconds, chosen.repeats)),
            ("seg3d, 256x256x128, 2 workers", rates(ours((medium,), 2), chosen.seconds, chosen.repeats)),
            ("TorchIO Queue + LabelSampler, 256x256x128", rates(stock(medium), chosen.seconds, chosen.repeats)),
        ]
    print_table("Patches 96^3, class-weighted, no augmentation", machine, rows, "patches/s")
    few, many = memory_growth()
    print(f"\nPeak resident memory: {few:.0f} MiB over 10 cases, {many:.0f} MiB over 200 ({many / few:.2f}x).")


if __name__ == "__main__":
    main()
