"""Scores that do not flatter: per case and label, with stated rules for empty masks."""

from seg3d.metrics.case import LabelScore, score_case
from seg3d.metrics.interval import Bootstrap
from seg3d.metrics.lesions import Lesions, count_lesions
from seg3d.metrics.overlap import Overlap, count_label, count_overlap, dice_per_label
from seg3d.metrics.summary import summarise
from seg3d.metrics.surface import SurfaceScores, surface_scores
from seg3d.metrics.table import format_summary, rows

__all__ = [
    "Bootstrap",
    "LabelScore",
    "Lesions",
    "Overlap",
    "SurfaceScores",
    "count_label",
    "count_lesions",
    "count_overlap",
    "dice_per_label",
    "format_summary",
    "rows",
    "score_case",
    "summarise",
    "surface_scores",
]
