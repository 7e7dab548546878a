"""What a run folder holds, read as far as it is there: a report of a broken run is when people need one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from seg3d.errors import RunError
from seg3d.reporting.run_report import shapes
from seg3d.training.run_folder import MANIFEST, RunFolder, read_json, read_metrics
from seg3d.training.trace import read_trace

Record = Mapping[str, Any]
T = TypeVar("T")
_NOTHING: Record = {}


@dataclass(frozen=True)
class Pieces:
    """The documents of a run; one that is absent or damaged is empty.

    Attributes:
        folder: The run.
        manifest: ``run.json``.
        config_text: ``config.yaml``.
        splits: Case names of each part.
        environment: What it was computed with.
        data: Digests of the data.
        model: Channels, labels and regions.
        rows: A row per epoch, numbered from 0.
        trace: A record per step, and one per epoch.
        certificates: A sampling certificate per epoch.
        result: Scores and digests; empty unless the run has ended.
        resumed: A record for each time that it was continued.
        verified: A record for each time that it was computed again.
        faults: What is missing, damaged or was changed, in words.
    """

    folder: RunFolder
    manifest: Record
    config_text: str
    splits: Mapping[str, Sequence[str]]
    environment: Record
    data: Record
    model: Record
    rows: Sequence[Mapping[str, float | None]]
    trace: Sequence[Record]
    certificates: Sequence[Record]
    result: Record
    resumed: Sequence[Record]
    verified: Sequence[Record]
    faults: tuple[str, ...]

    @property
    def config(self) -> Record:
        """The config as the run began."""
        config: Record = self.manifest.get("config", {})
        return config

    @property
    def ended(self) -> bool:
        """Whether the run has ended well."""
        return bool(self.result)

    @property
    def epochs_done(self) -> int:
        """Whole epochs; where their records are missing, what the result says."""
        return len(self.rows) or int(self.result.get("epochs", 0))

    @property
    def epochs_planned(self) -> int | None:
        """Epochs that the config asks for."""
        planned: int | None = self.config.get("train", {}).get("max_epochs")
        return planned

    @property
    def losses(self) -> list[tuple[int, int, float]]:
        """Epoch, batch and loss of each step."""
        return [
            (int(r["epoch"]), int(r["batch"]), float.fromhex(r["loss"]))
            for r in self.trace
            if isinstance(r.get("loss"), str) and "epoch" in r and "batch" in r
        ]


def read_pieces(folder: RunFolder) -> Pieces:
    """Everything that a run folder holds; what cannot be read is named in ``faults``.

    Args:
        folder: A folder with a readable ``run.json``.

    Raises:
        RunError: There is no ``run.json``.
    """
    faults: list[str] = []
    read_json(folder.path / MANIFEST)  # without it this is no run
    manifest: Record = _read(faults, folder.path / MANIFEST, _document(shapes.MANIFEST), _NOTHING)
    faults += _changed(folder)
    result: Record = _read(faults, folder.result, _document(shapes.RESULT), _NOTHING, needed=False)
    ended = bool(result)
    return Pieces(
        folder=folder,
        manifest=manifest,
        config_text=_read(faults, folder.config, _text, ""),
        splits=_read(faults, folder.splits, _document(shapes.SPLITS), _NOTHING),
        environment=_read(faults, folder.environment, _document(shapes.ENVIRONMENT), _NOTHING),
        data=_read(faults, folder.data, _document(shapes.DATA), _NOTHING),
        model=_read(faults, folder.path / "model.json", _document(shapes.MODEL), _NOTHING),
        rows=_read(faults, folder.metrics, lambda _: _rows(folder), [], needed=ended),
        trace=_trace(faults, folder.trace, ended),
        certificates=_read(faults, folder.sampling, _lines(shapes.CERTIFICATE), [], needed=ended),
        result=result,
        resumed=_read(faults, folder.resumed, _lines(shapes.RESUMED), [], needed=False),
        verified=_read(faults, folder.verified, _lines(shapes.VERIFIED), [], needed=False),
        faults=tuple(dict.fromkeys(faults)),
    )


def _read(faults: list[str], path: Path, read: Callable[[Path], T], empty: T, *, needed: bool = True) -> T:
    """What a document holds; ``empty``, and a line in ``faults``, where it cannot be read."""
    if not path.exists():
        if needed:
            faults.append(f"{path.name} is missing")
        return empty
    try:
        return read(path)
    except (RunError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).replace(f"{path}: ", "").replace(f"{path}, ", "")
        faults.append(f"{path.name} is damaged: {reason}")
        return empty


def _changed(folder: RunFolder) -> list[str]:
    """Documents that are not what ``run.json`` says; missing ones are told by whoever reads them."""
    try:
        folder.check()
    except RunError as error:
        names = [name for name in str(error.got).split(", ") if (folder.path / name).exists()]
        return [f"{name} was changed after the run had begun" for name in names]
    return []


def _trace(faults: list[str], path: Path, ended: bool) -> Sequence[Record]:
    """The trace; of one whose chain is broken, what can be read of it."""
    found: Sequence[Record] = _read(faults, path, _sound_trace, [], needed=ended)
    if found or not path.exists():
        return found
    readable = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            readable.append(shapes.shaped(json.loads(line), shapes.STEP))
        except ValueError:
            continue  # the fault is told already
    return readable


def _sound_trace(path: Path) -> list[dict[str, Any]]:
    return [shapes.shaped(record, shapes.STEP) for record in read_trace(path)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = shapes.shaped(read_metrics(folder), shapes.EPOCHS)
    return rows


def _document(shape: shapes.Shape) -> Callable[[Path], Record]:
    return lambda path: shapes.shaped(read_json(path), shape)


def _lines(shape: shapes.Shape) -> Callable[[Path], list[Record]]:
    return lambda path: [shapes.shaped(json.loads(line), shape) for line in _text(path).splitlines()]
