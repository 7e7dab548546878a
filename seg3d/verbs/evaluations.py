"""The scores that were made of a run's predictions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seg3d.errors import RunError
from seg3d.reporting.run_report.scores import Evaluation, read_evaluation
from seg3d.reporting.run_report.shapes import EVALUATED, shaped
from seg3d.training.checkpoints import chosen_checkpoint
from seg3d.training.run_folder import RunFolder, read_json


def last_evaluation(folder: RunFolder) -> Evaluation | None:
    """The scores that were made last of a run's predictions and are still there; ``None`` without any.

    Raises:
        RunError: The list of evaluations is damaged, or what it names last are no scores.
    """
    return next(_evaluations_left(folder), None)


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


def _evaluations_left(folder: RunFolder) -> Iterator[Evaluation]:
    """The scores of a run's predictions that are still there, the last ones first."""
    for record in reversed(_evaluations(folder)):
        path = Path(os.path.normpath(folder.path / record["summary"]))
        if path.is_file():
            yield read_evaluation(path, record.get("weights"))
    if folder.test_scores.is_file():
        yield read_evaluation(folder.test_scores)


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
