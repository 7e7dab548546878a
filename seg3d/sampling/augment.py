"""What augmentation does to a patch: settings, and the random parameters drawn from them.

Drawing is apart from applying: all parameters of all parts are drawn in a fixed order whether or not a part is applied,
so that the probability of one part does not change the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seg3d.sampling import intensity
from seg3d.sampling.intensity import Channels
from seg3d.sampling.spatial import Resampling
from seg3d.volume import Shape, Spacing

Range = Sequence[float]


@dataclass(frozen=True)
class Flip:
    """Mirror along each of ``axes`` (``"x"``, ``"y"``, ``"z"``) with probability ``p`` each."""

    p: float
    axes: Sequence[str]


@dataclass(frozen=True)
class Affine:
    """Rotate about x, y, z by up to ``rotation_deg``, enlarge by a factor of ``scale``, shift by up to ``shift_mm``."""

    p: float
    rotation_deg: Range
    scale: Range
    shift_mm: Range


@dataclass(frozen=True)
class Elastic:
    """Displace by a smooth field: normal with ``sd_mm`` at control points, cubic between them.

    The points fill the patch evenly as the network is given it: ``control_points`` of them along each axis, or one more
    than ``control_spacing_mm`` fits into it. There is one along an axis that is shorter, where more would be so close
    that they turn tissue inside out, and along an axis on which nothing moves, so that none is averaged away.

    Source: Ronneberger et al., U-Net (MICCAI 2015): 3 x 3 points and a standard deviation of 10 pixels.
    """

    p: float
    control_spacing_mm: float
    sd_mm: float
    control_points: Shape | None = None


@dataclass(frozen=True)
class Rot90:
    """Turn by 90, 180 or 270 degrees about an axis; the patch is square across it.

    Like every rotation it keeps shapes in millimetres: voxels are copied where they too are square across the axis, and
    resampled where they are not.
    """

    p: float
    about: str


@dataclass(frozen=True)
class Noise:
    """Add Gaussian noise with a standard deviation from ``sd``."""

    p: float
    sd: Range


@dataclass(frozen=True)
class Blur:
    """Smooth with a Gaussian whose standard deviation is from ``sd_mm``."""

    p: float
    sd_mm: Range


@dataclass(frozen=True)
class Brightness:
    """Multiply by a factor from ``factor``, another for each channel."""

    p: float
    factor: Range


@dataclass(frozen=True)
class Contrast:
    """Stretch about the mean by a factor from ``factor``, another for each channel."""

    p: float
    factor: Range


@dataclass(frozen=True)
class Gamma:
    """Raise the values, scaled to 0..1, to a power from ``gamma``, another for each channel."""

    p: float
    gamma: Range


@dataclass(frozen=True)
class LowResolution:
    """Resample to voxels enlarged by a factor from ``factor`` and back."""

    p: float
    factor: Range


@dataclass(frozen=True)
class Augmentation:
    """What is done to a patch; ``None`` leaves a part out."""

    flip: Flip | None = None
    affine: Affine | None = None
    elastic: Elastic | None = None
    noise: Noise | None = None
    blur: Blur | None = None
    brightness: Brightness | None = None
    contrast: Contrast | None = None
    gamma: Gamma | None = None
    low_resolution: LowResolution | None = None
    rot90: Rot90 | None = None


@dataclass(frozen=True, eq=False)
class Drawn:
    """The parameters of one patch; ``None`` where a part is not applied.

    Attributes:
        mirrored: Whether each axis (x, y, z) is mirrored.
        turned: Axis of the quarter turns that follow the mirroring, and their number.
        resampling: Affine and elastic part; mirroring and turns are in it already. ``None`` also where both would leave
            every voxel in its place, so that such a patch keeps its bits.
    """

    mirrored: tuple[bool, bool, bool]
    turned: tuple[int, int]
    resampling: Resampling | None
    noise_sd: float | None
    noise_seed: int
    blur_sd_mm: float | None
    brightness: NDArray[np.float64] | None
    contrast: NDArray[np.float64] | None
    gamma: NDArray[np.float64] | None
    low_resolution: float | None


class _Part(Protocol):
    @property
    def p(self) -> float: ...


def draw(
    augmentation: Augmentation,
    channels: int,
    size: Shape,
    spacing_mm: Spacing,
    rng: np.random.Generator,
    fixed: Sequence[int] = (),
) -> Drawn:
    """The parameters of one patch of ``size`` voxels (x, y, z); nothing moves along the axes ``fixed``."""
    a = augmentation
    mirrored = _draw_flip(a.flip, rng)
    matrix, shift = _draw_affine(a.affine, rng)
    displacement = _draw_elastic(a.elastic, size, spacing_mm, rng, fixed)
    noise_sd = _draw_value(a.noise, a.noise and a.noise.sd, rng)
    values: dict[str, Any] = {
        "noise_seed": int(rng.integers(2**63)),
        "blur_sd_mm": _draw_value(a.blur, a.blur and a.blur.sd_mm, rng),
        "brightness": _draw_values(a.brightness, a.brightness and a.brightness.factor, channels, rng),
        "contrast": _draw_values(a.contrast, a.contrast and a.contrast.factor, channels, rng),
        "gamma": _draw_values(a.gamma, a.gamma and a.gamma.gamma, channels, rng),
        "low_resolution": _draw_value(a.low_resolution, a.low_resolution and a.low_resolution.factor, rng),
    }
    turned = _draw_turns(a.rot90, rng)
    resampling = _resampling(mirrored, turned, matrix, shift, displacement, fixed, _is_square(turned, spacing_mm))
    return Drawn(mirrored, turned, resampling, noise_sd, **values)


def _resampling(
    mirrored: tuple[bool, bool, bool],
    turned: tuple[int, int],
    matrix: NDArray[np.float64] | None,
    shift: NDArray[np.float64],
    displacement: NDArray[np.float32] | None,
    fixed: Sequence[int],
    square: bool,
) -> Resampling | None:
    """All that moves voxels in one; ``None`` where they stay, but for mirroring and quarter turns, in their places.

    ``square``: whether the quarter turns take voxels to voxels.
    """
    affine = np.eye(3) if matrix is None else matrix
    for axis in fixed:
        affine[axis], affine[:, axis], affine[axis, axis], shift[axis] = 0.0, 0.0, 1.0, 0.0
        if displacement is not None:
            displacement[axis] = 0.0
    still = np.all(affine == np.eye(3)) and not np.any(shift) and (displacement is None or not np.any(displacement))
    if still and square:
        return None
    axis, quarters = turned
    turn = _rotation(np.pi / 2 * quarters * np.eye(3)[axis]).round()
    return Resampling(affine * np.where(mirrored, -1.0, 1.0) @ turn, shift, displacement)


def apply_intensity(image: Channels, drawn: Drawn, spacing_mm: Spacing, fixed: Sequence[int] = ()) -> None:
    """Change the grey values ``(channel, z, y, x)`` in place; acquisition effects first, display effects last."""
    if drawn.noise_sd is not None:
        intensity.add_noise(image, drawn.noise_sd, drawn.noise_seed)
    if drawn.blur_sd_mm is not None:
        intensity.blur(image, drawn.blur_sd_mm, spacing_mm)
    if drawn.brightness is not None:
        intensity.change_brightness(image, drawn.brightness)
    if drawn.contrast is not None:
        intensity.change_contrast(image, drawn.contrast)
    if drawn.low_resolution is not None:
        intensity.lower_resolution(image, drawn.low_resolution, spacing_mm, fixed)
    if drawn.gamma is not None:
        intensity.change_gamma(image, drawn.gamma)


def _happens(part: _Part | None, rng: np.random.Generator) -> bool:
    # the coin is thrown for a part that is off, too
    coin = rng.random()
    return part is not None and coin < part.p


def _draw_flip(part: Flip | None, rng: np.random.Generator) -> tuple[bool, bool, bool]:
    coins = rng.random(3)
    x, y, z = (
        part is not None and axis in part.axes and coin < part.p for axis, coin in zip("xyz", coins, strict=True)
    )
    return bool(x), bool(y), bool(z)


def _draw_turns(part: Rot90 | None, rng: np.random.Generator) -> tuple[int, int]:
    happens, quarters = _happens(part, rng), 1 + int(rng.integers(3))
    return ("xyz".index(part.about), quarters) if part is not None and happens else (2, 0)


def _is_square(turned: tuple[int, int], spacing_mm: Spacing) -> bool:
    """Whether quarter turns take voxels to voxels; half a turn always does."""
    axis, quarters = turned
    return quarters % 2 == 0 or math.isclose(spacing_mm[axis - 1], spacing_mm[axis - 2], rel_tol=1e-3)


def _draw_affine(
    part: Affine | None, rng: np.random.Generator
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """From an offset in the patch to one in the volume: the inverse of what is seen to happen."""
    happens = _happens(part, rng)
    angles, scale, shift = rng.uniform(-1, 1, 3), rng.random(), rng.uniform(-1, 1, 3)
    if part is None or not happens:
        return None, np.zeros(3)
    low, high = part.scale
    return _rotation(np.deg2rad(angles * part.rotation_deg)) / (low + (high - low) * scale), shift * part.shift_mm


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _draw_elastic(
    part: Elastic | None, size: Shape, spacing_mm: Spacing, rng: np.random.Generator, fixed: Sequence[int]
) -> NDArray[np.float32] | None:
    happens = _happens(part, rng)
    # a generator of its own: how many numbers the field takes must not move the draws behind it
    own = np.random.Generator(np.random.Philox(key=int(rng.integers(2**63))))
    if part is None or not happens:
        return None
    asked = part.control_spacing_mm
    lengths = [n * mm for n, mm in zip(size, spacing_mm, strict=True)]
    points = list(part.control_points or ()) or [1 + (round(mm / asked) if mm >= asked else 0) for mm in lengths]
    points = [1 if axis in fixed else number for axis, number in enumerate(points)]
    field: NDArray[np.float32] = own.standard_normal((3, *points), dtype=np.float32) * np.float32(part.sd_mm)
    return field


def _draw_value(part: _Part | None, limits: Any, rng: np.random.Generator) -> float | None:
    happens, share = _happens(part, rng), rng.random()
    return float(limits[0] + (limits[1] - limits[0]) * share) if happens else None


def _draw_values(part: _Part | None, limits: Any, count: int, rng: np.random.Generator) -> NDArray[np.float64] | None:
    happens, shares = _happens(part, rng), rng.random(count)
    return np.asarray(limits[0] + (limits[1] - limits[0]) * shares) if happens else None
