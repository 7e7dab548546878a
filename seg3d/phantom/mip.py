"""A whole-body PET seen from the front as its maximum intensity projection: dark = uptake, on white.

Brain, heart, kidneys, bladder and bowel take up as much as a tumour does, so darkness alone does not tell one.
Lengths are shares of the picture's width, ``b`` the way down from the top; the patient's right is on the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg3d.keyed import keyed
from seg3d.phantom.planar import Plane, Point, as_grey, blurred, ellipse, plane_of, stroke, texture
from seg3d.phantom.shapes import Field, coverage
from seg3d.volume import Shape

# where tumours grow: centre, spread, and how often
_PLACES = {
    "neck": ((0.0, 0.24), (0.03, 0.03), 0.15),
    "axilla": ((0.13, 0.33), (0.02, 0.03), 0.1),
    "mediastinum": ((0.01, 0.42), (0.035, 0.06), 0.25),
    "lung": ((0.09, 0.43), (0.03, 0.06), 0.2),
    "liver": ((-0.08, 0.62), (0.04, 0.03), 0.1),
    "abdomen": ((0.0, 0.78), (0.05, 0.06), 0.1),
    "bone": ((0.06, 0.93), (0.05, 0.05), 0.1),
}


@dataclass(frozen=True, eq=False)
class _Body:
    """One patient on one picture.

    Attributes:
        plane: The pixels.
        scale: Pixels per unit of length.
        middle: Column of the midline.
        girth: How broad the patient is; 1 is average.
        uptake: What is seen so far; 1 is black.
    """

    plane: Plane
    scale: float
    middle: float
    girth: float
    uptake: Field

    def at(self, a: float, b: float) -> Point:
        """Pixel of a place: ``a`` from the midline, ``b`` from the top."""
        return self.middle + a * self.scale * self.girth, b * self.scale

    def add(self, distance: Field, value: float | Field, edge: float = 0.0) -> None:
        """Project a shape: a picture point shows the largest uptake behind it."""
        share = coverage(distance, max(edge * self.scale, 1.0))
        np.maximum(self.uptake, share * value, out=self.uptake)

    def oval(self, a: float, b: float, ra: float, rb: float, turn: float = 0.0) -> Field:
        """Signed distance of an ellipse."""
        return ellipse(self.plane, self.at(a, b), (ra * self.scale * self.girth, rb * self.scale), turn)

    def line(self, points: list[Point], radius: float | list[float]) -> Field:
        """Signed distance of a polyline."""
        pixels = [self.at(a, b) for a, b in points]
        return stroke(self.plane, pixels, (np.asarray(radius) * self.scale * self.girth).tolist())


@dataclass(frozen=True)
class Spot:
    """A tumour: centre in pixels (column, row), radius of the disc of its area in pixels, and where it grows."""

    centre: Point
    radius: float
    place: str


def mip_picture(
    shape: Shape, seed: int, index: int, control: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[Spot]]:
    """Picture ``(x, y, 1)``, label (1 = tumour) and tumours of a patient, or of a control, who has none."""
    key = (seed, "phantom", "mip", "control" if control else "patient")
    rng = keyed(*key, "anatomy", index)
    body = _draw_body(rng, plane_of(shape))
    _add_soft_tissue(rng, body)
    _add_limbs(rng, body)
    _add_skeleton(rng, body)
    _add_organs(rng, body)
    _add_bowel(rng, body)
    label = np.zeros(shape, dtype=np.uint8)
    spots = [] if control else _add_tumours(keyed(*key, "tumours", index), body, label)
    return _measured(keyed(*key, "noise", index), body), label, spots


def _draw_body(rng: np.random.Generator, plane: Plane) -> _Body:
    width, height = plane.size
    # short pictures end at the thighs, tall ones at the feet
    seen = min(height / width, 1.4) / 1.22
    scale = width * min(seen, 1.0) * rng.uniform(0.96, 1.04)
    middle = width * rng.uniform(0.46, 0.54)
    return _Body(plane, scale, middle, rng.uniform(1.0, 1.35), np.zeros(plane.shape, dtype=np.float32))


def _add_soft_tissue(rng: np.random.Generator, body: _Body) -> None:
    faint = rng.uniform(0.1, 0.2)
    grain = faint * (1 + np.float32(0.2) * texture(rng, body.plane, max(0.008 * body.scale, 0.6)))
    waist, hips = rng.uniform(0.13, 0.17), rng.uniform(0.17, 0.2)
    trunk = body.line([(0, 0.42), (0, 0.52), (0, 0.74), (0, 0.98)], [0.155, 0.165, waist, hips])
    neck = body.line([(0, 0.1), (0, 0.3)], 0.05)
    shoulders = body.line([(-0.12, 0.31), (0.12, 0.31)], 0.05)
    for part in (trunk, neck, shoulders, body.oval(0, 0.08, 0.08, 0.1)):
        body.add(part, grain, 0.02)
    for side in (-1, 1):
        lung = coverage(body.oval(side * 0.09, 0.42, 0.055, 0.12), 0.03 * body.scale)
        np.multiply(body.uptake, 1 - np.float32(0.45) * lung, out=body.uptake)
    body.add(body.oval(0.01, 0.47, 0.045, 0.11), rng.uniform(0.18, 0.3), 0.03)
    body.add(body.line([(0, 0.2), (0, 0.27)], 0.02), rng.uniform(0.15, 0.4), 0.02)


def _add_limbs(rng: np.random.Generator, body: _Body) -> None:
    faint = rng.uniform(0.06, 0.13)
    raised = rng.random() < 0.75
    for side in (-1.0, 1.0):
        shoulder = (side * 0.16, 0.31)
        if raised:
            arm = [shoulder, (side * rng.uniform(0.2, 0.27), 0.12), (side * rng.uniform(0.02, 0.14), -0.02)]
        else:
            arm = [shoulder, (side * rng.uniform(0.22, 0.27), 0.62), (side * rng.uniform(0.2, 0.26), 0.95)]
        body.add(body.line(arm, [0.042, 0.032, 0.02]), faint, 0.02)
        leg = [(side * 0.1, 0.98), (side * 0.1, 1.6), (side * 0.09, 2.2)]
        body.add(body.line(leg, [0.085, 0.05, 0.03]), faint, 0.02)


def _add_skeleton(rng: np.random.Generator, body: _Body) -> None:
    marrow = rng.uniform(0.2, 0.4)
    curve = rng.normal(0, 0.012)
    spine = [(curve * np.sin(4 * b), b) for b in np.linspace(0.26, 0.9, 8)]
    level = np.sin(body.plane.y * np.float32(2 * np.pi / (0.032 * body.scale)))
    body.add(body.line(spine, 0.018), marrow * (np.float32(0.85) + np.float32(0.25) * level), 0.015)
    for side in (-1, 1):
        body.add(body.line([(side * 0.03, 0.86), (side * 0.11, 0.84), (side * 0.12, 0.9)], 0.018), 0.75 * marrow, 0.02)
        body.add(body.oval(side * 0.12, 0.99, 0.022, 0.022), 0.7 * marrow, 0.02)
        body.add(body.oval(side * 0.15, 0.31, 0.025, 0.025), 0.7 * marrow, 0.02)
    # the ribs fall to the sides
    lower = (body.plane.y - np.float32(0.23) * abs(body.plane.x - np.float32(body.middle))) / np.float32(body.scale)
    rib = (abs(np.mod(lower, np.float32(0.036)) - np.float32(0.018)) - np.float32(0.003)) * np.float32(body.scale)
    body.add(np.maximum(rib, body.oval(0, 0.43, 0.16, 0.14)), 0.7 * marrow)


def _add_organs(rng: np.random.Generator, body: _Body) -> None:
    def about(value: float, spread: float = 0.15) -> float:
        return value * float(np.exp(rng.normal(0, spread)))

    grain = 1 + np.float32(0.12) * texture(rng, body.plane, max(0.006 * body.scale, 0.5))
    body.add(body.oval(0, about(0.075, 0.2), 0.072, 0.08), about(1.8), 0.015)
    liver = about(0.42)
    body.add(body.oval(-0.095, 0.61, 0.085, 0.065, -0.25), liver * grain, 0.015)
    body.add(body.oval(0.0, 0.59, 0.07, 0.03, -0.25), liver * grain, 0.015)
    body.add(body.oval(0.115, 0.6, 0.035, 0.045, 0.3), 0.85 * liver * grain, 0.015)
    _add_heart(rng, body)
    speckle = 1 + np.float32(0.5) * texture(rng, body.plane, max(0.012 * body.scale, 0.8))
    for side in (-1, 1):
        kidney = body.oval(side * 0.085 * about(1, 0.08), about(0.73, 0.02), 0.026, 0.045, -side * 0.25)
        body.add(kidney, about(0.7, 0.3) * speckle, 0.012)
        if rng.random() < 0.3:
            ureter = [(side * 0.06, 0.76), (side * 0.045, 0.84), (side * 0.05, 0.9), (side * 0.03, 0.96)]
            body.add(body.line(ureter, 0.004), about(0.7, 0.3))
    bladder = body.oval(about(1, 0.5) * 0.006, about(0.99, 0.01), about(0.045), about(0.032, 0.25))
    body.add(bladder, about(2.0), 0.012)


def _add_heart(rng: np.random.Generator, body: _Body) -> None:
    # after a meal the muscle burns sugar and is black, after fasting it is not seen
    strength = float(np.exp(rng.normal(-1.0, 0.7)))
    turn = rng.uniform(0.4, 0.9)
    heart = body.oval(0.05, 0.51, 0.05, 0.038, turn)
    cavity = coverage(heart + np.float32(0.022 * body.scale), 0.02 * body.scale)
    body.add(heart, strength * (1 - np.float32(0.6) * cavity), 0.02)


def _add_bowel(rng: np.random.Generator, body: _Body) -> None:
    patchy = 1 + np.float32(0.4) * texture(rng, body.plane, max(0.012 * body.scale, 0.8))
    for _ in range(int(rng.integers(2, 7))):
        start = np.array([rng.uniform(-0.1, 0.1), rng.uniform(0.72, 0.9)])
        path = start + np.cumsum(rng.normal(0, (0.025, 0.02), (6, 2)), axis=0)
        path = np.clip(path, (-0.14, 0.68), (0.14, 0.94))
        strength = float(np.exp(rng.normal(-1.1, 0.45)))
        body.add(
            body.line([(float(a), float(b)) for a, b in path], rng.uniform(0.006, 0.016)), strength * patchy, 0.015
        )


def _add_tumours(rng: np.random.Generator, body: _Body, label: NDArray[np.uint8]) -> list[Spot]:
    """The tumours, of which at least one; their pixels are set in ``label``."""
    names = list(_PLACES)
    shares = [_PLACES[name][2] for name in names]
    # one stage of the disease per patient: large or many
    size = 0.019 * float(np.exp(rng.normal(0, 0.4)))
    patchy = 1 + np.float32(0.25) * texture(rng, body.plane, max(0.01 * body.scale, 1.0))
    spots: list[Spot] = []
    for _ in range(1 + min(int(rng.geometric(0.25)), 15)):
        place = str(rng.choice(names, p=shares))
        (a, b), (spread_a, spread_b), _ = _PLACES[place]
        side = rng.choice([-1, 1]) if place in ("axilla", "lung", "bone") else 1
        centre = body.at(side * a + rng.normal(0, spread_a), b + rng.normal(0, spread_b))
        radius = max(size * float(np.exp(rng.normal(0, 0.6))) * body.scale, 1.5)
        distance = _lobed(rng, body.plane, centre, radius)
        # however thin the lobes come out, the pixel in the middle is tumour
        distance[tuple(int(np.clip(round(c), 0, n - 1)) for c, n in zip(centre, body.plane.size, strict=True))] = -0.5
        inside = distance < 0
        label[inside] = 1
        body.add(distance, rng.uniform(0.75, 1.6) * patchy)
        spots.append(Spot(centre, float(np.sqrt(inside.sum() / np.pi)), place))
    return spots


def _lobed(rng: np.random.Generator, plane: Plane, centre: Point, radius: float) -> Field:
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.7)
    base = ellipse(plane, centre, (radius * np.sqrt(stretch), radius / np.sqrt(stretch)), turn)
    angle = np.arctan2(plane.y - np.float32(centre[1]), plane.x - np.float32(centre[0]))
    lobes = sum(
        height * np.cos(number * angle + np.float32(phase))
        for number, height, phase in zip((2, 3, 5), rng.normal(0, 0.1, 3), rng.uniform(0, 2 * np.pi, 3), strict=True)
    )
    return np.asarray(base - np.float32(radius) * np.asarray(lobes), dtype=np.float32)


def _measured(rng: np.random.Generator, body: _Body) -> NDArray[np.uint8]:
    seen = blurred(body.uptake, max(0.004 * body.scale, 0.45))
    noise = texture(rng, body.plane, 0.5)
    seen = seen * (1 + np.float32(0.08) * noise) + np.float32(0.004) * abs(texture(rng, body.plane, 0.4))
    return as_grey(1 - seen)
