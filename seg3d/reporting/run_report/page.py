"""The page of a run: collects what is known of it, fills the template, writes one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from seg3d.atomic import atomic_path, write_text
from seg3d.errors import Seg3dError
from seg3d.reporting.run_report.badge import badge_of
from seg3d.reporting.run_report.commands import command_to_end, commands_to_repeat, commands_to_score
from seg3d.reporting.run_report.facts import environment_facts, run_facts
from seg3d.reporting.run_report.figures import Sheet, curves_png, sheet_png
from seg3d.reporting.run_report.pieces import Pieces, read_pieces
from seg3d.reporting.run_report.remarks import remarks_of
from seg3d.reporting.run_report.scores import LEARNT_FROM, Evaluation, columns_of, lines_of, part_counts
from seg3d.training.run_folder import RunFolder

_PACKAGE = "seg3d.reporting.run_report"
_WORST = 3


@dataclass(frozen=True)
class Scored:
    """Scores for a page, and where the pictures of their cases lie.

    Attributes:
        evaluation: The scores.
        images: Scan by case.
        maps: Where the label maps lie that the summary names; as it says where a file is not among them.
        fault: Why there are no images, if so.
    """

    evaluation: Evaluation
    images: Mapping[str, Path] = field(default_factory=dict)
    maps: Mapping[str, Path] = field(default_factory=dict)
    fault: str = ""


def write_run_report(
    folder: RunFolder, output: Path, scored: Scored | None = None, warnings: Sequence[str] = ()
) -> Path:
    """The page written at ``output``; the run's own page has its curves beside it, in the folder of figures.

    Args:
        folder: A run; one that was stopped, or lacks documents, has a page that says so.
        output: Where the page goes. Pages of cases in the folder ``viewer`` beside it are linked.
        scored: Its scores, if there are any.
        warnings: What else to tell.

    Raises:
        RunError: There is no ``run.json``.
    """
    pieces = read_pieces(folder)
    sheet, unseen = _sheet(pieces, scored)
    evaluation = None if scored is None else scored.evaluation
    curves = curves_png(pieces)
    if curves is not None and output == folder.report:
        with atomic_path(folder.figures / "learning_curve.png") as temporary:
            temporary.write_bytes(curves)
    content = {
        "pieces": pieces,
        "name": str(pieces.config.get("name", folder.path.name)),
        "run": folder.path.resolve().name,
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "badge": badge_of(pieces),
        "facts": run_facts(pieces),
        "computed_with": environment_facts(pieces.environment),
        "remarks": remarks_of(pieces, evaluation, warnings),
        "curves": _data_uri(curves),
        "sheet": _data_uri(sheet.png if sheet else None),
        "sheet_inches": f"{sheet.inches:.1f}" if sheet else "",
        "roles": sheet.roles if sheet else [],
        "unseen": unseen,
        "to_score": commands_to_score(folder),
        "to_end": command_to_end(folder),
        "to_repeat": commands_to_repeat(pieces),
        "environment_json": json.dumps(pieces.environment, indent=2, sort_keys=True),
        **_scores(pieces, evaluation, output),
    }
    write_text(output, render(content))
    return output


def render(content: Mapping[str, Any]) -> str:
    """The page; every value is escaped, and no script runs but the page's own."""
    script = (files(_PACKAGE) / "templates" / "report.js").read_text(encoding="utf-8")
    style = (files(_PACKAGE) / "templates" / "report.css").read_text(encoding="utf-8")
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # these two are the package's own, not data
    return _template().render(
        **content,
        style=Markup(style),
        script=Markup(script),
        script_sha256=own,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader(_PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": lambda value: f"{100 * value:.2f}%", "sortable": _sortable}
    return environment.get_template("report.html.j2")


def _scores(pieces: Pieces, evaluation: Evaluation | None, output: Path) -> dict[str, Any]:
    if evaluation is None:
        return {"evaluation": None}
    parts = part_counts(evaluation, pieces.splits)
    learnt = pieces.data.get("shared_images") or any(w["kind"] in LEARNT_FROM for w in evaluation.warnings)
    return {
        "evaluation": evaluation,
        "columns": columns_of(evaluation),
        "lines": lines_of(evaluation, pieces.splits, viewer_links(evaluation.cases, output)),
        "parts": parts,
        "untouched": list(parts) == ["test"] and not learnt,
        "worst": [(case, score) for case, score in evaluation.ranking if score is not None][:_WORST],
    }


def viewer_links(cases: Sequence[str], output: Path) -> dict[str, str]:
    """Links to the pages of cases in the folder ``viewer`` beside a report, of those that are there."""
    folder = output.parent / "viewer"
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {case: f"viewer/{quote(f'{case}.html', safe='')}" for case in cases if f"{case}.html" in there}


def _sheet(pieces: Pieces, scored: Scored | None) -> tuple[Sheet | None, str]:
    """The contact sheet, and why there is none."""
    if scored is None:
        return None, ""
    if scored.fault:
        return None, scored.fault

    def find_image(case: str) -> Path:
        return scored.images.get(case, Path(case))

    try:
        return sheet_png(pieces, scored.evaluation, find_image, lambda name: scored.maps.get(name, Path(name))), ""
    except (Seg3dError, OSError, ValueError) as error:  # what was scored may have moved since
        return None, str(error)


def _data_uri(png: bytes | None) -> str:
    return "" if png is None else f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def _sortable(value: float | None) -> str:
    """What the page's script sorts by; nothing where undefined, which it puts last."""
    return "" if value is None or math.isnan(value) else "Infinity" if math.isinf(value) else repr(float(value))
