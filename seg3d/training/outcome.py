"""What came out of a run, read from its folder: the files are the truth, not the memory of the process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seg3d.digest import sha256_tensors
from seg3d.errors import RunError
from seg3d.training.checkpoints import Checkpoint, chosen_checkpoint, newest_sound
from seg3d.training.digests import optimizer_sha256
from seg3d.training.progress import Progress
from seg3d.training.run_folder import RunFolder, read_metrics
from seg3d.training.trace import DIVERGED, read_trace

_NETWORK = "network."


def summarise(folder: RunFolder) -> dict[str, Any]:
    """Scores and digests of a trained run, for ``result.json``.

    ``weights_sha256`` and ``optimizer_sha256`` are those after the last step; ``best_score`` the best validation Dice
    (``None`` without validation cases).
    """
    rows = read_metrics(folder)
    scored = [row for row in rows if row["val_dice"] is not None]
    best = max(scored, key=lambda row: (row["val_dice"], -row["epoch"]), default=None)
    last = read_last(folder)
    return {
        "best_score": None if best is None else best["val_dice"],
        "best_epoch": None if best is None else int(best["epoch"]),
        "last_score": scored[-1]["val_dice"] if scored else None,
        "epochs": len(rows),
        "steps": int(rows[-1]["step"]),
        "weights_sha256": sha256_tensors(network_weights(last)),
        "optimizer_sha256": optimizer_sha256(last["optimizer_states"][0]),
        "trace_sha256": read_trace(folder.trace)[-1]["hash"],
    }


def refuse_diverged(folder: RunFolder) -> None:
    """Raise where a training was stopped because loss or weights were no numbers any more.

    Raises:
        RunError: It was; it says from which step on.
    """
    trace = read_trace(folder.trace)
    if not trace[-1].get(DIVERGED):
        return
    first = next((r for r in trace if "loss" in r and not math.isfinite(float.fromhex(r["loss"]))), trace[-1])
    step = f", batch {first['batch'] + 1}: loss {float.fromhex(first['loss'])}" if "loss" in first else ": weights"
    raise RunError(
        "the training has diverged: loss or weights are no numbers any more",
        where=folder.path,
        got=f"epoch {first['epoch'] + 1}{step}",
        fix="Lower train.optimizer.learning_rate or train.gradient_clip, or try train.precision=fp32. "
        "Checkpoints that are kept are from before.",
    )


def read_last(folder: RunFolder) -> dict[str, Any]:
    """The newest sound checkpoint of a run.

    Raises:
        RunError: There is none.
    """
    found, _ = newest_sound(folder.checkpoints, "last")
    if found is None:
        raise RunError("the run has no sound checkpoint", where=folder.path, fix="Train again, or give another run.")
    return read_checkpoint(found)


def read_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """The content, on the CPU; nothing but tensors and plain values is unpickled.

    Raises:
        RunError: The file is damaged.
    """
    if not checkpoint.sound:
        raise RunError(
            "the checkpoint is damaged: its bytes do not have the digest in its name",
            where=checkpoint.path,
            fix="Continue from an earlier one with 'seg3d resume', or give another run.",
        )
    return load_plain(checkpoint.path)


def load_plain(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds, on the CPU; nothing but tensors and plain values is unpickled."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def read_progress(checkpoint: Mapping[str, Any]) -> Progress:
    """How far a run was at a checkpoint."""
    return Progress(**checkpoint["callbacks"]["Recorder"])


def read_weights(folder: RunFolder, which: str = "best", *, averaged: bool = True) -> dict[str, torch.Tensor]:
    """State dict of the network in a checkpoint, on the CPU; nothing but tensors and plain values is unpickled.

    Args:
        folder: The run.
        which: ``"best"`` (the last one, when there was no validation) or ``"last"``.
        averaged: Take the running mean of the weights where the run kept one.

    Raises:
        RunError: There is no such checkpoint or it is damaged.
    """
    checkpoint = read_checkpoint(chosen_checkpoint(folder)) if which == "best" else read_last(folder)
    return predicting_weights(checkpoint) if averaged else network_weights(checkpoint)


def predicting_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """State dict of the network in a checkpoint: the running mean of the weights where the run kept one."""
    if "ema" not in checkpoint:
        return network_weights(checkpoint)
    shadow: dict[str, torch.Tensor] = checkpoint["ema"]["shadow"]
    return shadow


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """State dict of the network in a checkpoint, as it was after its last step."""
    state = checkpoint["state_dict"]
    return {name.removeprefix(_NETWORK): value for name, value in state.items() if name.startswith(_NETWORK)}
