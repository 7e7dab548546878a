"""Augmented 96^3 image + label patches a second, beside the same transforms in stock TorchIO.

    python -m benchmarks.augmentation [--seconds 3] [--repeats 5]

Every row but the last is one process; all transforms are applied to every patch. Ours reads the patch from the stored
volume each time; TorchIO is given it in memory.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torchio as tio

from benchmarks.sampling import PATCH, make_case
from benchmarks.table import describe_machine, print_table, rates
from seg3d.keyed import keyed
from seg3d.sampling.augment import Affine, Augmentation, Elastic, Gamma, Noise
from seg3d.sampling.patches import PatchReader, read_augmented, read_patch
from seg3d.sampling.plan import SamplingPlan
from seg3d.sampling.queue import PatchQueue, VisitDataset, patch_loader
from seg3d.store import StoredInfo, StoredVolume
from seg3d.training.memory import keep_freed_memory

AFFINE = Affine(p=1, rotation_deg=(15, 15, 15), scale=(0.85, 1.15), shift_mm=(0, 0, 0))
ELASTIC = Elastic(p=1, control_spacing_mm=16, sd_mm=3)
NOISE = Noise(p=1, sd=(0, 0.1))
GAMMA = Gamma(p=1, gamma=(0.7, 1.5))
ALL = Augmentation(affine=AFFINE, elastic=ELASTIC, noise=NOISE, gamma=GAMMA)
START = (60, 60, 16)


def ours(case: StoredInfo, augmentation: Augmentation) -> Callable[[], int]:
    volume, numbers = StoredVolume(case), iter(range(10**9))

    def work() -> int:
        read_augmented(volume, START, PATCH, augmentation, keyed(0, next(numbers)))
        return 1

    return work


def ours_in_workers(case: StoredInfo, workers: int) -> Callable[[], int]:
    plan = SamplingPlan((case,), {0: 1.0, 1: 1.0}, patches_per_epoch=96, patches_per_visit=8, balance="case", seed=0)
    queue = PatchQueue(VisitDataset(plan, PatchReader((case,), PATCH, ALL, 0)), 32, PATCH, workers)
    loader, epochs = patch_loader(queue, 4), iter(range(10**9))

    def work() -> int:
        queue.set_epoch(next(epochs))
        return sum(len(batch["case_id"]) for batch in loader)

    return work


def torchio(case: StoredInfo, transform: tio.Transform) -> Callable[[], int]:
    image, label = read_patch(StoredVolume(case), START, PATCH)
    subject = tio.Subject(
        image=tio.ScalarImage(tensor=image.contiguous()), label=tio.LabelMap(tensor=label[None].contiguous())
    )

    def work() -> int:
        transform(subject)
        return 1

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    affine = tio.RandomAffine(scales=(0.85, 1.15), degrees=15)
    elastic = tio.RandomElasticDeformation(num_control_points=7, max_displacement=7.5)
    whole = tio.Compose([affine, elastic, tio.RandomNoise(std=(0, 0.1)), tio.RandomGamma(log_gamma=(-0.35, 0.4))])
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(Path(folder), "case", (256, 256, 128))
        works = {
            "seg3d, affine + elastic + noise + gamma": ours(case, ALL),
            "TorchIO, affine + elastic + noise + gamma": torchio(case, whole),
            "seg3d, affine": ours(case, Augmentation(affine=AFFINE)),
            "TorchIO, affine": torchio(case, affine),
            "seg3d, elastic": ours(case, Augmentation(elastic=ELASTIC)),
            "TorchIO, elastic": torchio(case, elastic),
            "seg3d, all, through the queue, 2 workers": ours_in_workers(case, 2),
        }
        rows = [(name, rates(work, options.seconds, options.repeats)) for name, work in works.items()]
    machine = f"{describe_machine(['torch', 'torchio'])}, {torch.get_num_threads()} threads"
    print_table("Augmented 96^3 patches", machine, rows, "patches/s")


if __name__ == "__main__":
    main()
