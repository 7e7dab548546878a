"""The trace of a run: a hash chain over every step's loss, learning rate and batch and every epoch's weights.

Each line of ``trace.jsonl`` holds ``hash``, the SHA-256 of the previous line's hash and this line's content, so that
equal last hashes mean equal traces, and the first difference of two runs is found by bisection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg3d.errors import RunError

_START = "0" * 64


class TraceWriter:
    """Appends to a trace; lines are buffered until :meth:`flush`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = _START
        self._lines: list[str] = []

    @property
    def sha256(self) -> str:
        """Hash of the last line, which stands for the whole trace."""
        return self._last

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record of JSON values; floats are written by :func:`exact`."""
        self._last = _link(self._last, record)
        self._lines.append(json.dumps({**record, "hash": self._last}, sort_keys=True))

    def flush(self) -> None:
        """Write the buffered lines."""
        if self._lines:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n".join(self._lines) + "\n")
            self._lines = []


def exact(value: float) -> str:
    """A float without loss: its hexadecimal form."""
    return float(value).hex()


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The records of a trace, its chain checked.

    Raises:
        RunError: A line is unreadable or does not continue the chain.
    """
    records: list[dict[str, Any]] = []
    last = _START
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            last, expected = record.pop("hash"), _link(last, record)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError("the trace is damaged", where=f"{path}, line {number}", got=error) from error
        if last != expected:
            raise RunError(
                "the trace does not continue its hash chain",
                where=f"{path}, line {number}",
                got=last,
                expected=expected,
                fix="The file was changed or torn after it was written.",
            )
        records.append({**record, "hash": last})
    return records


def _link(last: str, record: Mapping[str, Any]) -> str:
    text = json.dumps(dict(record), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{last}{text}".encode()).hexdigest()
