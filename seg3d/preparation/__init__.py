"""From source voxels to what a network sees, and the exact way back."""

from seg3d.preparation.pipeline import (
    Prepared,
    find_lost,
    prepare_image,
    prepare_label,
    prepare_weights,
    prepared_shape,
    refuse_lines,
    refuse_oblique,
    restore_label,
    restore_probability,
)
from seg3d.preparation.recipe import Crop, ForegroundCrop, Normalisation, Recipe, Separation
from seg3d.preparation.resample import SlabResampler
from seg3d.preparation.wayback import WayBack, turn_to_ras

__all__ = [
    "Crop",
    "ForegroundCrop",
    "Normalisation",
    "Prepared",
    "Recipe",
    "Separation",
    "SlabResampler",
    "WayBack",
    "find_lost",
    "prepare_image",
    "prepare_label",
    "prepare_weights",
    "prepared_shape",
    "refuse_lines",
    "refuse_oblique",
    "restore_label",
    "restore_probability",
    "turn_to_ras",
]
