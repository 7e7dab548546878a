"""A few real steps of a config on made-up data: what a step takes, in time and memory.

Runs in a process of its own, so that its peak memory is that of a training and nothing else.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from seg3d.build import training as build
from seg3d.build.dataset import outputs
from seg3d.build.prediction import build_margin, build_reproducibility, build_window, device_type
from seg3d.cases import Region
from seg3d.config import Config
from seg3d.forecast.made_up import make_up_case
from seg3d.forecast.tiles import TileCost, measure_tile
from seg3d.forecast.usage import Seconds, now, peak_bytes
from seg3d.store import StoredInfo
from seg3d.training.data import PatchDataModule
from seg3d.training.fit import fit
from seg3d.training.module import SegmentationModule
from seg3d.volume import Grid

WARM_UP = 2  # steps that are not counted: kernels are chosen, pages are touched
_EMPTY_CASE = 2  # drawing by slices asks for some without foreground, and a picture is a single one
FEWEST, MOST = 1, 24  # steps that are counted


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be measured.

    Attributes:
        config: The resolved config.
        grid: Grid of a typical prepared case.
        channels: Channels of an image.
        labels: Label values by name, without the ignored one.
        regions: Sets of labels that are predicted instead of single labels.
        budget_seconds: Time after which no further step is made once the fewest are.
    """

    config: Config
    grid: Grid
    channels: int
    labels: dict[str, int]
    regions: tuple[Region, ...]
    budget_seconds: float


@dataclass(frozen=True)
class Probed:
    """What was measured.

    Attributes:
        step: A training step with its share of reading, the mean of those counted.
        start: What an epoch takes beyond its steps, as far as reading goes: filling the queue.
        steps: Steps counted.
        wait_share: Share of the time of the counted steps that waited for data.
        prefetch: What reads ahead.
        rest_bytes: Resident memory before the network was made.
        train_bytes: Peak resident memory of training, its queue full.
        tile: What predicting a tile takes.
        gpu_bytes: GPU memory of training: measured, or on a CPU the estimate of :func:`estimate_gpu_bytes`.
        gpu_measured: Whether it was measured.
        checkpoint_bytes: A checkpoint.
    """

    step: Seconds
    start: Seconds
    steps: int
    wait_share: float
    prefetch: str
    rest_bytes: int
    train_bytes: int
    tile: TileCost
    gpu_bytes: int
    gpu_measured: bool
    checkpoint_bytes: int


class Stopwatch(pl.Callback):
    """Times every step of a training; the training stops when the budget is spent."""

    def __init__(self, budget_seconds: float) -> None:
        self.started = now()
        self.ends: list[Seconds] = []
        self.waited: list[float] = []
        self._budget = budget_seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock starts before the first batch is made."""
        self.started = now()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_args: Any, **_kw: Any) -> None:
        """Note the end of a step; on a GPU when it is really done."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(now())
        self.waited.append(float(getattr(trainer.train_dataloader, "waited", 0.0)))
        spent = (self.ends[-1] - self.started).wall
        trainer.should_stop = spent > self._budget and len(self.ends) >= WARM_UP + FEWEST


def probe(task: Task) -> Probed:
    """Train some steps and predict a tile; to be called in a fresh process.

    Raises:
        Seg3dError: The config does not fit the labels or this machine.
    """
    config = task.config
    build_reproducibility(config).apply(config.seed)
    rest_bytes = peak_bytes()
    with tempfile.TemporaryDirectory(prefix="seg3d_plan_") as folder:
        weighted = config.prepare.separation is not None
        cases = [
            make_up_case(
                Path(folder), n, task.grid, task.channels, task.labels, weighted=weighted, empty=n == _EMPTY_CASE
            )
            for n in range(3)
        ]
        return _measure(task, cases, rest_bytes)


