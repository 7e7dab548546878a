"""The figure of an evaluation: its worst, median and best case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg3d.errors import DataError
from seg3d.io import SUFFIXES, image_stem, read_label_map, read_volume
from seg3d.reporting.figures import FigureCase, canonical, worst_median_best, worst_median_best_figure


def save_worst_median_best(
    summary: Mapping[str, Any], images: Path, path: Path, window: tuple[float, float] | None = None
) -> Path:
    """The PNG written at ``path``: worst, median and best case of an evaluation by mean foreground Dice.

    Args:
        summary: What :func:`seg3d.evaluate` gave.
        images: Folder of the scans; of several channels the first is drawn.
        path: Where the figure goes.
        window: Grey values drawn black and white; percentiles of each image where ``None``.

    Raises:
        DataError: A scan is not there.
    """
    rows = {row["case"]: row for row in summary["metric_per_case"]}
    scores = {case: _mean_dice(row) for case, row in rows.items()}
    # where no case is defined, the first ones are shown
    chosen = [case for _, case in worst_median_best(scores)] or sorted(rows)[:3]
    names = {int(value): str(entry["name"]) for value, entry in summary["per_label"].items()}
    cases = [_figure_case(rows[case], scores[case], images, names, window) for case in dict.fromkeys(chosen)]
    return worst_median_best_figure(cases, path)


def _mean_dice(row: Mapping[str, Any]) -> float | None:
    dice = [metrics["Dice"] for metrics in row["metrics"].values() if metrics["Dice"] is not None]
    return sum(dice) / len(dice) if dice else None


def _figure_case(
    row: Mapping[str, Any],
    score: float | None,
    images: Path,
    names: Mapping[int, str],
    window: tuple[float, float] | None,
) -> FigureCase:
    image, _ = canonical(read_volume(_find_image(images, str(row["case"]))))
    reference, prediction = (
        canonical(read_label_map(Path(row[key])))[0].data[0] for key in ("reference_file", "prediction_file")
    )
    return FigureCase(
        str(row["case"]), image.data[0], reference, prediction, image.grid.spacing_mm, names, score, window
    )


def _find_image(folder: Path, case: str) -> Path:
    for stem in (case, f"{case}_0000"):
        for suffix in SUFFIXES:
            path = folder / f"{stem}{suffix}"
            if path.is_file():
                return path
    raise DataError("the scan of the case is not there", where=folder, got=image_stem(Path(case)))
