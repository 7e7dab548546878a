"""MLflow: a mirror of the run folder that can be searched; the folder stays the truth."""

from __future__ import annotations

import logging
import math
import os
import posixpath
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg3d.errors import RunError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_LONGEST_NAME = 250
_LONGEST_VALUE = 6000  # that MLflow takes for a setting


@dataclass
class Tracker:
    """One MLflow run; :func:`start_tracking` makes it.

    Attributes:
        client: Client of the server or database.
        run_id: The MLflow run.
    """

    client: MlflowClient
    run_id: str
    _ended: bool = field(default=False, init=False)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log finite values in one request, under names that MLflow takes."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        names = fit_names(values)
        metrics = [Metric(names[k], float(v), now, step) for k, v in values.items() if math.isfinite(v)]
        self.client.log_batch(self.run_id, metrics=metrics)

    def log_files(self, paths: Sequence[Path], folder: str | None = None) -> None:
        """Log files that exist as artifacts."""
        for path in paths:
            if path.is_file():
                self.client.log_artifact(self.run_id, str(path), folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        for key, value in tags.items():
            self.client.set_tag(self.run_id, key, value)

    def end(self, status: str = "FINISHED") -> None:
        """Close the run once."""
        if not self._ended:
            self.client.set_terminated(self.run_id, status)
            self._ended = True


def start_tracking(
    uri: str,
    experiment: str,
    run_name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> Tracker:
    """Start a run on a server (``http://...``) or in a local database (``sqlite:///folder/mlflow.db``).

    Args:
        uri: Tracking URI. A local database keeps its artifacts in ``artifacts`` beside it.
        experiment: Name of the experiment; made if it is not there.
        run_name: Name of the run.
        params: Nested settings; they are logged flat, ``train.max_epochs``.
        tags: Digests and the like.

    Raises:
        RunError: The server or database cannot be used.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    _give_up_soon()
    # migrations of a new database are told line by line otherwise
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        if uri.startswith(_SQLITE):  # sqlite makes the file but not its folder
            Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=uri)
        experiment_id = _experiment(client, uri, experiment)
        run = client.create_run(experiment_id, run_name=run_name, tags=dict(tags))
        settings = flatten(params)
        names = fit_names(settings)
        flat = [Param(names[key], _fit_value(str(value))) for key, value in settings.items()]
        for first in range(0, len(flat), 100):  # the most that a request may hold
            client.log_batch(run.info.run_id, params=flat[first : first + 100])
    except (MlflowException, OSError) as error:
        raise RunError(
            "the tracking server or database cannot be used",
            where=f"tracking.uri = {uri}",
            got=error,
            fix="Start the server, correct tracking.uri, or switch tracking off: tracking.enabled=false.",
        ) from error
    return Tracker(client, run.info.run_id)


def continue_tracking(uri: str, run_id: str) -> Tracker:
    """The MLflow run that was started earlier, open again.

    Raises:
        RunError: The server or database, or the run in it, is not there.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    _give_up_soon()
    try:
        client = MlflowClient(tracking_uri=uri)
        client.update_run(run_id, status="RUNNING")
    except (MlflowException, OSError) as error:
        raise RunError(
            "the MLflow run cannot be continued",
            where=f"tracking.uri = {uri}",
            got=error,
            fix="Start the server again.",
        ) from error
    return Tracker(client, run_id)


def attach(uri: str, run_id: str, paths: Sequence[Path]) -> None:
    """Log files to an MLflow run that goes on or has ended, and leave its state as it is.

    Raises:
        MlflowException: The server, or the run on it, is not there.
    """
    from mlflow import MlflowClient

    _give_up_soon()
    Tracker(MlflowClient(tracking_uri=uri), run_id).log_files(paths)


def fit_name(name: str) -> str:
    """A name of a metric or setting as MLflow takes it: ``_`` for what it refuses, such as the brackets of a label."""
    allowed = re.sub(r"[^\w.\- :/]", "_", name)[:_LONGEST_NAME]
    return allowed if posixpath.normpath(allowed) == allowed else allowed.replace("/", "_")


def fit_names(names: Iterable[str]) -> dict[str, str]:
    """:func:`fit_name` of each, by name; what would be one, such as ``a(b)`` and ``a[b]``, is numbered."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        fitted, number = fit_name(name), 1
        while fitted in taken:
            number += 1
            fitted = f"{fit_name(name)[: _LONGEST_NAME - 6]}_{number}"
        found[name] = fitted
        taken.add(fitted)
    return found


def _fit_value(text: str) -> str:
    """A setting's value as MLflow takes it: what is cut off is told by its end."""
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _give_up_soon() -> None:
    """Have a server that is not there told after seconds instead of minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if uri.startswith(_SQLITE):
        folder = Path(uri.removeprefix(_SQLITE)).resolve().parent / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        location = folder.as_uri()
    return str(client.create_experiment(name, artifact_location=location))
