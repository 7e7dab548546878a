"""The command line: one small command per verb, each of which is also a Python function.

Heavy libraries are imported inside the commands, so that ``seg3d --help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import sys

# the order of the commands in --help
from seg3d.cli import data, runs, answers, looks, serving, settings  # isort: skip
from seg3d.cli.app import app
from seg3d.errors import Seg3dError

# a full or broken disk, and what may not be written there: no fault of this program, and no traceback helps
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO)

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
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"seg3d: {where}{error.strerror}", file=sys.stderr)
        sys.exit(2)
