"""Surface elements of a mask: the pieces of its surface between eight neighbouring voxels, and their areas.

Where the eight voxels at a corner of the voxel grid are not all in or all out, the surface passes through the cube of
their centres. Its polygons join the middles of the cube's edges that it crosses (marching cubes); a face with crossings
on all four edges keeps apart the voxels of which the cube has fewer; a polygon is cut into triangles in as few planes
as can be. These rules give the areas of DeepMind's surface-distance for all 256 cubes, which a test compares.

Source: Lorensen and Cline, Marching cubes (SIGGRAPH 1987); Nikolov et al., Deep learning to achieve clinically
applicable segmentation (2018) for surface elements as a measure.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from seg3d.volume import Spacing

Corner = tuple[int, ...]
Point = tuple[float, ...]
Triangle = tuple[int, int, int]
CORNERS: tuple[Corner, ...] = tuple(itertools.product((0, 1), repeat=3))


def surface_codes(mask: NDArray[np.bool_], thin: Sequence[int] = ()) -> NDArray[np.uint8]:
    """Code of the cube at each corner of the voxel grid, ``(x + 1, y + 1, z + 1)``; 0 and 255 are no surface.

    Bit ``i`` is the voxel at ``CORNERS[i]`` of the cube; beyond the volume is outside. Along an axis of ``thin``, which
    has one voxel, the mask goes on for ever and one layer of cubes is given: it has no faces there, only an outline.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    for axis in thin:
        layers = np.moveaxis(padded, axis, 0)
        layers[[0, 2]] = layers[1]
    x, y, z = (1 if axis in thin else n + 1 for axis, n in enumerate(mask.shape))
    codes = np.zeros((x, y, z), dtype=np.uint8)
    for bit, (i, j, k) in enumerate(CORNERS):
        codes |= padded[i : i + x, j : j + y, k : k + z] << bit
    return codes


@cache
def element_areas(spacing_mm: Spacing) -> NDArray[np.float64]:
    """Area in mm^2 of the surface in the cube of each code, ``(256,)``."""
    areas = np.zeros(256)
    for code, triangles in _triangles().items():
        a, b, c = (triangles * np.array(spacing_mm)).transpose(1, 0, 2)
        areas[code] = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    areas.setflags(write=False)
    return areas


@cache
def _triangles() -> Mapping[int, NDArray[np.float64]]:
    """Triangles ``(n, 3 points, 3 axes)`` of each code, in units of a voxel."""
    found = {}
    for code in range(1, 255):
        inside = {corner: bool(code >> bit & 1) for bit, corner in enumerate(CORNERS)}
        triangles = []
        for polygon in _polygons(inside):
            points = np.array(polygon)
            triangles += [points[list(triangle)] for triangle in _flattest(points)]
        found[code] = np.array(triangles)
    return found


def _polygons(inside: Mapping[Corner, bool]) -> list[list[Point]]:
    """The closed polygons in which the surface crosses the cube."""
    neighbours: dict[Point, list[Point]] = {}
    for one, other in _segments(inside):
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    polygons: list[list[Point]] = []
    left = sorted(neighbours)
    while left:
        polygon, following = [], [left[0]]
        while following:
            polygon.append(following[0])
            left.remove(following[0])
            following = [point for point in neighbours[polygon[-1]] if point in left]
        polygons.append(polygon)
    return polygons


def _segments(inside: Mapping[Corner, bool]) -> list[tuple[Point, Point]]:
    """Where the surface crosses the cube's faces: each segment joins the middles of two edges."""
    fewer_inside = sum(inside.values()) <= 4
    segments = []
    for face in _faces():
        middles = [_middle(face[i], face[(i + 1) % 4]) for i in range(4)]
        crossed = [i for i in range(4) if inside[face[i]] != inside[face[(i + 1) % 4]]]
        if len(crossed) == 2:
            segments.append((middles[crossed[0]], middles[crossed[1]]))
        elif crossed:  # two voxels diagonally: cut off those of which there are fewer
            segments += [(middles[i - 1], middles[i]) for i in range(4) if inside[face[i]] == fewer_inside]
    return segments


def _faces() -> list[list[Corner]]:
    """The four corners of each face of the cube, in turn."""
    around = ((0, 0), (0, 1), (1, 1), (1, 0))
    return [[tuple(np.insert(pair, axis, side).tolist()) for pair in around] for axis in range(3) for side in (0, 1)]


def _middle(one: Corner, other: Corner) -> Point:
    return tuple((a + b) / 2 for a, b in zip(one, other, strict=True))


def _flattest(points: NDArray[np.float64]) -> Sequence[Triangle]:
    """The triangulation of a polygon that lies in the fewest planes; equally flat ones have equal areas."""
    return min(_triangulations(0, len(points) - 1), key=lambda triangles: len({_plane(points, t) for t in triangles}))


def _triangulations(first: int, last: int) -> list[list[Triangle]]:
    """All ways to cut the polygon of the points ``first`` to ``last`` into triangles."""
    if last - first < 2:
        return [[]]
    return [
        [*before, *behind, (first, between, last)]
        for between in range(first + 1, last)
        for before in _triangulations(first, between)
        for behind in _triangulations(between, last)
    ]


def _plane(points: NDArray[np.float64], triangle: Triangle) -> tuple[float, ...]:
    """Unit normal and distance from the origin, rounded so that equal planes are equal."""
    a, b, c = points[list(triangle)]
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal)
    return tuple((np.append(normal, normal @ a).round(6) + 0.0).tolist())
