"""What MLflow is told while a run trains; the run folder is the truth, and a mirror that fails stops nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytorch_lightning as pl

from seg3d.training.callbacks import Recorder
from seg3d.training.tracking import Tracker, continue_tracking


class Mirror:
    """The MLflow run of a run folder. The first failure is told, and from then on nothing is sent.

    Args:
        uri: Tracking URI.
        run_id: The MLflow run.
        tell: Called with a line about a failure; a function that can be pickled.
    """

    def __init__(self, uri: str, run_id: str, tell: Callable[[str], None]) -> None:
        self._uri, self._run_id, self._tell = uri, run_id, tell
        self._failed = False

    def send(self, what: Callable[[Tracker], object]) -> None:
        """Do something with the MLflow run, which is open again; it can be sent from any process."""
        if self._failed:
            return
        try:
            what(continue_tracking(self._uri, self._run_id))
        except Exception as error:  # noqa: BLE001  # a client, a server and a database between them fail in any way
            self._failed = True
            first = next(iter(str(error).splitlines()), type(error).__name__)
            self._tell(f"NOTE: the run is no longer mirrored in MLflow; its folder has everything: {first}")


class EpochMirror(pl.Callback):
    """Sends each epoch's row of the recorder to MLflow, from rank 0.

    Args:
        mirror: The MLflow run.
        recorder: Whose rows are sent; it must come before this callback.
    """

    def __init__(self, mirror: Mirror, recorder: Recorder) -> None:
        self._mirror, self._recorder = mirror, recorder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the last row."""
        if trainer.global_rank == 0:
            row, epoch = self._recorder.history[-1], trainer.current_epoch
            self._mirror.send(lambda tracker: tracker.log_metrics(row, epoch))
