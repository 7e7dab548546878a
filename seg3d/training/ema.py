"""A running mean of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Ema:
    """Exponential moving average of a network's weights and buffers.

    Early steps count more, so that the mean is not held back by the first weights: the decay of step ``n`` is
    ``min(decay, (1 + n) / (10 + n))``.

    Args:
        network: The network.
        decay: Weight of the past at each step, in [0, 1).

    Source: Tarvainen and Valpola, Mean teachers (NeurIPS 2017); the ramp as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow the network by one step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, value in network.state_dict().items():
            mean = self.shadow[name]
            if mean.device != value.device:
                mean = self.shadow[name] = mean.to(value.device)
            if value.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def own(self) -> None:
        """Keep the mean in memory of this process: tensors that came with a spawn are shared by all ranks."""
        self.shadow = {name: value.clone() for name, value in self.shadow.items()}

    def take_from_first_rank(self) -> None:
        """Have the mean of rank 0, as checkpoints do; each rank's statistics of batch norm are of its own batches.

        All ranks call this.
        """
        for name in sorted(self.shadow):
            torch.distributed.broadcast(self.shadow[name], src=0)

    @contextmanager
    def swap(self, network: nn.Module) -> Iterator[None]:
        """The network has the mean weights inside the block and its own again after it."""
        own = {name: value.detach().clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.shadow)
        try:
            yield
        finally:
            network.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: tensors and numbers."""
        return {"shadow": self.shadow, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore from :meth:`state_dict`."""
        self.shadow = {name: value.clone() for name, value in state["shadow"].items()}
        self.steps = int(state["steps"])
