"""Compare: the interval covers the truth, seeds and cases get their shares, and what cannot be known is not claimed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from typer.testing import CliRunner

from seg3d.auditing.effects import (
    Effects,
    Level,
    decompose,
    estimate,
    mean_within_groups,
    needed_for_half,
    planned_error,
    smallest_seen,
    superiority,
    variance_shares,
)
from seg3d.cli import app
from seg3d.errors import DataError, RunError, Seg3dError
from seg3d.keyed import keyed
from seg3d.metrics import LabelScore, Lesions, Overlap, SurfaceScores, summarise
from seg3d.training.run_folder import SCHEMA_VERSION
from seg3d.verbs.compare import Comparison, compare, format_comparison

Array = npt.NDArray[np.float64]

# standard deviations of seeds of A, seeds of B, cases' differences and the rest
STUDIES = {
    "seeds": (5, 5, 20, (0.02, 0.02, 0.005, 0.01)),
    "cases": (5, 5, 20, (0.003, 0.003, 0.03, 0.01)),
    "interplay": (5, 5, 20, (0.005, 0.005, 0.01, 0.04)),
    "even": (5, 5, 20, (0.02, 0.02, 0.02, 0.02)),
    "three seeds": (3, 3, 20, (0.02, 0.02, 0.02, 0.02)),
    "three seeds against ten": (3, 10, 20, (0.02, 0.02, 0.02, 0.02)),
    "few cases": (5, 5, 10, (0.02, 0.02, 0.02, 0.02)),
    "nothing but interplay": (5, 5, 20, (0.0, 0.0, 0.0, 0.04)),
}


def draw(
    generator: np.random.Generator, a: int, b: int, cases: int, sd: tuple[float, ...], difference: float = 0.02
) -> tuple[Array, Array]:
    """Scores of a study with a known difference: cases are hard or easy for both sides alike."""
    difficulty = generator.normal(0.8, 0.1, cases)
    sides = [
        difficulty + generator.normal(0, seed_sd, (seeds, 1)) + generator.normal(0, sd[3], (seeds, cases))
        for seeds, seed_sd in ((a, sd[0]), (b, sd[1]))
    ]
    return sides[0] + difference + generator.normal(0, sd[2], cases), sides[1]


def study(key: str, a: int, b: int, cases: int, sd: tuple[float, ...], difference: float = 0.02) -> Effects:
    return decompose(*draw(keyed(0, key), a, b, cases, sd, difference))


@pytest.fixture(scope="module")
def intervals() -> dict[str, Array]:
    """Ends of the interval in 500 studies of each kind."""
    found = {}
    for name, kind in STUDIES.items():
        generator = keyed(0, "coverage", name)
        found[name] = np.array([estimate(decompose(*draw(generator, *kind)), generator, 200).ci95 for _ in range(500)])
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_the_interval_is_wide_enough_to_cover_the_truth_in_95_percent(name: str, intervals: dict[str, Array]) -> None:
    a, b, cases, (seed_a, seed_b, case, rest) = STUDIES[name]
    variance = seed_a**2 / a + seed_b**2 / b + case**2 / cases + rest**2 / (a * cases) + rest**2 / (b * cases)
    half = np.diff(intervals[name], axis=1) / 2
    # means and mean squares of normal samples are independent, so the chance that an interval of this width covers the
    # truth is known for each study: far less noise than the count, which among 500 strays by 2 % in one case of 20
    assert 0.93 <= np.mean(2 * stats.norm.cdf(half / np.sqrt(variance)) - 1) <= 0.97


def covered_share(intervals: Array) -> float:
    low, high = intervals.T
    return float(np.mean((low <= 0.02) & (high >= 0.02)))


@pytest.mark.parametrize("name", STUDIES)
def test_the_interval_covers_the_truth_in_93_to_97_percent_of_500_studies(
    name: str, intervals: dict[str, Array]
) -> None:
    assert 0.93 <= covered_share(intervals[name]) <= 0.97


def test_the_interval_covers_the_truth_in_95_percent_of_all_studies(intervals: dict[str, Array]) -> None:
    assert 0.94 <= covered_share(np.concatenate(list(intervals.values()))) <= 0.96


def test_an_interval_over_cases_alone_would_not_cover_the_truth() -> None:
    generator, covered = keyed(0, "coverage of cases alone"), 0
    for _ in range(500):
        a, b = draw(generator, *STUDIES["seeds"])
        low, high = estimate(decompose(a[:1], b[:1]), generator, 300).ci95
        covered += low <= 0.02 <= high
    assert covered / 500 < 0.5


def test_the_bootstrap_agrees_with_the_formula_of_the_variance() -> None:
    found = study("formula", 4, 6, 15, (0.02, 0.01, 0.03, 0.02))
    formula = np.sqrt(sum(level.variance / level.effects.size for level in found.levels))
    assert estimate(found, keyed(0, "many"), 40_000).standard_error == pytest.approx(formula, rel=0.02)


def test_effects_of_a_table_are_those_computed_by_hand() -> None:
    a = np.array([[1.0, 2.0], [3.0, 6.0]])
    b = np.array([[0.0, 0.0], [0.0, 0.0]])
    found = decompose(a, b)
    # means of seeds 1.5 and 4.5, of cases 2 and 4, rest +-0.5: mean squares 4.5, 2 and 1
    assert found.difference == 3.0
    assert found.rest_a.variance == pytest.approx(1.0)
    assert found.seeds_a.variance == pytest.approx(4.5 - 1 / 2)
    assert found.cases.variance == pytest.approx(2.0 - 1 / 2)
    assert found.seeds_b.variance == found.rest_b.variance == 0.0


def test_shares_of_the_variance_are_recovered_from_many_seeds_and_cases() -> None:
    found = variance_shares(study("shares", 300, 300, 300, (0.03, 0.01, 0.02, 0.01)))
    variances = {"seeds": 0.03**2 + 0.01**2, "cases": 0.02**2, "interplay": 2 * 0.01**2}
    expected = {name: value / sum(variances.values()) for name, value in variances.items()}
    assert found == pytest.approx(expected, abs=0.05)
    assert sum(share for share in found.values() if share is not None) == pytest.approx(1.0)


@pytest.mark.parametrize("difference", [-0.03, 0.0, 0.05])
def test_the_probability_of_superiority_is_the_normal_one_for_normal_effects(difference: float) -> None:
    sd = (0.03, 0.01, 0.02, 0.01)
    found = study("superiority", 300, 300, 300, sd, difference)
    total = np.sqrt(sd[0] ** 2 + sd[1] ** 2 + sd[2] ** 2 + 2 * sd[3] ** 2)
    expected = stats.norm.cdf(found.difference / total)
    higher = superiority(found, keyed(0, "draws"))
    assert higher == pytest.approx(expected, abs=0.02)
    assert superiority(found, keyed(0, "draws"), higher_is_better=False) == pytest.approx(1 - higher)


def test_ties_count_half() -> None:
    same = np.full((3, 4), 0.1) * np.arange(1, 5)
    assert superiority(decompose(same, same), keyed(0, "ties")) == 0.5
    assert superiority(decompose(same + 0.1, same), keyed(0, "ties")) == 1.0


def test_rounding_errors_are_no_difference() -> None:
    a = np.array([[0.1, 0.2], [0.1, 0.2]])
    found = estimate(decompose(a + 0.7, (a + 0.6) + 0.1), keyed(0, "rounding"), 100)
    assert not np.array_equal(a + 0.7, (a + 0.6) + 0.1)
    assert found.difference == 0.0
    assert found.ci95 == (0.0, 0.0)
    assert found.sign == 0


def test_the_seeds_needed_grow_with_the_noise_and_shrink_with_the_difference() -> None:
    def seeds(noise: float, difference: float) -> int:
        found = needed_for_half(study("needed", 20, 20, 50, (noise, noise, 0.001, 0.001), difference)).seeds
        assert found is not None
        return found

    by_noise = [seeds(noise, 0.03) for noise in (0.005, 0.01, 0.02, 0.04)]
    by_difference = [seeds(0.02, difference) for difference in (0.1, 0.05, 0.03, 0.02)]
    assert by_noise == sorted(set(by_noise))
    assert by_difference == sorted(set(by_difference))


def test_the_seeds_needed_are_the_fewest_that_suffice() -> None:
    found = study("fewest", 6, 6, 30, (0.02, 0.02, 0.01, 0.01), 0.03)
    seeds = needed_for_half(found).seeds
    assert seeds is not None
    one_less, enough = smallest_seen(*planned_error(found, np.array([seeds - 1, seeds])))
    assert enough < abs(found.difference) / 2 <= one_less


def effects_of_size(sd: tuple[float, ...], seeds: int, cases: int, difference: float) -> Effects:
    """Effects whose variances are just these, as if very many studies had told them."""

    def level(size: float, units: int) -> Level:
        return Level(np.resize([size, -size], units), units - 1)

    rest = level(sd[3], seeds * cases)
    return Effects(difference, level(sd[0], seeds), level(sd[1], seeds), level(sd[2], cases), rest, rest)


@pytest.mark.parametrize(
    ("sd", "cases"),
    [((0.02, 0.02, 0.01, 0.02), 30), ((0.01, 0.03, 0.02, 0.03), 60), ((0.005, 0.005, 0.02, 0.05), 40)],
)
def test_with_the_seeds_needed_four_of_five_studies_see_half_of_the_difference(
    sd: tuple[float, ...], cases: int
) -> None:
    seeds = needed_for_half(effects_of_size(sd, 10, cases, 0.04)).seeds
    assert seeds is not None
    generator, studies = keyed(0, "power"), 400
    seen = sum(
        estimate(decompose(*draw(generator, seeds, seeds, cases, sd, 0.02)), generator, 200).sign == 1
        for _ in range(studies)
    )
    assert 0.74 <= seen / studies <= 0.88


def test_the_interval_planned_for_the_seeds_there_are_is_the_one_found() -> None:
    found = study("planned", 6, 6, 30, (0.02, 0.02, 0.01, 0.01))
    low, high = estimate(found, keyed(0, "planned"), 40_000).ci95
    error, df = planned_error(found, np.array([6]))
    assert stats.t.ppf(0.975, df[0]) * error[0] == pytest.approx((high - low) / 2, rel=0.05)


def seen_in_patients(scans: int, *, grouped: bool) -> float:
    """Share of studies without a true difference that claim one; the scans of a patient are nearly alike."""
    generator, patients, seeds, studies, found = keyed(0, "patients"), 10, 4, 400, 0
    groups = np.repeat(np.arange(patients), scans)
    for _ in range(studies):
        a, b = draw(generator, seeds, seeds, patients * scans, (0.002, 0.002, 0.004, 0.01), 0.0)
        a += generator.normal(0, 0.03, patients)[groups]
        if grouped:
            a, b = (mean_within_groups(side, groups.tolist()) for side in (a, b))
        found += estimate(decompose(a, b), generator, 200).sign != 0
    return found / studies


def test_with_eight_scans_of_each_patient_chance_is_called_a_difference_in_5_percent_of_studies() -> None:
    assert 0.02 <= seen_in_patients(8, grouped=True) <= 0.08


def test_scans_taken_for_patients_would_call_chance_a_difference_half_of_the_time() -> None:
    assert seen_in_patients(8, grouped=False) > 0.3


def test_a_group_has_the_mean_of_its_cases() -> None:
    scores = np.array([[1.0, 2.0, 6.0, 4.0], [0.0, 8.0, 1.0, 4.0]])
    assert mean_within_groups(scores, ["b", "a", "a", "b"]).tolist() == [[2.5, 4.0], [2.0, 4.5]]
    assert np.array_equal(mean_within_groups(scores, "abcd"), scores)


def test_where_the_cases_are_too_few_no_number_of_seeds_suffices() -> None:
    found = needed_for_half(study("cases", 5, 5, 10, (0.001, 0.001, 0.1, 0.001), 0.02))
    assert found.seeds is None
    assert found.cases is not None
    assert found.cases > 10
    assert found.why == (
        "with these 10 cases no number of seeds suffices to see half of the difference with a power of 80 %: "
        f"about {found.cases} cases are needed"
    )


def test_without_a_difference_there_is_no_half_of_it() -> None:
    same = draw(keyed(0, "none"), 3, 3, 5, (0.1, 0.1, 0.0, 0.1))[0]
    found = needed_for_half(decompose(same, same))
    assert (found.seeds, found.cases) == (None, None)
    assert "no difference" in found.why


@pytest.mark.parametrize(
    "bad", [np.ones((2, 1)), np.ones((2, 3)), np.ones(4), np.ones((0, 4)), np.full((2, 4), np.nan)]
)
def test_matrices_that_do_not_fit_are_refused(bad: Array) -> None:
    with pytest.raises(ValueError, match=r"expected|finite"):
        decompose(bad, np.ones((2, 1)) if bad.shape == (2, 1) else np.ones((2, 4)))


# from here on with run folders, which hold no more than what is read of them


def make_run(path: Path, scores: dict[str, Any], *, metric: str = "Dice", weights: str = "", data: str = "d") -> Path:
    """A finished run; ``scores`` by case: one for label 1, or a list for labels 1, 2..."""
    (path / "test").mkdir(parents=True)
    rows = [
        {"case": case, "metrics": {str(i): nested(metric, value) for i, value in enumerate(as_list(found), 1)}}
        | {"reference_sha256": None, "group": case}
        for case, found in scores.items()
    ]
    labels = {key: {"name": f"organ {key}"} for row in rows for key in row["metrics"]}
    documents = {
        "run.json": {"schema_version": SCHEMA_VERSION},
        "result.json": {"weights_sha256": weights or str(path), "data_sha256": data},
        "test/summary.json": {"metric_per_case": rows, "per_label": labels, "rules": {"surface": "2 mm"}},
    }
    for name, document in documents.items():
        (path / name).write_text(json.dumps(document))
    return path


def edit_summary(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = run / "test" / "summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))


def set_rows(run: Path, key: str, values: Mapping[str, Any]) -> None:
    """Write a value into the rows of some cases."""

    def change(summary: dict[str, Any]) -> None:
        for row in summary["metric_per_case"]:
            row[key] = values.get(row["case"], row.get(key))

    edit_summary(run, change)


def add_regions(run: Path, scores: Mapping[str, Sequence[float]], regions: Mapping[str, Sequence[int]]) -> Path:
    """Scores of regions of a run, each shown as its smallest label, as ``seg3d evaluate`` writes them."""
    shown = {str(min(values)): {"name": name, "values": list(values)} for name, values in regions.items()}
    rows = [
        {"case": case, "metrics": {key: {"Dice": value} for key, value in zip(shown, found, strict=True)}}
        for case, found in scores.items()
    ]
    edit_summary(run, lambda summary: summary.update(regions={"metric_per_case": rows, "per_label": shown}))
    return run


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def nested(metric: str, value: Any) -> dict[str, Any]:
    first, _, rest = metric.partition(".")
    return {first: nested(rest, value) if rest else value}


def make_side(folder: Path, name: str, scores: Array, **settings: Any) -> list[Path]:
    return [
        make_run(folder / f"{name}{i}", {f"case_{c}": float(v) for c, v in enumerate(row)}, **settings)
        for i, row in enumerate(scores)
    ]


def compare_draw(folder: Path, difference: float, metric: str = "Dice", **settings: Any) -> Comparison:
    a, b = draw(keyed(0, "runs"), 4, 3, 12, (0.01, 0.01, 0.01, 0.01), difference)
    sides = make_side(folder, "a", a, metric=metric), make_side(folder, "b", b, metric=metric)
    return compare(*sides, metric=metric, **settings)


def test_a_clear_difference_is_said_plainly_and_written(tmp_path: Path) -> None:
    output = tmp_path / "out" / "comparison.json"
    found = compare_draw(tmp_path, 0.1, output=output)
    assert found.better == "A"
    assert found.estimate.difference == pytest.approx(found.mean_a - found.mean_b)
    low, high = found.estimate.ci95
    assert low < 0.1 < high
    assert (len(found.runs_a), len(found.runs_b), len(found.cases)) == (4, 3, 12)
    assert found.warnings == ()
    assert found.sentence == (
        f"A is better by {found.estimate.difference:.3g} Dice (95 % interval {low:.3g} to {high:.3g}), "
        "more than seeds and cases explain by chance."
    )
    assert format_comparison(found).splitlines()[-1] == found.sentence
    assert json.loads(output.read_text()) == json.loads(json.dumps(found.as_dict()))


@pytest.mark.parametrize("repeated", [True, False])
def test_the_command_line_takes_several_runs_on_both_sides(tmp_path: Path, repeated: bool) -> None:
    a, b = draw(keyed(0, "runs"), 4, 3, 12, (0.01, 0.01, 0.01, 0.01), 0.1)
    left, right = ([str(run) for run in make_side(tmp_path, name, of)] for name, of in (("a", a), ("b", b)))
    against = [x for run in right for x in ("--against", run)] if repeated else ["--against", *right]
    done = CliRunner().invoke(app, ["compare", *left, *against, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (len(found["runs_a"]), len(found["runs_b"])) == (4, 3)
    plain = CliRunner().invoke(app, ["compare", *left, *against])
    assert plain.stdout.strip().splitlines()[-1] == found["sentence"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["a1", "--against", "b1", "--json", "b2"],
        ["a1", "--against", "b1", "--metric", "IoU", "b2"],
        ["--against", "--metric", "IoU", "a1"],
    ],
)
def test_runs_are_never_put_on_the_wrong_side(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["compare", *arguments])
    assert isinstance(done.exception, Seg3dError)
    assert re.search("runs stand before other options|nothing follows --against", str(done.exception))


def test_an_equals_sign_begins_a_side_too(tmp_path: Path) -> None:
    runs = [str(run) for run in make_side(tmp_path, "r", draw(keyed(0, "runs"), 4, 3, 12, (0.01,) * 4)[0])]
    done = CliRunner().invoke(app, ["compare", runs[0], runs[1], f"--against={runs[2]}", runs[3], "--json"])
    assert done.exit_code == 0, done.output
    assert [len(json.loads(done.stdout)[side]) for side in ("runs_a", "runs_b")] == [2, 2]


def test_the_sides_swapped_give_the_mirrored_answer(tmp_path: Path) -> None:
    a, b = draw(keyed(0, "swapped"), 4, 3, 12, (0.01, 0.01, 0.01, 0.01), 0.1)
    sides = make_side(tmp_path, "a", a), make_side(tmp_path, "b", b)
    there, back = compare(*sides), compare(*reversed(sides))
    assert (there.better, back.better) == ("A", "B")
    assert back.estimate.difference == -there.estimate.difference
    assert there.probability_a_better > 0.9
    assert back.probability_a_better < 0.1
    assert back.sentence.startswith("B is better by 0.")


def test_chance_is_not_called_a_difference(tmp_path: Path) -> None:
    found = compare_draw(tmp_path, 0.0)
    assert found.better is None
    assert found.sentence.startswith("No difference can be told: A - B is ")


def test_the_same_comparison_gives_the_same_bits_and_the_seed_matters(tmp_path: Path) -> None:
    a, b = draw(keyed(0, "bits"), 3, 3, 8, (0.01, 0.01, 0.01, 0.01))
    sides = make_side(tmp_path, "a", a), make_side(tmp_path, "b", b)
    assert compare(*sides) == compare(*sides)
    assert compare(*sides).estimate != compare(*sides, seed=1).estimate


@pytest.mark.parametrize("metric", ["HD95_mm", "HD95_elements_mm", "ASSD_mm"])
def test_less_of_a_distance_is_better(tmp_path: Path, metric: str) -> None:
    found = compare_draw(tmp_path, 0.1, metric)
    assert found.estimate.difference > 0
    assert found.better == "B"
    assert found.probability_a_better < 0.1
    assert not found.higher_is_better


def test_volume_errors_are_compared_by_their_size(tmp_path: Path) -> None:
    small = np.array([[1.0, -1.0, 1.2, -1.1], [1.1, -0.9, 1.0, -1.0], [0.9, -1.1, 1.0, -1.0]])
    sides = [
        make_side(tmp_path, "a", small, metric="VolumeError_mL"),
        make_side(tmp_path, "b", -5 * small, metric="VolumeError_mL"),
    ]
    found = compare(*sides, metric="VolumeError_mL")
    assert found.metric == "|VolumeError_mL|"
    assert found.mean_b == pytest.approx(5 * found.mean_a)
    assert found.better == "A"


def test_scores_of_lesions_can_be_compared(tmp_path: Path) -> None:
    assert compare_draw(tmp_path, 0.1, "Lesions.f1").better == "A"


def test_one_seed_is_answered_with_a_warning_that_seed_noise_is_unknown(tmp_path: Path) -> None:
    a, b = draw(keyed(0, "one seed"), 4, 1, 12, (0.01, 0.01, 0.01, 0.01), 0.1)
    found = compare(make_side(tmp_path, "a", a), make_side(tmp_path, "b", b))
    assert any("seed noise is unknown: B has one run only" in warning for warning in found.warnings)
    assert "seed noise is unknown" in found.sentence
    assert set(found.variance_shares.values()) == {None}
    assert found.needed.seeds is None


def test_one_seed_on_both_sides_gives_the_paired_t_interval_over_cases(tmp_path: Path) -> None:
    a, b = draw(keyed(0, "paired"), 1, 1, 12, (0.01, 0.01, 0.02, 0.01))
    found = compare(make_side(tmp_path, "a", a), make_side(tmp_path, "b", b), resamples=40_000)
    expected = stats.ttest_rel(a[0], b[0]).confidence_interval(0.95)
    assert found.estimate.ci95 == pytest.approx((expected.low, expected.high), abs=2e-4)
    assert found.estimate.df == pytest.approx(11)


def test_two_seeds_are_answered_with_a_warning(tmp_path: Path) -> None:
    a, b = draw(keyed(0, "two"), 2, 3, 6, (0.01, 0.01, 0.01, 0.01))
    found = compare(make_side(tmp_path, "a", a), make_side(tmp_path, "b", b))
    assert [warning.split(":")[0] for warning in found.warnings] == ["A has two seeds only"]


def test_runs_of_the_same_weights_count_once(tmp_path: Path) -> None:
    a, b = draw(keyed(0, "same"), 3, 3, 6, (0.01, 0.01, 0.01, 0.01))
    side_a, side_b = make_side(tmp_path, "a", a), make_side(tmp_path, "b", b)
    copy = make_run(tmp_path / "copy", {f"case_{c}": float(v) for c, v in enumerate(a[0])}, weights=str(side_a[0]))
    found = compare([*side_a, copy], side_b)
    assert found.runs_a == tuple(map(str, side_a))
    assert found.estimate == compare(side_a, side_b).estimate
    assert [w for w in found.warnings if str(copy) in w and "identical runs are no independent seeds" in w]


def test_a_run_on_both_sides_and_different_data_are_told(tmp_path: Path) -> None:
    a, b = draw(keyed(0, "both"), 3, 3, 6, (0.01, 0.01, 0.01, 0.01))
    side_a, side_b = make_side(tmp_path, "a", a), make_side(tmp_path, "b", b, data="other")
    found = " ".join(compare(side_a, [*side_b, side_a[0]]).warnings)
    assert "both sides share 1 run" in found
    assert "made from different data" in found


def test_runs_of_one_seed_are_told_even_if_their_weights_differ(tmp_path: Path) -> None:
    a, b = draw(keyed(0, "one"), 3, 3, 6, (0.01, 0.01, 0.01, 0.01))
    side_a, side_b = make_side(tmp_path, "a", a), make_side(tmp_path, "b", b)
    for i, run in enumerate([*side_a, *side_b]):
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(result | {"seed": min(i, 4)}))
    assert [w.split(":")[0] for w in compare(side_a, side_b).warnings] == ["B has several runs of one seed"]


def test_an_audit_stands_for_its_finished_runs(tmp_path: Path) -> None:
    a, b = draw(keyed(0, "audit"), 3, 3, 6, (0.01, 0.01, 0.01, 0.01))
    cells, side_b = make_side(tmp_path / "audit" / "cells", "a", a), make_side(tmp_path, "b", b)
    assert compare([tmp_path / "audit"], side_b).runs_a == tuple(map(str, cells))
    (cells[1] / "result.json").unlink()
    found = compare([tmp_path / "audit"], side_b)
    assert found.runs_a == (str(cells[0]), str(cells[2]))
    assert any("1 of 3 runs have not ended" in warning for warning in found.warnings)
    for cell in (cells[0], cells[2]):
        (cell / "result.json").unlink()
    with pytest.raises(RunError, match="the audit has no finished run"):
        compare([tmp_path / "audit"], side_b)


def whole_summary(*dice: int) -> str:
    """A summary as ``seg3d evaluate`` writes it, of cases with these Dice values in percent."""
    scores = {
        f"c{number}": {
            1: LabelScore(Overlap(tp, 100 - tp, 100 - tp, 0), SurfaceScores(1, 1, 1, 1), Lesions(1, 1, 1, 0), 1, 1)
        }
        for number, tp in enumerate(dice)
    }
    return json.dumps(summarise(scores, {1: "tumour"}, tolerance_mm=2.0))


def test_scores_of_whatever_has_predicted_stand_beside_runs(tmp_path: Path) -> None:
    scores = {"A1": (80, 70, 90), "A2": (82, 70, 88), "B1": (60, 50, 72), "B2": (61, 52, 70)}
    runs = {name: make_run(tmp_path / name, {"c0": 0.5}) for name in scores}
    files = {name: tmp_path / f"{name}.json" for name in ("B1", "B2")}
    for name, dice in scores.items():
        (runs[name] / "test" / "summary.json").write_text(whole_summary(*dice))
    for name, file in files.items():
        file.write_text(whole_summary(*scores[name]))
    expected = compare([runs["A1"], runs["A2"]], [runs["B1"], runs["B2"]])
    found = compare([runs["A1"], runs["A2"]], list(files.values()))
    assert (found.estimate, found.better) == (expected.estimate, "A")
    assert found.runs_b == tuple(map(str, files.values()))
    assert not any("different data" in warning for warning in found.warnings)
    twice = compare([runs["A1"], runs["A2"]], [*files.values(), files["B1"]])
    assert twice.estimate == found.estimate
    assert any("same scores" in warning for warning in twice.warnings)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(RunError, match="no summary of scores"):
        compare([runs["A1"]], [tmp_path / "other.json"])


def test_runs_with_different_test_cases_are_refused_in_one_message(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {"p1": 0.5, "p2": 0.6, "p3": 0.7})
    other = make_run(tmp_path / "other", {"p1": 0.5, "p2": 0.6, "p4": 0.7})
    with pytest.raises(RunError, match="tested on different cases") as caught:
        compare([one], [other])
    message = str(caught.value)
    assert "p4 only here, p3 not here" in message
    assert str(one) in message
    assert str(other) in message
    assert "p1" not in message.replace(str(tmp_path), "")


def test_what_is_unknown_is_answered_with_what_is_known(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, {"p1": [0.5, 0.1], "p2": [0.6, 0.2]}) for name in "ab"]
    with pytest.raises(RunError, match=r"no such metric \(got dice, expected Dice, IoU, "):
        compare(runs[:1], runs[1:], metric="dice")
    with pytest.raises(RunError, match=r"no such label \(got 3, expected 1 \(organ 1\), 2 \(organ 2\)\)"):
        compare(runs[:1], runs[1:], label="3")
    with pytest.raises(RunError, match="lack the metric"):
        compare(runs[:1], runs[1:], metric="Recall")
    with pytest.raises(RunError, match="not a run folder"):
        compare(runs[:1], [tmp_path / "nothing"])
    with pytest.raises(RunError, match="side B has no run"):
        compare(runs[:1], [])
    more = make_run(tmp_path / "more", {"p1": [0.5, 0.1, 0.2], "p2": [0.6, 0.2, 0.3]})
    with pytest.raises(RunError, match="different labels"):
        compare(runs[:1], [more])
    (runs[1] / "result.json").unlink()
    with pytest.raises(RunError, match="has not ended"):
        compare(runs[:1], runs[1:])


def test_surface_dice_at_different_tolerances_is_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, {"p1": 0.5, "p2": 0.6}, metric="SurfaceDice") for name in "ab"]
    assert compare(runs[:1], runs[1:], metric="SurfaceDice").mean_a == pytest.approx(0.55)
    summary = json.loads((runs[1] / "test" / "summary.json").read_text())
    (runs[1] / "test" / "summary.json").write_text(json.dumps(summary | {"rules": {"surface": "3 mm"}}))
    with pytest.raises(RunError, match="different tolerances"):
        compare(runs[:1], runs[1:], metric="SurfaceDice")


def test_a_label_is_chosen_by_value_or_name_and_the_mean_is_over_all(tmp_path: Path) -> None:
    a = [make_run(tmp_path / f"a{i}", {"p1": [0.5, 0.1], "p2": [0.7, 0.3]}) for i in range(2)]
    b = [make_run(tmp_path / f"b{i}", {"p1": [0.4, 0.1], "p2": [0.4, 0.1]}) for i in range(2)]
    assert compare(a, b, label="2").mean_a == pytest.approx(0.2)
    assert compare(a, b, label="organ 1").mean_a == pytest.approx(0.6)
    assert compare(a, b).mean_a == pytest.approx(0.4)


def test_a_case_that_one_run_leaves_undefined_or_infinite_counts_for_none(tmp_path: Path) -> None:
    a = [make_run(tmp_path / f"a{i}", {"p1": 1.0, "p2": 2.0, "p3": 9.0, "p4": None}, metric="HD95_mm") for i in "12"]
    b = [
        make_run(tmp_path / f"b{i}", {"p1": 3.0, "p2": 3.5, "p3": last, "p4": None}, metric="HD95_mm")
        for i, last in (("1", "inf"), ("2", 9.0))
    ]
    found = compare(a, b, metric="HD95_mm")
    assert found.cases == ("p1", "p2")
    assert (found.mean_a, found.mean_b) == pytest.approx((1.5, 3.25))
    assert found.left_out == {
        "p3": "infinite in 1 of 2 runs of B",
        "p4": "undefined in 2 of 2 runs of A, undefined in 2 of 2 runs of B",
    }
    # p4 is undefined for all alike and flatters nobody; p3 does
    assert [w for w in found.warnings if "flatter" in w] == [
        "in 1 case some runs have a score and others none, and it was left out for all: that may flatter the side "
        "which failed there"
    ]
    assert "left out    p3: infinite in 1 of 2 runs of B" in format_comparison(found)


def test_a_label_undefined_in_one_run_is_left_out_of_that_case_in_every_run(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"p1": [0.5, 0.9], "p2": [0.6, 0.8]})
    b = make_run(tmp_path / "b", {"p1": [0.4, None], "p2": [0.4, 0.8]})
    found = compare([a], [b])
    assert found.mean_a == pytest.approx((0.5 + 0.7) / 2)
    assert found.mean_b == pytest.approx((0.4 + 0.6) / 2)
    assert found.left_out == {"p1": "undefined in 1 of 1 runs of B; 1 of 2 labels left out, in every run"}


def test_without_two_defined_cases_there_is_nothing_to_compare(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"p1": None, "p2": 0.5})
    b = make_run(tmp_path / "b", {"p1": 0.5, "p2": None})
    with pytest.raises(DataError, match="fewer than two of 2 test cases") as caught:
        compare([a], [b])
    assert "p1: undefined in 1 of 1 runs of A" in str(caught.value)


# what the runs must have in common


def sides_of(folder: Path, cases: int = 6) -> tuple[list[Path], list[Path]]:
    a, b = draw(keyed(0, "sides"), 3, 3, cases, (0.01, 0.01, 0.01, 0.01), 0.05)
    return make_side(folder, "a", a), make_side(folder, "b", b)


def test_scores_against_different_references_are_refused(tmp_path: Path) -> None:
    side_a, side_b = sides_of(tmp_path)
    for run in (*side_a, *side_b):
        set_rows(run, "reference_sha256", {"case_1": "1" * 64, "case_2": "2" * 64})
    same = compare(side_a, side_b)
    set_rows(side_b[1], "reference_sha256", {"case_2": "3" * 64})
    with pytest.raises(RunError, match="scored against different references") as caught:
        compare(side_a, side_b)
    message = str(caught.value)
    assert str(side_b[1]) in message
    assert "case_2: 333333333333, expected case_2: 222222222222 as in" in message
    assert "case_1" not in message
    assert "Remove the folder 'test' of the run" in message
    # what a run does not know contradicts nothing, but a run after it may
    for run in (*side_a, *side_b[:1]):
        edit_summary(run, lambda summary: [row.pop("reference_sha256") for row in summary["metric_per_case"]])
    set_rows(side_b[2], "reference_sha256", {"case_2": "3" * 64})
    assert compare(side_a, side_b) == same
    set_rows(side_b[2], "reference_sha256", {"case_2": "2" * 64})
    with pytest.raises(RunError, match="different references"):
        compare(side_a, side_b)


def test_scans_of_one_patient_are_averaged_before_anything_else(tmp_path: Path) -> None:
    side_a, side_b = sides_of(tmp_path)
    alone = compare(side_a, side_b)
    assert alone.groups is None
    for run in (*side_a, *side_b):
        set_rows(
            run,
            "group",
            {"case_0": "p", "case_3": "p", "case_4": "q", "case_5": "q", "case_1": "case_2", "case_2": None},
        )
    found = compare(side_a, side_b)
    assert found.groups == 4  # p, q, and two cases: the name of a group may be that of a case
    assert found.cases == alone.cases
    text = format_comparison(found)
    assert "groups      4; scores of a group's cases are averaged first" in text
    assert "new group   A is better" in text
    assert "seeds and groups explain" in found.sentence

    def means(run: Path) -> dict[str, float]:
        rows = json.loads((run / "test" / "summary.json").read_text())["metric_per_case"]
        dice = [row["metrics"]["1"]["Dice"] for row in rows]
        return {"1": (dice[0] + dice[3]) / 2, "2": dice[1], "3": dice[2], "4": (dice[4] + dice[5]) / 2}

    by_hand = [[make_run(run.with_name(f"mean_{run.name}"), means(run)) for run in side] for side in (side_a, side_b)]
    expected = compare(*by_hand)
    assert found.estimate.difference == pytest.approx(expected.estimate.difference)
    assert found.estimate.ci95 == pytest.approx(expected.estimate.ci95)


def test_a_group_is_the_mean_of_its_cases_that_count(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"p1": 0.5, "p2": 0.7, "p3": 0.9, "p4": 0.1})
    b = make_run(tmp_path / "b", {"p1": 0.4, "p2": 0.6, "p3": None, "p4": 0.1})
    for run in (a, b):
        set_rows(run, "group", {"p1": "x", "p2": "x", "p3": "x"})
    found = compare([a], [b])
    assert (found.groups, found.cases) == (2, ("p1", "p2", "p4"))
    assert found.mean_a == pytest.approx((0.6 + 0.1) / 2)


def test_one_run_that_knows_the_groups_is_enough_and_two_must_agree(tmp_path: Path) -> None:
    side_a, side_b = sides_of(tmp_path)
    for run in (*side_a, *side_b[1:]):
        edit_summary(run, lambda summary: [row.pop("group") for row in summary["metric_per_case"]])
    set_rows(side_b[0], "group", {"case_0": "p", "case_3": "p"})
    found = compare(side_a, side_b)
    assert found.groups == 5
    assert found.warnings == ()
    set_rows(side_a[1], "group", {"case_3": "q"})
    with pytest.raises(RunError, match=r"do not agree on the group .*got case_3: p, expected case_3: q as in"):
        compare(side_a, side_b)


def test_what_evaluate_warns_of_is_told_with_the_runs_whose_scores_it_concerns(tmp_path: Path) -> None:
    """A run that began with weights which know the test cases would win, else, without a word."""
    a, b = (make_side(tmp_path, name, draw(keyed(0, "warned"), 3, 3, 6, (0.01,) * 4)[0]) for name in "AB")
    flattered = {"kind": "trained_on", "text": "6 of 6 cases were trained on: these scores flatter"}
    folds = {"kind": "several_models", "text": "these predictions were made by several models: x, y"}
    for run in a[:2]:
        edit_summary(run, lambda summary: summary.update(warnings=[flattered, folds]))
    edit_summary(b[0], lambda summary: summary.update(warnings=[folds]))  # as a cross-validation is
    assert compare(a, b).warnings == (f"{a[0]}, {a[1]}: {flattered['text']}",)


def test_scores_that_cannot_tell_groups_are_compared_with_a_warning(tmp_path: Path) -> None:
    side_a, side_b = sides_of(tmp_path)
    for run in (*side_a, *side_b):
        edit_summary(run, lambda summary: [row.pop("group") for row in summary["metric_per_case"]])
    found = compare(side_a, side_b)
    assert found.groups is None
    assert [warning for warning in found.warnings if "several scans of a patient" in warning]


def test_one_patient_is_no_sample(tmp_path: Path) -> None:
    side_a, side_b = sides_of(tmp_path)
    for run in (*side_a, *side_b):
        set_rows(run, "group", {f"case_{i}": "p" for i in range(6)})
    with pytest.raises(DataError, match="fewer than two of 6 test cases of two groups"):
        compare(side_a, side_b)


REGIONS = {"whole": [1, 2], "core": [2]}


def test_regions_are_compared_where_there_are_any_as_evaluate_does(tmp_path: Path) -> None:
    labels, regions = {"p1": [0.5, 0.1], "p2": [0.7, 0.3]}, {"p1": [0.9, 0.2], "p2": [0.8, 0.3]}
    a = add_regions(make_run(tmp_path / "a", labels), regions, REGIONS)
    b = add_regions(make_run(tmp_path / "b", labels), regions, REGIONS)
    found = compare([a], [b])
    assert found.regions
    assert found.mean_a == pytest.approx((0.9 + 0.2 + 0.8 + 0.3) / 4)
    assert "Dice of every region" in format_comparison(found)
    assert compare([a], [b], label="whole").mean_a == pytest.approx(0.85)
    assert "Dice of region whole" in format_comparison(compare([a], [b], label="whole"))
    by_label = compare([a], [b], label="1")
    assert not by_label.regions
    assert by_label.mean_a == pytest.approx(0.6)
    with pytest.raises(
        RunError, match=r"got all, expected 1 \(organ 1\), 2 \(organ 2\), the region whole, the region core"
    ):
        compare([a], [b], label="all")


def test_a_run_without_regions_is_compared_by_labels(tmp_path: Path) -> None:
    labels = {"p1": [0.5, 0.1], "p2": [0.7, 0.3]}
    a = add_regions(make_run(tmp_path / "a", labels), labels, REGIONS)
    b = make_run(tmp_path / "b", labels)
    found = compare([a], [b])
    assert not found.regions
    assert [w for w in found.warnings if "1 of 2 runs have scores of regions, so labels are compared" in w]
    with pytest.raises(RunError, match="no such label"):
        compare([a], [b], label="whole")


def test_regions_of_other_labels_are_not_the_same(tmp_path: Path) -> None:
    labels = {"p1": [0.5, 0.1], "p2": [0.7, 0.3]}
    a = add_regions(make_run(tmp_path / "a", labels), labels, REGIONS)
    b = add_regions(make_run(tmp_path / "b", labels), labels, {"whole": [1], "core": [2]})
    with pytest.raises(RunError, match="the runs have different regions"):
        compare([a], [b])
    assert compare([a], [b], label="organ 1").mean_a == pytest.approx(0.6)
