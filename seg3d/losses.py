"""Losses on logits, each with a deterministic backward pass on CUDA.

torch's own cross-entropy on class indices has none on spatial targets, and MONAI's versions know no ignored label; here
every term works on log-probabilities and a one-hot reference that is 0 everywhere in ignored voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

_SMOOTH = 1e-5  # as MONAI's; a class that is in neither gives a ratio of 1


@dataclass(frozen=True)
class LossTerm:
    """One term of a weighted sum.

    Attributes:
        kind: ``"cross_entropy"``, ``"dice"``, ``"generalised_dice"``, ``"focal"`` or ``"tversky"``.
        weight: Its weight in the sum.
        gamma: Exponent of the focal loss.
        alpha: Weight of false positives in the Tversky loss.
        beta: Weight of false negatives in the Tversky loss.
        include_background: Count the background as a class (Dice, generalised Dice, Tversky).
        batch: Sum over the batch before the ratio is taken (Dice, generalised Dice, Tversky).
    """

    kind: str
    weight: float = 1.0
    gamma: float = 2.0
    alpha: float = 0.3
    beta: float = 0.7
    include_background: bool = False
    batch: bool = False


@dataclass(frozen=True)
class Situation:
    """What every term sees.

    Attributes:
        log_probability: ``(batch, class, *size)``.
        reference: One-hot ``(batch, class, *size)``; all 0 in ignored voxels.
        counted: ``(batch, 1, *size)``: 1 where the voxel counts.
        class_weights: ``(class,)``.
    """

    log_probability: torch.Tensor
    reference: torch.Tensor
    counted: torch.Tensor
    class_weights: torch.Tensor


class WeightedLoss(nn.Module):
    """A weighted sum of loss terms of logits ``(batch, class, *size)`` and label values ``(batch, *size)``.

    Args:
        terms: What is summed.
        values: Label value of each class.
        class_weights: Weight of each class, or ``None`` for 1.
        ignore_label: Voxels of this label count nowhere.
    """

    values: torch.Tensor
    class_weights: torch.Tensor

    def __init__(
        self,
        terms: Sequence[LossTerm],
        values: Sequence[int],
        class_weights: Sequence[float] | None = None,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        unknown = sorted({term.kind for term in terms} - set(_TERMS))
        if unknown or not terms:
            raise ValueError(f"terms are of {', '.join(_TERMS)}, got {unknown or 'none'}")
        self.terms = tuple(terms)
        self.ignore_label = ignore_label
        self.register_buffer("values", torch.tensor(list(values)), persistent=False)
        weights = [1.0] * len(values) if class_weights is None else list(class_weights)
        self.register_buffer("class_weights", torch.tensor(weights), persistent=False)

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar in float32 whatever the precision of the logits."""
        axes = (1,) * (logits.ndim - 2)
        reference = (label.unsqueeze(1) == self.values.view(1, -1, *axes)).float()
        counted = torch.ones_like(reference[:, :1])
        if self.ignore_label is not None:
            counted = (label.unsqueeze(1) != self.ignore_label).float()
        with torch.autocast(logits.device.type, enabled=False):
            found = Situation(
                torch.log_softmax(logits.float(), dim=1), reference * counted, counted, self.class_weights
            )
            return torch.stack([term.weight * _TERMS[term.kind](term, found) for term in self.terms]).sum()


def build_loss(
    terms: Sequence[LossTerm],
    *,
    values: Sequence[int],
    class_weights: Sequence[float] | None = None,
    ignore_label: int | None = None,
) -> WeightedLoss:
    """The loss of these terms; see :class:`WeightedLoss`."""
    return WeightedLoss(terms, values, class_weights, ignore_label)


def _cross_entropy(term: LossTerm, s: Situation) -> torch.Tensor:
    """Mean of ``-w_c log p_c`` over the weights of the counted voxels, as torch defines the weighted mean."""
    weights = _voxel_weights(s)
    return -(weights * (s.reference * s.log_probability).sum(dim=1)).sum() / weights.sum().clamp_min(_SMOOTH)


