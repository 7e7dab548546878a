"""Whether a run's checkpoints and metrics are those that its trace stands for, and where two runs' records differ.

The trace alone is a hash chain; what lies beside it could have been exchanged, each file with a digest of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seg3d.digest import sha256_tensors
from seg3d.training.checkpoints import KEPT, Checkpoint, list_checkpoints
from seg3d.training.digests import optimizer_sha256
from seg3d.training.outcome import load_plain, network_weights
from seg3d.training.run_folder import RunFolder, read_metrics
from seg3d.training.trace import exact, read_trace

# they say how long it took, not what was computed
_TIMES = ("seconds", "patches_per_second", "data_wait_share")


@dataclass(frozen=True)
class _Epoch:
    """What the trace says of an epoch: optimiser steps done after it, mean loss, last learning rate, closing record."""

    step: int
    loss: float
    learning_rate: str
    record: Mapping[str, Any]


def contradictions(folder: RunFolder) -> list[str]:
    """A line for each checkpoint and each row of ``metrics.csv`` that is not what the trace says; empty: none.

    Every kept checkpoint of an epoch's end must hold the weights, their running mean and the optimiser whose digests
    the trace has, and the best one must be that of the first epoch with the highest score. One of the middle of an
    epoch stands in no trace; it is compared with that of another run, see :func:`record_differences`.

    Args:
        folder: The run; one that has not ended may have fewer rows and no best checkpoint yet.

    Raises:
        RunError: The trace is damaged.
    """
    epochs = _epochs(folder)
    ended = folder.result.exists()
    kept = [c for kind in KEPT for c in list_checkpoints(folder.checkpoints, kind)]
    return [
        *(line for checkpoint in kept for line in _of_checkpoint(checkpoint, epochs)),
        *(_of_best(list_checkpoints(folder.checkpoints, "best"), epochs) if ended else ()),
        *_of_metrics(read_metrics(folder) if folder.metrics.exists() else [], epochs, ended),
    ]


def record_differences(a: RunFolder, b: RunFolder, epochs: int | None = None) -> list[str]:
    """A line for each epoch whose metrics or sampling certificate two runs have differently, but for times.

    Args:
        a: A run.
        b: Another.
        epochs: Compare the first ones only; by default both must have the same number.

    Raises:
        RunError: A certificate is unreadable.
    """
    found = []
    for name, one, other in (
        (a.metrics.name, _rows(a)[:epochs], _rows(b)[:epochs]),
        (a.sampling.name, a.certificates()[:epochs], b.certificates()[:epochs]),
    ):
        if len(one) != len(other):
            found.append(f"{name}: {len(one)} | {len(other)} epochs")
        for number, (left, right) in enumerate(zip(one, other, strict=False), start=1):
            keys = sorted(key for key in {*left, *right} if left.get(key) != right.get(key))
            if keys:
                found.append(f"{name}, epoch {number}: {', '.join(keys)}")
    return found


def _epochs(folder: RunFolder) -> list[_Epoch]:
    """The epochs that the trace has to their end."""
    accumulate = int(folder.manifest["config"]["train"]["accumulate"])
    found: list[_Epoch] = []
    steps: list[Mapping[str, Any]] = []
    for record in read_trace(folder.trace) if folder.trace.exists() else ():
        if "loss" in record:
            steps.append(record)
            continue
        losses = [float.fromhex(step["loss"]) for step in steps]
        done = (found[-1].step if found else 0) + -(-len(steps) // accumulate)
        mean = sum(losses) / len(losses) if losses else math.nan
        found.append(_Epoch(done, mean, steps[-1]["learning_rate"] if steps else "", record))
        steps = []
    return found


def _of_checkpoint(checkpoint: Checkpoint, epochs: Sequence[_Epoch]) -> Iterator[str]:
    """What a checkpoint of an epoch's end has otherwise than the trace."""
    record = next((epoch.record for epoch in epochs if epoch.step == checkpoint.step), None)
    if record is None:
        return
    content = load_plain(checkpoint.path)
    mean = content.get("ema")
    digests = {
        "weights_sha256": sha256_tensors(network_weights(content)),
        "averaged_sha256": None if mean is None else sha256_tensors(mean["shadow"]),
        "optimizer_sha256": optimizer_sha256(content["optimizer_states"][0]),
    }
    for name, digest in digests.items():
        if record.get(name) != digest:
            yield f"{checkpoint.path.name}: {name} is not that of epoch {record['epoch'] + 1}"


def _of_best(kept: Sequence[Checkpoint], epochs: Sequence[_Epoch]) -> Iterator[str]:
    scores = {epoch.step: float.fromhex(epoch.record["val_dice"]) for epoch in epochs if "val_dice" in epoch.record}
    if not scores:
        yield from (f"{checkpoint.path.name}: no epoch has a score" for checkpoint in kept)
        return
    best = max(scores, key=lambda step: scores[step])  # the first of equal ones
    if [checkpoint.step for checkpoint in kept] != [best]:
        names = ", ".join(checkpoint.path.name for checkpoint in kept) or "no checkpoint is kept as the best"
        yield f"{names}: the best score is that after {best} steps"


def _of_metrics(rows: Sequence[Mapping[str, Any]], epochs: Sequence[_Epoch], ended: bool) -> Iterator[str]:
    if len(rows) > len(epochs) or (ended and len(rows) < len(epochs)):
        yield f"metrics.csv: {len(rows)} rows, but the trace has {len(epochs)} epochs"
    for row, epoch in zip(rows, epochs, strict=False):
        score = epoch.record.get("val_dice")
        said = {
            "epoch": epoch.record["epoch"],
            "step": epoch.step,
            "train_loss": None if math.isnan(epoch.loss) else epoch.loss,
            "learning_rate": float.fromhex(epoch.learning_rate) if epoch.learning_rate else None,
            "val_dice": None if score is None else float.fromhex(score),
        }
        for name, value in said.items():
            if row.get(name) != value:
                yield f"metrics.csv, epoch {epoch.record['epoch'] + 1}: {name} is {row.get(name)}, in the trace {value}"


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Rows of the metrics without what tells the time, exact."""
    rows = read_metrics(folder) if folder.metrics.exists() else []
    return [
        {key: None if value is None else exact(value) for key, value in row.items() if key not in _TIMES}
        for row in rows
    ]
