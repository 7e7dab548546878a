"""What differs between two runs: data, config, environment, steps and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from seg3d.auditing.records import record_differences
from seg3d.digest import sha256_tensors
from seg3d.training.checkpoints import KEPT, Checkpoint, list_checkpoints
from seg3d.training.outcome import load_plain, network_weights
from seg3d.training.run_folder import RunFolder, read_json, read_yaml
from seg3d.training.trace import read_trace

# says where and when, not what was computed
_WITHOUT_EFFECT = ("output_dir", "data.source", "data.store", "tracking")


@dataclass(frozen=True)
class LayerDifference:
    """A tensor of the network that differs.

    Attributes:
        name: Its name in the network.
        largest: Largest absolute difference; ``None`` where only one side has it, or in another shape, or not finite.
        mean: Mean absolute difference.
        values: Number of values that differ.
        of: Number of values.
    """

    name: str
    largest: float | None
    mean: float | None
    values: int
    of: int


@dataclass(frozen=True)
class RunDifference:
    """What differs between two runs.

    Attributes:
        identical: Every compared step and epoch has the same bits, and so have the weights of every checkpoint that
            both keep, the metrics but for times, and the sampling certificates.
        epochs: Epochs that were compared.
        steps: Steps that were compared.
        first: The first record of the traces that differs: epoch, batch, and both values of each field; ``None``
            where none does.
        layers: Tensors that differ in the newest checkpoint that both keep and that is not the same; those of the
            running mean of the weights are called ``averaged.`` and their name.
        layers_at: Optimiser steps of that checkpoint; ``None``: they keep none of the same step.
        records: A line for each epoch whose metrics or sampling certificate differ, and for each damaged checkpoint,
            which cannot be compared.
        config: Both values of each key that differs.
        data: A line for each file or case that differs.
        environment: Both values of each entry that differs.
    """

    identical: bool
    epochs: int
    steps: int
    first: dict[str, Any] | None
    layers: list[LayerDifference]
    layers_at: int | None
    records: list[str]
    config: dict[str, tuple[Any, Any]]
    data: list[str]
    environment: dict[str, tuple[Any, Any]]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def compare_runs(a: RunFolder, b: RunFolder, *, epochs: int | None = None) -> RunDifference:
    """What differs between two runs.

    Args:
        a: A run.
        b: Another.
        epochs: Compare the first ones only; by default both must have the same number.

    Raises:
        RunError: A trace or document is damaged.
    """
    traces = [_first_epochs(read_trace(run.trace), epochs) for run in (a, b)]
    first = first_difference(*traces)
    layers, step = compare_weights(a, b)
    records = [*record_differences(a, b, epochs), *_damaged(a, b)]
    config = differences(*(read_yaml(run.config) for run in (a, b)))
    return RunDifference(
        identical=first is None and not layers and not records and bool(traces[0]),
        epochs=min(sum("weights_sha256" in record for record in trace) for trace in traces),
        steps=min(sum("loss" in record for record in trace) for trace in traces),
        first=first,
        layers=layers,
        layers_at=step,
        records=records,
        config={key: value for key, value in config.items() if not key.startswith(_WITHOUT_EFFECT)},
        data=[*changed_files(*(read_json(run.data) for run in (a, b))), *_changed_split(a, b)],
        environment=differences(*(read_json(run.environment) for run in (a, b))),
    )


def first_difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first record at which two traces part; ``None`` where they are equal.

    Hashes are chained, so equal hashes at an epoch's end mean that all before it is equal: the epochs are bisected, and
    only the one in which the traces part is read step by step.
    """
    shorter = min(len(a), len(b))
    low, high = 0, shorter  # all before ``low`` is equal; the first difference is at ``high`` at the latest
    while low < high:
        middle = (low + high) // 2
        if a[middle]["hash"] == b[middle]["hash"]:
            low = middle + 1
        else:
            high = middle
    if low == shorter:
        if len(a) == len(b):
            return None
        longer = a if len(a) > len(b) else b
        return _place(longer[low]) | {"only_in": "first" if longer is a else "second"}
    left, right = a[low], b[low]
    keys = sorted((set(left) | set(right)) - {"hash", "epoch", "batch"})
    return _place(left) | {key: [left.get(key), right.get(key)] for key in keys if left.get(key) != right.get(key)}


