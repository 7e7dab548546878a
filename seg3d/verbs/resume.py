"""``seg3d resume``: a run that was stopped goes on, to the same bits as if it had not been."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seg3d.atomic import append_line, exclusive, remove_leftovers
from seg3d.auditing.differences import changed_files, differences
from seg3d.build.prediction import build_reproducibility
from seg3d.cases import Split
from seg3d.config import WITHOUT_EFFECT, Config, load_config
from seg3d.errors import RunError
from seg3d.training.checkpoints import Checkpoint, copy_as_best, list_checkpoints, newest_sound
from seg3d.training.environment import describe_code, describe_environment
from seg3d.training.outcome import read_checkpoint, read_progress
from seg3d.training.progress import Progress
from seg3d.training.run_folder import RunFolder, open_run_folder, read_json
from seg3d.training.trace import rewind_trace
from seg3d.verbs.prepare import Store, prepare
from seg3d.verbs.train import Job, carry_out, data_record, say


def resume(run: Path | str, *, allow_changed: bool = False, tell: Callable[[str], None] = say) -> Path:
    """The folder of a run, finished: it goes on from its newest sound checkpoint, in the middle of an epoch too.

    Records beyond the checkpoint are cut off and written again. A run that has ended is left as it is; one that has no
    checkpoint yet starts again in its folder.

    Args:
        run: A run folder.
        allow_changed: Go on although config, data or code are not what they were.
        tell: Called with a line for each epoch; a function that can be pickled.

    Raises:
        RunError: The folder is damaged, or config, data or code have changed.
        Seg3dError: The data or the tracking server cannot be used.
    """
    folder = open_run_folder(Path(run))
    folder.check()  # a damaged folder is told, also a finished one
    with exclusive(folder.path):
        if folder.result.exists() and "trace_sha256" in read_json(folder.result):
            tell("the run has ended already")
        else:
            _go_on(folder, allow_changed, tell)
    return folder.path


def _go_on(folder: RunFolder, allow_changed: bool, tell: Callable[[str], None]) -> None:
    config = load_config(folder.config)
    store = prepare(config, tell=tell)
    changed = what_changed(folder, config, store)
    if changed and not allow_changed:
        raise refusal(folder, changed)
    build_reproducibility(config).apply(config.seed)
    split = Split.from_dict(read_json(folder.splits))
    _refuse_absent_cases(folder, split, store)
    checkpoint, damaged = newest_sound(folder.checkpoints, "last")
    for torn in damaged:
        tell(f"damaged, not used: {torn.path.name}")
        torn.path.unlink()
    progress = Progress() if checkpoint is None else read_progress(read_checkpoint(checkpoint))
    _rewind(folder, progress)
    _note(folder, checkpoint, progress, changed, tell)
    carry_out(Job(config, folder, store, split), tell, checkpoint=checkpoint.path if checkpoint else None)


def what_changed(folder: RunFolder, config: Config, store: Store) -> list[str]:
    """A line for each thing in config, data or code that is not as it was when the run began.

    Args:
        folder: The run.
        config: What its ``config.yaml`` says now.
        store: The data as they are now.
    """
    recorded, now = folder.manifest["config"], config.model_dump(mode="json")
    config_lines = differences(recorded, now).items()
    found = [f"config {key}: {was} -> {now}" for key, (was, now) in config_lines if not key.startswith(WITHOUT_EFFECT)]
    found += [f"data {line}" for line in changed_files(read_json(folder.data), data_record(store))]
    trained, given = read_json(folder.path / "model.json").get("regions", []), [r.as_dict() for r in store.regions]
    found += [f"data regions: {trained} -> {given}"] if trained != given else []
    code = differences(read_json(folder.environment)["code"], describe_code())
    if not {"version", "modules_sha256"} & set(code):
        return found  # a commit that leaves the package as it was
    return found + [f"code {key}: {was} -> {now}" for key, (was, now) in code.items()]


def refusal(folder: RunFolder, changed: list[str]) -> RunError:
    """The error that tells what has changed."""
    return RunError(
        "the run is not what it was:\n  " + "\n  ".join(changed) + "\n",
        where=folder.path,
        fix="Restore it, or use --allow-changed: the result is then no longer that of the recorded run.",
    )


def _refuse_absent_cases(folder: RunFolder, split: Split, store: Store) -> None:
    absent = sorted({*split.train, *split.val} - set(store.cases))
    if absent:
        raise RunError("cases of the run are no longer there", where=folder.path, got=", ".join(absent))


def _rewind(folder: RunFolder, progress: Progress) -> None:
    """Cut records back to a checkpoint, and have the best one that was known then."""
    remove_leftovers(folder.path)
    remove_leftovers(folder.checkpoints)
    if folder.trace.exists() or progress.trace_lines:
        rewind_trace(folder.trace, progress.trace_lines, progress.trace_sha256)
    folder.keep_epochs(progress.epoch)
    # a best one of an epoch that is computed again may have become another, or no longer be the best
    for best in list_checkpoints(folder.checkpoints, "best"):
        if best.step != progress.best_step:
            best.path.unlink()
    for kept in list_checkpoints(folder.checkpoints, "last"):
        if kept.step == progress.best_step and kept.sound:
            copy_as_best(kept.path)


def _note(
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    progress: Progress,
    changed: list[str],
    tell: Callable[[str], None],
) -> None:
    """Tell and write down where the run goes on and what is different from when it began."""
    here = describe_environment()
    # how it reads ahead is chosen anew and changes no bit
    recorded = {key: value for key, value in read_json(folder.environment).items() if key in here}
    environment = differences(recorded, here)
    record: dict[str, Any] = {
        "checkpoint": None if checkpoint is None else checkpoint.path.name,
        "epoch": progress.epoch,
        "batches": progress.batches,
        "changed": changed,
        "environment": environment,
    }
    append_line(folder.resumed, json.dumps(record, sort_keys=True))
    tell(f"going on in epoch {progress.epoch + 1} after {progress.batches} batches")
    for key, (was, now) in environment.items():
        tell(f"NOTE: {key} was {was}, is {now}")
