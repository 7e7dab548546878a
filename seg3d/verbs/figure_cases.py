"""Which cases ``seg3d figure`` draws: predictions with their images and references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seg3d.build.dataset import build_dataset, foreground
from seg3d.cases import Dataset, Region, read_dataset
from seg3d.config import load_config
from seg3d.errors import DataError, Fault, FaultsError
from seg3d.io import SUFFIXES, image_stem, images_in, read_header
from seg3d.reporting.loading import CaseFiles, images_of
from seg3d.verbs.manifest import read_manifest
from seg3d.verbs.meaning import refuse_contradiction


@dataclass(frozen=True)
class LabelNames:
    """What label values mean; ``names`` is ``None`` where nothing declares them, ``regions`` is what was predicted."""

    names: Mapping[int, str] | None
    ignore_label: int | None
    regions: tuple[Region, ...] = ()


def gather_cases(
    predictions: Path, images: Path, labels: Path | None, cases: Sequence[str]
) -> tuple[list[CaseFiles], LabelNames]:
    """The cases to draw, sorted by name, and what their labels mean.

    Raises:
        FaultsError: Cases lack a partner.
        DataError: There is nothing to draw, or dataset and predictions give a label different values.
    """
    predicted = _predictions(predictions, cases)
    single = predictions.is_file()
    of_images = _dataset(images)
    scans = _images(images, of_images, single, predicted)
    of_labels = None if labels is None else _dataset(labels)
    references = {} if labels is None else _references(labels, of_labels, single, predicted)
    faults = [
        Fault(case, "no_image", "the prediction has no image", str(path), fix="Give its folder by --images.")
        for case, path in predicted.items()
        if case not in scans
    ]
    if labels is not None:
        faults += [
            Fault(case, "no_reference", "the prediction has no reference", str(path), fix="Choose cases by --case.")
            for case, path in predicted.items()
            if case not in references
        ]
    if faults:
        raise FaultsError("predictions, images and references do not belong together", faults)
    negatives = set() if of_labels is None else {case.case_id for case in of_labels.cases if case.negative}
    files = [
        CaseFiles(case, scans[case], path, references.get(case), case in negatives) for case, path in predicted.items()
    ]
    return files, _meanings(predictions, of_labels or of_images)


def _predictions(path: Path, cases: Sequence[str]) -> dict[str, Path]:
    if not path.exists():
        raise DataError("the predictions do not exist", where=path)
    files = [path] if path.is_file() else images_in(path)
    found: dict[str, Path] = {}
    for file in files:
        if found.setdefault(image_stem(file), file) is not file:
            raise DataError("several predictions have the same name", where=path, got=image_stem(file))
    if not found:
        raise DataError("there is nothing to draw", where=path, expected=f"files ending in {', '.join(SUFFIXES)}")
    missing = sorted(set(cases) - set(found))
    if missing:
        there = ", ".join([*list(found)[:6], *(["..."] if len(found) > 6 else [])])
        raise DataError("no such case among the predictions", where="--case", got=", ".join(missing), expected=there)
    return {case: found[case] for case in sorted(cases or found)}


def _dataset(path: Path) -> Dataset | None:
    """The dataset that a path names, ``None`` for a file or folder of images."""
    if not path.exists():
        raise DataError("the images or references do not exist", where=path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return build_dataset(load_config(path))
    if path.suffix.lower() in (".csv", ".tsv", ".json") or (path / "dataset.json").is_file():
        return read_dataset(path)
    return None


def _images(path: Path, dataset: Dataset | None, single: bool, predicted: Mapping[str, Path]) -> Mapping[str, Path]:
    if dataset is not None:
        return {case.case_id: case.images[0] for case in dataset.cases}
    if path.is_file():
        return dict.fromkeys(predicted, path) if single else {image_stem(path): path}
    return images_of(path)


def _references(
    path: Path, dataset: Dataset | None, single: bool, predicted: Mapping[str, Path]
) -> Mapping[str, Path | None]:
    if dataset is not None:
        # of a dataset's case without label the prediction alone is drawn
        return {case.case_id: case.label for case in dataset.cases}
    return _images(path, None, single, predicted)


def _meanings(predictions: Path, dataset: Dataset | None) -> LabelNames:
    """As the dataset or the predictions say, in the order in which ``seg3d evaluate`` asks them."""
    manifest = read_manifest(predictions)
    regions = (dataset.regions if dataset is not None else ()) or tuple(
        map(Region.from_dict, manifest.get("regions", []))
    )
    if dataset is not None and dataset.labels:
        refuse_contradiction(manifest.get("labels", {}), dataset.labels)
        labels, ignore_label = dataset.labels, dataset.ignore_label
    elif manifest:
        labels, ignore_label = manifest["labels"], manifest["ignore_label"]
    else:
        return LabelNames(None, None)
    return LabelNames({value: name for name, value in foreground(labels, ignore_label).items()}, ignore_label, regions)


def names_that_differ(predictions: Path, meanings: LabelNames) -> list[str]:
    """Values that the record of the predictions calls by another name than the figures do."""
    predicted = {value: name for name, value in read_manifest(predictions).get("labels", {}).items()}
    names = meanings.names or {}
    return [
        f"{value} is {predicted[value]} in the predictions' record and {name} in the dataset, as it is drawn"
        for value, name in sorted(names.items())
        if predicted.get(value, name) != name
    ]


def refuse_misfits(files: Sequence[CaseFiles]) -> None:
    """Raise where the maps of a case lie on another grid than its image; headers only."""
    faults = []
    for one in files:
        try:
            grid = read_header(one.image).grid
            others = [(path, read_header(path).grid) for path in (one.prediction, one.reference) if path is not None]
        except DataError as error:
            faults.append(Fault(one.name, "unreadable", str(error)))
            continue
        for path, other in others:
            if not grid.same_as(other):
                same_shape = grid.shape == other.shape
                got = other.affine.round(3).tolist() if same_shape else other.shape
                wanted = grid.affine.round(3).tolist() if same_shape else grid.shape
                what = "the label map lies on another grid than its image"
                faults.append(Fault(one.name, "grid_mismatch", f"{what}: {path}", str(got), str(wanted)))
    if faults:
        raise FaultsError(f"{len(faults)} faults; nothing was drawn", faults)


def refuse_overwriting_inputs(inputs: Sequence[Path], target: Path) -> None:
    """Raise where figures would lie in a folder of inputs, whose pictures the next call would take for cases."""
    if target.exists() and not target.is_dir():
        raise DataError("the output is not a folder", where=target)
    for path in inputs:
        folder = path if path.is_dir() else path.parent if path.name.lower().endswith(SUFFIXES) else None
        if folder is not None and folder.resolve() == target.resolve():
            raise DataError(
                "figures would lie among what they show", where=target, fix="Give --output a folder of its own."
            )
