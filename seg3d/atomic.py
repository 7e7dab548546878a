"""Files that are either there whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from seg3d.errors import RunError

# several machines may write into one folder, so a process is known by machine and number
_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{8})-(\d+)-.*")
_held: set[IO[str]] = set()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends without an error.

    The temporary name keeps the suffixes of ``path``, because libraries choose the format by them. On an error the
    temporary file is removed and ``path`` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """The name under which this process drafts ``path``."""
    return path.with_name(f".tmp-{_MACHINE}-{os.getpid()}-{path.name}")


def publish(draft: Path, path: Path) -> None:
    """Give a finished draft its name, durably."""
    with draft.open("rb") as written:
        os.fsync(written.fileno())
    draft.replace(path)
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the drafts that killed processes of this machine left in a folder."""
    for path in folder.glob(".tmp-*"):
        name = _TEMPORARY.fullmatch(path.name)
        if name is not None and name[1] == _MACHINE and not _is_alive(int(name[2])):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write :func:`as_json` of ``value``, atomically.

    Raises:
        ValueError: ``value`` holds NaN or an infinity, which JSON does not know.
    """
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """Indented JSON with sorted keys and a last newline; NaN and infinities are refused.

    Raises:
        ValueError: ``value`` holds NaN or an infinity, which JSON does not know.
    """
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


@contextmanager
def exclusive(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """This process alone works in a folder while the block runs; the system frees it when the process dies.

    Args:
        folder: An existing folder; a file ``.lock`` is left in it.
        wait: Wait for another process instead of giving up.

    Raises:
        RunError: Another process works in it.
    """
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise RunError(
                "another process is working in this folder", where=folder, fix="Wait until it has ended, or stop it."
            ) from error
        _held.add(lock)
        try:
            yield
        finally:
            _held.discard(lock)


def _let_go() -> None:
    """In a child: data workers outlive a killed run by seconds, and would keep it locked as long."""
    for lock in _held:
        lock.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def append_line(path: Path, text: str) -> None:
    """Append lines to a log, durably; a process killed meanwhile may leave the last line torn."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    # the rename itself is durable only once the folder is written
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
