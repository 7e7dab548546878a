"""A table with a row for each case: which file is which channel, where the label map is, whose scan it is."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from seg3d.cases.case import Case, Dataset
from seg3d.errors import DataError, Fault
from seg3d.io import image_stem

_RESERVED = ("case", "label", "group", "patient")


def read_table(path: Path) -> Dataset:
    """The dataset of a CSV or TSV table; paths are relative to it.

    Columns ``case``, ``label``, ``group`` (or ``patient``), in capitals or not, are optional; every other column is a
    channel. Blanks around names and values do not count.

    Raises:
        DataError: The table cannot be read, or its columns cannot be told.
    """
    rows = _read_rows(path)
    columns = [_column(name) for name in rows[0]] if rows else []
    channels = _channels(columns, path)
    cases, faults = [], []
    for number, values in enumerate(rows[1:], start=2):
        row = dict(zip(columns, values, strict=False))
        if any(not row.get(channel) for channel in channels) or len(values) > len(columns):
            expected = f"a path for {', '.join(channels)}"
            where = f"{path} line {number}"
            faults.append(Fault(where, "bad_entry", "the entry cannot be read", str(values), expected))
            continue
        images = tuple(path.parent / row[channel] for channel in channels)
        label = path.parent / row["label"] if row.get("label") else None
        name, group = row.get("case") or image_stem(images[0]), row.get("group") or row.get("patient") or ""
        cases.append(Case(name, images, label, group))
    return Dataset(path.stem, tuple(cases), channels, {}, None, path, tuple(faults))


def _read_rows(path: Path) -> list[list[str]]:
    """The cells of each line that is not empty, without blanks around them."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file, delimiter=delimiter, skipinitialspace=True))
    except UnicodeDecodeError as error:
        raise DataError(
            "the table is not UTF-8",
            where=path,
            got=f"byte {error.object[error.start]:#04x} at {error.start}",
            fix="Save it as CSV UTF-8.",
        ) from error
    except (OSError, csv.Error) as error:
        raise DataError("the table cannot be read", where=path, got=error) from error
    return [[cell.strip() for cell in line] for line in lines if line]


def _column(name: str) -> str:
    """Names that mean something may be written in capitals; those of channels are the user's own."""
    return name.lower() if name.lower() in _RESERVED else name


def _channels(columns: Sequence[str], path: Path) -> tuple[str, ...]:
    if len(columns) == 1 and any(sign in columns[0] for sign in ";\t"):
        raise DataError(
            "the columns are parted by another sign",
            where=path,
            got=columns[0],
            expected="commas in a .csv, tabs in a .tsv",
            fix="Save it with commas, or rename a table with tabs to .tsv.",
        )
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise DataError("several columns have the same name", where=path, got=", ".join(twice))
    channels = tuple(column for column in columns if column not in _RESERVED)
    if not channels:
        raise DataError(
            "the table has no column with images", where=path, got=", ".join(columns), expected="case, image, label"
        )
    return channels
