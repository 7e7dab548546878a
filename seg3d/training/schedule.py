"""Optimiser and learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

_IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "auto": {},
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


def build_optimizer(
    network: nn.Module,
    *,
    kind: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    implementation: str = "auto",
) -> torch.optim.Optimizer:
    """AdamW or SGD; weight decay leaves biases and normalisation alone.

    Args:
        network: Whose parameters are optimised.
        kind: ``"adamw"`` or ``"sgd"``.
        learning_rate: Highest learning rate.
        weight_decay: Decoupled (AdamW) or L2 (SGD).
        momentum: Of SGD.
        nesterov: Of SGD.
        implementation: ``"loop"`` over the parameters, ``"foreach"`` (all at once, the same bits on the CPU),
            ``"fused"`` (one kernel, which rounds differently) or ``"auto"``, torch's own choice for the device.
    """
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(f"implementation is {' or '.join(_IMPLEMENTATIONS)}, got {implementation!r}")
    how: dict[str, Any] = _IMPLEMENTATIONS[implementation]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, **how)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov and momentum > 0, **how)
    raise ValueError(f"kind is adamw or sgd, got {kind!r}")


def factor(step: int, *, total_steps: int, kind: str, warmup_steps: int, power: float) -> float:
    """Factor on the learning rate at an optimiser step, from 0.

    Args:
        step: Steps done.
        total_steps: Steps of the whole training.
        kind: ``"polynomial"``: ``(1 - t)^power``; ``"cosine"``: ``(1 + cos(pi t)) / 2``; ``"constant"``: 1; ``t`` runs
            from 0 to 1 after the warm-up.
        warmup_steps: Steps over which the factor rises linearly to 1.
        power: Of the polynomial.

    Source: nnU-Net (polynomial, 0.9); Loshchilov and Hutter, SGDR (ICLR 2017) for the cosine.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    t = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if kind == "polynomial":
        return float((1.0 - t) ** power)
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * t))
    if kind == "constant":
        return 1.0
    raise ValueError(f"kind is polynomial, cosine or constant, got {kind!r}")
