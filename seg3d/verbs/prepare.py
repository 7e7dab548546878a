"""``seg3d prepare``: from source files to the HDF5 store, in parallel, only what is not done yet."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from seg3d.atomic import remove_leftovers, write_json
from seg3d.build.dataset import build_dataset, build_recipe
from seg3d.cases import Case, Dataset, Region, refuse_undeclared
from seg3d.config import Config, as_config
from seg3d.digest import FileDigests
from seg3d.errors import DataError, Fault, FaultsError, Seg3dError, StoreError
from seg3d.io import read_image, read_label_map
from seg3d.preparation import Recipe, prepare_image, prepare_label, prepare_weights
from seg3d.store import StoredInfo, read_info, stored_path, write_stored
from seg3d.volume import Grid, Volume

MANIFEST = "store.json"


@dataclass(frozen=True, eq=False)
class Store:
    """A prepared dataset: its folder and what holds for all its cases.

    Attributes:
        path: The folder.
        cases: Case names, sorted.
        groups: Patient or group by case.
        channels: Names of the channels.
        labels: Label values by name.
        ignore_label: Label value that counts nowhere, or ``None``.
        recipe_sha256: Digest of the recipe.
        regions: Sets of labels that are predicted instead of single labels.
    """

    path: Path
    cases: tuple[str, ...]
    groups: Mapping[str, str]
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    ignore_label: int | None
    recipe_sha256: str
    regions: tuple[Region, ...] = ()

    @cached_property
    def infos(self) -> dict[str, StoredInfo]:
        """What each stored volume says of itself, by case."""
        return {case: read_info(stored_path(self.path, case)) for case in self.cases}

    @property
    def labelled(self) -> tuple[StoredInfo, ...]:
        """The cases that have a label."""
        return tuple(info for info in self.infos.values() if info.label_offset is not None)

    def select(self, cases: Iterable[str]) -> tuple[StoredInfo, ...]:
        """Some of the cases, in the order given."""
        return tuple(self.infos[case] for case in cases)


@dataclass(frozen=True, eq=False)
class PrepareJob:
    """A case to be prepared: what :func:`prepare_case` needs."""

    case: Case
    path: Path
    recipe: Recipe
    channels: int
    labels: Mapping[str, int]
    ignore_label: int | None
    source_sha256: Mapping[str, str]

    @property
    def declared(self) -> set[int | None]:
        """Values that may stand in the label map."""
        return {0, *self.labels.values(), self.ignore_label}


def prepare(config: Config | Path | str, overrides: Sequence[str] = (), *, progress: bool = True) -> Store:
    """The store of a config's dataset; cases whose sources and recipe are unchanged are left as they are.

    Args:
        config: A config or the path of one.
        overrides: ``path=value`` settings.
        progress: Show a progress bar.

    Raises:
        FaultsError: Some cases could not be prepared; the others are done.
        Seg3dError: The config, the source or the store cannot be used.
    """
    config = as_config(config, overrides)
    dataset = build_dataset(config)
    refuse_unsound(dataset)
    recipe = build_recipe(config, len(dataset.channels))
    folder = Path(config.data.store)
    jobs = prepare_jobs(dataset, recipe, folder)
    _run([job for job in jobs if not _is_done(job)], config.prepare.workers, progress)
    store = Store(
        path=folder,
        cases=tuple(case.case_id for case in dataset.cases),
        groups={case.case_id: case.group for case in dataset.cases},
        channels=dataset.channels,
        labels=dataset.labels,
        ignore_label=dataset.ignore_label,
        recipe_sha256=recipe.digest,
        regions=dataset.regions,
    )
    _write_manifest(store, dataset, recipe)
    return store


def refuse_unsound(dataset: Dataset) -> None:
    """Refuse a dataset that cannot be prepared.

    Raises:
        FaultsError: Its layout has faults.
        DataError: It has no cases or declares no labels.
    """
    if dataset.faults:
        raise FaultsError(f"the dataset {dataset.source} cannot be used", dataset.faults)
    if not dataset.cases:
        raise DataError("the dataset has no cases", where=dataset.source)
    refuse_unlabelled(dataset)


def refuse_unlabelled(dataset: Dataset) -> None:
    """Refuse a dataset of which nothing says what its label values mean.

    Raises:
        DataError: It has no labels.
    """
    if not dataset.labels:
        raise DataError(
            "nothing says what the label values mean",
            where=dataset.source,
            expected="data.labels={background: 0, ...}",
            fix="Declare the labels in the config.",
        )


def prepare_jobs(dataset: Dataset, recipe: Recipe, folder: Path) -> list[PrepareJob]:
    """What is to be done for each case of a dataset; the store folder is made, the source files are digested.

    Raises:
        FaultsError: Files are missing.
        StoreError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError("the store folder cannot be made", where=folder, got=error) from error
    remove_leftovers(folder)
    digests = FileDigests(folder / "sources.json")
    jobs, missing = [], []
    for case in dataset.cases:
        files = [*case.images, *([] if case.label is None else [case.label])]
        absent = [file for file in files if not file.is_file()]
        missing += [Fault(str(file), "missing_file", "the file is missing") for file in absent]
        if not absent:
            sources = {_source_name(file, dataset): digests.sha256(file) for file in files}
            path = stored_path(folder, case.case_id)
            channels = len(dataset.channels)
            jobs.append(PrepareJob(case, path, recipe, channels, dataset.labels, dataset.ignore_label, sources))
    if missing:
        raise FaultsError("files of the dataset are missing", missing)
    digests.save()
    return jobs


