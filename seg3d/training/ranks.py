"""What every process of a training with several devices needs: the settings that the run recorded, and a voice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from seg3d.errors import RunError, told_in
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


@contextmanager
def told_by_ranks() -> Iterator[None]:
    """Tell a user's mistake that a spawned process has found as this one would; torch hands its traceback on alone.

    Raises:
        RunError: A process ended with an error of this package, or was killed.
    """
    try:
        yield
    except ProcessRaisedException as error:
        found = told_in(str(error))
        if found is None:
            raise
        raise RunError(found) from error
    except ProcessExitedException as error:
        raise RunError(
            "a process of the training was killed, most often for lack of memory",
            got=error,
            fix="Free some, and continue with 'seg3d resume'.",
        ) from error
