"""``seg3d check``: every fault of a dataset, and of a config, at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seg3d.build.dataset import build_dataset, build_recipe, split_members
from seg3d.cases import Dataset, find_faults, read_dataset
from seg3d.config import inspect_config
from seg3d.errors import Fault, FaultsError, Seg3dError


def check(source: Path | str, overrides: Sequence[str] = ()) -> list[Fault]:
    """All faults, sorted; an empty list means that the dataset can be used. Faults with ``note`` are allowed.

    Args:
        source: A dataset folder, its ``dataset.json``, a table, or a config that names one.
        overrides: ``path=value`` settings, for a config.
    """
    path = Path(source)
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            return _check_config(path, overrides)
        return find_faults(read_dataset(path))
    except FaultsError as error:
        return sorted(error.faults)
    except Seg3dError as error:
        return [Fault(str(error.where or path), "unusable", error.what, str(error.got or ""), fix=error.fix or "")]


def _check_config(path: Path, overrides: Sequence[str]) -> list[Fault]:
    config, faults = inspect_config(path, overrides)
    # what is sound in a faulty config may still name the dataset, so that its faults are told, too
    if config is None or (faults and not Path(config.data.source).exists()):
        return sorted(faults)
    dataset = build_dataset(config)
    faults += find_faults(dataset)
    for name, attempt in (
        ("prepare", lambda: build_recipe(config, len(dataset.channels))),
        ("data.split", lambda: split_members(config, _members(dataset))),
    ):
        try:
            attempt()
        except FaultsError as error:
            faults += error.faults
        except Seg3dError as error:
            faults.append(
                Fault(
                    str(error.where or name),
                    "unusable_setting",
                    error.what,
                    str(error.got or ""),
                    str(error.expected or ""),
                    error.fix or "",
                )
            )
    return sorted(faults)


def _members(dataset: Dataset) -> list[tuple[str, str, bool]]:
    """Cases for a trial split; which of them hold the rare label does not matter to its faults."""
    return [(case.case_id, case.group, False) for case in dataset.cases if case.labelled]
