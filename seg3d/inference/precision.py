"""Whether bfloat16 may stand for float32 in prediction on the CPU: where it is native and gives the same labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from seg3d.training.environment import has_fast_bf16

_REACH = 2  # voxels on each side of a boundary that make its band


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision of prediction and why, for the record.

    Attributes:
        precision: ``"fp32"`` or ``"bf16"``.
        reason: Why, in a sentence.
        agreement: Share of the band's voxels with the same labels in both; ``None`` where it was not measured.
        band_voxels: Voxels of the band; 0 where it was not measured or the tile shows no boundary.
    """

    precision: Literal["fp32", "bf16"]
    reason: str
    agreement: float | None = None
    band_voxels: int = 0


def choose_precision(
    network: nn.Module,
    tile: torch.Tensor,
    *,
    activation: str = "softmax",
    threshold: float = 0.999,
    native: bool | None = None,
) -> PrecisionChoice:
    """bfloat16 where this processor computes it natively and it labels the foreground's boundary as float32 does.

    Far from a boundary labels agree in any case and would hide the disagreement at it, so only the band is counted:
    the voxels with another float32 label within 2 voxels along every axis. Without a boundary there is no evidence,
    so float32 stays.

    Args:
        network: Gives logits, in evaluation mode.
        tile: ``(batch, channel, *size)`` on the CPU, with foreground.
        activation: ``"softmax"``: one label map; ``"sigmoid"``: a map per region, whose bands are counted together.
        threshold: Smallest share of the band with the same labels.
        native: Whether bfloat16 is native; asked of this processor unless given.
    """
    if native is None:
        native = has_fast_bf16("cpu")
    if not native:
        return PrecisionChoice("fp32", "this processor emulates bf16, which is slower than float32")
    expected, found = (_logits(network, tile, reduced=reduced) for reduced in (False, True))
    if not bool(torch.isfinite(found).all()):
        return PrecisionChoice("fp32", "in bf16 some logits are not finite")
    label = _labels(expected, activation)
    band = boundary_band(label)
    count = int(band.sum())
    if not count:
        return PrecisionChoice("fp32", "the tile that bf16 was tried on shows no boundary of the foreground")
    agreement = float((_labels(found, activation) == label)[band].double().mean())
    told = f"{agreement:.4%} of {count} voxels at the foreground's boundary have the label of float32"
    if agreement < threshold:
        return PrecisionChoice("fp32", f"in bf16 only {told}, less than {threshold:.4%}", agreement, count)
    return PrecisionChoice("bf16", f"in bf16 {told}, at least {threshold:.4%}", agreement, count)


def boundary_band(label: torch.Tensor) -> torch.Tensor:
    """Voxels of label maps ``(batch, map, *size)`` with another label within 2 voxels along every axis; bool.

    The border of the tile is no boundary. An axis of one voxel adds nothing.

    Args:
        label: Integers that float32 holds exactly; two or three axes.
    """
    pool = {4: nn.functional.max_pool2d, 5: nn.functional.max_pool3d}[label.ndim]
    values = label.float()

    def largest(of: torch.Tensor) -> torch.Tensor:
        return pool(of, kernel_size=2 * _REACH + 1, stride=1, padding=_REACH)  # pads with minus infinity

    return largest(values) != -largest(-values)


def _logits(network: nn.Module, tile: torch.Tensor, *, reduced: bool) -> torch.Tensor:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=reduced):
        logits: torch.Tensor = network(tile)
    return logits.float()


def _labels(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """Label maps ``(batch, 1, *size)``, or one per region ``(batch, region, *size)``."""
    return (logits > 0).long() if activation == "sigmoid" else logits.argmax(dim=1, keepdim=True)
