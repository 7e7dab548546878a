"""What ``seg3d evaluate`` scores where a network predicts regions: these, and labels as far as they are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.cases import Region, as_region_map
from seg3d.metrics import Bootstrap, LabelScore, rows, score_case, summarise
from seg3d.volume import Grid


def shown_values(regions: Sequence[Region]) -> dict[int, int]:
    """By label value the one that a label map of these regions shows instead: of those in the same regions, one."""
    return {value: region.label for region in regions for value in region.values}  # later regions lie over earlier ones


def shown_names(names: Mapping[int, str], regions: Sequence[Region]) -> dict[int, str]:
    """Foreground labels that such label maps can show; those that they cannot tell apart are one, with all names."""
    if not regions:
        return dict(names)
    alike: dict[int, list[str]] = {}
    shown = shown_values(regions)
    for value, name in sorted(names.items()):
        if value in shown:
            alike.setdefault(shown[value], []).append(name)
    return {value: " + ".join(found) for value, found in sorted(alike.items())}


def as_shown(label: NDArray[Any], regions: Sequence[Region]) -> NDArray[Any]:
    """A label map in which labels that are not told apart have the value that is shown for them."""
    changed = {value: shown for value, shown in shown_values(regions).items() if value != shown}
    if not changed:
        return label
    found = label.astype(np.promote_types(label.dtype, np.min_scalar_type(max(changed.values()))))
    for value, shown in changed.items():
        found[label == value] = shown
    return found


def unseen_names(names: Mapping[int, str], regions: Sequence[Region]) -> list[str]:
    """Labels that are in none of the regions, which nothing predicts or scores."""
    shown = shown_values(regions)
    return [name for value, name in sorted(names.items()) if regions and value not in shown]


def drawn_as_shown(label: NDArray[Any], regions: Sequence[Region], names: Mapping[int, str]) -> NDArray[Any]:
    """As :func:`as_shown`; labels of ``names`` in no region are background."""
    shown = shown_values(regions)
    unseen = [value for value in names if value not in shown]
    return as_shown(np.where(np.isin(label, unseen), 0, label).astype(label.dtype), regions) if regions else label


def known_probabilities(found: Mapping[str, Path] | None, regions: Sequence[Region]) -> dict[str, Path] | None:
    """Probability maps by name, those of regions that are just what one label shows under that label's value, too."""
    if found is None:
        return None
    known = dict(found)
    shown = shown_values(regions)
    for region in regions:
        if {value for value in shown if shown[value] == region.label} == set(region.values):
            end = f"_probability_{region.name}"
            for name, path in found.items():
                if name.endswith(end):
                    known.setdefault(f"{name.removesuffix(end)}_probability_{region.label}", path)
    return known


def score_regions(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    regions: Sequence[Region],
    grid: Grid,
    ignore_label: int | None,
    tolerance_mm: float,
) -> dict[int, LabelScore]:
    """Scores of each region of two label maps ``(x, y, z)``, by the label that it is shown as.

    Nothing where each region is but one label, whose scores are the same.
    """
    scores: dict[int, LabelScore] = {}
    if all(len(region.values) == 1 for region in regions):
        return scores
    for region in regions:
        scores |= score_case(
            as_region_map(prediction, region, ignore_label),
            as_region_map(reference, region, ignore_label),
            [region.label],
            grid.spacing_mm,
            grid.voxel_volume_ml,
            ignore_label=ignore_label,
            tolerance_mm=tolerance_mm,
        )
    return scores


def region_block(
    per_case: Mapping[str, Mapping[int, LabelScore]],
    regions: Sequence[Region],
    tolerance_mm: float,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """The summary's part ``regions``: a summary of the same shape, in which a region stands under its shown label."""
    if not any(per_case.values()):
        return {}
    names = {region.label: region.name for region in regions}
    found = summarise(per_case, names, tolerance_mm=tolerance_mm, bootstrap=bootstrap)
    for region in regions:
        found["per_label"][str(region.label)]["values"] = list(region.values)
    del found["rules"], found["cases"]
    return {"regions": found}


def all_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Flat rows of labels, then of regions, whose label is all their values."""
    found = rows(summary)
    if "regions" in summary:
        values = {label: entry["values"] for label, entry in summary["regions"]["per_label"].items()}
        of_regions = rows(summary["regions"])
        found += [row | {"kind": "region", "label": " ".join(map(str, values[row["label"]]))} for row in of_regions]
    return found
