"""A frontal chest X-ray, bright = dense, as hospitals print it: lungs, heart, diaphragm, ribs, disease, film.

Places in the chest are ``u``, from the midline in half chest widths (negative: left in the picture, the patient's
right), and ``v``, from the apices of the lungs (0) to the domes of the diaphragm (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg3d.keyed import keyed
from seg3d.phantom.planar import Plane, as_grey, blurred, ellipse, plane_of, stroke, texture
from seg3d.phantom.shapes import Field, blend, coverage
from seg3d.volume import Shape

SITES = ("siteA", "siteB", "siteC", "siteD", "siteE")
WALL, LUNG, MEDIASTINUM, BELLY, BONE = 0.62, 0.22, 0.78, 0.85, 0.14


@dataclass(frozen=True, eq=False)
class _Chest:
    """One patient on one film.

    Attributes:
        plane: The pixels.
        half: Half the chest's width in pixels.
        u, v: Place in the chest.
        left, right: Signed distance in pixels of the lung on that side of the picture.
    """

    plane: Plane
    half: float
    u: Field
    v: Field
    left: Field
    right: Field

    @property
    def lungs(self) -> Field:
        """Signed distance of both lungs."""
        return np.minimum(self.left, self.right)


def site_of(index: int) -> str:
    """The hospital of a case: they take turns."""
    return SITES[index % len(SITES)]


def xray_picture(shape: Shape, seed: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Picture ``(x, y, 1)`` and label (1 = lung) of one case; its site gives contrast, noise, border and marker."""
    rng = keyed(seed, "phantom", "xray", "anatomy", index)
    chest = _draw_chest(rng, plane_of(shape))
    image = _paint_body(rng, chest)
    _paint_lungs(rng, chest, image)
    _paint_heart(rng, chest, image)
    _paint_bones(rng, chest, image)
    _paint_wires(rng, chest, image)
    site = keyed(seed, "phantom", "xray", site_of(index))
    film = _exposed(site, keyed(seed, "phantom", "xray", "film", index), chest, image)
    return as_grey(film), (chest.lungs < 0).astype(np.uint8)


def _draw_chest(rng: np.random.Generator, plane: Plane) -> _Chest:
    width, height = plane.size
    half = width * rng.uniform(0.39, 0.48)
    length = min(half * rng.uniform(1.4, 1.85), 0.8 * height)
    top = rng.uniform(0.06, min(0.2, 0.92 - length / height)) * height
    turn, middle = np.float32(rng.normal(0, 0.03)), width * rng.uniform(0.47, 0.53)
    x, y = plane.x - np.float32(middle), plane.y - np.float32(top)
    u = np.asarray((x + turn * y) / np.float32(half), dtype=np.float32)
    v = np.asarray((y - turn * x) / np.float32(length), dtype=np.float32)
    heart = rng.uniform(0.3, 0.55)
    left = _lung(rng, -u, v, 0.1 * heart) * np.float32(half)
    right = _lung(rng, u, v, heart) * np.float32(half)
    return _Chest(plane, half, u, v, left, right)


def _lung(rng: np.random.Generator, u: Field, v: Field, heart: float) -> Field:
    """Distance, in half chest widths, of the lung at positive ``u``; the heart bulges into it by ``heart``."""
    wide = np.float32(rng.uniform(0.86, 0.96))
    inner = np.float32(rng.uniform(0.1, 0.19))
    down = np.clip(v, 0, 1.3)
    outer = wide * (np.float32(0.62) + np.float32(0.38) * np.sin(np.float32(np.pi / 2) * np.clip(down / 0.85, 0, 1)))
    bulge = np.float32(heart) * np.clip((down - np.float32(0.35)) / np.float32(0.65), 0, 1) ** 1.5
    roof = np.float32(0.28) * ((u - np.float32(0.38)) / np.float32(0.4)) ** 2
    # the dome, and at the side the angle into which the lung dips
    dome = np.float32(rng.uniform(0.9, 1.0)) + np.float32(rng.uniform(0.2, 0.5)) * (u - np.float32(0.42)) ** 2
    dome = dome + np.float32(rng.uniform(0.05, 0.3)) * np.clip((u - np.float32(0.65)) / np.float32(0.3), 0, 1) ** 2
    ragged = np.float32(0.008) * np.sin(13 * v + np.float32(rng.uniform(0, 6)))
    sides = np.maximum(u - outer + ragged, inner + bulge - u)
    ends = np.maximum(roof - v, v - dome) * np.float32(1.5)
    # a rounded corner is where both distances are small
    return np.asarray(np.log(np.exp(28 * np.clip(sides, -1, 1)) + np.exp(28 * np.clip(ends, -1, 1))) / 28, np.float32)


