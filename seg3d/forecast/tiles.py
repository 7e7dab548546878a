"""What predicting a case costs: a volume of a few tiles is measured, the work of a case is counted in its voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from seg3d.forecast.usage import Seconds, peak_bytes, timed
from seg3d.inference.budget import available_bytes
from seg3d.inference.sliding import SlidingWindow, slab_axis
from seg3d.inference.tiling import tile_grid
from seg3d.volume import Shape

_TILES = 2  # along each axis, at most, of the volume that is measured


@dataclass(frozen=True)
class TileCost:
    """What a network takes to predict.

    Attributes:
        seconds: A voxel of work, mirrored views included.
        rest_bytes: Resident memory of the process before the network was made.
        peak_bytes: Its peak while the volume was predicted.
        shape: Voxels of that volume.
        exact: Whether a case is computed in one pass, each voxel once, or in tiles that overlap.
        axis: The axis along which an exact pass goes plane by plane.
        most_bytes: What tiles may take at most.
        outputs: Outputs of the network.
    """

    seconds: Seconds
    rest_bytes: int
    peak_bytes: int
    shape: Shape
    exact: bool
    axis: int
    most_bytes: int
    outputs: int


def measure_tile(
    window: SlidingWindow, network: nn.Module, typical: Shape, channels: int, outputs: int, rest_bytes: int
) -> TileCost:
    """A volume of the typical size, but of no more than a few tiles, the second time that it is predicted.

    Args:
        window: How volumes are tiled.
        network: Gives logits.
        typical: Voxels of a typical prepared case.
        channels: Channels of an image.
        outputs: Outputs of the network.
        rest_bytes: Resident memory of the process before the network was made.
    """
    tile = window.tile_size or window.patch_size
    x, y, z = (min(n, _TILES * t) for n, t in zip(typical, tile, strict=True))
    device = next(network.parameters()).device
    image = torch.zeros((channels, x, y, z), dtype=torch.float16, device=device)
    exact = window.choose(network).tiling == "exact"

    def predict() -> None:
        window.probabilities(network, image, [0.0] * channels)
        if device.type == "cuda":
            torch.cuda.synchronize()

    predict()
    seconds = timed(predict) * (1 / work_voxels(window, (x, y, z), exact=exact))
    most = available_bytes(device, window.memory_bytes)
    return TileCost(seconds, rest_bytes, peak_bytes(), (x, y, z), exact, slab_axis(network), most, outputs)


def work_voxels(window: SlidingWindow, shape: Shape, *, exact: bool) -> int:
    """Voxels that the network answers for in a prepared case: those of its tiles, which overlap unless exact."""
    tile = window.patch_size if exact else window.tile_size or window.patch_size
    x, y, z = (max(n, t) for n, t in zip(shape, tile, strict=True))
    return x * y * z if exact else len(tile_grid((x, y, z), tile, window.step)) * math.prod(tile)


def case_seconds(cost: TileCost, window: SlidingWindow, shape: Shape) -> Seconds:
    """What the network takes for a prepared case."""
    return cost.seconds * work_voxels(window, shape, exact=cost.exact)


def case_bytes(cost: TileCost, shape: Shape, channels: int) -> int:
    """Peak memory of predicting a prepared case.

    What the network takes is that of the volume measured, of an exact pass larger as its planes are, but no more than
    tiles may take; on top come the image and the probabilities of the whole case.
    """
    network = float(cost.peak_bytes - cost.rest_bytes)
    if cost.exact:
        ratio = math.prod(shape) / shape[cost.axis] / (math.prod(cost.shape) / cost.shape[cost.axis])
        network = min(network * ratio, max(network, cost.most_bytes))
    return cost.rest_bytes + round(network) + math.prod(shape) * (2 * channels + 4 * cost.outputs)
