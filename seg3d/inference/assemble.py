"""Answers that come slab by slab, put together on the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.preparation import SlabResampler
from seg3d.preparation.wayback import WayBack
from seg3d.volume import Shape

# indices or labels ``(planes, y, z)`` from probabilities ``(output, planes, y, z)``
Decide = Callable[[NDArray[np.float32]], NDArray[Any]]


class Assembler:
    """A label map, and the probabilities of some outputs, on the grid of the scan.

    Labels are decided there, on probabilities that are interpolated where the scan was resampled. What is held is the
    label map, the maps asked for, and a slab.

    Args:
        way_back: How the prepared volume lies in the scan.
        axis: The axis of the prepared volume along which slabs come.
        decide: Labels of probabilities.
        dtype: Of the label map.
        kept: Outputs whose probabilities are kept.
    """

    def __init__(self, way_back: WayBack, axis: int, decide: Decide, dtype: np.dtype[Any], kept: Sequence[int]) -> None:
        self._axis = axis
        self._decide = decide
        self._done = 0
        order = [axis, *(other for other in range(3) if other != axis)]
        prepared, cropped = (_shape([sizes[a] for a in order]) for sizes in (way_back.prepared, way_back.cropped))
        self._resampler = SlabResampler(prepared, cropped)
        self.label: NDArray[Any] = np.zeros(way_back.source.shape, dtype)
        self.maps: Mapping[int, NDArray[np.float32]] = {
            output: np.zeros(way_back.source.shape, np.float32) for output in kept
        }
        # views of the source's arrays as the slabs come: written to, they fill the source
        self._label = np.moveaxis(way_back.cut(self.label), axis, 0)
        self._maps = {output: np.moveaxis(way_back.cut(values), axis, 0) for output, values in self.maps.items()}

    def add(self, planes: NDArray[np.float32]) -> None:
        """Take in the next planes, ``(output, planes, ...)`` with the slab axis first."""
        found = self._resampler.feed(planes)
        place = slice(self._done, self._done + found.shape[1])
        self._done = place.stop
        self._label[place] = self._decide(found)
        for output, values in self._maps.items():
            values[place] = found[output]


def _shape(sizes: Sequence[int]) -> Shape:
    x, y, z = sizes
    return x, y, z
