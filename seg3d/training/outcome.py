"""What came out of a run, read from its folder: the files are the truth, not the memory of the process."""

from __future__ import annotations

import csv
from typing import Any

import torch

from seg3d.digest import sha256_tensors
from seg3d.errors import RunError
from seg3d.training.run_folder import RunFolder
from seg3d.training.trace import read_trace

_NETWORK = "network."


def summarise(folder: RunFolder) -> dict[str, Any]:
    """Scores and digests of a trained run, for ``result.json``.

    ``weights_sha256`` is that of the network after the last step; ``best_score`` the best validation Dice (``None``
    without validation cases).
    """
    rows = read_metrics(folder)
    scored = [row for row in rows if row["val_dice"] is not None]
    best = max(scored, key=lambda row: (row["val_dice"], -row["epoch"]), default=None)
    return {
        "best_score": None if best is None else best["val_dice"],
        "best_epoch": None if best is None else int(best["epoch"]),
        "last_score": scored[-1]["val_dice"] if scored else None,
        "epochs": len(rows),
        "steps": int(rows[-1]["step"]),
        "weights_sha256": sha256_tensors(read_weights(folder, which="last", averaged=False)),
        "trace_sha256": read_trace(folder.trace)[-1]["hash"],
    }


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of ``metrics.csv``; empty cells are ``None``."""
    with folder.metrics.open(encoding="utf-8", newline="") as file:
        return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]


def read_weights(folder: RunFolder, which: str = "best", *, averaged: bool = True) -> dict[str, torch.Tensor]:
    """State dict of the network in a checkpoint, on the CPU; nothing but tensors and plain values is unpickled.

    Args:
        folder: The run.
        which: ``"best"`` (the last one, when there was no validation) or ``"last"``.
        averaged: Take the running mean of the weights where the run kept one.

    Raises:
        RunError: There is no such checkpoint or it is damaged.
    """
    path = folder.best if which == "best" and folder.best.exists() else folder.last
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if averaged and "ema" in checkpoint:
            shadow: dict[str, torch.Tensor] = checkpoint["ema"]["shadow"]
            return shadow
        state = checkpoint["state_dict"]
    except Exception as error:  # torch raises whatever a damaged archive leads to
        raise RunError(
            "the checkpoint is missing or damaged", where=path, got=error, fix="Train again, or give another run."
        ) from error
    return {name.removeprefix(_NETWORK): value for name, value in state.items() if name.startswith(_NETWORK)}
