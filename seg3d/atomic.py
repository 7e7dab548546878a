"""Files that are either there whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from seg3d.errors import RunError

# several machines may write into one folder, so a process is known by machine and number
_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{8})-(\d+)-.*")
_held: set[IO[str]] = set()
_PIECE = 1 << 16


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends without an error.

    The temporary name keeps the suffixes of ``path``, because libraries choose the format by them. On an error the
    temporary file is removed and ``path`` is left as it was.

    Raises:
        OSError: It cannot be written; the error names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        publish(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a write that fails names no file, and the draft is nobody's business
        raise
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


class LateFile(io.FileIO):
    """A new file whose writes never fail as far as its user sees; what went wrong is kept in ``error``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of the bytes, and say so in any case."""
        size = memoryview(data).nbytes
        try:
            write_all(super().write, data)
        except OSError as error:
            self.error = self.error or error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Cut the file off, or make it longer, and say so in any case."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextmanager
def told_late(path: Path) -> Iterator[LateFile]:
    """A file for HDF5 and torch, which tell something else where a write fails under them, or crash the process.

    Raises:
        OSError: The first write that failed, at the end of the block; what else went wrong is a consequence.
    """
    with LateFile(path) as file:
        try:
            yield file
        finally:
            if file.error is not None:
                file.error.filename = str(path)
                raise file.error


def append_line(path: Path, text: str) -> None:
    """Append lines to a log, durably: all of them or, where they find no room, none.

    A last line that is torn, as a machine that went down leaves it, is cut off first: it would spoil the new one.
    """
    with path.open("a+b", buffering=0) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        try:
            write_all(file.write, f"{text}\n".encode())
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(end)
            error.filename = str(path)
            raise


def write_all(write: Callable[[memoryview], int], data: Any) -> None:
    """Write all of the bytes to an unbuffered file, which may take a part of them at a time."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[write(rest) :]


def _end_of_lines(file: IO[bytes]) -> int:
    """Where the last whole line of a file ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _PIECE)
        file.seek(start)
        last = file.read(end - start).rfind(b"\n")
        if last >= 0:
            return start + last + 1
        end = start
    return 0


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
