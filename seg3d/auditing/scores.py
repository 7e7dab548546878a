"""Scores of several runs side by side, read from the summaries of their test cases that ``seg3d evaluate`` wrote.

Runs are only set against each other where they were tested alike: the same cases, the same references, the same labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seg3d.errors import RunError

Array = npt.NDArray[np.float64]

LABEL, REGION = "label", "region"
_NAMED = 8  # cases that a message names
_DIGITS = 12  # of a digest in a message
_SCORE_ANEW = "Remove the folder 'test' of the run whose {} is out of date and repeat the command: it is scored anew."


@dataclass(frozen=True)
class ScoredRun:
    """A run folder and the summary of its test cases, as :func:`seg3d.evaluate` gives it."""

    path: Path
    summary: Mapping[str, Any]

    @property
    def rows(self) -> dict[str, Mapping[str, Any]]:
        """Scores of labels, and what else is known of a case, by case in sorted order."""
        return _by_case(self.summary)

    def block(self, kind: str) -> Mapping[str, Any] | None:
        """The part of the summary on labels or on regions; ``None`` without regions."""
        return self.summary if kind == LABEL else self.summary.get("regions")


@dataclass(frozen=True)
class Structures:
    """What is scored in a case.

    Attributes:
        kind: ``"label"`` or ``"region"``.
        names: Name by the key under which a summary has it: the value of the label, or the one that a region is
            shown as.
    """

    kind: str
    names: dict[str, str]


def refuse_unlike_tests(runs: Sequence[ScoredRun]) -> None:
    """Return if the runs were tested on the same cases against the same references, as far as that is known.

    Raises:
        RunError: They were not.
    """
    _refuse_different_cases(runs)
    what = "the runs were scored against different references, so their scores do not belong together"
    _agreed(runs, "reference_sha256", what, _SCORE_ANEW.format("reference"), lambda digest: digest[:_DIGITS])


def groups_by_case(runs: Sequence[ScoredRun]) -> dict[str, str]:
    """The group of a case (its patient, say) where any run knows it.

    Raises:
        RunError: Two runs name different groups of one case.
    """
    what = "the runs do not agree on the group (the patient) that a case belongs to"
    return _agreed(runs, "group", what, _SCORE_ANEW.format("group"), str)


def find_structures(runs: Sequence[ScoredRun], wanted: str | None = None) -> Structures:
    """What to compare: all regions where every run has scores of regions, else all labels, or the one that is wanted.

    Args:
        runs: One or more.
        wanted: Value or name of a label, or name of a region.

    Raises:
        RunError: The runs have different labels or regions, or none of that name.
    """
    kinds = [kind for kind in (REGION, LABEL) if all(run.block(kind) is not None for run in runs)]
    if wanted is None:
        return Structures(kinds[0], _names(runs, kinds[0]))
    choice = []
    for kind in reversed(kinds):  # labels first: a region is written under a label's value, which names the label
        names = _names(runs, kind)
        named = next((key for key, name in names.items() if name == wanted), None)
        key = wanted if kind == LABEL and wanted in names else named
        if key is not None:
            return Structures(kind, {key: names[key]})
        choice += [f"{key} ({name})" if kind == LABEL else f"the region {name}" for key, name in names.items()]
    raise RunError("there is no such label", where=runs[0].path, got=wanted, expected=", ".join(choice))


def score_array(runs: Sequence[ScoredRun], structures: Structures, metric: str) -> Array:
    """Scores (runs, cases, labels), cases sorted by name; ``nan`` undefined, ``inf`` infinite.

    Args:
        runs: Tested on the same cases.
        structures: The labels or regions.
        metric: Its name; that of a score of lesions after ``"Lesions."``; between bars: absolute values.

    Raises:
        RunError: A summary lacks the metric.
    """
    return np.array([_scores_of_run(run, structures, metric) for run in runs])


def reasons_left_out(
    values: Array, cases: Sequence[str], sides: Sequence[str], structures: Structures
) -> dict[str, str]:
    """By case that not every run has all scores of: in how many runs of each side why, and what follows.

    Args:
        values: Scores (runs, cases, labels).
        cases: Names of the cases.
        sides: By run, the side it belongs to.
        structures: The labels or regions.
    """
    found: dict[str, str] = {}
    of_side = {side: np.array([side == other for other in sides]) for side in dict.fromkeys(sides)}
    for i, case in enumerate(cases):
        reasons = []
        for word, is_so in (("undefined", np.isnan), ("infinite", np.isinf)):
            hit = np.any(is_so(values[:, i]), axis=1)
            counted = [(side, hit[mine]) for side, mine in of_side.items()]
            reasons += [f"{word} in {mine.sum()} of {mine.size} runs of {side}" for side, mine in counted if mine.any()]
        lost = int(np.sum(~np.isfinite(values[:, i]).all(axis=0)))
        if lost:
            whole = lost == values.shape[2]
            rest = "" if whole else f"; {lost} of {values.shape[2]} {structures.kind}s left out, in every run"
            found[case] = ", ".join(reasons) + rest
    return found


def groups_unknown(runs: Sequence[ScoredRun]) -> bool:
    """Whether of some case no run can know the group, because all are of a time when none was written down."""
    return not set(runs[0].rows) <= {case for run in runs for case, row in run.rows.items() if "group" in row}


def cases_scored_in_some_runs(values: Array) -> int:
    """Cases in which some runs have a score and others none, or lack it for another reason.

    Args:
        values: Scores (runs, cases, labels).
    """
    kinds = np.where(np.isnan(values), 1, np.where(np.isinf(values), 2, 0))
    return int((kinds != kinds[:1]).any(axis=(0, 2)).sum())


def shortened(items: Sequence[str]) -> list[str]:
    """The first of many items, and how many more there are."""
    return [*items] if len(items) <= _NAMED else [*items[:_NAMED], f"and {len(items) - _NAMED} more"]


def _by_case(block: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {row["case"]: row for row in sorted(block["metric_per_case"], key=lambda row: str(row["case"]))}


def _refuse_different_cases(runs: Sequence[ScoredRun]) -> None:
    first = set(runs[0].rows)
    for run in runs[1:]:
        cases = set(run.rows)
        differing = [f"{case} only here" for case in sorted(cases - first)]
        differing += [f"{case} not here" for case in sorted(first - cases)]
        if differing:
            raise RunError(
                "the runs were tested on different cases, so they cannot be compared",
                where=run.path,
                got=", ".join(shortened(differing)),
                expected=f"the test cases of {runs[0].path}",
                fix="Compare runs with the same split; of folds, the scores of all their answers together.",
            )


def _agreed(runs: Sequence[ScoredRun], key: str, what: str, fix: str, show: Callable[[str], str]) -> dict[str, str]:
    """What the rows say under a key, by case; a row without it or with null does not know, which is no contradiction.

    Raises:
        RunError: Two runs say different things of a case.
    """
    known: dict[str, tuple[str, Path]] = {}
    for run in runs:
        said = {case: str(row[key]) for case, row in run.rows.items() if row.get(key) is not None}
        known = {case: (value, run.path) for case, value in said.items()} | known  # the first run that knows counts
        odd = [case for case, value in said.items() if value != known[case][0]]
        if odd:
            raise RunError(
                what,
                where=run.path,
                got=", ".join(shortened([f"{case}: {show(said[case])}" for case in odd])),
                expected=", ".join(
                    shortened([f"{case}: {show(known[case][0])} as in {known[case][1]}" for case in odd])
                ),
                fix=fix,
            )
    return {case: value for case, (value, _) in known.items()}


def _names(runs: Sequence[ScoredRun], kind: str) -> dict[str, str]:
    """Names by key of the labels or regions, which all runs have."""
    of_runs = [_entries(run, kind) for run in runs]
    for run, entries in zip(runs, of_runs, strict=True):
        if _identity(entries) != _identity(of_runs[0]):
            raise RunError(
                f"the runs have different {kind}s",
                where=run.path,
                got=", ".join(_identity(entries)),
                expected=", ".join(_identity(of_runs[0])),
            )
    return {key: str(entry["name"]) for key, entry in of_runs[0].items()}


def _entries(run: ScoredRun, kind: str) -> dict[str, Mapping[str, Any]]:
    block = run.block(kind)
    assert block is not None
    return {key: block["per_label"][key] for key in sorted(block["per_label"], key=int)}


def _identity(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a label or region is, whatever its name: its value, and those in the region."""
    return [f"{key} of {entry['values']}" if "values" in entry else key for key, entry in entries.items()]


def _scores_of_run(run: ScoredRun, structures: Structures, metric: str) -> list[list[float]]:
    block = run.block(structures.kind)
    assert block is not None
    rows = _by_case(block).values()
    return [[_value(row["metrics"][key], metric, run.path) for key in structures.names] for row in rows]


def _value(metrics: Mapping[str, Any], metric: str, where: Path) -> float:
    value: Any = metrics
    for part in metric.strip("|").split("."):
        if part not in value:
            raise RunError("the scores of the run lack the metric", where=where, got=", ".join(metrics), expected=part)
        value = value[part]
    number = float("nan") if value is None else float(value)
    return abs(number) if metric.startswith("|") else number
