"""What the commands share: the app, kinds of arguments and ways of printing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from seg3d import __version__

app = typer.Typer(
    name="seg3d",
    help="Train, apply and audit medical image segmentation models, bit for bit reproducibly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a study.")]

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[path=value]...", help="Settings, such as train.max_epochs=5.")
]

AllowChanged = Annotated[
    bool, typer.Option("--allow-changed", help="Go on although config, data or code have changed.")
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Train, apply and audit medical image segmentation models, bit for bit reproducibly."""


def say(text: str) -> None:
    """A line for people, at once."""
    print(text, flush=True)


def to_stderr(text: str) -> None:
    """A line beside what a machine reads."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """What a machine reads."""
    print(json.dumps(value, indent=2, default=str))
