"""The scores of a case: its label map against the reference, label by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.cases import refuse_undeclared
from seg3d.errors import DataError, Fault, FaultsError
from seg3d.io import count_labels, describe_undeclared, image_stem, is_picture, read_header, read_label_map
from seg3d.metrics import LabelScore, score_case
from seg3d.verbs.extra_scores import Extras, Wanted, score_extras
from seg3d.verbs.meaning import Meaning
from seg3d.verbs.region_scores import as_shown, score_regions, shown_names


@dataclass(frozen=True)
class CaseScores:
    """What was scored of a case.

    Attributes:
        labels: By label value.
        regions: By the label that a region is shown as.
        extras: What is scored beside label maps.
        doubts: What to mind about its files, by kind.
    """

    labels: dict[int, LabelScore]
    regions: dict[int, LabelScore]
    extras: Extras
    doubts: Mapping[str, str] = field(default_factory=dict)


def score_all(
    pairs: Mapping[str, tuple[Path, Path]],
    negatives: frozenset[str],
    meaning: Meaning,
    tolerance_mm: float,
    wanted: Wanted,
) -> dict[str, CaseScores]:
    """The scores of all cases.

    Args:
        pairs: Prediction and reference by case.
        negatives: Cases whose reference is an image without any foreground.
        meaning: What label values mean.
        tolerance_mm: Tolerance of the surface Dice.
        wanted: What to score beside label maps.

    Raises:
        FaultsError: The faults of all cases at once.
    """
    found: dict[str, CaseScores] = {}
    faults: list[Fault] = []
    for case, (prediction, reference) in pairs.items():
        try:
            found[case] = _score(prediction, reference, meaning, tolerance_mm, wanted, negative=case in negatives)
        except DataError as error:
            faults.append(Fault(case, "not_scored", str(error)))
    if faults:
        raise FaultsError(f"{len(faults)} of {len(pairs)} cases cannot be scored", faults)
    return found


def doubts_about_cases(scored: Mapping[str, CaseScores], most: int = 5) -> list[dict[str, str]]:
    """What to mind about the files that were scored: ``kind`` and ``text``, all cases of a kind in one."""
    kinds = sorted({kind for scores in scored.values() for kind in scores.doubts})
    found = []
    for kind in kinds:
        cases = [f"{case}: {scores.doubts[kind]}" for case, scores in scored.items() if kind in scores.doubts]
        more = f"; and {len(cases) - most} more cases" if len(cases) > most else ""
        found.append({"kind": kind, "text": f"{_KINDS[kind]}: {'; '.join(cases[:most])}{more}"})
    return found


_KINDS = {
    "sheared": "distances (HD95, ASSD, surface Dice) take axes at right angles for granted",
    "undeclared_prediction": "values of predictions that are not declared count as background",
    "undeclared_reference": "values of references that are not declared count as background",
}


def _score(
    prediction_file: Path,
    reference_file: Path,
    meaning: Meaning,
    tolerance_mm: float,
    wanted: Wanted,
    *,
    negative: bool,
) -> CaseScores:
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
    doubts: dict[str, str] = {"sheared": "they are not"} if grid.is_sheared else {}
    prediction = _read(prediction_file, meaning.known(reference=False), "undeclared_prediction", doubts)
    if negative:
        reference = np.zeros(grid.shape, np.uint8)
    else:
        reference = _read(reference_file, meaning.known(reference=True), "undeclared_reference", doubts)
    ignore_label, regions = meaning.ignore_label, meaning.regions
    of_regions = score_regions(prediction, reference, regions, grid, ignore_label, tolerance_mm)
    prediction, reference = as_shown(prediction, regions), as_shown(reference, regions)
    labels = sorted(shown_names(meaning.names, regions))
    of_labels = score_case(
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
    return CaseScores(of_labels, of_regions, extras, doubts)


def _read(path: Path, declared: set[int | None], kind: str, doubts: dict[str, str]) -> NDArray[Any]:
    """Label map ``(x, y, z)``; of a volume, values that are not declared are a doubt.

    Raises:
        DataError: A picture holds them, because grey levels are no labels.
    """
    label: NDArray[Any] = read_label_map(path, declared).data[0]
    if declared and is_picture(path):
        refuse_undeclared(label, path, declared)
    elif declared and (unknown := describe_undeclared(count_labels(label), declared)):
        doubts[kind] = unknown
    return label
