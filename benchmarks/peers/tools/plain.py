"""A plain PyTorch loop: nothing can be faster with the same operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from seg3d.losses import LossTerm, build_loss
from seg3d.models import ReducedUNet

LEARNING_RATE, WEIGHT_DECAY, CLIP, BATCH = 2e-3, 1e-2, 5.0, 2
PATCH = (40, 56, 40)
CLASSES = 2


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed batch of images ``(batch, 1, x, y, z)`` and labels ``(batch, x, y, z)``."""
    image = torch.randn(BATCH, 1, *PATCH, generator=torch.Generator().manual_seed(0))
    return image, (image[:, 0] > 1).long()


def train_steps(steps: int, mark: Callable[[], None], dataset: Path, folder: Path) -> None:
    """Three rounds of training steps on a batch in memory; ``mark`` is called after each round."""
    network = ReducedUNet(1, CLASSES)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    loss = build_loss([LossTerm("dice", 1.0, batch=True), LossTerm("cross_entropy", 1.0)], values=(0, 1))
    image, label = make_batch()
    for _ in range(3):
        for _ in range(steps):
            optimizer.zero_grad()
            loss(network(image), label).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
        mark()
