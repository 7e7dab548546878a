"""JPEG files: images only, because their compression changes grey values."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from seg3d.errors import DataError
from seg3d.io.header import ImageHeader, PictureFacts, check_size, picture_grid, truncated

_CHANNELS = {"L": 1, "RGB": 3}
_ORIENTATION = 0x0112
_PIXELS_PER_BYTE = 64 * 8  # a block of 8 x 8 pixels takes a bit or more


def read_jpeg_header(path: Path) -> ImageHeader:
    """The checked header; no pixel is decoded.

    Raises:
        DataError: The file is missing, is no JPEG, is neither grey nor RGB, or its header cannot be true.
    """
    with path.open("rb") as file:
        if file.read(3) != b"\xff\xd8\xff":
            raise DataError("this is not a JPEG file", where=path, fix="Give it the suffix of its format.")
    with _opened(path) as image:
        mode, (width, height) = image.mode, image.size
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    if mode not in _CHANNELS:
        raise DataError("the colours cannot be used", where=path, got=mode, expected="grey or RGB", fix="Convert it.")
    channels = _CHANNELS[mode]
    room = path.stat().st_size * _PIXELS_PER_BYTE
    check_size(path, width * height, room, (width, height, 1))
    facts = PictureFacts("jpeg", 8, turned=turned)
    return ImageHeader(path, picture_grid(path, width, height), channels, np.dtype(np.uint8), "picture", facts)


def read_jpeg_samples(header: ImageHeader) -> NDArray[Any]:
    """The samples ``(row, column, sample)``.

    Raises:
        DataError: The file is damaged.
    """
    width, height, _ = header.grid.shape
    with _opened(header.path) as image:
        try:
            return np.array(image).reshape(height, width, -1)
        except (OSError, SyntaxError, ValueError) as error:
            raise truncated(header.path, error) from error


def _opened(path: Path) -> JpegImagePlugin.JpegImageFile:
    try:
        # not Image.open, whose guard refuses large honest pictures
        return JpegImagePlugin.JpegImageFile(path)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise truncated(path, error) from error
