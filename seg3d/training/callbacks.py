"""What is recorded while a run trains: trace, certificate, metrics, checkpoints, early stop."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from seg3d.atomic import atomic_path
from seg3d.digest import sha256_tensors
from seg3d.sampling.certificate import Certifier
from seg3d.training.module import SegmentationModule, mean_dice, mean_dice_of
from seg3d.training.run_folder import RunFolder
from seg3d.training.trace import TraceWriter, exact


class Recorder(pl.Callback):
    """Writes trace, sampling certificate, metrics and checkpoints of a run; rank 0 writes, all ranks take part.

    Args:
        folder: The run folder.
        certifier: Makes the sampling certificates.
        label_names: Foreground labels: name by value.
        patience: Validations without a better score after which training stops; ``None``: never.
        tell: Called with a line for each epoch; a function that can be pickled.
    """

    def __init__(
        self,
        folder: RunFolder,
        certifier: Certifier,
        label_names: Mapping[int, str],
        *,
        patience: int | None,
        tell: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.best_score = math.nan
        self.best_epoch = -1
        self.history: list[dict[str, float]] = []
        self._trace = TraceWriter(folder.trace)
        self._certifier = certifier
        self._labels = dict(label_names)
        self._patience = patience
        self._tell = tell
        self._centres: list[tuple[str, Any]] = []
        self._losses: list[torch.Tensor] = []
        self._patches = 0
        self._started = 0.0
        self._seconds = 0.0
        self._validated = False
        self._stale = 0

    @property
    def trace_sha256(self) -> str:
        """Hash of the trace so far."""
        return self._trace.sha256

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin an epoch."""
        self._centres, self._losses, self._patches, self._validated = [], [], 0, False
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record a step; the loss stays on its device until the epoch ends, so that nothing waits for it."""
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        self._losses.append(loss.detach())
        self._centres += list(zip(batch["case_id"], batch["centre"], strict=True))
        self._patches += len(batch["case_id"])
        self._trace_step(trainer, batch, batch_idx)
        self._seconds = time.perf_counter() - self._started  # validation comes after the last batch
        if trainer.progress_bar_callback is not None:
            pl_module.log("patches/s", self._patches / self._seconds, prog_bar=True, logger=False, batch_size=1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch has a score."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's records and checkpoints."""
        assert isinstance(pl_module, SegmentationModule)
        better = self._note_score(pl_module)
        self._checkpoint(trainer, better)
        if self._patience is not None and self._stale > self._patience:
            trainer.should_stop = True
        if trainer.global_rank != 0:
            return
        row = self._row(trainer, pl_module)
        self.history.append(row)
        self._trace_epoch(trainer, pl_module)
        _append_json_line(self.folder.sampling, self._certifier.certify(trainer.current_epoch, self._centres))
        _append_row(self.folder.metrics, row)
        self._tell(_line(row, trainer.max_epochs, better))

    def _note_score(self, module: SegmentationModule) -> bool:
        """Whether the epoch's score is the best so far; the first of equal ones stays."""
        if not self._validated:
            return False
        score = mean_dice(module.scores)
        better = not math.isnan(score) and (math.isnan(self.best_score) or score > self.best_score)
        if better:
            self.best_score, self.best_epoch, self._stale = score, module.current_epoch, 0
        else:
            self._stale += 1
        return better

    def _checkpoint(self, trainer: pl.Trainer, better: bool) -> None:
        for path in [self.folder.last, *([self.folder.best] if better else [])]:
            save_checkpoint(trainer, path)

    def _row(self, trainer: pl.Trainer, module: SegmentationModule) -> dict[str, float]:
        row = {
            "epoch": float(trainer.current_epoch),
            "step": float(trainer.global_step),
            "train_loss": float(torch.stack(self._losses).double().mean()),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "seconds": self._seconds,
            "patches_per_second": self._patches * trainer.world_size / self._seconds,
            "val_dice": mean_dice(module.scores) if self._validated else math.nan,
        }
        for value, name in self._labels.items():
            row[f"val_dice_{name}"] = mean_dice_of(module.scores, value) if self._validated else math.nan
        return row

    def _trace_step(self, trainer: pl.Trainer, batch: Mapping[str, Any], batch_idx: int) -> None:
        if trainer.global_rank != 0:
            return
        self._trace.add(
            {
                "epoch": trainer.current_epoch,
                "batch": batch_idx,
                "loss": exact(float(self._losses[-1])),
                "learning_rate": exact(trainer.optimizers[0].param_groups[0]["lr"]),
                "batch_sha256": _batch_digest(batch),
            }
        )

    def _trace_epoch(self, trainer: pl.Trainer, module: SegmentationModule) -> None:
        self._trace.add(
            {
                "epoch": trainer.current_epoch,
                "weights_sha256": sha256_tensors(module.network.state_dict()),
                "optimizer_sha256": optimizer_sha256(trainer.optimizers[0]),
            }
        )
        self._trace.flush()


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """Save Lightning's checkpoint under a temporary name, then rename it; all ranks call this."""
    if trainer.global_rank != 0:
        trainer.save_checkpoint(path)  # rank 0 alone writes, but the strategy waits for all
        return
    with atomic_path(path) as temporary:
        trainer.save_checkpoint(temporary)


def optimizer_sha256(optimizer: torch.optim.Optimizer) -> str:
    """SHA-256 of an optimiser's tensors, by parameter number and name."""
    tensors: dict[str, torch.Tensor] = {}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return sha256_tensors(tensors)


def _batch_digest(batch: Mapping[str, Any]) -> str:
    """SHA-256 of image and label in their memory order, which is contiguous."""
    digest = hashlib.sha256()
    for tensor in (batch["image"].permute(0, 1, 4, 3, 2), batch["label"].permute(0, 3, 2, 1)):
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, sort_keys=True) + "\n")


def _append_row(path: Path, row: Mapping[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow({k: "" if math.isnan(v) else int(v) if k in ("epoch", "step") else v for k, v in row.items()})


def _line(row: Mapping[str, float], max_epochs: int | None, better: bool) -> str:
    score = "" if math.isnan(row["val_dice"]) else f"  val Dice {row['val_dice']:.4f}{' *' if better else ''}"
    return (
        f"epoch {int(row['epoch']) + 1}/{max_epochs}  loss {row['train_loss']:.4f}  "
        f"{row['patches_per_second']:.1f} patches/s{score}"
    )
