"""Where tiles lie and how they are weighted when they overlap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from seg3d.volume import Shape


def tile_starts(size: int, tile: int, step: float) -> list[int]:
    """First voxels of the tiles along one axis: evenly spread, the first at 0, the last flush with the end.

    Args:
        size: Voxels of the axis; at least ``tile``.
        tile: Voxels of a tile.
        step: Largest distance between neighbouring tiles, as a share of the tile.

    Source: Isensee et al., nnU-Net (Nature Methods 2021), sliding window with evenly adjusted steps.
    """
    if not 0 < step <= 1:
        raise ValueError(f"step is in (0, 1], got {step}")
    if size < tile:
        raise ValueError(f"the axis has at least the tile's {tile} voxels, got {size}")
    count = math.ceil((size - tile) / max(1, math.floor(tile * step))) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)] if count > 1 else [0]


def tile_grid(shape: Shape, tile: Shape, step: float) -> list[Shape]:
    """First voxels (x, y, z) of all tiles of a volume, in a fixed order."""
    axes = [tile_starts(n, t, step) for n, t in zip(shape, tile, strict=True)]
    return [(x, y, z) for x, y, z in itertools.product(*axes)]


def gaussian_weights(tile: Shape, sigma_share: float = 1 / 8) -> torch.Tensor:
    """Weights ``(x, y, z)`` of a tile's voxels, 1 at its centre and positive everywhere, float32.

    The smallest weight is kept at 1e-3 of the largest, so that a voxel seen only by a tile's corner is not divided
    by next to nothing.

    Args:
        tile: Voxels of the tile.
        sigma_share: Standard deviation as a share of the tile's edge.

    Source: Isensee et al., nnU-Net (2021), importance weighting with sigma 1/8 of the patch.
    """
    axes = []
    for n in tile:
        distance = (np.arange(n) - (n - 1) / 2) / (n * sigma_share)
        axes.append(np.exp(-0.5 * distance**2))
    weights = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return torch.from_numpy(np.maximum(weights / weights.max(), 1e-3).astype(np.float32))
