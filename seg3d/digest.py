"""SHA-256 digests of files, arrays, state dicts and JSON values: how two things are proved to be the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seg3d.atomic import write_json

if TYPE_CHECKING:
    import torch


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value`` (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over name, dtype, shape and logical (C-order) content of arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def sha256_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over name, dtype, shape and content of tensors, wherever they live, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class FileDigests:
    """SHA-256 of files, remembered by size and modification time so that a large file is read once.

    Args:
        cache: JSON file of what is known; written by :meth:`save`.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._new = False
        try:
            self._known: dict[str, list[Any]] = dict(json.loads(cache.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self._known = {}  # a lost or damaged cache costs time, nothing else

    def sha256(self, path: Path) -> str:
        """Digest of a file, read again only when its size or modification time is new."""
        status = path.stat()
        key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
        known = self._known.get(key)
        if not isinstance(known, list) or known[:2] != stamp or len(known) != 3:
            known = [*stamp, sha256_file(path)]
            self._known[key] = known
            self._new = True
        return str(known[2])

    def save(self) -> None:
        """Write the cache, atomically, if a digest is new and its folder can be written to."""
        if self._new:
            with suppress(OSError):  # a lost cache costs time, nothing else
                write_json(self._cache, self._known)
