"""Means of an audit: those of `seg3d evaluate`, over the same cases in every run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg3d.auditing.means import Means, means_alike
from seg3d.auditing.scores import ScoredRun
from seg3d.auditing.spread import spread_of
from seg3d.auditing.verdict import verdict
from seg3d.cases import Region
from seg3d.errors import RunError
from seg3d.metrics import Bootstrap, score_case, summarise
from seg3d.reporting.audit_figures import disagreement_figure, score_figure
from seg3d.verbs.region_scores import region_block, score_regions
from seg3d.volume import Grid

NAMES = {1: "liver", 2: "tumour"}
REGIONS = (Region("whole", (1, 2), 1), Region("inner", (2,), 2))
GRID = Grid((8, 1, 1), np.eye(4))

# references of two cases of eight voxels: the second has no tumour
REFERENCES = {"p1": [1, 1, 1, 1, 2, 2, 2, 0], "p2": [1, 1, 1, 0, 0, 0, 0, 0]}


def scored(predictions: dict[str, list[int]], *, regions: bool = False, name: str = "run", **row: Any) -> ScoredRun:
    """A run that predicted these label maps; ``row`` goes into each row of the summary."""
    pairs = {
        case: tuple(np.reshape(m, (8, 1, 1)) for m in (predictions[case], REFERENCES[case])) for case in REFERENCES
    }
    per_case = {case: score_case(*pair, [1, 2], (1, 1, 1), 0.001) for case, pair in pairs.items()}
    summary = summarise(per_case, NAMES, tolerance_mm=2.0)
    if regions:
        of_regions = {case: score_regions(*pair, REGIONS, GRID, None, 2.0) for case, pair in pairs.items()}
        summary |= region_block(of_regions, REGIONS, 2.0, Bootstrap())
    for entry in summary["metric_per_case"]:
        entry |= row
    return ScoredRun(Path(name), summary)


GOOD = {"p1": [1, 1, 1, 1, 2, 0, 0, 0], "p2": [1, 1, 0, 0, 0, 0, 0, 0]}
WITH_FALSE_TUMOUR = GOOD | {"p2": [1, 1, 0, 0, 2, 0, 0, 0]}


def dice(means: Means, label: str) -> list[float | None]:
    return [run[label]["Dice"] for run in means.runs]


def test_the_mean_is_the_one_that_evaluate_has_on_top() -> None:
    runs = [scored(GOOD), scored(GOOD | {"p1": REFERENCES["p1"]})]
    means = means_alike(runs, ["random", "random"])
    expected = [run.summary["foreground_dice"]["mean"] for run in runs]
    assert dice(means, "mean") == pytest.approx(expected)
    # by hand: liver 1 and tumour 1/2 in the first case, liver 4/5 in the second
    assert dice(means, "mean")[0] == pytest.approx((0.75 + 0.8) / 2)
    assert runs[0].summary["foreground_mean"]["Dice"] == pytest.approx((0.9 + 0.5) / 2)
    assert means.cases == {"1": 2, "2": 1, "mean": 2}


def test_where_there_are_regions_the_mean_is_theirs() -> None:
    runs = [scored(GOOD, regions=True), scored(WITH_FALSE_TUMOUR, regions=True)]
    means = means_alike(runs[:1] * 2, ["random", "random"])
    assert (means.structures.kind, means.structures.names) == ("region", {"1": "whole", "2": "inner"})
    assert dice(means, "mean") == pytest.approx([runs[0].summary["regions"]["foreground_dice"]["mean"]] * 2)
    assert dice(means, "1")[0] == runs[0].summary["regions"]["mean"]["1"]["Dice"]
    assert dice(means, "1")[0] != runs[0].summary["mean"]["1"]["Dice"]
    assert means_alike(runs, ["random", "random"]).left_out == {
        "p2": "undefined in 1 of 2 runs of random; 1 of 2 regions left out, in every run"
    }


def test_a_case_that_is_undefined_in_one_run_counts_in_none() -> None:
    # a false voxel of tumour in a case without any: 0 in one run, undefined in the other
    runs = [scored(GOOD), scored(WITH_FALSE_TUMOUR)]
    assert runs[0].summary["mean"]["2"]["Dice"] == 0.5
    assert runs[1].summary["mean"]["2"]["Dice"] == 0.25
    means = means_alike(runs, ["random", "seeded"])
    assert spread_of(dice(means, "2")).sd == 0
    assert spread_of(dice(means, "mean")).sd == 0
    assert means.cases == {"1": 2, "2": 1, "mean": 2}
    assert means.left_out == {"p2": "undefined in 1 of 1 runs of random; 1 of 2 labels left out, in every run"}


def test_without_a_case_in_common_there_is_no_mean() -> None:
    empty: dict[str, list[int]] = {case: [0] * 8 for case in REFERENCES}
    summary = summarise(
        {"p": score_case(*[np.zeros((8, 1, 1))] * 2, [1], (1, 1, 1), 0.001)}, {1: "a"}, tolerance_mm=2.0
    )
    means = means_alike([ScoredRun(Path("a"), summary)] * 2, ["random"] * 2)
    assert dice(means, "mean") == [None, None]
    assert means.cases == {"1": 0, "mean": 0}
    assert dice(means_alike([scored(empty)] * 2, ["random"] * 2), "mean") == [0, 0]  # nothing found is no missing score


def test_an_audit_whose_references_were_corrected_half_way_is_refused() -> None:
    with pytest.raises(RunError, match="scored against different references"):
        means_alike([scored(GOOD, reference_sha256="1"), scored(GOOD, reference_sha256="2")], ["random"] * 2)


def audit_of(counted: int, kind: str = "label") -> dict[str, Any]:
    spread = vars(spread_of([0.6, 0.8]))
    scores = {name: {"Dice": spread, "IoU": spread} for name in ("1", "mean")}
    return {
        "setups": {"random": {"scores": scores, "distinct_weights": 2, "distinct_predictions": 2}},
        "runs": [{"setup": "random"}] * 2,
        "vary": "nothing",
        "scored": kind,
        "labels": {"1": "liver"},
        "test_cases": ["p1", "p2"],
        "scored_cases": {"1": counted, "mean": counted},
    }


def test_the_verdict_names_the_score_and_how_many_cases_it_is_over() -> None:
    assert verdict(audit_of(2)) == (
        "2 random runs gave 2 different networks and 2 different predictions: foreground Dice 0.7000, SD 0.1414, "
        "from 0.6000 to 0.8000."
    )
    assert verdict(audit_of(1, "region")).endswith(
        ": region Dice 0.7000, SD 0.1414, from 0.6000 to 0.8000, over the 1 of 2 test cases with a score in every run."
    )


def test_runs_whose_records_part_have_not_the_same_bits() -> None:
    found = audit_of(2)
    found["setups"] = {"deterministic": found["setups"]["random"] | {"distinct_weights": 1, "distinct_predictions": 1}}
    found["runs"] = [{"setup": "deterministic"}] * 2
    assert verdict(found).startswith("2 deterministic runs gave the same bits")
    found["setups"]["deterministic"]["parts_at"] = {"epoch": 3, "batch": None}
    assert verdict(found) == (
        "NOT REPRODUCIBLE: 2 deterministic runs gave the same weights and predictions, but part in epoch 4."
    )


def test_the_figure_says_over_how_many_cases_its_means_are() -> None:
    def texts(found: dict[str, Any]) -> list[str]:
        return [text for axes in score_figure(found).axes for text in (axes.get_title(), axes.get_ylabel())]

    assert texts(audit_of(2))[:2] == ["liver: Dice", "Dice, mean over 2 test cases"]
    assert texts(audit_of(1))[:2] == ["liver: Dice\n1 of 2 cases", "Dice, mean over cases with a score in every run"]


@pytest.mark.parametrize(("labels", "panels"), [(1, 1), (6, 6), (7, 7), (300, 24)])
def test_the_figure_draws_the_labels_that_spread_most_where_there_are_many(labels: int, panels: int) -> None:
    found = audit_of(2)
    found["labels"] = {str(value): f"organ {value}" for value in range(1, labels + 1)}
    found["scored_cases"] = dict.fromkeys(found["labels"], 2)
    of = {str(value): vars(spread_of([0.5, 0.5 + value / 1000])) for value in range(1, labels + 1)}
    found["setups"]["random"]["scores"] = {label: {"Dice": one, "IoU": one} for label, one in of.items()}
    figure = score_figure(found)
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert len(titles) == 2 * panels
    assert {title.split(":")[0] for title in titles} == {f"organ {labels - number}" for number in range(panels)}
    told = "The 24 of 300 labels whose Dice spreads most over the runs"
    assert figure.get_suptitle() == (told if labels > 24 else "")
    assert max(figure.get_size_inches()) < 30


def test_pictures_in_dispute_are_drawn_as_they_are_stored_and_thin_volumes_in_their_own_plane() -> None:
    share = np.zeros((30, 20, 1), np.float32)
    share[:3, :4] = 0.5  # first columns, first rows
    picture = disagreement_figure(0 * share, {"random": share}, (1, 1, 1), "$^$", picture=True)
    axes = picture.axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 30), (20, 0))  # neither mirrored nor upside down
    assert [text.get_text() for text in axes.texts] == []  # nothing is known of sides and millimetres
    assert axes.get_title() == "random: 12 pixels"
    volume = np.zeros((1, 30, 20), np.float32)
    sagittal = disagreement_figure(volume, {"random": volume}, (1, 1, 1), "a")
    assert sagittal.get_suptitle() == "a, sagittal slice 1 of 1; patient front on the left"


def test_the_figure_of_voxels_in_dispute_tells_slice_and_case_apart() -> None:
    share = np.zeros((8, 8, 5), np.float32)
    share[2:4, 2:4, 3], share[0, 0, 1] = 0.25, 2 / 3
    figure = disagreement_figure(0 * share, {"random": share, "seeded": 0 * share}, (1, 1, 1), "a")
    assert [axes.get_title() for axes in figure.axes[:2]] == [
        "random: 4 voxels, 5 in the case",
        "seeded: 0 voxels, 0 in the case",
    ]
    assert figure.get_suptitle().startswith("a, axial slice 4 of 5; patient right on the left")
    assert figure.axes[0].images[-1].get_clim() == (0, pytest.approx(2 / 3))  # no share is beyond the colours
    without = disagreement_figure(0 * share, {"seeded": 0 * share}, (1, 1, 1), "a")
    assert "slice 3 of 5" in without.get_suptitle()  # the middle one, not the border of the body
