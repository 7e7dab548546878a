"""Whole-volume prediction by a sliding window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from seg3d.inference.tiling import gaussian_weights, tile_grid
from seg3d.volume import Shape

Mode = Callable[[nn.Module], AbstractContextManager[None]]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network is in evaluation mode inside the block; after it every module is in its own mode again."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class SlidingWindow:
    """How a volume is cut into tiles and put together again.

    Attributes:
        tile_size: Voxels along x, y, z; divisible by the network's stride.
        step: Largest distance between tiles as a share of the tile.
        batch_size: Tiles in one forward pass.
        mirror: Axes (0, 1, 2) along which the input is also mirrored; every combination is averaged.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``; sums are float32 in any case.
    """

    tile_size: Shape
    step: float = 0.5
    batch_size: int = 2
    mirror: tuple[int, ...] = ()
    precision: str = "fp32"

    def probabilities(
        self, network: nn.Module, image: torch.Tensor, outside: Sequence[float], *, mode: Mode = evaluating
    ) -> torch.Tensor:
        """Class probabilities ``(class, x, y, z)``, float32 on the image's device.

        Softmax is applied here, once, to the logits of each tile; overlapping tiles are averaged with Gaussian weights.

        Args:
            network: Gives logits; it is left in the mode it was in.
            image: ``(channel, x, y, z)``.
            outside: Value of each channel beyond the volume, where it is smaller than a tile.
            mode: Puts the network into the mode that it is used in, for the time of the call: evaluation mode.
        """
        padded, inside = _pad(image, self.tile_size, outside)
        shape = (padded.shape[1], padded.shape[2], padded.shape[3])
        tiles = tile_grid(shape, self.tile_size, self.step)
        weights = gaussian_weights(self.tile_size).to(image.device)
        total: torch.Tensor | None = None
        norm = torch.zeros(shape, device=image.device)
        with mode(network), torch.inference_mode():
            for starts, found in self._tiles(network, padded, tiles):
                if total is None:
                    total = torch.zeros((found.shape[1], *shape), device=image.device)
                for start, tile in zip(starts, found, strict=True):
                    box = tuple(slice(a, a + n) for a, n in zip(start, self.tile_size, strict=True))
                    total[(slice(None), *box)] += tile * weights
                    norm[box] += weights
            assert total is not None
            total /= norm
        return total[(slice(None), *inside)]

    def _tiles(
        self, network: nn.Module, image: torch.Tensor, tiles: list[Shape]
    ) -> Iterator[tuple[list[Shape], torch.Tensor]]:
        for first in range(0, len(tiles), self.batch_size):
            starts = tiles[first : first + self.batch_size]
            batch = torch.stack([_cut(image, start, self.tile_size) for start in starts])
            yield starts, self._mirrored(network, batch)

    def _mirrored(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Mean probabilities ``(tile, class, x, y, z)`` over the mirrored views."""
        views = [c for n in range(len(self.mirror) + 1) for c in itertools.combinations(self.mirror, n)]
        total: torch.Tensor | None = None
        for view in views:
            axes = tuple(axis + 2 for axis in view)
            found = torch.softmax(self._logits(network, batch.flip(axes)), dim=1).flip(axes)
            total = found if total is None else total.add_(found)
        assert total is not None
        return total.div_(len(views)) if len(views) > 1 else total

    def _logits(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        reduced = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.autocast(batch.device.type, dtype=reduced or torch.bfloat16, enabled=reduced is not None):
            logits: torch.Tensor = network(batch)
        return logits.float()


def _cut(image: torch.Tensor, start: Shape, size: Shape) -> torch.Tensor:
    x, y, z = start
    return image[:, x : x + size[0], y : y + size[1], z : z + size[2]].float()


def _pad(image: torch.Tensor, tile: Shape, outside: Sequence[float]) -> tuple[torch.Tensor, tuple[slice, slice, slice]]:
    """The image centred in an array at least as large as a tile, and where it lies in it."""
    shape = image.shape[1:]
    larger = [max(n, t) for n, t in zip(shape, tile, strict=True)]
    first = [(m - n) // 2 for m, n in zip(larger, shape, strict=True)]
    x, y, z = (slice(a, a + n) for a, n in zip(first, shape, strict=True))
    if larger == list(shape):
        return image, (x, y, z)
    padded = torch.empty((image.shape[0], *larger), dtype=image.dtype, device=image.device)
    padded[:] = torch.tensor(outside, dtype=image.dtype, device=image.device).reshape(-1, 1, 1, 1)
    padded[:, x, y, z] = image
    return padded, (x, y, z)
