"""One call of the Lightning trainer, with nothing of it left to defaults that change results."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.utilities.exceptions import SIGTERMException

from seg3d.atomic import told_late
from seg3d.errors import ConfigError
from seg3d.training.data import PatchDataModule
from seg3d.training.module import SegmentationModule
from seg3d.training.ranks import told_by_ranks

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class FitSettings:
    """How long and on what to train.

    Attributes:
        max_epochs: Epochs.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        accelerator: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        devices: Number of devices; more than one trains distributed.
        gradient_clip: Largest gradient norm, or ``None``.
        accumulate: Batches whose mean gradient makes one step; where an epoch ends before, those missing count as 0.
        validate_every: Epochs between validations.
        deterministic: Raise at an operator without a deterministic algorithm.
        progress: Show a progress bar where the output is a terminal.
    """

    max_epochs: int
    precision: str = "fp32"
    accelerator: str = "auto"
    devices: int = 1
    gradient_clip: float | None = None
    accumulate: int = 1
    validate_every: int = 1
    deterministic: bool = True
    progress: bool = True


class PlainCheckpoints(TorchCheckpointIO):
    """Has Lightning write a checkpoint where it is told to.

    By itself it goes through the system's temporary folder: that has to have room, and a killed training leaves the
    checkpoint there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        """Write the file; its bytes are those that Lightning writes.

        Raises:
            OSError: It cannot be written.
        """
        with told_late(Path(path)) as file:
            torch.save(checkpoint, file)


def fit(
    module: SegmentationModule,
    data: PatchDataModule,
    settings: FitSettings,
    callbacks: Sequence[pl.Callback],
    checkpoint: Path | None = None,
) -> pl.Trainer:
    """Train, from a checkpoint on if one is given; the trainer is returned after the last epoch.

    Raises:
        SystemExit: The process was told to end (SIGTERM); its exit code says so.
    """
    trainer = make_trainer(settings, callbacks)
    with told_by_ranks():
        try:
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except SIGTERMException as error:  # Lightning's own end has exit code 0, as if the training were done
            raise SystemExit(128 + signal.SIGTERM) from error
    return trainer


def make_trainer(settings: FitSettings, callbacks: Sequence[pl.Callback] = ()) -> pl.Trainer:
    """Lightning's trainer.

    Raises:
        ConfigError: The machine has no such accelerator, or it knows no such precision.
    """
    _quieten()
    # where Lightning draws it; without one where the process has no standard output
    bar = settings.progress and sys.stdout is not None and sys.stdout.isatty()
    try:
        trainer = _lightning_trainer(settings, callbacks, bar)
        # Lightning takes bf16 for fp16 on a CPU and only warns
        if trainer.precision != _PRECISION[settings.precision]:
            raise ValueError(f"{settings.precision} is not supported on this accelerator")
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            "this machine cannot train with these settings",
            where="train",
            got=f"accelerator {settings.accelerator}, {settings.devices} devices, {settings.precision}: {error}",
            fix="On a machine without a GPU use accelerator cpu or auto, and precision fp32 or bf16.",
        ) from error
    return trainer


def _lightning_trainer(settings: FitSettings, callbacks: Sequence[pl.Callback], bar: bool) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=settings.max_epochs,
        precision=_PRECISION[settings.precision],  # type: ignore[arg-type]  # a literal union in Lightning
        accelerator=settings.accelerator,
        devices=settings.devices,
        # spawned ranks come back to this process; Lightning's plain "ddp" would run the command line again for each
        strategy="auto" if settings.devices == 1 else "ddp_spawn",
        gradient_clip_val=settings.gradient_clip,
        accumulate_grad_batches=settings.accumulate,
        check_val_every_n_epoch=settings.validate_every,
        deterministic=settings.deterministic,
        benchmark=not settings.deterministic,
        use_distributed_sampler=False,  # it would pad, and count cases twice
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bar,
        plugins=[PlainCheckpoints()],
        callbacks=[*callbacks, *([TQDMProgressBar(refresh_rate=1)] if bar else [])],
    )


def _quieten() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # loaders without workers are meant: the queue behind them has the workers
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # told as an error instead
    warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported on CPU.*")
    warnings.filterwarnings("ignore", message=".*You have overridden `transfer_batch_to_device`.*")
    warnings.filterwarnings("ignore", message=".*IterableDataset.*__len__.*")
    # the queue itself leaves out what is done, see seg3d.training.data.EpochOrder
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