def _source_name(file: Path, dataset: Dataset) -> str:
    """Path relative to the dataset, so that the record does not name the machine's folders."""
    root = dataset.source if dataset.source.is_dir() else dataset.source.parent
    return os.path.relpath(file, root)


def _is_done(job: PrepareJob) -> bool:
    if not job.path.exists():
        return False
    try:
        info = read_info(job.path)
    except StoreError:  # torn or of another schema: prepare it again
        return False
    return (
        info.recipe_sha256 == job.recipe.digest
        and info.source_sha256 == dict(job.source_sha256)
        and info.labels == dict(job.labels)
        and info.ignore_label == job.ignore_label
        and info.channels == job.channels
        and (info.label_offset is not None) == job.case.labelled
    )


def _run(jobs: Sequence[PrepareJob], workers: int | None, progress: bool) -> None:
    faults: list[Fault] = []
    for job, error in _progress(_outcomes(jobs, workers or os.cpu_count() or 1), len(jobs), progress):
        if error is not None:
            faults.append(Fault(job.case.case_id, "not_prepared", str(error)))
    if faults:
        raise FaultsError(f"{len(faults)} of {len(jobs)} cases could not be prepared", sorted(faults))


def _outcomes(jobs: Sequence[PrepareJob], workers: int) -> Iterator[tuple[PrepareJob, Seg3dError | None]]:
    """Each job and what went wrong with it, as they end."""
    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            yield job, prepare_case(job)
        return
    # forked workers would inherit the locks of torch's and HDF5's threads
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(prepare_case, job): job for job in jobs}
        for future in as_completed(running):
            yield running[future], future.result()


def prepare_case(job: PrepareJob) -> Seg3dError | None:
    """Prepare and store one case; what went wrong is given back, and then nothing is stored."""
    try:
        images = read_image(job.case.images, job.channels)
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
            labels=job.labels,
            ignore_label=job.ignore_label,
        )
    except Seg3dError as error:
        return error
    return None


def _label(job: PrepareJob, grid: Grid) -> Volume | None:
    """The label map of a case; one that is declared to hold no foreground is all background."""
    path = job.case.label
    if path is not None:
        label = read_label_map(path, job.declared)
        refuse_undeclared(label.data, path, job.declared)
        return label
    return Volume(np.zeros((1, *grid.shape), np.uint8), grid) if job.case.negative else None


def _progress(
    outcomes: Iterator[tuple[PrepareJob, Seg3dError | None]], total: int, shown: bool
) -> Iterator[tuple[PrepareJob, Seg3dError | None]]:
    if not shown or total == 0:
        yield from outcomes
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(outcomes, "preparing", total, console=Console(stderr=True))


def _write_manifest(store: Store, dataset: Dataset, recipe: Recipe) -> None:
    write_json(
        store.path / MANIFEST,
        {
            "dataset": dataset.name,
            "recipe": recipe.as_dict(),
            "recipe_sha256": recipe.digest,
            "channels": list(store.channels),
            "labels": dict(store.labels),
            "ignore_label": store.ignore_label,
            "cases": {
                case: {"group": store.groups[case], "content_sha256": info.content_sha256}
                for case, info in store.infos.items()
            },
        },
    )
