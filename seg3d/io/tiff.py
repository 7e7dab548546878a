"""TIFF files of one picture each."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG, PREDICTOR

from seg3d.atomic import atomic_path
from seg3d.errors import DataError
from seg3d.io.header import ImageHeader, PictureFacts, check_size, picture_grid, truncated
from seg3d.io.itk import read_by_itk
from seg3d.io.packed import DEFLATE_LIMIT, deflated_size

_BROKEN = (
    *(tifffile.TiffFileError, OSError, ValueError, ArithmeticError, KeyError, IndexError, TypeError),
    *(RuntimeError, struct.error, zlib.error, EOFError),
)
_COLOURS = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
_ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
_DEFLATE = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
_ORIENTATION = 274  # the tag that says how viewers are to show it: 1 is as it stands
_SLACK = 1024
_LOSSLESS = {  # with how many bytes one byte can stand for at most
    COMPRESSION.NONE: 1,
    COMPRESSION.ADOBE_DEFLATE: DEFLATE_LIMIT,
    COMPRESSION.DEFLATE: DEFLATE_LIMIT,
    COMPRESSION.LZW: 4096,
    COMPRESSION.PACKBITS: 64,
}


def read_tiff_header(path: Path) -> ImageHeader:
    """The checked header; no pixel is decoded.

    Raises:
        DataError: The file is missing, is no TIFF, holds several pictures or another kind of colours, is compressed in
            a way that is lossy or cannot be read, or its header cannot be true.
    """
    try:
        with tifffile.TiffFile(path) as file:
            page = _only_page(path, file)
            _check_kind(path, page)
            height, width, samples = _layout(path, page)
            _check_extent(path, page, (width, height, 1))
            alpha = bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA
            facts = PictureFacts(
                "tiff",
                int(page.bitspersample),
                alpha,
                _palette(page) if page.photometric == PHOTOMETRIC.PALETTE else b"",
                int(page.tags.valueof(_ORIENTATION, 1)) != 1,
            )
            dtype = np.dtype(np.uint8) if page.dtype == np.bool_ else np.dtype(page.dtype).newbyteorder("=")
    except DataError:
        raise
    except _BROKEN as error:
        raise truncated(path, error) from error
    return ImageHeader(path, picture_grid(path, width, height), samples - alpha, dtype, "picture", facts)


def read_tiff_samples(header: ImageHeader) -> NDArray[Any]:
    """The samples ``(row, column, sample)`` as the file numbers them, alpha last, with the highest as white.

    Raises:
        DataError: The file is damaged, or its pixels unpack to more than its header says.
    """
    try:
        with tifffile.TiffFile(header.path) as file:
            page: Any = file.pages[0]
            _check_segments(header.path, file, page)
            by_itk = page.compression == COMPRESSION.LZW  # which tifffile leaves to another package
            array = read_by_itk(header, "TIFFImageIO") if by_itk else page.asarray()
            planar = page.axes.startswith("S") and not by_itk
            white_is_zero = page.photometric == PHOTOMETRIC.MINISWHITE and page.dtype.kind in "bu"
    except DataError:
        raise
    except _BROKEN as error:
        raise truncated(header.path, error) from error
    width, height, _ = header.grid.shape
    samples: NDArray[Any] = np.moveaxis(array, 0, -1) if planar else array
    samples = samples.reshape(height, width, -1).astype(header.dtype, copy=False)
    if white_is_zero:
        samples = samples.dtype.type(2**header.native.bits - 1) - samples
    return samples


def write_tiff(path: Path, rows: NDArray[Any]) -> None:
    """Write ``(row, column)`` as grey, compressed without loss, atomically; the same content gives the same bytes."""
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(rows),
            photometric="minisblack",
            compression="zlib",
            metadata=None,
            software=False,
        )


def _only_page(path: Path, file: tifffile.TiffFile) -> Any:
    if not file.pages:
        raise truncated(path, "no picture")
    pages = max(len(file.pages), len(file.series))
    # some writers call a stack one page and tell its size in a remark
    stacked = file.series and file.series[0].size != file.pages[0].size
    if pages > 1 or stacked:
        raise DataError(
            "the file holds several pictures",
            where=path,
            got=f"{pages} pages" if pages > 1 else f"a stack of shape {file.series[0].shape}",
            expected="one picture",
            fix="Save each page as a file of its own, or a stack as NIfTI or NRRD.",
        )
    return file.pages[0]


def _check_kind(path: Path, page: Any) -> None:
    if page.compression not in _LOSSLESS:
        raise DataError(
            "the compression cannot be used",
            where=path,
            got=_name(page.compression),
            expected=", ".join(kind.name for kind in _LOSSLESS),
            fix="Save it without compression, or with deflate or LZW.",
        )
    if page.photometric not in _COLOURS:
        got, fix = _name(page.photometric), "Convert it."
        raise DataError("the colours cannot be used", where=path, got=got, expected="grey or RGB", fix=fix)
    if page.dtype is None or page.dtype.kind not in "buif":
        raise DataError("the pixel type cannot be used", where=path, got=page.dtype, expected="integers or reals")
    doubts = list(_lzw_doubts(page) if page.compression == COMPRESSION.LZW else _doubts(page))
    if doubts:
        raise DataError(
            "the TIFF is of a kind that cannot be read",
            where=path,
            got=f"{_name(page.compression)}, {', '.join(doubts)}",
            fix="Convert it: save it upright, without tiles, predictor and compression.",
        )


def _name(code: Any) -> str:
    """What a code stands for, or its number: tifffile gives a plain one where a tag is absent."""
    return str(getattr(code, "name", code))


def _palette(page: Any) -> bytes:
    """Red, green and blue of each index, of which the file has 16 bits."""
    if page.colormap is None:
        raise ValueError("no table of colours")
    return bytes((page.colormap.T >> 8).astype(np.uint8).tobytes())


def _lzw_doubts(page: Any) -> Iterator[str]:
    """What ITK, which unpacks LZW, does not know or gives back as something else."""
    samples, grey = page.samplesperpixel, page.photometric == PHOTOMETRIC.MINISBLACK
    orientation = page.tags.valueof(_ORIENTATION, 1)
    if not (grey or page.photometric == PHOTOMETRIC.RGB):
        yield _name(page.photometric)
    if (grey and samples != 1) or (page.photometric == PHOTOMETRIC.RGB and samples < 3):
        yield f"{samples} samples"
    if page.bitspersample not in (8, 16, 32) or (page.dtype.kind == "f" and page.bitspersample != 32):
        yield f"{page.dtype} of {page.bitspersample} bits"
    if orientation != 1:  # of which it turns some
        yield f"orientation {orientation}"
    if page.is_tiled:
        yield "tiles"
    if samples > 1 and page.planarconfig != PLANARCONFIG.CONTIG:
        yield "planes"


def _doubts(page: Any) -> Iterator[str]:
    """What tifffile leaves to another package, or reads in another way than libtiff has written it."""
    deflated = page.compression in _DEFLATE
    if page.predictor not in ((PREDICTOR.NONE, PREDICTOR.HORIZONTAL) if deflated else (PREDICTOR.NONE,)):
        yield f"predictor {_name(page.predictor)}"
    if deflated and page.fillorder != 1:
        yield f"fill order {page.fillorder}"
    if page.bitspersample not in (1, 8, 16, 32, 64):
        yield f"{page.bitspersample} bits"


def _layout(path: Path, page: Any) -> tuple[int, int, int]:
    """Height, width and samples of a pixel."""
    if page.axes not in ("YX", "YXS", "SYX"):
        got = f"axes {page.axes}, shape {page.shape}"
        raise DataError("this is not one picture", where=path, got=got, expected="rows and columns")
    return int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)


def _check_extent(path: Path, page: Any, shape: tuple[int, int, int]) -> None:
    """Compare the promised pixels with what the file holds, before any of them is allocated."""
    end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
    size = path.stat().st_size
    if end > size:
        raise truncated(path, f"{size} bytes, {end} are promised")
    needed = -(-shape[0] * page.samplesperpixel * page.bitspersample // 8) * shape[1]
    # segments may overlap, which does not make the file larger
    check_size(path, needed, min(size, sum(page.databytecounts)) * _LOSSLESS[page.compression], shape)


def _check_segments(path: Path, file: tifffile.TiffFile, page: Any) -> None:
    """Unpack every strip or tile once without keeping it: tifffile unpacks them to their end, whatever they hold."""
    if page.compression not in _DEFLATE:
        return
    rows, columns, *rest = page.chunks
    values = columns * math.prod(rest) * (rows if page.is_tiled else min(rows, page.imagelength))
    most = values * max(8, page.bitspersample) // 8 + _SLACK
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count:
            file.filehandle.seek(offset)
            deflated_size(path, [file.filehandle.read(count)], most)
