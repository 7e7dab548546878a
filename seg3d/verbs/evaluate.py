"""``seg3d evaluate``: label maps against references, per case and label."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.atomic import write_json, write_text
from seg3d.build.dataset import build_dataset
from seg3d.cases import Dataset, Region, read_dataset, refuse_grey_levels, refuse_undeclared
from seg3d.config import load_config
from seg3d.errors import ConfigError, DataError, Fault, FaultsError
from seg3d.io import (
    SUFFIXES,
    count_labels,
    image_stem,
    is_picture,
    read_header,
    read_label_map,
)
from seg3d.metrics import LabelScore, format_summary, score_case, summarise
from seg3d.training.run_folder import open_run_folder
from seg3d.verbs.extra_scores import (
    Extras,
    Wanted,
    cells_label,
    cells_of_case,
    extra_blocks,
    extra_rules,
    find_probabilities,
    score_extras,
)
from seg3d.verbs.manifest import read_manifest
from seg3d.verbs.region_scores import (
    all_rows,
    as_shown,
    known_probabilities,
    region_block,
    score_regions,
    shown_names,
)
from seg3d.verbs.report import report_scores

__all__ = ["evaluate", "format_summary"]

_PARTNER = "Give files the same name, or the config that pairs them as LABELS."


@dataclass(frozen=True)
class _References:
    """Reference files by case name; labels where something declares them.

    Of a case in ``negatives`` the file is its image: the reference is all background on its grid.
    """

    files: Mapping[str, Path]
    labels: Mapping[str, int]
    ignore_label: int | None
    negatives: frozenset[str] = frozenset()
    regions: tuple[Region, ...] = ()


_CaseScores = tuple[dict[int, LabelScore], Extras, dict[int, LabelScore]]  # of labels, further ones, of regions


@dataclass(frozen=True)
class _Meaning:
    """What label values mean.

    Attributes:
        names: Names of the foreground labels by value.
        ignore_label: Label value that counts nowhere, or ``None``.
        declared: Whether anything says so; the names are else of the values that were found.
    """

    names: Mapping[int, str]
    ignore_label: int | None = None
    declared: bool = True

    def known(self, *, reference: bool) -> set[int | None]:
        """Values that a picture may hold; none where nothing says so. A prediction never holds the ignored label."""
        return {0, *self.names, *([self.ignore_label] if reference else [])} if self.declared else set()


def evaluate(
    predictions: Path | str,
    labels: Path | str,
    output: Path | str,
    *,
    tolerance_mm: float = 2.0,
    subset: bool = False,
    cells: str | None = None,
    run: Path | str | None = None,
    report: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The summary written at ``output``, in nnU-Net's shape with more in it; a CSV of all scores lies beside it.

    Args:
        predictions: A label map or a folder of them.
        labels: The reference: a label map, a folder of them, a dataset, or a config that names one.
        output: The JSON file.
        tolerance_mm: Tolerance of the surface Dice.
        subset: Score what was predicted, even if there are more references.
        cells: Value or name of the label that is the inside of cells, everything else being membrane: also give the
            Rand and information scores of the ISBI 2012 challenge.
        run: The run that predicted, whose ``report.html`` is made anew; by default it is looked for around the
            predictions and their config, and there is no report where it is not found.
        report: Whether to make it.
        tell: Called with where the report is.

    Probability maps in the folder ``probabilities`` beside the predictions give the pooled soft Dice, and the cell
    scores at several thresholds.

    Raises:
        FaultsError: A case has no partner, lies on another grid, or cannot be read; nothing is written.
        DataError: There is nothing to score.
        RunError: ``run`` is no run folder.
        ConfigError: The output cannot be the summary's file.
    """
    found, target = Path(predictions), Path(output)
    _refuse_output(target)
    if run is not None:
        open_run_folder(Path(run))
    references = _references(Path(labels))
    pairs = _pairs(_predictions(found), references, found.is_file() and _is_label_map(Path(labels)), subset)
    manifest = read_manifest(found)
    meaning = _meaning(manifest, references, pairs)
    regions = references.regions or tuple(map(Region.from_dict, manifest.get("regions", [])))
    names = shown_names(meaning.names, regions)
    wanted = Wanted(
        known_probabilities(find_probabilities(found), regions), None if cells is None else cells_label(cells, names)
    )
    scored = _score_all(pairs, references.negatives, meaning, tolerance_mm, wanted, regions)
    scores = {case: labels_ for case, (labels_, _, _) in scored.items()}
    extras = {case: extra for case, (_, extra, _) in scored.items()}
    of_regions = {case: regions_ for case, (_, _, regions_) in scored.items()}
    blocks = extra_blocks(extras, names, wanted) | region_block(of_regions, regions, tolerance_mm)
    summary = summarise(scores, names, tolerance_mm=tolerance_mm) | blocks
    summary["rules"] |= extra_rules(blocks)
    for row in summary["metric_per_case"]:
        prediction, reference = pairs[row["case"]]
        negative = row["case"] in references.negatives
        row |= {"prediction_file": str(prediction), "reference_file": None if negative else str(reference)}
        if cells is not None:
            row["cells"] = cells_of_case(extras[row["case"]])
    write_text(target.with_suffix(".csv"), _table(all_rows(summary)))
    write_json(target, summary)
    if report:
        report_scores(found, Path(labels), target, None if run is None else Path(run), tell)
    return summary


