"""Cell scores of several cases in one block of the summary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from seg3d.metrics.cells import REPORTED, CellScore, mean_score
from seg3d.metrics.interval import Bootstrap, plain

PerThreshold = Mapping[float, CellScore]


def summarise_cells(
    per_case: Mapping[str, PerThreshold], name: str, bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """Scores at 0.5 with intervals over cases, mean scores by threshold, and the best threshold of each score.

    Args:
        per_case: Scores by case and threshold; each case has 0.5.
        name: Name of the cells' label.
        bootstrap: How intervals are made.
    """
    cases = [per_case[case] for case in sorted(per_case)]
    at_half = {case: per_case[case][REPORTED].named() for case in sorted(per_case)}
    bootstrap = bootstrap or Bootstrap()
    shared = set.intersection(*(set(scores) for scores in cases)) if cases else set()
    means = {threshold: mean_score([scores[threshold] for scores in cases]) for threshold in sorted(shared)}
    metrics = CellScore(*[math.nan] * 6).named()
    return {
        "name": name,
        "cases": len(cases),
        "at_0.5": {m: bootstrap.interval({case: score[m] for case, score in at_half.items()}) for m in metrics},
        "by_threshold": {f"{threshold:g}": plain_scores(mean) for threshold, mean in means.items()},
        "best_one_threshold": {m: _best(means, m) for m in ("V_Rand", "V_Info")},
    }


def plain_scores(score: CellScore) -> dict[str, Any]:
    """The scores by name as JSON knows them."""
    return {name: plain(value) for name, value in score.named().items()}


def cell_rules() -> dict[str, str]:
    """What the block of cell scores means."""
    return {
        "cells": "V_Rand and V_Info of the ISBI 2012 challenge (Arganda-Carreras et al. 2015), foreground-restricted, "
        "after thinning: cells are components of 4 neighbours in each slice along z; slices are averaged, then cases; "
        "low split scores mean that cells were split, low merge scores that they were merged",
        "cells best_one_threshold": "the threshold with the highest mean over all cases, chosen on the reference, as "
        "the challenge does: it flatters; null without probabilities; at_0.5 is not chosen",
    }


def _best(means: PerThreshold, metric: str) -> dict[str, Any] | None:
    """The threshold with the highest mean, of equal ones the nearest to 0.5; ``None`` where there is no choice."""
    defined = {threshold: mean.named()[metric] for threshold, mean in means.items() if not math.isnan(mean.rand)}
    if len(defined) < 2:
        return None
    best = max(defined, key=lambda threshold: (defined[threshold], -abs(threshold - REPORTED), threshold))
    return {"threshold": best} | plain_scores(means[best])
