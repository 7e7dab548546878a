"""The figure of an evaluation: its worst, median and best case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seg3d.errors import DataError
from seg3d.metrics.table import mean_dice
from seg3d.reporting.figures import FigureCase, worst_median_best, worst_median_best_figure
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
    names = {int(value): str(entry["name"]) for value, entry in summary["per_label"].items()}
    scores = {row["case"]: mean_dice(row) for row in summary["metric_per_case"]}
    cases = load_worst_median_best(summary, scores, lambda case: image_of(images, case), names, window=window)
    return worst_median_best_figure(cases, path)


def load_worst_median_best(
    summary: Mapping[str, Any],
    scores: Mapping[str, float | None],
    find_image: Callable[[str], Path],
    names: Mapping[int, str],
    *,
    ignore_label: int | None = None,
    window: tuple[float, float] | None = None,
    find_map: Callable[[str], Path] = Path,
) -> list[FigureCase]:
    """The worst, median and best case of an evaluation, read; the first three where none has a score.

    Args:
        summary: What :func:`seg3d.evaluate` gave.
        scores: By case, what ranks them.
        find_image: The scan of a case.
        names: Label value -> name, without background and the ignored one.
        ignore_label: Value of the reference that counts nowhere.
        window: Grey values drawn black and white; percentiles of each image where ``None``.
        find_map: Where a label map that the summary names lies now.

    Raises:
        DataError: A scan or label map is not there, or does not fit.
    """
    rows = {row["case"]: row for row in summary["metric_per_case"]}
    # where no case is defined, the first ones are shown
    chosen = [case for _, case in worst_median_best(scores)] or sorted(rows)[:3]
    files = {case: _files(rows[case], find_image(case), find_map) for case in dict.fromkeys(chosen)}
    return [
        load_case(files[case], names, ignore_label=ignore_label, score=scores[case], window=window) for case in files
    ]


def _files(row: Mapping[str, Any], image: Path, find_map: Callable[[str], Path]) -> CaseFiles:
    reference, prediction = row.get("reference_file"), row.get("prediction_file")
    if prediction is None:
        raise DataError("the summary does not say where the prediction lies", where=row["case"])
    # a case that is declared negative has no label map
    wanted = None if reference is None else find_map(reference)
    return CaseFiles(str(row["case"]), image, find_map(prediction), wanted, reference is None)
