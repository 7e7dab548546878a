"""Pictures: PNG, TIFF and, as images only, JPEG.

A picture is a volume with one thin axis: ``(channel, x, y, 1)`` with x the column and y the row, on a grid whose affine
is the identity. Samples keep the integer type of the file; an alpha channel is dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.io.header import ImageHeader
from seg3d.io.jpeg import read_jpeg_header, read_jpeg_samples
from seg3d.io.png import read_png_header, read_png_samples, write_png
from seg3d.io.tiff import read_tiff_header, read_tiff_samples, write_tiff
from seg3d.volume import Volume

_KINDS = {".png": "png", ".tif": "tiff", ".tiff": "tiff", ".jpg": "jpeg", ".jpeg": "jpeg"}
SUFFIXES = tuple(_KINDS)
_HEADERS = {"png": read_png_header, "tiff": read_tiff_header, "jpeg": read_jpeg_header}
_SAMPLES = {"png": read_png_samples, "tiff": read_tiff_samples, "jpeg": read_jpeg_samples}


def read_picture_header(path: Path) -> ImageHeader:
    """The checked header; no pixel is decoded.

    Raises:
        DataError: The file is missing, animated, of several pages, or its header cannot be true.
    """
    if not path.is_file():
        raise DataError("the file is missing", where=path, fix="Check the path.")
    try:
        return _HEADERS[_KINDS[path.suffix.lower()]](path)
    except OSError as error:
        raise DataError("the file cannot be opened", where=path, got=error) from error


def read_picture_pixels(header: ImageHeader) -> NDArray[Any]:
    """The pixels of an image ``(channel, x, y, 1)``: grey or red, green and blue.

    Raises:
        DataError: The file is damaged, or its pixels are indices into a table of colours.
    """
    if header.native.palette:
        raise DataError(
            "the pixels are indices into a table of colours, not grey values",
            where=header.path,
            expected="a grey or RGB picture",
            fix="Convert it, for instance with ImageMagick: magick IN -type TrueColor OUT.",
        )
    samples, _ = _split(header)
    bits = header.native.bits
    if bits < 8:  # black to white spans the type, as in other pictures of 8 bits
        samples = samples * np.uint8(255 // (2**bits - 1))
    return _as_voxels(samples)


def read_picture_labels(header: ImageHeader, declared: frozenset[int]) -> NDArray[Any]:
    """The pixels of a mask ``(1, x, y, 1)``: indices; black and white mean 0 and 1, unless white is a declared label.

    Raises:
        DataError: The file is damaged, a JPEG or coloured, its mask lies in the alpha channel, or its table of colours
            draws a label in black and index 0 not.
    """
    if header.native.kind == "jpeg":
        raise DataError(
            "a mask cannot be a JPEG: its compression changes the values",
            where=header.path,
            fix="Draw or export the mask as PNG; what JPEG has blurred does not come back.",
        )
    samples, alpha = _split(header)
    coloured = _differing(samples)
    if coloured:
        raise DataError(
            "the mask is coloured",
            where=header.path,
            got=f"{coloured} of {samples[..., 0].size} pixels whose colours differ",
            expected="indices, or black and white",
            fix="Save it as grey picture of label values.",
        )
    if alpha is not None and np.ptp(alpha) > 0 and np.ptp(samples) == 0:
        raise DataError(
            "the mask lies in the alpha channel, which counts for nothing",
            where=header.path,
            fix="Save it as grey picture without transparency.",
        )
    grey = samples[..., :1]
    if header.native.palette:
        _refuse_black_label(header, grey)
    else:
        for white in {255, 2**header.native.bits - 1} - declared:
            if white > 1 and np.all((grey == 0) | (grey == white)):
                grey = grey != 0
    return _as_voxels(grey)


def fit_channels(volume: Volume, wanted: int, path: Path) -> Volume:
    """A picture with as many channels as are wanted; colours that are equal everywhere count as one grey channel.

    Args:
        volume: The picture.
        wanted: Channels that are wanted of it.
        path: Its file.

    Raises:
        DataError: It is truly coloured where grey is wanted, or has another number of channels.
    """
    found = volume.data.shape[0]
    if found == wanted:
        return volume
    if (found, wanted) != (3, 1):
        raise DataError("wrong number of channels", where=path, got=found, expected=wanted)
    coloured = _differing(np.moveaxis(volume.data, 0, -1))
    if coloured:
        raise DataError(
            "the picture is coloured where one grey channel is wanted",
            where=path,
            got=f"{coloured} of {volume.data[0].size} pixels whose colours differ",
            expected="one channel, or equal colours",
            fix="Convert it to grey, or declare data.channels=[red,green,blue].",
        )
    return Volume(volume.data[:1], volume.grid)


def write_picture(path: Path, data: NDArray[Any], binary: bool) -> None:
    """Write ``(x, y, 1)``: integers as grey PNG or TIFF, real numbers as TIFF of float32.

    Args:
        path: The file.
        data: Values.
        binary: Write 0 and 1 as black and white, 0 and 255.

    Raises:
        DataError: The format cannot hold the values without loss.
    """
    kind = _KINDS[path.suffix.lower()]
    if kind == "jpeg" or (kind == "png" and data.dtype.kind == "f"):
        raise DataError(
            f"a {kind.upper()} cannot hold {'real numbers' if data.dtype.kind == 'f' else 'labels'} without loss",
            where=path,
            expected=".tif" if data.dtype.kind == "f" else ".png or .tif",
        )
    rows = data[:, :, 0].T
    if binary:
        rows = np.where(rows != 0, np.uint8(255), np.uint8(0))
    (write_png if kind == "png" else write_tiff)(path, rows)


def _split(header: ImageHeader) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Colours ``(row, column, channel)`` and alpha ``(row, column)``."""
    samples = _SAMPLES[header.native.kind](header)
    if not header.native.alpha:
        return samples, None
    return samples[..., :-1], samples[..., -1]


def _refuse_black_label(header: ImageHeader, indices: NDArray[Any]) -> None:
    """Refuse indices that a program chose which reduces colours: often the background's is another than 0."""
    colours = np.frombuffer(header.native.palette, np.uint8).reshape(-1, 3)
    black = [index for index in np.unique(indices).tolist() if index < len(colours) and not colours[index].any()]
    if colours[0].any() and black:
        raise DataError(
            "the mask draws a label in black, and index 0, which is the background, in a colour",
            where=header.path,
            got=f"index {black[0]} is black, index 0 is red, green, blue {', '.join(map(str, colours[0].tolist()))}",
            fix="Save it as grey picture of label values, or of black and white.",
        )


def _differing(samples: NDArray[Any]) -> int:
    """Pixels of ``(row, column, channel)`` whose channels are not all equal."""
    first = samples[..., 0]
    unequal = np.zeros(first.shape, dtype=bool)
    for channel in range(1, samples.shape[-1]):
        unequal |= samples[..., channel] != first
    return int(np.count_nonzero(unequal))


def _as_voxels(samples: NDArray[Any]) -> NDArray[Any]:
    """``(row, column, channel)`` as ``(channel, x, y, 1)``."""
    return samples.transpose(2, 1, 0)[..., None]
