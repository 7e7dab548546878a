"""``seg3d verify`` and ``seg3d diff``: is a run what it says it is, and where do two runs part."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from seg3d.atomic import append_line
from seg3d.auditing.differences import RunDifference, compare_runs
from seg3d.auditing.records import contradictions
from seg3d.cases import Split
from seg3d.config import load_config
from seg3d.errors import RunError
from seg3d.store import StoredVolume
from seg3d.training.checkpoints import KEPT, list_checkpoints
from seg3d.training.outcome import summarise
from seg3d.training.run_folder import RunFolder, open_run_folder, read_json
from seg3d.training.trace import read_trace
from seg3d.verbs.initial_weights import other_start
from seg3d.verbs.prepare import prepare
from seg3d.verbs.report import draw_report
from seg3d.verbs.resume import refusal, what_changed
from seg3d.verbs.train import begin, carry_out, say


def verify(
    run: Path | str,
    *,
    epochs: int | None = None,
    allow_changed: bool = False,
    keep: Path | None = None,
    tell: Callable[[str], None] = say,
) -> RunDifference:
    """What differs when a run is computed again from its own folder.

    Args:
        run: A finished run.
        epochs: Compute its first epochs only.
        allow_changed: Compute it although config, data or code are not what they were.
        keep: Folder for the repetition; by default it is removed.
        tell: Called with a line for each epoch; a function that can be pickled.

    Raises:
        RunError: The folder is damaged or the run has not ended, or config, data or code have changed.
        StoreError: The voxels of a prepared case are damaged.
    """
    folder = open_run_folder(Path(run))
    _refuse_damaged(folder)  # before hours are spent on it
    if epochs is None and not folder.result.exists():
        raise RunError(
            "the run has not ended", where=folder.path, fix="Continue it with 'seg3d resume', or give --epochs."
        )
    config = load_config(folder.config, ["tracking.enabled=false"])
    store = prepare(config, tell=tell)
    for case in store.labelled:
        StoredVolume(case).verify()
    changed = [*what_changed(folder, load_config(folder.config), store), *other_start(folder, config)]
    if changed and not allow_changed:
        raise refusal(folder, changed)
    with tempfile.TemporaryDirectory(prefix="seg3d-verify-") as temporary:
        again = (keep or Path(temporary)) / folder.path.resolve().name
        job = begin(config, tell, again, split=Split.from_dict(read_json(folder.splits)))
        carry_out(job, tell, stop_after=epochs, report=False)
        found = compare_runs(folder, RunFolder(again), epochs=epochs)
    _note(folder, found, changed, tell)
    if folder.report.exists():
        draw_report(folder, tell)
    return found


def _note(folder: RunFolder, found: RunDifference, changed: list[str], tell: Callable[[str], None]) -> None:
    """Write down what was found; the hash says up to where of the trace, so that a later change is noticed."""
    compared = [record for record in read_trace(folder.trace) if record["epoch"] < found.epochs]
    record = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "identical": found.identical,
        "epochs": found.epochs,
        "steps": found.steps,
        "trace_sha256": compared[-1]["hash"] if compared else None,
        "changed": changed,
        "environment": sorted(found.environment),
    }
    try:
        append_line(folder.verified, json.dumps(record, sort_keys=True))
    except OSError as error:  # perhaps a run that others keep
        tell(f"NOTE: the run does not learn that it was verified: {error}")


def _refuse_damaged(folder: RunFolder) -> None:
    """Raise where the run is not what it recorded of itself."""
    folder.check()
    read_trace(folder.trace)
    kept = [c for kind in KEPT for c in list_checkpoints(folder.checkpoints, kind)]
    damaged = [checkpoint.path.name for checkpoint in kept if not checkpoint.sound]
    if damaged:
        raise RunError("checkpoints are damaged", where=folder.checkpoints, got=", ".join(damaged))
    if other := contradictions(folder):
        fix = "The files were changed after they were written; train again."
        where, got = folder.path, "\n  " + "\n  ".join(other) + "\n"
        raise RunError("checkpoints or metrics are not those of the trace", where=where, got=got, fix=fix)
    if folder.result.exists():
        recorded = read_json(folder.result)
        found = summarise(folder) | folder.identity | {"changed": folder.changes()}
        other = sorted(key for key, value in found.items() if recorded.get(key) != value)
        if other:
            raise RunError("result.json does not say what the run gave", where=folder.result, got=", ".join(other))


def diff(a: Path | str, b: Path | str) -> RunDifference:
    """What differs between two runs, without running anything.

    Raises:
        RunError: A folder is no run folder or is damaged.
    """
    return compare_runs(open_run_folder(Path(a)), open_run_folder(Path(b)))


def format_difference(found: RunDifference) -> str:
    """The verdict, then what differs, for people."""
    lines = [_verdict(found)]
    if found.layers:
        lines.append(f"weights after {found.layers_at} steps:")
        for layer in found.layers:
            gap = (
                "in one run only, in another shape, or not finite"
                if layer.largest is None
                else f"up to {layer.largest:.3g}"
            )
            lines.append(f"  {layer.name}: {layer.values} of {layer.of} values differ, {gap}")
    elif found.layers_at is None and not found.identical:  # else the trace has their digests
        lines.append("weights: no checkpoint of the same step is kept by both")
    lines += [f"records {line}" for line in found.records]
    lines += [f"config {key}: {a} | {b}" for key, (a, b) in found.config.items()]
    lines += [f"data {line}" for line in found.data]
    lines += [f"environment {key}: {_short(a)} | {_short(b)}" for key, (a, b) in found.environment.items()]
    return "\n".join(lines)


def _verdict(found: RunDifference) -> str:
    compared = f"{found.epochs} epochs, {found.steps} steps"
    if found.identical:
        return f"identical: {compared}, to the last bit"
    if found.first is None:
        return f"NOT identical: the same {compared}, but other {'weights' if found.layers else 'records'}"
    first = found.first
    step = "its end" if first["batch"] is None else f"batch {first['batch'] + 1}"
    place = f"NOT identical: the runs part in epoch {first['epoch'] + 1} at {step}"
    if "only_in" in first:
        return f"{place}; only the {first['only_in']} run goes on"
    fields = [f"{key} {_number(pair[0])} | {_number(pair[1])}" for key, pair in first.items() if isinstance(pair, list)]
    return f"{place}: {', '.join(fields)}"


def _number(value: Any) -> str:
    """A hexadecimal float for people, the start of a digest, or the value itself."""
    text = str(value)
    if text.startswith(("0x", "-0x")):
        return f"{float.fromhex(text):.17g}"
    return text[:16]


def _short(value: Any) -> str:
    text = str(value).replace("\n", " ")
    return text if len(text) <= 80 else f"{text[:77]}..."
