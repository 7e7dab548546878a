"""DICOM series for tests, written by SimpleITK."""

from __future__ import annotations

import locale
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

ROW, COLUMN = np.array([0.8, 0.6, 0.0]), np.array([-0.6, 0.8, 0.0])
SHAPE = (6, 9, 7)  # slices, rows, columns


def values(shape: Sequence[int] = SHAPE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(-1000, 2000, shape).astype(np.int16)


def write_series(
    folder: Path,
    planes: np.ndarray[Any, Any],
    *,
    step: Sequence[float] = (0.0, 0.0, 2.5),
    directions: Sequence[np.ndarray[Any, Any]] = (ROW, COLUMN),
    uid: str = "1.2.826.0.1.3680043.2.1125.1",
    number: int = 3,
    tags: dict[str, str] | None = None,
    packed: bool = False,
) -> list[Path]:
    """Slices in files whose names are in no order of place."""
    folder.mkdir(parents=True, exist_ok=True)
    before = locale.setlocale(locale.LC_ALL)  # which writing DICOM changes, and with it how Python decodes files
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(packed)  # by JPEG 2000 without loss
    files = []
    for k, plane in enumerate(planes):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((0.7, 0.9, 2.5))
        place = np.array([-20.0, 10.0, 30.0]) + k * np.array(step)
        told = {
            "0008|0060": "CT",
            "0010|0010": "Doe^Jane",
            "0010|0020": "P-4711",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.9",
            "0020|000e": uid,
            "0020|0011": str(number),
            "0008|0018": f"{uid}.{k}",
            "0020|0032": "\\".join(map(str, place)),
            "0020|0037": "\\".join(str(x) for axis in directions for x in axis),
            "0020|0013": str(k),
        } | (tags or {})
        for tag, value in told.items():
            image.SetMetaData(tag, value)
        path = folder / f"{uid.rpartition('.')[2]}_{(k * 5) % 7}.dcm"
        writer.SetFileName(str(path))
        writer.Execute(image)
        files.append(path)
    locale.setlocale(locale.LC_ALL, before)
    return files
