"""The folder of a run: its files and their names, in one place."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from seg3d.atomic import temporary_name, write_json, write_text
from seg3d.digest import sha256_file, sha256_json
from seg3d.errors import RunError

SCHEMA_VERSION = 2
MANIFEST = "run.json"
INITIAL_WEIGHTS = "initial_weights"  # in data.json: where the training began, and what was seen before


class FolderTakenError(RunError):
    """A run folder that is to be made and is there already."""

    def __init__(self, path: Path) -> None:
        super().__init__("the run folder is there already", where=path, fix="Give another, or remove it.")


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
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """Folder of figures."""
        return self.path / "figures"

    @property
    def test(self) -> Path:
        """Label maps of the run's test cases, once they are scored."""
        return self.path / "test"

    @property
    def test_scores(self) -> Path:
        """Their scores."""
        return self.test / "summary.json"

    @property
    def tracking(self) -> Path:
        """The MLflow run that mirrors this one."""
        return self.path / "tracking.json"

    @property
    def resumed(self) -> Path:
        """A line for each time that the run was continued."""
        return self.path / "resumed.jsonl"

    @property
    def verified(self) -> Path:
        """A line for each time that the run was computed again."""
        return self.path / "verified.jsonl"

    @property
    def evaluations(self) -> Path:
        """A line for each time that its predictions were scored: where the scores lie."""
        return self.path / "evaluations.jsonl"

    @property
    def report(self) -> Path:
        """The page that shows all this."""
        return self.path / "report.html"

    def changes(self) -> list[str]:
        """What had changed in config, data or code when the run was continued all the same; empty as a rule.

        Raises:
            RunError: The record of that is damaged.
        """
        if not self.resumed.exists():
            return []
        try:
            records = [json.loads(line) for line in self.resumed.read_text(encoding="utf-8").splitlines()]
            return [str(line) for record in records for line in record["changed"]]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError("a file of the run is damaged", where=self.resumed, got=error) from error

    def certificates(self) -> list[dict[str, Any]]:
        """The sampling certificates of the epochs done.

        Raises:
            RunError: The file is damaged.
        """
        if not self.sampling.exists():
            return []
        try:
            return [json.loads(line) for line in self.sampling.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise RunError("a file of the run is damaged", where=self.sampling, got=error) from error

    def keep_epochs(self, epochs: int) -> None:
        """Cut ``metrics.csv`` and ``sampling.jsonl`` back to their first epochs, an incomplete last line included."""
        for path, header in ((self.metrics, 1), (self.sampling, 0)):
            lines: list[str] = []
            if path.exists():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: header + epochs]
                write_text(path, "".join(lines)) if epochs else path.unlink()
            if epochs and (not path.exists() or len(lines) < header + epochs):
                raise RunError(
                    "a record of the run is missing or shorter than its checkpoint says",
                    where=path,
                    expected=f"{epochs} epochs",
                    fix="The file was changed after it was written; train again.",
                )

    def create(
        self, config: Mapping[str, Any], config_yaml: str, documents: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> None:
        """Make the folder with what is known before training: all of it at once or nothing.

        Args:
            config: The resolved config; kept in ``run.json``, so that a later change of ``config.yaml`` is noticed.
            config_yaml: The same for people and for whoever continues the run.
            documents: By file name: text, or a JSON document.
            identity: Digests that say which run this is; kept in ``run.json``.

        Raises:
            FolderTakenError: It is there already.
        """
        if self.path.exists():
            raise FolderTakenError(self.path)
        draft = temporary_name(self.path)
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "checkpoints").mkdir(parents=True)
        try:
            for name, document in documents.items():
                if isinstance(document, str):
                    write_text(draft / name, document)
                else:
                    write_json(draft / name, document)
            files = {path.name: sha256_file(path) for path in sorted(draft.iterdir()) if path.is_file()}
            write_text(draft / self.config.name, config_yaml)
            content = {
                "schema_version": SCHEMA_VERSION,
                "identity": dict(identity),
                "started": datetime.now(UTC).isoformat(timespec="microseconds"),
                "files": files,
                "config": dict(config),
            }
            write_json(draft / MANIFEST, {**content, "sha256": sha256_json(content)})
            try:
                draft.rename(self.path)
            except OSError as error:  # another process was faster
                if self.path.exists():
                    raise FolderTakenError(self.path) from error
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    @property
    def identity(self) -> dict[str, Any]:
        """Digests that say which run this is.

        Raises:
            RunError: See :attr:`manifest`.
        """
        identity: dict[str, Any] = self.manifest["identity"]
        return identity

    def check(self) -> None:
        """Raise where a document of the run was changed.

        Raises:
            RunError: See :attr:`manifest`.
        """
        _ = self.manifest

    @property
    def manifest(self) -> dict[str, Any]:
        """``run.json``, checked by its own digest and with the files that it lists.

        Raises:
            RunError: It or a file that it lists was changed or is missing.
        """
        return self._checked_manifest(complete=True)

    def recorded_config(self) -> dict[str, Any]:
        """The config as the run began, once the documents that are there are known to be those of that time.

        Raises:
            RunError: ``run.json`` or a document that is there was changed.
        """
        config: dict[str, Any] = self._checked_manifest(complete=False)["config"]
        return config

    def _checked_manifest(self, *, complete: bool) -> dict[str, Any]:
        manifest: dict[str, Any] = read_json(self.path / MANIFEST)
        digest = manifest.pop("sha256", None)
        try:
            changed = [] if digest == sha256_json(manifest) else [MANIFEST]
        except ValueError:  # infinity, which no run writes
            changed = [MANIFEST]
        files = manifest.get("files", {})
        if not isinstance(files, dict):
            changed, files = [MANIFEST], {}
        for name, expected in files.items():
            path = self.path / name
            if (complete or path.exists()) and not (path.is_file() and sha256_file(path) == expected):
                changed.append(name)
        if changed:
            raise RunError(
                "files of the run were changed or damaged after it had begun",
                where=self.path,
                got=", ".join(changed),
                fix="Restore them, or train again.",
            )
        return manifest


def latest_run(output_dir: Path, config_name: str) -> RunFolder | None:
    """The run of a config that was started last in a folder of runs, ``None`` if there is none."""
    found = []
    for path in sorted(output_dir.iterdir()) if output_dir.is_dir() else []:
        if (path / MANIFEST).is_file():
            try:
                content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
                if content["config"]["name"] == config_name and json.loads((path / "data.json").read_text())["cases"]:
                    found.append((content["started"], path))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # of another schema, or damaged: it says nothing about this run
    return RunFolder(max(found)[1]) if found else None


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
    header = path / MANIFEST
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


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of ``metrics.csv``; empty cells are ``None``.

    Raises:
        RunError: It is damaged.
    """
    try:
        with folder.metrics.open(encoding="utf-8", newline="") as file:
            return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error) as error:
        raise RunError("a file of the run is damaged", where=folder.metrics, got=error) from error
