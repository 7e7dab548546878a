"""``seg3d plan``: what a study will cost, before anything of it runs."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.build import training as build
from seg3d.build.dataset import build_dataset, build_recipe, split_members
from seg3d.build.prediction import build_window, device_type, resolve_precision
from seg3d.build.settings import attempts, counted_labels
from seg3d.cases import Dataset
from seg3d.config import Config, as_config
from seg3d.forecast.forecast import Study, forecast_prediction, forecast_store, forecast_training
from seg3d.forecast.probe import Probed, Task, probe
from seg3d.forecast.sizes import CaseSize, case_sizes, pick_sample
from seg3d.verbs.plan_sample import in_process, sample
from seg3d.verbs.prepare import refuse_unsound
from seg3d.verbs.prepare_cases import usable_cores
from seg3d.volume import Grid


def plan(config: Config | Path | str, overrides: Sequence[str] = (), *, budget_seconds: float = 30.0) -> dict[str, Any]:
    """What a study will cost: disk, memory and time of preparing, training and predicting, as JSON.

    The headers of all scans are read; the largest case and two others are prepared, in a temporary folder, for the
    share that a crop to the foreground keeps and for the time; a few training steps and a batch of tiles are computed
    on made-up data. Nothing is left behind.

    Args:
        config: A config or the path of one.
        overrides: ``path=value`` settings.
        budget_seconds: Time for the measured steps, of which one at least is counted after two to warm up.

    Raises:
        Seg3dError: The config or the data cannot be used, as ``prepare`` and ``train`` would say.
    """
    config = as_config(config, overrides)
    dataset = build_dataset(config)
    refuse_unsound(dataset)
    recipe = build_recipe(config, len(dataset.channels))
    labels = counted_labels(dataset.labels, dataset.ignore_label)
    for attempt in attempts(config, dataset.labels, dataset.ignore_label, dataset.regions).values():
        attempt()
    sizes = case_sizes(dataset, recipe)
    config = _settled(config)
    sampled = in_process(sample, (dataset, recipe, tuple(pick_sample(sizes))))
    validation = _validation_cases(config, dataset, sizes)
    study = Study(config, recipe, len(dataset.channels), dataset.labels, sizes, sampled, validation)
    task = Task(config, _typical_grid(study), study.channels, labels, dataset.regions, budget_seconds)
    probed: Probed = in_process(probe, task)
    window = build_window(config, dataset.regions)
    return {
        "config": config.name,
        "machine": _machine(config),
        "store": forecast_store(study) | {"free_bytes": _free_bytes(Path(config.data.store))},
        "training": forecast_training(study, probed, window, probed.rest_bytes),
        "prediction": forecast_prediction(study, probed, window),
    }


def _settled(config: Config) -> Config:
    """The config with what it leaves to the machine written down."""
    workers = config.prepare.workers or usable_cores()
    config = build.resolve(config)
    return config.model_copy(update={"prepare": config.prepare.model_copy(update={"workers": workers})})


def _validation_cases(config: Config, dataset: Dataset, sizes: Sequence[CaseSize]) -> list[CaseSize]:
    """About the cases that will be held for validation: which of them hold the rare label is not known yet."""
    split = split_members(config, [(c.case_id, c.group, False) for c in dataset.cases if c.labelled])
    chosen = set(split.val)
    return [size for size in sizes if size.case.case_id in chosen]


def _typical_grid(study: Study) -> Grid:
    """The prepared grid of a case of median size."""
    ordered = sorted(study.sizes, key=lambda size: (size.voxels, size.case.case_id))
    median = ordered[len(ordered) // 2]
    shape = study.shape(median)
    spacing = list(study.recipe.spacing_mm or median.grid.spacing_mm)
    if study.recipe.size is not None:
        lengths = zip(median.grid.shape, study.kept, spacing, shape, strict=True)
        spacing = [n * kept * mm / m for n, kept, mm, m in lengths]
    return Grid(shape, np.diag([*spacing, 1.0]))


def _machine(config: Config) -> dict[str, Any]:
    device = device_type(config)
    return {"device": device, "precision": resolve_precision(config), "cores": os.cpu_count()}


def _free_bytes(store: Path) -> int:
    """Free disk where the store will be."""
    folder = next(parent for parent in [store.resolve(), *store.resolve().parents] if parent.exists())
    return shutil.disk_usage(folder).free


def format_plan(found: dict[str, Any]) -> str:
    """The forecast for people to read."""
    store, training, prediction = found["store"], found["training"], found["prediction"]
    machine = found["machine"]
    crop = "x".join(f"{share:.2f}" for share in store["kept_by_crop"])
    sampled = f"{len(store['sampled'])} of {store['cases']} cases prepared to tell"
    gpu = "measured" if training["gpu_measured"] else "estimated by a model in fp32: no GPU is at hand"
    shape = "x".join(map(str, prediction["shape"]))
    rows = [
        ("store", f"{_size(store['bytes'])} of disk ({_size(store['free_bytes'])} free), {sampled}"),
        ("", f"a crop to the foreground keeps {crop} of a scan" if set(store["kept_by_crop"]) != {1.0} else ""),
        (
            "prepare",
            f"{_time(store['seconds']['wall'])} with {store['workers']} workers of "
            f"{_size(store['peak_bytes_per_worker'])} memory",
        ),
        (
            "train",
            f"{_time(training['seconds_per_epoch']['wall'])} an epoch of {training['batches_per_epoch']} batches, "
            f"{training['seconds_per_batch']['wall']:.3g} s each ({machine['device']}, {machine['precision']}; "
            f"{training['measured_batches']} measured)",
        ),
        (
            "",
            f"{_time(training['seconds_per_validation']['wall'])} a validation of {training['validation_cases']} "
            f"cases, {training['validations']} times",
        ),
        ("", f"{_time(training['seconds']['wall'])} for all {training['epochs']} epochs"),
        ("", f"{_size(training['peak_bytes'])} memory, {_size(training['run_bytes'])} of disk for checkpoints"),
        ("", f"GPU memory {_size(training['gpu_bytes'])} ({gpu})"),
        (
            "predict",
            f"{_time(prediction['seconds']['wall'])} and {_size(prediction['peak_bytes'])} memory for the largest "
            f"case, {prediction['case']}: {shape} voxels, {prediction['tiling']}",
        ),
    ]
    return "\n".join(f"{name:<8} {text}" for name, text in rows if text)


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**29 else f"{count / 2**20:.3g} MiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{math.floor(minutes / 60)} h {minutes % 60:.0f} min"
