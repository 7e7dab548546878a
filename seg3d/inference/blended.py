"""Blended tiling: overlapping tiles averaged with Gaussian weights, for networks whose norm looks at the tile.

Only the planes that a tile may still change are held: what lies before the next tile is handed on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

from seg3d.inference.forward import Forward
from seg3d.inference.source import Source
from seg3d.inference.tiling import gaussian_weights, tile_grid
from seg3d.volume import Shape


def blended_slabs(
    forward: Forward,
    sources: Sequence[Source],
    tile: Shape,
    step: float,
    batch_size: int,
    margin: Shape,
    activate: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[tuple[int, torch.Tensor]]:
    """Probabilities slab by slab: the first plane and ``(output, planes, y, z)`` along the slab axis.

    Args:
        forward: The network.
        sources: The views of the volume: itself, perhaps mirrored; each tile is the mean over them.
        tile: Voxels that a tile answers for, the slab axis first.
        step: Largest distance between tiles as a share of the tile.
        batch_size: Tiles in one forward pass.
        margin: Voxels by which the network's input is larger than its answer, on each side.
        activate: Makes probabilities of logits ``(batch, output, x, y, z)``.

    Source: Isensee et al., nnU-Net (Nature Methods 2021), Gaussian importance weighting of overlapping tiles.
    """
    size = sources[0].size
    weights = gaussian_weights(tile).to(sources[0].device)
    starts = tile_grid(size, tile, step)
    begin = 0  # first plane that is held
    held: torch.Tensor | None = None
    for number in range(0, len(starts), batch_size):
        batch = starts[number : number + batch_size]
        found = _mean_over_views(forward, sources, batch, tile, margin, activate)
        if held is None:
            held = weights.new_zeros((found.shape[1] + 1, 0, *size[1:]))  # the last one: sums of weights
        if batch[0][0] > begin:
            yield begin, _averaged(held[:, : batch[0][0] - begin])
            held, begin = held[:, batch[0][0] - begin :], batch[0][0]
        missing = batch[-1][0] + tile[0] - begin - held.shape[1]
        if missing > 0:
            held = torch.cat([held, held.new_zeros((len(held), missing, *size[1:]))], dim=1)
        for (x, y, z), values in zip(batch, found, strict=True):
            box = (slice(x - begin, x - begin + tile[0]), slice(y, y + tile[1]), slice(z, z + tile[2]))
            held[(slice(None, -1), *box)].addcmul_(values, weights)
            held[(-1, *box)] += weights
    assert held is not None
    yield begin, _averaged(held)


def _averaged(sums: torch.Tensor) -> torch.Tensor:
    return sums[:-1] / sums[-1]


def _mean_over_views(
    forward: Forward,
    sources: Sequence[Source],
    starts: Sequence[Shape],
    tile: Shape,
    margin: Shape,
    activate: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Mean probabilities ``(tile, output, x, y, z)``; a mirrored tile is the tile of the plain view, flipped."""
    boxes = [
        (
            [a - m for a, m in zip(start, margin, strict=True)],
            [a + n + m for a, n, m in zip(start, tile, margin, strict=True)],
        )
        for start in starts
    ]
    batch = torch.cat([sources[0].cut(*box) for box in boxes])
    total: torch.Tensor | None = None
    for source in sources:
        axes = [axis + 2 for axis in source.mirror]
        found = activate(forward.tile(batch.flip(axes) if axes else batch))
        found = found.flip(axes) if axes else found
        total = found if total is None else total.add_(found)
    assert total is not None
    return total.div_(len(sources)) if len(sources) > 1 else total


def views(mirror: Sequence[int]) -> list[tuple[int, ...]]:
    """All combinations of mirrored axes, the plain view first."""
    return [chosen for n in range(len(mirror) + 1) for chosen in itertools.combinations(mirror, n)]
