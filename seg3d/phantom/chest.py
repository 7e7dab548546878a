"""A chest CT in Hounsfield units: body, lungs, vessels, bones, heart, airways, couch, tumours and noise.

Lengths that scale with the patient are shares of the half-width ``a`` and half-depth ``b`` of the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg3d.keyed import keyed
from seg3d.phantom.lesions import Lesion, Lung, draw_lesions, paint_lesion
from seg3d.phantom.shapes import Field, Frame, blend, coverage, ellipsoid, smooth_noise, tubes
from seg3d.phantom.vessels import grow_vessels

AIR_HU = -1000.0


@dataclass(frozen=True, eq=False)
class _Body:
    """What the organs of one patient are placed by.

    Attributes:
        a, b: Half-width and half-depth.
        y0: Height of the body's axis above the centre of the field of view.
        fat: Thickness of the fat layer.
        skin: Signed distance of the skin.
        cavity: Signed distance of the chest cavity above and below the diaphragm.
        diaphragm: Height above the diaphragm, positive in the chest.
    """

    a: float
    b: float
    y0: float
    fat: float
    skin: Field
    cavity: Field
    diaphragm: Field


def chest_case(
    frame: Frame, seed: int, index: int, tumour_free: bool
) -> tuple[NDArray[np.int16], NDArray[np.uint8], list[Lesion]]:
    """Image in HU, label map (1 = tumour) and tumours of one case, on the RAS grid of ``frame``."""
    key = (seed, "phantom", "chest_ct")
    rng = keyed(*key, "anatomy", index)
    body = _draw_body(rng, frame)
    image = np.full(frame.shape, AIR_HU, dtype=np.float32)
    _paint_couch(rng, frame, body, image)
    _paint_soft_tissue(rng, frame, body, image)
    lung = _paint_chest(rng, frame, body, image)
    _paint_bones(rng, frame, body, image)
    label = np.zeros(frame.shape, dtype=np.uint8)
    rng = keyed(*key, "tumours", index)
    lesions = [] if tumour_free else draw_lesions(rng, frame, lung)
    for lesion in lesions:
        label[paint_lesion(rng, frame, lung, lesion, image)] = 1
    return _scanned(keyed(*key, "noise", index), image), label, lesions


def _draw_body(rng: np.random.Generator, frame: Frame) -> _Body:
    width, depth, height = frame.extent_mm
    a = width * rng.uniform(0.44, 0.475)
    b = min(a * rng.uniform(0.68, 0.78), 0.41 * depth)
    y0, fat = 0.05 * depth, a * rng.uniform(0.05, 0.11)
    # a superellipse: flatter at front and back than an ellipse
    radial = ((abs(frame.x / a)) ** 2.4 + abs((frame.y - y0) / b) ** 2.4) ** (1 / 2.4)
    skin = np.asarray((radial - 1) * b * (1 + 0.0 * frame.z), dtype=np.float32)
    # towards the neck the cavity closes: the lungs end in an apex
    apex = np.maximum(frame.z - rng.uniform(0.16, 0.22) * height, 0) ** 2 * (0.62 * b / (0.25 * height) ** 2)
    barrel = 0.16 * b * ((frame.z + 0.12 * height) / (0.5 * height)) ** 2
    cavity = skin + np.float32(fat + 0.14 * a) + apex + barrel
    diaphragm = _diaphragm(rng, frame, a, b, y0, height)
    return _Body(a, b, y0, fat, skin, cavity, diaphragm)


def _diaphragm(rng: np.random.Generator, frame: Frame, a: float, b: float, y0: float, height: float) -> Field:
    # two domes, the patient's right (x > 0) higher, both falling to the sides and to the back
    tops = -height * np.array([rng.uniform(0.27, 0.33), rng.uniform(0.21, 0.27)])
    domes = [
        top - 0.3 * height * (((frame.x - side * 0.45 * a) / (0.7 * a)) ** 2 + ((frame.y - y0 - 0.1 * b) / b) ** 2)
        for side, top in zip((-1, 1), tops, strict=True)
    ]
    return np.asarray(frame.z - np.where(frame.x > 0, domes[1], domes[0]), dtype=np.float32)


def _paint_couch(rng: np.random.Generator, frame: Frame, body: _Body, image: Field) -> None:
    # two thin curved skins with foam between them
    curve = frame.x**2 / (2.6 * body.a**2 / body.b)
    top = body.y0 - body.b - rng.uniform(1.5, 4) + curve
    depth = (top - frame.y) * (1 + 0 * frame.z)
    across = coverage(np.asarray(abs(frame.x) - 0.47 * frame.extent_mm[0], dtype=np.float32), 3)
    hu = rng.uniform(-50, 150)
    for start, thickness, value in ((0, 11, -930.0), (0, 3, hu), (11, 2.5, hu)):
        plate = coverage((abs(depth - start - thickness / 2) - thickness / 2).astype(np.float32), 2)
        blend(image, plate * across, value)


def _paint_soft_tissue(rng: np.random.Generator, frame: Frame, body: _Body, image: Field) -> None:
    blend(image, coverage(body.skin, 2), rng.uniform(-115, -90))
    muscle = rng.uniform(35, 55) + 12 * smooth_noise(rng, frame.shape, 1.5)
    blend(image, coverage(body.skin + np.float32(body.fat), 3), muscle)
    below = np.maximum(body.cavity, body.diaphragm)
    belly = 5 + 45 * smooth_noise(rng, frame.shape, (4, 4, 3))
    blend(image, coverage(below, 2), belly)
    a, b, z0 = body.a, body.b, -0.5 * frame.extent_mm[2]
    liver = ellipsoid(frame, (0.35 * a, body.y0, z0 + 5), (0.62 * a, 0.75 * b, 0.33 * frame.extent_mm[2]))
    blend(image, coverage(np.maximum(below, liver), 2), rng.uniform(55, 110))
    stomach = ellipsoid(frame, (-0.42 * a, body.y0 + 0.15 * b, z0 + 8), (0.25 * a, 0.35 * b, 0.24 * frame.extent_mm[2]))
    blend(image, coverage(np.maximum(below + 3, stomach), 2), rng.uniform(10, 40))
    bubble = np.maximum(np.maximum(below + 5, stomach + 3), body.y0 + 0.2 * b - frame.y)
    blend(image, coverage(bubble, 2), -950.0)


def _paint_chest(rng: np.random.Generator, frame: Frame, body: _Body, image: Field) -> Lung:
    a, b, y0, height = body.a, body.b, body.y0, frame.extent_mm[2]
    enhanced = rng.uniform(45, 130)
    chest = np.maximum(body.cavity, -body.diaphragm)
    fat = -60 + 35 * smooth_noise(rng, frame.shape, (2, 2, 1.5))
    blend(image, coverage(chest, 2), fat)
    heart_z = rng.uniform(-0.14, -0.09) * height
    heart = ellipsoid(frame, (-0.15 * a, y0 + 0.22 * b, heart_z), (0.33 * a, 0.38 * b, 0.17 * height))
    sides = rng.uniform(0.15, 0.19) * a + 0.1 * a * abs((frame.y - y0) / b) - abs(frame.x)
    spine = np.hypot(frame.x / 1.25, frame.y - _spine_y(body)) - 0.2 * a
    apart = np.maximum(np.asarray(sides + 0 * frame.z, dtype=np.float32), np.maximum(-heart + 2, -spine - 0 * frame.z))
    inside = np.asarray(np.maximum(chest, apart), dtype=np.float32)
    _paint_heart_and_aorta(frame, body, image, heart, enhanced)
    texture = rng.uniform(-880, -840) - 35 * (frame.y - y0) / b + 30 * smooth_noise(rng, frame.shape, 1.2)
    blend(image, coverage(inside, 2.5), texture)
    vessels = _paint_vessels(rng, frame, body, image, inside, min(enhanced, 100.0))
    _paint_airways(rng, frame, body, image)
    return Lung(inside, -chest, -apart, vessels)


def _paint_heart_and_aorta(frame: Frame, body: _Body, image: Field, heart: Field, enhanced: float) -> None:
    a, b, y0, height = body.a, body.b, body.y0, frame.extent_mm[2]
    blend(image, coverage(np.maximum(heart, -body.diaphragm - 6), 2), 45.0)
    chambers = [
        ellipsoid(frame, (x * a, y0 + y * b, z * height), (0.17 * a, 0.2 * b, 0.11 * height))
        for x, y, z in ((-0.28, 0.16, -0.13), (-0.02, 0.2, -0.1), (-0.16, 0.38, -0.14))
    ]
    for chamber in chambers:
        blend(image, coverage(np.maximum(chamber, heart + 4), 2), enhanced)
    turn = np.linspace(0, np.pi, 24)[:, None]
    front, back, top = (
        np.array([0.04 * a, y0 + 0.18 * b]),
        np.array([-0.17 * a, _spine_y(body) + 0.16 * a]),
        0.15 * height,
    )
    arch = (front + back) / 2 + (front - back) / 2 * np.cos(turn)
    arch = np.hstack([arch, top + 0.06 * height * np.sin(turn)])
    rise, fall = np.linspace(-0.05 * height, top, 20), np.linspace(-0.5 * height, top, 40)
    ascending = np.column_stack([np.broadcast_to(front, (20, 2)), rise])
    descending = np.column_stack([np.broadcast_to(back, (40, 2)), fall])
    path = np.vstack([ascending, arch, descending])
    blend(image, tubes(frame, path, np.full(len(path), 0.095 * a)), enhanced)


def _paint_vessels(
    rng: np.random.Generator, frame: Frame, body: _Body, image: Field, inside: Field, hu: float
) -> NDArray[np.float64]:
    def reachable(point: NDArray[np.float64]) -> bool:
        i, j, k = np.rint(frame.mm_to_index(point)).astype(int).tolist()
        if not (0 <= i < frame.shape[0] and 0 <= j < frame.shape[1] and 0 <= k < frame.shape[2]):
            return False
        return bool(inside[i, j, k] < -1.5)

    roots = []
    for side in (-1, 1):
        for _ in range(11):
            start = np.array([side * 0.24 * body.a, body.y0 - 0.02 * body.b, 0.02 * frame.extent_mm[2]])
            start = start + rng.uniform(-1, 1, 3) * np.array([0.03 * body.a, 0.2 * body.b, 0.08 * frame.extent_mm[2]])
            towards = np.array([side * rng.uniform(0.2, 1), rng.uniform(-1, 1), rng.uniform(-1.2, 1.2)])
            roots.append((start, towards / np.sqrt(towards @ towards), rng.uniform(1.8, 4.0)))
    points, radii = grow_vessels(rng, roots, reachable)
    share = tubes(frame, points, radii)
    blend(image, share * (image < hu), float(rng.uniform(30, hu)))
    return points[radii > 1.0]


def _paint_airways(rng: np.random.Generator, frame: Frame, body: _Body, image: Field) -> None:
    a, height = body.a, frame.extent_mm[2]
    y = body.y0 - 0.12 * body.b
    carina = np.array([rng.uniform(-0.02, 0.02) * a, y, 0.1 * height])
    trachea = np.linspace(carina, [0, y - 0.05 * body.b, 0.5 * height], 40)
    main = [
        np.linspace(carina, [side * 0.3 * a, y + 0.02 * body.b, (0.1 - drop) * height], 20)
        for side, drop in ((1, 0.08), (-1, 0.11))
    ]
    path = np.vstack([trachea, *main])
    radii = np.concatenate([np.full(40, 0.085 * a), np.tile(np.linspace(0.065, 0.04, 20) * a, 2)])
    wall = tubes(frame, path, radii + 1.5)
    blend(image, wall * (image < 0), 10.0)
    blend(image, tubes(frame, path, radii), AIR_HU)


def _paint_bones(rng: np.random.Generator, frame: Frame, body: _Body, image: Field) -> None:
    a, b, y0 = body.a, body.b, body.y0
    hard = rng.uniform(600, 1000)
    v = (frame.y - y0) / b
    # ribs run downwards from the spine to the front, at an even distance
    pitch = 0.22 * a
    along = np.mod(frame.z + 0.3 * a * v + rng.uniform(0, pitch), pitch) - pitch / 2
    across = body.cavity - np.float32(0.07 * a)
    rib = np.hypot(across, np.maximum(abs(along) - 0.025 * a, 0)).astype(np.float32) - np.float32(0.04 * a)
    cartilage = (v > 0.55) & (abs(frame.x) < 0.5 * a)
    rib = np.where((abs(frame.x) < 0.14 * a) & (v > 0), np.float32(9), rib)
    blend(image, coverage(rib, 2.5) * (~cartilage), hard)
    blend(image, coverage(rib + np.float32(0.025 * a), 2.5) * (~cartilage), 350.0)
    blend(image, coverage(rib, 2.5) * cartilage, 130.0)
    sternum = np.maximum(abs(across) - 0.05 * a, abs(frame.x) - 0.11 * a)
    sternum = np.maximum(sternum, np.asarray(-v * b, dtype=np.float32) - np.minimum(body.diaphragm, 0))
    blend(image, coverage(sternum.astype(np.float32), 2.5), 0.45 * hard)
    _paint_spine(rng, frame, body, image, hard)


def _paint_spine(rng: np.random.Generator, frame: Frame, body: _Body, image: Field, hard: float) -> None:
    a, y = body.a, _spine_y(body)
    pitch = 0.24 * a
    level = np.mod(frame.z + rng.uniform(0, pitch), pitch) / pitch
    disc = abs(level - 0.5) < 0.09
    vertebra = (np.hypot(frame.x / 1.25, frame.y - y) - 0.15 * a + 0 * frame.z).astype(np.float32)
    canal = (np.hypot(frame.x, frame.y - y + 0.22 * a) - 0.065 * a + 0 * frame.z).astype(np.float32)
    process = np.maximum(abs(frame.x) - 0.025 * a, abs(frame.y - y + 0.4 * a) - 0.12 * a)
    lateral = np.maximum(abs(frame.y - y + 0.24 * a + 0.1 * abs(frame.x)) - 0.04 * a, abs(frame.x) - 0.3 * a)
    arch = np.minimum(canal - 0.05 * a, np.minimum(process, lateral) + 0 * frame.z).astype(np.float32)
    arch = np.maximum(arch, body.skin + np.float32(0.7 * body.fat))
    blend(image, coverage(arch, 2.5) * ~(abs(level - 0.5) < 0.15), 0.6 * hard)
    blend(image, coverage(vertebra, 2.5), np.where(disc, np.float32(90), np.float32(0.7 * hard)))
    blend(image, coverage(vertebra + np.float32(0.035 * a), 2.5) * ~disc, 210.0)
    blend(image, coverage(canal, 2), 25.0)


def _spine_y(body: _Body) -> float:
    return body.y0 - 0.58 * body.b


def _scanned(rng: np.random.Generator, image: Field) -> NDArray[np.int16]:
    # noise of a CT is correlated in the slice by the reconstruction kernel
    noise = smooth_noise(rng, (image.shape[0], image.shape[1], image.shape[2]), (0.55, 0.55, 0.25))
    noisy = image + np.float32(rng.uniform(12, 24)) * noise
    return np.rint(noisy).clip(-1024, 3071).astype(np.int16)