def compare_weights(a: RunFolder, b: RunFolder) -> tuple[list[LayerDifference], int | None]:
    """Tensors that differ in the newest checkpoint of the same step that is not the same in both runs, and that step.

    All that both keep are compared, the best one and the running mean of the weights included; where none differs the
    step is that of the newest.
    """
    kept_b = _kept(b)
    pairs = [(one, other) for one in _kept(a) for other in kept_b if one.step == other.step]
    pairs.sort(key=lambda pair: pair[0].step, reverse=True)
    for one, other in pairs:
        left, right = (_tensors(load_plain(checkpoint.path)) for checkpoint in (one, other))
        if layers := compare_tensors(left, right):
            return layers, one.step
    return [], pairs[0][0].step if pairs else None


def compare_tensors(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> list[LayerDifference]:
    """Tensors that differ in value, or exist on one side or in another shape only."""
    found = []
    for name in [*left, *(name for name in right if name not in left)]:
        one, other = left.get(name), right.get(name)
        if one is None or other is None or one.shape != other.shape:
            size = next(tensor.numel() for tensor in (one, other) if tensor is not None)
            found.append(LayerDifference(name, None, None, size, size))
        elif sha256_tensors({name: one}) != sha256_tensors({name: other}):  # bits, so that NaN equals itself
            gap = (one.double() - other.double()).abs()
            largest, mean = (_finite(float(value)) for value in (gap.max(), gap.mean()))
            found.append(LayerDifference(name, largest, mean, int((gap != 0).sum()), gap.numel()))
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def differences(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Both values by dotted path wherever two JSON documents differ; ``None`` stands for an entry that is absent."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*a, *b}):
            found |= differences(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    return {} if a == b else {prefix: (a, b)}


def changed_files(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """A line for each file, or prepared case, that differs between two records of data."""
    old, new = before["cases"], after["cases"]
    found = []
    for case in sorted({*old, *new}):
        if case not in new:
            found.append(f"{case}: no longer there")
        elif case not in old:
            found.append(f"{case}: new")
        else:
            found += _changes(case, old[case], new[case])
    return found


def _changed_split(a: RunFolder, b: RunFolder) -> list[str]:
    parts = differences(*(read_json(run.splits) for run in (a, b)))
    return [f"the {part} cases are not the same" for part in parts]


def _changes(case: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    files = differences(old["sources"], new["sources"])
    if files:
        return [
            f"{case}: {name} {'added' if was is None else 'removed' if now is None else 'changed'}"
            for name, (was, now) in files.items()
        ]
    if old["content_sha256"] != new["content_sha256"]:
        return [f"{case}: the same files were prepared differently"]
    return []


def _first_epochs(trace: list[dict[str, Any]], epochs: int | None) -> list[dict[str, Any]]:
    return trace if epochs is None else [record for record in trace if record["epoch"] < epochs]


def _place(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"epoch": record["epoch"], "batch": record.get("batch")}


def _kept(run: RunFolder) -> list[Checkpoint]:
    return [checkpoint for checkpoint in _all_kept(run) if checkpoint.sound]


def _damaged(*runs: RunFolder) -> list[str]:
    """A line for each checkpoint that has not the bytes it was written with."""
    return [f"{c.path}: damaged, not compared" for run in runs for c in _all_kept(run) if not c.sound]


def _all_kept(run: RunFolder) -> list[Checkpoint]:
    return [checkpoint for kind in KEPT for checkpoint in list_checkpoints(run.checkpoints, kind)]


def _tensors(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of the network in a checkpoint, and their running mean where there is one."""
    mean = content["ema"]["shadow"] if "ema" in content else {}
    return network_weights(content) | {f"averaged.{name}": value for name, value in mean.items()}
