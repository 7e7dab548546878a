"""Memory of the process: what is freed is kept while a job runs, and given back when it ends."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 1 << 30
_MIDDLE = 1 << 25


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for giving memory back to the kernel; whether that was possible.

    Large arrays are allocated and freed at every step; by default each is a fresh mapping whose pages are faulted in
    anew. Only glibc has ``mallopt``.
    """
    libc = _glibc()
    if libc is None:
        return False
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, _LARGE) and libc.mallopt(_M_TRIM_THRESHOLD, _LARGE))


def map_large_blocks(smallest: int = _MIDDLE) -> bool:
    """Have blocks from a size on come from the kernel one by one again; whether glibc could be asked.

    For volumes so large that the holes which they leave between them in the heap would cost more than page faults do:
    of a scan of 512 x 512 x 1000 voxels the heap took 4.7 GiB where 1.4 were in use at once.

    Args:
        smallest: Bytes; 32 MiB unless given.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_THRESHOLD, smallest))


def give_back_memory() -> bool:
    """Give all memory that was freed back, to the kernel and to the GPU; whether glibc could be asked.

    For the end of a job in a process that lives on, or its idle time; what is still in use stays as it is.
    """
    gc.collect()  # a trainer and its network refer to each other
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    libc = _glibc()
    if libc is None:
        return False
    libc.malloc_trim(0)
    return True


@contextmanager
def kept_memory(keep: bool = True) -> Iterator[None]:
    """Freed memory is kept inside the block and given back after it, however it ends; ``False``: neither.

    glibc cannot be asked for its thresholds, so that they stay raised after the block.
    """
    if keep:
        keep_freed_memory()
    try:
        yield
    finally:
        if keep:
            give_back_memory()


def describe_allocator(keep: bool) -> dict[str, Any]:
    """What a run's environment says of it: whether freed memory is kept, and glibc's thresholds then, bytes."""
    kept = keep and _glibc() is not None
    return {"keeps_freed_memory": kept, **({"mmap_threshold": _LARGE, "trim_threshold": _LARGE} if kept else {})}


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL("libc.so.6", use_errno=True) if platform.libc_ver()[0] == "glibc" else None
