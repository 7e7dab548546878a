"""The volume that tiles are cut from, and what lies around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seg3d.volume import Border, Shape, mirrored


@dataclass(frozen=True, eq=False)
class Source:
    """An image inside a larger array that is never made: what is cut from beyond the image is filled in.

    Attributes:
        image: ``(channel, x, y, z)`` of any type.
        outside: Value of each channel beyond the image, for the border ``"constant"``.
        border: ``"constant"``, or ``"mirror"``: the image mirrored at its faces.
        size: Voxels of the larger array.
        first: Where the image begins in it.
        device: Where tiles are put.
        mirror: Axes along which the larger array is reversed.
    """

    image: torch.Tensor
    outside: Sequence[float]
    border: Border
    size: Shape
    first: Shape
    device: torch.device
    mirror: tuple[int, ...] = ()

    def cut(self, start: Sequence[int], stop: Sequence[int]) -> torch.Tensor:
        """A tile ``(1, channel, x, y, z)``, float32, of the larger array; it may reach beyond that, too."""
        ranges = []
        for axis, (a, b) in enumerate(zip(start, stop, strict=True)):
            low, high = (self.size[axis] - b, self.size[axis] - a) if axis in self.mirror else (a, b)
            ranges.append((low - self.first[axis], high - self.first[axis]))
        tile = self._cut(ranges).unsqueeze(0)
        return tile.flip([axis + 2 for axis in self.mirror]) if self.mirror else tile

    def _cut(self, ranges: Sequence[tuple[int, int]]) -> torch.Tensor:
        shape = self.image.shape[1:]
        inner = [(max(a, 0), min(b, n)) for (a, b), n in zip(ranges, shape, strict=True)]
        if inner == list(ranges):
            return self._moved(self.image[(slice(None), *(slice(a, b) for a, b in inner))])
        if self.border == "mirror":
            found = self.image
            for axis, ((a, b), n) in enumerate(zip(ranges, shape, strict=True), start=1):
                found = found.index_select(axis, torch.from_numpy(mirrored(a, b, n)).to(found.device))
            return self._moved(found)
        filled = torch.tensor(self.outside, dtype=torch.float32, device=self.device).reshape(-1, 1, 1, 1)
        tile = filled.expand(-1, *(b - a for a, b in ranges)).clone(memory_format=torch.contiguous_format)
        if all(b > a for a, b in inner):
            place = tuple(slice(p - a, q - a) for (a, _), (p, q) in zip(ranges, inner, strict=True))
            part = self._moved(self.image[(slice(None), *(slice(p, q) for p, q in inner))])
            tile[(slice(None), *place)] = part
        return tile

    def _moved(self, part: torch.Tensor) -> torch.Tensor:
        return part.to(self.device, non_blocking=True).float()
