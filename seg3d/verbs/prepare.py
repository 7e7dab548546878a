"""``seg3d prepare``: from source files to the HDF5 store, in parallel, only what is not done yet."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from seg3d.atomic import as_json, exclusive, remove_leftovers, write_text
from seg3d.build.dataset import build_dataset, build_recipe
from seg3d.cases import Dataset, Region
from seg3d.config import Config, as_config
from seg3d.digest import FileDigests
from seg3d.errors import DataError, Fault, FaultsError, RunError, StoreError
from seg3d.io import is_picture, read_header
from seg3d.preparation import Recipe
from seg3d.store import StoredInfo, read_info, stored_path
from seg3d.verbs.prepare_cases import Outcome, PrepareJob, prepare_cases, usable_cores

MANIFEST = "store.json"
_TOLD = 10  # lines about single cases


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
        """What each stored volume says of itself, by case.

        Raises:
            StoreError: A volume is missing, damaged, or was prepared by another recipe.
        """
        return {case: self._read(case) for case in self.cases}

    def _read(self, case: str) -> StoredInfo:
        info = read_info(stored_path(self.path, case))
        if info.recipe_sha256 != self.recipe_sha256:
            raise StoreError(
                "the stored volume was prepared by another recipe",
                where=info.path,
                got=info.recipe_sha256[:12],
                expected=self.recipe_sha256[:12],
                fix="Another process prepared into this store: give each study with other prepare.* settings a "
                "data.store of its own.",
            )
        return info

    @property
    def labelled(self) -> tuple[StoredInfo, ...]:
        """The cases that have a label."""
        return tuple(info for info in self.infos.values() if info.label_offset is not None)

    def select(self, cases: Iterable[str]) -> tuple[StoredInfo, ...]:
        """Some of the cases, in the order given."""
        return tuple(self.infos[case] for case in cases)


def warn(text: str) -> None:
    """Print a line on stderr at once."""
    print(text, file=sys.stderr, flush=True)


def prepare(
    config: Config | Path | str,
    overrides: Sequence[str] = (),
    *,
    progress: bool = True,
    tell: Callable[[str], None] = warn,
) -> Store:
    """The store of a config's dataset; cases whose sources and recipe are unchanged are left as they are.

    One process at a time works in a store folder. A store that is complete is not written to.

    Args:
        config: A config or the path of one.
        overrides: ``path=value`` settings.
        progress: Show a progress bar.
        tell: Called with what a user should know.

    Raises:
        FaultsError: Some cases could not be prepared; the others are done.
        Seg3dError: The config, the source or the store cannot be used.
    """
    config = as_config(config, overrides)
    dataset = build_dataset(config)
    refuse_unsound(dataset)
    recipe = build_recipe(config, len(dataset.channels))
    store = Store(
        path=Path(config.data.store),
        cases=tuple(case.case_id for case in dataset.cases),
        groups={case.case_id: case.group for case in dataset.cases},
        channels=dataset.channels,
        labels=dataset.labels,
        ignore_label=dataset.ignore_label,
        recipe_sha256=recipe.digest,
        regions=dataset.regions,
    )
    jobs = prepare_jobs(dataset, recipe, store.path)
    if _pending(jobs)[0]:
        with _alone_in(store.path, tell):
            pending, told = _pending(jobs)  # another process may have done them meanwhile
            for line in told:
                tell(line)
            _tell_turned(pending, tell)
            _run(pending, config.prepare.workers or usable_cores(), progress)
            _write_manifest(store, dataset, recipe)  # which reads what is stored before another process may replace it
    else:
        _write_manifest(store, dataset, recipe)
    _tell_cut_off(store, tell)
    return store


def _tell_turned(jobs: Sequence[PrepareJob], tell: Callable[[str], None]) -> None:
    """Pictures of which those who drew the label maps may have seen something else than networks do."""
    files = [
        path for job in jobs for path in (*job.case.images, job.case.label) if path is not None and is_picture(path)
    ]
    turned = [path for path in files if _is_shown_turned(path)]
    if turned:
        text = "NOTE: viewers are told to show pictures turned; they are read as they are stored: do label maps agree?"
        tell(f"{text} {len(turned)} of {len(files)} files, the first {turned[0]}")


def _is_shown_turned(path: Path) -> bool:
    try:
        return read_header(path).shown_turned
    except DataError:  # told when it is prepared
        return False


def _tell_cut_off(store: Store, tell: Callable[[str], None]) -> None:
    """Lesions that no network will see, and that scores on whole scans count all the same."""
    names = {value: name for name, value in store.labels.items()}
    lines = [
        f"  {case}: {cut.lesions} of {cut.of_lesions} lesions of {names[cut.class_value]!r}, "
        f"{cut.voxels} of {cut.of_voxels} voxels" + (", all that there was" if cut.voxels == cut.of_voxels else "")
        for case, info in store.infos.items()
        for cut in info.cut_off
    ]
    if lines:
        tell("NOTE: prepare.crop cuts off whole lesions:")
        tell("\n".join(lines[:_TOLD]))
        if len(lines) > _TOLD:
            tell(f"  and {len(lines) - _TOLD} more, see {store.path / MANIFEST}")


@contextmanager
def _alone_in(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """No other process prepares into the store while the block runs.

    Raises:
        StoreError: It cannot be written to.
    """
    with ExitStack() as stack:
        with _told_unwritable(folder):
            try:
                stack.enter_context(exclusive(folder))
            except RunError:
                tell(f"waiting for another process that prepares into {folder}")
                stack.enter_context(exclusive(folder, wait=True))
            remove_leftovers(folder)
        yield


@contextmanager
def _told_unwritable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            "the store cannot be written to, and lacks something that these settings and sources need",
            where=folder,
            got=error,
            fix="Copy it to a folder where it can be completed, and give that as data.store.",
        ) from error


def refuse_unsound(dataset: Dataset) -> None:
    """Refuse a dataset that cannot be prepared.

    Raises:
        FaultsError: Its layout has faults.
        DataError: It has no cases or declares no labels.
    """
    serious = [fault for fault in dataset.faults if not fault.note]
    if serious:
        raise FaultsError(f"the dataset {dataset.source} cannot be used", serious)
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
        FaultsError: Files are missing or cannot be read.
        StoreError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError("the store folder cannot be made", where=folder, got=error) from error
    digests = FileDigests(folder / "sources.json")
    faults: list[Fault] = []
    jobs = []
    for case in dataset.cases:
        files = {f"image {number}": file for number, file in enumerate(case.images)}
        files |= {} if case.label is None else {"label": case.label}
        sources = {file: digest for file in files.values() if (digest := _digest(file, digests, faults))}
        if len(sources) == len(set(files.values())):
            jobs.append(
                PrepareJob(
                    case,
                    stored_path(folder, case.case_id),
                    recipe,
                    dataset.channels,
                    dataset.labels,
                    dataset.ignore_label,
                    {_source_name(file, dataset): digest for file, digest in sources.items()},
                    {role: _source_name(file, dataset) for role, file in files.items()},
                )
            )
    if faults:
        raise FaultsError("files of the dataset are missing or cannot be read", faults)
    digests.save()
    return jobs


def _digest(file: Path, digests: FileDigests, faults: list[Fault]) -> str:
    """SHA-256 of a file, or nothing and one more fault."""
    try:
        return digests.sha256(file)
    except (FileNotFoundError, IsADirectoryError):
        faults.append(Fault(str(file), "missing_file", "the file is missing"))
    except OSError as error:
        faults.append(Fault(str(file), "unreadable", "the file cannot be read", str(error.strerror or error)))
    return ""


def _source_name(file: Path, dataset: Dataset) -> str:
    """Path relative to the dataset, so that the record does not name the machine's folders."""
    root = dataset.source if dataset.source.is_dir() else dataset.source.parent
    return os.path.relpath(file, root)


