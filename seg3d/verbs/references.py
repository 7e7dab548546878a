"""Which reference belongs to which prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from seg3d.build.dataset import build_dataset
from seg3d.cases import Dataset, Region, read_dataset
from seg3d.config import load_config
from seg3d.errors import DataError, Fault, FaultsError
from seg3d.io import SUFFIXES, image_stem, images_in

_PARTNER = "Give files the same name, or the config that pairs them as LABELS."


@dataclass(frozen=True)
class References:
    """Reference files by case name; labels and groups where something declares them.

    Attributes:
        files: By case; of a case in ``negatives`` its image: the reference is all background on its grid.
        labels: Label values by name; empty where nothing declares them.
        ignore_label: Label value that counts nowhere, or ``None``.
        negatives: Cases that are declared to have no foreground.
        regions: Overlapping labels, where the dataset has them.
        groups: What a case belongs to, such as its patient.
        tolerance_mm: Tolerance of the surface Dice, where a config says it.
    """

    files: Mapping[str, Path]
    labels: Mapping[str, int] = field(default_factory=dict)
    ignore_label: int | None = None
    negatives: frozenset[str] = frozenset()
    regions: tuple[Region, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    tolerance_mm: float | None = None


def find_predictions(path: Path) -> dict[str, Path]:
    """Label maps by case name, in a folder or the one that is given.

    Raises:
        DataError: There is none, or two have one name.
    """
    if not path.exists():
        raise DataError("the predictions do not exist", where=path)
    files = _label_files(path)
    if not files:
        raise DataError("there is nothing to score", where=path, expected=f"files ending in {', '.join(SUFFIXES)}")
    return files


def find_references(path: Path) -> References:
    """The references in a label map, a folder of them, a dataset, or the dataset of a config.

    Raises:
        DataError: There are none, or they cannot be read.
        Seg3dError: The config or dataset is at fault.
    """
    if not path.exists():
        raise DataError("the references do not exist", where=path)
    if path.suffix.lower() in (".yaml", ".yml"):
        config = load_config(path)
        return replace(_of_dataset(build_dataset(config)), tolerance_mm=config.evaluate.tolerance_mm)
    if path.suffix.lower() in (".csv", ".tsv", ".json") or (path / "dataset.json").is_file():
        return _of_dataset(read_dataset(path))
    return References(_label_files(path))


def is_label_map(path: Path) -> bool:
    """Whether it is one file, by its name."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def pairs_of(
    predictions: Mapping[str, Path], references: References, *, single: bool, subset: bool
) -> dict[str, tuple[Path, Path]]:
    """Prediction and reference by case, sorted by its name.

    Args:
        predictions: Files by case.
        references: The references.
        single: One file against one, whatever they are called.
        subset: There may be more references than predictions.

    Raises:
        FaultsError: A prediction has no reference, or a reference no prediction.
    """
    if single:
        (case, prediction), (reference,) = next(iter(predictions.items())), references.files.values()
        return {case: (prediction, reference)}
    faults = [
        Fault(case, "no_reference", "the prediction has no reference", str(path), fix=_PARTNER)
        for case, path in sorted(predictions.items())
        if case not in references.files
    ]
    if not subset:
        faults += [
            Fault(case, "no_prediction", "the case was not predicted", fix="Predict it, or score with --subset.")
            for case in sorted(set(references.files) - set(predictions))
        ]
    if faults:
        raise FaultsError("predictions and references do not belong together", faults)
    return {case: (path, references.files[case]) for case, path in sorted(predictions.items())}


def _of_dataset(dataset: Dataset) -> References:
    files = {case.case_id: case.label for case in dataset.cases if case.label is not None}
    negatives = {case.case_id: case.images[0] for case in dataset.cases if case.negative}
    groups = {case.case_id: case.group for case in dataset.cases}
    return References(
        files | negatives, dataset.labels, dataset.ignore_label, frozenset(negatives), dataset.regions, groups
    )


def _label_files(path: Path) -> dict[str, Path]:
    files = [path] if path.is_file() else images_in(path)
    found: dict[str, Path] = {}
    for file in files:
        former = found.setdefault(image_stem(file), file)
        if former is not file:
            raise DataError("two label maps have one name", where=file, got=former.name, fix="Keep one of them.")
    return found
