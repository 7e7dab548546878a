"""The command that puts a trained model behind a web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seg3d.cli.app import app, say


@app.command()
def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are averaged.")],
    host: Annotated[str, typer.Option(help="Address; any but this machine's own demands a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Token of clients; else $SEG3D_TOKEN.")
    ] = None,
    upload_mib: Annotated[int, typer.Option("--upload-mib", min=1, help="Largest upload.")] = 512,
    voxels: Annotated[int, typer.Option("--voxels", min=1, help="Most voxels of all channels, unpacked.")] = 1 << 27,
    waiting: Annotated[int, typer.Option("--waiting", min=0, help="Scans that may wait; more are told to.")] = 8,
    keep_minutes: Annotated[float, typer.Option("--keep-minutes", min=0.1, help="Results are then deleted.")] = 30.0,
    stored_gib: Annotated[int, typer.Option("--stored-gib", min=1, help="Room for results before it is busy.")] = 8,
    scratch: Annotated[
        Path | None, typer.Option("--scratch", metavar="DIR", help="Uploads and results lie here until deleted.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="path=value", help="Settings, such as predict.memory_gib=4.")
    ] = None,
) -> None:
    """Serve a trained model as a web page and a REST API, on this machine only unless told otherwise."""
    from seg3d.serving.server import serve as call
    from seg3d.serving.settings import Limits

    limits = Limits(upload_mib << 20, voxels, waiting, 60 * keep_minutes, stored_gib << 30)
    call(
        runs,
        host=host,
        port=port,
        token_file=token_file,
        limits=limits,
        overrides=settings or (),
        scratch=scratch,
        tell=say,
    )