def _paint_body(rng: np.random.Generator, chest: _Chest) -> Field:
    u, v, half = abs(chest.u), chest.v, chest.half
    slope = np.float32(rng.uniform(0.1, 0.3))
    shoulders = np.minimum(np.maximum(u - np.float32(0.3), 0) * slope - np.float32(0.12), np.float32(0.3)) - v
    neck = np.maximum(u - np.float32(rng.uniform(0.25, 0.32)), v - np.float32(0.2))
    # below the armpits the chest ends, thin or broad; some films show no air beside it
    flank = np.where(v > 0.25, u - np.float32(rng.uniform(1.08, 1.5)), -1)
    body = np.minimum(np.maximum(shoulders, flank), neck) * np.float32(half)
    image = np.zeros(chest.plane.shape, dtype=np.float32)
    depth = np.float32(WALL) * (1 - np.float32(0.12) * np.minimum(u, np.float32(1.5)) ** 2)
    blend(image, coverage(body.astype(np.float32), 0.06 * half), depth + 0.02 * texture(rng, chest.plane, 0.06 * half))
    belly = coverage(((np.float32(0.95) - v) * np.float32(half)).astype(np.float32), 0.3 * half)
    blend(image, belly * (image > 0.2), BELLY - np.float32(0.1) * np.minimum(u, np.float32(1.5)) ** 2)
    spread = np.exp(-((u / np.float32(0.2)) ** 2))
    blend(image, np.float32(0.8) * spread * (image > 0.2), MEDIASTINUM)
    return image


def _paint_lungs(rng: np.random.Generator, chest: _Chest, image: Field) -> None:
    plane, half, u, v = chest.plane, chest.half, chest.u, chest.v
    air = LUNG + rng.uniform(-0.05, 0.12) + np.float32(0.1) * (v - np.float32(0.5))
    # vessels leave the hila and fade towards the chest wall
    hila = np.exp(-(((abs(u) - np.float32(0.25)) / np.float32(0.28)) ** 2) - ((v - np.float32(0.5)) / 0.3) ** 2)
    lines = np.clip(texture(rng, plane, max(0.025 * half, 0.6)), -1, 2) * (np.float32(0.03) + np.float32(0.06) * hila)
    lung = np.asarray(air + lines + np.float32(0.14) * hila, dtype=np.float32)
    share = coverage(chest.lungs, 0.03 * half)
    # disease takes contrast from parts of the lung that the mask still holds
    for _ in range(int(rng.integers(0, 4))):
        centre = rng.choice([-1, 1]) * rng.uniform(0.25, 0.8), rng.uniform(0.2, 1)
        spread = rng.uniform(0.12, 0.35)
        cloud = np.exp(-(((u - np.float32(centre[0])) / spread) ** 2) - ((v - np.float32(centre[1])) / spread) ** 2)
        cloud *= np.clip(1 + np.float32(0.5) * texture(rng, plane, 0.07 * half), 0, 1.5)
        blend(lung, np.clip(np.float32(rng.uniform(0.3, 0.85)) * cloud, 0, 1).astype(np.float32), WALL)
    blend(image, share, lung)
    # gas in the stomach is dark and no lung
    bubble = ellipse(plane, _at(chest, 0.5, 1.22), (0.16 * half, 0.1 * half))
    if rng.random() < 0.4:
        blend(image, np.float32(0.5) * coverage(bubble, 0.05 * half), LUNG)


def _paint_heart(rng: np.random.Generator, chest: _Chest, image: Field) -> None:
    half, u, v = chest.half, abs(chest.u), chest.v
    column = coverage(((u - np.float32(0.17)) * np.float32(half)).astype(np.float32), 0.12 * half)
    outside = coverage(-chest.lungs, 0.03 * half) * (u < 0.75) * (v > -0.1) * (v < 1.1)
    centre = np.exp(-(((chest.u - np.float32(0.12)) / np.float32(0.4)) ** 2) - ((v - np.float32(0.85)) / 0.35) ** 2)
    blend(image, (outside * np.maximum(column * 0.7, centre)).astype(np.float32), MEDIASTINUM + 0.08)
    trachea = stroke(chest.plane, [_at(chest, 0, -0.3), _at(chest, -0.02, 0.35)], 0.06 * half)
    blend(image, np.float32(0.4) * coverage(trachea, 0.06 * half), float(LUNG + rng.uniform(0.1, 0.2)))


