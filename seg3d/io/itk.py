"""Pictures that the other libraries do not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import SimpleITK as sitk
from numpy.typing import NDArray

from seg3d.io.header import truncated


def read_by_itk(path: Path, reader: str) -> NDArray[Any]:
    """The samples ``(row, column)`` or ``(row, column, sample)`` of a picture.

    Args:
        path: The file.
        reader: What SimpleITK is to read it with, whatever its name: ``"PNGImageIO"`` or ``"TIFFImageIO"``.

    Raises:
        DataError: The file is damaged.
    """
    try:
        array: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO=reader))
    except RuntimeError as error:
        raise truncated(path, str(error).strip().splitlines()[-1]) from error
    return array
