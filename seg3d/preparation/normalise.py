"""Grey values to the range of a network, at 2 bytes a voxel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.preparation.recipe import Normalisation

_AT_ONCE = 1 << 18  # voxels


def normalise(channel: NDArray[Any], step: Normalisation) -> NDArray[np.float32]:
    """A channel ``(x, y, z)`` normalised, float32.

    Raises:
        DataError: A voxel is not finite.
    """
    values = np.asarray(channel, dtype=np.float32)
    lowest, highest = float(values.min()), float(values.max())
    if not np.isfinite(lowest) or not np.isfinite(highest):
        raise DataError(
            "voxels are not finite",
            got=f"{int(np.count_nonzero(~np.isfinite(values)))} voxels",
            fix="Replace NaN and infinity.",
        )
    if step.kind == "none":
        return values
    if step.kind == "divide":
        assert step.by is not None
        return values / np.float32(step.by)
    if step.kind == "zscore":
        mean, deviation = _moments(_counted(values, step))
        return _ratio(values - np.float32(mean), deviation)
    lower, upper = _range(values, step, lowest, highest)
    return _ratio(np.clip(values, lower, upper) - np.float32(lower), upper - lower)


def as_stored(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """The values as float16.

    Raises:
        DataError: They are beyond its range.
    """
    limit = float(np.finfo(np.float16).max)
    largest = max(abs(float(values.min())), abs(float(values.max())))
    if largest > limit:
        raise DataError(
            "normalised values are too large to be stored",
            got=f"{largest:g}",
            expected=f"at most {limit:g}",
            fix="Choose another prepare.normalise, such as zscore.",
        )
    return values.astype(np.float16)


def _counted(values: NDArray[np.float32], step: Normalisation) -> NDArray[np.float32]:
    """The voxels whose statistics count; all of them where none is foreground."""
    if not step.foreground:
        return values
    chosen = values[values != 0]
    return chosen if chosen.size else values


def _moments(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation as numpy computes them, without a float64 copy of the voxels."""
    # in the order of memory, in which numpy adds; it turns axes that run backwards
    forward = values[tuple(slice(None, None, -1 if step < 0 else 1) for step in values.strides)]
    flat = forward.ravel(order="K")
    # float64 sums: float32 loses digits over a million voxels
    mean = float(values.mean(dtype=np.float64))
    return mean, math.sqrt(_sum_of_squares(flat, mean) / flat.size)


def _sum_of_squares(flat: NDArray[np.float32], mean: float) -> float:
    """Squared distances from the mean, added in pairs of halves, as numpy adds; each part stays in the cache."""
    if flat.size <= _AT_ONCE:
        distances = np.subtract(flat, mean, dtype=np.float64)
        distances *= distances
        return float(distances.sum())
    half = flat.size // 2
    half -= half % 8
    return _sum_of_squares(flat[:half], mean) + _sum_of_squares(flat[half:], mean)


def _range(values: NDArray[np.float32], step: Normalisation, lowest: float, highest: float) -> tuple[float, float]:
    if step.kind == "window":
        assert step.lower is not None
        assert step.upper is not None
        return step.lower, step.upper
    counted = _counted(values, step)
    if step.kind == "minmax":
        return (lowest, highest) if not step.foreground else (float(counted.min()), float(counted.max()))
    if step.kind == "percentile":
        lower = 0.5 if step.lower is None else step.lower
        upper = 99.5 if step.upper is None else step.upper
        low, high = np.percentile(counted, (lower, upper)).tolist()
        return low, high
    raise ValueError(f"unknown normalisation {step.kind!r}")


def _ratio(values: NDArray[np.float32], divisor: float) -> NDArray[np.float32]:
    if divisor <= 0 or not np.isfinite(divisor):
        return np.zeros_like(values)
    values /= np.float32(divisor)
    return values
