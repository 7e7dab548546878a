"""PNG files: what their chunks promise, and their samples in full depth."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from seg3d.atomic import atomic_path
from seg3d.errors import DataError
from seg3d.io.header import ImageHeader, PictureFacts, check_size, picture_grid, truncated
from seg3d.io.itk import read_by_itk
from seg3d.io.packed import DEFLATE_LIMIT, PADDING, deflated_size

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GREY_ALPHA: (8, 16), _RGBA: (8, 16)}
_ORIENTATION = 0x0112
_ADAM7 = (  # first column and row of each pass of an interlaced picture, and the steps between its columns and rows
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_WITHOUT_ALPHA = {2: 1, 4: 3}


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int  # of its content
    size: int


def read_png_header(path: Path) -> ImageHeader:
    """The checked header; no pixel is decoded.

    Raises:
        DataError: The file is missing, is no PNG, ends too early, is animated, or its header cannot be true.
    """
    chunks = _chunks(path)
    with path.open("rb") as file:
        file.seek(chunks[0].start)
        width, height, bits, colour = struct.unpack(">IIBB", file.read(10))
    if bits not in _DEPTHS.get(colour, ()):
        raise truncated(path, f"colour type {colour} with {bits} bits")
    if any(chunk.kind == b"acTL" for chunk in chunks):
        raise DataError(
            "the picture is animated", where=path, expected="one picture", fix="Save each frame as a file of its own."
        )
    samples = _SAMPLES[colour]
    packed = sum(chunk.size for chunk in chunks if chunk.kind == b"IDAT")
    check_size(path, height * -(-width * samples * bits // 8), packed * DEFLATE_LIMIT, (width, height, 1))
    alpha = colour in (_GREY_ALPHA, _RGBA)
    palette = _palette(path, chunks) if colour == _PALETTE else b""
    facts = PictureFacts("png", bits, alpha, palette, _is_turned(path, chunks))
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    channels = _WITHOUT_ALPHA.get(samples, samples)
    return ImageHeader(path, picture_grid(path, width, height), channels, dtype, "picture", facts)


def read_png_samples(header: ImageHeader) -> NDArray[Any]:
    """The samples ``(row, column, sample)`` as the file numbers them, alpha last: 0 to ``2**bits - 1``.

    Raises:
        DataError: The file is damaged, or its pixels unpack to more than its header says.
    """
    raw = header.path.read_bytes()
    _check_sums(header.path, raw)
    _check_stream(header, raw)
    facts, (width, height, _) = header.native, header.grid.shape
    if facts.bits == 16 and header.channels == 3:
        return read_by_itk(header, "PNGImageIO")
    if facts.bits == 16 and facts.alpha:
        # two samples of 16 bits are stored as four of 8 bits are; Pillow would throw the lower halves away
        return _decoded(header.path, _relabelled(raw, 8, _RGBA)).view(">u2").astype(np.uint16)
    samples = _decoded(header.path, raw).reshape(height, width, -1).astype(header.dtype, copy=False)
    # Pillow spreads 2 and 4 bits of grey over 0 to 255
    spread = 255 // (2**facts.bits - 1) if facts.bits in (2, 4) and not facts.palette else 1
    return samples if spread == 1 else samples // np.uint8(spread)


def write_png(path: Path, rows: NDArray[Any]) -> None:
    """Write ``(row, column)`` uint8 or uint16 as grey, atomically; the same content gives the same bytes."""
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(rows)).save(temporary, format="PNG")


def _chunks(path: Path) -> list[_Chunk]:
    """All chunks up to the end mark."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(8) != _SIGNATURE:
            raise DataError(
                "this is not a PNG file",
                where=path,
                got="another content" if size else "an empty file",
                fix="Give it the suffix of its format, or export it as PNG.",
            )
        found: list[_Chunk] = []
        while not found or found[-1].kind != b"IEND":
            start = file.tell() + 8
            head = file.read(8)
            length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
            if not kind or start + length + 4 > size:
                raise truncated(path, f"{size} bytes, the end mark is not among them")
            found.append(_Chunk(kind, start, length))
            file.seek(start + length + 4)
    if found[0].kind != b"IHDR" or found[0].size != 13:
        raise truncated(path, "no picture header")
    return found


def _palette(path: Path, chunks: list[_Chunk]) -> bytes:
    """Red, green and blue of each index."""
    colours = _content(path, chunks, b"PLTE")
    if colours is None or len(colours) not in range(3, 769, 3):
        raise truncated(path, "no table of colours")
    return colours


def _is_turned(path: Path, chunks: list[_Chunk]) -> bool:
    """Whether an EXIF chunk asks viewers to turn the picture."""
    exif = _content(path, chunks, b"eXIf")
    if exif is None:
        return False
    fields = Image.Exif()
    try:
        fields.load(exif)
    except (OSError, SyntaxError, ValueError, struct.error):
        return False  # a damaged remark says nothing
    return bool(fields.get(_ORIENTATION, 1) != 1)


def _content(path: Path, chunks: list[_Chunk], kind: bytes) -> bytes | None:
    """What the first chunk of a kind holds; ``None`` where there is none."""
    chunk = next((chunk for chunk in chunks if chunk.kind == kind), None)
    if chunk is None:
        return None
    with path.open("rb") as file:
        file.seek(chunk.start)
        return file.read(chunk.size)


def _check_sums(path: Path, raw: bytes) -> None:
    """Compare every chunk with its check sum, which the decoders do not."""
    view = memoryview(raw)
    for start, length in _extents(raw):
        (stored,) = struct.unpack_from(">I", raw, start + 4 + length)
        if zlib.crc32(view[start : start + 4 + length]) != stored:
            raise truncated(path, f"wrong check sum of the chunk at byte {start - 4}")


def _check_stream(header: ImageHeader, raw: bytes) -> None:
    """Unpack all rows once without keeping them: Pillow leaves missing ones black."""
    needed = _stream_size(raw)
    parts = (raw[at + 4 : at + 4 + length] for at, length in _extents(raw) if raw[at : at + 4] == b"IDAT")
    count = deflated_size(header.path, parts, needed + PADDING)
    if count < needed:
        raise truncated(header.path, f"{count} of {needed} bytes of pixels")


def _stream_size(raw: bytes) -> int:
    """Bytes of all rows, each with the number of its filter."""
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", raw, len(_SIGNATURE) + 8)
    total = 0
    for x, y, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * _SAMPLES[colour] * bits // 8))
    return total


def _extents(raw: bytes) -> Iterator[tuple[int, int]]:
    place = len(_SIGNATURE)
    while place + 12 <= len(raw):
        (length,) = struct.unpack_from(">I", raw, place)
        yield place + 4, length
        if raw[place + 4 : place + 8] == b"IEND":
            return
        place += 12 + length


def _relabelled(raw: bytes, bits: int, colour: int) -> bytes:
    """The file under another bit depth and colour type."""
    start = len(_SIGNATURE) + 4
    header = raw[start : start + 12] + bytes([bits, colour]) + raw[start + 14 : start + 17]
    return raw[:start] + header + struct.pack(">I", zlib.crc32(header)) + raw[start + 21 :]


def _decoded(path: Path, raw: bytes) -> NDArray[Any]:
    try:
        # not Image.open, whose guard refuses large honest pictures; sizes were compared with the file's above
        with PngImagePlugin.PngImageFile(io.BytesIO(raw)) as image:
            array: NDArray[Any] = np.array(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise truncated(path, error) from error
    return array
