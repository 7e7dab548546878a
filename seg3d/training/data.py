"""The Lightning data module: keyed patches for training, whole stored volumes for validation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from seg3d.sampling.patches import PatchReader
from seg3d.sampling.plan import SamplingPlan
from seg3d.sampling.prefetch import AheadLoader, Prefetch, choose_prefetch
from seg3d.sampling.queue import PatchQueue, VisitDataset, collate
from seg3d.store import StoredInfo

_MEASURED_VISITS = 8


class EpochOrder:
    """Sampler of the outer loader: tells the queue which epoch begins, then counts its patches.

    Args:
        queue: The queue.
        begun: An epoch that was interrupted, and how many of its patches this rank has used already.
    """

    def __init__(self, queue: PatchQueue, begun: tuple[int, int] = (0, 0)) -> None:
        self._queue = queue
        self._begun = begun
        self._patches = len(queue)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        begun, used = self._begun
        self._queue.set_epoch(epoch, skip=used if epoch == begun else 0)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._queue.iterations_per_epoch))  # those left, so that none is read ahead in vain

    def __len__(self) -> int:
        # of a whole epoch, also of one that was begun: Lightning goes on counting where it was interrupted
        return self._patches


class PatchDataModule(pl.LightningDataModule):
    """Patches for training and whole cases for validation.

    Args:
        plan: The sampling plan.
        reader: Reads its patches.
        validation: Cases for validation; with several ranks each takes every n-th.
        queue_length: Patches that the queue holds.
        batch_size: Patches a step on each rank.
        num_workers: Threads or processes that read patches.
        prefetch: ``"threads"``, ``"processes"``, ``"none"`` (each batch is read when the step asks for it) or
            ``"auto"``, which measures what a patch takes.
        begun: An epoch that was interrupted, and how many of its batches are done.
    """

    def __init__(
        self,
        plan: SamplingPlan,
        reader: PatchReader,
        validation: Sequence[StoredInfo],
        *,
        queue_length: int,
        batch_size: int,
        num_workers: int,
        prefetch: Prefetch = "auto",
        begun: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.plan = plan
        self._reader = reader
        self._validation = tuple(validation)
        self._queue_length = queue_length
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._begun = begun
        self._prefetch = prefetch

    @cached_property
    def prefetch(self) -> Prefetch:
        """What ``prefetch`` came to; measured when it is first asked for."""
        return choose_prefetch(self._prefetch, self._num_workers, self._seconds_of_patch)

    def train_dataloader(self) -> AheadLoader:
        """Batches of patches: this rank's share of the epoch."""
        visits = VisitDataset(self.plan, self._reader, self._rank, self._ranks, digests=True)
        prefetch, workers = self.prefetch, self._num_workers
        queue = PatchQueue(
            visits,
            self._queue_length,
            self._reader.patch_size,
            workers if prefetch == "processes" else 0,
            threads=max(1, workers) if prefetch == "threads" else 0,
        )
        epoch, batches = self._begun
        loader: DataLoader[Any] = DataLoader(
            queue,
            batch_size=self._batch_size,
            sampler=EpochOrder(queue, (epoch, batches * self._batch_size)),
            num_workers=0,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),  # its copy to the device then runs beside the step
        )
        return AheadLoader(loader, 0 if prefetch == "none" else 2)

    def _seconds_of_patch(self) -> float:
        """CPU seconds of a patch without its digest, the median of a few visits; nothing of it is used."""
        visits = self.plan.epoch(0).visits[: 1 + _MEASURED_VISITS]
        found = []
        for visit in visits:
            started = time.process_time()
            self._reader.read(0, visit)
            found.append((time.process_time() - started) / len(visit.draws))
        return statistics.median(found[1:] or found)  # the first touches everything for the first time

    def val_dataloader(self) -> DataLoader[Any]:
        """This rank's validation cases, each once; ``None`` fills up so that every rank has the same number."""
        cases: list[StoredInfo | None] = list(self._validation[self._rank :: self._ranks])
        # a rank without a case would leave the validation out, and the others would wait for its scores for ever
        cases += [None] * (-(-len(self._validation) // self._ranks) - len(cases))
        return DataLoader(cases, batch_size=None, num_workers=0, collate_fn=_as_is)  # type: ignore[arg-type]  # a list is a dataset

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer else 1


def _as_is(case: StoredInfo | None) -> StoredInfo | None:
    return case