def _focal(term: LossTerm, s: Situation) -> torch.Tensor:
    """Mean of ``-w_c (1 - p_c)^gamma log p_c`` over the counted voxels.

    Source: Lin et al., Focal loss for dense object detection (ICCV 2017), eq. 5, with softmax.
    """
    log_p = (s.reference * s.log_probability).sum(dim=1)
    rest = (-torch.expm1(log_p)).clamp_min(0.0)
    loss = -_voxel_weights(s) * rest**term.gamma * log_p
    return loss.sum() / s.counted.sum().clamp_min(1.0)


def _dice(term: LossTerm, s: Situation) -> torch.Tensor:
    """One minus the mean soft Dice over classes (and cases).

    Source: Milletari et al., V-Net (3DV 2016), with the plain sum in the denominator.
    """
    overlap, found, wanted, weights = _sums(term, s)
    dice = (2 * overlap + _SMOOTH) / (found + wanted + _SMOOTH)
    return _weighted_mean(1 - dice, weights)


def _generalised_dice(term: LossTerm, s: Situation) -> torch.Tensor:
    """One minus the generalised Dice, whose classes weigh ``1 / volume^2``; absent ones as the heaviest present.

    Source: Sudre et al., Generalised Dice overlap (DLMIA 2017), eq. 1-2.
    """
    overlap, found, wanted, weights = _sums(term, s)
    present = wanted > 0
    balance = torch.where(present, 1 / wanted.clamp_min(1.0) ** 2, torch.zeros_like(wanted))
    heaviest = balance.amax(dim=1, keepdim=True)
    balance = torch.where(present, balance, heaviest.where(heaviest > 0, torch.ones_like(heaviest))) * weights
    # _SMOOTH would swamp weights of 1 / volume^2
    tiny = torch.finfo(torch.float32).tiny
    ratio = (2 * (balance * overlap).sum(1) + tiny) / ((balance * (found + wanted)).sum(1) + tiny)
    return (1 - ratio).mean()


def _tversky(term: LossTerm, s: Situation) -> torch.Tensor:
    """One minus the mean Tversky index.

    Source: Salehi et al., Tversky loss (MLMI 2017), eq. 3; alpha weighs false positives, beta false negatives.
    """
    overlap, found, wanted, weights = _sums(term, s)
    missed = term.alpha * (found - overlap) + term.beta * (wanted - overlap)
    return _weighted_mean(1 - (overlap + _SMOOTH) / (overlap + missed + _SMOOTH), weights)


def _sums(term: LossTerm, s: Situation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Overlap, predicted and true volume ``(batch or 1, class)``, and the weights ``(class,)`` of these classes."""
    first = 0 if term.include_background or s.reference.shape[1] == 1 else 1
    reference = s.reference[:, first:]
    probability = s.log_probability[:, first:].exp() * s.counted
    axes = tuple(range(2, reference.ndim))
    sums = [x.sum(dim=axes) for x in (probability * reference, probability, reference)]
    if term.batch:
        sums = [x.sum(dim=0, keepdim=True) for x in sums]
    overlap, found, wanted = sums
    return overlap, found, wanted, s.class_weights[first:]


def _weighted_mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (losses * weights).sum(dim=1).mean() / weights.sum()


def _voxel_weights(s: Situation) -> torch.Tensor:
    """Weight of each voxel ``(batch, *size)``: that of its class; 0 where it does not count."""
    weights = s.class_weights.view(1, -1, *(1,) * (s.reference.ndim - 2))
    return (s.reference * weights).sum(dim=1)


_TERMS: dict[str, Callable[[LossTerm, Situation], torch.Tensor]] = {
    "cross_entropy": _cross_entropy,
    "dice": _dice,
    "generalised_dice": _generalised_dice,
    "focal": _focal,
    "tversky": _tversky,
}
