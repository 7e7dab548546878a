"""Commands about data: what they are and how they are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seg3d.cli.app import AsJson, ConfigPath, Overrides, app, print_json


@app.command()
def convert(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Folders with DICOM files; .mha, .mhd.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder of the NIfTI files.")],
) -> None:
    """Convert DICOM series and MetaImage files to NIfTI; folders are searched to the bottom."""
    from seg3d.verbs.convert import convert as run

    run(inputs, output, tell=print)


@app.command()
def check(
    source: Annotated[Path, typer.Argument(metavar="SOURCE|CONFIG", help="Dataset folder, table or config.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """List every fault of a dataset at once; exit code 1 if there is any."""
    from seg3d.verbs.check import check as run

    faults = run(source, overrides or ())
    serious = [fault for fault in faults if not fault.note]
    if as_json:
        print_json([vars(fault) for fault in faults])
    else:
        for fault in faults:
            print(f"{'note ' if fault.note else 'FAULT'}  {fault}")
        print(f"{len(serious)} faults, {len(faults) - len(serious)} notes")
    if serious:
        raise typer.Exit(1)


@app.command()
def prepare(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Prepare a dataset: source files to HDF5 volumes; what is done already is left as it is."""
    from seg3d.verbs.prepare import prepare as run

    store = run(config, overrides or (), progress=not as_json)
    if as_json:
        print_json({"store": str(store.path), "cases": list(store.cases), "recipe_sha256": store.recipe_sha256})
    else:
        print(f"{len(store.cases)} cases in {store.path}")


@app.command()
def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Forecast disk, memory and time of a study before anything of it runs; a minute or so."""
    from seg3d.verbs.plan import format_plan
    from seg3d.verbs.plan import plan as run

    found = run(config, overrides or ())
    if as_json:
        print_json(found)
    else:
        print(format_plan(found))
