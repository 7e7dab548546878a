"""From scores of cases to a summary: nnU-Net's ``summary.json`` with intervals, pooled values and stated rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from seg3d.keyed import keyed
from seg3d.metrics.case import LabelScore

PerCase = Mapping[str, Mapping[int, LabelScore]]

METRICS: dict[str, Callable[[LabelScore], float]] = {
    "Dice": lambda s: s.overlap.dice,
    "IoU": lambda s: s.overlap.iou,
    "Precision": lambda s: s.overlap.precision,
    "Recall": lambda s: s.overlap.recall,
    "HD95_mm": lambda s: s.surface.hd95_mm,
    "ASSD_mm": lambda s: s.surface.assd_mm,
    "SurfaceDice": lambda s: s.surface.surface_dice,
    "Volume_mL": lambda s: s.volume_ml,
    "ReferenceVolume_mL": lambda s: s.reference_volume_ml,
    "VolumeError_mL": lambda s: s.volume_error_ml,
}
COUNTS: dict[str, Callable[[LabelScore], int]] = {
    "TP": lambda s: s.overlap.tp,
    "FP": lambda s: s.overlap.fp,
    "FN": lambda s: s.overlap.fn,
    "TN": lambda s: s.overlap.tn,
    "n_pred": lambda s: s.overlap.tp + s.overlap.fp,
    "n_ref": lambda s: s.overlap.tp + s.overlap.fn,
}


def summarise(
    per_case: PerCase,
    label_names: Mapping[int, str],
    *,
    tolerance_mm: float,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """A JSON summary; ``None`` stands for undefined and ``"inf"`` for an infinite distance.

    Args:
        per_case: Scores by case and label.
        label_names: Names of the foreground labels.
        tolerance_mm: Tolerance of the surface Dice.
        resamples: Resamples of the bootstrap over cases.
        seed: Its seed.
    """
    labels = sorted(label_names)
    per_label = {
        str(label): _label_entry({c: s[label] for c, s in per_case.items()}, label_names[label], resamples, seed)
        for label in labels
    }
    mean = {label: {name: entry[name]["mean"] for name in METRICS} for label, entry in per_label.items()}
    of_case = [_mean_dice(per_case[case]) for case in sorted(per_case)]
    return {
        "metric_per_case": [
            {"case": case, "metrics": {str(label): _metrics(per_case[case][label]) for label in labels}}
            for case in sorted(per_case)
        ],
        "mean": mean,
        "foreground_mean": {name: _plain(_mean([m[name] for m in mean.values()])) for name in METRICS},
        "foreground_dice": _interval(of_case, resamples, seed, "foreground_dice"),
        "per_label": per_label,
        "pooled_over_all_voxels_of_all_cases": {
            str(label): _pooled([scores[label] for scores in per_case.values()]) for label in labels
        },
        "cases": len(per_case),
        "rules": _rules(tolerance_mm, resamples),
    }


def rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat row per case and label, for a CSV; undefined values are empty."""
    found = []
    for case in summary["metric_per_case"]:
        for label, metrics in case["metrics"].items():
            flat = {k: v for k, v in metrics.items() if k != "Lesions"}
            flat |= {f"Lesions_{k}": v for k, v in metrics["Lesions"].items()}
            found.append({"case": case["case"], "label": label, "name": summary["per_label"][label]["name"], **flat})
    return found


def format_summary(summary: Mapping[str, Any]) -> str:
    """A short table for the terminal."""
    head = f"{'label':<16}{'cases':>6}{'Dice  [95 % interval]':>25}{'median':>8}{'IoU':>7}{'HD95 mm':>9}{'surface':>9}"
    lines = [f"{head}{'lesions found':>15}{'empty':>7}"]
    for label, entry in summary["per_label"].items():
        low, high = entry["Dice"]["ci95"] or (None, None)
        dice = f"{_text(entry['Dice']['mean'])} [{_text(low)}, {_text(high)}]"
        lesions = summary["pooled_over_all_voxels_of_all_cases"][label]["Lesions"]
        lines.append(
            f"{entry['name'][:15]:<16}{entry['Dice']['n']:>6}{dice:>25}{_text(entry['Dice']['median']):>8}"
            f"{_text(entry['IoU']['mean']):>7}{_text(entry['HD95_mm']['mean'], 2):>9}"
            f"{_text(entry['SurfaceDice']['mean']):>9}{lesions['detected']:>9} of {lesions['reference']:<3}"
            f"{entry['both_empty']:>6}"
        )
    overall = summary["foreground_dice"]
    low, high = overall["ci95"] or (None, None)
    lines.append(f"foreground Dice over {overall['n']} cases: {_text(overall['mean'])} [{_text(low)}, {_text(high)}]")
    lines.append("empty: cases in which neither prediction nor reference has the label; they give no score")
    return "\n".join(lines)


