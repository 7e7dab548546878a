"""Scores of a run on its own test cases, kept in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seg3d.atomic import exclusive
from seg3d.build.prediction import build_reproducibility
from seg3d.config import load_config
from seg3d.errors import RunError
from seg3d.training.run_folder import RunFolder, open_run_folder, read_json
from seg3d.verbs.evaluate import evaluate
from seg3d.verbs.predict import predict


def score_test_cases(run: Path | str, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The summary of a finished run's test cases, as :func:`seg3d.evaluate` gives it; what is there is only read.

    Label maps and scores are kept in the folder ``test`` of the run.

    Args:
        run: A run folder.
        tell: Called with a line for each scan.

    Raises:
        RunError: The run has not ended, or has no test cases.
        Seg3dError: Its dataset cannot be read.
    """
    folder = open_run_folder(Path(run))
    if folder.test_scores.exists():
        summary: dict[str, Any] = read_json(folder.test_scores)
        return summary
    _refuse_unready(folder)
    config = load_config(folder.config)
    with exclusive(folder.path):
        # the last bits of a probability depend on the threads
        build_reproducibility(config).apply(config.seed)
        predict(folder.path, output=folder.test, split="test", tell=tell)
        return evaluate(
            folder.test,
            folder.config,
            folder.test_scores,
            subset=True,
            run=folder.path,
        )


def _refuse_unready(folder: RunFolder) -> None:
    if not folder.result.exists():
        raise RunError("the run has not ended", where=folder.path, fix="Continue it with 'seg3d resume'.")
    if not read_json(folder.splits)["test"]:
        raise RunError("the run has no test cases", where=folder.path, fix="Train with data.split.test_share or folds.")
