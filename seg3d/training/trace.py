"""The trace of a run: a hash chain over every step's loss, learning rate and batch and every epoch's weights.

Each line of ``trace.jsonl`` holds ``hash``, the SHA-256 of the previous line's hash and this line's content, so that
equal last hashes mean equal traces, and the first difference of two runs is found by bisection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seg3d.atomic import append_line, write_text
from seg3d.errors import RunError

START = "0" * 64  # stands for the hash of the line before the first
DIVERGED = "diverged"  # key of an epoch after which loss or weights were no numbers, and the training was stopped


class TraceWriter:
    """Appends to a trace; lines are buffered until :meth:`flush`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = START
        self._written = 0
        self._lines: list[str] = []

    @property
    def position(self) -> tuple[int, str]:
        """Number of lines so far and hash of the last one: where a continued run goes on."""
        return self._written + len(self._lines), self._last

    def go_on(self, lines: int, last: str) -> None:
        """Continue a file of that many lines whose last one has that hash."""
        self._written, self._last, self._lines = lines, last, []

    @property
    def sha256(self) -> str:
        """Hash of the last line, which stands for the whole trace."""
        return self._last

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record of JSON values; floats are written by :func:`exact`."""
        self._last = _link(self._last, record)
        self._lines.append(json.dumps({**record, "hash": self._last}, sort_keys=True))

    def flush(self) -> None:
        """Write the buffered lines, durably."""
        if self._lines:
            append_line(self._path, "\n".join(self._lines))
            self._written += len(self._lines)
            self._lines = []


def rewind_trace(path: Path, lines: int, last: str) -> None:
    """Cut a trace back to its first lines, as they were when a checkpoint was written.

    Raises:
        RunError: The trace is shorter, or its chain does not lead to the hash ``last``.
    """
    kept = _lines(path)[:lines] if lines else []
    records = _checked(kept, path)
    found = records[-1]["hash"] if records else START
    if len(records) != lines or found != last:
        raise RunError(
            "the trace does not belong to the checkpoint",
            where=path,
            got=f"{len(records)} lines, hash {found}",
            expected=f"{lines} lines, hash {last}",
            fix="The file was changed after it was written; train again.",
        )
    write_text(path, "".join(f"{line}\n" for line in kept))


def exact(value: float) -> str:
    """A float without loss: its hexadecimal form."""
    return float(value).hex()


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The records of a trace, its chain checked.

    Raises:
        RunError: A line is unreadable or does not continue the chain.
    """
    return _checked(_lines(path), path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError("the trace is missing or damaged", where=path, got=error) from error


def _checked(lines: Sequence[str], path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    last = START
    for number, line in enumerate(lines, start=1):
        try:
            record = dict(json.loads(line))
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
