"""What every process of a training with several devices needs: the settings that the run recorded."""

from __future__ import annotations

import pytorch_lightning as pl

from seg3d.training.reproducibility import Reproducibility


class RankSetup(pl.Callback):
    """Sets each rank up like the process that began the run; a spawned process starts with torch's own defaults.

    Args:
        reproducibility: How the run is computed. Nothing is seeded by it: the weights are there already, and dropout is
            keyed by step and rank.
    """

    def __init__(self, reproducibility: Reproducibility) -> None:
        self._reproducibility = reproducibility

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose threads and algorithms before anything is computed in this process."""
        self._reproducibility.configure()
