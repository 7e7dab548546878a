"""The page of an audit: one file that opens without a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from seg3d.atomic import write_text


def write_audit_report(found: Mapping[str, Any], figures: Mapping[str, Path], command: str, path: Path) -> Path:
    """The page written at ``path``.

    Args:
        found: What :func:`seg3d.auditing.gather.gather` collected.
        figures: PNG by name: ``"scores"``, ``"layers"``, ``"disagreement"``.
        command: How to repeat it.
        path: Where the page goes.
    """
    environment = Environment(
        loader=PackageLoader("seg3d.reporting"), autoescape=select_autoescape(default=True), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = _number
    pictures = {name: base64.b64encode(file.read_bytes()).decode() for name, file in figures.items()}
    write_text(path, environment.get_template("audit.html.j2").render(found=found, figures=pictures, command=command))
    return path


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.{digits}f}"
