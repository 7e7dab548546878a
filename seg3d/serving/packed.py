"""Packed data of strangers, unpacked once without keeping it: does it hold what its header says, and no more?

A kilobyte of deflate can promise a megabyte, so the readers of :mod:`seg3d.io`, which go to the end of a stream, are
only given what has passed here.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seg3d.serving.refusals import Refusal

_PIECE = 1 << 20
_SLACK = 1 << 20  # some writers pad
_LONGEST_REMARK = 4096  # file name and comment in a gzip header, which readers take byte by byte
_MOST_CHUNKS = 1 << 17
_PNG_SIGNATURE = 8
_JPEG_SCAN = b"\xff\xda"
_MOST_SCANS = 100  # progressive pictures have about ten


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a file that is not empty, without reading them."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        yield raw


def check_gzip(path: Path, promised: int, start: int = 0) -> None:
    """Refuse a gzip stream that is damaged, holds less than ``promised`` bytes or clearly more.

    Args:
        path: The file.
        promised: Bytes that the header promises.
        start: Where the stream begins.

    Raises:
        Refusal: 413 for too much, 422 for damage.
    """
    count = 0
    with mapped(path) as raw:
        while start < len(raw) and raw[start] == 0x1F:
            _check_remarks(raw, start)
            size, start = _unpack_member(raw, start, promised + _SLACK - count)
            count += size
            while start < len(raw) and raw[start] == 0:  # padding between members
                start += 1
    if count < promised:
        raise _damaged(f"{count} bytes unpacked", f"{promised}")


def check_gzip_start(path: Path) -> None:
    """Refuse a gzip file whose header would keep a reader busy that takes it byte by byte.

    Raises:
        Refusal: 422.
    """
    with mapped(path) as raw:
        _check_remarks(raw, 0)


def check_png(path: Path) -> None:
    """Refuse a PNG of very many chunks, or whose pixels unpack to more than its header says.

    Raises:
        Refusal: 413 for too much, 422 for damage.
    """
    with mapped(path) as raw:
        chunks = list(_png_chunks(raw))
        if not chunks or chunks[0][0] != b"IHDR" or chunks[0][2] != 13:
            raise _damaged("no picture header", "a PNG")
        width, height, bits, colour = struct.unpack_from(">IIBB", raw, chunks[0][1])
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 4)
        # an interlaced picture has up to seven rows for one, each with a byte of its own
        most = height * (-(-width * samples * bits // 8) + 1) * 2 + _SLACK
        stream, count = zlib.decompressobj(), 0
        for kind, begin, length in chunks:
            if kind == b"IDAT":
                count = _unpack_piece(stream, raw[begin : begin + length], count, most)


def check_jpeg(path: Path) -> None:
    """Refuse a JPEG of very many scans: a reader computes the whole picture for each, and some bytes make one.

    Raises:
        Refusal: 413.
    """
    with mapped(path) as raw:
        scans, place = 0, raw.find(_JPEG_SCAN)
        while place >= 0 and scans <= _MOST_SCANS:  # within a scan's data no marker stands
            scans, place = scans + 1, raw.find(_JPEG_SCAN, place + 2)
    if scans > _MOST_SCANS:
        raise Refusal(413, "the picture has too many scans", expected=f"at most {_MOST_SCANS}", fix="Save it as PNG.")


def _png_chunks(raw: mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and length of each chunk's content, as far as the file goes."""
    place = _PNG_SIGNATURE
    for _ in range(_MOST_CHUNKS):
        if place + 12 > len(raw):
            return
        length, kind = struct.unpack_from(">I4s", raw, place)
        yield kind, place + 8, length
        if kind == b"IEND":
            return
        place += 12 + length
    raise Refusal(413, "the picture is cut into too many chunks", expected=f"at most {_MOST_CHUNKS}")


def _unpack_piece(stream: zlib._Decompress, packed: bytes, count: int, most: int) -> int:
    try:
        while packed and not stream.eof:
            count += len(stream.decompress(packed, _PIECE))
            if count > most:
                raise _bomb(most)
            packed = stream.unconsumed_tail
    except zlib.error as error:
        raise _damaged(error, None) from error
    return count


def _unpack_member(raw: mmap.mmap, start: int, most: int) -> tuple[int, int]:
    """Bytes that a gzip member unpacks to, and where it ends."""
    stream, count, place = zlib.decompressobj(wbits=31), 0, start
    while not stream.eof:
        packed = raw[place : place + _PIECE]
        if not packed:
            raise _damaged("the stream ends too early", None)
        place += len(packed)
        count = _unpack_piece(stream, packed, count, most)
    return count, place - len(stream.unused_data)


def _check_remarks(raw: mmap.mmap, start: int) -> None:
    """Refuse a gzip header whose name or comment does not end soon."""
    if len(raw) < start + 18:
        raise _damaged("the stream ends too early", None)
    flags, place = raw[start + 3], start + 10
    if flags & 4:  # extra field
        (length,) = struct.unpack_from("<H", raw, place)
        place += 2 + length
    for flag in (8, 16):  # name, comment
        if flags & flag:
            end = raw.find(b"\0", place, place + _LONGEST_REMARK)
            if end < 0:
                raise _damaged("a remark without end", "a gzip file")
            place = end + 1


def _bomb(most: int) -> Refusal:
    return Refusal(
        413, "the file unpacks to more than its header says", got=f"more than {most} bytes", fix="Export it again."
    )


def _damaged(got: object, expected: object) -> Refusal:
    return Refusal(422, "the file is truncated or damaged", got=got, expected=expected, fix="Export it again.")
