"""Losses on logits, each with a deterministic backward pass on CUDA.

torch's own cross-entropy on class indices has none on spatial targets, and MONAI's versions know no ignored label; here
every term works on log-probabilities and a one-hot reference that is 0 everywhere in ignored voxels.

The outputs are either classes, of which each voxel has one (softmax), or regions, which may overlap (a sigmoid for
each): the same terms then are the binary ones, over all regions.
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
        kind: ``"cross_entropy"`` (the binary one for regions), ``"dice"``, ``"generalised_dice"``, ``"focal"`` or
            ``"tversky"``.
        weight: Its weight in the sum.
        gamma: Exponent of the focal loss.
        alpha: Weight of false positives in the Tversky loss.
        beta: Weight of false negatives in the Tversky loss.
        include_background: Count the background as a class (Dice, generalised Dice, Tversky); regions have none.
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
        log_probability: ``(batch, output, *size)``.
        log_complement: Log of what is left to 1 of each region's probability; ``None`` where the outputs are classes.
        reference: ``(batch, output, *size)``, 1 where a voxel is of the class or region; all 0 in ignored voxels.
        counted: ``(batch, 1, *size)``: 1 where the voxel counts.
        class_weights: ``(output,)``.
        weights: ``(batch, 1, *size)``, or ``None`` for 1.
    """

    log_probability: torch.Tensor
    log_complement: torch.Tensor | None
    reference: torch.Tensor
    counted: torch.Tensor
    class_weights: torch.Tensor
    weights: torch.Tensor | None


