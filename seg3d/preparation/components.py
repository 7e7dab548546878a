"""Connected components of a label map that resampling would lose, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.volume import Shape

_Place = tuple[int, ...]
_CONNECTIVITY_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Components:
    """The connected components (26 neighbours) of a label, and the voxels of a new grid that they fall into.

    A voxel falls into the new one that holds its centre.

    Attributes:
        inside: Where the label is in its box ``(x, y, z)``.
        first: First voxel of the box.
        old: Voxels of the label map.
        new: Voxels of the new grid over the same field of view.
    """

    inside: NDArray[np.bool_]
    first: _Place
    old: _Place
    new: Shape
    _places: dict[int, NDArray[np.intp]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def boxes(self) -> list[tuple[slice, ...]]:
        """The part of ``inside`` around each component, in the order of their numbers: 1 is the first."""
        return list(ndimage.find_objects(self._numbers))

    def near(self, number: int) -> NDArray[np.int64]:
        """The voxels ``(n, 3)`` that those of a component fall into, in their order; often the same several times."""
        box = self.boxes[number - 1]
        start = [a + part.start for a, part in zip(self.first, box, strict=True)]
        inside = np.argwhere(self._numbers[box] == number) + start
        return np.stack([target[axis] for target, axis in zip(self._targets, inside.T, strict=True)], axis=1)

    def at(self, place: _Place) -> list[int]:
        """The components with a voxel that falls into ``place``."""
        box = []
        for a, target, first in zip(place, self._targets, self.first, strict=True):
            start, stop = np.searchsorted(target, [a, a + 1])
            box.append(slice(max(0, int(start) - first), max(0, int(stop) - first)))
        found: list[int] = np.unique(self._numbers[tuple(box)]).tolist()
        return [number for number in found if number]

    def count(self, number: int, found: NDArray[Any], value: int) -> int:
        """Voxels of ``found`` with a value, of those that a component's voxels fall into."""
        if number not in self._places:
            mark = np.zeros(self.new, dtype=bool)
            mark[tuple(self.near(number).T)] = True
            self._places[number] = np.flatnonzero(mark)
        return int(np.count_nonzero(found.ravel()[self._places[number]] == value))

    @cached_property
    def _numbers(self) -> NDArray[Any]:
        numbers, count = ndimage.label(self.inside, structure=_CONNECTIVITY_26)
        small: NDArray[Any] = numbers.astype(np.min_scalar_type(count))  # kept for all labels
        return small

    @cached_property
    def _targets(self) -> list[NDArray[np.int64]]:
        """Along each axis the new voxel that each old one falls into."""
        return [
            np.clip(np.floor((np.arange(old) + 0.5) / (old / new)), 0, new - 1).astype(np.int64)
            for old, new in zip(self.old, self.new, strict=True)
        ]


def keep_components(
    found: NDArray[Any], parts: Mapping[int, Components], share: Callable[[int], NDArray[np.float32]]
) -> None:
    """Give each component that has no voxel of its label in ``found``, of those that it falls into, one voxel.

    It is the one of them with the label's largest share that is not the last of another component; where all are, the
    best beside them. Components are taken by label and number; what one was given, no other takes.

    Args:
        found: The resampled label map ``(x, y, z)``, which is changed.
        parts: Components of each label but 0, in ascending order.
        share: The share of a label in each voxel of ``found``; asked for only where a component needs it.
    """
    given: set[_Place] = set()

    def is_free(place: _Place, value: int) -> bool:
        holder = int(found[place])
        if holder == 0:
            return True
        if holder == value or place in given:
            return False
        components = parts[holder]
        return all(components.count(number, found, holder) > 1 for number in components.at(place))

    for value, components in parts.items():
        shares: NDArray[np.float32] | None = None
        for number in range(1, len(components.boxes) + 1):
            near = components.near(number)
            if (found[tuple(near.T)] == value).any():
                continue
            if shares is None:  # most label maps lose nothing
                shares = share(value)
            place = next((place for place in _best_first(near, shares) if is_free(place, value)), None)
            if place is not None:
                found[place] = value
                given.add(place)


def _best_first(near: NDArray[np.int64], share: NDArray[np.float32]) -> Iterator[_Place]:
    """Places by their share, the first of equal ones first; then those beside them."""
    yield from _by_share(near, share)
    start = np.maximum(near.min(axis=0) - 1, 0)
    stop = np.minimum(near.max(axis=0) + 2, share.shape)
    mark = np.zeros(stop - start, dtype=bool)
    mark[tuple((near - start).T)] = True
    beside = ndimage.binary_dilation(mark, structure=_CONNECTIVITY_26) & ~mark
    yield from _by_share(np.argwhere(beside) + start, share)


def _by_share(places: NDArray[np.int64], share: NDArray[np.float32]) -> Iterator[_Place]:
    for place in places[np.argsort(-share[tuple(places.T)], kind="stable")]:
        yield tuple(place.tolist())