def _refuse_output(target: Path) -> None:
    """The table beside the summary has its name with the ending .csv."""
    if target.is_dir() or target.suffix.lower() == ".csv":
        raise ConfigError("the summary is a JSON file", where="--output", got=target, expected="FILE.json")


def _is_label_map(path: Path) -> bool:
    """Whether it is one file, by its name."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def _predictions(path: Path) -> dict[str, Path]:
    if not path.exists():
        raise DataError("the predictions do not exist", where=path)
    files = _label_files(path)
    if not files:
        raise DataError("there is nothing to score", where=path, expected=f"files ending in {', '.join(SUFFIXES)}")
    return files


def _references(path: Path) -> _References:
    if not path.exists():
        raise DataError("the references do not exist", where=path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _of_dataset(build_dataset(load_config(path)))
    if path.suffix.lower() in (".csv", ".tsv", ".json") or (path / "dataset.json").is_file():
        return _of_dataset(read_dataset(path))
    return _References(_label_files(path), {}, None)


def _of_dataset(dataset: Dataset) -> _References:
    files = {case.case_id: case.label for case in dataset.cases if case.label is not None}
    negatives = {case.case_id: case.images[0] for case in dataset.cases if case.negative}
    return _References(files | negatives, dataset.labels, dataset.ignore_label, frozenset(negatives), dataset.regions)


def _label_files(path: Path) -> dict[str, Path]:
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.name.lower().endswith(SUFFIXES))
    found: dict[str, Path] = {}
    for file in files:
        former = found.setdefault(image_stem(file), file)
        if former is not file:
            raise DataError("two label maps have one name", where=file, got=former.name, fix="Keep one of them.")
    return found


def _pairs(
    predictions: Mapping[str, Path], references: _References, single: bool, subset: bool
) -> dict[str, tuple[Path, Path]]:
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


def _meaning(manifest: Mapping[str, Any], references: _References, pairs: Mapping[str, tuple[Path, Path]]) -> _Meaning:
    """Labels as the dataset or the predictions say, else as found."""
    labels, ignore_label = references.labels, references.ignore_label
    if not labels and manifest:
        labels, ignore_label = manifest["labels"], manifest["ignore_label"]
    if labels:
        return _Meaning({v: name for name, v in labels.items() if v not in (0, ignore_label)}, ignore_label)
    values: set[int] = set()
    for case, pair in pairs.items():
        for path in pair[: 1 if case in references.negatives else 2]:
            found = read_label_map(path).data
            refuse_grey_levels(found, path)
            values |= set(count_labels(found))
    return _Meaning({value: f"label {value}" for value in sorted(values - {0})}, declared=False)


def _score_all(
    pairs: Mapping[str, tuple[Path, Path]],
    negatives: frozenset[str],
    meaning: _Meaning,
    tolerance_mm: float,
    wanted: Wanted,
    regions: tuple[Region, ...],
) -> dict[str, _CaseScores]:
    """What :func:`_score` gives of each case; the faults of all cases at once."""
    found: dict[str, _CaseScores] = {}
    faults: list[Fault] = []
    for case, (prediction, reference) in pairs.items():
        negative = case in negatives
        try:
            found[case] = _score(prediction, reference, meaning, tolerance_mm, wanted, regions, negative=negative)
        except DataError as error:
            faults.append(Fault(case, "not_scored", str(error)))
    if faults:
        raise FaultsError(f"{len(faults)} of {len(pairs)} cases cannot be scored", faults)
    return found


def _score(
    prediction_file: Path,
    reference_file: Path,
    meaning: _Meaning,
    tolerance_mm: float,
    wanted: Wanted,
    regions: tuple[Region, ...],
    *,
    negative: bool = False,
) -> _CaseScores:
    # headers first: a pair that does not fit is refused before its voxels are read
    grid, other = read_header(reference_file).grid, read_header(prediction_file).grid
    if not grid.same_as(other):
        same_shape = grid.shape == other.shape
        raise DataError(
            "prediction and reference lie on different grids",
            where=prediction_file,
            got=other.affine.round(3).tolist() if same_shape else other.shape,
            expected=grid.affine.round(3).tolist() if same_shape else grid.shape,
            fix="Predict on the grid of the scan; do not resample the reference.",
        )
    prediction = _read_declared(prediction_file, meaning.known(reference=False))
    if negative:
        reference = np.zeros(grid.shape, np.uint8)
    else:
        reference = _read_declared(reference_file, meaning.known(reference=True))
    ignore_label = meaning.ignore_label
    of_regions = score_regions(prediction, reference, regions, grid, ignore_label, tolerance_mm)
    prediction, reference = as_shown(prediction, regions), as_shown(reference, regions)
    labels = sorted(shown_names(meaning.names, regions))
    scores = score_case(
        prediction,
        reference,
        labels,
        grid.spacing_mm,
        grid.voxel_volume_ml,
        ignore_label=ignore_label,
        tolerance_mm=tolerance_mm,
    )
    name = image_stem(prediction_file)
    extras = score_extras(name, prediction, reference, grid, labels, ignore_label, wanted)
    return scores, extras, of_regions


def _read_declared(path: Path, declared: set[int | None]) -> NDArray[Any]:
    """Label map ``(x, y, z)``; a picture holds declared labels only, if any are, because grey levels are no labels."""
    label: NDArray[Any] = read_label_map(path, declared).data[0]
    if declared and is_picture(path):
        refuse_undeclared(label, path, declared)
    return label


def _table(found: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]) if found else ["case"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()
