"""The figure of an evaluation: its worst, median and best case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg3d.reporting.figures import worst_median_best, worst_median_best_figure
from seg3d.reporting.loading import CaseFiles, image_of, load_case


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
    files = {case: _files(rows[case], image_of(images, case)) for case in dict.fromkeys(chosen)}
    cases = [load_case(files[case], names, score=scores[case], window=window) for case in files]
    return worst_median_best_figure(cases, path)


def _mean_dice(row: Mapping[str, Any]) -> float | None:
    dice = [metrics["Dice"] for metrics in row["metrics"].values() if metrics["Dice"] is not None]
    return sum(dice) / len(dice) if dice else None


def _files(row: Mapping[str, Any], image: Path) -> CaseFiles:
    reference = row["reference_file"]
    prediction = Path(row["prediction_file"])
    # a case that is declared negative has no label map
    return CaseFiles(
        str(row["case"]), image, prediction, None if reference is None else Path(reference), reference is None
    )
