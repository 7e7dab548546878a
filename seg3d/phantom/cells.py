"""A stack of electron microscopy slices: touching cells that thin dark membranes part, organelles that only look so.

The stack is cut from a power diagram in 3D that goes on for ever along z, so that cells grow, shrink, are born and
die from slice to slice and a slice depends on its number alone. Lengths are shares of the picture's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from seg3d.keyed import keyed
from seg3d.phantom.planar import Plane, as_grey, blurred, plane_of, texture
from seg3d.phantom.shapes import Field
from seg3d.volume import Shape

# Source of the diagram: F. Aurenhammer, Power diagrams: properties, algorithms and applications (SIAM J. Comput. 1987)
DIAMETER = 0.125  # of a typical cell
LAYER = 6  # slices whose cells are drawn with one key
SLICES_PER_CELL = 14.0  # through how many slices a cell goes
MEMBRANE = 1 / 64  # width in the label; the picture's dark line is thinner, as annotators draw
MARGIN = 0.15
MEMBRANE_GREY, CELL_GREY, ORGANELLE_GREY = 0.15, 0.60, 0.33


@dataclass(frozen=True, eq=False)
class _Seeds:
    """Cells near a slice: places ``(n, 3)``, radii, and what they look like."""

    place: NDArray[np.float64]
    radius: NDArray[np.float64]
    tone: NDArray[np.float64]
    organelle: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Section:
    """What one slice is made of.

    Attributes:
        owner: Number of the cell that a pixel lies nearest to.
        gap: Distance to the next cell's border.
        slant: How obliquely the border is cut, 0 = upright.
        x, y: Warped coordinates in which borders are straight.
    """

    owner: NDArray[np.int64]
    gap: Field
    slant: Field
    x: Field
    y: Field


def cells_picture(shape: Shape, seed: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
    """Picture ``(x, y, 1)``, label (1 = cell, 0 = membrane) and number of cells of slice ``index`` of the stack.

    No two cells touch, not even by a corner, and each is one piece.
    """
    plane = plane_of(shape)
    seeds = _seeds_near(plane, seed, index)
    section = _cut(plane, seed, index, seeds)
    label, count = _label(plane, section)
    rng = keyed(seed, "phantom", "cells", "slice", index)
    return as_grey(_stained(rng, plane, seeds, section, label)), label, count


def _seeds_near(plane: Plane, seed: int, index: int) -> _Seeds:
    width, height = 1 + 2 * MARGIN, plane.size[1] / plane.size[0] + 2 * MARGIN
    # the thickness of a layer in the unit of the width, so that cells are as deep as they are wide
    depth = LAYER / SLICES_PER_CELL * DIAMETER
    number = max(2, round(width * height * depth / DIAMETER**3))
    layer = index // LAYER
    reach = int(np.ceil(1.2 * SLICES_PER_CELL / LAYER))
    parts = []
    for at in range(layer - reach, layer + reach + 1):
        rng = keyed(seed, "phantom", "cells", "layer", at)
        place = rng.random((number, 3)) * (width, height, depth) - (MARGIN, MARGIN, 0)
        place[:, 2] += (at * LAYER - index) / SLICES_PER_CELL * DIAMETER
        parts.append((place, rng.gamma(2.0, 0.3 * DIAMETER, number), rng.normal(0, 0.04, number), rng.random(number)))
    place, radius, tone, chance = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Seeds(place, np.minimum(radius, 1.3 * DIAMETER), tone, chance < 0.5)


def _cut(plane: Plane, seed: int, index: int, seeds: _Seeds) -> _Section:
    x, y = _warped(plane, seed, index)
    # a power diagram is the Voronoi diagram of the same points raised along one more axis; the slice lies at 0 along
    # that axis and along z, so that one length stands for both
    lift = np.sqrt(seeds.radius.max() ** 2 - seeds.radius**2 + seeds.place[:, 2] ** 2)
    tree = cKDTree(np.column_stack([seeds.place[:, :2], lift]))
    distance, nearest = tree.query(np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)]), k=2)
    step = np.abs(np.diff(seeds.place[nearest], axis=1))[:, 0]
    across = np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-3)
    gap = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * across)
    fields = (gap.astype(np.float32), (step[:, 2] / across).astype(np.float32))
    gap_field, slant = (field.reshape(plane.shape) for field in fields)
    return _Section(nearest[:, 0].reshape(plane.shape), gap_field, slant, x, y)


def _warped(plane: Plane, seed: int, index: int) -> tuple[Field, Field]:
    # waves that change slowly from slice to slice bend the straight borders
    rng = keyed(seed, "phantom", "cells", "waves")
    length = rng.uniform(0.12, 0.5, 8)
    turn, phase = rng.uniform(0, 2 * np.pi, (2, 8))
    phase = phase + index * rng.uniform(-0.25, 0.25, 8)
    scale = np.float32(1 / plane.size[0])
    x, y = (np.broadcast_to(axis * scale, plane.shape) for axis in (plane.x, plane.y))
    moved = [x.astype(np.float32), y.astype(np.float32)]
    for number, (size, angle, start) in enumerate(zip(length, turn, phase, strict=True)):
        k = 2 * np.pi / size
        wave = np.sin(np.float32(k * np.cos(angle)) * x + np.float32(k * np.sin(angle)) * y + np.float32(start))
        moved[number % 2] += np.float32(0.055 * size) * wave
    return moved[0], moved[1]


def _label(plane: Plane, section: _Section) -> tuple[NDArray[np.uint8], int]:
    owner = section.owner[:, :, 0]
    # whatever the gap says, a pixel whose neighbour belongs to another cell is membrane
    edge = ndimage.maximum_filter(owner, 3) != ndimage.minimum_filter(owner, 3)
    inside = (section.gap[:, :, 0] > MEMBRANE / 2) & ~edge
    pieces, count = ndimage.label(inside)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    owners = np.zeros(count + 1, dtype=np.int64)
    owners[pieces] = owner
    kept = np.zeros(count + 1, dtype=bool)
    # one piece per cell, the largest: bends may have cut a cell in two, slivers are no cells
    best = np.lexsort((np.arange(count), -sizes[1:], owners[1:])) + 1
    first = np.ones(count, dtype=bool)
    first[1:] = np.diff(owners[best]) != 0
    kept[best[first]] = True
    kept &= sizes >= max(6, (0.15 * DIAMETER * plane.size[0]) ** 2)
    kept[0] = False
    return kept[pieces].astype(np.uint8)[:, :, None], int(kept.sum())


def _stained(
    rng: np.random.Generator, plane: Plane, seeds: _Seeds, section: _Section, label: NDArray[np.uint8]
) -> Field:
    width = plane.size[0]
    image = np.float32(CELL_GREY) + seeds.tone[section.owner].astype(np.float32)
    image += np.float32(0.035) * texture(rng, plane, max(0.02 * width, 1.0))
    image += np.float32(0.05) * texture(rng, plane, max(0.006 * width, 0.7))
    _paint_vesicles(rng, plane, section, image)
    _paint_organelles(seeds, section, image)
    # a membrane that is cut obliquely is a broad faint smear
    broad = np.float32(MEMBRANE * 0.45) * (1 + np.minimum(section.slant, np.float32(2.5)))
    dark = np.exp(-((section.gap / broad) ** 2)) / (1 + np.float32(0.25) * np.minimum(section.slant, np.float32(2.5)))
    dark = np.maximum(dark, np.float32(0.75) * blurred((label == 0).astype(np.float32), 0.01 * width) ** 2)
    # dense patches, such as synapses, spread from a membrane into its cell
    patchy = np.clip(texture(rng, plane, 0.04 * width) - 1, 0, 1)
    dark = np.maximum(dark, patchy * np.exp(-section.gap / np.float32(2.5 * MEMBRANE)))
    image += (np.float32(MEMBRANE_GREY) - image) * dark
    image = blurred(image, max(0.0025 * width, 0.35))
    image += np.float32(0.06) * texture(rng, plane, 0.5) + np.float32(0.03) * texture(rng, plane, 0.1 * width)
    return image


def _paint_organelles(seeds: _Seeds, section: _Section, image: Field) -> None:
    # striped dark balls with a dark rim, drawn to their own cell and never across a border
    size = 0.5 * np.minimum(seeds.radius, DIAMETER)
    size = np.sqrt(np.maximum(size**2 - seeds.place[:, 2] ** 2, 0))
    size[~seeds.organelle] = 0
    dx = section.x - seeds.place[section.owner, 0].astype(np.float32)
    dy = section.y - seeds.place[section.owner, 1].astype(np.float32)
    radius = np.maximum(size[section.owner], 1e-6).astype(np.float32)
    inside = np.clip((radius - np.hypot(dx, np.float32(1.4) * dy)) * np.float32(12 / DIAMETER), 0, 1)
    inside *= np.clip((section.gap - np.float32(1.2 * MEMBRANE)) * np.float32(2 / MEMBRANE), 0, 1)
    stripes = np.sin((dx + dy) * np.float32(2 * np.pi / (2.2 * MEMBRANE)))
    rim = (inside > 0) & (inside < 1)
    value = np.float32(ORGANELLE_GREY) + np.float32(0.08) * stripes - np.float32(0.1) * rim
    image += (value - image) * inside


def _paint_vesicles(rng: np.random.Generator, plane: Plane, section: _Section, image: Field) -> None:
    # small rings wherever the cell is far enough from its border, others in every slice
    radius = max(0.011 * plane.size[0], 1.3)
    reach = int(np.ceil(radius + 1))
    steps = np.hypot(*np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"))
    ring = np.clip(1 - abs(steps - radius) / 0.8, 0, 1).astype(np.float32)
    share = 500 / np.prod(plane.size) * plane.size[1] / plane.size[0]
    centres = (rng.random(plane.shape, dtype=np.float32) < share) & (section.gap > 1.5 * MEMBRANE)
    rings = ndimage.convolve(centres.astype(np.float32), ring[:, :, None], mode="constant")
    image -= np.float32(0.2) * np.minimum(rings, 1)
