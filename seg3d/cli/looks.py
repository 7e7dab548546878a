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


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE.html", help="The page; default: report.html in RUN.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", metavar="FILE.json", help="From 'evaluate'; default: the run's last.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Scans, if not where the run's config says.")
    ] = None,
) -> None:
    """Show a run on one page: scores, worst cases, curves, warnings, digests, config; prints the file."""
    from seg3d.verbs.report import report as call

    print(call(run, output, scores=scores, images=images))


@app.command()
def view(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Scan or picture.")],
    labels: Annotated[Path | None, typer.Option("--labels", metavar="FILE", help="Reference label map.")] = None,
    prediction: Annotated[Path | None, typer.Option("--prediction", metavar="FILE", help="Predicted labels.")] = None,
    uncertainty: Annotated[Path | None, typer.Option("--uncertainty", metavar="FILE", help="Real numbers.")] = None,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The page.")] = Path("case.html"),
    names: Annotated[list[str] | None, typer.Option("--name", metavar="VALUE=NAME", help="Of a label.")] = None,
    ignore_label: Annotated[int | None, typer.Option("--ignore-label", help="Value that counts nowhere.")] = None,
) -> None:
    """Show a case in a browser: one HTML file with planes, 3D, labels, errors, uncertainty and scores."""
    from seg3d.verbs.view import parse_names
    from seg3d.verbs.view import view as call

    maps = {"labels": labels, "prediction": prediction, "uncertainty": uncertainty}
    print(call(image, output, names=parse_names(names or ()), ignore_label=ignore_label, **maps))
