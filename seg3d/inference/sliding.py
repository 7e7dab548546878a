"""Whole-volume prediction by a sliding window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from seg3d.inference.tiling import aligned_grid, gaussian_weights, tile_grid
from seg3d.volume import Border, Shape, mirrored

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
        tile_size: Voxels along x, y, z that a tile answers for.
        step: Largest distance between tiles as a share of the tile; without effect when ``aligned``.
        batch_size: Tiles in one forward pass.
        mirror: Axes (0, 1, 2) along which the input is also mirrored; every combination is averaged.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``; sums are float32 in any case.
        activation: What makes probabilities of logits: ``"softmax"`` over the classes, ``"sigmoid"`` for regions,
            ``"none"`` for a network whose answer is averaged as it is.
        margin: Voxels along x, y, z by which the network's input is larger than its answer, on each side.
        border: What lies beyond the volume: ``"constant"``, each channel's ``outside``, or ``"mirror"``, the volume
            mirrored at its faces.
        aligned: The network's stride along each axis, where its answer depends on nothing but a voxel's surroundings:
            tiles then lie at multiples of it and are not blended. ``None``: tiles overlap and are blended.
    """

    tile_size: Shape
    step: float = 0.5
    batch_size: int = 2
    mirror: tuple[int, ...] = ()
    precision: str = "fp32"
    activation: str = "softmax"
    margin: Shape = (0, 0, 0)
    border: Border = "constant"
    aligned: Shape | None = None

    def probabilities(
        self, network: nn.Module, image: torch.Tensor, outside: Sequence[float], *, mode: Mode = evaluating
    ) -> torch.Tensor:
        """Probabilities ``(output, x, y, z)``, float32 on the image's device.

        Softmax or sigmoid is applied here, once, to the logits of each tile; overlapping tiles are averaged with
        Gaussian weights.

        Args:
            network: Gives logits; it is left in the mode it was in.
            image: ``(channel, x, y, z)``.
            outside: Value of each channel beyond the volume, for the border ``"constant"``.
            mode: Puts the network into the mode that it is used in, for the time of the call: evaluation mode.
        """
        shape = (image.shape[1], image.shape[2], image.shape[3])
        first, larger, tiles = self._plan(shape)
        reach = [m - f - n + k for m, f, n, k in zip(larger, first, shape, self.margin, strict=True)]
        before = [f + k for f, k in zip(first, self.margin, strict=True)]
        padded = surround(image, before, reach, outside, self.border)
        weights = self._weights().to(image.device)
        total: torch.Tensor | None = None
        norm = torch.zeros(larger, device=image.device)
        with mode(network), torch.inference_mode():
            for starts, found in self._tiles(network, padded, tiles):
                if total is None:
                    total = torch.zeros((found.shape[1], *larger), device=image.device)
                for start, tile in zip(starts, found, strict=True):
                    box = tuple(slice(a, a + n) for a, n in zip(start, self.tile_size, strict=True))
                    total[(slice(None), *box)] += tile * weights
                    norm[box] += weights
            assert total is not None
            total /= norm
        inside = tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))
        return total[(slice(None), *inside)]

    def _plan(self, shape: Shape) -> tuple[list[int], list[int], list[Shape]]:
        """Where the volume begins in the array that is tiled, the size of that array, and its tiles."""
        if self.aligned is not None:
            tiles = aligned_grid(shape, self.tile_size, self.aligned)
            return [0, 0, 0], [a + n for a, n in zip(tiles[-1], self.tile_size, strict=True)], tiles
        larger = [max(n, t) for n, t in zip(shape, self.tile_size, strict=True)]
        first = [(m - n) // 2 for m, n in zip(larger, shape, strict=True)]
        return first, larger, tile_grid((larger[0], larger[1], larger[2]), self.tile_size, self.step)

    def _weights(self) -> torch.Tensor:
        return gaussian_weights(self.tile_size) if self.aligned is None else torch.ones(self.tile_size)

    def _tiles(
        self, network: nn.Module, image: torch.Tensor, tiles: list[Shape]
    ) -> Iterator[tuple[list[Shape], torch.Tensor]]:
        x, y, z = (n + 2 * k for n, k in zip(self.tile_size, self.margin, strict=True))
        for first in range(0, len(tiles), self.batch_size):
            starts = tiles[first : first + self.batch_size]
            batch = torch.stack([_cut(image, start, (x, y, z)) for start in starts])
            yield starts, self._mirrored(network, batch)

    def _mirrored(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Mean probabilities ``(tile, output, x, y, z)`` over the mirrored views."""
        views = [c for n in range(len(self.mirror) + 1) for c in itertools.combinations(self.mirror, n)]
        total: torch.Tensor | None = None
        for view in views:
            axes = tuple(axis + 2 for axis in view)
            found = self._activate(self._logits(network, batch.flip(axes))).flip(axes)
            total = found if total is None else total.add_(found)
        assert total is not None
        return total.div_(len(views)) if len(views) > 1 else total

    def _activate(self, logits: torch.Tensor) -> torch.Tensor:
        if self.activation == "none":
            return logits
        return torch.sigmoid(logits) if self.activation == "sigmoid" else torch.softmax(logits, dim=1)

    def _logits(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        reduced = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.autocast(batch.device.type, dtype=reduced or torch.bfloat16, enabled=reduced is not None):
            logits: torch.Tensor = network(batch)
        return logits.float()


def _cut(image: torch.Tensor, start: Shape, size: Shape) -> torch.Tensor:
    x, y, z = start
    return image[:, x : x + size[0], y : y + size[1], z : z + size[2]].float()


def surround(
    image: torch.Tensor, before: Sequence[int], after: Sequence[int], outside: Sequence[float], border: Border
) -> torch.Tensor:
    """An image ``(channel, x, y, z)`` with ``before`` and ``after`` voxels more along each axis.

    Args:
        image: The image; it is given back as it is where nothing is added.
        before: Voxels added in front along x, y, z.
        after: Voxels added behind.
        outside: Value of each channel there, for the border ``"constant"``.
        border: ``"constant"`` or ``"mirror"``.
    """
    if not any(before) and not any(after):
        return image
    shape = image.shape[1:]
    if border == "mirror":
        for axis, (a, n, b) in enumerate(zip(before, shape, after, strict=True), start=1):
            image = image.index_select(axis, torch.from_numpy(mirrored(-a, n + b, n)).to(image.device))
        return image
    larger = [a + n + b for a, n, b in zip(before, shape, after, strict=True)]
    padded = torch.empty((image.shape[0], *larger), dtype=image.dtype, device=image.device)
    padded[:] = torch.tensor(outside, dtype=image.dtype, device=image.device).reshape(-1, 1, 1, 1)
    x, y, z = (slice(a, a + n) for a, n in zip(before, shape, strict=True))
    padded[:, x, y, z] = image
    return padded
