"""The command line: one small command per verb, each of which is also a Python function.

Heavy libraries are imported inside the commands, so that ``seg3d --help`` answers at once.
"""

from __future__ import annotations

import io
import sys

# the order of the commands in --help
from seg3d.cli import data, runs, answers, looks, serving, settings  # isort: skip
from seg3d.cli.app import app
from seg3d.errors import Seg3dError

__all__ = ["answers", "app", "data", "looks", "main", "runs", "serving", "settings"]


def main() -> None:
    """Run the command line; a user's mistake is one message on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names that cannot be printed are no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except Seg3dError as error:
        print(f"seg3d: {error}", file=sys.stderr)
        sys.exit(2)
