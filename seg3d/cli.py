"""The command line: one small command per verb, each of which is also a Python function.

Heavy libraries are imported inside the commands, so that ``seg3d --help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from seg3d import __version__
from seg3d.errors import Seg3dError

if TYPE_CHECKING:
    from seg3d.auditing.differences import RunDifference

app = typer.Typer(
    name="seg3d",
    help="Train, apply and audit medical image segmentation models, bit for bit reproducibly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Show a config as it is resolved, or every key that there is.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a study.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[path=value]...", help="Settings, such as train.max_epochs=5.")
]
AllowChanged = Annotated[
    bool, typer.Option("--allow-changed", help="Go on although config, data or code have changed.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def main() -> None:
    """Run the command line; a user's mistake is one message on stderr and exit code 2."""
    try:
        app()
    except Seg3dError as error:
        print(f"seg3d: {error}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Train, apply and audit medical image segmentation models, bit for bit reproducibly."""


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
        _print_json([vars(fault) for fault in faults])
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
        _print_json({"store": str(store.path), "cases": list(store.cases), "recipe_sha256": store.recipe_sha256})
    else:
        print(f"{len(store.cases)} cases in {store.path}")


@app.command()
def train(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train a model; the last line printed is the run folder."""
    from seg3d.verbs.train import train as run

    folder = run(config, overrides or (), tell=_to_stderr) if as_json else run(config, overrides or ())
    if as_json:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        _print_json({"run": str(folder), **result})
    else:
        print(folder)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that was stopped.")],
    allow_changed: AllowChanged = False,
) -> None:
    """Continue a run that was stopped, to the same bits as if it had not been; prints its folder."""
    from seg3d.verbs.resume import resume as call

    print(call(run, allow_changed=allow_changed))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Repeat the first epochs only.")] = None,
    allow_changed: AllowChanged = False,
    keep: Annotated[Path | None, typer.Option(help="Folder to keep the repetition in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compute a run again from its own folder; exit code 0 only if every bit is the same."""
    from seg3d.verbs.verify import verify as call

    _print_difference(call(run, epochs=epochs, allow_changed=allow_changed, keep=keep, tell=_to_stderr), as_json)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run folder.")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run folder.")],
    as_json: AsJson = False,
) -> None:
    """Where two runs part and what differs between them; exit code 0 only if every bit is the same."""
    from seg3d.verbs.verify import diff as call

    _print_difference(call(a, b), as_json)


