"""Shapes with soft edges on a regular grid in millimetres.

A shape is its signed distance in millimetres: negative inside, approximate away from the surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.volume import Shape, Spacing

Field = NDArray[np.float32]
Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Frame:
    """A RAS grid with its centre at 0.

    Attributes:
        shape: Number of voxels along x (right), y (anterior), z (superior).
        spacing_mm: Voxel spacing along the same axes.
        x, y, z: Voxel centres in millimetres, shaped to broadcast against each other.
    """

    shape: Shape
    spacing_mm: Spacing
    x: Field
    y: Field
    z: Field

    @property
    def extent_mm(self) -> NDArray[np.float64]:
        """Edge lengths of the field of view."""
        return np.asarray(np.array(self.shape) * np.array(self.spacing_mm))

    def index_to_mm(self, index: NDArray[np.floating | np.integer]) -> Points:
        """Millimetres of voxel indices ``(..., 3)``."""
        return np.asarray((index - (np.array(self.shape) - 1) / 2) * np.array(self.spacing_mm))

    def mm_to_index(self, point_mm: Points) -> Points:
        """Voxel indices, not rounded, of points ``(..., 3)`` in millimetres."""
        return np.asarray(point_mm / np.array(self.spacing_mm) + (np.array(self.shape) - 1) / 2)


def frame_of(shape: Shape, spacing_mm: Spacing) -> Frame:
    """The frame of a grid."""
    x, y, z = (
        ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(shape, spacing_mm, strict=True)
    )
    return Frame(shape, spacing_mm, x[:, None, None], y[None, :, None], z[None, None, :])


def ellipsoid(frame: Frame, centre_mm: Sequence[float], radii_mm: Sequence[float]) -> Field:
    """Signed distance of an axis-aligned ellipsoid (first order: exact on the surface).

    Source: I. Quilez, Ellipsoid - SDF (2008): f / |grad f| with f = |p / r| - 1.
    """
    unit = [(c - np.float32(m)) / np.float32(r) for c, m, r in zip(_axes(frame), centre_mm, radii_mm, strict=True)]
    steep = [u / np.float32(r) for u, r in zip(unit, radii_mm, strict=True)]
    k0 = np.sqrt(unit[0] ** 2 + unit[1] ** 2 + unit[2] ** 2)
    k1 = np.sqrt(steep[0] ** 2 + steep[1] ** 2 + steep[2] ** 2)
    distance: Field = k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))
    return distance


def coverage(distance_mm: Field, edge_mm: float) -> Field:
    """Share of a voxel inside, 0..1, falling linearly over an edge ``edge_mm`` wide centred on the surface."""
    share: Field = np.clip(np.float32(0.5) - distance_mm / np.float32(edge_mm), 0, 1)
    return share


def blend(image: Field, share: Field | NDArray[np.floating], value: float | Field) -> None:
    """Replace ``share`` of every voxel of ``image`` by ``value``, in place."""
    image += (value - image) * share


def tubes(frame: Frame, points_mm: Points, radii_mm: NDArray[np.float64]) -> Field:
    """Share 0..1 of every voxel that lies in the union of balls of ``radii_mm`` (n) at ``points_mm`` (n, 3).

    Points a radius apart or closer make a tube. No points give all zeros.
    """
    share = np.zeros(frame.shape, dtype=np.float32)
    spacing = np.array(frame.spacing_mm)
    edge = float(spacing.mean())
    # balls of like size share one window, so that a thick trunk does not widen the window of every twig
    for low, high in ((0.0, 2.0), (2.0, 5.0), (5.0, np.inf)):
        chosen = (radii_mm >= low) & (radii_mm < high)
        if not chosen.any():
            continue
        reach = np.ceil((radii_mm[chosen].max() + edge / 2) / spacing).astype(int)
        window = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
        index = np.rint(frame.mm_to_index(points_mm[chosen])).astype(int)[:, None] + window
        inside = ((index >= 0) & (index < np.array(frame.shape))).all(axis=-1)
        gap = np.sqrt(((frame.index_to_mm(index) - points_mm[chosen][:, None]) ** 2).sum(axis=-1))
        ball = coverage((gap - radii_mm[chosen][:, None]).astype(np.float32), edge)
        np.maximum.at(share, tuple(index[inside].T), ball[inside])
    return share


def smooth_noise(rng: np.random.Generator, shape: Shape, sigma_voxels: float | Sequence[float]) -> Field:
    """Gaussian noise of mean 0 and standard deviation 1 that is correlated over ``sigma_voxels``."""
    noise: Field = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32), sigma_voxels, mode="wrap", truncate=3.0
    )
    scaled: Field = (noise - noise.mean()) / noise.std()
    return scaled


def _axes(frame: Frame) -> tuple[Field, Field, Field]:
    return frame.x, frame.y, frame.z
