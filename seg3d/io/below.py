"""The files of a folder and of those below it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from seg3d.errors import DataError


def files_below(folder: Path, unreadable: Callable[[DataError], None]) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its files, all sorted; links are followed, but no folder is visited twice.

    A link that leads nowhere counts as a file, so that it is not passed over.

    Args:
        folder: Where to begin.
        unreadable: Is given an error for each folder that cannot be listed.
    """

    def tell(error: OSError) -> None:
        unreadable(DataError("the folder cannot be read", where=error.filename, got=error.strerror))

    visited: set[Path] = set()
    for name, folders, files in os.walk(folder, onerror=tell, followlinks=True):
        place = Path(name)
        if place.resolve() in visited:
            folders.clear()
            continue
        visited.add(place.resolve())
        folders.sort(key=lambda below: ((place / below).is_symlink(), below))  # a folder goes by its own name first
        paths = [place / file for file in sorted(files)]
        yield place, [path for path in paths if path.is_file() or path.is_symlink()]