def _paint_bones(rng: np.random.Generator, chest: _Chest, image: Field) -> None:
    half, v = chest.half, chest.v
    u = abs(chest.u)
    visible = np.float32(rng.uniform(0.4, 1.1) * BONE) * coverage((u - np.float32(1.0)) * np.float32(half), 0.06 * half)
    number = rng.uniform(7.5, 9.5)
    # behind: rising from the spine, then falling; in front: fainter and falling towards the middle
    back = v - np.float32(0.5) * (u - np.float32(0.35)) ** 2 + np.float32(0.02)
    front = v + np.float32(0.55) * (u - np.float32(0.9))
    for curve, strength in ((back, 1.0), (front, 0.5)):
        phase = np.mod(curve * np.float32(number) + np.float32(rng.random()), 1)
        off = abs(phase - np.float32(0.5))
        rib = np.clip((np.float32(0.24) - off) * 12, 0, 1)
        rim = np.clip(1 - abs(off - np.float32(0.21)) * 14, 0, 1)
        image += np.float32(strength) * visible * (np.float32(0.55) * rib + np.float32(0.45) * rim) * (u > 0.1)
    vertebrae = np.clip(np.sin(v * np.float32(2 * np.pi * 11)) * 3, 0, 1)
    image += np.float32(0.05) * coverage((u - np.float32(0.11)) * np.float32(half), 0.06 * half) * vertebrae
    for side in (-1, 1):
        rise = rng.uniform(-0.02, 0.1)
        bone = stroke(
            chest.plane,
            [_at(chest, side * 0.12, 0.12 + rise), _at(chest, side * 0.5, 0.07 + rise), _at(chest, side * 1.05, -0.06)],
            0.035 * half,
        )
        image += np.float32(0.1) * coverage(bone, 0.05 * half)


def _paint_wires(rng: np.random.Generator, chest: _Chest, image: Field) -> None:
    # electrodes and leads of the very ill
    if rng.random() > 0.4:
        return
    for _ in range(int(rng.integers(1, 4))):
        steps = rng.normal(0, (0.3, 0.22), (5, 2))
        steps[0] = rng.uniform((-0.8, 0.0), (0.8, 0.6))
        path = [_at(chest, float(u), float(v)) for u, v in np.cumsum(steps, axis=0)]
        image += np.float32(0.18) * coverage(stroke(chest.plane, path, 0.008 * chest.half), 1.0)
        image += np.float32(0.3) * coverage(ellipse(chest.plane, path[0], (0.05 * chest.half,) * 2), 1.0)


def _exposed(site: np.random.Generator, rng: np.random.Generator, chest: _Chest, image: Field) -> Field:
    # what a site does to all its films, then what differs from film to film
    plane, half = chest.plane, chest.half
    gamma, base, gain = site.uniform(0.75, 1.5), site.uniform(0, 0.12), site.uniform(0.85, 1.1)
    noise, border, marker = site.uniform(0.008, 0.03), site.random() < 0.4, site.random() < 0.7
    film = blurred(image, max(0.008 * half, 0.4)) * np.float32(gain * np.exp(rng.normal(0, 0.06)))
    film = np.clip(film + np.float32(rng.normal(0, 0.02)), 0, None) ** np.float32(gamma) + np.float32(base)
    film += np.float32(noise) * texture(rng, plane, 0.5)
    width, height = plane.size
    if marker:
        x, y = (0.07 if site.random() < 0.5 else 0.9) * width, site.uniform(0.04, 0.12) * height
        box = np.maximum(abs(plane.x - np.float32(x)) - 0.02 * width, abs(plane.y - np.float32(y)) - 0.03 * width)
        film = np.where(box < 0, np.float32(0.97), film)
    if border:
        left, top = site.uniform(0, 0.04, 2)
        edge = np.minimum(plane.x - np.float32(left * width), np.float32((1 - left) * width) - plane.x)
        edge = np.minimum(edge, plane.y - np.float32(top * height))
        film = np.where(edge < 0, np.float32(0.01), film)
    return np.asarray(film, dtype=np.float32)


def _at(chest: _Chest, u: float, v: float) -> tuple[float, float]:
    """Pixel of a place in the chest."""
    # u and v are linear in x and y
    u0, v0 = float(chest.u[0, 0, 0]), float(chest.v[0, 0, 0])
    step = np.array([[chest.u[1, 0, 0] - u0, chest.u[0, 1, 0] - u0], [chest.v[1, 0, 0] - v0, chest.v[0, 1, 0] - v0]])
    x, y = np.linalg.solve(step.astype(np.float64), [u - u0, v - v0])
    return float(x), float(y)
