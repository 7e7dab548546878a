"""Lung tumours: lobulated, spiculated, of varied size, free in the lung or against pleura, mediastinum or vessel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg3d.phantom.shapes import Field, Frame, Points, blend, coverage, tubes

PLACES = ("parenchyma", "pleura", "mediastinum", "vessel")
PLACE_SHARES = (0.4, 0.25, 0.15, 0.2)
# the first tumour of a case is of a size that a scan is taken for, the others may be small
FIRST_RADIUS_MM = (7.5, 18.0)
RADIUS_MM = (4.0, 14.0)
BUMPS = 14
SHARPNESS = 14


@dataclass(frozen=True, eq=False)
class Lung:
    """Where tumours may grow.

    Attributes:
        inside_mm: Signed distance of both lungs.
        pleura_mm: Depth below the chest wall and diaphragm, positive inside.
        mediastinum_mm: Depth from the mediastinum and heart, positive inside.
        vessels_mm: Centre points of vessels.
    """

    inside_mm: Field
    pleura_mm: Field
    mediastinum_mm: Field
    vessels_mm: Points


@dataclass(frozen=True, eq=False)
class Lesion:
    """A tumour's place and the numbers that its surface follows from."""

    centre_mm: NDArray[np.float64]
    radius_mm: float
    place: str
    stretch: NDArray[np.float64]
    bump_direction: NDArray[np.float64]
    bump_height: NDArray[np.float64]
    scale: float


def draw_lesions(rng: np.random.Generator, frame: Frame, lung: Lung) -> list[Lesion]:
    """One to three tumours that do not touch each other; fewer where the lung has no room."""
    lesions: list[Lesion] = []
    for number in range(int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))):
        low, high = FIRST_RADIUS_MM if number == 0 else RADIUS_MM
        radius = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        place = str(rng.choice(PLACES, p=PLACE_SHARES))
        lesion = _place(rng, frame, lung, radius, place, lesions)
        if lesion is not None:
            lesions.append(lesion)
    return lesions


def paint_lesion(rng: np.random.Generator, frame: Frame, lung: Lung, lesion: Lesion, image: Field) -> NDArray[np.bool_]:
    """The tumour's voxels; draws the tumour and its spicules into ``image`` (HU) in place.

    A voxel belongs to the tumour where its centre lies within the surface and in the lung. Spicules do not belong.
    """
    lung_share = coverage(lung.inside_mm, edge_mm=2.0)
    spicules = tubes(frame, *_spicules(rng, lesion)) * lung_share
    blend(image, spicules, np.maximum(image, np.float32(rng.uniform(-60, 20))))
    box = _box(frame, lesion)
    distance = _surface_distance(frame, lesion, box)
    core = rng.uniform(-20, 0)
    hu = rng.uniform(10, 60) + core * np.clip(-distance / lesion.radius_mm, 0, 1)
    blend(image[box], coverage(distance, edge_mm=2.0) * lung_share[box], hu.astype(np.float32))
    mask = np.zeros(frame.shape, dtype=bool)
    mask[box] = (distance < 0) & (lung.inside_mm[box] < 0)
    return mask


def _place(
    rng: np.random.Generator, frame: Frame, lung: Lung, radius_mm: float, place: str, others: list[Lesion]
) -> Lesion | None:
    for _ in range(8):
        candidates = np.argwhere(_room(frame, lung, radius_mm, place, others))
        if len(candidates):
            voxel = candidates[int(rng.integers(len(candidates)))] + rng.uniform(-0.5, 0.5, 3)
            return _shape(rng, frame.index_to_mm(voxel), radius_mm, place)
        radius_mm *= 0.85
        if radius_mm < RADIUS_MM[0]:
            break
    return None


