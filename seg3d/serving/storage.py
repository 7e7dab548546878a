"""Where uploads and results lie: a private folder that goes with the server, even with one that was killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seg3d.atomic import exclusive
from seg3d.errors import ConfigError, RunError

_PREFIX, _STARTING = "seg3d-serve-", "seg3d-starting-"


@contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """An empty folder that only this user can read; removed with all its content when the block ends.

    What servers of this user that were killed have left beside it is removed first: their locks are free.

    Args:
        parent: Where to make it; the system's folder for temporary files if ``None``.

    Raises:
        ConfigError: It is no folder.
    """
    root = Path(tempfile.gettempdir() if parent is None else parent)
    if not root.is_dir():
        raise ConfigError("the folder for uploads and results does not exist", where="--scratch", got=root)
    remove_abandoned(root)
    # locked under another name first, so that no other server takes it for abandoned
    starting = Path(tempfile.mkdtemp(prefix=_STARTING, dir=root))
    folder = starting.with_name(_PREFIX + starting.name.removeprefix(_STARTING))
    with exclusive(starting):
        starting.rename(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(root: Path) -> None:
    """Remove the folders of servers that live no more."""
    for folder in sorted(root.glob(f"{_PREFIX}*")):
        try:
            if folder.is_dir() and not folder.is_symlink():
                with exclusive(folder):
                    shutil.rmtree(folder, ignore_errors=True)
        except (RunError, OSError):  # it is alive, or another user's
            continue


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder; 0 where it is gone."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # removed meanwhile
            continue
    return total
