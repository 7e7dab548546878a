"""Scans with known content for tests of reading, preparing and predicting."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

ORIENTATIONS = [
    "".join(codes) for order in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*order)
]  # all 48


def oriented_affine(codes: str, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """Affine of an array whose axes point towards ``codes``; ``spacing`` is along the array's axes."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[world, axis] = spacing[axis] if code in "RAS" else -spacing[axis]
    affine[:3, 3] = (-31.5, 12.25, 77.0)
    return affine


def oblique_affine() -> np.ndarray:
    """Axes turned by 20 and 35 degrees, anisotropic."""
    a, b = np.deg2rad([20, 35])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([0.9, 1.4, 2.5])
    affine[:3, 3] = (10, -20, 30)
    return affine


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray | None = None, **codes: Any) -> Path:
    """Write an array; ``qform`` and ``sform`` are header codes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4) if affine is None else affine
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=codes.get("sform", 1))
    image.set_qform(affine, code=codes.get("qform", 1))
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def centroid_mm(label: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of the voxels above 0 in world millimetres."""
    return (affine @ np.append(np.argwhere(label > 0).mean(axis=0), 1.0))[:3]
