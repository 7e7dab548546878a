"""What ``seg3d evaluate`` scores beside label maps: probabilities, and cells told apart by membranes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.io import image_stem, images_in, read_header, read_volume
from seg3d.metrics.cell_summary import cell_rules, plain_scores, summarise_cells
from seg3d.metrics.cells import REPORTED, CellScore, cell_scores
from seg3d.metrics.interval import Bootstrap, plain
from seg3d.metrics.overlap import counted_voxels
from seg3d.metrics.soft import SoftOverlap, pooled_soft_dice, soft_overlap
from seg3d.volume import Grid

_SLACK = 1e-3  # beyond 0 and 1, which averaging and interpolation may leave


@dataclass(frozen=True)
class Wanted:
    """What is scored beside label maps.

    Attributes:
        probabilities: Files of probability maps by name without suffix; ``None`` without a folder of them.
        cells: Value of the label that is the inside of cells, if they are to be scored.
    """

    probabilities: Mapping[str, Path] | None = None
    cells: int | None = None


@dataclass(frozen=True)
class Extras:
    """What was scored of a case.

    Attributes:
        thin: Whether it is a picture or a slice: one of its axes has a single voxel.
        soft: By label whose probability was found.
        cells: By threshold; 0.5 alone without a probability.
    """

    thin: bool
    soft: Mapping[int, SoftOverlap] = field(default_factory=dict)
    cells: Mapping[float, CellScore] = field(default_factory=dict)


def find_probabilities(predictions: Path) -> dict[str, Path] | None:
    """Probability maps in the folder beside predictions that ``seg3d predict`` writes; ``None`` if there is none.

    Raises:
        DataError: Two files differ in their suffix alone.
    """
    folder = (predictions if predictions.is_dir() else predictions.parent) / "probabilities"
    if not folder.is_dir():
        return None
    found: dict[str, Path] = {}
    for path in images_in(folder):
        former = found.setdefault(image_stem(path), path)
        if former is not path:
            raise DataError("two probability maps have one name", where=path, got=former.name, fix="Remove one.")
    return found


def cells_label(wanted: str, names: Mapping[int, str]) -> int:
    """Value of the label of the cells, given by value or name; 0 if the cells are the background.

    Raises:
        DataError: There is no such label.
    """
    values = {str(value): value for value in (0, *names)} | {name: value for value, name in names.items()}
    if wanted not in values:
        expected = ", ".join(["0", *(f"{value} ({name})" for value, name in sorted(names.items()))])
        raise DataError("no such label", where="--cells", got=wanted, expected=expected)
    return values[wanted]


def score_extras(
    name: str,
    prediction: NDArray[Any],
    reference: NDArray[Any],
    grid: Grid,
    labels: Sequence[int],
    ignore_label: int | None,
    wanted: Wanted,
) -> Extras:
    """Soft overlap of each label and cell scores of a case; one probability map is held at a time.

    Args:
        name: Name of the prediction's file without suffix.
        prediction: Label map ``(x, y, z)``.
        reference: Label map of the same shape.
        grid: Where both lie.
        labels: Foreground labels.
        ignore_label: Voxels with this reference count nowhere.
        wanted: What to score.

    Raises:
        DataError: A probability map lies on another grid, is broken or holds other values.
    """
    counted, _ = counted_voxels(prediction, reference, ignore_label)
    files = {
        label: wanted.probabilities[f"{name}_probability_{label}"]
        for label in labels
        if wanted.probabilities is not None and f"{name}_probability_{label}" in wanted.probabilities
    }
    complete = bool(files) and len(files) == len(labels)
    soft: dict[int, SoftOverlap] = {}
    inside: NDArray[Any] | None = None
    if wanted.cells == 0 and complete:
        inside = np.ones(reference.shape, dtype=np.float32)  # less those of all labels
    for label, path in files.items():
        probability = read_probability(path, grid)
        soft[label] = soft_overlap(probability, reference == label, counted)
        if wanted.cells == 0 and inside is not None:
            inside -= probability
        elif wanted.cells == label:
            inside = probability
    return Extras(1 in grid.shape, soft, _score_cells(inside, prediction, reference, wanted.cells))


def read_probability(path: Path, grid: Grid) -> NDArray[Any]:
    """A probability map ``(x, y, z)``; an integer type holds parts of its largest value.

    Raises:
        DataError: It lies on another grid, has several channels, or is not between 0 and 1.
    """
    other = read_header(path).grid
    if not grid.same_as(other):
        raise DataError(
            "the probability map lies on another grid than the reference",
            where=path,
            got=f"{other.shape}, {other.affine.round(3).tolist()}",
            expected=f"{grid.shape}, {grid.affine.round(3).tolist()}",
            fix="Predict again, or remove the folder 'probabilities'.",
        )
    data: NDArray[Any] = read_volume(path).data
    if data.shape[0] != 1:
        raise DataError("a probability map has one channel", where=path, got=data.shape[0])
    if data.dtype.kind in "iu":
        data = data.astype(np.float32) / np.float32(np.iinfo(data.dtype).max)
    lowest, highest = float(data.min()), float(data.max())
    if not (lowest >= -_SLACK and highest <= 1 + _SLACK):  # also where they are not numbers
        raise DataError("these are no probabilities", where=path, got=f"{lowest} to {highest}", expected="0 to 1")
    probability: NDArray[Any] = data[0]
    return probability


def extra_blocks(
    extras: Mapping[str, Extras], names: Mapping[int, str], wanted: Wanted, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Blocks of the summary: ``thin_cases``, and as far as there is any, ``pooled_soft_dice`` and ``cells``."""
    blocks: dict[str, Any] = {"thin_cases": sum(case.thin for case in extras.values())}
    if wanted.probabilities is not None:
        blocks["pooled_soft_dice"] = {str(label): _pooled(label, names[label], extras) for label in sorted(names)}
    if wanted.cells is not None:
        name = names.get(wanted.cells, "background")
        blocks["cells"] = summarise_cells({case: found.cells for case, found in extras.items()}, name, bootstrap)
    return blocks


def extra_rules(blocks: Mapping[str, Any]) -> dict[str, str]:
    """What the blocks mean."""
    rules = dict(cell_rules()) if "cells" in blocks else {}
    if "pooled_soft_dice" in blocks:
        rules["pooled_soft_dice"] = (
            "2 sum(p y) / (sum p + sum y) of the probabilities p over all voxels of all cases, p being 0 beyond the "
            "crop that was predicted; neither thresholded nor per case, large lesions count more than small ones: not "
            "comparable with means over cases; null unless every case has a probability map"
        )
    return rules


def cells_of_case(extras: Extras) -> dict[str, Any]:
    """Cell scores of a case by threshold."""
    return {f"{threshold:g}": plain_scores(score) for threshold, score in extras.cells.items()}


def _score_cells(
    inside: NDArray[Any] | None, prediction: NDArray[Any], reference: NDArray[Any], label: int | None
) -> dict[float, CellScore]:
    if label is None:
        return {}
    if inside is None:
        return cell_scores(prediction == label, reference == label, (REPORTED,))
    return cell_scores(inside, reference == label)


def _pooled(label: int, name: str, extras: Mapping[str, Extras]) -> dict[str, Any]:
    found = {case: extra.soft[label] for case, extra in extras.items() if label in extra.soft}
    missing = sorted(set(extras) - set(found))
    value = None if missing else plain(pooled_soft_dice(found))
    return {"name": name, "value": value, "cases": len(found), "without_probability": missing}
