"""``seg3d compare``: is one way of training better than another, or is it the seeds and the cases?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.atomic import write_json
from seg3d.auditing import effects as chance
from seg3d.auditing.effects import Array, Estimate, Needed
from seg3d.errors import DataError, RunError
from seg3d.keyed import keyed
from seg3d.training.run_folder import MANIFEST, open_run_folder, read_json
from seg3d.verbs.score import score_test_cases

HIGHER_IS_BETTER = (
    *("Dice", "IoU", "Precision", "Recall", "SurfaceDice"),
    *("Lesions.sensitivity", "Lesions.precision", "Lesions.f1"),
)
LOWER_IS_BETTER = ("HD95_mm", "HD95_elements_mm", "ASSD_mm", "|VolumeError_mL|")
_NAMED = 8  # cases that a message names


@dataclass(frozen=True)
class Run:
    """A finished run and the summary of its test cases, as :func:`seg3d.evaluate` gives it."""

    path: Path
    weights_sha256: str
    data_sha256: str
    seed: int | None
    summary: Mapping[str, Any]

    @property
    def scores(self) -> dict[str, Mapping[str, Any]]:
        """Scores by case: by label value, by metric."""
        return {row["case"]: row["metrics"] for row in self.summary["metric_per_case"]}


@dataclass(frozen=True)
class _Table:
    """Scores (runs, cases) of both sides where all are finite, what was left out, and what to mind about that."""

    cases: tuple[str, ...]
    a: Array
    b: Array
    left_out: dict[str, str]
    doubts: list[str]


@dataclass(frozen=True)
class Comparison:
    """Whether side A does better than side B, and how sure that is.

    Attributes:
        metric: The metric; ``|VolumeError_mL|`` is the absolute value of ``VolumeError_mL``.
        label: The label, as it was asked for; ``None``: each case's mean over its foreground labels.
        higher_is_better: Whether more of the metric is better.
        runs_a: Folders of the runs of A that count, one for each seed.
        runs_b: Those of B.
        cases: The test cases that count.
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
    higher_is_better: bool
    runs_a: tuple[str, ...]
    runs_b: tuple[str, ...]
    cases: tuple[str, ...]
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

    Runs that were not scored yet are. See :mod:`seg3d.auditing.effects` for the model.

    Args:
        a: Run folders, one for each seed, or folders of audits, of which every finished cell counts.
        against: The same for side B.
        metric: ``"Dice"`` or another; an unknown one is answered with the names.
        label: Value or name of a label; by default each case's mean over its foreground labels.
        output: JSON file for the result.
        seed: Seed of the bootstrap.
        resamples: Its resamples.
        tell: Called with a line for each scan that is scored.

    Raises:
        RunError: A folder is no run or has not ended, the runs have different test cases, or the metric or label is not
            among their scores.
        DataError: Fewer than two cases have a score in every run.
    """
    metric = _known_metric(metric)
    warnings: list[str] = []
    runs_a, runs_b = (_load(name, runs, warnings, tell) for name, runs in (("A", a), ("B", against)))
    table = _table(runs_a, runs_b, metric, label)
    warnings += [*_doubts("A", runs_a), *_doubts("B", runs_b), *_doubts_about_both(runs_a, runs_b), *table.doubts]
    higher = metric in HIGHER_IS_BETTER
    effects = chance.decompose(table.a, table.b)
    found = chance.estimate(effects, keyed(seed, "compare", "interval"), resamples)
    better = {0: None, 1: "A", -1: "B"}[found.sign if higher else -found.sign]
    comparison = Comparison(
        metric=metric,
        label=label,
        higher_is_better=higher,
        runs_a=tuple(str(run.path) for run in runs_a),
        runs_b=tuple(str(run.path) for run in runs_b),
        cases=table.cases,
        left_out=table.left_out,
        mean_a=float(table.a.mean()),
        mean_b=float(table.b.mean()),
        estimate=found,
        better=better,
        variance_shares=chance.variance_shares(effects),
        probability_a_better=chance.superiority(
            effects, keyed(seed, "compare", "superiority"), higher_is_better=higher
        ),
        needed=chance.needed_for_half(effects),
        resamples=resamples,
        seed=seed,
        warnings=tuple(warnings),
        sentence=_sentence(found, metric, better, effects.seed_noise_known),
    )
    if output is not None:
        write_json(Path(output), comparison.as_dict())
    return comparison


def format_comparison(c: Comparison) -> str:
    """The result for people; the last line is the plain sentence."""
    low, high = c.estimate.ci95
    unit = f"{c.metric} of {'every foreground label' if c.label is None else f'label {c.label}'}"
    rows = [
        ("metric", f"{unit}; {'higher' if c.higher_is_better else 'lower'} is better"),
        ("A", f"{c.mean_a:.4g} ({_count(len(c.runs_a), 'run')})"),
        ("B", f"{c.mean_b:.4g} ({_count(len(c.runs_b), 'run')})"),
        ("A - B", f"{c.estimate.difference:.3g}, 95 % interval {low:.3g} to {high:.3g}"),
        ("cases", _count(len(c.cases), "test case")),
        *(("left out", line) for line in _lines(c.left_out)),
    ]
    known = {name: share for name, share in c.variance_shares.items() if share is not None}
    if known:
        rows.append(("variance", ", ".join(f"{name} {share:.0%}" for name, share in known.items())))
    rows += [
        ("new case", f"A is better than B with probability {c.probability_a_better:.2f}"),
        ("half of it", c.needed.why),
        *(("warning", warning) for warning in c.warnings),
    ]
    return "\n".join([*(f"{name:<12}{text}" for name, text in rows), c.sentence])


def _known_metric(metric: str) -> str:
    metric = "|VolumeError_mL|" if metric == "VolumeError_mL" else metric
    if metric not in HIGHER_IS_BETTER + LOWER_IS_BETTER:
        raise RunError("there is no such metric", got=metric, expected=", ".join(HIGHER_IS_BETTER + LOWER_IS_BETTER))
    return metric


def _load(name: str, entries: Sequence[Path | str], warnings: list[str], tell: Callable[[str], None]) -> list[Run]:
    """The runs of a side, each of other weights."""
    folders = list(chain.from_iterable(_run_folders(Path(entry), warnings) for entry in entries))
    if not folders:
        raise RunError(f"side {name} has no run", fix="Give run folders or audits on either side.")
    for folder in folders:  # before any of them is scored, which may take long
        if not open_run_folder(folder).result.exists():
            raise RunError("the run has not ended", where=folder, fix="Continue it with 'seg3d resume'.")
    runs: dict[str, Run] = {}
    for folder in folders:
        result = read_json(folder / "result.json")
        weights = result["weights_sha256"]
        if weights in runs:
            warnings.append(
                f"{name}: {folder} has the same weights as {runs[weights].path} and is not counted: "
                "identical runs are no independent seeds"
            )
        else:
            summary = score_test_cases(folder, tell)
            runs[weights] = Run(folder, weights, result.get("data_sha256", ""), result.get("seed"), summary)
    return list(runs.values())


def _run_folders(entry: Path, warnings: list[str]) -> Iterator[Path]:
    cells = entry / "cells"
    if (entry / MANIFEST).is_file() or not cells.is_dir():
        yield entry  # what is no run folder either is told when it is opened
        return
    found = sorted(path for path in cells.iterdir() if (path / MANIFEST).is_file())
    finished = [path for path in found if (path / "result.json").is_file()]
    if not finished:
        raise RunError("the audit has no finished run", where=entry, fix="Let 'seg3d audit' end first.")
    if len(finished) < len(found):
        warnings.append(f"{entry}: {len(found) - len(finished)} of {len(found)} runs have not ended and do not count")
    yield from finished


def _table(runs_a: Sequence[Run], runs_b: Sequence[Run], metric: str, label: str | None) -> _Table:
    runs = [*runs_a, *runs_b]
    _refuse_different_cases(runs)
    _refuse_different_tolerances(runs, metric)
    labels = _label_keys(runs, label)
    values = np.stack([_values(run, metric, labels) for run in runs])
    names = sorted(runs[0].scores)
    left_out = _left_out(values, names, len(runs_a))
    scores = chance.mean_over_labels(values)
    counts = np.isfinite(scores[0])
    if counts.sum() < 2:
        raise DataError(
            f"fewer than two of {_count(len(names), 'test case')} have a finite {metric} in every run",
            got="; ".join(_lines(left_out)) or None,
            fix="Compare another metric or label, or test on more cases.",
        )
    cases = tuple(case for case, used in zip(names, counts, strict=True) if used)
    a, b = scores[: len(runs_a), counts], scores[len(runs_a) :, counts]
    return _Table(cases, a, b, left_out, _doubts_about_left_out(values))


def _refuse_different_cases(runs: Sequence[Run]) -> None:
    first = set(runs[0].scores)
    for run in runs[1:]:
        cases = set(run.scores)
        differing = [f"{case} only here" for case in sorted(cases - first)]
        differing += [f"{case} not here" for case in sorted(first - cases)]
        if differing:
            raise RunError(
                "the runs were tested on different cases, so they cannot be compared",
                where=run.path,
                got=", ".join(_shortened(differing)),
                expected=f"the test cases of {runs[0].path}",
                fix="Compare runs with the same split.",
            )


def _refuse_different_tolerances(runs: Sequence[Run], metric: str) -> None:
    rules = {run.summary.get("rules", {}).get("surface"): run.path for run in runs}
    if metric == "SurfaceDice" and len(rules) > 1:
        raise RunError(
            "surface Dice at different tolerances cannot be compared",
            where=", ".join(str(path) for path in rules.values()),
            fix="Score all runs with the same evaluate.tolerance_mm.",
        )


def _label_keys(runs: Sequence[Run], label: str | None) -> list[str]:
    """Values of the wanted labels, as the summaries write them."""
    of_runs = [{key for metrics in run.scores.values() for key in metrics} for run in runs]
    other = next((i for i, keys in enumerate(of_runs) if keys != of_runs[0]), None)
    known = sorted(of_runs[0], key=int)
    if other is not None:
        found = ", ".join(sorted(of_runs[other], key=int))
        raise RunError("the runs have different labels", where=runs[other].path, got=found, expected=", ".join(known))
    if label is None:
        return known
    entries = runs[0].summary.get("per_label", {})
    names = {key: entries.get(key, {}).get("name", key) for key in known}
    if label not in (*known, *names.values()):
        choice = ", ".join(f"{key} ({name})" for key, name in names.items())
        raise RunError("there is no such label", where=runs[0].path, got=label, expected=choice)
    return [label] if label in known else [next(key for key in known if names[key] == label)]


def _values(run: Run, metric: str, labels: Sequence[str]) -> Array:
    """Scores (cases, labels), cases sorted; ``nan`` undefined, ``inf`` infinite."""
    scores = run.scores
    return np.array([[_value(scores[case][label], metric, run.path) for label in labels] for case in sorted(scores)])


def _value(metrics: Mapping[str, Any], metric: str, where: Path) -> float:
    value: Any = metrics
    for part in metric.strip("|").split("."):
        if part not in value:
            raise RunError("the scores of the run lack the metric", where=where, got=", ".join(metrics), expected=part)
        value = value[part]
    number = float("nan") if value is None else float(value)
    return abs(number) if metric.startswith("|") else number


def _left_out(values: Array, cases: Sequence[str], runs_a: int) -> dict[str, str]:
    """By case: in how many runs of either side a score is undefined or infinite, and what follows."""
    found: dict[str, str] = {}
    for i, case in enumerate(cases):
        reasons = []
        for word, is_so in (("undefined", np.isnan), ("infinite", np.isinf)):
            hit = np.any(is_so(values[:, i]), axis=1)
            counted = (("A", hit[:runs_a]), ("B", hit[runs_a:]))
            reasons += [f"{word} in {mine.sum()} of {mine.size} runs of {side}" for side, mine in counted if mine.any()]
        lost = int(np.sum(~np.isfinite(values[:, i]).all(axis=0)))
        if lost:
            rest = f"; {lost} of {values.shape[2]} labels left out, in every run" if lost < values.shape[2] else ""
            found[case] = ", ".join(reasons) + rest
    return found


def _doubts(name: str, runs: Sequence[Run]) -> list[str]:
    found, seeds = [], [run.seed for run in runs if run.seed is not None]
    if len(runs) == 1:
        found.append(f"seed noise is unknown: {name} has one run only, so the answer holds for its weights alone")
    if len(runs) == 2:
        found.append(f"{name} has two seeds only: the interval may be too narrow; three or more are better")
    if len(set(seeds)) < len(seeds):
        found.append(f"{name} has several runs of one seed: they differ less than seeds do, the interval is too narrow")
    return found


def _doubts_about_both(a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    found = []
    if len({run.data_sha256 for run in (*a, *b)}) > 1:
        found.append("the runs were made from different data (data_sha256); 'seg3d diff' names the files")
    common = {run.weights_sha256 for run in a} & {run.weights_sha256 for run in b}
    if common:
        found.append(f"both sides share {_count(len(common), 'run')} with the same weights: they are not independent")
    return found


def _doubts_about_left_out(values: Array) -> list[str]:
    """A warning where leaving out may flatter a side: some runs have a score there, or lack it for another reason."""
    kinds = np.where(np.isnan(values), 1, np.where(np.isinf(values), 2, 0))
    unlike = int((kinds != kinds[:1]).any(axis=(0, 2)).sum())
    if not unlike:
        return []
    return [
        f"in {_count(unlike, 'case')} some runs have a score and others none, and it was left out for all: that may "
        "flatter the side which failed there"
    ]


def _sentence(found: Estimate, metric: str, better: str | None, seed_noise_known: bool) -> str:
    causes = "seeds and cases" if seed_noise_known else "cases"
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
    return _shortened([f"{case}: {why}" for case, why in left_out.items()])


def _shortened(items: list[str]) -> list[str]:
    return items if len(items) <= _NAMED else [*items[:_NAMED], f"and {len(items) - _NAMED} more"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
