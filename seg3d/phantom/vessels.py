"""Branching vessels: bright, thin and curved, so that brightness alone does not tell a tumour."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from seg3d.phantom.shapes import Points

STEP_MM = 1.6
THINNEST_MM = 0.55
MOST_BRANCHES = 60
# a vessel's cross-section is about kept where it divides: r0^3 = r1^3 + r2^3 (Murray's law)
DIVISION = (0.85, 0.73)


def grow_vessels(
    rng: np.random.Generator,
    roots: list[tuple[NDArray[np.float64], NDArray[np.float64], float]],
    inside: Callable[[NDArray[np.float64]], bool],
) -> tuple[Points, NDArray[np.float64]]:
    """Centre points ``(n, 3)`` and radii ``(n,)`` in millimetres of trees that taper, bend and divide.

    Args:
        rng: Where the choices come from.
        roots: Start point, direction and radius of each tree.
        inside: Whether a point may be reached; a branch ends at the first point that may not.
            The roots' first stretches may go anywhere.

    Source: C. D. Murray, The physiological principle of minimum work (PNAS 1926), for the radii.
    """
    points: list[NDArray[np.float64]] = []
    radii: list[float] = []
    # breadth first: a limit on the number of branches then costs twigs, not one side of the tree
    waiting, trunks = list(roots), len(roots)
    for number, (start, direction, radius) in enumerate(waiting):
        # trunks start outside the lung
        free = number < trunks
        path, thin, heading, alive = _branch(rng, start, direction, radius, _anywhere if free else inside)
        points += path
        radii += thin
        if alive and len(waiting) < MOST_BRANCHES * trunks:
            waiting += [
                (path[-1], turned, thin[-1] * f) for f, turned in zip(DIVISION, _fork(rng, heading), strict=True)
            ]
    return np.array(points).reshape(-1, 3), np.array(radii)


def _anywhere(point: NDArray[np.float64]) -> bool:
    return True


def _branch(
    rng: np.random.Generator,
    start: NDArray[np.float64],
    direction: NDArray[np.float64],
    radius: float,
    inside: Callable[[NDArray[np.float64]], bool],
) -> tuple[list[NDArray[np.float64]], list[float], NDArray[np.float64], bool]:
    # one stretch without a division: its points, radii, last direction, and whether it may divide
    length_mm = radius * rng.uniform(5, 11) + rng.uniform(2, 8)
    path, thin, point, heading = [start], [radius], start, direction
    bend = rng.normal(0, 0.06, (max(2, round(length_mm / STEP_MM)), 3))
    curl = rng.normal(0, 0.05, 3)
    for jitter in bend:
        heading = _unit(heading + curl + jitter)
        point = point + STEP_MM * heading
        radius *= 0.992
        if radius < THINNEST_MM or not inside(point):
            return path, thin, heading, False
        path.append(point)
        thin.append(radius)
    return path, thin, heading, True


def _fork(rng: np.random.Generator, heading: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    side = _unit(np.cross(heading, rng.normal(size=3)))
    wide, narrow = rng.uniform(0.15, 0.5), rng.uniform(0.5, 1.0)
    return _unit(heading + wide * side), _unit(heading - narrow * side)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vector / np.sqrt(vector @ vector))
