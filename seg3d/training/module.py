"""The Lightning module: a loss on patches, per-case Dice on whole volumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import nn

from seg3d.cases import Region, as_region_map, assemble_regions
from seg3d.keyed import derived_seed
from seg3d.metrics import dice_per_label
from seg3d.store import StoredInfo, StoredVolume
from seg3d.training.ema import Ema

Predict = Callable[[nn.Module, torch.Tensor, Sequence[float]], torch.Tensor]
BuildOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
LearningRateFactor = Callable[[int], float]


@dataclass(frozen=True)
class CaseScore:
    """Dice of one validation case: by label value, ``nan`` where neither prediction nor reference has the label.

    A region stands under the label value that it is shown as.
    """

    case_id: str
    dice: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over the labels that are defined; ``nan`` when none is."""
        defined = [value for value in self.dice.values() if not math.isnan(value)]
        return sum(defined) / len(defined) if defined else math.nan


class SegmentationModule(pl.LightningModule):
    """Trains a network on patches and validates it on whole volumes.

    Args:
        network: Gives logits ``(batch, output, x, y, z)``.
        loss: Of logits, labels ``(batch, x, y, z)`` and, where a batch has them, weights ``(batch, x, y, z)``.
        build_optimizer: Makes the optimiser of the network.
        learning_rate_factor: Factor on the learning rate at each optimiser step.
        predict: Probabilities ``(output, x, y, z)`` of a whole volume.
        labels: Foreground label values, sorted; the network has one output more, the background, first.
        regions: Where there are any, the network has one output for each of them instead.
        ignore_label: Voxels of this reference label count nowhere.
        seed: Seed of dropout, keyed by step; ``None`` leaves torch's generator alone.
        ema_decay: Decay of the running mean of the weights that is validated and kept; ``None``: off.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        build_optimizer: BuildOptimizer,
        learning_rate_factor: LearningRateFactor,
        predict: Predict,
        *,
        labels: Sequence[int],
        regions: Sequence[Region] = (),
        ignore_label: int | None,
        seed: int | None,
        ema_decay: float | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.ema = None if ema_decay is None else Ema(network, ema_decay)
        self.scores: list[CaseScore] = []
        self.batch_loss = torch.tensor(math.nan)  # of the last batch; what Lightning tells is divided by accumulate
        self._build_optimizer = build_optimizer
        self._learning_rate_factor = learning_rate_factor
        self._predict = predict
        self._labels = tuple(labels)
        self._regions = tuple(regions)
        self._ignore_label = ignore_label
        self._seed = seed

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, which goes on with every optimiser step."""
        optimizer = self._build_optimizer(self.network)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Key dropout by step and rank, so that it is the same after any interruption."""
        if self._seed is not None:
            torch.manual_seed(derived_seed(self._seed, "step", self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Loss of a batch."""
        loss: torch.Tensor = self.loss(self.network(batch["image"]), batch["label"], batch.get("weights"))
        self.batch_loss = loss.detach()
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """An optimiser step, after which the running mean of the weights follows."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.network)

    def on_fit_start(self) -> None:
        """Part the running mean of the weights from that of the process that spawned this one."""
        if self.ema is not None:
            self.ema.own()

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the last validation; all ranks score with the running mean that is kept."""
        self.scores = []
        if self.ema is not None and self.trainer.world_size > 1:
            self.ema.take_from_first_rank()

    def validation_step(self, case: StoredInfo | None, batch_idx: int) -> None:
        """Predict a whole case and score it; ``None`` fills up a rank that has one case less."""
        if case is None:
            return
        volume = StoredVolume(case)
        assert volume.label is not None
        image = torch.from_numpy(volume.image).to(self.device)
        if self.ema is None:
            probabilities = self._predict(self.network, image, case.minimum)
        else:
            with self.ema.swap(self.network):
                probabilities = self._predict(self.network, image, case.minimum)
        score = self._region_dice if self._regions else self._label_dice
        self.scores.append(CaseScore(case.case_id, score(probabilities, np.asarray(volume.label))))

    def _label_dice(self, probabilities: torch.Tensor, reference: NDArray[Any]) -> dict[int, float]:
        # background, the first output, is 0; the others are in the order of their values
        values = np.array((0, *self._labels), np.min_scalar_type(max(self._labels, default=0)))
        found = values[probabilities.argmax(dim=0).cpu().numpy()]
        return dice_per_label(found, reference, self._labels, ignore_label=self._ignore_label)

    def _region_dice(self, probabilities: torch.Tensor, reference: NDArray[Any]) -> dict[int, float]:
        # of the label map, as prediction writes it: what a later region covers counts for the earlier one, too
        found = assemble_regions(probabilities.cpu().numpy(), self._regions)
        ignored = self._ignore_label
        dice: dict[int, float] = {}
        for region in self._regions:
            masks = as_region_map(found, region, ignored), as_region_map(reference, region, ignored)
            dice |= dice_per_label(*masks, [region.label], ignore_label=ignored)
        return dice

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move tensors; a validation case stays the description that it is."""
        if not isinstance(batch, Mapping):
            return batch
        return {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}

    def on_validation_epoch_end(self) -> None:
        """Bring the ranks' scores together, in the order of their case names."""
        scores = self.scores
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, scores)
            scores = [score for part in gathered for score in part]
        self.scores = sorted(scores, key=lambda score: score.case_id)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the running mean of the weights too."""
        if self.ema is not None:
            checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the running mean of the weights."""
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint["ema"])


def mean_dice(scores: Sequence[CaseScore]) -> float:
    """Mean over cases of each case's mean foreground Dice; ``nan`` when no case is defined."""
    defined = [score.mean for score in scores if not math.isnan(score.mean)]
    return sum(defined) / len(defined) if defined else math.nan


def mean_dice_of(scores: Sequence[CaseScore], label: int) -> float:
    """Mean over cases of one label's Dice; ``nan`` when no case is defined."""
    defined = [score.dice[label] for score in scores if not math.isnan(score.dice[label])]
    return sum(defined) / len(defined) if defined else math.nan
