"""TIFF files of every make: read as they are stored, or refused with what to do; never turned or taken for damaged."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg3d.errors import DataError
from seg3d.io import read_header, read_volume

NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
GREY, RGB = 1, 2
SHAPE = (20, 30)


def lzw(data: bytes) -> bytes:
    """Valid LZW whose table is emptied before it needs codes of more than 9 bits."""
    codes: list[int] = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


PACK = {LZW: lzw, DEFLATE: zlib.compress}


def segments(array: np.ndarray, tile: int, planes: bool) -> list[bytes]:
    if tile:
        padding = [(0, -n % tile) for n in array.shape[:2]] + [(0, 0)] * (array.ndim - 2)
        full = np.pad(array, padding)
        starts = [(y, x) for y in range(0, full.shape[0], tile) for x in range(0, full.shape[1], tile)]
        return [full[y : y + tile, x : x + tile].tobytes() for y, x in starts]
    parts = np.moveaxis(array, -1, 0) if planes else array[None]
    return [np.ascontiguousarray(part).tobytes() for part in parts]


def write_tiff(path: Path, array: np.ndarray, compression: int = LZW, tile: int = 0, **tags: int) -> Path:
    """A little-endian TIFF; further tags by their names below."""
    height, width, samples = (*array.shape, 1)[:3]
    pack, planes = PACK.get(compression, bytes), tags.get("planar") == 2
    content, offsets, counts = bytearray(b"II*\0\0\0\0\0"), [], []
    for segment in segments(array, tile, planes):
        packed = pack(segment)
        offsets.append(len(content))
        counts.append(len(packed))
        content += packed + b"\0" * (len(packed) % 2)
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    bits = tags.get("bits", array.dtype.itemsize * 8)
    fields: dict[int, list[int]] = {256: [width], 257: [height], 258: [bits] * samples, 259: [compression]}
    fields |= {262: [RGB if samples > 2 else GREY], 277: [samples], 339: [kind] * samples}
    fields |= (
        {322: [tile], 323: [tile], 324: offsets, 325: counts} if tile else {273: offsets, 278: [height], 279: counts}
    )
    numbers = {"colours": 262, "fill": 266, "orientation": 274, "planar": 284, "predictor": 317, "extra": 338}
    fields |= {numbers[name]: [value] for name, value in tags.items() if name != "bits"}
    entries = b""
    for tag, values in sorted(fields.items()):
        raw = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            offset = len(content)
            content += raw
            raw = struct.pack("<I", offset)
        entries += struct.pack("<HHI", tag, 4, len(values)) + raw
    struct.pack_into("<I", content, 4, len(content))
    path.write_bytes(bytes(content) + struct.pack("<H", len(fields)) + entries + b"\0" * 4)
    return path


def picture(dtype: Any = np.uint8, samples: int = 1) -> np.ndarray:
    shape = (*SHAPE, samples) if samples > 1 else SHAPE
    return np.random.default_rng(0).integers(0, 120, shape).astype(dtype)


def read_rows(path: Path) -> np.ndarray:
    """``(row, column, channel)``."""
    return read_volume(path).data[..., 0].transpose(2, 1, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32])
@pytest.mark.parametrize("samples", [1, 3])
def test_lzw_of_all_numbers_is_read_as_it_is_stored(tmp_path: Path, dtype: Any, samples: int) -> None:
    array = picture(dtype, samples)
    found = read_rows(write_tiff(tmp_path / "a.tif", array))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array.reshape(found.shape))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_of_lzw_is_dropped(tmp_path: Path, dtype: Any) -> None:
    array = picture(dtype, 4)
    np.testing.assert_array_equal(read_rows(write_tiff(tmp_path / "a.tif", array, extra=2)), array[..., :3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [NONE, DEFLATE])
def test_pixels_are_read_as_they_are_stored_whatever_viewers_are_told(
    tmp_path: Path, orientation: int, compression: int
) -> None:
    path = write_tiff(tmp_path / "a.tif", picture(), compression, orientation=orientation)
    np.testing.assert_array_equal(read_rows(path)[..., 0], picture())
    assert read_header(path).native.turned is (orientation != 1)


REFUSED: dict[str, tuple[np.ndarray, dict[str, int], str]] = {
    **{f"LZW turned {n}": (picture(), {"orientation": n}, f"orientation {n}") for n in range(2, 9)},
    "LZW tiles": (picture(), {"tile": 16}, "tiles"),
    "LZW tiles of colours": (picture(samples=3), {"tile": 16}, "tiles"),
    "LZW tiles of RGBA": (picture(samples=4), {"tile": 16, "extra": 2}, "tiles"),
    "LZW planes": (picture(samples=3), {"planar": 2}, "planes"),
    "LZW grey and alpha": (picture(samples=2), {"extra": 2}, "2 samples"),
    "LZW three greys": (picture(samples=3), {"colours": GREY}, "3 samples"),
    "LZW white is zero": (picture(), {"colours": 0}, "MINISWHITE"),
    "LZW float64": (picture(np.float64), {}, "float64"),
    "LZW float16": (picture(np.float16), {}, "float16"),
    "LZW int64": (picture(np.int64), {}, "int64"),
    "float predictor": (picture(np.float32), {"compression": DEFLATE, "predictor": 3}, "FLOATINGPOINT"),
    "predictor of nothing": (picture(), {"compression": NONE, "predictor": 2}, "HORIZONTAL"),
    "fill order": (picture(), {"compression": DEFLATE, "fill": 2}, "fill order"),
    "12 bits": (picture(np.uint16), {"compression": NONE, "bits": 12}, "12 bits"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_whole_tiff_of_a_kind_that_cannot_be_read_is_to_be_converted(tmp_path: Path, kind: str) -> None:
    array, options, told = REFUSED[kind]
    path = write_tiff(tmp_path / "a.tif", array, **options)
    with pytest.raises(DataError, match=rf"cannot be read \(got .*{told}.*Convert it") as error:
        read_header(path)
    assert str(path) in str(error.value)


def test_what_a_header_leaves_out_is_told_by_its_number(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", picture(np.uint16), NONE, bits=12)
    tag = struct.pack("<HHI", 259, 4, 1)  # the compression, which becomes a tag that nobody knows
    path.write_bytes(path.read_bytes().replace(tag, struct.pack("<HHI", 260, 4, 1)))
    with pytest.raises(DataError, match=r"got 1, 12 bits.*Convert it"):
        read_header(path)


def test_what_itk_gives_back_as_something_else_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in picture(np.uint16, 3))
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", *SHAPE[::-1], 16, 2, 0, 0, 0))
    content += chunk(b"tRNS", bytes(6)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path = tmp_path / "transparent.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(DataError, match=r"as its header says .*\(20, 30, 4\)"):
        read_volume(path)


def test_lzw_as_pillow_writes_it_is_read(tmp_path: Path) -> None:
    for predictor in (1, 2):
        Image.fromarray(picture(np.uint16)).save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={317: predictor})
        np.testing.assert_array_equal(read_rows(tmp_path / "a.tif")[..., 0], picture(np.uint16))
