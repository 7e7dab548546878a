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

__all__ = ["answers", "app", "data", "looks", "main", "runs", "serving", "settings"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Run the command line; a user's mistake, or a file that the system refuses, is one message and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where it is closed
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what a terminal cannot show
    try:
        app()
    except Seg3dError as error:
        message = str(error)
    except OSError as error:
        if error.errno is None:  # a library's own, of which nobody knows what it means
            raise
        message = str(_told(error))
    else:
        return
    print(f"seg3d: {message}", file=sys.stderr)
    sys.exit(2)


def _told(error: OSError) -> Seg3dError:
    """A disk that is full, a folder that is read-only or gone: nothing that a traceback would explain."""
    if error.errno in _FULL:
        what, fix = (
            "the file finds no room",
            "Free some space and go on (a training: 'seg3d resume'); what is finished is kept.",
        )
    else:
        what, fix = "the file or folder cannot be used", None
    return Seg3dError(what, where=error.filename, got=error.strerror, fix=fix)
