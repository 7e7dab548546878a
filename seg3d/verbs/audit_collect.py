"""What an audit leaves when all its runs are done: ``audit.json``, tables, figures and a page."""

from __future__ import annotations

from typing import Any

import numpy as np

from seg3d.atomic import write_json
from seg3d.auditing.gather import disagreement_of, gather, maps_of_case, write_rows, write_tables
from seg3d.auditing.plan import AuditFolder, AuditPlan
from seg3d.build.dataset import build_dataset
from seg3d.config import Config
from seg3d.io import is_picture, read_header, read_volume
from seg3d.reporting.audit_figures import disagreement_figure, layer_figure, save_figure, score_figure
from seg3d.reporting.audit_report import write_audit_report
from seg3d.reporting.figures import canonical
from seg3d.reporting.loading import one_channel
from seg3d.training.run_folder import read_json
from seg3d.verbs.region_scores import all_rows
from seg3d.volume import Volume


def collect(folder: AuditFolder) -> dict[str, Any]:
    """What was found, written as ``audit.json``, CSV tables, figures and ``report.html``.

    Args:
        folder: An audit whose runs are all done.

    Raises:
        RunError: Runs have other test cases or references, or a folder is damaged.
    """
    plan = folder.read_plan()
    found = gather(folder)
    write_tables(folder, found)
    write_rows(folder.path / "cases.csv", _case_rows(folder, plan))
    figures = {
        "scores": score_figure(found),
        "layers": layer_figure(found),
        "disagreement": _disagreement(folder, plan, found["disagreement"]["worst_case"]),
    }
    files = {name: save_figure(figure, folder.figures / name)[0] for name, figure in figures.items()}
    write_audit_report(found, files, _command(plan), folder.report)
    write_json(folder.result, found)
    _mirror(folder, plan)
    return found


def _case_rows(folder: AuditFolder, plan: AuditPlan) -> list[dict[str, Any]]:
    """Scores of every run, case and label as the tables of ``seg3d evaluate`` have them, those of regions included."""
    return [
        {"cell": cell.name, "setup": cell.setup, **row}
        for cell in plan.cells
        for row in all_rows(read_json(folder.run(cell).test_scores))
    ]


def _disagreement(folder: AuditFolder, plan: AuditPlan, case_id: str) -> Any:
    """The figure of the case with most voxels in dispute."""
    config = Config.model_validate(plan.config)
    case = next(case for case in build_dataset(config).cases if case.case_id == case_id)
    scan = read_volume(case.images[0])
    picture = is_picture(case.images[0])
    image, _ = canonical(Volume(one_channel(scan.data, picture), scan.grid))
    shares = {}
    for setup in plan.setups:
        paths = maps_of_case(folder, setup, case_id)
        share = disagreement_of(paths)
        shares[setup] = canonical(Volume(share[np.newaxis], read_header(paths[0]).grid))[0].data[0]
    return disagreement_figure(image.data[0], shares, image.grid.spacing_mm, case_id, picture=picture)


def _command(plan: AuditPlan) -> str:
    vary = " --vary seed" if plan.vary == "seed" else ""
    return (  # a run's own config has another seed where it is random, or where seeds vary
        f"seg3d audit CONFIG seed={plan.seed} --runs {plan.runs} --setups {','.join(plan.setups)}{vary}"
        "   # CONFIG: config.yaml of a run"
    )


def _mirror(folder: AuditFolder, plan: AuditPlan) -> None:
    """Log results to the audit's MLflow run."""
    from seg3d.training.tracking import continue_tracking

    record = folder.path / "tracking.json"
    if not record.exists():
        return
    config = Config.model_validate(plan.config)
    tracker = continue_tracking(config.tracking.uri, read_json(record)["run_id"])
    files = sorted(path for path in folder.path.iterdir() if path.suffix in (".json", ".csv", ".html"))
    tracker.log_files(files)
    tracker.log_files(sorted(folder.figures.iterdir()), "figures")
    tracker.end()
