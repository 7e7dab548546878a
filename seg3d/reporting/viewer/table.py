"""Volumes and scores of the labels, from the whole maps and not from what a page can show of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.io import count_labels
from seg3d.metrics import LabelScore, score_case
from seg3d.reporting.panels import colour_of
from seg3d.volume import Grid, Volume

IGNORED_COLOUR = "#999999"


@dataclass(frozen=True)
class Row:
    """A label on a page.

    Attributes:
        number: Its number in the page's maps, from 1.
        value: Its value in the files.
        name: Its name.
        colour: ``"#rrggbb"``, the same in every figure.
        sizes: By map: millilitres, of a picture pixels.
        score: Scores of the prediction, ``None`` where there is nothing to compare or the label is ignored.
    """

    number: int
    value: int
    name: str
    colour: str
    sizes: Mapping[str, float]
    score: LabelScore | None


def label_rows(
    maps: Mapping[str, Volume],
    placed: Mapping[str, NDArray[Any]],
    grid: Grid,
    values: Sequence[int],
    names: Mapping[int, str] | None,
    ignore_label: int | None,
    picture: bool,
) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of the labels, sorted by value, and notes on how they were counted.

    Args:
        maps: ``"reference"`` and ``"prediction"`` as they were given.
        placed: The same on the grid of the image.
        grid: That grid.
        values: Values of the page's maps in the order of their numbers.
        names: Label value -> name; a label in no map has a row, too.
        ignore_label: Value that counts nowhere.
        picture: Whether sizes are pixels.
    """
    known = dict(names or {})
    numbers = {value: number for number, value in enumerate(values, start=1)}
    counts = {name: count_labels(np.asarray(volume.data[0]).astype(np.uint16)) for name, volume in maps.items()}
    # on a coarser grid a small label may have no voxel
    shown = sorted({*values, *known, *(value for counted in counts.values() for value in counted if value)})
    voxel = {name: 1.0 if picture else volume.grid.voxel_volume_ml for name, volume in maps.items()}
    scored = [value for value in shown if value != ignore_label]
    scores, notes = _scores(maps, placed, grid, scored, ignore_label, picture)
    rows = []
    for value in shown:
        ignored = value == ignore_label
        name = known.get(value) or ("ignored" if ignored else f"label {value}")
        if names is not None and value not in known and not ignored:
            name += " (not declared)"
        sizes = {which: counted.get(value, 0) * voxel[which] for which, counted in counts.items()}
        colour = IGNORED_COLOUR if ignored else colour_of(value)
        rows.append(Row(numbers.get(value, 0), value, name, colour, sizes, scores.get(value)))
    return rows, notes


def _scores(
    maps: Mapping[str, Volume],
    placed: Mapping[str, NDArray[Any]],
    grid: Grid,
    labels: Sequence[int],
    ignore_label: int | None,
    picture: bool,
) -> tuple[dict[int, LabelScore], tuple[str, ...]]:
    """Scores on the maps' own grid where they share one, else on that of the image."""
    if len(maps) < 2 or not labels:
        return {}, ()
    found, wanted = maps["prediction"], maps["reference"]
    together = picture or found.grid.same_as(wanted.grid)
    prediction = found.data[0] if together else placed["prediction"]
    reference = wanted.data[0] if together else placed["reference"]
    place = wanted.grid if together else grid
    scores = score_case(
        prediction, reference, labels, place.spacing_mm, place.voxel_volume_ml, ignore_label=ignore_label
    )
    apart = "Prediction and reference lie on different grids; their scores are those on the image's grid."
    return scores, () if together else (apart,)
