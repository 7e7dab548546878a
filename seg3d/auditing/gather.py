"""What the runs of an audit have in common and where they part, read from their folders."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seg3d.atomic import atomic_path
from seg3d.auditing.differences import differences, first_difference
from seg3d.auditing.means import SCORES, means_alike
from seg3d.auditing.plan import AuditFolder, Cell
from seg3d.auditing.scores import ScoredRun
from seg3d.auditing.spread import spread_of
from seg3d.auditing.verdict import is_reproducible, verdict
from seg3d.digest import sha256_arrays
from seg3d.errors import RunError
from seg3d.io import image_stem, images_in, read_volume
from seg3d.training.outcome import read_weights
from seg3d.training.run_folder import RunFolder, read_json, read_metrics
from seg3d.training.trace import read_trace


def gather(folder: AuditFolder) -> dict[str, Any]:
    """JSON of an audit whose runs are all done: scores, spreads, digests, where runs part, and a verdict.

    All runs are measured by the same cases and labels, see :func:`seg3d.auditing.means.means_alike`. ``scored`` says
    whether ``labels`` names labels or regions, ``scored_cases`` how many cases the means are over, ``left_out`` why
    others are not in them, and ``warnings`` what ``seg3d evaluate`` told of the scores, and of which runs'.

    Raises:
        RunError: Runs have other test cases or references, label maps are missing, or a folder is damaged.
    """
    plan = folder.read_plan()
    runs = [_describe(folder, cell) for cell in plan.cells]
    _refuse_other_data(folder, runs)
    scored = [ScoredRun(folder.run(cell).path, read_json(folder.run(cell).test_scores)) for cell in plan.cells]
    _refuse_missing_maps(runs, scored)
    means = means_alike(scored, [cell.setup for cell in plan.cells])
    runs = [run | {"scores": scores} for run, scores in zip(runs, means.runs, strict=True)]
    setups = {setup: _setup(folder, [run for run in runs if run["setup"] == setup]) for setup in plan.setups}
    disagreement = disagreeing_voxels(folder, plan.setups)
    found = {
        "study": plan.config["name"],
        "plan_sha256": plan.digest,
        "vary": plan.vary,
        "scored": means.structures.kind,
        "labels": means.structures.names,
        "test_cases": runs[0]["cases"],
        "scored_cases": means.cases,
        "left_out": means.left_out,
        "warnings": _warnings(plan.cells, scored),
        "runs": [{key: value for key, value in run.items() if key != "cases"} for run in runs],
        "setups": setups,
        "disagreement": disagreement,
        "time_ratio": _time_ratio(setups),
        "environment": _environment(folder, plan.cells),
    }
    return found | {"verdict": verdict(found), "reproducible": is_reproducible(found)}


def _describe(folder: AuditFolder, cell: Cell) -> dict[str, Any]:
    """What one run gave."""
    run = folder.run(cell)
    result, maps = read_json(run.result), label_maps(run)
    return {
        "cell": cell.name,
        "setup": cell.setup,
        "run": cell.number,
        "seed": result["seed"],
        "weights_sha256": result["weights_sha256"],
        "trace_sha256": result["trace_sha256"],
        "data_sha256": result["data_sha256"],
        "split_sha256": result["split_sha256"],
        "predictions_sha256": sha256_arrays({case: read_volume(path).data for case, path in maps.items()}),
        "training_seconds": sum(row["seconds"] for row in read_metrics(run)),
        "best_score": result["best_score"],
        "cases": sorted(maps),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _setup(folder: AuditFolder, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the runs of one set-up have in common and where they part."""
    folders = [folder.cells / run["cell"] for run in runs]
    return {
        "scores": {
            label: {score: asdict(spread_of([run["scores"][label][score] for run in runs])) for score in SCORES}
            for label in runs[0]["scores"]
        },
        "distinct_weights": len({run["weights_sha256"] for run in runs}),
        "distinct_predictions": len({run["predictions_sha256"] for run in runs}),
        "parts_at": first_parting([read_trace(path / "trace.jsonl") for path in folders]),
        "training_seconds": float(np.median([run["training_seconds"] for run in runs])),
        "layers": weight_spread([read_weights(RunFolder(path), "last", averaged=False) for path in folders]),
    }


def first_parting(traces: Sequence[list[dict[str, Any]]]) -> dict[str, Any] | None:
    """Epoch and batch of the first step at which any of the runs is not like the first; ``None``: never."""
    found = [first_difference(traces[0], other) for other in traces[1:]]
    places = [(place["epoch"], math.inf if place["batch"] is None else place["batch"]) for place in found if place]
    if not places:
        return None
    epoch, batch = min(places)
    return {"epoch": epoch, "batch": None if batch == math.inf else int(batch)}


def weight_spread(runs: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, Any]]:
    """By tensor of the network: mean and largest standard deviation of its values over runs, and their mean size."""
    found = []
    for name, first in runs[0].items():
        if not first.is_floating_point():
            continue
        stacked = torch.stack([run[name].double() for run in runs])
        # equal values have no spread, whatever rounding makes of their mean
        sd = torch.where((stacked == stacked[0]).all(dim=0), 0.0, stacked.std(dim=0))
        found.append(
            {
                "layer": name,
                "mean_sd": _number(float(sd.mean())),
                "largest_sd": _number(float(sd.max())),
                "mean_size": _number(float(stacked.abs().mean())),
            }
        )
    return found