def _label_entry(scores: Mapping[str, LabelScore], name: str, resamples: int, seed: int) -> dict[str, Any]:
    empty = [score.empty for score in scores.values()]
    entry: dict[str, Any] = {
        "name": name,
        "cases": len(scores),
        "both_empty": empty.count("both"),
        "prediction_empty": empty.count("prediction"),
        "reference_empty": empty.count("reference"),
    }
    for metric, value in METRICS.items():
        values = [value(scores[case]) for case in sorted(scores)]
        entry[metric] = _interval(values, resamples, seed, f"{metric} {name}")
    return entry


def _metrics(score: LabelScore) -> dict[str, Any]:
    lesions = vars(score.lesions) | {
        "sensitivity": _plain(score.lesions.sensitivity),
        "precision": _plain(score.lesions.precision),
    }
    values = {name: _plain(value(score)) for name, value in METRICS.items()}
    return {**values, **{n: count(score) for n, count in COUNTS.items()}, "Lesions": lesions, "Empty": score.empty}


def _pooled(scores: Sequence[LabelScore]) -> dict[str, Any]:
    if not scores:
        return {}
    overlap = reduce(add, (score.overlap for score in scores))
    lesions = reduce(add, (score.lesions for score in scores))
    ratios = {"Dice": overlap.dice, "IoU": overlap.iou, "Precision": overlap.precision, "Recall": overlap.recall}
    found = vars(lesions) | {n: _plain(getattr(lesions, n)) for n in ("sensitivity", "precision", "f1")}
    return {name: _plain(value) for name, value in ratios.items()} | {"Lesions": found}


def _interval(values: Sequence[float], resamples: int, seed: int, key: str) -> dict[str, Any]:
    """Mean, percentile bootstrap interval and median over the cases where the value is defined and finite."""
    finite = np.array([value for value in values if math.isfinite(value)])
    interval = None
    if finite.size > 1:
        chosen = keyed(seed, "bootstrap", key).integers(finite.size, size=(resamples, finite.size))
        interval = [float(v) for v in np.percentile(finite[chosen].mean(axis=1), (2.5, 97.5))]
    return {
        "mean": float(finite.mean()) if finite.size else None,
        "ci95": interval,
        "median": float(np.median(finite)) if finite.size else None,
        "n": int(finite.size),
        "n_infinite": sum(math.isinf(value) for value in values),
    }


def _mean_dice(scores: Mapping[int, LabelScore]) -> float:
    defined = [s.overlap.dice for s in scores.values() if not math.isnan(s.overlap.dice)]
    return sum(defined) / len(defined) if defined else math.nan


def _mean(values: Sequence[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else math.nan


def _plain(value: float) -> float | str | None:
    """What JSON knows."""
    if math.isnan(value):
        return None
    return "inf" if math.isinf(value) else float(value)


def _text(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _rules(tolerance_mm: float, resamples: int) -> dict[str, str]:
    return {
        "both_empty": "prediction and reference empty: every ratio and distance is undefined (null) and the case is "
        "left out of means and counted under both_empty; never a free 1.0",
        "one_empty": 'one of them empty: ratios are 0, distances infinite ("inf")',
        "means": "over cases with a defined, finite value; n says how many, n_infinite how many were infinite",
        "foreground_mean": "mean over labels of the means over cases",
        "foreground_dice": "mean over cases of each case's mean Dice over its defined labels",
        "ci95": f"percentile bootstrap over cases, {resamples} resamples",
        "pooled_over_all_voxels_of_all_cases": "from summed voxel counts: large lesions count more than small ones; "
        "not comparable with means over cases",
        "surface": f"voxels with a face neighbour outside; surface Dice at a tolerance of {tolerance_mm:g} mm",
        "lesions": "connected components of 26 neighbours; detected when one voxel overlaps",
    }
