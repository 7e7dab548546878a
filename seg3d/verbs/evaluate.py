"""``seg3d evaluate``: label maps against references, per case and label."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seg3d.atomic import write_json, write_text
from seg3d.digest import sha256_file
from seg3d.errors import ConfigError
from seg3d.metrics import Bootstrap, format_summary, summarise
from seg3d.training.run_folder import open_run_folder
from seg3d.verbs.case_scores import CaseScores, doubts_about_cases, score_all
from seg3d.verbs.extra_scores import (
    Wanted,
    cells_label,
    cells_of_case,
    extra_blocks,
    extra_rules,
    find_probabilities,
)
from seg3d.verbs.manifest import doubts_about, read_manifest
from seg3d.verbs.meaning import Meaning, doubts_about_names, meaning_of
from seg3d.verbs.references import References, find_predictions, find_references, is_label_map, pairs_of
from seg3d.verbs.region_scores import all_rows, known_probabilities, region_block, shown_names
from seg3d.verbs.report import report_scores

__all__ = ["evaluate", "format_summary"]


def evaluate(
    predictions: Path | str,
    labels: Path | str,
    output: Path | str,
    *,
    tolerance_mm: float | None = None,
    subset: bool = False,
    cells: str | None = None,
    run: Path | str | None = None,
    report: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The summary written at ``output``, in nnU-Net's shape with more in it; a CSV of all scores lies beside it.

    Args:
        predictions: A label map or a folder of them.
        labels: The reference: a label map, a folder of them, a dataset, or a config that names one.
        output: The JSON file.
        tolerance_mm: Tolerance of the surface Dice; by default that of the config given as ``labels``, else 2 mm.
        subset: Score what was predicted, even if there are more references.
        cells: Value or name of the label that is the inside of cells, everything else being membrane: also give the
            Rand and information scores of the ISBI 2012 challenge.
        run: The run that predicted, whose ``report.html`` is made anew; by default it is looked for around the
            predictions and their config, and there is no report where it is not found.
        report: Whether to make it.
        tell: Called with where the report is.

    Probability maps in the folder ``probabilities`` beside the predictions give the pooled soft Dice, and the cell
    scores at several thresholds. What to mind about the scores (cases that were trained on, answers that another model
    left there, values that nothing declares) is the summary's ``warnings``.

    Raises:
        FaultsError: A case has no partner, lies on another grid, or cannot be read; nothing is written.
        DataError: There is nothing to score, or predictions and references contradict each other.
        RunError: ``run`` is no run folder, or the predictions' record is damaged.
        ConfigError: The output cannot be the summary's file, or the tolerance is no distance.
    """
    found, target = Path(predictions), Path(output)
    _refuse_settings(target, tolerance_mm)
    if run is not None:
        open_run_folder(Path(run))
    references, manifest = find_references(Path(labels)), read_manifest(found)
    single = found.is_file() and is_label_map(Path(labels))
    pairs = pairs_of(find_predictions(found), references, single=single, subset=subset)
    meaning = meaning_of(manifest, references, pairs)
    tolerance = references.tolerance_mm if tolerance_mm is None else tolerance_mm
    wanted = _wanted(found, manifest, meaning, cells)
    scored = score_all(pairs, references.negatives, meaning, tolerance, wanted)
    summary = _summary(scored, meaning, wanted, tolerance, Bootstrap(groups=references.groups))
    _describe_cases(summary, scored, pairs, references, cells=cells is not None)
    summary["warnings"] = [
        *doubts_about(manifest, [prediction for prediction, _ in pairs.values()]),
        *doubts_about_names(manifest, references),
        *doubts_about_cases(scored),
    ]
    write_text(target.with_suffix(".csv"), _table(all_rows(summary)))
    write_json(target, summary)
    if report:
        report_scores(found, Path(labels), target, None if run is None else Path(run), tell)
    return summary


def _refuse_settings(target: Path, tolerance_mm: float | None) -> None:
    """Refuse what would be no summary, or would overwrite anything but an earlier one and its table."""
    if tolerance_mm is not None and not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigError("the tolerance is a distance", where="--tolerance-mm", got=tolerance_mm, expected="0 or more")
    if target.is_dir() or target.suffix.lower() != ".json":
        raise ConfigError("the summary is a JSON file", where="--output", got=target, expected="FILE.json")
    table = target.with_suffix(".csv")
    for path, is_ours in ((target, _is_summary), (table, _is_table)):
        if path.exists() and not is_ours(path):
            raise ConfigError(
                "the scores would overwrite a file that holds none",
                where="--output",
                got=path,
                expected="a new file, or one that 'seg3d evaluate' wrote",
                fix="Give another name, or remove the file.",
            )


def _is_summary(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"metric_per_case", "rules"} <= set(content)


def _is_table(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            columns = file.readline().strip().split(",")
    except (OSError, ValueError):
        return False
    return columns == ["case"] or (columns[0] == "case" and "Dice" in columns)


def _wanted(predictions: Path, manifest: Mapping[str, Any], meaning: Meaning, cells: str | None) -> Wanted:
    """Probability maps that belong to the predictions, and the label of the cells."""
    left_over = manifest.get("probabilities") is False  # of a former prediction: this one wrote none
    found = None if left_over else find_probabilities(predictions)
    names = shown_names(meaning.names, meaning.regions)
    return Wanted(known_probabilities(found, meaning.regions), None if cells is None else cells_label(cells, names))


def _summary(
    scored: Mapping[str, CaseScores], meaning: Meaning, wanted: Wanted, tolerance_mm: float, bootstrap: Bootstrap
) -> dict[str, Any]:
    names = shown_names(meaning.names, meaning.regions)
    extras = {case: scores.extras for case, scores in scored.items()}
    of_regions = {case: scores.regions for case, scores in scored.items()}
    blocks = extra_blocks(extras, names, wanted, bootstrap)
    blocks |= region_block(of_regions, meaning.regions, tolerance_mm, bootstrap)
    of_labels = {case: scores.labels for case, scores in scored.items()}
    summary = summarise(of_labels, names, tolerance_mm=tolerance_mm, bootstrap=bootstrap) | blocks
    summary["rules"] |= extra_rules(blocks)
    return summary


def _describe_cases(
    summary: Mapping[str, Any],
    scored: Mapping[str, CaseScores],
    pairs: Mapping[str, tuple[Path, Path]],
    references: References,
    *,
    cells: bool,
) -> None:
    """Add to each case its files, the reference's digest and what it belongs to."""
    for row in summary["metric_per_case"]:
        case = row["case"]
        prediction, reference = pairs[case]
        negative = case in references.negatives
        row["group"] = references.groups.get(case)
        row["prediction_file"] = str(prediction)
        row["reference_file"] = None if negative else str(reference)
        row["reference_sha256"] = None if negative else sha256_file(reference)
        if cells:
            row["cells"] = cells_of_case(scored[case].extras)


def _table(found: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]) if found else ["case"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()
