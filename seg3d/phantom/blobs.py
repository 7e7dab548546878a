"""Small quick phantoms with the channels, labels and sizes of well-known datasets, for tests of configs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg3d.keyed import keyed
from seg3d.phantom.shapes import Field, Frame, blend, coverage, ellipsoid, smooth_noise

Share = tuple[float, float, float]


@dataclass(frozen=True)
class _Blob:
    """An ellipsoid; later blobs of a scene cover earlier ones.

    Attributes:
        label: Value in the label map; 0 for what is not asked for.
        centre: Share of the field of view from its centre, along right, anterior, superior.
        radii: Share of the field of view.
        values: Grey value in each channel.
        wander: Largest shift from case to case, as a share of the field of view.
        tumour: Left out of tumour-free cases.
    """

    label: int
    centre: Share
    radii: Share
    values: tuple[float, ...]
    wander: float = 0.03
    tumour: bool = False


@dataclass(frozen=True)
class _Scene:
    """A background, blobs on it, and per channel the noise and whether the unit is arbitrary (MR)."""

    background: tuple[float, ...]
    blobs: tuple[_Blob, ...]
    noise: tuple[float, ...]
    arbitrary: tuple[bool, ...]


_HIPPOCAMPUS = _Scene(
    (110.0,),
    (
        _Blob(0, (-0.3, 0.05, 0.2), (0.14, 0.3, 0.12), (40.0,)),
        _Blob(0, (0.33, -0.1, -0.1), (0.1, 0.45, 0.35), (150.0,)),
        _Blob(1, (0.0, 0.15, -0.06), (0.22, 0.17, 0.17), (170.0,)),
        _Blob(2, (0.02, -0.14, 0.05), (0.15, 0.24, 0.13), (155.0,)),
    ),
    (12.0,),
    (True,),
)
_SARCOMA = _Scene(
    (0.05, -1000.0, 0.0),
    (
        _Blob(0, (0, 0, 0), (0.46, 0.42, 0.8), (0.7, 50.0, 320.0), 0.01),
        _Blob(0, (0.05, -0.1, 0), (0.08, 0.08, 0.8), (0.4, 900.0, 60.0)),
        _Blob(0, (-0.28, 0.15, -0.35), (0.1, 0.1, 0.1), (7.0, 5.0, 250.0)),
        _Blob(1, (0.02, 0.08, 0), (0.2, 0.18, 0.25), (5.0, 35.0, 560.0), 0.06, True),
        _Blob(1, (0.02, 0.08, 0.02), (0.07, 0.06, 0.1), (1.2, 15.0, 700.0), 0.06, True),
    ),
    (0.15, 25.0, 30.0),
    (False, False, True),
)
_HEART = _Scene(
    (60.0,),
    (
        _Blob(0, (0, 0, 0), (0.45, 0.4, 0.7), (150.0,), 0.01),
        _Blob(0, (-0.12, 0.14, -0.08), (0.18, 0.16, 0.25), (420.0,)),
        _Blob(1, (-0.02, -0.08, 0.05), (0.15, 0.1, 0.17), (400.0,)),
        _Blob(0, (0.0, -0.26, 0.0), (0.05, 0.05, 0.8), (390.0,)),
    ),
    (25.0,),
    (True,),
)
_LIVER = _Scene(
    (-1000.0,),
    (
        _Blob(0, (0, 0, 0), (0.45, 0.36, 0.9), (10.0,), 0.01),
        _Blob(0, (0, -0.22, 0), (0.08, 0.07, 0.9), (500.0,), 0.01),
        _Blob(0, (-0.25, -0.08, 0.05), (0.1, 0.12, 0.15), (110.0,)),
        _Blob(1, (0.15, 0.03, 0.02), (0.24, 0.24, 0.28), (110.0,)),
        _Blob(2, (0.17, 0.05, 0.05), (0.08, 0.08, 0.09), (45.0,), 0.05, True),
    ),
    (15.0,),
    (False,),
)
_SCENES = {"hippocampus": _HIPPOCAMPUS, "sarcoma": _SARCOMA, "heart": _HEART, "liver": _LIVER}


def blob_case(
    frame: Frame, kind: str, seed: int, index: int, tumour_free: bool, channels: int, labels: int
) -> tuple[NDArray[np.int16] | NDArray[np.float32], NDArray[np.uint8]]:
    """Image ``(channel, x, y, z)`` and label map ``(x, y, z)`` of one case, on the RAS grid of ``frame``.

    CT alone is int16 HU, everything else float32: SUV for PET, HU for CT, arbitrary units for MR.
    """
    scene = _SCENES[kind] if kind in _SCENES else _any_scene(seed, channels, labels)
    rng = keyed(seed, "phantom", kind, "case", index)
    image = np.empty((channels, *frame.shape), dtype=np.float32)
    image[:] = np.array(scene.background, dtype=np.float32)[:, None, None, None]
    label = np.zeros(frame.shape, dtype=np.uint8)
    for blob in scene.blobs:
        distance = _wobbly(rng, frame, blob)
        if blob.tumour and tumour_free and kind == "liver":
            continue
        share = coverage(distance, float(np.mean(frame.spacing_mm)))
        for channel, value in enumerate(blob.values):
            blend(image[channel], share, value)
        label[distance < 0] = blob.label
    _measure(keyed(seed, "phantom", kind, "noise", index), scene, image)
    return (np.rint(image).astype(np.int16) if kind == "liver" else image), label


def _wobbly(rng: np.random.Generator, frame: Frame, blob: _Blob) -> Field:
    # an ellipsoid that is shifted, scaled and dented a little
    extent = frame.extent_mm
    centre = (np.array(blob.centre) + rng.uniform(-blob.wander, blob.wander, 3)) * extent
    radii = np.array(blob.radii) * extent * rng.uniform(0.88, 1.12, 3)
    wave = rng.uniform(1.5, 3.0, 3) / radii
    phase = rng.uniform(0, 2 * np.pi, 3)
    axes = (frame.x, frame.y, frame.z)
    dent = sum(np.sin(axis * np.float32(w) + np.float32(p)) for axis, w, p in zip(axes, wave, phase, strict=True))
    distance = ellipsoid(frame, centre.tolist(), radii.tolist()) + np.float32(0.04 * radii.min()) * np.asarray(dent)
    return np.asarray(distance, dtype=np.float32)


def _measure(rng: np.random.Generator, scene: _Scene, image: Field) -> None:
    # noise, and for MR a gain that differs from scan to scan and a slow shading across the field of view
    shape = (image.shape[1], image.shape[2], image.shape[3])
    for channel, (sd, arbitrary) in enumerate(zip(scene.noise, scene.arbitrary, strict=True)):
        image[channel] += np.float32(sd) * smooth_noise(rng, shape, 0.5)
        if arbitrary:
            slope = rng.uniform(-0.12, 0.12, 3)
            ramps = [np.linspace(-s, s, n, dtype=np.float32) for s, n in zip(slope, shape, strict=True)]
            image[channel] *= np.float32(np.exp(rng.uniform(-1, 2)))
            image[channel] *= 1 + ramps[0][:, None, None] + ramps[1][:, None] + ramps[2]
        if scene.background[channel] >= 0:
            np.maximum(image[channel], 0, out=image[channel])


def _any_scene(seed: int, channels: int, labels: int) -> _Scene:
    """Labels side by side, on a circle, each with its own value in every channel, the same in all cases."""
    rng = keyed(seed, "phantom", "blobs", "scene")
    angles = 2 * np.pi * np.arange(labels) / labels
    radius = min(0.17, 0.5 / labels)
    # each channel ranks the labels in an order of its own, so that no channel alone is enough for many labels
    ranks = np.stack([rng.permutation(labels) for _ in range(channels)], axis=1)
    values = (150 + 250 * ranks / labels).tolist()
    blobs = [
        _Blob(
            label + 1,
            (0.24 * float(np.cos(turn)), 0.24 * float(np.sin(turn)), 0.0),
            (radius, radius, radius),
            tuple(values[label]),
        )
        for label, turn in enumerate(angles)
    ]
    return _Scene((50.0,) * channels, tuple(blobs), (15.0,) * channels, (False,) * channels)