@app.command()
def audit(
    config: ConfigPath,
    overrides: Overrides = None,
    runs: Annotated[int, typer.Option(help="Runs of each set-up.")] = 10,
    setups: Annotated[str, typer.Option(help="Set-ups, separated by commas.")] = "random,seeded,deterministic",
    vary: Annotated[str, typer.Option(help="nothing: runs share one seed; seed: each run has its own.")] = "nothing",
    jobs: Annotated[int, typer.Option(help="Runs made at the same time.")] = 1,
    shard: Annotated[str | None, typer.Option(metavar="i/n", help="Make every n-th run only.")] = None,
    executor: Annotated[str, typer.Option(help="local or slurm.")] = "local",
    output: Annotated[Path | None, typer.Option(help="Folder of the audit.")] = None,
    ops: Annotated[
        bool, typer.Option("--ops", help="Only list operators that are not deterministic on CUDA; needs no GPU.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a study several times in several set-ups, and show how far the results spread."""
    if ops:
        _print_operators(config, overrides or (), as_json)
        return
    from seg3d.verbs.audit import audit as call

    folder = call(
        config,
        overrides or (),
        runs=runs,
        setups=[name.strip() for name in setups.split(",") if name.strip()],
        vary=vary,
        jobs=jobs,
        shard=shard,
        executor=executor,
        output=output,
        tell=_to_stderr if as_json else _say,
    )
    result = folder / "audit.json"
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    if as_json:
        _print_json({"audit": str(folder), "result": found})
    else:
        print(folder / "report.html" if found else folder)
    if found is not None and not found["reproducible"]:
        raise typer.Exit(1)


def _print_operators(config: Path, overrides: Sequence[str], as_json: bool) -> None:
    from dataclasses import asdict

    from seg3d.verbs.audit_ops import audit_operators, format_operators

    report = audit_operators(config, overrides)
    if as_json:
        _print_json(asdict(report) | {"clean": report.clean})
    else:
        print(format_operators(report))
    if not report.clean:
        raise typer.Exit(1)


def _print_difference(found: RunDifference, as_json: bool) -> None:
    from seg3d.verbs.verify import format_difference

    if as_json:
        _print_json(found.as_dict())
    else:
        print(format_difference(found))
    if not found.identical:
        raise typer.Exit(1)


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
        list[str] | None, typer.Option("--set", metavar="path=value", help="Settings, such as predict.mirror=[x].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict label maps on the grids of the scans; several runs or passes also give maps of uncertainty."""
    from seg3d.verbs.predict import part_runs
    from seg3d.verbs.predict import predict as call

    runs, scans = part_runs([run, *(inputs or ())])
    tell = _to_stderr if as_json else print
    written = call(runs, scans, output, split=split, overrides=settings or (), mc_dropout=mc_dropout, tell=tell)
    if as_json:
        _print_json([str(path) for path in written])


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Label map or folder of them.")],
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="Reference: file, folder, dataset or config.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE.json", help="Summary; a CSV is put beside it.")],
    tolerance_mm: Annotated[float, typer.Option(help="Tolerance of the surface Dice in mm.")] = 2.0,
    subset: Annotated[
        bool, typer.Option("--subset", help="Score the predicted cases only, even if LABELS holds more.")
    ] = False,
    cells: Annotated[
        str | None, typer.Option("--cells", metavar="LABEL", help="Label inside cells: also score their separation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score label maps against references, per case and label, without flattering anybody."""
    from seg3d.verbs.evaluate import evaluate as run
    from seg3d.verbs.evaluate import format_summary

    summary = run(predictions, labels, output, tolerance_mm=tolerance_mm, subset=subset, cells=cells)
    if as_json:
        _print_json(summary)
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
    a: Annotated[list[Path], typer.Argument(metavar="A...", help="Run folders or audits, several seeds each.")],
    against: Annotated[list[Path], typer.Option("--against", metavar="B...", help="Those of the other side.")],
    metric: Annotated[str, typer.Option(help="Dice, HD95_mm or another.")] = "Dice",
    label: Annotated[str | None, typer.Option(help="Value or name of a label instead of the mean over all.")] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE.json", help="Write the result.")] = None,
    as_json: AsJson = False,
) -> None:
    """Is A better than B, or is it the seeds and the cases? Runs are scored on their test cases first."""
    from seg3d.verbs.compare import compare as call
    from seg3d.verbs.compare import format_comparison

    found = call(a, against, metric=metric, label=label, output=output, tell=_to_stderr)
    if as_json:
        _print_json(found.as_dict())
    else:
        print(format_comparison(found))


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

    tell = _to_stderr if as_json else _say
    files = call(predictions, images, labels, output, cases=cases or (), plane=plane, movie=movie, tell=tell)
    if as_json:
        found = json.loads((output / "figures.json").read_text(encoding="utf-8"))
        _print_json({"files": [str(path) for path in files], **found})
    else:
        print(f"{len(files)} files in {output}")


@config_app.command("show")
def show_config(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print a config with every key resolved."""
    from seg3d.config import load_config, show

    found = load_config(config, overrides or ())
    if as_json:
        _print_json(found.model_dump(mode="json"))
    else:
        print(show(found), end="")


@config_app.command("schema")
def show_schema(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="Checked, if given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print every key with its type, default and meaning."""
    from seg3d.config import describe_schema, load_config, schema

    if config is not None:
        load_config(config)
    if as_json:
        _print_json(schema())
    else:
        print(describe_schema())


def _say(text: str) -> None:
    print(text, flush=True)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


if __name__ == "__main__":
    main()
