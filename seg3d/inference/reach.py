"""How far a network looks: the receptive field of a U-Net, and whether it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from seg3d.inference.backends import CompiledNetwork
from seg3d.models import Stages
from seg3d.models.planar import Planar

_WINDOWS = (nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.MaxPool3d)
_ENLARGING = (nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Upsample)
_LOCAL = (nn.ReLU, nn.LeakyReLU, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Geometry:
    """What decides how a network's input may be cut up.

    Attributes:
        stride: Input voxels per coarsest voxel along x, y, z; an answer is the same wherever the input is shifted by
            multiples of it.
        reach: Voxels along x, y, z that a block of ``stride`` voxels looks beyond itself, the larger of both sides.
        padded: Whether convolutions are padded, so that input and answer have one size.
    """

    stride: tuple[int, int, int]
    reach: tuple[int, int, int]
    padded: bool

    @property
    def halo(self) -> tuple[int, int, int]:
        """The reach, rounded up to multiples of the stride; none where nothing is padded."""
        if not self.padded:
            return 0, 0, 0
        x, y, z = (-(-far // stride) * stride for far, stride in zip(self.reach, self.stride, strict=True))
        return x, y, z

    def turned(self, order: Sequence[int]) -> Geometry:
        """The geometry with its axes in another order."""
        (x, y, z), (a, b, c) = ([values[axis] for axis in order] for values in (self.stride, self.reach))
        return Geometry((x, y, z), (a, b, c), self.padded)


def stages_of(network: nn.Module) -> Stages | None:
    """The stages of a U-Net, perhaps of slices; ``None`` where a network does not tell them."""
    inner = network.network if isinstance(network, Planar) else network
    tell = getattr(inner, "stages", None)
    return tell() if tell is not None else None


def geometry(network: nn.Module) -> Geometry | str:
    """How a network may be cut up exactly, or why it cannot be.

    Args:
        network: A network that tells its ``stages`` and ``stride``, perhaps of slices.
    """
    if isinstance(network, CompiledNetwork):
        return f"{network.backend} takes tiles as a whole"
    stages = stages_of(network)
    if stages is None:
        name = type(network.network if isinstance(network, Planar) else network).__name__
        return f"{name} does not tell how far it looks (gates and attention merge what is far apart)"
    for module in stages:
        if isinstance(module, (nn.InstanceNorm2d, nn.InstanceNorm3d)):
            return "instance norm looks at all of a tile, so that no two tiles agree"
        if not isinstance(module, (*_WINDOWS, *_ENLARGING, *_LOCAL)):
            return f"it is not known how far a {type(module).__name__} looks"
    inner: Any = network.network if isinstance(network, Planar) else network
    stride: int = inner.stride
    far = receptive_field(stages, stride)
    thin = [isinstance(network, Planar) and axis == network.axis for axis in range(3)]
    x, y, z = (1 if across else stride for across in thin)
    a, b, c = (0 if across else far for across in thin)
    return Geometry((x, y, z), (a, b, c), not inner.margin)


def receptive_field(stages: Stages, stride: int) -> int:
    """Voxels along an axis that the answer of an aligned block of ``stride`` voxels depends on beyond the block.

    The larger of both sides, over the way through each level; with valid convolutions counted from where the block
    would be in the input.

    Source: Araujo, Norris and Sim, Computing receptive fields of convolutional neural networks (Distill 2019).
    """
    found = 0
    for depth in range(len(stages.down)):
        low, high = 0, stride - 1
        for module in reversed(_way(stages, depth)):
            low, high = _seen(module, low, high)
        found = max(found, -low, high - (stride - 1))
    return found


def _way(stages: Stages, depth: int) -> Sequence[nn.Module]:
    """The modules that a signal passes which turns around at a level."""
    way = [module for level in stages.down[: depth + 1] for module in level]
    for enlarge, level in list(zip(stages.enlarge, stages.up, strict=True))[len(stages.up) - depth :]:
        way += [*enlarge, *level]
    return [*way, *stages.head]


def _seen(module: Any, low: int, high: int) -> tuple[int, int]:
    """First and last voxel of a module's input that its outputs from ``low`` to ``high`` depend on."""
    if isinstance(module, _ENLARGING):  # kernel and stride 2: each coarse voxel fills its own block
        return low // 2, high // 2
    if not isinstance(module, _WINDOWS):
        return low, high
    kernel, stride, padding = (_along(module, name) for name in ("kernel_size", "stride", "padding"))
    return low * stride - padding, high * stride - padding + kernel - 1


def _along(module: Any, name: str) -> int:
    """A setting of a module that is the same along all axes."""
    value = getattr(module, name)
    return int(value[0] if isinstance(value, tuple) else value)
