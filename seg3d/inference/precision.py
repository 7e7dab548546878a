"""Whether bfloat16 may stand for float32 in prediction on the CPU: where it gives the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from seg3d.inference.sliding import SlidingWindow

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


def check_precision(
    window: SlidingWindow,
    network: nn.Module,
    image: torch.Tensor,
    outside: Sequence[float],
    label: torch.Tensor,
    *,
    threshold: float = 0.999,
) -> PrecisionChoice:
    """bfloat16 where it labels the foreground's boundary as float32 does, in a tile of the scan.

    The tile lies in the middle of the boundaries that bfloat16 has found, and is computed in both. Far from a boundary
    labels agree in any case and would hide the disagreement at it, so only the band is counted: the voxels with
    another float32 label within 2 voxels along every axis. Without a boundary there is no evidence, so float32 stays.

    Args:
        window: How the scan was predicted in bfloat16.
        network: Gives logits.
        image: The scan ``(channel, x, y, z)`` on the CPU.
        outside: Value of each channel beyond the scan.
        label: What bfloat16 has found: label maps ``(map, x, y, z)``, one, or one per region.
        threshold: Smallest share of the band with the same labels.
    """
    box = _tile_at_boundaries(label, window.patch_size)
    if box is None:
        return PrecisionChoice("fp32", "in bf16 the scan shows no boundary of a foreground")
    tile = image[(slice(None), *box)]
    expected, found = (
        replace(window, precision=precision, advance=None).probabilities(network, tile, outside)
        for precision in ("fp32", "bf16")
    )
    return compare_precisions(expected, found, activation=window.activation, threshold=threshold)


def compare_precisions(
    expected: torch.Tensor, found: torch.Tensor, *, activation: str, threshold: float
) -> PrecisionChoice:
    """What probabilities ``(output, x, y, z)`` of a tile in float32 and in bfloat16 say.

    Args:
        expected: In float32.
        found: In bfloat16.
        activation: ``"softmax"``: one label map; ``"sigmoid"``: a map per region, whose bands are counted together.
        threshold: As :func:`check_precision`.
    """
    if not bool(torch.isfinite(found).all()):
        return PrecisionChoice("fp32", "in bf16 some probabilities are not finite")
    label = label_maps(expected, activation)
    band = boundary_band(label)
    count = int(band.sum())
    if not count:
        return PrecisionChoice("fp32", "the tile that bf16 was checked on shows no boundary of the foreground")
    agreement = float((label_maps(found, activation) == label)[band].double().mean())
    told = f"{agreement:.4%} of {count} voxels at the foreground's boundary have the label of float32"
    if agreement < threshold:
        return PrecisionChoice("fp32", f"in bf16 only {told}, less than {threshold:.4%}", agreement, count)
    return PrecisionChoice("bf16", f"in bf16 {told}, at least {threshold:.4%}", agreement, count)


def label_maps(probabilities: torch.Tensor, activation: str) -> torch.Tensor:
    """Label maps ``(1, ...)`` of probabilities ``(output, ...)``, or one per region ``(region, ...)``; uint8."""
    chosen = probabilities > 0.5 if activation == "sigmoid" else probabilities.argmax(dim=0, keepdim=True)
    return chosen.to(torch.uint8)


def boundary_band(label: torch.Tensor) -> torch.Tensor:
    """Voxels of label maps ``(map, x, y, z)`` with another label within 2 voxels along every axis; bool.

    The border of the tile is no boundary. An axis of one voxel adds nothing.

    Args:
        label: Integers that float32 holds exactly.
    """
    values = label.float()

    def largest(of: torch.Tensor) -> torch.Tensor:  # the pool pads with minus infinity
        return nn.functional.max_pool3d(of, kernel_size=2 * _REACH + 1, stride=1, padding=_REACH)

    return largest(values) != -largest(-values)


def _tile_at_boundaries(label: torch.Tensor, size: Sequence[int]) -> tuple[slice, slice, slice] | None:
    """A box of a size, or of the whole scan, around the boundary voxel that is closest to the middle of them all."""
    edge = torch.zeros(label.shape[1:], dtype=torch.bool)
    for axis in range(3):
        if label.shape[axis + 1] > 1:
            differs = (label.diff(dim=axis + 1) != 0).any(dim=0)
            edge.narrow(axis, 0, differs.shape[axis]).logical_or_(differs)
    places = edge.nonzero()
    if not len(places):
        return None
    middle = places.median(dim=0).values
    chosen = places[(places - middle).square().sum(dim=1).argmin()].tolist()
    starts = [max(0, min(c - n // 2, m - n)) for c, n, m in zip(chosen, size, edge.shape, strict=True)]
    x, y, z = (slice(a, a + n) for a, n in zip(starts, size, strict=True))
    return x, y, z
