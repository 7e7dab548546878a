"""Answers that come slab by slab, put together on the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.preparation import SlabResampler
from seg3d.preparation.wayback import WayBack
from seg3d.volume import Shape

# labels ``(planes, y, z)`` of maps ``(map, planes, y, z)``
Decide = Callable[[NDArray[np.float32]], NDArray[Any]]
# a map ``(planes, y, z)`` of maps and the labels that were decided
Derive = Callable[[NDArray[np.float32], NDArray[Any]], NDArray[np.float32]]
Key = tuple[str, int | str]


class Assembler:
    """A label map, and further maps, on the grid of the scan.

    They are found there, on probabilities that are interpolated where the scan was resampled. What is held is the label
    map, the maps asked for, and a slab. Beyond the crop all are 0.

    Args:
        way_back: How the prepared volume lies in the scan.
        axis: The axis of the prepared volume along which slabs come.
        decide: How labels follow from what comes in.
        dtype: Of the label map.
        kept: How each map that is kept follows from it.
    """

    def __init__(
        self, way_back: WayBack, axis: int, decide: Decide, dtype: np.dtype[Any], kept: Mapping[Key, Derive]
    ) -> None:
        self._decide = decide
        self._kept = kept
        self._done = 0
        order = [axis, *(other for other in range(3) if other != axis)]
        prepared, cropped = (_shape([sizes[a] for a in order]) for sizes in (way_back.prepared, way_back.cropped))
        self._resampler = SlabResampler(prepared, cropped)
        self.label: NDArray[Any] = np.zeros(way_back.source.shape, dtype)
        self.maps: Mapping[Key, NDArray[np.float32]] = {
            key: np.zeros(way_back.source.shape, np.float32) for key in kept
        }
        # views of the source's arrays as the slabs come: written to, they fill the source
        self._label = np.moveaxis(way_back.cut(self.label), axis, 0)
        self._maps = {key: np.moveaxis(way_back.cut(values), axis, 0) for key, values in self.maps.items()}

    def add(self, planes: NDArray[np.float32]) -> None:
        """Take in the next planes, ``(map, planes, ...)`` with the slab axis first."""
        found = self._resampler.feed(planes)
        place = slice(self._done, self._done + found.shape[1])
        self._done = place.stop
        label = self._decide(found)
        self._label[place] = label
        for key, derive in self._kept.items():
            self._maps[key][place] = derive(found, label)


def _shape(sizes: Sequence[int]) -> Shape:
    x, y, z = sizes
    return x, y, z
