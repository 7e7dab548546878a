"""Intervals over cases: they cover what they say, also where cases are few or belong together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from seg3d.metrics import Bootstrap, LabelScore, Lesions, Overlap, SurfaceScores, summarise
from seg3d.metrics.interval import SIGNED

STUDIES = 300


def covered(number: int, draw: str) -> float:
    """Share of studies of so many cases whose interval holds the true mean."""
    rng = np.random.default_rng(number)
    held = 0
    for study in range(STUDIES):
        values = rng.beta(8, 2, number) if draw == "beta" else rng.normal(0.8, 0.1, number)
        found = Bootstrap(500, study).interval({str(i): float(v) for i, v in enumerate(values)}, bounds=SIGNED)
        held += found["ci95"][0] <= 0.8 <= found["ci95"][1]
    return held / STUDIES


@pytest.mark.parametrize("number", [3, 5, 8, 20])
def test_an_interval_covers_as_often_as_it_says_also_over_few_cases(number: int) -> None:
    assert 0.91 <= covered(number, "normal") <= 0.99


def test_skewed_scores_cost_it_a_little() -> None:
    assert 0.88 <= covered(6, "beta") <= 0.99


@pytest.mark.parametrize("scans", [1, 4, 8])
def test_scans_of_one_patient_count_as_one(scans: int) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for study in range(STUDIES):
        patients = rng.normal(0, 1, 10)
        values = {f"{p}-{s}": float(patients[p] + 0.2 * rng.normal()) for p in range(10) for s in range(scans)}
        found = Bootstrap(500, study, {case: case[0] for case in values}).interval(values, bounds=SIGNED)
        assert found["n"] == 10 * scans
        assert found.get("groups", found["n"]) == 10
        held += found["ci95"][0] <= 0 <= found["ci95"][1]
    assert 0.9 <= held / STUDIES <= 0.99


def test_the_mean_is_over_cases_whatever_they_belong_to() -> None:
    values = {"a1": 0.2, "a2": 0.4, "b": 0.9}
    found = Bootstrap(groups={"a1": "a", "a2": "a", "b": "b"}).interval(values)
    assert found["mean"] == pytest.approx(0.5)
    assert found["groups"] == 2


def test_an_interval_ends_where_scores_end() -> None:
    assert Bootstrap().interval({"a": 0.2, "b": 0.9})["ci95"] == [0.0, 1.0]
    low, high = Bootstrap().interval({"a": 0.2, "b": 0.9}, bounds=SIGNED)["ci95"]
    assert low < 0
    assert high > 1


def test_one_unit_has_no_interval() -> None:
    assert Bootstrap(groups={"a": "p", "b": "p"}).interval({"a": 0.2, "b": 0.9})["ci95"] is None
    assert Bootstrap().interval({"a": 0.2, "b": math.nan})["ci95"] is None


def test_a_case_without_a_group_is_by_itself_though_a_group_has_its_name() -> None:
    found = Bootstrap(groups={"a": "b"}).interval({"a": 0.2, "b": 0.9})
    assert "groups" not in found


def test_the_order_of_cases_does_not_matter() -> None:
    values = {str(number): number / 9 for number in range(9)}
    groups = {str(number): str(number % 4) for number in range(9)}
    turned = Bootstrap(groups=dict(reversed(groups.items()))).interval(dict(reversed(values.items())))
    assert Bootstrap(groups=groups).interval(values) == turned


def test_equal_scores_have_equal_intervals() -> None:
    found = score_summary({"a": 0.2, "b": 0.9, "c": 0.7})
    assert found["per_label"]["1"]["Dice"] == found["foreground_dice"]


def score_summary(dice: dict[str, float]) -> dict[str, Any]:
    surface, lesions = SurfaceScores(1, 1, 1, 1), Lesions(1, 1, 1, 0)
    scores = {
        case: {1: LabelScore(Overlap(tp, 100 - tp, 100 - tp, 0), surface, lesions, 1, 1)}
        for case, tp in ((case, round(100 * value)) for case, value in dice.items())
    }
    return summarise(scores, {1: "tumour"}, tolerance_mm=2.0)
