"""TorchIO: its stock parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn


def predictor(network: nn.Module, tile: int, batch: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Label map ``(x, y, z)`` of an image by grid sampler and aggregator: half overlap, Hann weights."""
    import torchio as tio

    def predict(image: torch.Tensor) -> torch.Tensor:
        sampler = tio.inference.GridSampler(tio.Subject(image=tio.ScalarImage(tensor=image)), tile, tile // 2)
        aggregator = tio.inference.GridAggregator(sampler, overlap_mode="hann")
        with torch.inference_mode():
            for patches in tio.SubjectsLoader(sampler, batch_size=batch):
                aggregator.add_batch(network(patches["image"][tio.DATA]), patches[tio.LOCATION])
            return aggregator.get_output_tensor().argmax(0).to(torch.uint8)

    return predict


def supply(cases: list[str], workers: int, visits: int, augment: str, each: str = "volume") -> Callable[[], int]:
    """A queue of patches each call: stock queue and label sampler over NIfTI; how many they were.

    Transforms work on the whole volume, as the queue has it, or with ``each="patch"`` on what comes out of it.
    """
    import torchio as tio

    from benchmarks.sampling import stock_queue

    affine = tio.RandomAffine(scales=(0.85, 1.15), degrees=15)
    elastic = tio.RandomElasticDeformation(num_control_points=7, max_displacement=7.5)
    rest = [tio.RandomNoise(std=(0, 0.1)), tio.RandomGamma(log_gamma=(-0.35, 0.4))]
    transform = {"none": None, "affine": affine, "all": tio.Compose([affine, elastic, *rest])}[augment]
    files = [(Path(f"{case}.nii"), Path(f"{case}_label.nii")) for case in cases]
    if each == "volume" or transform is None:
        return stock_queue(files, visits, workers, transform)
    from benchmarks.sampling import BATCH, PATCH

    subjects = [tio.Subject(image=tio.ScalarImage(image), label=tio.LabelMap(label)) for image, label in files]
    sampler = tio.data.LabelSampler(PATCH, "label", {0: 1, 1: 1})
    queue = tio.Queue(tio.SubjectsDataset(subjects * visits), 32, 8, sampler, num_workers=workers)

    def work() -> int:
        loader = torch.utils.data.DataLoader(queue, BATCH, collate_fn=lambda patches: [transform(p) for p in patches])
        return sum(len(batch) for batch in loader)

    return work
