"""Commands about what trained networks answer, and how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from seg3d.cli.app import AsJson, app, print_json, to_stderr
from seg3d.errors import Seg3dError


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or audit folder for all its runs.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]... INPUT...", help="Further runs to average with; image files and folders."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder of the answers; same file names.")] = Path(
        "predictions"
    ),
    split: Annotated[
        str | None, typer.Option("--split", help="Predict the run's own test, val or train cases instead.")
    ] = None,
    mc_dropout: Annotated[
        int | None, typer.Option("--mc-dropout", metavar="T", help="Average T passes with dropout active, 2 or more.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="path=value", help="Settings, such as predict.memory_gib=4.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict label maps on the grids of the scans; several runs or passes also give maps of uncertainty."""
    from seg3d.verbs.members import part_runs
    from seg3d.verbs.predict import predict as call

    runs, scans = part_runs([run, *(inputs or ())])
    tell = to_stderr if as_json else print
    written = call(runs, scans, output, split=split, overrides=settings or (), mc_dropout=mc_dropout, tell=tell)
    if as_json:
        print_json([str(path) for path in written])


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Label map or folder of them.")],
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="Reference: file, folder, dataset or config.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE.json", help="Summary; a CSV is put beside it.")],
    tolerance_mm: Annotated[
        float | None, typer.Option(help="Tolerance of the surface Dice, mm; default: of the config LABELS, else 2.")
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="Score the predicted cases only, even if LABELS holds more.")
    ] = False,
    cells: Annotated[
        str | None, typer.Option("--cells", metavar="LABEL", help="Label inside cells: also score their separation.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Run that predicted, if not found; has the report.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score label maps against references, per case and label, without flattering anybody."""
    from seg3d.verbs.evaluate import evaluate as call
    from seg3d.verbs.evaluate import format_summary

    summary = call(
        predictions, labels, output, tolerance_mm=tolerance_mm, subset=subset, cells=cells, run=run, tell=to_stderr
    )
    if as_json:
        print_json(summary)
    else:
        print(format_summary(summary))
        print(output)


class _ManyAgainst(TyperCommand):
    """A command whose --against takes every value up to the next option: ``A... --against B...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values, which is what the parser understands."""
        spread: list[str] = []
        option, values = "", 0  # the last option, and how many values have followed it
        for arg in args:
            name, equals, value = arg.partition("=")
            if arg.startswith("-"):
                if option == "--against" and values == 0:
                    raise Seg3dError("nothing follows --against", fix="Give the runs of the other side after it.")
                option, values = name, int(bool(equals))
                spread += (
                    ["--against", value] if name == "--against" and equals else [] if name == "--against" else [arg]
                )
                continue
            values += 1
            if option == "--against":
                spread += ["--against", arg]
            elif option and "--against" in spread and (values > 1 or option in ("--json", "--help")):
                raise Seg3dError("runs stand before other options", got=arg, fix="A... --against B... [options]")
            else:
                spread.append(arg)
        return super().parse_args(ctx, spread)


@app.command(cls=_ManyAgainst)
def compare(
    a: Annotated[list[Path], typer.Argument(metavar="A...", help="Runs, audits, or files of scores; several seeds.")],
    against: Annotated[list[Path], typer.Option("--against", metavar="B...", help="Those of the other side.")],
    metric: Annotated[str, typer.Option(help="Dice, HD95_mm or another.")] = "Dice",
    label: Annotated[
        str | None, typer.Option(help="Value or name of a label, or name of a region, instead of the mean over all.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE.json", help="Write the result.")] = None,
    as_json: AsJson = False,
) -> None:
    """Is A better than B, or is it the seeds and the cases? Runs are scored on their test cases first."""
    from seg3d.verbs.compare import compare as call
    from seg3d.verbs.compare import format_comparison

    found = call(a, against, metric=metric, label=label, output=output, tell=to_stderr)
    if as_json:
        print_json(found.as_dict())
    else:
        print(format_comparison(found))
