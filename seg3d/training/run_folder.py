"""The folder of a run: its files and their names, in one place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from seg3d.atomic import write_json, write_text
from seg3d.errors import RunError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files; the folder is the truth, tracking servers mirror it."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def splits(self) -> Path:
        """Case names of train, val and test."""
        return self.path / "splits.json"

    @property
    def environment(self) -> Path:
        """What it was computed with."""
        return self.path / "environment.json"

    @property
    def data(self) -> Path:
        """Digests of the data."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """A row per epoch."""
        return self.path / "metrics.csv"

    @property
    def trace(self) -> Path:
        """The hash chain."""
        return self.path / "trace.jsonl"

    @property
    def sampling(self) -> Path:
        """A sampling certificate per epoch."""
        return self.path / "sampling.jsonl"

    @property
    def result(self) -> Path:
        """Scores and digests; there only when the run is finished."""
        return self.path / "result.json"

    @property
    def best(self) -> Path:
        """Checkpoint with the best validation score."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        """Checkpoint after the last epoch."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def figures(self) -> Path:
        """Folder of figures."""
        return self.path / "figures"

    def create(self, config_yaml: str, documents: Mapping[str, Any]) -> None:
        """Make the folder and write what is known before training.

        Args:
            config_yaml: The resolved config.
            documents: JSON documents by file name, such as ``{"splits.json": ...}``.
        """
        (self.path / "checkpoints").mkdir(parents=True)
        header = {"schema_version": SCHEMA_VERSION}
        write_json(self.path / "run.json", header)
        write_text(self.config, config_yaml)
        for name, document in documents.items():
            write_json(self.path / name, document)


def new_run_folder(output_dir: Path, name: str) -> RunFolder:
    """A folder that does not exist yet: ``name``, or ``name-2``, ``name-3``..."""
    candidate, number = output_dir / name, 1
    while candidate.exists():
        number += 1
        candidate = output_dir / f"{name}-{number}"
    return RunFolder(candidate)


def open_run_folder(path: Path) -> RunFolder:
    """The folder of an earlier run.

    Raises:
        RunError: It is no run folder, or of another schema version.
    """
    header = path / "run.json"
    try:
        version = json.loads(header.read_text(encoding="utf-8"))["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            "this is not a run folder",
            where=path,
            expected="a folder made by 'seg3d train', with run.json and config.yaml",
            fix="Give the folder that 'seg3d train' printed as its last line.",
        ) from error
    if version != SCHEMA_VERSION:
        raise RunError(
            "the run folder is of another schema version",
            where=path,
            got=version,
            expected=SCHEMA_VERSION,
            fix="Use the version of seg3d that made it, or train again.",
        )
    return RunFolder(path)


def read_json(path: Path) -> Any:
    """A JSON document of a run folder.

    Raises:
        RunError: It is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError("a file of the run is missing or damaged", where=path, got=error) from error


def read_yaml(path: Path) -> Any:
    """A YAML document of a run folder.

    Raises:
        RunError: It is missing or damaged.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError("a file of the run is missing or damaged", where=path, got=error) from error
