"""The forecast put together: what was measured, times how often it happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seg3d.config import Config
from seg3d.config.method import TrainSection
from seg3d.forecast.probe import Probed
from seg3d.forecast.sizes import WHOLE, CaseSize, Sampled, Shares, stored_bytes
from seg3d.forecast.tiles import case_bytes, case_seconds, work_voxels
from seg3d.forecast.usage import Seconds
from seg3d.inference.sliding import SlidingWindow
from seg3d.preparation import Recipe
from seg3d.training.checkpoints import KEPT
from seg3d.volume import Shape


@dataclass(frozen=True, eq=False)
class Study:
    """A config's dataset as far as it is known before anything runs.

    Attributes:
        config: The resolved config.
        recipe: How scans are prepared.
        channels: Channels of an image.
        labels: Label values by name.
        sizes: Every case.
        sampled: Some that were prepared, the largest first.
        validation: Validation cases.
    """

    config: Config
    recipe: Recipe
    channels: int
    labels: Mapping[str, int]
    sizes: Sequence[CaseSize]
    sampled: Sequence[Sampled]
    validation: Sequence[CaseSize]

    @property
    def kept(self) -> Shares:
        """Shares of x, y and z that the crop to the foreground keeps, the mean of the sampled cases."""
        if self.config.prepare.crop.foreground is None:
            return WHOLE
        x, y, z = (sum(case.kept[axis] for case in self.sampled) / len(self.sampled) for axis in range(3))
        return x, y, z

    def shape(self, size: CaseSize) -> Shape:
        """Prepared voxels of a case: exact where it was sampled or nothing is cropped to the foreground."""
        known = {case.case_id: case.shape for case in self.sampled}
        return known.get(size.case.case_id) or size.shape(self.recipe, self.kept)


def forecast_store(study: Study) -> dict[str, Any]:
    """Disk of the store, and time and memory of preparing it."""
    weighted = study.recipe.separation is not None
    labels = list(study.labels.values())

    def expected(size: CaseSize) -> int:
        shape, labelled = study.shape(size), size.case.labelled
        return stored_bytes(shape, study.channels, labels, labelled=labelled, weighted=weighted)

    by_case = {size.case.case_id: size for size in study.sizes}
    known = [by_case[case.case_id] for case in study.sampled]
    # indices and components are small and come out of the cases that were really stored
    found = sum(case.file_bytes for case in study.sampled) / sum(expected(size) for size in known)
    work = Seconds()
    for case in study.sampled:
        work = work + case.seconds
    work = work * (sum(size.voxels for size in study.sizes) / sum(size.voxels for size in known))
    workers = study.config.prepare.workers
    return {
        "bytes": round(sum(expected(size) for size in study.sizes) * found),
        "cases": len(study.sizes),
        "sampled": [case.case_id for case in study.sampled],
        "kept_by_crop": list(study.kept),
        "workers": workers,
        "seconds": (work * (1 / min(workers or 1, len(study.sizes)))).as_dict() | {"cpu": work.cpu},
        "peak_bytes_per_worker": max(case.peak_bytes for case in study.sampled),
    }


def forecast_training(study: Study, probed: Probed, window: SlidingWindow, worker_bytes: int) -> dict[str, Any]:
    """Time of an epoch and of the whole training, and its memory."""
    chosen = study.config.train
    batches = study.config.sampling.patches_per_epoch // (chosen.batch_size * chosen.devices)
    steps = probed.step * batches + probed.start
    validation = _longest([case_seconds(probed.tile, window, study.shape(s)) for s in study.validation], chosen.devices)
    validations = chosen.max_epochs // chosen.validate_every
    processes = study.config.data.num_workers if probed.prefetch == "processes" else 0
    largest = max((case_bytes(probed.tile, study.shape(s), study.channels) for s in study.validation), default=0)
    return {
        "batches_per_epoch": batches,
        "epochs": chosen.max_epochs,
        "validations": validations,
        "validation_cases": len(study.validation),
        "seconds_per_batch": probed.step.as_dict(),
        "seconds_per_epoch": steps.as_dict(),
        "seconds_per_validation": validation.as_dict(),
        "seconds": (steps * chosen.max_epochs + validation * validations).as_dict(),
        "measured_batches": probed.steps,
        "data_wait_share": probed.wait_share,
        "prefetch": probed.prefetch,
        "peak_bytes": of_all_devices(max(probed.train_bytes, largest) + processes * worker_bytes, chosen, worker_bytes),
        "gpu_bytes": probed.gpu_bytes,
        "gpu_measured": probed.gpu_measured,
        "run_bytes": kept_checkpoints(chosen, batches, validates=bool(study.validation) and validations > 0)
        * probed.checkpoint_bytes,
    }


def _longest(cases: Sequence[Seconds], devices: int) -> Seconds:
    """Of devices that each take every n-th case, the time of the one that takes longest; processors' time adds up."""
    shares = [sum(cases[first::devices], Seconds()) for first in range(devices)]
    return Seconds(max(share.wall for share in shares), sum(share.cpu for share in shares))


def of_all_devices(process: int, train: TrainSection, rest: int) -> int:
    """Memory of a training: one process, or one for each device and the one that started them."""
    return process if train.devices == 1 else train.devices * process + rest


def kept_checkpoints(train: TrainSection, batches: int, *, validates: bool) -> int:
    """Checkpoints in the folder of a run that has ended.

    Args:
        train: How it was trained.
        batches: Of an epoch, on each device.
        validates: Whether there is a best one.
    """
    steps = -(-batches // train.accumulate)
    within = 0 if train.checkpoint_steps is None else (steps - 1) // train.checkpoint_steps
    return min(KEPT["last"], train.max_epochs * (1 + within)) + (KEPT["best"] if validates else 0)


def forecast_prediction(study: Study, probed: Probed, window: SlidingWindow) -> dict[str, Any]:
    """Time and memory of predicting the largest case, without starting the program."""
    largest = max(study.sizes, key=lambda size: (size.voxels, size.case.case_id))
    shape = study.shape(largest)
    sample = study.sampled[0]
    ratio = largest.voxels / next(s.voxels for s in study.sizes if s.case.case_id == sample.case_id)
    reading = round((sample.peak_bytes - sample.rest_bytes) * ratio)
    maps = probed.tile.outputs if study.recipe.spacing_mm or study.recipe.size else 1
    network = case_seconds(probed.tile, window, shape)
    around = sample.seconds * ratio + sample.restore * (maps * ratio)
    return {
        "case": largest.case.case_id,
        "shape": list(shape),
        "tiling": "exact" if probed.tile.exact else "blended",
        "work_voxels": work_voxels(window, shape, exact=probed.tile.exact),
        "network_seconds": network.as_dict(),
        "seconds": (network + around).as_dict(),
        "peak_bytes": max(case_bytes(probed.tile, shape, study.channels), probed.rest_bytes + reading),
    }
