"""Cases of a dataset from their source files to stored volumes, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seg3d.cases import Case, refuse_undeclared
from seg3d.errors import DataError, Seg3dError
from seg3d.io import read_image, read_label_map
from seg3d.preparation import Recipe, find_lost, prepare_image, prepare_label, prepare_weights
from seg3d.store import write_stored
from seg3d.volume import Grid, Volume


@dataclass(frozen=True, eq=False)
class PrepareJob:
    """A case to be prepared: what :func:`prepare_case` needs.

    Attributes:
        case: The case.
        path: Its stored volume.
        recipe: How it is prepared.
        channels: Names of the dataset's channels.
        labels: Label values by name.
        ignore_label: Label value that counts nowhere, or ``None``.
        source_sha256: SHA-256 of each source file by name.
        roles: Name of the source file by what it gives: ``"image 0"``, ``"label"``.
    """

    case: Case
    path: Path
    recipe: Recipe
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    ignore_label: int | None
    source_sha256: Mapping[str, str]
    roles: Mapping[str, str]

    @property
    def declared(self) -> set[int | None]:
        """Values that may stand in the label map."""
        return {0, *self.labels.values(), self.ignore_label}


Outcome = tuple[PrepareJob, Seg3dError | None]


def usable_cores() -> int:
    """Processor cores that this process may use, which on a shared machine are fewer than it has."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare_cases(jobs: Sequence[PrepareJob], workers: int) -> Iterator[Outcome]:
    """Each job and what went wrong with it, as they end.

    If a worker is killed, the cases that were being prepared are told and the ones that had not begun are left out.

    Args:
        jobs: What is to be done.
        workers: Processes at most.
    """
    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            yield job, prepare_case(job)
        return
    # forked workers would inherit the locks of torch's and HDF5's threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=end_with_parent) as pool:
        yield from _in_pool(pool, jobs, min(workers, len(jobs)))


def end_with_parent() -> None:
    """Have this process told to end (SIGTERM) when the one that started it has ended, even if that was killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _in_pool(pool: ProcessPoolExecutor, jobs: Sequence[PrepareJob], workers: int) -> Iterator[Outcome]:
    """As many jobs at a time as there are workers: those under way when one dies are the ones that it may have had."""
    waiting = iter(jobs)
    running: dict[Future[Seg3dError | None], PrepareJob] = {}
    killed: list[PrepareJob] = []
    while True:
        while not killed and len(running) < workers and (job := next(waiting, None)) is not None:
            try:
                running[pool.submit(prepare_case, job)] = job
            except BrokenProcessPool:  # those under way say so, too
                killed.append(job)
        if not running:
            break
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job = running.pop(future)
            try:
                yield job, future.result()
            except BrokenProcessPool:
                killed.append(job)
    for job in killed:
        yield job, _killed(workers)


def _killed(workers: int) -> DataError:
    return DataError(
        "a worker was killed while this case was being prepared, most often for lack of memory",
        fix=f"Lower prepare.workers (now {workers}) and prepare again: finished cases are kept.",
    )


def prepare_case(job: PrepareJob) -> Seg3dError | None:
    """Prepare and store one case; what went wrong is given back, and then nothing is stored."""
    try:
        _prepare(job)
    except Seg3dError as error:
        return error
    except MemoryError as error:
        return DataError(
            "the case does not fit into memory while it is prepared",
            where=job.case.images[0],
            got=str(error) or None,
            fix="Lower prepare.workers, or store fewer voxels (prepare.spacing_mm, prepare.crop).",
        )
    except OSError as error:  # of a source file: those of the store are told by write_stored
        return DataError("a file of the case cannot be read", where=job.case.images[0], got=error)
    return None


def _prepare(job: PrepareJob) -> None:
    images = _read_image(job)
    prepared = prepare_image(images, job.recipe, x_fastest=True)
    label = _label(job, images[0].grid)
    if label is not None and not label.grid.same_as(images[0].grid):
        raise DataError(
            "image and label lie on different grids",
            where=job.case.label,
            got=f"shape {label.grid.shape}",
            expected=f"the grid of {job.case.images[0].name}, shape {images[0].grid.shape}",
            fix="Run 'seg3d check' for all faults.",
        )
    final = None if label is None else prepare_label(label, prepared.way_back)
    write_stored(
        job.path,
        case_id=job.case.case_id,
        image=prepared.image,
        label=final,
        weights=None if final is None else prepare_weights(final, job.recipe, job.ignore_label),
        grid=prepared.grid,
        way_back=prepared.way_back.as_dict(),
        recipe_sha256=job.recipe.digest,
        source_sha256=job.source_sha256,
        roles=job.roles,
        cut_off=() if label is None else find_lost(label, prepared.way_back, _counted(job)),
        labels=job.labels,
        ignore_label=job.ignore_label,
    )


def _counted(job: PrepareJob) -> list[int]:
    return sorted(set(job.labels.values()) - {job.ignore_label})


def _read_image(job: PrepareJob) -> list[Volume]:
    volumes = read_image(job.case.images, len(job.channels))
    found = sum(volume.data.shape[0] for volume in volumes)
    if found != len(job.channels):
        raise DataError(
            "the image has another number of channels than the dataset",
            where=", ".join(str(path) for path in job.case.images),
            got=found,
            expected=f"{len(job.channels)} ({', '.join(job.channels)})",
            fix="Run 'seg3d check' for all faults.",
        )
    return volumes


def _label(job: PrepareJob, grid: Grid) -> Volume | None:
    """The label map of a case; one that is declared to hold no foreground is all background."""
    path = job.case.label
    if path is not None:
        label = read_label_map(path, job.declared)
        refuse_undeclared(label.data, path, job.declared)
        return label
    return Volume(np.zeros((1, *grid.shape), np.uint8), grid) if job.case.negative else None
