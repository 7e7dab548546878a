"""Networks of two dimensions on slices: volumes that are thin along one axis."""

from __future__ import annotations

import torch
from torch import nn


class Planar(nn.Module):
    """A 2D network on slices ``(batch, channel, x, y, z)``, one of whose axes is thin.

    The slices along the thin axis, a middle one and perhaps its neighbours, are given to the network as channels, all
    slices of a channel next to each other; the answer is one slice thick.

    Args:
        network: Takes ``(batch, channel * slices, *size)``.
        axis: The thin axis: 0, 1 or 2 for x, y or z.
    """

    def __init__(self, network: nn.Module, axis: int) -> None:
        super().__init__()
        if axis not in (0, 1, 2):
            raise ValueError(f"axis is 0, 1 or 2, got {axis}")
        self.network = network
        self.axis = axis

    def flat(self, image: torch.Tensor) -> torch.Tensor:
        """What the network is given: ``(batch, channel * slices, *size)``."""
        return image.movedim(self.axis + 2, 2).flatten(1, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of a batch, one voxel thick along the thin axis."""
        logits: torch.Tensor = self.network(self.flat(image))
        return logits.unsqueeze(self.axis + 2)
