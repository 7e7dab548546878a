"""Commands for people who would rather look than read, and for their first minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from seg3d.cli.app import AsJson, Overrides, app, print_json, say, to_stderr


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder for everything that it makes.")] = Path("demo"),
    config: Annotated[Path | None, typer.Option("--config", help="Config instead of the demo's own.")] = None,
    overrides: Overrides = None,
) -> None:
    """Make phantom chest CTs, then check, prepare, train, predict and evaluate: the whole path in minutes."""
    from seg3d.verbs.demo import demo as run

    run(output, config, overrides or ())


@app.command()
def figure(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Label map or folder of them.")],
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="What was predicted; or dataset, config.")],
    labels: Annotated[Path | None, typer.Option("--labels", metavar="DIR", help="Reference, given likewise.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder of the figures.")] = Path("figures"),
    cases: Annotated[list[str] | None, typer.Option("--case", metavar="NAME", help="Draw this case only.")] = None,
    plane: Annotated[str, typer.Option(help="Of maps and movies: axial, coronal or sagittal.")] = "axial",
    movie: Annotated[str, typer.Option(help="Sweep through the slices: gif, mp4, both or none.")] = "both",
    as_json: AsJson = False,
) -> None:
    """Draw contours, right and wrong voxels, sheets of all cases and movies through the slices."""
    from seg3d.verbs.figure import figure as call

    tell = to_stderr if as_json else say
    files = call(predictions, images, labels, output, cases=cases or (), plane=plane, movie=movie, tell=tell)
    if as_json:
        found = json.loads((output / "figures.json").read_text(encoding="utf-8"))
        print_json({"files": [str(path) for path in files], **found})
    else:
        print(f"{len(files)} files in {output}")
