"""Commands that make runs, make them again, and tell them apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seg3d.cli.app import AllowChanged, AsJson, ConfigPath, Overrides, app, print_json, say, to_stderr

if TYPE_CHECKING:
    from seg3d.auditing.differences import RunDifference


@app.command()
def train(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train a model; the last line printed is the run folder."""
    from seg3d.verbs.train import train as run

    folder = run(config, overrides or (), tell=to_stderr) if as_json else run(config, overrides or ())
    if as_json:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        print_json({"run": str(folder), **result})
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

    _print_difference(call(run, epochs=epochs, allow_changed=allow_changed, keep=keep, tell=to_stderr), as_json)


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
        tell=to_stderr if as_json else say,
    )
    result = folder / "audit.json"
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    if as_json:
        print_json({"audit": str(folder), "result": found})
    else:
        print(folder / "report.html" if found else folder)
    if found is not None and not found["reproducible"]:
        raise typer.Exit(1)


def _print_operators(config: Path, overrides: Sequence[str], as_json: bool) -> None:
    from dataclasses import asdict

    from seg3d.verbs.audit_ops import audit_operators, format_operators

    report = audit_operators(config, overrides)
    if as_json:
        print_json(asdict(report) | {"clean": report.clean})
    else:
        print(format_operators(report))
    if not report.clean:
        raise typer.Exit(1)


def _print_difference(found: RunDifference, as_json: bool) -> None:
    from seg3d.verbs.verify import format_difference

    if as_json:
        print_json(found.as_dict())
    else:
        print(format_difference(found))
    if not found.identical:
        raise typer.Exit(1)
