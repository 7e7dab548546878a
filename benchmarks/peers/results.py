"""Results: a list of rows in one JSON file, and the statistics that make a row."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.peers.harness import Job
from benchmarks.peers.meter import Measures

UNITS = {
    "wall": "s",
    "CPU": "s",
    "peak memory": "GiB",
    "agreement": "%",
    "agreement at borders": "%",
    "patches": "1/s",
    "CPU per patch": "ms",
    "wall per step": "s",
    "CPU per step": "s",
    "wall per case": "s",
    "CPU per case": "s",
    "Dice": "",
    "steps": "",
    "network": "GFLOP",
    "matrix product": "GFLOP/s",
    "bandwidth": "GB/s",
    "threads": "",
}


@dataclass(frozen=True)
class Row:
    """One measured quantity.

    Attributes:
        subject: Which subject.
        case: What was done.
        tool: Who did it.
        version: Of the tool.
        metric: What was measured.
        median: Over the repetitions.
        low: Smallest.
        high: Largest.
        unit: Of the three.
    """

    subject: str
    case: str
    tool: str
    version: str
    metric: str
    median: float
    low: float
    high: float
    unit: str


def rows_of(subject: str, job: Job, repetitions: Sequence[Measures]) -> list[Row]:
    """A row per metric: median, smallest and largest over the repetitions; none where nothing was measured."""
    metrics = dict.fromkeys(name for measures in repetitions for name in measures)
    return [_row(subject, job, metric, [m[metric] for m in repetitions if metric in m]) for metric in metrics]


def _row(subject: str, job: Job, metric: str, values: list[float]) -> Row:
    middle = statistics.median(values)
    return Row(
        subject, job.case, job.name, version_of(job.package), metric, middle, min(values), max(values), UNITS[metric]
    )


def version_of(package: str) -> str:
    """Version of a distribution; empty where it is not installed or there is none."""
    try:
        return version(package)
    except (PackageNotFoundError, ValueError):
        return ""


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none where it does not exist."""
    return [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []


def replace_cases(rows: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The rows with those of each case that was measured anew exchanged, in the order of the subjects' names.

    A case is exchanged as a whole, so that all its tools were measured in one run.
    """
    again = {(row.subject, row.case) for row in new}
    return sorted([*(row for row in rows if (row.subject, row.case) not in again), *new], key=lambda row: row.subject)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a file of rows, one row a line, whole or not at all."""
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(f"[\n{lines}\n]\n")
    temporary.replace(path)
