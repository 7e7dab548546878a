"""The TorchIO queue, fed with patches that are ready: drawn, read and augmented where the loader's workers run.

What is kept of :class:`torchio.Queue` is its contract (a dataset of patches that mixes those of several subjects and is
read by a loader without workers). What differs: order and mixing are keyed, the inner loader reads no global random
state, and a subject arrives as finished patches instead of as whole volumes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
import torchio as tio
from torch.utils.data import DataLoader, Dataset

from seg3d.errors import RunError, Seg3dError
from seg3d.keyed import keyed
from seg3d.sampling.patches import Patch, PatchReader
from seg3d.sampling.plan import EpochPlan, SamplingPlan
from seg3d.sampling.prefetch import in_order
from seg3d.volume import Shape

Batch = dict[str, Any]


class VisitDataset(Dataset[list[Patch] | Seg3dError]):
    """The subjects of the queue: item ``(epoch, visit)`` is the list of that visit's patches.

    A user's mistake is an item, too, which the queue raises: torch would put a worker's traceback into its message.

    Args:
        plan: The sampling plan.
        reader: Reads its patches.
        rank: Which of the ranks this is.
        ranks: Number of ranks.
        digests: Give each patch its digest, computed where it is read, so that the training step does not wait for it.
    """

    def __init__(
        self, plan: SamplingPlan, reader: PatchReader, rank: int = 0, ranks: int = 1, *, digests: bool = False
    ) -> None:
        self.plan = plan
        self.reader = reader
        self.rank, self.ranks = rank, ranks
        self._digests = digests
        self._epoch: EpochPlan | None = None

    def epoch(self, epoch: int) -> EpochPlan:
        """This rank's plan of an epoch; the last one asked for is kept."""
        if self._epoch is None or self._epoch.epoch != epoch:
            self._epoch = self.plan.epoch(epoch, self.rank, self.ranks)
        return self._epoch

    def __getitem__(self, key: tuple[int, int]) -> list[Patch] | Seg3dError:
        epoch, visit = key
        try:
            patches = self.reader.read(epoch, self.epoch(epoch).visits[visit])
        except Seg3dError as error:
            return error
        return [patch.with_digest() for patch in patches] if self._digests else patches


class ReadyPatches(tio.data.PatchSampler):  # type: ignore[misc]  # torchio is skipped by mypy
    """A TorchIO sampler of a visit: its patches are there already."""

    def __call__(self, patches: list[Patch], num_patches: int | None = None) -> Generator[tio.Subject, None, None]:
        """The patches as TorchIO subjects with ``image``, ``label``, ``location``, ``case_id``, ``centre`` and more."""
        for patch in patches[:num_patches]:
            yield as_subject(patch)


