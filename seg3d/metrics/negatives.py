"""Cases without a label: no Dice can tell how much was wrongly found there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seg3d.metrics.case import LabelScore


def negative_scores(per_case: Mapping[str, Mapping[int, LabelScore]], names: Mapping[int, str]) -> dict[str, Any]:
    """What was wrongly found, by label, in the cases whose reference has none of it; labels without such are left out.

    The mean, median and maximum are over these cases, those with nothing wrong among them.
    """
    found = {}
    for label in sorted(names):
        scores = [scores[label] for scores in per_case.values() if scores[label].empty in ("both", "reference")]
        if scores:
            found[str(label)] = {
                "name": names[label],
                "cases": len(scores),
                "cases_with_false_positives": sum(score.overlap.fp > 0 for score in scores),
                "false_positive_voxels": _spread([score.overlap.fp for score in scores]),
                "false_positive_mL": _spread([score.volume_ml for score in scores]),
            }
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": math.fsum(values) / len(values), "median": float(np.median(values)), "max": float(max(values))}
