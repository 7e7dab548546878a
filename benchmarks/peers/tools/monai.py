"""MONAI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn


def predictor(network: nn.Module, tile: int, batch: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Label map ``(x, y, z)`` of an image by its sliding window: half overlap, Gaussian weights."""
    from monai.inferers import sliding_window_inference

    def predict(image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits = sliding_window_inference(image[None], (tile,) * 3, batch, network, overlap=0.5, mode="gaussian")
            return logits[0].argmax(0).to(torch.uint8)

    return predict


def supply(cases: list[str], workers: int, visits: int, augment: str) -> Callable[[], int]:
    """An epoch of patches each call: cached volumes with cached places of the classes, and random crops.

    With one case it is visited several times an epoch, so that an epoch is as long as that of the others.
    """
    import numpy as np
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import (
        Compose,
        FgBgToIndicesd,
        LoadImaged,
        Rand3DElasticd,
        RandAdjustContrastd,
        RandAffined,
        RandCropByPosNegLabeld,
        RandGaussianNoised,
    )

    from benchmarks.sampling import PATCH

    keys, linear = ("image", "label"), ("bilinear", "nearest")
    crop = RandCropByPosNegLabeld(
        keys, "label", PATCH, 1, 1, 8, fg_indices_key="label_fg_indices", bg_indices_key="label_bg_indices"
    )
    moves = {"prob": 1.0, "rotate_range": (np.radians(15),) * 3, "scale_range": (0.15,) * 3, "mode": linear}
    steps = {
        "none": [],
        "affine": [RandAffined(keys, **moves)],
        "all": [
            Rand3DElasticd(keys, sigma_range=(8, 8), magnitude_range=(100, 200), **moves),
            RandGaussianNoised("image", prob=1.0, std=0.1),
            RandAdjustContrastd("image", prob=1.0, gamma=(0.7, 1.5)),
        ],
    }[augment]
    load = [LoadImaged(keys, ensure_channel_first=True), FgBgToIndicesd("label")]
    files = [{"image": f"{case}.nii", "label": f"{case}_label.nii"} for case in cases]
    dataset = CacheDataset(files, Compose([*load, crop, *steps]), num_workers=1, progress=False)
    often = torch.utils.data.ConcatDataset([dataset] * max(1, visits // len(cases)))
    loader = DataLoader(often, batch_size=1, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def work() -> int:
        return sum(len(batch["image"]) for batch in loader)

    return work


def train_steps(steps: int, mark: Callable[[], None], dataset: Path, folder: Path) -> None:
    """Lightning's trainer with MONAI's loss on a batch in memory; ``mark`` is called after each of three epochs."""
    import pytorch_lightning as pl
    from monai.losses import DiceCELoss

    from benchmarks.peers.tools.plain import CLASSES, CLIP, LEARNING_RATE, WEIGHT_DECAY, make_batch
    from seg3d.models import ReducedUNet

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = ReducedUNet(1, CLASSES)
            self.loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            loss: torch.Tensor = self.loss(self.network(batch[0]), batch[1][:, None])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

        def on_train_epoch_end(self) -> None:
            mark()

    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", gradient_clip_val=CLIP, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    batches = torch.utils.data.DataLoader([make_batch()] * steps, batch_size=None)
    trainer.fit(Module(), batches)


SCRIPT = """
import sys
import torch
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, EnsureType, LoadImage, NormalizeIntensity, SaveImage
from seg3d.models import ReducedUNet

weights, scan, folder = sys.argv[1:]
network = ReducedUNet(1, 2).eval()
network.load_state_dict(torch.load(weights, weights_only=True))
image = Compose([LoadImage(ensure_channel_first=True), EnsureType(), NormalizeIntensity()])(scan)
with torch.inference_mode():
    found = sliding_window_inference(image[None], (48, 64, 48), 2, network, overlap=0.5, mode="gaussian")
SaveImage(output_dir=folder, output_postfix="", separate_folder=False)(found[0].argmax(0, keepdim=True))
"""  # what a user writes, as MONAI has no program that predicts with a network of one's own


def make_model(dataset: Path, model: Path) -> None:
    """Weights of the network that seg3d's run has."""
    from seg3d.models import ReducedUNet

    torch.save(ReducedUNet(1, 2).state_dict(), model)


def predict_command(dataset: Path, model: Path, folder: Path) -> list[str]:
    """Predicts the first scan into ``folder / "answers"``."""
    scan = min((dataset / "imagesTr").iterdir())
    return ["python", "-c", SCRIPT, str(model), str(scan), str(folder / "answers")]
