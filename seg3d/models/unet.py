"""The original U-Net: max pooling down, 2x2 up-convolution up, valid convolutions."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from seg3d.models.blocks import CONVOLUTION, POOLING, TRANSPOSED, Blocks, check_features, check_size
from seg3d.models.stages import Stages, flattened


class UNet(nn.Module):
    """The U-Net of Ronneberger et al.; logits ``(batch, outputs, *size)`` for ``(batch, channels, *size)``.

    Each level has two convolutions (3 per axis), each followed by normalisation and activation. Going down is max
    pooling by 2; going up is an up-convolution (kernel and stride 2) that halves the channels, after which the skip
    connection is concatenated. With ``padding="valid"`` the skip connections are cropped centrally and the output is
    smaller by :attr:`margin` on each side of each axis: no voxel of it has seen anything but the image. The defaults
    are the paper's: 572 x 572 gives 388 x 388.

    In 2D all operators are deterministic on CUDA at full speed; in 3D the gradient of max pooling is so by a slow path
    of deterministic mode.

    Args:
        channels: Channels of the image.
        outputs: Number of classes.
        dims: 2 or 3.
        features: Channels of each level, the finest first; any depth.
        padding: ``"valid"``, or ``"same"``: convolutions are padded with zeros, input and output have the same size.
        upsampling: ``"transposed"``, the paper's up-convolution, or ``"nearest"``: a convolution (1 per axis) that
            halves the channels and nearest upsampling. Both fill each coarse voxel's block from that voxel alone, so
            that sizes stay exact and tiles agree; nearest has no checkerboard pattern.
        norm: ``"instance"``, ``"batch"`` or ``"none"``, after each convolution but up-convolutions and the head.
        dropout: Probability that an element (not a channel) is dropped at the end of the contracting path: after the
            last two contracting levels, before pooling and skip connection, as in ports of the authors' Caffe
            network (ratio 0.5 on its 512 and 1024 channels); the paper names no levels and no ratio.
        activation: ``"relu"`` or ``"leaky_relu"``. Unlike in those ports there is none after an up-convolution,
            and the last up-convolution halves the channels too, as in figure 1 of the paper.

    Attributes:
        dims: 2 or 3.
        stride: Input voxels per coarsest voxel along an axis.
        margin: Voxels lost on each side of each axis: ``6 * stride - 4`` with valid convolutions, else 0.

    Source: Ronneberger, Fischer and Brox, U-Net (MICCAI 2015), figure 1 and section 3. The paper names the end of the
    contracting path alone; where exactly dropout stands is taken from ports of the authors' network, not from itself.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        dims: int = 2,
        features: tuple[int, ...] = (64, 128, 256, 512, 1024),
        padding: str = "valid",
        upsampling: str = "transposed",
        norm: str = "none",
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if padding not in ("valid", "same"):
            raise ValueError(f"padding is valid or same, got {padding!r}")
        check_features(features)
        blocks = Blocks(dims, norm, activation, padding=int(padding == "same"))
        self.dims = dims
        self.stride = 2 ** (len(features) - 1)
        self.margin = 6 * self.stride - 4 if padding == "valid" else 0
        self.pool = POOLING[dims](kernel_size=2)
        levels = [blocks.level(a, b) for a, b in itertools.pairwise((channels, *features))]
        for level in levels[-2:]:
            level.append(nn.Dropout(dropout))
        self.down = nn.ModuleList(levels)
        pairs = list(itertools.pairwise(features))[::-1]
        self.enlarge = nn.ModuleList(_enlarging(upsampling, dims, wide, narrow) for narrow, wide in pairs)
        self.up = nn.ModuleList(blocks.level(2 * narrow, narrow) for narrow, _ in pairs)
        self.head = CONVOLUTION[dims](features[0], outputs, kernel_size=1)
        self.apply(blocks.initialise)

    def stages(self) -> Stages:
        """The modules in the order of :meth:`forward`."""
        return Stages(
            tuple(flattened([level] if number == 0 else [self.pool, level]) for number, level in enumerate(self.down)),
            tuple(flattened([part]) for part in self.enlarge),
            tuple(flattened([level]) for level in self.up),
            (self.head,),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of a batch, smaller than it by twice the margin.

        Raises:
            ValueError: The image's size is none that the network takes, see :func:`~seg3d.models.fitting_size`.
        """
        check_size(image, self.dims, self.stride, self.margin)
        skips: list[torch.Tensor] = []
        found = image
        for level in self.down:
            found = level(self.pool(found) if skips else found)
            skips.append(found)
        skips.pop()
        for enlarge, level in zip(self.enlarge, self.up, strict=True):
            larger = enlarge(found)
            found = level(torch.cat([_crop(skips.pop(), larger.shape), larger], dim=1))
        logits: torch.Tensor = self.head(found)
        return logits


def _enlarging(upsampling: str, dims: int, wide: int, narrow: int) -> nn.Module:
    """Doubles each axis and takes ``wide`` channels to ``narrow``."""
    if upsampling == "transposed":
        return TRANSPOSED[dims](wide, narrow, kernel_size=2, stride=2)
    if upsampling == "nearest":
        # a convolution of one voxel commutes with nearest upsampling and is cheaper before it
        return nn.Sequential(CONVOLUTION[dims](wide, narrow, kernel_size=1), nn.Upsample(scale_factor=2.0))
    raise ValueError(f"upsampling is transposed or nearest, got {upsampling!r}")


def _crop(skip: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The middle of a skip connection, of the size of what it is joined to."""
    for axis in range(2, skip.ndim):
        lost = skip.shape[axis] - shape[axis]
        if lost:
            skip = skip.narrow(axis, lost // 2, shape[axis])
    return skip
