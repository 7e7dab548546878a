"""A summary as flat rows for a CSV and as a short text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg3d.io import is_picture

_WORST = 3


def rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat row per case and label, for a CSV; undefined values are ``None``, infinite distances ``"inf"``."""
    found = []
    for case in summary["metric_per_case"]:
        for label, metrics in case["metrics"].items():
            flat = {k: v for k, v in metrics.items() if k != "Lesions"}
            flat |= {f"Lesions_{k}": v for k, v in metrics["Lesions"].items()}
            name = summary["per_label"][label]["name"]
            found.append({"case": case["case"], "kind": "label", "label": label, "name": name, **flat})
    return found


def mean_dice(row: Mapping[str, Any]) -> float | None:
    """Mean Dice of a case over its labels where it is defined; ``None`` where it is nowhere.

    Args:
        row: One of the summary's ``metric_per_case``.
    """
    dice = [metrics["Dice"] for metrics in row["metrics"].values() if metrics["Dice"] is not None]
    return sum(dice) / len(dice) if dice else None


def of_pictures(summary: Mapping[str, Any]) -> bool:
    """Whether all cases are pictures, whose pixels have no size."""
    files = [row.get("prediction_file") for row in summary["metric_per_case"]]
    return bool(files) and all(file is not None and is_picture(Path(file)) for file in files)


def format_summary(summary: Mapping[str, Any]) -> str:
    """A short table for the terminal: one line per label, the foreground Dice, the worst cases."""
    hd95 = "HD95 px" if of_pictures(summary) else "HD95 mm"
    head = f"{'label':<16}{'cases':>6}{'Dice  [95 % interval]':>25}{'median':>8}{'IoU':>7}{hd95:>15}{'surface':>9}"
    lines = [f"{head}{'lesions found':>15}{'empty':>7}"]
    pooled = summary["pooled_over_all_voxels_of_all_cases"]
    lines += [_label_line(entry, pooled[label]["Lesions"]) for label, entry in summary["per_label"].items()]
    overall = summary["foreground_dice"]
    lines.append(f"foreground Dice over {overall['n']} cases: {_with_interval(overall)}")
    lines += _region_lines(summary)
    lines += _accuracy_lines(summary) + _negative_lines(summary) + _soft_lines(summary) + _cell_lines(summary)
    lines += [f"worst: {case}  {name}  Dice {dice:.3f}" for dice, case, name in _worst(summary)]
    lines.append("empty: cases in which neither prediction nor reference has the label; they give no score")
    lines.append("inf: cases in which one of them has not; their distance is infinite and not in the mean")
    lines += [f"WARNING: {warning['text']}" for warning in summary.get("warnings", [])]
    return "\n".join(lines)


def _region_lines(summary: Mapping[str, Any]) -> list[str]:
    """Where a network predicts regions: a line for each and their mean."""
    if "regions" not in summary:
        return []
    found = summary["regions"]
    pooled, overall = found["pooled_over_all_voxels_of_all_cases"], found["foreground_dice"]
    lines = [_label_line(entry, pooled[label]["Lesions"]) for label, entry in found["per_label"].items()]
    return ["regions:", *lines, f"region Dice over {overall['n']} cases: {_with_interval(overall)}"]


def _label_line(entry: Mapping[str, Any], lesions: Mapping[str, Any]) -> str:
    dice = entry["Dice"]
    return (
        f"{entry['name'][:15]:<16}{dice['n']:>6}{_with_interval(dice):>25}{_text(dice['median']):>8}"
        f"{_text(entry['IoU']['mean']):>7}{_distance(entry['HD95_mm']):>15}"
        f"{_text(entry['SurfaceDice']['mean']):>9}{lesions['detected']:>8} of {lesions['reference']:<3}"
        f"{entry['both_empty']:>7}"
    )


def _accuracy_lines(summary: Mapping[str, Any]) -> list[str]:
    """Of pictures alone: there it is what others quote."""
    if not summary.get("thin_cases"):
        return []
    found = [f"{entry['name'][:15]} {_with_interval(entry['Accuracy'])}" for entry in summary["per_label"].values()]
    return [f"pixel accuracy, which flatters where foreground is rare: {', '.join(found)}"] if found else []


def _negative_lines(summary: Mapping[str, Any]) -> list[str]:
    """With mL unless a picture is among the cases, whose pixels have no known size."""
    positives = [
        f"positives: {entry['name'][:15]} Dice {_with_interval(entry['Dice'])} over the {entry['cases']} cases with it"
        for entry in summary.get("positives", {}).values()
        if entry["cases"]
    ]
    return positives + [
        f"negatives: {entry['name'][:15]} wrongly found in {entry['cases_with_false_positives']} of {entry['cases']} "
        f"cases without it; voxels: mean {entry['false_positive_voxels']['mean']:.1f}, "
        f"median {entry['false_positive_voxels']['median']:g}, max {entry['false_positive_voxels']['max']:.0f}"
        + ("" if summary.get("thin_cases") else f" (mean {entry['false_positive_mL']['mean']:.3g} mL)")
        for entry in summary.get("negatives", {}).values()
    ]


def _soft_lines(summary: Mapping[str, Any]) -> list[str]:
    found = summary.get("pooled_soft_dice", {}).values()
    values = [f"{entry['name'][:15]} {_text(entry['value'])}" for entry in found if entry["value"] is not None]
    return [f"pooled soft Dice, not comparable with means over cases: {', '.join(values)}"] if values else []


def _cell_lines(summary: Mapping[str, Any]) -> list[str]:
    if "cells" not in summary:
        return []
    cells = summary["cells"]
    half = {name: _text(entry["mean"]) for name, entry in cells["at_0.5"].items()}
    lines = [f"cells ({cells['name'][:15]}) of {cells['cases']} cases, borders thinned:"]
    for name in ("V_Rand", "V_Info"):
        best = cells["best_one_threshold"][name]
        chosen = f"; best of all thresholds {_text(best[name])} at {best['threshold']:g}" if best else ""
        parts = f"split {half[f'{name}_split']}, merge {half[f'{name}_merge']}"
        lines.append(f"  {name} {_with_interval(cells['at_0.5'][name])} ({parts}) at 0.5{chosen}")
    return lines


def _worst(summary: Mapping[str, Any]) -> list[tuple[float, str, str]]:
    """The lowest defined Dice values: value, case, name of the label."""
    found = [(row["Dice"], row["case"], row["name"]) for row in rows(summary) if row["Dice"] is not None]
    return sorted(found)[:_WORST]


def _distance(entry: Mapping[str, Any]) -> str:
    """The mean over finite distances never without the number of infinite ones."""
    infinite = f" ({entry['n_infinite']} inf)" if entry["n_infinite"] else ""
    return f"{_text(entry['mean'], 2)}{infinite}"


def _with_interval(entry: Mapping[str, Any]) -> str:
    low, high = entry["ci95"] or (None, None)
    return f"{_text(entry['mean'])} [{_text(low)}, {_text(high)}]"


def _text(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
