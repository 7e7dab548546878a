"""The scores that were made of a run's predictions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seg3d.digest import sha256_file
from seg3d.errors import RunError
from seg3d.reporting.run_report.scores import Evaluation, read_evaluation
from seg3d.reporting.run_report.shapes import EVALUATED, shaped
from seg3d.training.checkpoints import chosen_checkpoint
from seg3d.training.run_folder import RunFolder, read_json
from seg3d.verbs.manifest import read_manifest


def last_evaluation(folder: RunFolder) -> Evaluation | None:
    """The scores that were made last of a run's predictions and are still there; ``None`` without any.

    Raises:
        RunError: The list of evaluations is damaged, or what it names last are no scores.
    """
    return next(_evaluations_left(folder), None)


def evaluation_in(folder: RunFolder, scores: Path) -> Evaluation:
    """The scores in a file, with the weights that predicted, as far as these are known.

    Raises:
        RunError: The file holds no scores.
    """
    found = read_evaluation(scores)
    digest = sha256_file(scores)
    try:
        records = _evaluations(folder)
    except RunError:
        records = []  # giving the scores is the way round a damaged list
    for record in reversed(records):
        if record.get("sha256") == digest:
            return replace(found, weights=record.get("weights"))
    files = [Path(row["prediction_file"]) for row in found.summary["metric_per_case"] if row.get("prediction_file")]
    return replace(found, weights=_weights_of(files[0]) if files else None)


def _weights_of(prediction: Path) -> str | None:
    """What predicted, whichever run's it is, as the record beside a label map says."""
    try:
        manifest = read_manifest(prediction)
    except RunError:
        return None  # damaged, or of another program
    told = manifest.get("weights")
    return str(told) if told is not None and prediction.name in manifest.get("scans", ()) else None


def evaluation_of_test_cases(folder: RunFolder) -> Evaluation | None:
    """Scores of the run's test cases, all of them and no others, by the weights that it predicts with.

    Those that the run itself was asked for, else those that were made last.

    Raises:
        RunError: As :func:`last_evaluation`.
    """
    if folder.test_scores.is_file():
        return read_evaluation(folder.test_scores)
    cases, weights = sorted(read_json(folder.splits)["test"]), chosen_checkpoint(folder).sha256
    for found in _evaluations_left(folder):
        if found.cases == cases and found.weights is not None and found.weights.startswith(weights):
            return found
    return None


def overwritten_scores(folder: RunFolder) -> list[str]:
    """What to tell where the scores that were made last are not those that lie there now.

    Raises:
        RunError: The list of evaluations is damaged.
    """
    for record in _evaluations(folder)[-1:]:
        path = _place(folder, record)
        own = path.resolve() == folder.test_scores.resolve()
        if not own and path.is_file() and not _is_as_recorded(path, record):
            return [f"{path} was written anew after this run's scores had been put there; it is not shown."]
    return []


def _place(folder: RunFolder, record: Mapping[str, Any]) -> Path:
    return Path(os.path.normpath(folder.path / record["summary"]))


def _is_as_recorded(path: Path, record: Mapping[str, Any]) -> bool:
    return record.get("sha256") in (None, sha256_file(path))  # older records do not say


def _evaluations_left(folder: RunFolder) -> Iterator[Evaluation]:
    """The scores of a run's predictions that are still there, the last ones first.

    A file that was written anew since may hold the scores of another run.
    """
    for record in reversed(_evaluations(folder)):
        path = _place(folder, record)
        if path.is_file() and _is_as_recorded(path, record):
            yield read_evaluation(path, record.get("weights"))
    if folder.test_scores.is_file():
        yield evaluation_in(folder, folder.test_scores)


def _evaluations(folder: RunFolder) -> list[Mapping[str, Any]]:
    if not folder.evaluations.exists():
        return []
    try:
        lines = folder.evaluations.read_text(encoding="utf-8").splitlines()
        return [shaped(json.loads(line), EVALUATED) for line in lines]
    except (OSError, ValueError) as error:
        raise RunError(
            "the list of the run's evaluations is damaged",
            where=folder.evaluations,
            got=error,
            fix="Remove its broken lines, or give the scores with --scores.",
        ) from error
