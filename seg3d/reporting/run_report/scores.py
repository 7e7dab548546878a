"""The scores of a run as a report shows them: worst cases first, and what the cases were to the run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seg3d.errors import RunError
from seg3d.metrics.table import mean_dice, of_pictures
from seg3d.reporting.run_report.shapes import SUMMARY, shaped
from seg3d.training.run_folder import read_json

PARTS = {"test": "test", "val": "validation", "train": "training"}
OTHER = "other"
# kinds of warnings of an evaluation that scored what was learnt from, and the part of the split that they are about
LEARNT_FROM = {"trained_on": PARTS["train"], "chosen_on": PARTS["val"]}


@dataclass(frozen=True)
class Column:
    """A column of numbers in the table of cases.

    Attributes:
        key: The metric.
        title: Its name, with unit.
        digits: Digits after the point.
        physical: Whether it means nothing for pictures, whose pixels have no size.
    """

    key: str
    title: str
    digits: int
    physical: bool = False


COLUMNS = (
    Column("Dice", "Dice", 3),
    Column("IoU", "IoU", 3),
    Column("HD95_mm", "HD95 mm", 1),
    Column("SurfaceDice", "Surface Dice", 3),
    Column("Precision", "Precision", 3),
    Column("Recall", "Recall", 3),
    Column("Volume_mL", "Volume mL", 2, physical=True),
    Column("ReferenceVolume_mL", "Reference mL", 2, physical=True),
)


@dataclass(frozen=True)
class Evaluation:
    """Scores of a run's predictions.

    Attributes:
        path: The summary's file.
        summary: What :func:`seg3d.evaluate` wrote.
        weights: SHA-256 of the checkpoint that predicted, ``None`` where it is not known.
    """

    path: Path
    summary: Mapping[str, Any]
    weights: str | None = None

    @property
    def blocks(self) -> list[tuple[str, Mapping[str, Any]]]:
        """``("region", ...)`` first where a network predicts regions, then ``("label", ...)``."""
        regions = self.summary.get("regions")
        return ([("region", regions)] if regions else []) + [("label", self.summary)]

    @property
    def headline(self) -> Mapping[str, Any]:
        """Mean, interval and number of the cases' Dice: of regions where there are any, else of labels."""
        dice: Mapping[str, Any] = self.blocks[0][1]["foreground_dice"]
        return dice

    @property
    def of_pictures(self) -> bool:
        """Whether all cases are pictures, whose pixels have no size."""
        return of_pictures(self.summary)

    @property
    def warnings(self) -> list[Mapping[str, str]]:
        """Kind and text of what the evaluation itself has told."""
        return list(self.summary.get("warnings", []))

    @property
    def cases(self) -> list[str]:
        """Names of the cases, sorted."""
        return sorted(row["case"] for row in self.summary["metric_per_case"])

    @property
    def ranking(self) -> list[tuple[str, float | None]]:
        """Cases with their mean Dice, worst first; those without a score last."""
        scores = {row["case"]: mean_dice(row) for row in self.blocks[0][1]["metric_per_case"]}
        return sorted(scores.items(), key=lambda item: (item[1] is None, item[1] or 0.0, item[0]))


@dataclass(frozen=True)
class Line:
    """A row of the table of cases: one case and one label or region.

    Attributes:
        case: Its name.
        part: What it was to the run: ``"test"``, ``"validation"``, ``"training"`` or ``"other"``.
        label: Name of the label or region.
        values: A value for each of :func:`columns_of`; ``None``: undefined, infinity: one map is empty.
        lesions: Lesions found, lesions there, and predicted ones that are none.
        empty: Which map lacks the label: ``"none"``, ``"both"``, ``"prediction"`` or ``"reference"``.
        link: Where its viewer page lies, relative to the report; empty without one.
    """

    case: str
    part: str
    label: str
    values: tuple[float | None, ...]
    lesions: tuple[int, int, int]
    empty: str
    link: str


def read_evaluation(path: Path, weights: str | None = None) -> Evaluation:
    """The scores in a file that ``seg3d evaluate`` wrote.

    Raises:
        RunError: It is no such file.
    """
    summary = read_json(path)
    try:
        shaped(summary, SUMMARY)
    except ValueError as error:
        raise RunError(
            "this is no summary of scores",
            where=path,
            got=error,
            expected="the JSON file that 'seg3d evaluate --output' wrote",
            fix="Run 'seg3d evaluate' again.",
        ) from error
    return Evaluation(path, summary, weights)


def columns_of(evaluation: Evaluation) -> tuple[Column, ...]:
    """The columns that mean something for these cases."""
    if not evaluation.of_pictures:
        return COLUMNS
    return tuple(replace(c, title=c.title.replace(" mm", " px")) for c in COLUMNS if not c.physical)


def lines_of(evaluation: Evaluation, splits: Mapping[str, Sequence[str]], links: Mapping[str, str]) -> list[Line]:
    """The table of cases: lowest Dice first, undefined last.

    Args:
        evaluation: The scores.
        splits: Case names of each part.
        links: Viewer page by case.
    """
    parts, columns = part_by_case(splits), columns_of(evaluation)
    found = []
    for _, block in evaluation.blocks:
        for row in block["metric_per_case"]:
            for label, metrics in row["metrics"].items():
                found.append(
                    Line(
                        case=row["case"],
                        part=parts.get(row["case"], OTHER),
                        label=str(block["per_label"][label]["name"]),
                        values=tuple(_value(metrics.get(column.key)) for column in columns),
                        lesions=_lesions(metrics.get("Lesions", {})),
                        empty=metrics.get("Empty", "none"),
                        link=links.get(row["case"], ""),
                    )
                )
    return sorted(found, key=lambda line: (line.values[0] is None, line.values[0] or 0.0, line.case))


def part_by_case(splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What each case was to the run, in words."""
    return {case: name for part, name in PARTS.items() for case in splits.get(part, ())}


def part_counts(evaluation: Evaluation, splits: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Number of scored cases by what they were to the run."""
    parts = part_by_case(splits)
    counted = Counter(parts.get(case, OTHER) for case in evaluation.cases)
    return {part: counted[part] for part in (*PARTS.values(), OTHER) if counted[part]}


def _value(value: float | str | None) -> float | None:
    """JSON knows no infinity."""
    return math.inf if value == "inf" else None if value is None else float(value)


def _lesions(found: Mapping[str, Any]) -> tuple[int, int, int]:
    return found.get("detected", 0), found.get("reference", 0), found.get("false_positive", 0)
