"""What is recorded while a run trains: trace, certificate, metrics, checkpoints, early stop."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from seg3d.atomic import append_line
from seg3d.digest import sha256_tensors
from seg3d.sampling.certificate import Certifier
from seg3d.training.checkpoints import copy_as_best, save_checkpoint
from seg3d.training.digests import generator_sha256, optimizer_sha256
from seg3d.training.module import SegmentationModule, mean_dice, mean_dice_of
from seg3d.training.progress import Progress
from seg3d.training.run_folder import RunFolder
from seg3d.training.trace import DIVERGED, TraceWriter, exact


class Recorder(pl.Callback):
    """Writes trace, sampling certificate, metrics and checkpoints of a run; rank 0 writes, all ranks take part.

    Records are on disk before the checkpoint that stands for them, so that what a resumed run finds beyond its
    checkpoint can be cut off and is written again, to the same bits.

    Args:
        folder: The run folder.
        certifier: Makes the sampling certificates.
        label_names: Foreground labels: name by value.
        patience: Validations without a better score after which training stops; ``None``: never.
        checkpoint_steps: Optimiser steps from one checkpoint to the next within an epoch; ``None``: at its end only.
        stop_after: Epochs after which training stops, however many were planned; ``None``: as planned.
        tell: Called with a line for each epoch; a function that can be pickled.
    """

    def __init__(
        self,
        folder: RunFolder,
        certifier: Certifier,
        label_names: Mapping[int, str],
        *,
        patience: int | None,
        checkpoint_steps: int | None,
        stop_after: int | None,
        tell: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.history: list[dict[str, float]] = []
        self._trace = TraceWriter(folder.trace)
        self._certifier = certifier
        self._labels = dict(label_names)
        self._patience = patience
        self._checkpoint_steps = checkpoint_steps
        self._stop_after = stop_after
        self._tell = tell
        self._progress = Progress()
        self._pending: list[tuple[dict[str, Any], torch.Tensor]] = []
        self._all_centres: list[tuple[Any, ...]] = []
        self._started = 0.0
        self._waited = 0.0
        self._validated = False
        self._learning_rate = math.nan

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain values; the patches are those of all ranks."""
        lines, last = self._trace.position
        return asdict(replace(self._progress, centres=self._all_centres, trace_lines=lines, trace_sha256=last))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint; the records have been cut back to it already."""
        self._progress = Progress(**state_dict)
        self._trace.go_on(self._progress.trace_lines, self._progress.trace_sha256)
        certificates = self.folder.certificates()
        if certificates:
            self._certifier.go_on(certificates[-1])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the time of an epoch that was interrupted; a run that had come to its end trains no further."""
        if trainer.global_rank != 0:  # a checkpoint has the patches of all ranks, which count once
            self._progress.centres = []
        self._started = time.perf_counter() - self._progress.epoch_seconds
        self._waited = self._progress.waited_seconds
        trainer.should_stop = trainer.should_stop or self._is_over

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin an epoch."""
        self._progress.begin(trainer.current_epoch)
        self._pending, self._validated = [], False
        self._started, self._waited = time.perf_counter(), 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rate of the step; when it ends the schedule has gone on already."""
        self._learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record a step; the loss stays on its device until records are written, so that nothing waits for it."""
        assert isinstance(pl_module, SegmentationModule)
        done = self._progress
        self._pending.append((self._step_record(trainer, batch, batch_idx), pl_module.batch_loss))
        drawn = zip(batch["case_id"], batch["centre"], batch["moved_out"], strict=True)
        done.centres += [(case, *centre, moved_out) for case, centre, moved_out in drawn]
        done.batches = batch_idx + 1
        done.epoch_seconds = time.perf_counter() - self._started  # validation comes after the last batch
        done.waited_seconds = self._waited + _seconds_waited(trainer)
        if trainer.progress_bar_callback is not None:
            rate = done.batches * len(batch["case_id"]) / done.epoch_seconds
            pl_module.log("patches/s", rate, prog_bar=True, logger=False, batch_size=1)
        if self._checkpoint_is_due(trainer):
            self._flush_steps()
            if trainer.global_rank == 0:
                self._trace.flush()
            if not self._has_diverged(trainer, pl_module):
                self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch has a score."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's records and checkpoints; a training that has diverged stops before its checkpoint."""
        assert isinstance(pl_module, SegmentationModule)
        self._flush_steps()
        diverged = self._has_diverged(trainer, pl_module)
        better = not diverged and self._note_score(pl_module)
        centres = _of_all_ranks(trainer, self._progress.centres)
        if trainer.global_rank == 0:
            self._write_epoch(trainer, pl_module, better, centres, diverged)
        self._progress.end()
        if diverged:
            trainer.should_stop = True
            return
        path = self._save(trainer)
        if better and path is not None:
            copy_as_best(path)
        trainer.should_stop = trainer.should_stop or self._is_over

    @property
    def _is_over(self) -> bool:
        stale = self._patience is not None and self._progress.stale > self._patience
        return stale or (self._progress.epoch == self._stop_after and self._progress.batches == 0)

    def _has_diverged(self, trainer: pl.Trainer, module: SegmentationModule) -> bool:
        """Whether loss or weights are no numbers any more, on any rank; all ranks call this.

        A single loss that is none may be mended: in fp16 such a step is left out.
        """
        finite = math.isfinite(self._progress.losses[-1]) and all(
            bool(torch.isfinite(weights).all()) for weights in module.network.parameters()
        )
        return trainer.strategy.reduce_boolean_decision(not finite, all=False)

    def _write_epoch(
        self,
        trainer: pl.Trainer,
        module: SegmentationModule,
        better: bool,
        centres: Sequence[tuple[Any, ...]],
        diverged: bool,
    ) -> None:
        row = self._row(trainer, module, len(centres))
        self.history.append(row)
        record = _epoch_record(trainer, module, row["val_dice"])
        self._trace.add(record | {DIVERGED: True} if diverged else record)
        self._trace.flush()
        placed = [(case, (x, y, z)) for case, x, y, z, *_ in centres]
        # checkpoints of earlier versions do not say what was moved out
        moved_out = [place for place, (*_, moved) in zip(placed, centres, strict=True) if moved is True]
        certificate = self._certifier.certify(trainer.current_epoch, placed, moved_out)
        append_line(self.folder.sampling, json.dumps(certificate, sort_keys=True))
        _append_row(self.folder.metrics, row)
        self._tell(_line(row, trainer.max_epochs, better))

    def _checkpoint_is_due(self, trainer: pl.Trainer) -> bool:
        """Within an epoch, where no gradient is half accumulated; the end of the epoch has its own."""
        done, every = self._progress.batches, self._checkpoint_steps
        stepped = done % trainer.accumulate_grad_batches == 0
        return (
            every is not None and stepped and trainer.global_step % every == 0 and done < trainer.num_training_batches
        )

    def _save(self, trainer: pl.Trainer) -> Path | None:
        """Write a checkpoint; all ranks call this, rank 0 writes and is told where."""
        self._all_centres = _of_all_ranks(trainer, self._progress.centres)
        write = partial(trainer.save_checkpoint, weights_only=False)  # optimiser and progress too
        if trainer.global_rank != 0:
            write(self.folder.checkpoints / "unused")  # the strategy waits for all ranks
            return None
        return save_checkpoint(self.folder.checkpoints, "last", trainer.global_step, write)

    def _flush_steps(self) -> None:
        """Bring the losses from their device, all at once."""
        if not self._pending:
            return
        losses = torch.stack([loss for _, loss in self._pending]).double().tolist()
        for (record, _), loss in zip(self._pending, losses, strict=True):
            self._trace.add(record | {"loss": exact(loss)})
        self._progress.losses += losses
        self._pending = []

    def _note_score(self, module: SegmentationModule) -> bool:
        """Whether the epoch's score is the best so far; the first of equal ones stays."""
        if not self._validated:
            return False
        score, best = mean_dice(module.scores), self._progress.best_score
        better = not math.isnan(score) and (best is None or score > best)
        self._progress.stale = 0 if better else self._progress.stale + 1
        if better:
            self._progress.best_score = score
            self._progress.best_step = module.global_step
        return better

    def _step_record(self, trainer: pl.Trainer, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        return {
            "epoch": trainer.current_epoch,
            "batch": batch_idx,
            "learning_rate": exact(self._learning_rate),
            "batch_sha256": hashlib.sha256("".join(batch["sha256"]).encode()).hexdigest(),
        }

    def _row(self, trainer: pl.Trainer, module: SegmentationModule, patches: int) -> dict[str, float]:
        done = self._progress
        row = {
            "epoch": float(trainer.current_epoch),
            "step": float(trainer.global_step),
            "train_loss": sum(done.losses) / len(done.losses),
            "learning_rate": self._learning_rate,
            "seconds": done.epoch_seconds,
            "patches_per_second": patches / done.epoch_seconds,
            "data_wait_share": done.waited_seconds / done.epoch_seconds,
            "val_dice": mean_dice(module.scores) if self._validated else math.nan,
        }
        for value, name in self._labels.items():
            row[f"val_dice_{name}"] = mean_dice_of(module.scores, value) if self._validated else math.nan
        return row


def _seconds_waited(trainer: pl.Trainer) -> float:
    """Seconds that the steps of this epoch have waited for their batches."""
    return float(getattr(trainer.train_dataloader, "waited", 0.0))


def _of_all_ranks(trainer: pl.Trainer, centres: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The patches of every rank; all ranks call this."""
    if trainer.world_size == 1:
        return centres
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, centres)
    return [centre for part in gathered for centre in part]


def _epoch_record(trainer: pl.Trainer, module: SegmentationModule, score: float) -> dict[str, Any]:
    record = {
        "epoch": trainer.current_epoch,
        "weights_sha256": sha256_tensors(module.network.state_dict()),
        "optimizer_sha256": optimizer_sha256(trainer.optimizers[0]),
        "generator_sha256": generator_sha256(),
    }
    if module.ema is not None:
        record["averaged_sha256"] = sha256_tensors(module.ema.shadow)
    if not math.isnan(score):
        record["val_dice"] = exact(score)
    return record


def _append_row(path: Path, row: Mapping[str, float]) -> None:
    values = {k: "" if math.isnan(v) else int(v) if k in ("epoch", "step") else v for k, v in row.items()}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerow(values)
    append_line(path, text.getvalue().rstrip("\n"))


def _line(row: Mapping[str, float], max_epochs: int | None, better: bool) -> str:
    score = "" if math.isnan(row["val_dice"]) else f"  val Dice {row['val_dice']:.4f}{' *' if better else ''}"
    return (
        f"epoch {int(row['epoch']) + 1}/{max_epochs}  loss {row['train_loss']:.4f}  "
        f"{row['patches_per_second']:.1f} patches/s{score}"
    )
