"""``seg3d check``: every fault of a dataset, and of a config, at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seg3d.build.dataset import build_dataset, build_recipe
from seg3d.cases import Dataset, find_faults, read_dataset, split_cases
from seg3d.config import load_config
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
    config = load_config(path, overrides)
    dataset = build_dataset(config)
    faults = find_faults(dataset)
    chosen = config.data.split
    for name, attempt in (
        ("prepare", lambda: build_recipe(config, len(dataset.channels))),
        ("data.split", lambda: split_cases(_groups(dataset), seed=config.seed, **_settings(chosen.model_dump()))),
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


def _groups(dataset: Dataset) -> list[tuple[str, str, bool]]:
    """Cases for a trial split; which of them hold the rare label does not matter to its faults."""
    return [(case.case_id, case.group, False) for case in dataset.cases if case.label is not None]


def _settings(split: dict[str, object]) -> dict[str, object]:
    file = split.pop("file")
    split.pop("stratify")
    return {**split, "file": None if file is None else Path(str(file))}
