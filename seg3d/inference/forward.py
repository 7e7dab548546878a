"""A network applied to tiles, in the leanest way that it allows.

Tiles lie with their slab axis first: the axis along which answers are handed on. For a network of volumes that is x,
for one of slices it is the axis that the slices lie across.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from seg3d.inference.lean import LeanUNet, lean
from seg3d.inference.reach import stages_of
from seg3d.inference.streaming import stream
from seg3d.models.planar import Planar

# planes of the input from ``start`` to ``stop`` along the slab axis: (1, channel, planes, y, z)
Read = Callable[[int, int], torch.Tensor]
_REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Forward:
    """Logits of tiles with the slab axis first.

    Args:
        network: Takes ``(batch, channel, x, y, z)``.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        neighbours: Slices on each side of a slice that a network of slices is given with it.
        as_it_is: Call the network itself; else, where it tells its stages, an equal one with fewer operations, which
            is that of evaluation mode.
    """

    def __init__(
        self, network: nn.Module, precision: str = "fp32", neighbours: int = 0, *, as_it_is: bool = False
    ) -> None:
        self.planar = isinstance(network, Planar)
        self.axis = network.axis if isinstance(network, Planar) else 0
        self.lean = None if as_it_is else _lean(network)
        self._network = network
        self._precision = precision
        self._neighbours = neighbours

    def without_values(self) -> Forward:
        """The same for tensors on torch's ``meta`` device, in float32; a lean network's steps ask for no values."""
        found = copy.copy(self)
        found._precision = "fp32"
        if self.lean is None:
            found._network = copy.deepcopy(self._network).to("meta")
        return found

    def tile(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, output, x, y, z)`` of whole tiles ``(batch, channel, x, y, z)``."""
        if not self.planar:
            return self._volumes(batch)
        return self._slices(batch).unsqueeze(2)

    def parts(self, read: Read, total: int, chunk: int) -> Iterator[torch.Tensor]:
        """Logits ``(1, output, planes, y, z)`` of one tile in parts along the slab axis, in their order.

        Args:
            read: Gives planes of the tile.
            total: Planes of the tile.
            chunk: Planes to be read at a time.
        """
        if self.planar:
            yield from self._slice_parts(read, total, chunk)
        elif self.lean is not None:
            planes = (read(a, min(a + chunk, total)) for a in range(0, total, chunk))
            parts = stream(self.lean, planes, total, chunk)
            while (part := self._next(parts)) is not None:
                yield part
        else:
            yield self._volumes(read(0, total))

    def _next(self, parts: Iterator[torch.Tensor]) -> torch.Tensor | None:
        """The next part; nobody's code but the network's runs under autocast."""
        with self._autocast(next(self._network.parameters()).device):
            part = next(parts, None)
        return None if part is None else part.float()

    def _slice_parts(self, read: Read, total: int, chunk: int) -> Iterator[torch.Tensor]:
        slices = 1 + 2 * self._neighbours
        for start in range(0, total - slices + 1, chunk):
            stop = min(start + chunk, total - slices + 1)
            stack = read(start, stop + slices - 1)[0].unfold(1, slices, 1)  # (channel, slice, y, z, neighbour)
            yield self._slices(stack.permute(1, 0, 4, 2, 3)).movedim(0, 1).unsqueeze(0)

    def _slices(self, stack: torch.Tensor) -> torch.Tensor:
        """Logits ``(slice, output, y, z)`` of slices with their neighbours ``(slice, channel, neighbour, y, z)``."""
        if self.lean is not None:
            return self._whole(stack.flatten(1, 2))
        with self._autocast(stack.device):
            logits: torch.Tensor = self._network(stack.movedim(2, self.axis + 2))
        return logits.squeeze(self.axis + 2).float()

    def _volumes(self, batch: torch.Tensor) -> torch.Tensor:
        if self.lean is not None:
            return self._whole(batch)
        with self._autocast(batch.device):
            logits: torch.Tensor = self._network(batch)
        return logits.float()

    def _whole(self, batch: torch.Tensor) -> torch.Tensor:
        # on a processor tiles take the same time one by one, and hold less; slices are too small for that
        pieces = batch.split(1) if batch.device.type != "cuda" and not self.planar else [batch]
        found = [self._piece(piece) for piece in pieces]
        return torch.cat(found) if len(found) > 1 else found[0]

    def _piece(self, batch: torch.Tensor) -> torch.Tensor:
        assert self.lean is not None
        total = batch.shape[2]
        with self._autocast(batch.device):
            (logits,) = stream(self.lean, iter([batch]), total, total)
        return logits.float()

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        reduced = _REDUCED.get(self._precision)
        return nullcontext() if reduced is None else torch.autocast(device.type, dtype=reduced)


def _lean(network: nn.Module) -> LeanUNet | None:
    stages = stages_of(network)
    if stages is None:
        return None
    try:
        return lean(stages)
    except TypeError:  # a module of a user's own
        return None
