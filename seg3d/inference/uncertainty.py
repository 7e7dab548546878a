"""Which maps tell how uncertain the mean of several answers is, and how they follow from it slab by slab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seg3d.inference.assemble import Derive
from seg3d.inference.ensemble import Spread

# the SD that a voxel gets whose label is removed in the end
REMOVED = "sd of no label"


def stacked(spread: Spread) -> torch.Tensor:
    """Mean probabilities, their SD, entropy and mutual information: ``(2 output + 2, planes, y, z)``."""
    both = torch.stack([spread.entropy, spread.mutual_information])
    return torch.cat([spread.mean, spread.sd, both])


def derived(values: Sequence[int], regions: bool) -> Mapping[str, Derive]:
    """How each map, by its kind, follows from :func:`stacked` and from the label map.

    Args:
        values: Label value of each output.
        regions: Outputs are regions: where the label map shows none of them, the SD is the largest of theirs.
    """
    outputs = len(values)

    def of_no_label(found: NDArray[np.float32], _: NDArray[Any]) -> NDArray[np.float32]:
        sd = found[outputs : 2 * outputs]
        background: NDArray[np.float32] = sd.max(axis=0) if regions else sd[values.index(0)]
        return background

    def of_the_label(found: NDArray[np.float32], label: NDArray[Any]) -> NDArray[np.float32]:
        sd = of_no_label(found, label).copy()
        for value, one in zip(values, found[outputs : 2 * outputs], strict=True):
            np.copyto(sd, one, where=label == value)
        return sd

    return {
        "entropy": lambda found, _: found[2 * outputs],
        "mutual_information": lambda found, _: found[2 * outputs + 1],
        "sd": of_the_label,
        REMOVED: of_no_label,
    }
