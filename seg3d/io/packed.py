"""Packed data, which is unpacked as far as the header says and no further: a kilobyte can hold a megabyte of zeros."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from seg3d.errors import DataError
from seg3d.io.header import truncated

DEFLATE_LIMIT = 1032  # zlib cannot compress more than this
PADDING = 1 << 20  # bytes after the last voxel, which some writers add
PIECE = 1 << 22


def skip(file: BinaryIO, count: int) -> None:
    """Read ``count`` bytes without keeping them.

    Raises:
        EOFError: There are fewer.
    """
    while count > 0:
        piece = file.read(min(count, PIECE))
        if not piece:
            raise EOFError(f"the file ends {count} bytes too early")
        count -= len(piece)


def read_to_end(path: Path, file: BinaryIO) -> None:
    """Read the padding after the voxels, up to the end, where gzip compares its check sum.

    Raises:
        DataError: More follows than padding.
    """
    left = PADDING
    while piece := file.read(left + 1):
        left -= len(piece)
        if left < 0:
            raise too_much(path)


def deflated_size(path: Path, pieces: Iterable[bytes], most: int) -> int:
    """Bytes that a deflate stream unpacks to, which are not kept.

    Args:
        path: The file.
        pieces: The stream.
        most: Bytes that it may hold.

    Raises:
        DataError: The stream is damaged, has no end, or holds more.
    """
    stream, count = zlib.decompressobj(), 0
    try:
        for piece in pieces:
            packed = piece
            while packed and not stream.eof:
                count += len(stream.decompress(packed, PIECE))
                if count > most:
                    raise too_much(path)
                packed = stream.unconsumed_tail
        count += len(stream.flush())
    except zlib.error as error:
        raise truncated(path, error) from error
    if not stream.eof:
        raise truncated(path, f"a stream that ends within its data, after {count} bytes")
    return count


def too_much(path: Path) -> DataError:
    """The error of a file that goes on after its voxels."""
    return DataError(
        "the file holds more than its header says",
        where=path,
        expected="the end of the file after its last voxel",
        fix="Its header is not that of this file: export the scan again.",
    )
