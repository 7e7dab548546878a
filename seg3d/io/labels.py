"""Which values a label map holds, and which of them nobody declared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 22  # voxels counted at a time: counting widens them to 8 bytes each
_EXAMPLES = 5


def count_labels(labels: NDArray[Any]) -> dict[int, int]:
    """Voxels of each value of a label map of unsigned integers, sorted by value."""
    counts = np.zeros(0, dtype=np.int64)
    flat = labels.ravel(order="K")
    for start in range(0, flat.size, _PIECE):
        more = np.bincount(flat[start : start + _PIECE], minlength=counts.size)
        more[: counts.size] += counts
        counts = more
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def describe_undeclared(counts: Mapping[int, int], declared: Collection[int | None], unit: str = "voxel") -> str:
    """The values that are neither 0 nor declared, with their voxels, the first few of them; empty if there are none.

    Example:
        >>> describe_undeclared({0: 90, 1: 5, 7: 4, 8: 1}, {0, 1})
        '7 (4 voxels), 8 (1 voxel)'
    """
    unknown = [value for value in counts if value and value not in declared]
    told = [f"{value} ({counts[value]} {unit}{'s' * (counts[value] > 1)})" for value in unknown[:_EXAMPLES]]
    beyond = unknown[_EXAMPLES:]
    if beyond:
        told.append(f"and {len(beyond)} more values ({sum(counts[value] for value in beyond)} {unit}s)")
    return ", ".join(told)
