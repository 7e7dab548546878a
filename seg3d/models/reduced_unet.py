"""The reduced U-Net: strided convolutions down, nearest upsampling up."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from seg3d.models.blocks import CONVOLUTION, Blocks, check_features, check_size
from seg3d.models.stages import Stages, flattened


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

    Attributes:
        dims: 2 or 3.
        stride: Input voxels per coarsest voxel along an axis.
        margin: Voxels lost on each side of each axis: none.

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
        check_features(features)
        blocks = Blocks(dims, norm, activation, dropout)
        self.dims = dims
        self.stride = 2 ** (len(features) - 1)
        self.margin = 0
        layer, level = blocks.layer, blocks.level
        pairs = list(itertools.pairwise(features))
        self.down = nn.ModuleList(
            [level(channels, features[0]), *(nn.Sequential(layer(a, b, 2), level(b, b)) for a, b in pairs)]
        )
        self.up = nn.ModuleList(level(a + b, a) for a, b in reversed(pairs))
        self.head = CONVOLUTION[dims](features[0], outputs, kernel_size=1)
        self.apply(blocks.initialise)

    def stages(self) -> Stages:
        """The modules in the order of :meth:`forward`."""
        return Stages(
            tuple(flattened([level]) for level in self.down),
            tuple((nn.Upsample(scale_factor=2.0),) for _ in self.up),
            tuple(flattened([level]) for level in self.up),
            (self.head,),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of a batch.

        Raises:
            ValueError: The image's size is not divisible by :attr:`stride`.
        """
        check_size(image, self.dims, self.stride)
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
