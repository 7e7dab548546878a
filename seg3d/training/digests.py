"""Digests of what a training goes on with from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from seg3d.digest import sha256_tensors


def optimizer_sha256(optimizer: torch.optim.Optimizer | Mapping[str, Any]) -> str:
    """SHA-256 of an optimiser's tensors, or those of its state dict, by parameter number and name."""
    state = optimizer if isinstance(optimizer, Mapping) else optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    for number, values in state["state"].items():
        tensors |= {f"{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return sha256_tensors(tensors)


def generator_sha256() -> str:
    """SHA-256 of the states of torch's generators on the CPU and on every CUDA device in use."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return sha256_tensors(states)
