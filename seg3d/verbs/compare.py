"""``seg3d compare``: is one way of training better than another, or is it the seeds and the cases?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.atomic import write_json
from seg3d.auditing import effects as chance
from seg3d.auditing.effects import Array, Estimate, Needed
from seg3d.auditing.scores import (
    REGION,
    ScoredRun,
    Structures,
    cases_scored_in_some_runs,
    find_structures,
    groups_by_case,
    groups_unknown,
    reasons_left_out,
    refuse_unlike_tests,
    score_array,
    shortened,
)
from seg3d.errors import DataError, RunError
from seg3d.keyed import keyed
from seg3d.verbs.manifest import SEVERAL_MODELS
from seg3d.verbs.sides import Run, doubts_about_both, doubts_about_side, load_side

HIGHER_IS_BETTER = (
    *("Dice", "IoU", "Precision", "Recall", "SurfaceDice"),
    *("Lesions.sensitivity", "Lesions.precision", "Lesions.f1"),
)
LOWER_IS_BETTER = ("HD95_mm", "HD95_elements_mm", "ASSD_mm", "|VolumeError_mL|")


@dataclass(frozen=True)
class _Table:
    """Scores of both sides where all are finite, what was left out, and what to mind about that.

    Attributes:
        cases: The cases that count.
        a: Scores (runs, cases) of A, or (runs, groups) where cases have groups.
        b: The same of B.
        groups: Number of groups; ``None``: each case is one.
        left_out: By case that does not count, wholly or with a label: why.
        doubts: What to mind.
    """

    cases: tuple[str, ...]
    a: Array
    b: Array
    groups: int | None
    left_out: dict[str, str]
    doubts: list[str]


@dataclass(frozen=True)
class Comparison:
    """Whether side A does better than side B, and how sure that is.

    Attributes:
        metric: The metric; ``|VolumeError_mL|`` is the absolute value of ``VolumeError_mL``.
        label: The label or region, as it was asked for; ``None``: each case's mean over all of them.
        regions: Whether regions were compared, not labels.
        higher_is_better: Whether more of the metric is better.
        runs_a: Folders of the runs of A that count, one for each seed.
        runs_b: Those of B.
        cases: The test cases that count.
        groups: Number of groups among them (patients, of whom there may be several scans), which then stand where
            cases stand else: a score of a group is the mean over its cases. ``None`` where no group has several cases.
        left_out: By case that does not count, wholly or with a label: why.
        mean_a: Mean over runs and cases.
        mean_b: The same of B.
        estimate: The difference A - B with its standard error and interval.
        better: ``"A"``, ``"B"``, or ``None`` where the interval holds 0.
        variance_shares: Shares of seeds, cases and their interplay in the variance of a single difference.
        probability_a_better: That a new seed of A does better on a new case than a new seed of B.
        needed: What it takes to see half of the difference.
        resamples: Resamples of the bootstrap.
        seed: Its seed.
        warnings: What to mind.
        sentence: The answer in plain words.
    """

    metric: str
    label: str | None
    regions: bool
    higher_is_better: bool
    runs_a: tuple[str, ...]
    runs_b: tuple[str, ...]
    cases: tuple[str, ...]
    groups: int | None
    left_out: dict[str, str]
    mean_a: float
    mean_b: float
    estimate: Estimate
    better: str | None
    variance_shares: dict[str, float | None]
    probability_a_better: float
    needed: Needed
    resamples: int
    seed: int
    warnings: tuple[str, ...]
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def compare(
    a: Sequence[Path | str],
    against: Sequence[Path | str],
    *,
    metric: str = "Dice",
    label: str | None = None,
    output: Path | str | None = None,
    seed: int = 0,
    resamples: int = 2000,
    tell: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """The difference A - B of mean scores on the same test cases, and what of it is chance of seeds and cases.

    Runs that were not scored yet are. See :mod:`seg3d.auditing.effects` for the model. By default the mean score of a
    side is what ``seg3d evaluate`` has on top: the mean over cases of each case's mean over its regions where the
    network predicts regions, else over its labels. Where the dataset groups cases, several scans of a patient are
    averaged first: they are no independent cases.

    Args:
        a: Run folders, one for each seed, or folders of audits, of which every finished cell counts; or summaries that
            :func:`seg3d.evaluate` wrote, of whatever has predicted, one for each training.
        against: The same for side B.
        metric: ``"Dice"`` or another; an unknown one is answered with the names.
        label: Value or name of a label, or name of a region, instead of the mean over all.
        output: JSON file for the result.
        seed: Seed of the bootstrap.
        resamples: Its resamples.
        tell: Called with a line for each scan that is scored.

    Raises:
        RunError: A folder is no run or has not ended, a file holds no scores, the runs were tested on different cases,
            references, groups or labels, or the metric or label is not among their scores.
        DataError: Fewer than two cases have a score in every run.
    """
    metric = _known_metric(metric)
    warnings: list[str] = []
    runs_a, runs_b = (load_side(name, runs, warnings, tell) for name, runs in (("A", a), ("B", against)))
    scored = [run.scored for run in (*runs_a, *runs_b)]
    refuse_unlike_tests(scored)
    structures = find_structures(scored, label)
    table = _table(runs_a, runs_b, metric, structures)
    warnings += [
        *doubts_about_side("A", runs_a),
        *doubts_about_side("B", runs_b),
        *doubts_about_both(runs_a, runs_b),
        *table.doubts,
    ]
    warnings += _doubts_about_summaries(scored, label)
    higher = metric in HIGHER_IS_BETTER
    effects = chance.decompose(table.a, table.b)
    found = chance.estimate(effects, keyed(seed, "compare", "interval"), resamples)
    units = "cases" if table.groups is None else "groups"
    better = {0: None, 1: "A", -1: "B"}[found.sign if higher else -found.sign]
    comparison = Comparison(
        metric=metric,
        label=label,
        regions=structures.kind == REGION,
        higher_is_better=higher,
        runs_a=tuple(str(run.path) for run in runs_a),
        runs_b=tuple(str(run.path) for run in runs_b),
        cases=table.cases,
        groups=table.groups,
        left_out=table.left_out,
        mean_a=float(table.a.mean()),
        mean_b=float(table.b.mean()),
        estimate=found,
        better=better,
        variance_shares=chance.variance_shares(effects),
        probability_a_better=chance.superiority(
            effects, keyed(seed, "compare", "superiority"), higher_is_better=higher
        ),
        needed=chance.needed_for_half(effects, units),
        resamples=resamples,
        seed=seed,
        warnings=tuple(warnings),
        sentence=_sentence(found, metric, better, units, effects.seed_noise_known),
    )
    if output is not None:
        write_json(Path(output), comparison.as_dict())
    return comparison


def format_comparison(c: Comparison) -> str:
    """The result for people; the last line is the plain sentence."""
    low, high = c.estimate.ci95
    kind, unit = ("region" if c.regions else "label"), ("case" if c.groups is None else "group")
    of = f"{kind} {c.label}" if c.label is not None else "every region" if c.regions else "every foreground label"
    rows = [
        ("metric", f"{c.metric} of {of}; {'higher' if c.higher_is_better else 'lower'} is better"),
        ("A", f"{c.mean_a:.4g} ({_count(len(c.runs_a), 'run')})"),
        ("B", f"{c.mean_b:.4g} ({_count(len(c.runs_b), 'run')})"),
        ("A - B", f"{c.estimate.difference:.3g}, 95 % interval {low:.3g} to {high:.3g}"),
        ("cases", _count(len(c.cases), "test case")),
        *([] if c.groups is None else [("groups", f"{c.groups}; scores of a group's cases are averaged first")]),
        *(("left out", line) for line in _lines(c.left_out)),
    ]
    known = {name: share for name, share in c.variance_shares.items() if share is not None}
    if known:
        rows.append(
            (
                "variance",
                ", ".join(f"{f'{unit}s' if name == 'cases' else name} {share:.0%}" for name, share in known.items()),
            )
        )
    rows += [
        (f"new {unit}", f"A is better than B with probability {c.probability_a_better:.2f}"),
        ("half of it", c.needed.why),
        *(("warning", warning) for warning in c.warnings),
    ]
    return "\n".join([*(f"{name:<12}{text}" for name, text in rows), c.sentence])


def _known_metric(metric: str) -> str:
    metric = "|VolumeError_mL|" if metric == "VolumeError_mL" else metric
    if metric not in HIGHER_IS_BETTER + LOWER_IS_BETTER:
        raise RunError("there is no such metric", got=metric, expected=", ".join(HIGHER_IS_BETTER + LOWER_IS_BETTER))
    return metric


def _table(runs_a: Sequence[Run], runs_b: Sequence[Run], metric: str, structures: Structures) -> _Table:
    runs = [run.scored for run in (*runs_a, *runs_b)]
    _refuse_different_tolerances(runs, metric)
    values = score_array(runs, structures, metric)
    names = list(runs[0].rows)
    sides = ["A"] * len(runs_a) + ["B"] * len(runs_b)
    left_out = reasons_left_out(values, names, sides, structures)
    scores = chance.mean_over_labels(values)
    counts = np.isfinite(scores[0])
    cases = tuple(case for case, used in zip(names, counts, strict=True) if used)
    groups = _groups(groups_by_case(runs), cases)
    scores = scores[:, counts] if groups is None else chance.mean_within_groups(scores[:, counts], groups)
    if scores.shape[1] < 2:
        units = "" if groups is None else " of two groups"
        raise DataError(
            f"fewer than two of {_count(len(names), 'test case')}{units} have a finite {metric} in every run",
            got="; ".join(_lines(left_out)) or None,
            fix="Compare another metric or label, or test on more cases.",
        )
    a, b = scores[: len(runs_a)], scores[len(runs_a) :]
    return _Table(cases, a, b, None if groups is None else scores.shape[1], left_out, _doubts_about_left_out(values))


def _groups(known: Mapping[str, str], cases: Sequence[str]) -> list[tuple[str, str]] | None:
    """By case its group, or itself where it has none; ``None`` where no group has several cases."""
    found = [("group", known[case]) if case in known else ("case", case) for case in cases]
    return found if len(set(found)) < len(found) else None


def _refuse_different_tolerances(runs: Sequence[ScoredRun], metric: str) -> None:
    rules = {run.summary.get("rules", {}).get("surface"): run.path for run in runs}
    if metric == "SurfaceDice" and len(rules) > 1:
        raise RunError(
            "surface Dice at different tolerances cannot be compared",
            where=", ".join(str(path) for path in rules.values()),
            fix="Score all runs with the same evaluate.tolerance_mm.",
        )


def _doubts_about_left_out(values: Array) -> list[str]:
    """A warning where leaving out may flatter a side: some runs have a score there, or lack it for another reason."""
    unlike = cases_scored_in_some_runs(values)
    if not unlike:
        return []
    return [
        f"in {_count(unlike, 'case')} some runs have a score and others none, and it was left out for all: that may "
        "flatter the side which failed there"
    ]


def _doubts_about_summaries(runs: Sequence[ScoredRun], label: str | None) -> list[str]:
    found = []
    regions = sum(run.block(REGION) is not None for run in runs)
    if label is None and 0 < regions < len(runs):
        found.append(f"{regions} of {len(runs)} runs have scores of regions, so labels are compared")
    if groups_unknown(runs):
        found.append(
            "the scores are of a time when groups were not written down: if there are several scans of a patient, the "
            "interval is too narrow; remove the runs' folders 'test' to score them anew"
        )
    return found + _doubts_about_scores(runs)


def _doubts_about_scores(runs: Sequence[ScoredRun]) -> list[str]:
    """What ``evaluate`` had to say of scores: those of cases that were trained on, for instance, flatter a side."""
    told: dict[str, list[str]] = {}
    for run in runs:
        for warning in run.summary.get("warnings", []):
            if warning["kind"] != SEVERAL_MODELS:  # as the folds of a cross-validation are
                told.setdefault(warning["text"], []).append(str(run.path))
    return [f"{', '.join(shortened(paths))}: {text}" for text, paths in told.items()]


def _sentence(found: Estimate, metric: str, better: str | None, units: str, seed_noise_known: bool) -> str:
    causes = f"seeds and {units}" if seed_noise_known else units
    unknown = "" if seed_noise_known else "; seed noise is unknown"
    low, high = found.ci95
    if better is None:
        return (
            f"No difference can be told: A - B is {found.difference:.3g} {metric} (95 % interval {low:.3g} to "
            f"{high:.3g}), no more than {causes} explain by chance{unknown}."
        )
    # by how much the better side is ahead, whatever the metric's direction
    near, far = sorted((abs(low), abs(high)))
    return (
        f"{better} is better by {abs(found.difference):.3g} {metric} (95 % interval {near:.3g} to {far:.3g}), more "
        f"than {causes} explain by chance{unknown}."
    )


def _lines(left_out: Mapping[str, str]) -> list[str]:
    return shortened([f"{case}: {why}" for case, why in left_out.items()])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