class WeightedLoss(nn.Module):
    """A weighted sum of loss terms of logits ``(batch, output, *size)`` and label values ``(batch, *size)``.

    Args:
        terms: What is summed.
        values: Label value of each class, where the outputs are classes.
        class_weights: Weight of each class or region, or ``None`` for 1.
        ignore_label: Voxels of this label count nowhere.
        regions: Label values of each region, where the outputs are regions; ``values`` is then empty.
    """

    values: torch.Tensor
    class_weights: torch.Tensor

    def __init__(
        self,
        terms: Sequence[LossTerm],
        values: Sequence[int] = (),
        class_weights: Sequence[float] | None = None,
        ignore_label: int | None = None,
        regions: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        unknown = sorted({term.kind for term in terms} - set(_TERMS))
        if unknown or not terms:
            raise ValueError(f"terms are of {', '.join(_TERMS)}, got {unknown or 'none'}")
        if bool(values) == bool(regions):
            raise ValueError("the outputs are either classes or regions")
        self.terms = tuple(terms)
        self.ignore_label = ignore_label
        held = [value for region in regions for value in region] if regions else list(values)
        self._sizes = [len(region) for region in regions]
        self.register_buffer("values", torch.tensor(held), persistent=False)
        weights = [1.0] * len(regions or values) if class_weights is None else list(class_weights)
        self.register_buffer("class_weights", torch.tensor(weights), persistent=False)

    def forward(self, logits: torch.Tensor, label: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """The loss, a scalar in float32 whatever the precision of the logits.

        Args:
            logits: ``(batch, output, *size)``.
            label: Label values ``(batch, *size)``.
            weights: Factor of each voxel ``(batch, *size)`` on cross-entropy and focal loss; ratios such as Dice do not
                know it. The sums are divided by what they are without it, so that heavier voxels weigh more and not
                only more than others.

        Source of the weights: Ronneberger et al., U-Net (MICCAI 2015), eq. 1, as a mean instead of a sum.
        """
        reference = self._reference(label)
        counted = torch.ones_like(reference[:, :1])
        if self.ignore_label is not None:
            counted = (label.unsqueeze(1) != self.ignore_label).float()
        with torch.autocast(logits.device.type, enabled=False):
            log_probability, log_complement = self._log_probabilities(logits.float())
            found = Situation(
                log_probability,
                log_complement,
                reference * counted,
                counted,
                self.class_weights,
                None if weights is None else weights.float().unsqueeze(1),
            )
            return torch.stack([term.weight * _TERMS[term.kind](term, found) for term in self.terms]).sum()

    def _reference(self, label: torch.Tensor) -> torch.Tensor:
        """Which class or regions each voxel is of: ``(batch, output, *size)``, 0 or 1."""
        axes = (1,) * (label.ndim - 1)
        parts = self.values.split(self._sizes) if self._sizes else ()
        if not parts:
            return (label.unsqueeze(1) == self.values.view(1, -1, *axes)).float()
        masks = [(label.unsqueeze(1) == part.view(1, -1, *axes)).any(dim=1) for part in parts]
        return torch.stack(masks, dim=1).float()

    def _log_probabilities(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self._sizes:
            return torch.log_softmax(logits, dim=1), None
        # the complement by itself: 1 - p of a p next to 1 would be rounded away
        return nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)


def build_loss(
    terms: Sequence[LossTerm],
    *,
    values: Sequence[int] = (),
    class_weights: Sequence[float] | None = None,
    ignore_label: int | None = None,
    regions: Sequence[Sequence[int]] = (),
) -> WeightedLoss:
    """The loss of these terms; see :class:`WeightedLoss`."""
    return WeightedLoss(terms, values, class_weights, ignore_label, regions)


def _cross_entropy(term: LossTerm, s: Situation) -> torch.Tensor:
    """Mean of ``-w log p`` of what is true over the weights ``w`` of the counted voxels, as torch defines that mean.

    For regions the binary cross-entropy: the mean over regions, too.
    """
    weights = _class_weights(s)
    return -(_weighed(weights, s) * _log_truth(s)).sum() / weights.sum().clamp_min(_SMOOTH)


def _focal(term: LossTerm, s: Situation) -> torch.Tensor:
    """Mean of ``-w (1 - p)^gamma log p`` of what is true over the counted voxels, for regions over these, too.

    Source: Lin et al., Focal loss for dense object detection (ICCV 2017), eq. 5, with softmax for classes; the weights
    are those of classes or regions, not of the two sides of a region.
    """
    log_p = _log_truth(s)
    # where p rounds to 1 a root has no finite slope, whose product with log p = 0 would not be a number
    least = torch.finfo(log_p.dtype).tiny if 0 < term.gamma < 1 else 0.0
    rest = (-torch.expm1(log_p)).clamp_min(least)
    loss = -_weighed(_class_weights(s), s) * rest**term.gamma * log_p
    return loss.sum() / (s.counted.sum() * log_p.shape[1]).clamp_min(1.0)


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
    """Overlap, predicted and true volume ``(batch or 1, output)``, and the weights ``(output,)`` of these outputs."""
    first = 0 if term.include_background or s.log_complement is not None or s.reference.shape[1] == 1 else 1
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


def _log_truth(s: Situation) -> torch.Tensor:
    """Log-probability of what is true of each voxel, ``(batch, 1 or region, *size)``; 0 where it does not count."""
    if s.log_complement is None:
        return (s.reference * s.log_probability).sum(dim=1, keepdim=True)
    return s.reference * s.log_probability + (s.counted - s.reference) * s.log_complement


def _class_weights(s: Situation) -> torch.Tensor:
    """Weight of its class, or of each region, ``(batch, 1 or region, *size)``; 0 where a voxel does not count."""
    weights = s.class_weights.view(1, -1, *(1,) * (s.reference.ndim - 2))
    return (s.reference * weights).sum(dim=1, keepdim=True) if s.log_complement is None else s.counted * weights


def _weighed(weights: torch.Tensor, s: Situation) -> torch.Tensor:
    return weights if s.weights is None else weights * s.weights


_TERMS: dict[str, Callable[[LossTerm, Situation], torch.Tensor]] = {
    "cross_entropy": _cross_entropy,
    "dice": _dice,
    "generalised_dice": _generalised_dice,
    "focal": _focal,
    "tversky": _tversky,
}
