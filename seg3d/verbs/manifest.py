"""What ``seg3d predict`` writes down beside its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seg3d.training.run_folder import read_json

MANIFEST = "predictions.json"


def read_manifest(predictions: Path) -> dict[str, Any]:
    """Labels, regions and more of answers; empty where nothing is written down.

    Args:
        predictions: A folder of answers, or one of them.

    Raises:
        RunError: It is there and cannot be read.
    """
    path = (predictions if predictions.is_dir() else predictions.parent) / MANIFEST
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    return content
