"""``seg3d train``: from a config to a finished run folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from seg3d.atomic import exclusive, write_json
from seg3d.auditing.differences import changed_files
from seg3d.build import training as build
from seg3d.build.dataset import build_dataset, scored
from seg3d.build.prediction import build_reproducibility, device_type
from seg3d.build.settings import attempts, counted_labels, steps_per_epoch, swapped_sides
from seg3d.cases import Split
from seg3d.config import Config, as_config, config_digest, to_yaml
from seg3d.digest import sha256_json
from seg3d.errors import DataError, RunError
from seg3d.training.callbacks import Recorder
from seg3d.training.data import PatchDataModule
from seg3d.training.environment import code_patch, describe_environment, has_fast_bf16
from seg3d.training.fit import fit, make_trainer
from seg3d.training.memory import describe_allocator, kept_memory
from seg3d.training.mirror import EpochMirror, Mirror
from seg3d.training.outcome import load_plain, read_progress, refuse_diverged, summarise
from seg3d.training.progress import Progress
from seg3d.training.ranks import RankSetup
from seg3d.training.reproducibility import choose_cublas_workspace
from seg3d.training.run_folder import (
    INITIAL_WEIGHTS,
    FolderTakenError,
    RunFolder,
    latest_run,
    new_run_folder,
    read_json,
)
from seg3d.training.start import Start, read_start
from seg3d.training.tracking import Tracker, start_tracking
from seg3d.verbs.initial_weights import initial_of, meaning_of_outputs, refuse_other_network, tell_seen
from seg3d.verbs.leaks import shared_images
from seg3d.verbs.prepare import Store, prepare, refuse_unsound
from seg3d.verbs.report import draw_report

# files of a run folder that MLflow gets, beside figures
_DOCUMENTS = (".json", ".yaml", ".csv", ".jsonl", ".patch", ".html")


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


@dataclass(frozen=True, eq=False)
class Job:
    """A run with all that is needed to compute it.

    Attributes:
        config: The resolved config.
        folder: Its folder.
        store: The prepared cases.
        split: Their parts.
    """

    config: Config
    folder: RunFolder
    store: Store
    split: Split


def train(
    config: Config | Path | str,
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    tags: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = say,
) -> Path:
    """The folder of a finished run: prepares what is not prepared yet, trains, writes ``result.json``.

    Args:
        config: A config or the path of one.
        overrides: ``path=value`` settings.
        folder: Folder of the run, which is not there yet; by default a new one in ``output_dir``.
        tags: More tags of the MLflow run.
        tell: Called with a line for each epoch; a function that can be pickled.

    Raises:
        Seg3dError: The config, the data or the tracking server cannot be used.
    """
    job = begin(as_config(config, overrides), tell, folder, tags)
    with exclusive(job.folder.path):
        carry_out(job, tell)
    return job.folder.path


def begin(
    config: Config,
    tell: Callable[[str], None] = say,
    folder: Path | None = None,
    tags: Mapping[str, str] | None = None,
    split: Split | None = None,
) -> Job:
    """A run that is about to start: data prepared, process set up, every setting resolved, folder made.

    Args:
        config: Its config.
        tell: Called with what a user should know.
        folder: Its folder, which is not there yet; by default a new one in ``output_dir``.
        tags: More tags of the MLflow run.
        split: Parts of the cases instead of those that the config asks for.

    Raises:
        Seg3dError: The config, the data or the tracking server cannot be used; no folder is left.
    """
    _refuse_unfit_settings(config)
    start = None if config.train.initial_weights is None else read_start(Path(config.train.initial_weights))
    store = prepare(config, tell=tell)
    split = split or build.build_split(config, store.labelled, store.groups)
    if not split.train:
        raise DataError("no case is left for training", where="data.split", fix="Lower val_share or test_share.")
    if config.reproducibility.mode == "deterministic":
        choose_cublas_workspace()  # before anything asks what the GPU can do
    config = build.resolve(config)
    if config.reproducibility.mode == "random":
        tell(f"mode random: nothing is seeded; the seed drawn by chance is {config.seed}")
    for note in _doubts(config, store, split):
        tell(f"NOTE: {note}")
    build_reproducibility(config).apply(config.seed)
    prefetch = _refuse_unfit(config, store, split).prefetch
    if start is not None:
        refuse_other_network(config, store, start, tell)
    identity = _identity(config, store, split, start)
    earlier = latest_run(folder.parent if folder else Path(config.output_dir), config.name)
    target = _create(folder, config, store, split, identity, earlier, tell, prefetch, start)
    job = Job(config, target, store, split)
    if config.tracking.enabled:
        _start_tracking(job, tags or {})
    return job


def carry_out(
    job: Job,
    tell: Callable[[str], None] = say,
    *,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    report: bool = True,
) -> dict[str, Any]:
    """Train and give what ``result.json`` then holds.

    Args:
        job: The run; the process is set up for it.
        tell: Called with a line for each epoch; a function that can be pickled.
        checkpoint: Continue from it.
        stop_after: Epochs after which it stops, however many are planned.
        report: Also make the run's page.
    """
    progress = Progress() if checkpoint is None else read_progress(load_plain(checkpoint))
    started = time.perf_counter()
    with kept_memory(job.config.reproducibility.keep_memory), _tracked(job, tell) as mirror:
        _fit(job, mirror, tell, progress, checkpoint, stop_after)
        seconds = progress.seconds + progress.epoch_seconds + time.perf_counter() - started
        identity = job.folder.identity
        result = summarise(job.folder) | identity | {"seconds": seconds, "changed": job.folder.changes()}
        write_json(job.folder.result, result)
        if report:
            draw_report(job.folder, tell)
    return result


def _doubts(config: Config, store: Store, split: Split) -> Iterator[str]:
    """What is to be known of settings that are allowed."""
    chosen = config.train
    if chosen.precision == "bf16" and not has_fast_bf16(device_type(config)):
        yield "this processor emulates bf16, tens of times slower than fp32; train.precision=auto would not"
    unscored = chosen.max_epochs % chosen.validate_every
    if not split.val or chosen.validate_every > chosen.max_epochs:
        yield "nothing is validated: the run predicts with its last weights"
    elif unscored:
        last = f"the last {unscored} epochs are" if unscored > 1 else "the last epoch is"
        yield f"{last} not validated, so the run never predicts with what is learnt there (train.validate_every)"
    warm_up, steps = chosen.schedule.warmup_steps, steps_per_epoch(config) * chosen.max_epochs
    if warm_up > steps:
        yield f"the learning rate never gets as high as asked: it rises for {warm_up} steps, of {steps}"
    if (swapped := swapped_sides(config, store.labels, store.regions)) is not None:
        yield str(swapped)


def _refuse_unfit_settings(config: Config) -> None:
    """Tell which settings do not fit the labels of the dataset, before hours are spent on preparing it."""
    dataset = build_dataset(config)
    refuse_unsound(dataset)
    for attempt in attempts(config, dataset.labels, dataset.ignore_label, dataset.regions).values():
        attempt()


def _refuse_unfit(config: Config, store: Store, split: Split) -> PatchDataModule:
    """Tell what does not fit the data, and what this machine cannot do, before a run folder is made."""
    counted = counted_labels(store.labels, store.ignore_label)
    data = build.build_data(config, store.select(split.train), (), counted)
    make_trainer(build.build_fit_settings(config))
    return data


def _identity(config: Config, store: Store, split: Split, start: Start | None) -> dict[str, Any]:
    digests = {
        "config_sha256": config_digest(config),
        "data_sha256": data_digest(store),
        "split_sha256": split.digest,
        "seed": config.seed,
    }
    if start is not None:
        digests["initial_weights_sha256"] = start.sha256
    return {**digests, "identity_sha256": sha256_json(digests)}


def data_digest(store: Store) -> str:
    """SHA-256 over the content of every labelled case, and over the regions where there are any."""
    content = {case.case_id: case.content_sha256 for case in store.labelled}
    regions = [region.as_dict() for region in store.regions]
    return sha256_json({"cases": content, "regions": regions} if regions else content)


def data_record(store: Store) -> dict[str, Any]:
    """Digests of every labelled case and of the files that it was made from."""
    cases = {c.case_id: {"content_sha256": c.content_sha256, "sources": c.source_sha256} for c in store.labelled}
    return {"data_sha256": data_digest(store), "cases": cases}


def _create(
    folder: Path | None,
    config: Config,
    store: Store,
    split: Split,
    identity: Mapping[str, Any],
    earlier: RunFolder | None,
    tell: Callable[[str], None],
    prefetch: str,
    start: Start | None,
) -> RunFolder:
    data = data_record(store)
    if start is not None:
        data |= {INITIAL_WEIGHTS: start.record()}
        tell_seen(store, split, data[INITIAL_WEIGHTS], tell)
    if shared := shared_images(store.labelled, split):
        data |= {"shared_images": shared}
        tell("NOTE: the same image is in different parts of the split, which makes scores too good:")
        tell("\n".join(f"  {line}" for line in shared))
        tell("  Leave one of them out, or give them one group: data.groups.")
    if earlier is not None:
        changed = changed_files(read_json(earlier.data), data)
        data |= {"compared_with": earlier.path.name, "changed_files": changed}
        if changed:
            tell(f"NOTE: the data differ from those of the last run of {config.name} ({earlier.path.name}):")
            tell("\n".join(f"  {line}" for line in changed))
    documents: dict[str, Any] = {
        "splits.json": split.as_dict(),
        "environment.json": describe_environment()
        | {
            "prefetch": {"mode": prefetch, "workers": config.data.num_workers},
            "allocator": describe_allocator(config.reproducibility.keep_memory),
        },
        "data.json": data,
        "model.json": {
            "channels": list(store.channels),
            "recipe_sha256": store.recipe_sha256,
            **meaning_of_outputs(store),
        },
    }
    if patch := code_patch():
        documents["code.patch"] = patch + "\n"
    name = f"{config.name}-{identity['identity_sha256'][:8]}"
    while True:
        target = RunFolder(folder) if folder else new_run_folder(Path(config.output_dir), name)
        try:
            target.create(config.model_dump(mode="json"), to_yaml(config), documents, identity)
        except FolderTakenError:  # by another process with the same config, since the name was found free
            if folder is not None:
                raise
            continue
        return target


def _fit(
    job: Job,
    mirror: Mirror | None,
    tell: Callable[[str], None],
    progress: Progress,
    checkpoint: Path | None,
    stop_after: int | None,
) -> None:
    config, store, split = _with_prefetch(job), job.store, job.split
    initial = None if checkpoint is not None else initial_of(job.config, job.folder, job.store)
    counted = counted_labels(store.labels, store.ignore_label)
    begun = (progress.epoch, progress.batches)
    data = build.build_data(config, store.select(split.train), store.select(split.val), counted, begun)
    module = build.build_module(
        config,
        len(store.channels),
        counted,
        store.ignore_label,
        steps=steps_per_epoch(config) * config.train.max_epochs,
        seed=None if config.reproducibility.mode == "random" else config.seed,
        regions=store.regions,
        initial=initial,
    )
    recorder = Recorder(
        job.folder,
        build.build_certifier(data, counted),
        scored(store.labels, store.ignore_label, store.regions),
        patience=config.train.early_stop_patience,
        checkpoint_steps=config.train.checkpoint_steps,
        stop_after=stop_after,
        tell=tell,
    )
    callbacks: list[pl.Callback] = [RankSetup(build_reproducibility(config)), recorder]
    if mirror is not None:
        callbacks.append(EpochMirror(mirror, recorder))
    fit(module, data, build.build_fit_settings(config), callbacks, checkpoint)
    refuse_diverged(job.folder)


def _with_prefetch(job: Job) -> Config:
    """The config with what reads ahead as it was measured when the run began."""
    data, recorded = job.config.data, read_json(job.folder.environment).get("prefetch")
    if data.prefetch != "auto" or recorded is None:  # older runs have no record
        return job.config
    return job.config.model_copy(update={"data": data.model_copy(update={"prefetch": recorded["mode"]})})


def _start_tracking(job: Job, tags: Mapping[str, str]) -> None:
    """Make the MLflow run and remember it in the run folder."""
    config, identity = job.config, job.folder.identity
    try:
        tracker = start_tracking(
            config.tracking.uri,
            config.tracking.experiment or config.name,
            job.folder.path.name,
            config.model_dump(mode="json"),
            {key: str(value) for key, value in identity.items()} | {"run_folder": job.folder.path.name, **tags},
        )
    except RunError:
        shutil.rmtree(job.folder.path)  # nothing was trained in it yet
        raise
    write_json(job.folder.tracking, {"run_id": tracker.run_id})


@contextmanager
def _tracked(job: Job, tell: Callable[[str], None]) -> Iterator[Mirror | None]:
    """The MLflow run around the training; its end says whether that ended well."""
    if not job.config.tracking.enabled or not job.folder.tracking.exists():
        yield None
        return
    mirror = Mirror(job.config.tracking.uri, read_json(job.folder.tracking)["run_id"], tell)
    mirror.send(lambda _: None)  # a resumed run is under way again
    try:
        yield mirror
    except BaseException:
        mirror.send(lambda tracker: tracker.end("FAILED"))
        raise
    mirror.send(lambda tracker: _finish(tracker, job.folder))


def _finish(tracker: Tracker, folder: RunFolder) -> None:
    tracker.log_files([path for path in sorted(folder.path.iterdir()) if path.suffix in _DOCUMENTS])
    tracker.log_files(sorted(folder.figures.glob("*.png")), "figures")
    tracker.end()
