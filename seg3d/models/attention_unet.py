"""The attention U-Net: gates that look at coarser features decide what of a skip connection passes."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from seg3d.models.blocks import CONVOLUTION, POOLING, Blocks, check_features, check_size


class AttentionGate(nn.Module):
    """Coefficients ``(batch, 1, *size)`` in 0..1 for a skip connection ``(batch, width, *size)``.

    ``sigmoid(psi(relu(theta(skip) + phi(coarse))))`` on the coarse grid, nearest upsampled: ``theta`` is a convolution
    with kernel and stride 2 without bias, ``phi`` and ``psi`` are convolutions of one voxel.

    Args:
        dims: 2 or 3.
        width: Channels of the skip connection, and of the sum inside the gate.
        gating: Channels of the coarser features, which have half the size.

    Source: Oktay et al., Attention U-Net (MIDL 2018), eq. 1 and 2 and figure 2.
    """

    def __init__(self, dims: int, width: int, gating: int) -> None:
        super().__init__()
        self.theta = CONVOLUTION[dims](width, width, kernel_size=2, stride=2, bias=False)
        self.phi = CONVOLUTION[dims](gating, width, kernel_size=1)
        self.psi = CONVOLUTION[dims](width, 1, kernel_size=1)

    def forward(self, skip: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """How much of each voxel of the skip connection passes."""
        found = torch.sigmoid(self.psi(torch.relu(self.theta(skip) + self.phi(coarse))))
        return nn.functional.interpolate(found, scale_factor=2.0, mode="nearest")


class AttentionUNet(nn.Module):
    """A U-Net with additive attention gates; logits ``(batch, outputs, *size)`` for ``(batch, channels, *size)``.

    Each level has two convolutions (3 per axis), each followed by normalisation, dropout and activation, so that the
    raw input is never dropped. Going down is max pooling by 2, going up is nearest upsampling, after which the gated
    skip connection is concatenated. The paper upsamples linearly, which has no fast deterministic gradient on CUDA;
    its deep supervision is left out.

    MONAI's network of this name is not used because it merges with instance normalisation and PReLU whatever the
    rest of it has (so that tiles never agree with the whole), gates on the fine grid, fixes batch norm and ReLU and
    keeps its coefficients to itself.

    In 2D all operators are deterministic on CUDA at full speed; in 3D the gradient of max pooling is so by a slow path
    of deterministic mode.

    Args:
        channels: Channels of the image.
        outputs: Number of classes.
        dims: 2 or 3.
        features: Channels of each level, the finest first; any depth; a single level has no gate.
        norm: ``"instance"``, ``"batch"`` or ``"none"``, after each convolution but those of gates and the head.
        dropout: Probability that a whole channel is dropped.
        activation: ``"relu"`` or ``"leaky_relu"``; gates have ReLU.
        gate_finest: Whether the finest skip connection is gated too, as most implementations do; the paper leaves it.

    Attributes:
        dims: 2 or 3.
        stride: Input voxels per coarsest voxel along an axis.
        margin: Voxels lost on each side of each axis: none.

    Source: Oktay et al., Attention U-Net (MIDL 2018).
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        dims: int = 3,
        features: tuple[int, ...] = (16, 32, 64, 128, 256),
        norm: str = "batch",
        dropout: float = 0.0,
        activation: str = "relu",
        gate_finest: bool = True,
    ) -> None:
        super().__init__()
        check_features(features)
        blocks = Blocks(dims, norm, activation, dropout)
        self.dims = dims
        self.stride = 2 ** (len(features) - 1)
        self.margin = 0
        self.pool = POOLING[dims](kernel_size=2)
        self.down = nn.ModuleList(blocks.level(a, b) for a, b in itertools.pairwise((channels, *features)))
        pairs = list(itertools.pairwise(features))[::-1]
        gated = pairs if gate_finest else pairs[:-1]
        self.gates = nn.ModuleList(AttentionGate(dims, fine, coarse) for fine, coarse in gated)
        self.up = nn.ModuleList(blocks.level(fine + coarse, fine) for fine, coarse in pairs)
        self.head = CONVOLUTION[dims](features[0], outputs, kernel_size=1)
        self.apply(blocks.initialise)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of a batch.

        Raises:
            ValueError: The image's size is not divisible by :attr:`stride`.
        """
        return self._compute(image)[0]

    @torch.no_grad()
    def attention(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The coefficients of each gate, the finest first: ``(batch, 1, *size of the image)``, float32, 0..1.

        Raises:
            ValueError: The image's size is not divisible by :attr:`stride`, or the network is in training mode, where
                dropout and the batch's statistics would be seen and batch norm would learn from the image.
        """
        if self.training:
            raise ValueError("attention is that of a network in evaluation mode; call eval() first")
        maps = reversed(self._compute(image)[1])
        return [nn.functional.interpolate(found.float(), size=image.shape[2:], mode="nearest") for found in maps]

    def _compute(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits, and coefficients on their own grids, the coarsest first."""
        check_size(image, self.dims, self.stride)
        skips: list[torch.Tensor] = []
        found = image
        for level in self.down:
            found = level(self.pool(found) if skips else found)
            skips.append(found)
        skips.pop()
        maps: list[torch.Tensor] = []
        for gate, level in itertools.zip_longest(self.gates, self.up):
            skip = skips.pop()
            if gate is not None:
                maps.append(gate(skip, found))
                skip = skip * maps[-1]
            larger = nn.functional.interpolate(found, scale_factor=2.0, mode="nearest")
            found = level(torch.cat([skip, larger], dim=1))
        logits: torch.Tensor = self.head(found)
        return logits, maps
