"""What MLflow is told while a run trains."""

from __future__ import annotations

import pytorch_lightning as pl

from seg3d.training.callbacks import Recorder
from seg3d.training.tracking import Tracker


class EpochMirror(pl.Callback):
    """Sends each epoch's row of the recorder to MLflow, from rank 0.

    Args:
        uri: Tracking URI.
        run_id: The MLflow run.
        recorder: Whose rows are sent; it must come before this callback.
    """

    def __init__(self, uri: str, run_id: str, recorder: Recorder) -> None:
        self._uri, self._run_id, self._recorder = uri, run_id, recorder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the last row."""
        if trainer.global_rank == 0:
            from mlflow import MlflowClient

            row = self._recorder.history[-1]
            Tracker(MlflowClient(self._uri), self._run_id).log_metrics(row, trainer.current_epoch)
