"""Networks that all tools share: weights that are random but make the network answer something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seg3d.keyed import derived_seed, keyed
from seg3d.models import ReducedUNet

CLASSES = 3
STRIDE = 4
FEATURES = (32, 64, 128)
SMALL_FEATURES = (4, 8, 16)
HALO = 32  # more than the network looks: 2 + 1 + 4 + 2 + 8 on the way down, 4 + 2 on the way up, 3 for rounding


def make_network(norm: str, quick: bool) -> ReducedUNet:
    """The network of the benchmark, in evaluation mode."""
    network = ReducedUNet(1, CLASSES, features=SMALL_FEATURES if quick else FEATURES, norm=norm)
    return network.eval()


def write_weights(path: Path, norm: str, image: torch.Tensor, quick: bool) -> None:
    """Random weights, statistics of batch norm taken from crops of an image, classes of about equal size."""
    torch.manual_seed(derived_seed(0, "benchmark weights", norm))
    network = make_network(norm, quick)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d | nn.InstanceNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            module.momentum = None if isinstance(module, nn.BatchNorm3d) else module.momentum
    crops = torch.stack([_crop(image, number) for number in range(4)])
    with torch.no_grad():
        network.train()(crops)
        logits = network.eval()(crops)
        network.head.bias -= logits.mean(dim=(0, 2, 3, 4))
    torch.save(network.state_dict(), path)


def load_network(path: str, norm: str, quick: bool) -> nn.Module:
    """The network with the weights of a file."""
    network = make_network(norm, quick)
    network.load_state_dict(torch.load(path, weights_only=True))
    return network


def one_pass(network: nn.Module, image: torch.Tensor, slab: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Label map of one pass over the whole image ``(channel, x, y, z)``, computed in slabs that overlap.

    The slabs begin at multiples of the network's stride and overlap by more than it looks, so that with batch norm they
    hold the very answer of one pass. Where the image is no multiple of the stride it goes on with its minimum.
    """
    shape = image.shape[1:]
    larger = [-(-n // STRIDE) * STRIDE for n in shape]
    padded = torch.full((image.shape[0], *larger), float(image.min()))
    padded[:, : shape[0], : shape[1], : shape[2]] = image
    labels = np.empty(larger, np.uint8)
    with torch.inference_mode():
        for start in range(0, larger[0], slab):
            first, last = max(0, start - HALO), min(larger[0], start + slab + HALO)
            found = network(padded[None, :, first:last])[0].argmax(0)
            labels[start : start + slab] = found[start - first : start - first + slab].numpy()
    return labels[: shape[0], : shape[1], : shape[2]]


def made_up_volume(shape: tuple[int, ...]) -> torch.Tensor:
    """Smooth blobs under noise, ``(1, x, y, z)`` float32."""
    rng = keyed(0, "benchmark volume", *shape)
    coarse = torch.from_numpy(rng.standard_normal((1, 1, *(max(2, n // 16) for n in shape)), dtype=np.float32))
    smooth = nn.functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0]
    noise: torch.Tensor = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    return smooth + 0.2 * noise


def _crop(image: torch.Tensor, number: int, size: int = 64) -> torch.Tensor:
    rng = keyed(0, "benchmark crop", number)
    start = [int(rng.integers(0, max(1, n - size + 1))) for n in image.shape[1:]]
    x, y, z = (slice(a, a + min(size, n // STRIDE * STRIDE)) for a, n in zip(start, image.shape[1:], strict=True))
    return image[:, x, y, z]
