"""Exact tiling: tiles whose answers together are those of one pass over the whole volume.

A network whose norm does not look at the tile gives a voxel an answer that depends on nothing but what its receptive
field covers, and on where it lies relative to multiples of the stride. So a tile is given its surroundings as far as
the network looks, begins at a multiple of the stride, and only its middle is kept. At the faces of the volume it ends
where the volume ends, so that the network's padding comes where it would come in one pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from seg3d.inference.forward import Forward
from seg3d.inference.reach import Geometry
from seg3d.inference.source import Source
from seg3d.models import fitting_size
from seg3d.volume import Shape

Range = tuple[int, int]
Activate = Callable[[torch.Tensor], torch.Tensor]
# parts of the answer along the slab axis: the first plane and ``(output, planes, y, z)``
Slabs = Iterator[tuple[int, torch.Tensor]]


@dataclass(frozen=True)
class ExactTiles:
    """How a volume is cut up.

    Attributes:
        ranges: First voxel and the one behind the last of the parts of each axis, the slab axis first; they cover it
            and begin at multiples of the stride.
        chunk: Planes that the network takes at a time.
        pass_bytes: What a pass is expected to hold at once.
    """

    ranges: tuple[tuple[Range, ...], tuple[Range, ...], tuple[Range, ...]]
    chunk: int
    pass_bytes: int

    def after(self, done: int, stride: int) -> ExactTiles:
        """What is left to do once all planes before ``done`` are there."""
        slabs = [(max(a, done // stride * stride), b) for a, b in self.ranges[0] if b > done]
        return replace(self, ranges=(tuple(slabs), *self.ranges[1:]))

    @property
    def whole_planes(self) -> bool:
        """Whether planes are in one piece, so that they can be handed on as they are made."""
        return len(self.ranges[1]) == len(self.ranges[2]) == 1


def aligned_ranges(size: int, tile: int, stride: int) -> tuple[Range, ...]:
    """Parts of an axis that begin at multiples of ``stride`` and have at most ``tile`` voxels.

    Raises:
        ValueError: A tile is smaller than the stride.
    """
    if tile < stride:
        raise ValueError(f"a tile is at least as large as the stride {stride}, got {tile}")
    hop = tile // stride * stride
    return tuple((start, min(start + hop, size)) for start in range(0, size, hop))


def exact_slabs(
    forward: Forward,
    sources: Sequence[Source],
    geometry: Geometry,
    margin: Shape,
    tiles: ExactTiles,
    activate: Activate,
) -> Slabs:
    """Mean probabilities over the views of a volume, slab by slab.

    Args:
        forward: The network.
        sources: The views: the volume itself, perhaps mirrored.
        geometry: How far the network looks.
        margin: Voxels by which the network's input is larger than its answer, on each side.
        tiles: How the volume is cut up.
        activate: Makes probabilities of logits ``(batch, output, planes, y, z)``.
    """
    columns = list(itertools.product(*tiles.ranges[1:]))
    for slab in tiles.ranges[0]:
        if len(sources) == 1 and tiles.whole_planes:
            for start, part in _tile(forward, sources[0], geometry, margin, (slab, *columns[0]), tiles.chunk):
                yield start, activate(part)[0]
            continue
        found: torch.Tensor | None = None
        for source, column in itertools.product(sources, columns):
            for start, part in _tile(forward, source, geometry, margin, _seen_in(source, (slab, *column)), tiles.chunk):
                values, place = _placed(source, start, activate(part)[0], slab, column)
                if found is None:
                    shape = [slab[1] - slab[0], *(ranges[-1][1] for ranges in tiles.ranges[1:])]
                    found = torch.zeros((len(values), *shape), device=values.device)
                found[(slice(None), *place)] += values
        assert found is not None
        yield slab[0], found.div_(len(sources)) if len(sources) > 1 else found


def input_range(axis: int, part: Range, size: int, geometry: Geometry, margin: Shape) -> Range:
    """What a part of an axis needs of the input, in voxels of the volume; beyond it the border begins."""
    start, stop = part
    stride, halo, lost = geometry.stride[axis], geometry.halo[axis], margin[axis]
    if not geometry.padded and geometry.reach[axis]:  # valid convolutions take some sizes only
        begin = start // stride * stride  # in a mirrored view a part may begin anywhere
        return begin - lost, begin - lost + fitting_size(stop - begin + 2 * lost, stride, lost)
    return max(0, start - halo) - lost, min(size, stop + halo) + lost


def _tile(
    forward: Forward, source: Source, geometry: Geometry, margin: Shape, box: Sequence[Range], chunk: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Logits ``(1, output, planes, y, z)`` of a box in parts, each with its first plane in the volume."""
    size = source.size
    taken = [input_range(axis, part, size[axis], geometry, margin) for axis, part in enumerate(box)]
    (first, last), (y0, y1), (z0, z1) = taken

    def read(start: int, stop: int) -> torch.Tensor:
        return source.cut((first + start, y0, z0), (first + stop, y1, z1))

    # where the answer begins in the volume, and what of it is kept
    begins = [a + lost for (a, _), lost in zip(taken, margin, strict=True)]
    y, z = (slice(a - b, c - b) for (a, c), b in zip(box[1:], begins[1:], strict=True))
    at = begins[0]
    for part in forward.parts(read, last - first, chunk):
        here, at = at, at + part.shape[2]
        low, high = max(here, box[0][0]), min(at, box[0][1])
        if low < high:
            yield low, part[:, :, low - here : high - here, y, z]


def _seen_in(source: Source, box: Sequence[Range]) -> tuple[Range, Range, Range]:
    """Where a box of the volume lies in a view of it."""
    x, y, z = (
        (source.size[axis] - b, source.size[axis] - a) if axis in source.mirror else (a, b)
        for axis, (a, b) in enumerate(box)
    )
    return x, y, z


def _placed(
    source: Source, start: int, values: torch.Tensor, slab: Range, column: tuple[Range, Range]
) -> tuple[torch.Tensor, tuple[slice, slice, slice]]:
    """A part of a view's answer turned back to the volume, and its place in the slab."""
    planes = values.shape[1]
    begin = source.size[0] - start - planes if 0 in source.mirror else start
    back = values.flip([axis + 1 for axis in source.mirror]) if source.mirror else values
    x = slice(begin - slab[0], begin - slab[0] + planes)
    return back, (x, slice(*column[0]), slice(*column[1]))
