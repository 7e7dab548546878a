"""Config of the augmentation: one section a transform, ``null`` switches it off."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from seg3d.config.base import (
    Float,
    NonNegative,
    NonNegativeRange,
    NonNegativeTriple,
    Ordered,
    Positive,
    PositiveRange,
    Section,
    Share,
    Sizes,
    Unique,
)

Factor = Annotated[Float, Field(ge=1)]
_CHANCE = "probability that a patch gets it, 0 to 1"


class Flip(Section):
    """Mirror images."""

    p: Share = Field(default=0.5, description="probability of a flip along each axis, 0 to 1")
    axes: Annotated[tuple[Literal["x", "y", "z"], ...], Unique] = Field(
        default=("x", "y", "z"),
        min_length=1,
        description="axes along which patches are flipped; x exchanges left and right, labels stay as they are",
    )


class Affine(Section):
    """Rotation, scaling and shift."""

    p: Share = Field(default=0.5, description=_CHANCE)
    rotation_deg: NonNegativeTriple = Field(
        default=(15.0, 15.0, 15.0), description="largest rotation about x, y, z, degrees"
    )
    scale: PositiveRange = Field(default=(0.85, 1.15), description="range of the scale factor")
    shift_mm: NonNegativeTriple = Field(default=(0.0, 0.0, 0.0), description="largest shift along x, y, z, mm")


class Elastic(Section):
    """Smooth random deformation."""

    p: Share = Field(default=0.3, description=_CHANCE)
    control_spacing_mm: Positive = Field(
        default=24.0,
        description="spacing of the control points, mm; a patch has one more along an axis than this fits into it, and "
        "moves as a whole along an axis that is shorter",
    )
    sd_mm: NonNegative = Field(default=3.0, description="standard deviation of the control points' shifts, mm")
    control_points: Sizes | None = Field(
        default=None,
        description="number of control points along x, y and z, 1 across slices; null: as control_spacing_mm says",
    )


class Rot90(Section):
    """Turn by 90, 180 or 270 degrees."""

    p: Share = Field(default=0.5, description=_CHANCE)
    about: Literal["x", "y", "z"] = Field(default="z", description="axis that patches are turned about")


class Noise(Section):
    """Gaussian noise."""

    p: Share = Field(default=0.2, description=_CHANCE)
    sd: NonNegativeRange = Field(
        default=(0.0, 0.1), description="range of the standard deviation, normalised grey values"
    )


class Blur(Section):
    """Gaussian blur."""

    p: Share = Field(default=0.2, description=_CHANCE)
    sd_mm: NonNegativeRange = Field(default=(0.5, 1.0), description="range of the standard deviation, mm")


class Brightness(Section):
    """Grey values times a factor."""

    p: Share = Field(default=0.2, description=_CHANCE)
    factor: PositiveRange = Field(default=(0.75, 1.25), description="range of the factor")


class Contrast(Section):
    """Distance from the mean grey value times a factor."""

    p: Share = Field(default=0.2, description=_CHANCE)
    factor: PositiveRange = Field(default=(0.75, 1.25), description="range of the factor")


class Gamma(Section):
    """Grey values raised to a power."""

    p: Share = Field(default=0.3, description=_CHANCE)
    gamma: PositiveRange = Field(default=(0.7, 1.5), description="range of the exponent")


class LowResolution(Section):
    """Resampled to larger voxels and back."""

    p: Share = Field(default=0.1, description=_CHANCE)
    factor: Annotated[tuple[Factor, Factor], Ordered] = Field(
        default=(1.0, 2.0), description="range of the factor by which voxels grow, at least 1"
    )


class AugmentSection(Section):
    """What is done to training patches.

    First what moves voxels: flip, rot90, affine and elastic, in one resampling. Then grey values: noise, blur,
    brightness, contrast, low_resolution, gamma.
    """

    flip: Flip | None = Field(default=None, description="mirror images; null: off")
    affine: Affine | None = Field(default=None, description="rotation, scaling and shift; null: off")
    elastic: Elastic | None = Field(default=None, description="smooth random deformation; null: off")
    noise: Noise | None = Field(default=None, description="Gaussian noise; null: off")
    blur: Blur | None = Field(default=None, description="Gaussian blur; null: off")
    brightness: Brightness | None = Field(default=None, description="grey values times a factor; null: off")
    contrast: Contrast | None = Field(default=None, description="distance from the mean times a factor; null: off")
    gamma: Gamma | None = Field(default=None, description="grey values raised to a power; null: off")
    low_resolution: LowResolution | None = Field(default=None, description="larger voxels and back; null: off")
    rot90: Rot90 | None = Field(default=None, description="quarter turns; null: off")
