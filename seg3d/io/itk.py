"""Pictures that the other libraries do not read."""

from __future__ import annotations

from typing import Any

import SimpleITK as sitk
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.io.header import ImageHeader, truncated


def read_by_itk(header: ImageHeader, reader: str) -> NDArray[Any]:
    """The samples ``(row, column, sample)`` of a picture, alpha last.

    Args:
        header: Of the picture, with its :class:`~seg3d.io.header.PictureFacts`.
        reader: What SimpleITK is to read it with, whatever its name: ``"PNGImageIO"`` or ``"TIFFImageIO"``.

    Raises:
        DataError: The file is damaged, or ITK makes something else of it than its header says.
    """
    try:
        array: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(header.path), imageIO=reader))
    except RuntimeError as error:
        raise truncated(header.path, str(error).strip().splitlines()[-1]) from error
    width, height, _ = header.grid.shape
    array = array if array.ndim == 3 else array[..., None]
    expected = (height, width, header.channels + header.native.alpha)
    # what it does not know ITK turns into 8 bits of red, green, blue and alpha, and only warns
    if (array.shape, array.dtype) != (expected, header.dtype):
        raise DataError(
            "the picture cannot be read as its header says",
            where=header.path,
            got=f"{array.dtype} {array.shape}",
            expected=f"{header.dtype} {expected}",
            fix="Convert it: save it without transparency or compression.",
        )
    return array
