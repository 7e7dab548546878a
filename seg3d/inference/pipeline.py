"""Work on one item while the next one is read and the last one written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from seg3d.errors import Seg3dError

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Made = TypeVar("Made")


def overlapped(
    items: Sequence[Item],
    load: Callable[[Item], Loaded],
    make: Callable[[Item, Loaded], Made],
    store: Callable[[Item, Made], object],
    *,
    ahead: bool = True,
) -> Iterator[tuple[Item, Seg3dError | None]]:
    """Each item, in order, once it is stored, or with the error that kept it from that.

    ``load`` and ``store`` run in a thread each, ``make`` in the caller's. At most one item is loaded ahead and one not
    yet stored. Another error than a :class:`Seg3dError` ends all; what is being stored then is stored first.

    Args:
        items: What is to be done.
        load: Reads an item.
        make: Computes.
        store: Writes what was computed.
        ahead: Whether the steps of successive items overlap; else one item is held at a time.
    """
    with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as storer:
        coming = loader.submit(load, items[0]) if items else None
        storing: tuple[Item, Future[object] | Seg3dError] | None = None
        try:
            for number, item in enumerate(items):
                assert coming is not None
                last = number == len(items) - 1
                current, coming = coming, None
                error = _failure(current)
                if ahead and not last:
                    coming = loader.submit(load, items[number + 1])
                made = _made(make, item, current.result()) if error is None else error
                del current
                if storing is not None:
                    yield _stored(*storing)
                storing = item, made if isinstance(made, Seg3dError) else storer.submit(store, item, made)
                del made
                if not ahead:
                    yield _stored(*storing)
                    storing = None
                    coming = None if last else loader.submit(load, items[number + 1])
            if storing is not None:
                yield _stored(*storing)
        finally:
            if coming is not None:
                coming.cancel()


def _failure(future: Future[Loaded]) -> Seg3dError | None:
    """The user's mistake that a thread met; any other error is raised."""
    error = future.exception()
    if error is None or isinstance(error, Seg3dError):
        return error
    raise error


def _made(make: Callable[[Item, Loaded], Made], item: Item, loaded: Loaded) -> Made | Seg3dError:
    try:
        return make(item, loaded)
    except Seg3dError as error:
        return error


def _stored(item: Item, outcome: Future[object] | Seg3dError) -> tuple[Item, Seg3dError | None]:
    return item, outcome if isinstance(outcome, Seg3dError) else _failure(outcome)
