"""Mean scores of the runs of an audit, all of them over the same cases and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seg3d.auditing.effects import mean_over_labels
from seg3d.auditing.scores import (
    Array,
    ScoredRun,
    Structures,
    find_structures,
    reasons_left_out,
    refuse_unlike_tests,
    score_array,
)

SCORES = ("Dice", "IoU")
MEAN = "mean"

Scores = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Means:
    """Mean scores of several runs, and of what.

    Attributes:
        structures: The labels, or the regions where the network predicts regions.
        runs: By run: by label or region, and under ``"mean"``, the mean of each score; ``None``: no case counts.
        cases: By label or region, and under ``"mean"``, the number of cases that count.
        left_out: By case that does not count, wholly or with a label: why.
    """

    structures: Structures
    runs: list[Scores]
    cases: dict[str, int]
    left_out: dict[str, str]


def means_alike(runs: Sequence[ScoredRun], setups: Sequence[str]) -> Means:
    """Mean scores of runs over the cases and labels that have a finite score in every run.

    Else a negative case would count 0 in a run that finds something there and not at all in one that does not, and what
    spreads would be the cases rather than the scores. The mean under ``"mean"`` is the ``foreground_dice`` that ``seg3d
    evaluate`` gives, as far as nothing is left out: over cases, of each case's mean over its labels.

    Args:
        runs: The runs of an audit.
        setups: By run, its set-up.

    Raises:
        RunError: The runs were tested on different cases or references, or have different labels.
    """
    refuse_unlike_tests(runs)
    structures = find_structures(runs)
    found: list[Scores] = [{name: {} for name in (*structures.names, MEAN)} for _ in runs]
    for score in SCORES:
        values = score_array(runs, structures, score)
        for name, of_cases in _by_name(values, structures).items():
            for of_run, scores in zip(found, of_cases, strict=True):
                of_run[name][score] = _mean(scores)
    values = score_array(runs, structures, SCORES[0])  # a case with one of them has the other
    counted = {name: int(np.isfinite(of_cases[0]).sum()) for name, of_cases in _by_name(values, structures).items()}
    return Means(structures, found, counted, reasons_left_out(values, list(runs[0].rows), setups, structures))


def _by_name(values: Array, structures: Structures) -> dict[str, Array]:
    """Scores (runs, cases) of each label or region and of their mean; ``nan`` where a case does not count."""
    alike = np.where(np.isfinite(values).all(axis=0), values, np.nan)
    of_names = {name: alike[:, :, i] for i, name in enumerate(structures.names)}
    return of_names | {MEAN: mean_over_labels(values)}


def _mean(scores: Array) -> float | None:
    """``fsum``, as in the summary: it rounds once, in whatever order."""
    finite = [float(score) for score in scores if math.isfinite(score)]
    return math.fsum(finite) / len(finite) if finite else None