def _room(frame: Frame, lung: Lung, radius_mm: float, place: str, others: list[Lesion]) -> NDArray[np.bool_]:
    r, free = np.float32(radius_mm), np.float32(1.35 * radius_mm + 1)
    # the surface stays within 1.35 radii, so a tumour never leaves the field of view
    room: NDArray[np.bool_] = (lung.inside_mm < -0.5 * r) & (abs(frame.z) < frame.extent_mm[2] / 2 - free)
    pleura, mediastinum = lung.pleura_mm, lung.mediastinum_mm
    if place == "pleura":
        room &= (pleura > 0.6 * r) & (pleura < 0.95 * r) & (mediastinum > free)
    elif place == "mediastinum":
        room &= (mediastinum > 0.6 * r) & (mediastinum < 0.95 * r) & (pleura > free)
    else:
        room &= (pleura > free) & (mediastinum > free)
    if place == "vessel":
        near = tubes(frame, lung.vessels_mm, np.full(len(lung.vessels_mm), 3.0))
        room &= near > 0
    for other in others:
        gap = 1.35 * (other.radius_mm + radius_mm) + 4
        away = sum((axis - c) ** 2 for axis, c in zip((frame.x, frame.y, frame.z), other.centre_mm, strict=True))
        room &= np.asarray(away) > gap**2
    return room


def _shape(rng: np.random.Generator, centre_mm: NDArray[np.float64], radius_mm: float, place: str) -> Lesion:
    stretch = np.exp(rng.normal(0, 0.09, 3).clip(-0.15, 0.15))
    stretch /= np.cbrt(stretch.prod())
    direction = _unit(rng.normal(size=(BUMPS, 3)))
    height = rng.uniform(-0.24, 0.3, BUMPS)
    # the mean of the cubed radius over the sphere gives the volume: scaled so that it is radius_mm's
    everywhere = _fibonacci_sphere(600)
    scale = 1 / np.cbrt(np.mean(_bumpy(everywhere, direction, height) ** 3))
    return Lesion(centre_mm, radius_mm, place, stretch, direction, height, float(scale))


def _bumpy(
    unit: NDArray[np.floating], direction: NDArray[np.float64], height: NDArray[np.float64]
) -> NDArray[np.floating]:
    radius = np.ones(unit.shape[:-1], dtype=unit.dtype)
    for towards, tall in zip(direction.astype(unit.dtype), height.astype(unit.dtype), strict=True):
        radius += tall * np.exp(SHARPNESS * (unit @ towards - 1))
    return radius


def _surface_distance(frame: Frame, lesion: Lesion, box: tuple[slice, ...]) -> Field:
    index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), axis=-1)
    offset = ((frame.index_to_mm(index) - lesion.centre_mm) / lesion.stretch).astype(np.float32)
    gap = np.sqrt((offset**2).sum(axis=-1))
    unit = offset / np.maximum(gap, np.float32(1e-3))[..., None]
    surface = lesion.radius_mm * lesion.scale * _bumpy(unit, lesion.bump_direction, lesion.bump_height)
    return np.asarray(gap - surface, dtype=np.float32)


def _box(frame: Frame, lesion: Lesion) -> tuple[slice, ...]:
    reach = 1.6 * lesion.radius_mm + 2
    low = np.floor(frame.mm_to_index(lesion.centre_mm - reach)).astype(int).clip(0)
    high = np.ceil(frame.mm_to_index(lesion.centre_mm + reach)).astype(int) + 1
    return tuple(slice(int(a), int(min(b, n))) for a, b, n in zip(low, high, frame.shape, strict=True))


def _spicules(rng: np.random.Generator, lesion: Lesion) -> tuple[Points, NDArray[np.float64]]:
    rays = _unit(rng.normal(size=(int(rng.integers(3, 11)), 3)))
    length = lesion.radius_mm * rng.uniform(0.4, 0.9, len(rays))
    along = np.linspace(0, 1, 12)
    reach = 0.85 * lesion.radius_mm + length[:, None] * along
    points = lesion.centre_mm + reach[..., None] * rays[:, None]
    radii = np.broadcast_to(1.2 - 0.8 * along, reach.shape)
    return points.reshape(-1, 3), radii.reshape(-1)


def _fibonacci_sphere(n: int) -> NDArray[np.float64]:
    # evenly spread directions
    z = 1 - (2 * np.arange(n) + 1) / n
    turn = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    flat = np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], axis=-1)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True)))
