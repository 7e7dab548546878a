"""The app's own pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seg3d.serving.cards import DISCLAIMER
from seg3d.serving.model import ServedModel
from seg3d.serving.settings import Limits

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def index_page(model: ServedModel, limits: Limits) -> str:
    """The page where scans are dropped and results are seen."""
    card = model.card
    channels = [name or "grey values" for name in card["channels"]]
    accepted = ".png,.jpg,.jpeg,.nii,.gz,.nrrd" if model.wanted.pictures else ".nii,.gz,.nrrd"
    return _ENVIRONMENT.get_template("index.html.j2").render(
        card=card, channels=channels, accepted=accepted, limits=limits, disclaimer=DISCLAIMER
    )


def login_page() -> str:
    """The page where a browser shows the token."""
    return _ENVIRONMENT.get_template("login.html.j2").render(disclaimer=DISCLAIMER)


def docs_page(schema: Mapping[str, Any]) -> str:
    """The API for people, from its schema; without scripts."""
    operations = list(_operations(schema))
    return _ENVIRONMENT.get_template("docs.html.j2").render(operations=operations, disclaimer=DISCLAIMER)


def _operations(schema: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            answers = {code: entry["description"] for code, entry in operation["responses"].items()}
            yield {
                "method": method.upper(),
                "path": path,
                "description": operation.get("description", "").replace("``", ""),
                "parameters": [p for p in operation.get("parameters", ()) if p["in"] == "query"],
                "answers": answers,
            }