class PatchQueue(tio.Queue):  # type: ignore[misc]  # torchio is skipped by mypy
    """A queue that mixes the patches of several visits, the same ones in the same order however it is run.

    The queue is filled visit by visit until it holds ``max_length`` patches or more, mixed by key, emptied, and filled
    again. The order is therefore a pure function of plan, seed and ``max_length``.

    Args:
        visits: The subjects.
        max_length: Patches that the queue holds; one visit may overshoot it.
        patch_size: Voxels along x, y, z.
        num_workers: Worker processes that draw, read and augment.
        persistent_workers: Keep them between epochs.
        threads: Threads that do so instead of processes; 0: none.
    """

    def __init__(
        self,
        visits: VisitDataset,
        max_length: int,
        patch_size: Shape,
        num_workers: int = 0,
        persistent_workers: bool = True,
        threads: int = 0,
    ) -> None:
        self._keys = _EpochKeys()
        self._threads = threads
        self._skip = 0
        self._fills = 0
        self._loader = self._build_loader(visits, max_length, num_workers, persistent_workers)
        super().__init__(
            visits,
            max_length,
            samples_per_volume=visits.plan.patches_per_visit,
            sampler=ReadyPatches(patch_size),
            subject_sampler=self._keys,
            num_workers=num_workers,
            shuffle_subjects=False,
            shuffle_patches=True,
            start_background=False,
        )
        self.set_epoch(0)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Start an epoch, leaving out its first ``skip`` patches; fills that are skipped whole are not read."""
        plan = self.subjects_dataset.epoch(epoch)
        first_visit, self._fills, self._skip = self._fast_forward(plan, skip)
        self._keys.keys = [(epoch, number) for number in range(first_visit, len(plan.visits))]
        self._epoch = epoch
        self._length: int = plan.patches - skip
        self.patches_list: list[Any] = []
        self._subjects_iterable = None

    @property
    def iterations_per_epoch(self) -> int:
        """Patches that are left in this epoch."""
        return self._length

    def _fast_forward(self, plan: EpochPlan, skip: int) -> tuple[int, int, int]:
        """First visit to read, number of its fill, and patches of that fill to leave out."""
        if not 0 <= skip <= plan.patches:
            raise ValueError(f"skip is 0..{plan.patches}, got {skip}")
        first_visit, fills, held = 0, 0, 0
        for number, visit in enumerate(plan.visits, start=1):
            held += len(visit.draws)
            if held >= self.max_length and held <= skip:
                first_visit, fills, skip, held = number, fills + 1, skip - held, 0
            elif held >= self.max_length:
                break
        return first_visit, fills, skip

    def _fill(self) -> None:
        while len(self.patches_list) < self.max_length:
            visit = self._next_visit()
            if visit is None:
                break
            self.patches_list.extend(self.sampler(visit))
        self._shuffle_patches_list()
        self.patches_list = self.patches_list[self._skip :]
        self._fills, self._skip = self._fills + 1, 0

    def _next_visit(self) -> list[Patch] | None:
        try:
            visit: list[Patch] | Seg3dError | None = next(self.subjects_iterable, None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise RunError(
                "a process that reads patches was killed, most often for lack of memory or of shared memory",
                got=error,
                fix="Give them more (containers: --shm-size) and continue with 'seg3d resume', or train with fewer "
                "data.num_workers or data.prefetch=threads.",
            ) from error
        if isinstance(visit, Seg3dError):
            raise visit
        return visit

    def _shuffle_patches_list(self) -> None:
        rng = keyed(self.subjects_dataset.plan.seed, "queue", self._epoch, self._fills)
        self.patches_list = [self.patches_list[i] for i in rng.permutation(len(self.patches_list))]

    def _get_subjects_iterable(self) -> Iterator[list[Patch] | Seg3dError]:
        if not self._threads:
            return iter(self._loader)
        # while one fill is used up, the next is read
        ahead = -(-self.max_length // self.subjects_dataset.plan.patches_per_visit)
        return in_order(self.subjects_dataset.__getitem__, self._keys, self._threads, max(2, ahead))

    def _build_loader(
        self, visits: VisitDataset, max_length: int, num_workers: int, persistent: bool
    ) -> DataLoader[list[Patch] | Seg3dError]:
        # while one fill is used up, the workers read the next
        ahead = -(-max_length // (visits.plan.patches_per_visit * max(num_workers, 1)))
        return DataLoader(
            visits,
            batch_size=None,
            sampler=self._keys,
            num_workers=num_workers,
            persistent_workers=persistent and num_workers > 0,
            prefetch_factor=max(2, ahead) if num_workers else None,
            worker_init_fn=_use_one_thread,
            generator=torch.Generator(),  # else the loader would draw its base seed from the global one
        )


class _EpochKeys:
    """The visits of the current epoch, as a loader's sampler."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _use_one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def as_subject(patch: Patch) -> tio.Subject:
    """A patch as a TorchIO subject; ``location`` is start and stop in the stored volume, as TorchIO's own patches."""
    size = patch.label.shape
    location = [*patch.start, *(a + n for a, n in zip(patch.start, size, strict=True))]
    return tio.Subject(
        image=tio.ScalarImage(tensor=patch.image),
        label=tio.LabelMap(tensor=patch.label.unsqueeze(0)),
        case_id=patch.case_id,
        centre=patch.centre,
        moved_out=patch.moved_out,
        sha256=patch.sha256,
        **({} if patch.weights is None else {"weights": tio.ScalarImage(tensor=patch.weights.unsqueeze(0))}),
        **{tio.LOCATION: torch.tensor(location)},
    )


def collate(subjects: Sequence[tio.Subject]) -> Batch:
    """A batch: tensors ``image``, ``label`` and perhaps ``weights``, and a list of each of what else is known.

    ``image`` is ``(batch, channel, x, y, z)``, ``label`` and ``weights`` are ``(batch, x, y, z)``; the lists are
    ``case_id``, ``centre``, ``moved_out`` and ``sha256``.

    The memory order of the patches (x fastest) is kept: stacking them as they stand would copy them crosswise.
    """
    images = torch.stack([s["image"].data.permute(0, 3, 2, 1) for s in subjects])
    maps = {
        name: torch.stack([s[name].data[0].permute(2, 1, 0) for s in subjects]).permute(0, 3, 2, 1)
        for name in ("label", "weights")
        if name in subjects[0]
    }
    return {
        "image": images.permute(0, 1, 4, 3, 2),
        **maps,
        "case_id": [s["case_id"] for s in subjects],
        "centre": [s["centre"] for s in subjects],
        "moved_out": [s["moved_out"] for s in subjects],
        "sha256": [s["sha256"] for s in subjects],
    }


def patch_loader(queue: PatchQueue, batch_size: int) -> DataLoader[Batch]:
    """Batches of the queue in its own order; the loader itself has no workers, the queue has."""
    return DataLoader(
        queue, batch_size=batch_size, shuffle=False, num_workers=0, collate_fn=collate, generator=torch.Generator()
    )
