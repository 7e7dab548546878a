"""Reading ahead: visits by threads, batches by one thread, always in the order of the plan.

Every patch is a pure function of its key and what is read is handed over in the order in which it was asked for, so
that the bits are the same however many threads or processes read, and however far ahead.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Protocol, TypeVar

import torch
from threadpoolctl import threadpool_limits

from seg3d.errors import ConfigError

Prefetch = Literal["auto", "threads", "processes", "none"]
Item = TypeVar("Item")
Result = TypeVar("Result")

HEAVY_SECONDS = 0.004  # of augmenting a patch: from here on processes pay, below it their copies cost more
_LONGEST_TEMPORARY = 75  # bytes: a socket's name has 107, and Python adds a folder and a name of its own


class Batches(Protocol):
    """What is asked of a loader: torch's ``DataLoader`` has it."""

    dataset: Any
    sampler: Any

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


def in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int) -> Iterator[Result]:
    """``work`` of each item in the items' order, computed by threads that are up to ``ahead`` items in front.

    What goes wrong in a thread is raised here, in its turn. Torch computes with one thread in each of them, so that
    they leave the training step its cores.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="seg3d-reader", initializer=use_one_thread)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def use_one_thread() -> None:
    """Have torch compute with one thread in this thread alone; in the others it keeps what it has."""
    torch.get_num_threads()  # torch settles a new thread's number at its first question, and never again
    threadpool_limits(limits=1, user_api="openmp")  # that of OpenMP is each thread's own


class AheadLoader:
    """The batches of a loader, made by a thread while the last ones are used; counts the time that is waited for them.

    Args:
        loader: Makes the batches; it is iterated in one thread only.
        ahead: Batches that are made before they are asked for; 0 makes each when it is asked for, where it is.

    Attributes:
        waited: Seconds that whoever iterates has waited in this iteration.
    """

    def __init__(self, loader: Batches, ahead: int = 2) -> None:
        self.dataset = loader.dataset
        self.sampler = loader.sampler  # told by Lightning which epoch begins
        self.waited = 0.0
        self._loader = loader
        self._ahead = ahead

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self.waited = 0.0
        source = self._made_ahead() if self._ahead else iter(self._loader)
        while True:
            started = time.perf_counter()
            batch = next(source, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _made_ahead(self) -> Iterator[Any]:
        source = iter(self._loader)

        def following(_number: int) -> Any:
            return next(source, None)

        # an epoch that was interrupted has fewer batches left than the loader's length says
        for batch in in_order(following, range(len(self._loader)), 1, self._ahead):
            if batch is None:
                return
            yield batch


def choose_prefetch(wanted: Prefetch, workers: int, seconds: Callable[[], float]) -> Prefetch:
    """``"threads"``, ``"processes"`` or ``"none"``.

    Args:
        wanted: What was asked for; only ``"auto"`` leaves a choice.
        workers: Workers that were asked for; without any, one thread reads.
        seconds: Measures the CPU seconds of a patch.

    Raises:
        ConfigError: Processes were asked for, and the name of the temporary folder is too long for their sockets.
    """
    fits = len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMPORARY
    if wanted == "processes" and workers and not fits:  # the training would wait for its first patch for ever
        raise ConfigError(
            "the name of the temporary folder is too long for processes that read patches",
            where="TMPDIR",
            got=tempfile.gettempdir(),
            expected=f"at most {_LONGEST_TEMPORARY} bytes",
            fix="Set TMPDIR=/tmp, or data.prefetch=threads.",
        )
    if wanted != "auto":
        return wanted
    return "processes" if workers and fits and seconds() > HEAVY_SECONDS else "threads"
