"""``seg3d report``: the page of a run, as one file that opens without a network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seg3d.atomic import append_line
from seg3d.build.dataset import build_dataset
from seg3d.config import load_config
from seg3d.digest import sha256_file
from seg3d.errors import ConfigError, DataError, Seg3dError
from seg3d.reporting.loading import images_of
from seg3d.reporting.run_report.page import Scored, write_run_report
from seg3d.reporting.run_report.scores import Evaluation
from seg3d.training.checkpoints import list_checkpoints
from seg3d.training.run_folder import MANIFEST, RunFolder, open_run_folder, read_json
from seg3d.training.tracking import attach
from seg3d.verbs.evaluations import evaluation_in, last_evaluation, overwritten_scores
from seg3d.verbs.manifest import SEVERAL_MODELS, UNKNOWN_MAKER, read_manifest


def report(
    run: Path | str,
    output: Path | str | None = None,
    *,
    scores: Path | str | None = None,
    images: Path | str | None = None,
) -> Path:
    """The page of a run: scores, curves, worst cases, warnings, digests and config, in one HTML file.

    A run that was not evaluated, was stopped or lacks documents has a page that says so.

    Args:
        run: A run folder.
        output: The page, ``report.html`` in the run folder by default. Pages of cases in the folder ``viewer`` beside
            it are linked.
        scores: What :func:`seg3d.evaluate` wrote; by default that of the last evaluation of this run's predictions.
        images: Folder of the scans; by default they are where the run's config says.

    Raises:
        RunError: The folder is no run folder, or the scores are none.
        ConfigError: The output is no HTML file.
        DataError: The folder of scans does not exist.
    """
    folder = open_run_folder(Path(run))
    target = folder.report if output is None else Path(output)
    if target.is_dir() or target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError("a report is an HTML file", where="--output", got=target, expected="FILE.html")
    if images is not None and not Path(images).is_dir():
        raise DataError("the folder of scans does not exist", where="--images", got=images)
    evaluation = last_evaluation(folder) if scores is None else evaluation_in(folder, Path(scores))
    scored = (
        None if evaluation is None else _with_pictures(folder, evaluation, None if images is None else Path(images))
    )
    return write_run_report(folder, target, scored, () if scores is not None else overwritten_scores(folder))


def draw_report(folder: RunFolder, tell: Callable[[str], None]) -> bool:
    """Whether the page of a run could be made anew in its folder; why not is told, and nothing is raised."""
    try:
        report(folder.path)
    except Exception as error:  # noqa: BLE001 - hours of training are not lost for want of a picture
        tell(f"NOTE: the report could not be made: {error}")
        return False
    return True


def report_scores(
    predictions: Path,
    labels: Path,
    summary: Path,
    run: Path | None,
    tell: Callable[[str], None],
) -> None:
    """Make the page of the run whose predictions were scored, where that run is found; nothing is raised.

    Args:
        predictions: What was scored.
        labels: What it was scored against.
        summary: Where the scores are.
        run: The run; where ``None``, it is looked for around the predictions and their config, and recognised by
            its weights.
        tell: Called with where the page is, or why there is none.
    """
    manifest = read_manifest(predictions)
    doubts = {doubt["kind"] for doubt in read_json(summary)["warnings"]}
    if run is None and doubts & {SEVERAL_MODELS, UNKNOWN_MAKER}:  # as the folds of a cross-validation
        made_by = "several models" if SEVERAL_MODELS in doubts else "it is not known which model"
        tell(f"no run's report is made: {made_by} made these predictions")
        return
    folder = RunFolder(run) if run is not None else _find_run(predictions, labels, manifest)
    if folder is None:
        return
    try:
        place = os.path.relpath(summary.resolve(), folder.path.resolve())
        record = {"summary": place, "sha256": sha256_file(summary), "weights": manifest.get("weights")}
        append_line(folder.evaluations, json.dumps(record, sort_keys=True))
    except OSError as error:  # perhaps a run that others keep
        tell(f"NOTE: the run does not learn of its scores: {error}")
        return
    if draw_report(folder, tell):
        tell(f"report: {folder.report}")
        _mirror(folder, tell)


def _find_run(predictions: Path, labels: Path, manifest: Mapping[str, Any]) -> RunFolder | None:
    name, weights = manifest.get("run"), manifest.get("weights")
    if not isinstance(name, str) or not isinstance(weights, str):
        return None  # not predicted by one run
    for path in _places(predictions, labels, name):
        kept = [c for kind in ("best", "last") for c in list_checkpoints(path / "checkpoints", kind)]
        if (path / MANIFEST).is_file() and any(weights.startswith(checkpoint.sha256) for checkpoint in kept):
            return RunFolder(path)
    return None


def _places(predictions: Path, labels: Path, name: str) -> Iterator[Path]:
    """Where the run may lie that made predictions."""
    folder = predictions if predictions.is_dir() else predictions.parent
    yield folder.absolute().parent
    around = [folder.parent, folder.parent / "runs", folder.parent.parent / "runs", Path(), Path("runs")]
    if labels.suffix.lower() in (".yaml", ".yml"):
        around.append(Path(load_config(labels).output_dir))
    yield from (place / Path(name).name for place in around)


def _with_pictures(folder: RunFolder, evaluation: Evaluation, images: Path | None) -> Scored:
    """The scores with the files of their cases, as far as they are found."""
    scans: dict[str, Path] = {}
    references: dict[str, Path] = {}
    fault = ""
    try:
        if images is None:
            dataset = build_dataset(load_config(folder.config))
            scans = {case.case_id: case.images[0] for case in dataset.cases}
            references = {case.case_id: case.label for case in dataset.cases if case.label is not None}
        else:
            scans = images_of(images)
    except (Seg3dError, OSError) as error:
        fault = f"the scans cannot be found. {error}"
    return Scored(evaluation, scans, _maps(evaluation, references), fault)


def _maps(evaluation: Evaluation, references: Mapping[str, Path]) -> dict[str, Path]:
    """Label maps that are not where the summary says, where they are found elsewhere."""
    found: dict[str, Path] = {}
    for row in evaluation.summary["metric_per_case"]:
        prediction, reference = row.get("prediction_file"), row.get("reference_file")
        if prediction is not None and not Path(prediction).is_file():
            folder, named = evaluation.path.parent, Path(prediction)
            places = [folder / named.name, folder / named.parent.name / named.name]
            found[prediction] = next((place for place in places if place.is_file()), named)
        if reference is not None and not Path(reference).is_file() and row["case"] in references:
            found[reference] = references[row["case"]]
    return found


def _mirror(folder: RunFolder, tell: Callable[[str], None]) -> None:
    """Log the page to the run's MLflow run."""
    if not folder.tracking.exists():
        return
    try:
        config = load_config(folder.config)
        if config.tracking.enabled:
            attach(config.tracking.uri, read_json(folder.tracking)["run_id"], [folder.report])
    except Exception as error:  # noqa: BLE001 - the scores are there, whatever a server says
        tell(f"NOTE: the report could not be logged to MLflow: {error}")