def _measure(task: Task, cases: Sequence[StoredInfo], rest_bytes: int) -> Probed:
    config, batch = task.config, task.config.train.batch_size
    accumulate = config.train.accumulate
    patches = batch * max(accumulate, -(-(WARM_UP + MOST) // accumulate) * accumulate)
    short = config.model_copy(
        update={
            "train": config.train.model_copy(update={"max_epochs": 1, "progress": False, "devices": 1}),
            "sampling": config.sampling.model_copy(update={"patches_per_epoch": patches}),
        }
    )
    data = build.build_data(short, cases, (), task.labels)
    module = build.build_module(
        short, task.channels, task.labels, None, patches // batch, seed=config.seed, regions=task.regions
    )
    given = outputs(task.labels, None, task.regions)
    # before training, whose peak is higher
    network = module.network.to(device_type(config))
    window = build_window(config, task.regions)
    tile = measure_tile(window, network, task.grid.shape, task.channels, given, rest_bytes)
    watch = Stopwatch(task.budget_seconds)
    fit(module, data, build.build_fit_settings(short), [watch])
    train_bytes = peak_bytes() + _queue_bytes(config, task.channels) - _queue_bytes(short, task.channels)
    gpu = torch.cuda.max_memory_reserved() if module.device.type == "cuda" else estimate_gpu_bytes(module, data)
    ends = watch.ends
    counted = len(ends) - WARM_UP
    step = (ends[-1] - ends[WARM_UP - 1]) * (1 / counted)
    return Probed(
        step=step,
        start=_beyond(ends[0] - watch.started, _median(ends)),
        steps=counted,
        wait_share=(watch.waited[-1] - watch.waited[WARM_UP - 1]) / (ends[-1] - ends[WARM_UP - 1]).wall,
        prefetch=data.prefetch,
        rest_bytes=rest_bytes,
        train_bytes=train_bytes,
        tile=tile,
        gpu_bytes=gpu,
        gpu_measured=module.device.type == "cuda",
        checkpoint_bytes=_checkpoint_bytes(module),
    )


def _beyond(first: Seconds, step: Seconds) -> Seconds:
    """What the first step took beyond a step; nothing where others were slower, as on a busy machine."""
    more = first - step
    return Seconds(max(0.0, more.wall), max(0.0, more.cpu))


def _median(ends: Sequence[Seconds]) -> Seconds:
    steps = [b - a for a, b in itertools.pairwise(ends)]
    return Seconds(statistics.median(s.wall for s in steps), statistics.median(s.cpu for s in steps))


def _queue_bytes(config: Config, channels: int) -> int:
    """Patches that lie in memory: the queue and, where something reads ahead, the next one beside it."""
    x, y, z = (n + 2 * m for n, m in zip(config.sampling.patch_size, build_margin(config), strict=True))
    held = min(config.sampling.queue_length, config.sampling.patches_per_epoch)
    ahead = 0 if config.data.prefetch == "none" else min(held, config.sampling.patches_per_epoch - held)
    return (held + ahead) * x * y * z * (4 * channels + 1)


def _checkpoint_bytes(module: SegmentationModule) -> int:
    """Weights, what the optimiser keeps for each and their running mean."""
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    optimizer = module.optimizers(use_pl_optimizer=False)
    states = optimizer.state.values() if isinstance(optimizer, torch.optim.Optimizer) else []
    kept = sum(v.numel() * v.element_size() for state in states for v in state.values() if torch.is_tensor(v))
    return int(weights + kept + (0 if module.ema is None else weights))


def estimate_gpu_bytes(module: SegmentationModule, data: PatchDataModule) -> int:
    """GPU memory that training would need in float32, from what a step keeps for its backward pass.

    Weights, gradients and the optimiser's state; every tensor saved in the forward pass, each storage once; and as much
    again as the largest of them twice, for what is computed from them. A model, not a measurement: what cuDNN takes for
    its work and what CUDA itself takes come on top.
    """
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = next(iter(data.train_dataloader()))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = module.training_step(batch, 0)
        del loss
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    return _checkpoint_bytes(module) + weights + sum(saved.values()) + 2 * max(saved.values(), default=0)
