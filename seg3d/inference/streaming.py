"""A U-Net computed plane by plane: the whole volume in one pass, with memory for a few planes of it.

A convolution needs no more of its input than the planes under its kernel. So planes run through the network in chunks;
each step keeps the last planes of what it has seen until the next chunk comes, and a skip connection keeps those that
the coarser levels have not caught up with. No plane is computed twice, and the answer is that of one pass over the
whole volume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from seg3d.inference.lean import Join, LeanUNet, Window

Planes = Iterator[torch.Tensor]
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def stream(network: LeanUNet, planes: Planes, total: int, chunk: int) -> Planes:
    """Logits of an image in parts along its first axis of space, in their order.

    Args:
        network: Its norm must not look at a tile as a whole, unless the image comes in one part.
        planes: The image, ``(batch, channel, *size)``, in parts along its first axis of space; of a size that the
            network takes.
        total: Planes of the image.
        chunk: Planes of a part.
    """
    size = total
    planes = _laid(planes)
    skips: list[tuple[_Fork, int]] = []
    for number, level in enumerate(network.down):
        for step in level:
            planes, total = _through(step, planes, total), _after(step, total)
        if number < len(network.joins):
            skips.append((_Fork(planes), total))
            planes = iter(skips[-1][0])
    for join, level in zip(network.joins, network.up, strict=True):
        fork, kept = skips.pop()
        # the last part brings all that was held back, and would be the largest
        planes = _portions(planes, max(1, chunk * total // size))
        planes, total = _joined(join, planes, total, fork, kept), _after(join.skip, 2 * total)
        for step in level:
            planes, total = _through(step, planes, total), _after(step, total)
    for step in network.head:
        planes = _through(step, planes, total)
    return planes


def _after(step: Window, total: int) -> int:
    """Planes that come out of a step."""
    return (total + 2 * step.padding - step.kernel) // step.stride + 1


def _laid(planes: Planes) -> Planes:
    """The channels of a voxel next to each other; one channel, too, is marked so, which decides what steps make."""
    for part in planes:
        kind = _LAST[part.ndim]
        found = [torch.empty(part.shape, dtype=part.dtype, device=part.device, memory_format=kind).copy_(part)]
        del part
        yield found.pop()


def _portions(planes: Planes, most: int) -> Planes:
    """The same planes in parts that are not too large."""
    for part in planes:
        pieces = deque(part.split(most, dim=2))
        del part
        while pieces:
            yield pieces.popleft()


class _Fork:
    """Planes for the coarser level, kept for the way up until they are taken."""

    def __init__(self, planes: Planes) -> None:
        self._planes = planes
        self._kept: deque[torch.Tensor] = deque()

    def __iter__(self) -> Planes:
        for part in self._planes:
            self._kept.append(part)
            del part
            yield self._kept[-1]

    def take(self, count: int) -> torch.Tensor:
        """The next ``count`` planes.

        Raises:
            ValueError: The image is of a size that the network does not take.
        """
        if count < 0:
            raise ValueError(f"the coarser level has {-count} planes more than the finer one")
        parts: list[torch.Tensor] = []
        while count:
            part = self._kept.popleft()  # the coarser levels look further, so they have asked for it before
            if part.shape[2] > count:
                self._kept.appendleft(part[:, :, count:])
                part = part[:, :, :count]
            parts.append(part)
            count -= part.shape[2]
        return _together(parts)


def _together(parts: Sequence[torch.Tensor], before: int = 0, after: int = 0) -> torch.Tensor:
    """Planes one after the other, with planes of zeros before and after them, the channels last in memory.

    ``torch.cat`` would choose another order in memory where the parts are slices, and the next step copy it all.
    """
    if len(parts) == 1 and not before and not after:
        return parts[0]
    first = parts[0]
    planes = before + sum(part.shape[2] for part in parts) + after
    shape = (*first.shape[:2], planes, *first.shape[3:])
    found = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=_LAST[first.ndim])
    found[:, :, :before] = 0
    found[:, :, planes - after :] = 0
    at = before
    for part in parts:
        found[:, :, at : at + part.shape[2]] = part
        at += part.shape[2]
    return found


class _Fed:
    """A step that is given its input in parts along the first axis."""

    def __init__(self, step: Window, total: int) -> None:
        self._step = step
        self._left = total
        self._held: torch.Tensor | None = None
        self._waiting = step.padding  # planes that the next ones are joined to: zeros at first

    def wanted(self, outputs: int) -> int:
        """Planes to be given so that ``outputs`` come out."""
        return min(self._left, (outputs - 1) * self._step.stride + self._step.kernel - self._waiting)

    def feed(self, part: torch.Tensor) -> list[torch.Tensor]:
        """What comes out, before what follows the step; nothing while there is too little under the kernel."""
        step = self._step
        whole = self._held is None and self._waiting == step.padding and part.shape[2] == self._left
        self._left -= part.shape[2]
        if whole or step.kernel == step.stride == 1:
            return [step.apply(part, step.padding)]
        given = self._with_neighbours(part)
        if given.shape[2] < step.kernel:
            self._hold(given, 0)
            return []
        found = step.apply(given, 0)
        self._hold(given, found.shape[2] * step.stride)
        return [found]

    def _with_neighbours(self, part: torch.Tensor) -> torch.Tensor:
        """The part after the planes that were held, and between the zeros of the padding at the ends."""
        before = self._waiting if self._held is None else 0
        parts = [part] if self._held is None else [self._held, part]
        return _together(parts, before, 0 if self._left else self._step.padding)

    def _hold(self, given: torch.Tensor, used: int) -> None:
        """Keep what the next outputs need; a copy, so that the rest can go."""
        self._held = given[:, :, used:].clone() if self._left else None
        self._waiting = given.shape[2] - used


def _through(step: Window, planes: Planes, total: int) -> Planes:
    # no name holds a part while it is handed on: it is freed by whoever takes it
    fed = _Fed(step, total)
    for part in planes:
        found = fed.feed(part)
        del part
        if found:
            yield step.finished(found.pop())


def _joined(join: Join, planes: Planes, total: int, fork: _Fork, kept: int) -> Planes:
    """The first step of a level on the way up: coarser features and those of the skip connection."""
    coarse = _fused(join, planes, total) if join.fused is not None else _enlarged(join, planes, total)
    fed = _Fed(join.skip, 2 * total)
    lost = (kept - 2 * total) // 2
    for found in coarse:
        if lost:
            fork.take(lost)
            lost = 0
        part = _cropped(fork.take(fed.wanted(found.shape[2])), found, join.skip)
        both = fed.feed(part)
        both[0].add_(found)
        del part, found
        yield join.skip.finished(both.pop())


def _cropped(skip: torch.Tensor, found: torch.Tensor, step: Window) -> torch.Tensor:
    """The middle of a skip connection, such that the step makes it as large as ``found``."""
    for axis in range(3, skip.ndim):
        size = found.shape[axis] + step.kernel - 1 - 2 * step.padding
        lost = skip.shape[axis] - size
        if lost:
            skip = skip.narrow(axis, lost // 2, size)
    return skip


def _enlarged(join: Join, planes: Planes, total: int) -> Planes:
    """The coarser features' share, computed on the fine grid."""
    assert join.grown is not None
    fed = _Fed(join.grown, 2 * total)
    for part in planes:
        found = fed.feed(join.growth(part))
        del part
        if found:
            yield found.pop()


def _fused(join: Join, planes: Planes, total: int) -> Planes:
    """The coarser features' share by the transposed convolution; a plane is whole once all that reach it are there."""
    held: torch.Tensor | None = None
    left = total
    for part in planes:
        left -= part.shape[2]
        if held is None and not left:
            yield join.fuse(part, 1)
            return
        given = _together([part] if held is None else [held, part])
        # without padding, plane 0 is the one before the first coarse plane's block
        first = 1 if held is None else 2
        last = 2 * given.shape[2] + (1 if not left else 0)
        held = part[:, :, -1:].clone()
        found = [join.fuse(given, 0)[:, :, first:last]]
        del part, given
        yield found.pop()
