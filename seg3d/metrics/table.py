"""A summary as flat rows for a CSV and as a short text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORST = 3


def rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat row per case and label, for a CSV; undefined values are ``None``, infinite distances ``"inf"``."""
    found = []
    for case in summary["metric_per_case"]:
        for label, metrics in case["metrics"].items():
            flat = {k: v for k, v in metrics.items() if k != "Lesions"}
            flat |= {f"Lesions_{k}": v for k, v in metrics["Lesions"].items()}
            found.append({"case": case["case"], "label": label, "name": summary["per_label"][label]["name"], **flat})
    return found


def format_summary(summary: Mapping[str, Any]) -> str:
    """A short table for the terminal: one line per label, the foreground Dice, the worst cases."""
    head = f"{'label':<16}{'cases':>6}{'Dice  [95 % interval]':>25}{'median':>8}{'IoU':>7}{'HD95 mm':>15}{'surface':>9}"
    lines = [f"{head}{'lesions found':>15}{'empty':>7}"]
    pooled = summary["pooled_over_all_voxels_of_all_cases"]
    lines += [_label_line(entry, pooled[label]["Lesions"]) for label, entry in summary["per_label"].items()]
    overall = summary["foreground_dice"]
    lines.append(f"foreground Dice over {overall['n']} cases: {_with_interval(overall)}")
    lines += [f"worst: {case}  {name}  Dice {dice:.3f}" for dice, case, name in _worst(summary)]
    lines.append("empty: cases in which neither prediction nor reference has the label; they give no score")
    lines.append("inf: cases in which one of them has not; their distance is infinite and not in the mean")
    return "\n".join(lines)


def _label_line(entry: Mapping[str, Any], lesions: Mapping[str, Any]) -> str:
    dice = entry["Dice"]
    return (
        f"{entry['name'][:15]:<16}{dice['n']:>6}{_with_interval(dice):>25}{_text(dice['median']):>8}"
        f"{_text(entry['IoU']['mean']):>7}{_distance(entry['HD95_mm']):>15}"
        f"{_text(entry['SurfaceDice']['mean']):>9}{lesions['detected']:>8} of {lesions['reference']:<3}"
        f"{entry['both_empty']:>7}"
    )


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
