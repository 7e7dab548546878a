"""Where the gates of an attention network look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from seg3d.inference.sliding import SlidingWindow
from seg3d.models import AttentionUNet
from seg3d.models.planar import Planar


class _Gates(nn.Module):
    """The coefficients of a network's gates in place of its logits: ``(batch, gate, x, y, z)``, the finest first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if isinstance(self.network, Planar):
            flat = self.network.flat(image)
            return torch.cat(_inner(self.network).attention(flat), dim=1).unsqueeze(self.network.axis + 2)
        return torch.cat(_inner(self.network).attention(image), dim=1)


def attention_maps(
    network: nn.Module, window: SlidingWindow, image: torch.Tensor, outside: Sequence[float]
) -> torch.Tensor:
    """Attention coefficients ``(gate, x, y, z)`` of a whole image, 0..1, the finest gate first.

    Args:
        network: An :class:`AttentionUNet`, perhaps of slices.
        window: How the image is tiled; where tiles overlap their coefficients are averaged as probabilities are.
        image: ``(channel, x, y, z)``.
        outside: Value of each channel beyond the volume.

    Raises:
        ValueError: The network has a single level and no gates.
        TypeError: It is of another kind.
    """
    if not len(_inner(network).gates):
        raise ValueError("a network of a single level has no gates")
    return replace(window, activation="none").probabilities(_Gates(network), image, outside)


def _inner(network: nn.Module) -> AttentionUNet:
    inner = network.network if isinstance(network, Planar) else network
    if not isinstance(inner, AttentionUNet):
        raise TypeError(f"only an attention network has gates, got {type(inner).__name__}")
    return inner
