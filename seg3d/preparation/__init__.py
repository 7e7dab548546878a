"""From source voxels to what a network sees, and the exact way back."""

from seg3d.preparation.pipeline import (
    Prepared,
    prepare_image,
    prepare_label,
    restore_class_probabilities,
    restore_label,
    restore_probability,
)
from seg3d.preparation.recipe import Crop, ForegroundCrop, Normalisation, Recipe
from seg3d.preparation.wayback import WayBack

__all__ = [
    "Crop",
    "ForegroundCrop",
    "Normalisation",
    "Prepared",
    "Recipe",
    "WayBack",
    "prepare_image",
    "prepare_label",
    "restore_class_probabilities",
    "restore_label",
    "restore_probability",
]
