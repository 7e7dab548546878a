"""From scores of cases to a summary: nnU-Net's ``summary.json`` with intervals, pooled values and stated rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

from seg3d.metrics.case import LabelScore
from seg3d.metrics.interval import SHARE, SIGNED, SIZE, Bootstrap, mean_of, plain
from seg3d.metrics.lesions import Lesions
from seg3d.metrics.negatives import negative_scores
from seg3d.metrics.overlap import Overlap

PerCase = Mapping[str, Mapping[int, LabelScore]]

METRICS: dict[str, Callable[[LabelScore], float]] = {
    "Dice": lambda s: s.overlap.dice,
    "IoU": lambda s: s.overlap.iou,
    "Precision": lambda s: s.overlap.precision,
    "Recall": lambda s: s.overlap.recall,
    "Accuracy": lambda s: s.overlap.accuracy,
    "HD95_mm": lambda s: s.surface.hd95_mm,
    "HD95_elements_mm": lambda s: s.surface.hd95_elements_mm,
    "ASSD_mm": lambda s: s.surface.assd_mm,
    "SurfaceDice": lambda s: s.surface.surface_dice,
    "Volume_mL": lambda s: s.volume_ml,
    "ReferenceVolume_mL": lambda s: s.reference_volume_ml,
    "VolumeError_mL": lambda s: s.volume_error_ml,
}
# ends of intervals; of the others a share's
_BOUNDS = dict.fromkeys(("HD95_mm", "HD95_elements_mm", "ASSD_mm", "Volume_mL", "ReferenceVolume_mL"), SIZE) | {
    "VolumeError_mL": SIGNED
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
    bootstrap: Bootstrap | None = None,
) -> dict[str, Any]:
    """A JSON summary; ``None`` stands for undefined and ``"inf"`` for an infinite distance.

    Args:
        per_case: Scores by case and label.
        label_names: Names of the foreground labels.
        tolerance_mm: Tolerance of the surface Dice.
        bootstrap: How intervals are made.

    Raises:
        KeyError: A case lacks one of the labels.
    """
    bootstrap = bootstrap or Bootstrap()
    labels, cases = sorted(label_names), sorted(per_case)
    by_label = {label: {case: per_case[case][label] for case in cases} for label in labels}
    mean = {str(label): _means(list(scores.values())) for label, scores in by_label.items()}
    of_case = {case: mean_of([per_case[case][label].overlap.dice for label in labels]) for case in cases}
    return {
        "metric_per_case": [
            {"case": case, "metrics": {str(label): _metrics(per_case[case][label]) for label in labels}}
            for case in cases
        ],
        "mean": {label: {name: plain(value) for name, value in m.items()} for label, m in mean.items()},
        "foreground_mean": {name: plain(mean_of([m[name] for m in mean.values()])) for name in (*METRICS, *COUNTS)},
        "foreground_dice": bootstrap.interval(of_case),
        "per_label": {
            str(label): _label_entry(label, label_names[label], scores, bootstrap) for label, scores in by_label.items()
        },
        "pooled_over_all_voxels_of_all_cases": {
            str(label): _pooled(list(scores.values())) for label, scores in by_label.items()
        },
        "negatives": negative_scores(per_case, label_names),
        "positives": _positive_scores(by_label, label_names, bootstrap),
        "cases": len(per_case),
        "rules": _rules(tolerance_mm, bootstrap.resamples),
    }


def _label_entry(label: int, name: str, scores: Mapping[str, LabelScore], bootstrap: Bootstrap) -> dict[str, Any]:
    empty = [score.empty for score in scores.values()]
    entry: dict[str, Any] = {
        "name": name,
        "cases": len(scores),
        "both_empty": empty.count("both"),
        "one_empty": empty.count("prediction") + empty.count("reference"),
        "prediction_empty": empty.count("prediction"),
        "reference_empty": empty.count("reference"),
    }
    for metric, value in METRICS.items():
        values = {case: value(score) for case, score in scores.items()}
        entry[metric] = bootstrap.interval(values, _BOUNDS.get(metric, SHARE))
    return entry


def _positive_scores(
    by_label: Mapping[int, Mapping[str, LabelScore]], label_names: Mapping[int, str], bootstrap: Bootstrap
) -> dict[str, dict[str, Any]]:
    """Dice by label over the cases whose reference has it, for the labels that some reference has not."""
    found = {}
    for label, scores in by_label.items():
        having = {case: s.overlap.dice for case, s in scores.items() if s.empty in ("none", "prediction")}
        if len(having) < len(scores):
            dice = bootstrap.interval(having)
            found[str(label)] = {"name": label_names[label], "cases": len(having), "Dice": dice}
    return found


def _means(scores: Sequence[LabelScore]) -> dict[str, float]:
    return {name: mean_of([value(score) for score in scores]) for name, value in {**METRICS, **COUNTS}.items()}


def _metrics(score: LabelScore) -> dict[str, Any]:
    lesions = vars(score.lesions) | {
        "sensitivity": plain(score.lesions.sensitivity),
        "precision": plain(score.lesions.precision),
        "f1": plain(score.lesions.f1),
    }
    values = {name: plain(value(score)) for name, value in METRICS.items()}
    return {**values, **{n: count(score) for n, count in COUNTS.items()}, "Lesions": lesions, "Empty": score.empty}


def _pooled(scores: Sequence[LabelScore]) -> dict[str, Any]:
    overlap = reduce(add, (score.overlap for score in scores), Overlap(0, 0, 0, 0))
    lesions = reduce(add, (score.lesions for score in scores), Lesions(0, 0, 0, 0))
    ratios = {
        "Dice": overlap.dice,
        "IoU": overlap.iou,
        "Precision": overlap.precision,
        "Recall": overlap.recall,
        "Accuracy": overlap.accuracy,
    }
    voxels = {"TP": overlap.tp, "FP": overlap.fp, "FN": overlap.fn, "TN": overlap.tn}
    found = vars(lesions) | {n: plain(getattr(lesions, n)) for n in ("sensitivity", "precision", "f1")}
    return {name: plain(value) for name, value in ratios.items()} | voxels | {"Lesions": found}


def _rules(tolerance_mm: float, resamples: int) -> dict[str, str]:
    return {
        "both_empty": "prediction and reference empty: every ratio but Accuracy and every distance is undefined (null) "
        "and the case is left out of their means and counted under both_empty; never a free 1.0",
        "one_empty": 'one of them empty: ratios are 0, distances infinite ("inf")',
        "means": "over cases with a defined, finite value; n says how many, n_infinite how many were infinite",
        "foreground_mean": "mean over labels of the means over cases",
        "foreground_dice": "mean over cases of each case's mean Dice over its defined labels",
        "ci95": "percentile bootstrap over cases, or over the groups (patients) that the dataset names (groups: how "
        f"many, if fewer); {resamples} resamples, stretched by Student's t for few, within the score's "
        "bounds; null with fewer than two",
        "pooled_over_all_voxels_of_all_cases": "from summed voxel counts: large lesions count more than small ones; "
        "not comparable with means over cases",
        "surface": "HD95_mm and ASSD_mm: between surface voxels, which have a face neighbour outside (as MONAI); "
        "HD95_elements_mm and SurfaceDice: over surface elements weighted by area (as DeepMind's surface-distance), "
        f"the surface Dice at a tolerance of {tolerance_mm:g} mm, a distance equal to it being within; in "
        "a picture or single slice: the outline in its plane, a pixel of a picture counting as 1 mm",
        "accuracy": "(TP + TN) / all voxels that count: it flatters where the foreground is rare, since background is "
        "easy and plentiful; a prediction without any foreground has one minus the foreground's share, and cases "
        "without foreground count as well; never to be read as a Dice",
        "negatives": "by label, the cases whose reference has none of it: how many have false positives, and mean, "
        "median and maximum over all of them of false-positive voxels and mL; no Dice tells this",
        "positives": "by label that has negatives, the Dice over the cases whose reference has it: the mean over all "
        "defined cases counts a negative with false positives as 0",
        "lesions": "connected components of 26 neighbours; detected when one voxel overlaps",
    }
