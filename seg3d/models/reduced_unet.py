"""The reduced U-Net: strided convolutions down, nearest upsampling up."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn

_CONVOLUTION: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_INSTANCE: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_BATCH: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_SLOPE = 0.01  # of leaky ReLU, as in nnU-Net


class ReducedUNet(nn.Module):
    """A U-Net whose output is logits ``(batch, outputs, *size)`` for ``(batch, channels, *size)``.

    Each level has two convolutions (3 per axis). Going down is a convolution with stride 2, going up is nearest
    upsampling, after which the skip connection is concatenated. Every convolution but the head is followed by
    normalisation, dropout and activation, so that the raw input is never dropped. All operators have deterministic
    CUDA backward passes.

    Args:
        channels: Channels of the image.
        outputs: Number of classes.
        dims: 2 or 3.
        features: Channels of each level, the finest first; any depth.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        dropout: Probability that a whole channel is dropped.
        activation: ``"relu"`` or ``"leaky_relu"``.

    Source: Ronneberger et al., U-Net (MICCAI 2015); He et al. 2015 for the initial weights.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        dims: int = 3,
        features: tuple[int, ...] = (32, 64, 128),
        norm: str = "instance",
        dropout: float = 0.0,
        activation: str = "leaky_relu",
    ) -> None:
        super().__init__()
        if dims not in (2, 3) or not features:
            raise ValueError(f"dims is 2 or 3 and features has a level, got {dims} and {features}")
        self.dims = dims
        self.stride = 2 ** (len(features) - 1)

        def layer(inputs: int, width: int, stride: int = 1) -> nn.Sequential:
            return _layer(dims, inputs, width, stride, norm, dropout, activation)

        def level(inputs: int, width: int) -> nn.Sequential:
            return nn.Sequential(layer(inputs, width), layer(width, width))

        pairs = list(itertools.pairwise(features))
        self.down = nn.ModuleList(
            [level(channels, features[0]), *(nn.Sequential(layer(a, b, 2), level(b, b)) for a, b in pairs)]
        )
        self.up = nn.ModuleList(level(a + b, a) for a, b in reversed(pairs))
        self.head = _CONVOLUTION[dims](features[0], outputs, kernel_size=1)
        self.apply(_initialise(activation))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of a batch.

        Raises:
            ValueError: The image's size is not divisible by :attr:`stride`.
        """
        if image.ndim != self.dims + 2 or any(n % self.stride for n in image.shape[2:]):
            raise ValueError(
                f"the input is (batch, channel, {self.dims} axes divisible by {self.stride}), got {tuple(image.shape)}"
            )
        skips: list[torch.Tensor] = []
        found = image
        for stage in self.down:
            found = stage(found)
            skips.append(found)
        skips.pop()
        for stage in self.up:
            larger = nn.functional.interpolate(found, scale_factor=2.0, mode="nearest")
            found = stage(torch.cat([skips.pop(), larger], dim=1))
        logits: torch.Tensor = self.head(found)
        return logits


def _layer(
    dims: int, inputs: int, width: int, stride: int, norm: str, dropout: float, activation: str
) -> nn.Sequential:
    parts: list[nn.Module] = [
        _CONVOLUTION[dims](inputs, width, kernel_size=3, stride=stride, padding=1, bias=norm == "none")
    ]
    if norm == "instance":
        parts.append(_INSTANCE[dims](width, affine=True))
    elif norm == "batch":
        parts.append(_BATCH[dims](width))
    elif norm != "none":
        raise ValueError(f"norm is instance, batch or none, got {norm!r}")
    if dropout > 0:
        parts.append({2: nn.Dropout2d, 3: nn.Dropout3d}[dims](dropout))
    parts.append(nn.LeakyReLU(_SLOPE, inplace=True) if activation == "leaky_relu" else nn.ReLU(inplace=True))
    return nn.Sequential(*parts)


def _initialise(activation: str) -> Callable[[nn.Module], None]:
    slope = _SLOPE if activation == "leaky_relu" else 0.0

    def initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, a=slope, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    return initialise