def label_maps(run: RunFolder) -> dict[str, Path]:
    """A run's label maps of its test cases, by case."""
    return {image_stem(path): path for path in images_in(run.test)}


def disagreeing_voxels(folder: AuditFolder, setups: Sequence[str]) -> dict[str, Any]:
    """Voxels on which the runs of a set-up do not all agree, by case and set-up, and the case with the most."""
    plan = folder.read_plan()
    counts: dict[str, dict[str, int]] = {}
    for setup in setups:
        for case, maps in _maps_by_case(folder, [cell for cell in plan.cells if cell.setup == setup]).items():
            counts.setdefault(case, {})[setup] = int(np.count_nonzero(disagreement_of(maps)))
    worst = max(sorted(counts), key=lambda case: sum(counts[case].values()))
    return {"voxels": counts, "worst_case": worst}


def disagreement_of(paths: Sequence[Path]) -> NDArray[np.float32]:
    """Share of runs that do not say what most say, by voxel ``(x, y, z)``; 0 where all agree."""
    maps = [read_volume(path).data[0] for path in paths]
    disputed = np.zeros(maps[0].shape, dtype=bool)
    for other in maps[1:]:
        disputed |= other != maps[0]
    # counting is for the few voxels in dispute: sorting all voxels of all runs takes seconds a case
    votes = np.stack([one[disputed] for one in maps])
    most = np.zeros(votes.shape[1], dtype=np.int64)
    for value in np.unique(votes):
        np.maximum(most, (votes == value).sum(axis=0), out=most)
    share = np.zeros(disputed.shape, dtype=np.float32)
    share[disputed] = 1 - most / len(maps)
    return share


def maps_of_case(folder: AuditFolder, setup: str, case: str) -> list[Path]:
    """The label maps that the runs of a set-up gave for a case."""
    return _maps_by_case(folder, [cell for cell in folder.read_plan().cells if cell.setup == setup])[case]


def _maps_by_case(folder: AuditFolder, cells: Sequence[Cell]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for cell in cells:
        for case, path in label_maps(folder.run(cell)).items():
            found.setdefault(case, []).append(path)
    return found


def _refuse_other_data(folder: AuditFolder, runs: Sequence[Mapping[str, Any]]) -> None:
    same = ("cases", "data_sha256", "split_sha256")
    other = [run["cell"] for run in runs if any(run[key] != runs[0][key] for key in same)]
    if other:
        raise RunError(
            "runs of the audit were made from other data or have other test cases than the first",
            where=folder.cells,
            got=", ".join(other),
            fix="The dataset was changed meanwhile: begin another audit.",
        )


def _refuse_missing_maps(runs: Sequence[Mapping[str, Any]], scored: Sequence[ScoredRun]) -> None:
    """Label maps that are not there would count as the same in all runs."""
    for run, scores in zip(runs, scored, strict=True):
        other = sorted(set(run["cases"]) ^ set(scores.rows))
        if other:
            raise RunError(
                "the label maps of a run are not those of the cases that were scored",
                where=scores.path / "test",
                got=", ".join(other),
                fix="Remove the folder and repeat the command: it is predicted and scored anew.",
            )


def _warnings(cells: Sequence[Cell], scored: Sequence[ScoredRun]) -> list[dict[str, Any]]:
    found: dict[str, list[str]] = {}
    for cell, run in zip(cells, scored, strict=True):
        for warning in run.summary.get("warnings", []):
            found.setdefault(warning["text"], []).append(cell.name)
    return [{"text": text, "runs": runs} for text, runs in found.items()]


def _time_ratio(setups: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Median training time of the deterministic runs over that of the fastest set-up."""
    seconds = {setup: found["training_seconds"] for setup, found in setups.items()}
    if "deterministic" not in seconds or min(seconds.values()) <= 0:
        return None
    return float(seconds["deterministic"] / min(seconds.values()))


def _environment(folder: AuditFolder, cells: Sequence[Cell]) -> dict[str, Any]:
    """What the runs were computed with, and what of it was not the same for all of them."""
    first, *others = [read_json(folder.run(cell).environment) for cell in cells]
    keys = sorted({key for other in others for key in differences(first, other)})
    # the flags are what the set-ups are
    odd = [key for key in keys if not key.startswith(("determinism.", "variables.CUBLAS"))]
    return {
        "cpu": first["cpu"]["model"],
        "gpus": [gpu["name"] for gpu in first["gpus"]],
        "torch": first["torch"]["version"],
        "threads": first["torch"]["threads"],
        "python": first["python"],
        "differs_between_runs": odd,
    }


def write_tables(folder: AuditFolder, found: Mapping[str, Any]) -> None:
    """``runs.csv`` and ``layers.csv``."""
    runs = []
    for run in found["runs"]:
        scores = {
            f"{score}_{found['labels'].get(label, label)}": value
            for label, of_label in run["scores"].items()
            for score, value in of_label.items()
        }
        runs.append({key: value for key, value in run.items() if key != "scores"} | scores)
    layers = [{"setup": setup, **layer} for setup, of in found["setups"].items() for layer in of["layers"]]
    for name, rows in (("runs", runs), ("layers", layers)):
        write_rows(folder.path / f"{name}.csv", rows)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV of rows; its columns are all keys in the order in which they first come."""
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
