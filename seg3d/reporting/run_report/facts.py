"""Facts of a run in a few words each: what was trained, on what, with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seg3d.reporting.run_report.pieces import Pieces

Facts = dict[str, str]
_PARTS = {"train": "training", "val": "validation", "test": "test"}


def run_facts(pieces: Pieces) -> Facts:
    """What was trained and how far; what is not known is left out."""
    config, done = pieces.config, pieces.epochs_done
    planned = pieces.epochs_planned
    counts = [f"{len(pieces.splits[part])} {word}" for part, word in _PARTS.items() if part in pieces.splits]
    model = config.get("model", {})
    found = {
        "begun": str(pieces.manifest.get("started", ""))[:16].replace("T", " ") + " UTC",
        "epochs": f"{done} of {planned}" if planned is not None and planned != done else str(done),
        "steps": _steps(pieces),
        "training time": _duration(pieces),
        "cases": ", ".join(counts),
        "network": f"{model.get('kind', '')}, {model.get('dims', '?')}D" if model else "",
        "channels": ", ".join(map(str, pieces.model.get("channels", ()))),
        "labels": ", ".join(f"{name} ({value})" for name, value in pieces.model.get("labels", {}).items() if value),
        "regions": ", ".join(_region(region) for region in pieces.model.get("regions", ())),
        "best validation Dice": _best(pieces),
    }
    return {name: value for name, value in found.items() if value}


def environment_facts(environment: Mapping[str, Any]) -> Facts:
    """The machine and the versions that matter most."""
    if not environment:
        return {}
    torch, cpu, code = (environment.get(key, {}) for key in ("torch", "cpu", "code"))
    gpus = [f"{gpu.get('name')} ({gpu.get('memory_gib')} GiB)" for gpu in environment.get("gpus", ())]
    cuda = f", CUDA {torch.get('cuda')}" if torch.get("cuda") else ""
    packages = environment.get("packages", {})
    chosen = ("torchio", "pytorch-lightning", "monai", "numpy", "scipy", "h5py", "nibabel", "simpleitk")
    found = {
        "seg3d": f"{code.get('version', '?')}, {_commit(code)}",
        "Python": str(environment.get("python", "")),
        "torch": f"{torch.get('version', '')}{cuda}",
        "libraries": ", ".join(f"{name} {packages[name]}" for name in chosen if name in packages),
        "system": str(environment.get("system", "")),
        "processor": f"{cpu.get('model', '')}, {cpu.get('capability', '')}, {cpu.get('cores', '?')} cores",
        "threads": str(torch.get("threads", "")),
        "GPU": ", ".join(gpus) or "none",
        "driver": str(environment.get("driver") or ""),
    }
    return {name: value for name, value in found.items() if value}


def _steps(pieces: Pieces) -> str:
    """Steps of the optimiser; where no epoch has ended, batches."""
    last = pieces.rows[-1].get("step") if pieces.rows else None
    return f"{last:.0f}" if last is not None and pieces.ended else str(len(pieces.losses))


def _commit(code: Mapping[str, Any]) -> str:
    modules = f"modules {str(code.get('modules_sha256', ''))[:12]}"
    if "commit" not in code:
        return modules
    return f"commit {str(code['commit'])[:12]}{' with changes' if code.get('dirty') else ''}, {modules}"


def _region(region: Mapping[str, Any]) -> str:
    return f"{region.get('name')} = {' + '.join(map(str, region.get('values', ())))}"


def _best(pieces: Pieces) -> str:
    scored = [(row["val_dice"], -(row["epoch"] or 0)) for row in pieces.rows if row.get("val_dice") is not None]
    if not scored:
        return ""
    value, epoch = max(scored)
    return f"{value:.3f} at epoch {1 - epoch:g}"


def _duration(pieces: Pieces) -> str:
    """Of the epochs done; of a run that has ended, of all of it."""
    seconds = pieces.result.get("seconds") or sum(row.get("seconds") or 0 for row in pieces.rows)
    if not seconds:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
