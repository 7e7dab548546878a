"""``seg3d train``: from a config to a finished run folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from seg3d.atomic import write_json
from seg3d.build import training as build
from seg3d.build.dataset import foreground
from seg3d.cases import Split
from seg3d.config import Config, as_config, config_digest, to_yaml
from seg3d.digest import sha256_json
from seg3d.errors import ConfigError, DataError, RunError
from seg3d.reporting.curves import learning_curve_figure
from seg3d.training.callbacks import Recorder
from seg3d.training.environment import describe_environment
from seg3d.training.fit import fit, make_trainer
from seg3d.training.outcome import read_metrics, summarise
from seg3d.training.run_folder import RunFolder, new_run_folder
from seg3d.training.tracking import EpochMirror, Tracker, start_tracking
from seg3d.verbs.prepare import Store, prepare


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def train(config: Config | Path | str, overrides: Sequence[str] = (), *, tell: Callable[[str], None] = say) -> Path:
    """The folder of a finished run: prepares what is not prepared yet, trains, writes ``result.json``.

    Args:
        config: A config or the path of one.
        overrides: ``path=value`` settings.
        tell: Called with a line for each epoch; a function that can be pickled.

    Raises:
        Seg3dError: The config, the data or the tracking server cannot be used.
    """
    started = time.perf_counter()
    config = as_config(config, overrides)
    steps = _steps_per_epoch(config) * config.train.max_epochs
    store = prepare(config)
    split = build.build_split(config, store.labelled, store.groups)
    if not split.train:
        raise DataError("no case is left for training", where="data.split", fix="Lower val_share or test_share.")
    seed = build.build_reproducibility(config).apply(config.seed)
    make_trainer(build.build_fit_settings(config))  # what this machine cannot do is told before a run folder is made
    config = config.model_copy(update={"seed": seed})
    identity = _identity(config, store, split)
    folder = _create_folder(config, store, split, identity)
    with _tracked(config, folder, identity) as tracker:
        _fit(config, folder, store, split, steps, tracker, tell)
        result = summarise(folder) | identity | {"seconds": time.perf_counter() - started}
        write_json(folder.result, result)
    return folder.path


def _identity(config: Config, store: Store, split: Split) -> dict[str, Any]:
    digests = {
        "config_sha256": config_digest(config),
        "data_sha256": sha256_json({case.case_id: case.content_sha256 for case in store.labelled}),
        "split_sha256": split.digest,
        "seed": config.seed,
    }
    return {**digests, "identity_sha256": sha256_json(digests)}


def _create_folder(config: Config, store: Store, split: Split, identity: dict[str, Any]) -> RunFolder:
    folder = new_run_folder(Path(config.output_dir), f"{config.name}-{identity['identity_sha256'][:8]}")
    cases = {c.case_id: {"content_sha256": c.content_sha256, "sources": c.source_sha256} for c in store.labelled}
    folder.create(
        to_yaml(config),
        {
            "splits.json": split.as_dict(),
            "environment.json": describe_environment(),
            "data.json": {"data_sha256": identity["data_sha256"], "cases": cases},
            "model.json": {
                "channels": list(store.channels),
                "labels": dict(store.labels),
                "ignore_label": store.ignore_label,
                "recipe_sha256": store.recipe_sha256,
            },
        },
    )
    return folder


def _fit(
    config: Config,
    folder: RunFolder,
    store: Store,
    split: Split,
    steps: int,
    tracker: Tracker | None,
    tell: Callable[[str], None],
) -> None:
    counted = {name: value for name, value in store.labels.items() if value != store.ignore_label}
    data = build.build_data(config, store.select(split.train), store.select(split.val), counted)
    module = build.build_module(
        config,
        len(store.channels),
        counted,
        store.ignore_label,
        steps=steps,
        seed=None if config.reproducibility.mode == "random" else config.seed,
    )
    recorder = Recorder(
        folder,
        build.build_certifier(data, counted),
        {value: name for name, value in foreground(store.labels, store.ignore_label).items()},
        patience=config.train.early_stop_patience,
        tell=tell,
    )
    callbacks: list[pl.Callback] = [recorder]
    if tracker is not None:
        callbacks.append(EpochMirror(config.tracking.uri, tracker.run_id, recorder))
    fit(module, data, build.build_fit_settings(config), callbacks)
    learning_curve_figure(read_metrics(folder), folder.figures / "learning_curve.png")


def _steps_per_epoch(config: Config) -> int:
    """Optimiser steps of an epoch.

    Raises:
        ConfigError: The patches of an epoch do not fill whole batches on every device.
    """
    chosen = config.train
    batch = chosen.batch_size * chosen.devices
    patches = config.sampling.patches_per_epoch
    if patches % batch:
        raise ConfigError(
            "the patches of an epoch do not fill whole batches",
            where="sampling.patches_per_epoch",
            got=patches,
            expected=f"a multiple of batch_size x devices = {batch}",
            fix=f"The nearest is {max(batch, round(patches / batch) * batch)}.",
        )
    return -(-patches // (batch * chosen.accumulate))


@contextmanager
def _tracked(config: Config, folder: RunFolder, identity: dict[str, Any]) -> Iterator[Tracker | None]:
    """An MLflow run around the training; its end says whether that ended well."""
    if not config.tracking.enabled:
        yield None
        return
    try:
        tracker = start_tracking(
            config.tracking.uri,
            config.tracking.experiment or config.name,
            folder.path.name,
            config.model_dump(mode="json"),
            {key: str(value) for key, value in identity.items()} | {"run_folder": folder.path.name},
        )
    except RunError:
        shutil.rmtree(folder.path)  # nothing was trained in it yet
        raise
    try:
        yield tracker
    except BaseException:
        tracker.end("FAILED")
        raise
    documents = [p for p in sorted(folder.path.iterdir()) if p.suffix in (".json", ".yaml", ".csv", ".jsonl")]
    tracker.log_files(documents)
    tracker.log_files(sorted(folder.figures.glob("*.png")), "figures")
    tracker.end()
