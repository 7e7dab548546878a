"""Whole-volume prediction: tiles that fit the memory, exact where the network allows it, blended where not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from seg3d.errors import ConfigError
from seg3d.inference.blended import blended_slabs, views
from seg3d.inference.budget import (
    Job,
    available_bytes,
    fit_blended,
    plan_exact,
    refuse_small_memory,
    tiles_do_not_fit,
)
from seg3d.inference.exact import Slabs, exact_slabs
from seg3d.inference.forward import Forward
from seg3d.inference.reach import Geometry, geometry
from seg3d.inference.source import Source
from seg3d.models.planar import Planar
from seg3d.training.memory import map_large_blocks
from seg3d.volume import Border, Shape

Mode = Callable[[nn.Module], AbstractContextManager[None]]
Advance = Callable[[int, int], None]
Tiling = Literal["auto", "exact", "blended"]
_log = logging.getLogger(__name__)
_HOLES = 4  # times the memory in use, that a heap which keeps what is freed may grow to
_SMALLEST_MAPPED = 1 << 20


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
class Choice:
    """How a network's volumes are tiled, and why.

    Attributes:
        tiling: ``"exact"`` or ``"blended"``.
        why: The reason, in words.
        geometry: How far the network looks, where tiling is exact.
    """

    tiling: Literal["exact", "blended"]
    why: str
    geometry: Geometry | None = None


@dataclass(frozen=True)
class SlidingWindow:
    """How a volume is cut into tiles and put together again.

    Attributes:
        patch_size: Voxels along x, y, z of what the network has learnt from; a smaller volume is surrounded to that
            size.
        tile_size: Voxels along x, y, z that a tile answers for. ``None``: exact tiles are as large as the memory
            allows, blended ones as the patches.
        tiling: ``"exact"``: the answer of one pass over the whole volume; ``"blended"``: overlapping tiles, averaged
            with Gaussian weights; ``"auto"``: exact where the network allows it.
        step: Largest distance between blended tiles as a share of the tile.
        batch_size: Blended tiles in one forward pass.
        mirror: Axes (0, 1, 2) along which the input is also mirrored; every combination is averaged.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``; sums are float32 in any case.
        activation: What makes probabilities of logits: ``"softmax"`` over the classes, ``"sigmoid"`` for regions,
            ``"none"`` for a network whose answer is averaged as it is.
        margin: Voxels along x, y, z by which the network's input is larger than its answer, on each side.
        border: What lies beyond the volume: ``"constant"``, each channel's ``outside``, or ``"mirror"``, the volume
            mirrored at its faces.
        as_asked: Blended tiles and their batch never shrink to fit the memory, which would change the answer: too
            little is an error. Exact tiles give the same answer in any size.
        memory_bytes: What the process, or the GPU, may hold in all; ``None``: tiles take at most half of what is free.
        advance: Called before planes are handed on, with how many these are and how many the whole volume has; what it
            raises ends the prediction.
    """

    patch_size: Shape
    tile_size: Shape | None = None
    tiling: Tiling = "auto"
    step: float = 0.5
    batch_size: int = 2
    mirror: tuple[int, ...] = ()
    precision: str = "fp32"
    activation: str = "softmax"
    margin: Shape = (0, 0, 0)
    border: Border = "constant"
    as_asked: bool = False
    memory_bytes: int | None = None
    advance: Advance | None = None

    def choose(self, network: nn.Module, mode: Mode = evaluating) -> Choice:
        """Exact or blended, for a network in a mode.

        Raises:
            ConfigError: Exact tiles are asked for, and the network does not allow them.
        """
        if self.tiling == "blended":
            return Choice("blended", "predict.tiling is blended")
        found = geometry(network) if mode is evaluating else "dropout that is sampled is another one in every tile"
        if isinstance(found, Geometry):
            return Choice("exact", f"an answer depends on {max(found.reach)} voxels around it at most", found)
        if self.tiling == "exact":
            fix = "Set predict.tiling=blended, or train with model.norm batch or none."
            raise ConfigError("this network cannot be tiled exactly", where="predict.tiling", got=found, fix=fix)
        return Choice("blended", found)

    def probabilities(
        self,
        network: nn.Module,
        image: torch.Tensor,
        outside: Sequence[float],
        *,
        mode: Mode = evaluating,
        memory: int | None = None,
    ) -> torch.Tensor:
        """Probabilities ``(output, x, y, z)``, float32 on the image's device.

        Args:
            network: Gives logits; it is left in the mode it was in.
            image: ``(channel, x, y, z)``.
            outside: Value of each channel beyond the volume, for the border ``"constant"``.
            mode: Puts the network into the mode that it is used in, for the time of the call: evaluation mode.
            memory: As :meth:`slabs`.
        """
        axis = slab_axis(network)
        shape = [image.shape[1 + a] for a in _slab_first(axis)]
        whole: torch.Tensor | None = None
        for start, values in self.slabs(network, image, outside, mode=mode, memory=memory):
            if whole is None:
                whole = torch.empty((len(values), *shape), device=values.device)
            whole[:, start : start + values.shape[1]] = values
        assert whole is not None
        return whole.movedim(1, axis + 1)

    def slabs(
        self,
        network: nn.Module,
        image: torch.Tensor,
        outside: Sequence[float],
        *,
        mode: Mode = evaluating,
        device: torch.device | None = None,
        memory: int | None = None,
    ) -> Slabs:
        """Probabilities slab by slab: the first plane and ``(output, planes, ...)`` with the slab axis first.

        Every plane comes once, in order. Softmax or sigmoid is applied here, once, to the logits of each tile. If
        memory runs out, tiles shrink and the planes that are left are computed with those; but for blended tiles that
        are to stay as asked.

        Args:
            network: As :meth:`probabilities`.
            image: ``(channel, x, y, z)``; tiles of it are moved to ``device``.
            outside: As :meth:`probabilities`.
            mode: As :meth:`probabilities`.
            device: Where the network is; ``None``: where the image is.
            memory: Bytes for tiles; ``None``: what :attr:`memory_bytes` leaves, or half of what is free.

        Raises:
            ConfigError: The memory is too small: for the smallest tile, or for blended ones as asked.
        """
        turned = _Turned(self, network, image, outside, device or image.device, mode)
        if self.memory_bytes is not None:  # a limit holds for the holes in the heap, too
            map_large_blocks(_SMALLEST_MAPPED)
        if memory is None:
            memory = available_bytes(turned.device, self.memory_bytes)
        done = 0
        while done < turned.shape[0]:
            try:
                attempt = turned.slabs(memory, done)
                # entered for each part anew: whoever takes it computes in a mode of their own
                while (part := _next(attempt, mode(network))) is not None:
                    start, values = part
                    fresh = values[:, done - start :]
                    if not fresh.shape[1]:
                        continue  # after memory ran out, tiles begin where they must
                    done += fresh.shape[1]
                    if self.advance is not None:
                        self.advance(fresh.shape[1], turned.shape[0])
                    yield start + values.shape[1] - fresh.shape[1], fresh
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
                if self.as_asked and turned.blended:
                    raise tiles_do_not_fit(error) from error
                memory //= 2
                _log.warning("memory ran out (%s): going on with at most %.2f GiB for tiles", error, memory / 2**30)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory was too small; on the CPU torch has no error of its own for that."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _next(slabs: Slabs, mode: AbstractContextManager[None]) -> tuple[int, torch.Tensor] | None:
    with mode, torch.inference_mode():
        return next(slabs, None)


class _Turned:
    """A volume and a window with the slab axis first."""

    def __init__(
        self,
        window: SlidingWindow,
        network: nn.Module,
        image: torch.Tensor,
        outside: Sequence[float],
        device: torch.device,
        mode: Mode,
    ) -> None:
        axis = slab_axis(network)
        order = _slab_first(axis)
        self.device = device
        self._window = window
        self._network = network
        self._image = image.movedim(axis + 1, 1)
        self._outside = outside
        self.shape = _shape(self._image.shape[1:])
        self._patch = _shape([window.patch_size[a] for a in order])
        self._tile = None if window.tile_size is None else _shape([window.tile_size[a] for a in order])
        self._margin = _shape([window.margin[a] for a in order])
        self._views = views(sorted(order.index(a) for a in window.mirror))
        choice = window.choose(network, mode)
        self._geometry = choice.geometry and choice.geometry.turned(order)
        planar = isinstance(network, Planar)
        neighbours = self._margin[0] if planar else 0
        self._forward = Forward(network, window.precision, neighbours, as_it_is=mode is not evaluating)

    @property
    def blended(self) -> bool:
        """Whether tiles are blended, so that their size matters to the answer."""
        return self._geometry is None

    def slabs(self, memory: int, done: int) -> Slabs:
        """Probabilities from plane ``done`` on, perhaps from some planes before it, cropped to the volume."""
        if self._geometry is None:
            size, found = self._blended(memory)
        else:
            size, found = self._exact(self._geometry, memory, done)
        first = _centred(size, self.shape)
        y, z = (slice(a, a + n) for a, n in zip(first[1:], self.shape[1:], strict=True))
        for start, values in found:
            low, high = max(start, first[0]), min(start + values.shape[1], first[0] + self.shape[0])
            if low < high:
                yield low - first[0], values[:, low - start : high - start, y, z]

    def _exact(self, geometry: Geometry, memory: int, done: int) -> tuple[Shape, Slabs]:
        size = self.shape
        if geometry.padded:  # else the margin surrounds it
            larger = (max(n, p) for n, p in zip(size, self._patch, strict=True))
            size = _shape([-(-n // s) * s for n, s in zip(larger, geometry.stride, strict=True)])
        channels = self._image.shape[0]
        job = Job(self._network, self._forward, geometry, self._margin, size, channels, len(self._views))
        plan = plan_exact(job, self._tile, memory)
        if self._window.memory_bytes is None and _HOLES * plan.pass_bytes > memory:
            map_large_blocks()
        tiles = plan.after(done + _centred(size, self.shape)[0], geometry.stride[0])
        sources = self._sources(size)
        return size, exact_slabs(self._forward, sources, geometry, self._margin, tiles, self._activate)

    def _blended(self, memory: int) -> tuple[Shape, Slabs]:
        window = self._window
        wanted = self._tile or self._patch
        size = _shape([max(n, t) for n, t in zip(self.shape, wanted, strict=True)])
        channels = self._image.shape[0]
        asked = (self._network, self._forward, wanted, window.batch_size, self._margin, size, channels)
        if window.as_asked:
            refuse_small_memory(*asked, self.device, window.memory_bytes)
            tile, batch = wanted, window.batch_size
        else:
            tile, batch = fit_blended(*asked, memory)
        sources = self._sources(size)
        return size, blended_slabs(self._forward, sources, tile, window.step, batch, self._margin, self._activate)

    def _sources(self, size: Shape) -> list[Source]:
        first, border = _centred(size, self.shape), self._window.border
        return [Source(self._image, self._outside, border, size, first, self.device, view) for view in self._views]

    def _activate(self, logits: torch.Tensor) -> torch.Tensor:
        if self._window.activation == "none":
            return logits
        logits = logits.contiguous()  # each output by itself: softmax is slow where the channels lie together
        return torch.sigmoid(logits) if self._window.activation == "sigmoid" else torch.softmax(logits, dim=1)


def _centred(size: Shape, shape: Shape) -> Shape:
    return _shape([(m - n) // 2 for m, n in zip(size, shape, strict=True)])


def _shape(sizes: Sequence[int]) -> Shape:
    x, y, z = sizes
    return x, y, z


def slab_axis(network: nn.Module) -> int:
    """The axis along which a network's answers are handed on: x, or what slices lie across."""
    return network.axis if isinstance(network, Planar) else 0


def _slab_first(axis: int) -> tuple[int, int, int]:
    first, second, third = (axis, *(other for other in range(3) if other != axis))
    return first, second, third
