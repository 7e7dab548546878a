"""Soft shapes on a picture: x is the column, y the row from the top, z the one thin axis.

As in :mod:`seg3d.phantom.shapes` a shape is its signed distance, here in pixels: negative inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.phantom.shapes import Field, smooth_noise
from seg3d.volume import Shape

Point = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Plane:
    """The pixels of a picture.

    Attributes:
        shape: Columns, rows and 1.
        x: Column numbers ``(columns, 1, 1)``.
        y: Row numbers ``(1, rows, 1)``, from the top.
    """

    shape: Shape
    x: Field
    y: Field

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.shape[0], self.shape[1]


def plane_of(shape: Shape) -> Plane:
    """The pixels of a picture of this shape."""
    x, y = (np.arange(n, dtype=np.float32) for n in shape[:2])
    return Plane(shape, x[:, None, None], y[None, :, None])


def ellipse(plane: Plane, centre: Sequence[float], radii: Sequence[float], turn: float = 0.0) -> Field:
    """Signed distance of an ellipse whose first axis is turned by ``turn`` radians from x towards y."""
    x, y = plane.x - np.float32(centre[0]), plane.y - np.float32(centre[1])
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = (c * x + s * y) / np.float32(radii[0]), (c * y - s * x) / np.float32(radii[1])
    # first order, exact on the edge, as shapes.ellipsoid
    k0 = np.sqrt(u**2 + v**2)
    k1 = np.sqrt((u / np.float32(radii[0])) ** 2 + (v / np.float32(radii[1])) ** 2)
    return np.asarray(k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6)))


def stroke(plane: Plane, points: Sequence[Point], radius: float | Sequence[float]) -> Field:
    """Signed distance of a polyline of round pen; ``radius`` is one for all or one per point.

    More than an eighth of the picture's width away it is infinite, to save time.
    """
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float32), len(points))
    nearest = np.full(plane.shape, np.inf, dtype=np.float32)
    reach = plane.size[0] / 8
    for start, stop, r0, r1 in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        columns, rows = (_span(n, a, b, reach + max(r0, r1)) for n, a, b in zip(plane.size, start, stop, strict=True))
        x, y = plane.x[columns] - np.float32(start[0]), plane.y[:, rows] - np.float32(start[1])
        dx, dy = np.float32(stop[0] - start[0]), np.float32(stop[1] - start[1])
        along = np.clip((dx * x + dy * y) / np.maximum(dx**2 + dy**2, np.float32(1e-6)), 0, 1)
        distance = np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2) - (r0 + along * (r1 - r0))
        np.minimum(nearest[columns, rows], distance, out=nearest[columns, rows])
    return nearest


def _span(size: int, start: float, stop: float, margin: float) -> slice:
    low, high = min(start, stop) - margin, max(start, stop) + margin
    return slice(int(np.clip(low, 0, size)), int(np.clip(high + 1, 0, size)))


def texture(rng: np.random.Generator, plane: Plane, sigma: float) -> Field:
    """Noise of mean 0 and standard deviation 1 that is correlated over ``sigma`` pixels."""
    return smooth_noise(rng, plane.shape, (sigma, sigma, 0.0))


def blurred(image: Field, sigma: float) -> Field:
    """The picture through a lens of Gaussian width ``sigma`` pixels."""
    found: Field = ndimage.gaussian_filter(image, (sigma, sigma, 0.0), mode="nearest", truncate=3.0)
    return found


def as_grey(image: Field) -> NDArray[np.uint8]:
    """8-bit grey values of 0..1; what is beyond is clipped, as film and screen do."""
    grey: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)
    return grey