def _why_not_done(job: PrepareJob) -> str | None:
    """Why a case is to be prepared, empty where it never was; ``None``: it is done."""
    if not job.path.exists():
        return ""
    try:
        info = read_info(job.path)
    except StoreError as error:  # torn, or of another schema
        return error.what
    reasons = {
        "other settings in prepare": info.recipe_sha256 == job.recipe.digest,
        "a source file has changed": info.source_sha256 == dict(job.source_sha256),
        # other channels of the same files, or the same channels in another order
        "the source files have other places among channels and label": info.roles == dict(job.roles),
        "other labels or channels": info.labels == dict(job.labels)
        and info.ignore_label == job.ignore_label
        and info.channels == len(job.channels)
        and (info.label_offset is not None) == job.case.labelled,
    }
    return next((reason for reason, same in reasons.items() if not same), None)


def _pending(jobs: Sequence[PrepareJob]) -> tuple[list[PrepareJob], list[str]]:
    """The jobs that are to be done, and a line for each reason why earlier volumes cannot be used."""
    reasons = [(job, _why_not_done(job)) for job in jobs]
    counts = Counter(reason for _, reason in reasons if reason)
    told = [f"NOTE: prepared anew, {count} of {len(jobs)} cases: {reason}" for reason, count in sorted(counts.items())]
    return [job for job, reason in reasons if reason is not None], told


def _run(jobs: Sequence[PrepareJob], workers: int, progress: bool) -> None:
    faults: list[Fault] = []
    ended = 0
    for job, error in _progress(prepare_cases(jobs, workers), len(jobs), progress):
        ended += 1
        if error is not None:
            faults.append(Fault(job.case.case_id, "not_prepared", str(error)))
    if faults:
        left = f", {len(jobs) - ended} were not begun" if ended < len(jobs) else ""
        raise FaultsError(f"{len(faults)} of {len(jobs)} cases could not be prepared{left}", sorted(faults))


def _progress(outcomes: Iterator[Outcome], total: int, shown: bool) -> Iterator[Outcome]:
    if not shown or total == 0:
        yield from outcomes
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(outcomes, "preparing", total, console=Console(stderr=True))


def _write_manifest(store: Store, dataset: Dataset, recipe: Recipe) -> None:
    """Write down what the store holds, unless that is written there: a complete store may be read-only."""
    text = as_json(
        {
            "dataset": dataset.name,
            "recipe": recipe.as_dict(),
            "recipe_sha256": recipe.digest,
            "channels": list(store.channels),
            "labels": dict(store.labels),
            "ignore_label": store.ignore_label,
            "cases": {
                case: {"group": store.groups[case], "content_sha256": info.content_sha256}
                | ({"cut_off": [asdict(cut) for cut in info.cut_off]} if info.cut_off else {})
                for case, info in store.infos.items()
            },
        }
    )
    path = store.path / MANIFEST
    with _told_unwritable(store.path):
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)
