"""``seg3d check``: every fault of a dataset, and of a config, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from seg3d.build.dataset import build_dataset, build_recipe, split_members
from seg3d.build.settings import attempts, swapped_sides
from seg3d.cases import Dataset, find_faults, read_dataset
from seg3d.config import Config, inspect_config
from seg3d.errors import ConfigError, DataError, Fault, FaultsError, Seg3dError
from seg3d.io import read_header
from seg3d.preparation import refuse_lines, refuse_oblique, turn_to_ras
from seg3d.store import stored_path
from seg3d.verbs.prepare import refuse_unlabelled

Result = TypeVar("Result")
_PLACE = ("data.source", "data.layout", "data.folders")


def check(source: Path | str, overrides: Sequence[str] = ()) -> list[Fault]:
    """All faults, sorted; an empty list means that the dataset can be used. Faults with ``note`` are allowed.

    Args:
        source: A dataset folder, its ``dataset.json``, a table, or a config that names one.
        overrides: ``path=value`` settings, for a config.

    Raises:
        ConfigError: There are settings, but no config.
    """
    path = Path(source)
    has_config = path.suffix.lower() in (".yaml", ".yml")
    if overrides and not has_config:
        fix = "Name the dataset in a config, or leave them out."
        raise ConfigError("settings are for a config", where=source, got=", ".join(overrides), fix=fix)
    try:
        if has_config:
            return _check_config(path, overrides)
        dataset = read_dataset(path)
        return sorted([*find_faults(dataset), *_name_faults(dataset)])
    except FaultsError as error:
        return sorted(error.faults)
    except Seg3dError as error:
        return [_fault_of(error, "unusable", path)]


def _check_config(path: Path, overrides: Sequence[str]) -> list[Fault]:
    config, faults = inspect_config(path, overrides)
    # what is sound in a faulty config may still name the dataset, so that its faults are told, too
    if config is None:
        return sorted(faults)
    dataset, more = _attempted("data", lambda: build_dataset(config), "unusable")
    if dataset is None:  # that it cannot be read may come from what was told of where it is
        return sorted(faults if any(_says_where(fault) for fault in faults) else [*faults, *more])
    sound = not faults
    faults += [*find_faults(dataset), *_name_faults(dataset)]
    for name, attempt in (
        ("data.labels", lambda: refuse_unlabelled(dataset)),
        ("prepare", lambda: build_recipe(config, len(dataset.channels))),
        ("data.split", lambda: split_members(config, _members(dataset))),
    ):
        faults += _attempted(name, attempt)[1]
    if sound and dataset.labels:  # else told already, or what stands for a faulty setting would be judged
        settings = attempts(config, dataset.labels, dataset.ignore_label, dataset.regions)
        faults += [fault for name, attempt in settings.items() for fault in _attempted(name, attempt)[1]]
        note = swapped_sides(config, dataset.labels, dataset.regions)
        faults += [] if note is None else [note]
    return sorted([*faults, *_slice_faults(config, dataset)])


def _says_where(fault: Fault) -> bool:
    """Whether a fault of a config is of the settings that say where the dataset is and what it looks like."""
    return fault.where == "data" or fault.where.startswith(_PLACE)


def _attempted(
    name: str, attempt: Callable[[], Result], kind: str = "unusable_setting"
) -> tuple[Result | None, list[Fault]]:
    """What ``attempt`` gives, or what is wrong with settings, which it raises."""
    try:
        return attempt(), []
    except FaultsError as error:
        return None, list(error.faults)
    except Seg3dError as error:
        return None, [_fault_of(error, kind, name)]


def _name_faults(dataset: Dataset) -> list[Fault]:
    """Cases whose names cannot be those of stored volumes."""
    found = []
    for case in dataset.cases:
        try:
            stored_path(Path(), case.case_id)
        except Seg3dError as error:
            found.append(_fault_of(error, "case_name", case.case_id))
    return found


def _slice_faults(config: Config, dataset: Dataset) -> Iterator[Fault]:
    """Scans that do not have the slices, or do not tell them, that a network of two dimensions is to see."""
    thin = config.sampling.thin_axes if config.model.dims == 2 else ()
    for case in dataset.cases if len(thin) == 1 else ():  # other numbers of thin axes are faults of the config
        try:
            grid = read_header(case.images[0]).grid
        except DataError:  # told already
            continue
        for kind, refuse in (("oblique_slices", refuse_oblique), ("line_slices", refuse_lines)):
            try:
                refuse(turn_to_ras(grid)[1], thin[0])
            except DataError as error:
                yield _fault_of(error, kind, f"{case.case_id} {case.images[0]}")


def _fault_of(error: Seg3dError, kind: str, where: object) -> Fault:
    got, expected = ("" if value is None else str(value) for value in (error.got, error.expected))
    return Fault(str(error.where or where), kind, error.what, got, expected, error.fix or "")


def _members(dataset: Dataset) -> list[tuple[str, str, bool]]:
    """Cases for a trial split; which of them hold the rare label does not matter to its faults."""
    return [(case.case_id, case.group, False) for case in dataset.cases if case.labelled]
