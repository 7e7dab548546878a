"""Pictures in and out: every format in full depth, every broken or doubtful file a clear error, 2D dataset layouts."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from PIL import Image
from torch import nn

from seg3d.cases import Dataset, find_faults, read_dataset
from seg3d.errors import DataError, FaultsError
from seg3d.inference.inputs import Scan, find_scans
from seg3d.inference.predictor import Predictor
from seg3d.inference.sliding import SlidingWindow
from seg3d.io import (
    answer_name,
    count_labels,
    describe_undeclared,
    image_stem,
    read_header,
    read_image,
    read_label_map,
    read_volume,
    write_like,
)
from seg3d.preparation import Crop, ForegroundCrop, Normalisation, Recipe, prepare_image
from seg3d.store import StoredVolume
from seg3d.verbs.check import check
from seg3d.verbs.evaluate import evaluate
from seg3d.verbs.prepare import prepare
from seg3d.verbs.scans import read_scan, refuse_overwriting_inputs, write_answer

HEIGHT, WIDTH = 5, 7
LABELS = {"background": 0, "lung": 1}


def grey(dtype: Any = np.uint8) -> np.ndarray:
    """Rows and columns; no two pixels are alike, and 16 bits need both bytes."""
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    return (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * (top / 35.5)).astype(dtype)


def colours(dtype: Any = np.uint8, samples: int = 3) -> np.ndarray:
    return np.stack([np.roll(grey(dtype), i, axis=0) for i in range(samples)], axis=-1)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bytes(
    rows: np.ndarray, colour: int, bits: int, *, extra: bytes = b"", size: tuple[int, int] | None = None
) -> bytes:
    """A PNG written by hand: rows ``(row, bytes)`` without filters."""
    width, height = size or (WIDTH, HEIGHT)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    content = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def save(path: Path, rows: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(rows) if mode is None else Image.fromarray(rows).convert(mode)
    image.save(path, **options)
    return path


def mask(value: int = 255) -> np.ndarray:
    rows = np.zeros((HEIGHT, WIDTH), np.uint8)
    rows[1:3, 2:6] = value
    return rows


def write_grey_png(path: Path) -> np.ndarray:
    save(path, grey())
    return grey()[..., None]


def write_16_bit_png(path: Path) -> np.ndarray:
    save(path, grey(np.uint16))
    return grey(np.uint16)[..., None]


def write_rgb_png(path: Path) -> np.ndarray:
    save(path, colours())
    return colours()


def write_rgba_png(path: Path) -> np.ndarray:
    save(path, colours(samples=4))
    return colours(samples=4)[..., :3]


def write_grey_alpha_png(path: Path) -> np.ndarray:
    path.write_bytes(png_bytes(colours(samples=2).reshape(HEIGHT, -1), 4, 8))
    return colours(samples=2)[..., :1]


def write_16_bit_png_by_hand(path: Path, samples: int, colour: int) -> np.ndarray:
    values = colours(np.uint16, samples)
    path.write_bytes(png_bytes(values.astype(">u2").reshape(HEIGHT, -1), colour, 16))
    return values


def write_16_bit_rgb_png(path: Path) -> np.ndarray:
    return write_16_bit_png_by_hand(path, 3, 2)


def write_16_bit_rgba_png(path: Path) -> np.ndarray:
    return write_16_bit_png_by_hand(path, 4, 6)[..., :3]


def write_16_bit_grey_alpha_png(path: Path) -> np.ndarray:
    return write_16_bit_png_by_hand(path, 2, 4)[..., :1]


def write_interlaced_png(path: Path) -> np.ndarray:
    """The seven passes of Adam7, written by hand."""
    values = grey()
    body = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        part = values[y::dy, x::dx]
        body += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 1)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return values[..., None]


def write_bilevel_png(path: Path) -> np.ndarray:
    save(path, mask(), "1")
    return mask()[..., None]


def tiff_writer(values: np.ndarray, wanted: np.ndarray, **options: Any) -> Callable[[Path], np.ndarray]:
    def write(path: Path) -> np.ndarray:
        tifffile.imwrite(path, values, **options)
        return wanted if wanted.ndim == 3 else wanted[..., None]

    return write


def write_lzw_tiff(path: Path) -> np.ndarray:
    save(path, colours(), compression="tiff_lzw")
    return colours()


def write_16_bit_lzw_tiff(path: Path) -> np.ndarray:
    save(path, grey(np.uint16), compression="tiff_lzw")
    return grey(np.uint16)[..., None]


def write_packed_tiff(path: Path) -> np.ndarray:
    save(path, grey(), compression="packbits")
    return grey()[..., None]


RGBA = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
FORMATS: dict[str, tuple[str, Callable[[Path], np.ndarray]]] = {
    "grey": (".png", write_grey_png),
    "upper case": (".PNG", write_grey_png),
    "16 bit": (".png", write_16_bit_png),
    "RGB": (".png", write_rgb_png),
    "RGBA": (".png", write_rgba_png),
    "grey and alpha": (".png", write_grey_alpha_png),
    "16 bit RGB": (".png", write_16_bit_rgb_png),
    "16 bit RGBA": (".png", write_16_bit_rgba_png),
    "16 bit grey and alpha": (".png", write_16_bit_grey_alpha_png),
    "interlaced": (".png", write_interlaced_png),
    "bilevel": (".png", write_bilevel_png),
    "TIFF": (".tif", tiff_writer(grey(), grey())),
    "TIFF 16 bit": (".tiff", tiff_writer(grey(np.uint16), grey(np.uint16))),
    "TIFF float": (".tif", tiff_writer(grey(np.float32), grey(np.float32))),
    "TIFF big-endian": (".tif", tiff_writer(grey(np.uint16), grey(np.uint16), byteorder=">")),
    "TIFF RGB": (".tif", tiff_writer(colours(), colours(), photometric="rgb")),
    "TIFF RGBA": (".tif", tiff_writer(colours(samples=4), colours(samples=4)[..., :3], **RGBA)),
    "TIFF planes": (
        ".tif",
        tiff_writer(colours().transpose(2, 0, 1), colours(), photometric="rgb", planarconfig="separate"),
    ),
    "TIFF deflate": (".tif", tiff_writer(grey(np.uint16), grey(np.uint16), compression="zlib", predictor=True)),
    "TIFF LZW": (".tif", write_lzw_tiff),
    "TIFF 16 bit LZW": (".tif", write_16_bit_lzw_tiff),
    "TIFF packbits": (".tif", write_packed_tiff),
    "TIFF tiles": (".tif", tiff_writer(grey(), grey(), tile=(16, 16))),
    "TIFF white is zero": (".tif", tiff_writer(255 - grey(), grey(), photometric="miniswhite")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_pictures_are_read_in_full_depth_with_x_along_the_row(tmp_path: Path, name: str) -> None:
    suffix, write = FORMATS[name]
    path = tmp_path / f"picture{suffix}"
    wanted = write(path)
    header, volume = read_header(path), read_volume(path)
    assert volume.data.shape == (wanted.shape[2], WIDTH, HEIGHT, 1)
    assert volume.data.dtype == wanted.dtype == header.dtype
    np.testing.assert_array_equal(volume.data[..., 0], wanted.transpose(2, 1, 0))
    np.testing.assert_array_equal(volume.grid.affine, np.eye(4))
    assert (header.format, header.channels, header.grid.shape) == ("picture", wanted.shape[2], (WIDTH, HEIGHT, 1))


@pytest.mark.parametrize("name", ["grey", "16 bit", "RGB", "16 bit RGB", "TIFF 16 bit", "TIFF LZW", "interlaced"])
def test_pictures_are_read_as_simpleitk_reads_them(tmp_path: Path, name: str) -> None:
    suffix, write = FORMATS[name]
    write(tmp_path / f"picture{suffix}")
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"picture{suffix}")))
    ours = read_volume(tmp_path / f"picture{suffix}").data[..., 0].transpose(2, 1, 0)
    np.testing.assert_array_equal(ours, reference.reshape(ours.shape))


@pytest.mark.parametrize("rows", [grey(), colours()], ids=["grey", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_is_read_as_an_image(tmp_path: Path, rows: np.ndarray, options: dict[str, Any]) -> None:
    path = save(tmp_path / "picture.jpeg", rows, quality=95, **options)
    volume = read_volume(path)
    wanted = np.array(Image.open(path)).reshape(HEIGHT, WIDTH, -1)
    np.testing.assert_array_equal(volume.data[..., 0], wanted.transpose(2, 1, 0))
    assert volume.data.dtype == np.uint8


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_picture_is_read_however_large_pillow_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = save(tmp_path / name, grey())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert read_volume(path).data.shape == (1, WIDTH, HEIGHT, 1)


# broken and doubtful files


def raises(words: str, read: Callable[[Path], object], path: Path) -> None:
    with pytest.raises(DataError, match=words) as error:
        read(path)
    assert path.name in str(error.value)


@pytest.mark.parametrize("name", ["grey", "16 bit RGB", "TIFF", "TIFF deflate", "TIFF LZW"])
@pytest.mark.parametrize("share", [0.98, 0.6, 0.1, 0.0])
def test_a_truncated_file_is_a_clear_error(tmp_path: Path, name: str, share: float) -> None:
    suffix, write = FORMATS[name]
    path = tmp_path / f"picture{suffix}"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    raises("truncated|not a|smaller", read_volume, path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.02, 0.0])
def test_a_truncated_jpeg_is_a_clear_error(tmp_path: Path, share: float, options: dict[str, Any]) -> None:
    rows = np.random.default_rng(0).integers(0, 255, (200, 300), dtype=np.uint8)
    path = save(tmp_path / "picture.jpg", rows, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    raises("truncated|not a JPEG", read_volume, path)


def test_a_changed_byte_of_a_png_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    raises("check sum", read_volume, path)


@pytest.mark.parametrize(("colour", "bits"), [(0, 8), (2, 16), (6, 16), (4, 16), (0, 16)])
def test_a_png_whose_stream_ends_early_is_a_clear_error(tmp_path: Path, colour: int, bits: int) -> None:
    samples = {0: 1, 2: 3, 6: 4, 4: 2}[colour]
    rows = np.random.default_rng(0).integers(0, 255, (HEIGHT - 2, WIDTH * samples * bits // 8), dtype=np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(rows, colour, bits))
    raises("truncated", read_volume, path)


def test_headers_that_promise_more_than_the_file_holds_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(grey(), 0, 8, size=(2_000_000_000, 2_000_000_000)))
    raises("smaller than its header says", read_header, path)
    path = tmp_path / "a.jpg"
    save(path, grey())
    content = path.read_bytes()
    place = content.index(b"\xff\xc0") + 5
    path.write_bytes(content[:place] + struct.pack(">HH", 65000, 65000) + content[place + 4 :])
    raises("smaller than its header says", read_header, path)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey(), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = [file.pages[0].tags[name] for name in ("ImageLength", "ImageWidth", "RowsPerStrip")]
        for tag in tags:
            struct.pack_into("<I" if tag.dtype == 4 else "<H", content, tag.valueoffset, 60_000)
    path.write_bytes(content)
    raises("smaller than its header says|truncated", read_header, path)


def test_animated_and_multi_page_files_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    raises("animated", read_header, tmp_path / "a.png")
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    raises("several pictures", read_header, tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((3, HEIGHT, WIDTH), np.uint16), imagej=True)
    raises("several pictures", read_header, tmp_path / "b.tif")
    tifffile.imwrite(
        tmp_path / "c.tif",
        np.zeros((4, HEIGHT, WIDTH), np.uint16),
        volumetric=True,
        photometric="minisblack",
        tile=(16, 16, 16),
    )
    raises("not one picture", read_header, tmp_path / "c.tif")


@pytest.mark.parametrize(
    ("suffix", "options", "words"),
    [
        (".tif", {"compression": "jpeg"}, "compression cannot be used.*JPEG"),
        (".tif", {"compression": "group4", "mode": "1"}, "compression cannot be used.*CCITT"),
        (".tif", {"mode": "CMYK"}, "colours cannot be used"),
        (".jpg", {"mode": "CMYK"}, "colours cannot be used"),
    ],
)
def test_colours_and_compressions_that_cannot_be_used_are_told(
    tmp_path: Path, suffix: str, options: dict[str, Any], words: str
) -> None:
    path = save(tmp_path / f"a{suffix}", colours() if options.get("mode") == "CMYK" else grey(), **options)
    raises(words, read_header, path)


def test_a_file_of_another_format_than_its_name_says_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", grey())
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    raises("not a PNG", read_header, tmp_path / "a.png")
    raises("missing", read_header, tmp_path / "b.png")
    save(tmp_path / "b.png", grey())
    (tmp_path / "b.png").rename(tmp_path / "b.jpg")
    raises("not a JPEG", read_header, tmp_path / "b.jpg")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_palette_is_labels_but_no_image(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(mask(2))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_label_map(tmp_path / f"a{suffix}").data[0, :, :, 0], mask(2).T)
    raises("table of colours", read_volume, tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_palette_that_draws_a_label_in_black_is_refused(tmp_path: Path, suffix: str) -> None:
    reduced = Image.fromarray(np.dstack([mask(255)] * 3)).quantize(2)  # white is its index 0
    assert reduced.getpalette()[:6] == [255, 255, 255, 0, 0, 0]
    reduced.save(tmp_path / f"a{suffix}")
    raises("draws a label in black.*index 1 is black", read_label_map, tmp_path / f"a{suffix}")
    plain = Image.fromarray(mask(2))
    plain.putpalette([0] * 9)  # a writer that says nothing of colours
    plain.save(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(read_label_map(tmp_path / f"b{suffix}").data[0, :, :, 0], mask(2).T)


def test_a_palette_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(mask(1), 3, 8))
    raises("no table of colours", read_header, tmp_path / "a.png")


# one channel of colours


def test_equal_colours_count_as_grey_where_one_channel_is_wanted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.dstack([grey()] * 3 + [np.full_like(grey(), 255)]))
    np.testing.assert_array_equal(read_image([path], 1)[0].data[0, :, :, 0], grey().T)
    assert read_image([path], 3)[0].data.shape[0] == 3
    save(tmp_path / "b.png", colours())
    raises("35 of 35 pixels", lambda path: read_image([path], 1), tmp_path / "b.png")
    raises("wrong number of channels", lambda path: read_image([path], 4), tmp_path / "b.png")
    save(tmp_path / "c.png", grey())
    raises("wrong number of channels", lambda path: read_image([path], 3), tmp_path / "c.png")
    assert [v.data.shape[0] for v in read_image([path, tmp_path / "c.png"], 2)] == [1, 1]


# masks


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (mask(255), {}),
        (mask(1), {}),
        (mask(255), {"mode": "1"}),
        (np.dstack([mask(255)] * 3), {}),
        (np.dstack([mask(255)] * 3 + [mask(0) + 255]), {}),
        (np.dstack([mask(255)] * 3 + [mask(255)]), {}),  # cut out, too
        ((mask(1) * 65535.0).astype(np.uint16), {}),
        (mask(255).astype(np.uint16), {}),
    ],
    ids=["0 and 255", "indices", "bilevel", "RGB", "RGBA", "cut out", "16 bit white", "255 in 16 bit"],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_black_and_white_are_background_and_label_1(
    tmp_path: Path, rows: np.ndarray, options: dict[str, Any], suffix: str
) -> None:
    label = read_label_map(save(tmp_path / f"a{suffix}", rows, **options), {0, 1})
    np.testing.assert_array_equal(label.data[0, :, :, 0], mask(1).T)
    assert label.data.dtype == np.uint8


@pytest.mark.parametrize(("value", "label"), [(0, 0), (255, 1)])
def test_a_mask_all_black_or_all_white_is_of_one_label(tmp_path: Path, value: int, label: int) -> None:
    path = save(tmp_path / "a.png", np.full((HEIGHT, WIDTH), value, np.uint8))
    assert set(np.unique(read_label_map(path).data)) == {label}


def test_white_is_what_it_says_where_255_is_declared(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", mask(255))
    assert set(np.unique(read_label_map(path, {0, 1, 255}).data)) == {0, 255}
    assert set(np.unique(read_label_map(path, {0, 1, None}).data)) == {0, 1}


def test_indices_of_few_bits_are_not_spread(tmp_path: Path) -> None:
    rows = np.packbits(np.array([[0, 0, 0, 1, 1, 0, 1, 1] * 2] * HEIGHT, np.uint8), axis=1)  # 0 1 2 3 0 1 2 (3)
    (tmp_path / "a.png").write_bytes(png_bytes(rows, 0, 2))
    assert read_label_map(tmp_path / "a.png").data[0, :, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert read_volume(tmp_path / "a.png").data[0, :, 0, 0].tolist() == [0, 85, 170, 255, 0, 85, 170]


def test_masks_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    raises("JPEG", read_label_map, save(tmp_path / "a.jpg", mask()))
    raises("coloured.*8 of 35 pixels", read_label_map, save(tmp_path / "a.png", np.dstack([mask(), mask(0), mask(0)])))
    hidden = save(tmp_path / "b.png", np.dstack([mask(0)] * 3 + [mask()]))
    raises("alpha", read_label_map, hidden)


def test_undeclared_values_are_told_with_their_pixels() -> None:
    counts = count_labels(np.repeat(np.arange(9, dtype=np.uint8), [100, 5, 1, 2, 3, 4, 5, 6, 7]))
    assert counts == {0: 100, 1: 5, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6, 8: 7}
    told = describe_undeclared(counts, {0, 1}, "pixel")
    assert told == "2 (1 pixel), 3 (2 pixels), 4 (3 pixels), 5 (4 pixels), 6 (5 pixels), and 2 more values (13 pixels)"
    assert describe_undeclared(counts, range(9)) == ""


def test_labels_are_counted_over_all_pieces() -> None:
    labels = np.zeros(3 * (1 << 22), np.uint8)
    labels[1 << 22 :: 2] = 3
    assert count_labels(labels) == {0: 2 * (1 << 22), 3: 1 << 22}


# answers


@pytest.mark.parametrize(("source", "answer"), [(".png", ".png"), (".tif", ".tif"), (".jpg", ".png")])
def test_an_answer_has_the_size_of_its_picture(tmp_path: Path, source: str, answer: str) -> None:
    header = read_header(save(tmp_path / f"a{source}", colours()))
    name = answer_name(tmp_path / f"a{source}")
    assert name == f"a{answer}"
    write_like(tmp_path / "out" / name, mask(1).T[..., None], header, binary=True)
    written = tifffile.imread(tmp_path / "out" / name) if answer == ".tif" else Image.open(tmp_path / "out" / name)
    np.testing.assert_array_equal(np.array(written), mask(255))
    np.testing.assert_array_equal(read_label_map(tmp_path / "out" / name).data[0, :, :, 0], mask(1).T)


def test_several_labels_are_written_as_indices(tmp_path: Path) -> None:
    header = read_header(save(tmp_path / "a.png", grey()))
    for value, mode in ((2, "L"), (300, "I;16")):
        write_like(tmp_path / "b.png", (mask(1).astype(np.int64) * value).T[..., None], header)
        with Image.open(tmp_path / "b.png") as image:
            assert image.mode == mode
        assert set(np.unique(read_label_map(tmp_path / "b.png").data)) == {0, value}


def test_maps_of_real_numbers_are_tiff_of_float32(tmp_path: Path) -> None:
    header = read_header(save(tmp_path / "a.png", grey()))
    name = answer_name(Path("a.png"), real=True)
    values = grey(np.float32).T[..., None]
    write_like(tmp_path / name, values, header)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), grey(np.float32))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").data[0], values)
    with pytest.raises(DataError, match="PNG cannot hold real numbers"):
        write_like(tmp_path / "b.png", values, header)
    with pytest.raises(DataError, match="JPEG cannot hold labels"):
        write_like(tmp_path / "b.jpg", mask(1).T[..., None], header)
    with pytest.raises(DataError, match="format of its scan"):
        write_like(tmp_path / "b.nii.gz", mask(1).T[..., None], header)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.tif"}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_same_answer_has_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    header = read_header(save(tmp_path / f"scan{suffix}", grey()))
    for name in ("a", "b"):
        write_like(tmp_path / f"{name}{suffix}", mask(1).T[..., None], header)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


class Threshold(nn.Module):
    """A network that finds what is brighter than a half."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 20 * torch.cat([0.5 - image, image - 0.5], dim=1)


def predictor(labels: tuple[int, ...] = (0, 1), recipe: Recipe | None = None) -> Predictor:
    recipe = recipe or Recipe(normalise=(Normalisation("divide", by=255),))
    return Predictor(Threshold(), SlidingWindow((8, 8, 1)), recipe, ("X-ray",), labels, torch.device("cpu"))


def predict_scan(predictor: Predictor, scan: Scan, target: Path, probabilities: bool) -> Path:
    found = predictor.answer(read_scan(predictor, scan), probabilities=probabilities)
    return write_answer(predictor, scan, target, found)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_a_prediction_lies_beside_its_picture_in_a_format_that_holds_it(tmp_path: Path, name: str) -> None:
    rows = np.dstack([mask()] * 4)[..., : 1 if name.endswith("jpg") else 4].squeeze()
    path = save(tmp_path / name, np.kron(rows, np.ones((8, 8, 1) if rows.ndim == 3 else (8, 8), np.uint8)))
    (scan,) = find_scans([path], 1)
    answer = predict_scan(predictor(), scan, tmp_path / "out", True)
    assert answer.name == answer_name(path)
    wanted = np.kron(mask(1), np.ones((8, 8), np.uint8))
    np.testing.assert_array_equal(read_label_map(answer).data[0, :, :, 0], wanted.T)
    written = tifffile.imread(answer) if answer.suffix == ".tif" else np.array(Image.open(answer))
    assert set(np.unique(written)) == {0, 255}
    probability = tifffile.imread(tmp_path / "out" / "probabilities" / "a_probability_1.tif")
    assert probability.dtype == np.float32
    np.testing.assert_array_equal(probability > 0.5, wanted == 1)


def test_other_labels_are_written_as_they_are(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", mask())
    answer = predict_scan(predictor((0, 7)), Scan("a.png", (path,)), tmp_path / "out", False)
    np.testing.assert_array_equal(np.array(Image.open(answer)), mask(7))


def test_a_coloured_picture_is_refused_by_a_model_of_one_channel(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", colours())
    with pytest.raises(DataError, match="coloured"):
        predict_scan(predictor(), Scan("a.png", (path,)), tmp_path / "out", False)
    assert not (tmp_path / "out").exists()


def test_pictures_to_predict_are_found_in_folders(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "c.tif", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [(scan.name, scan.images[0].name) for scan in find_scans([tmp_path], 1)] == [
        ("a.PNG", "a.PNG"),
        ("b.png", "b.jpg"),
        ("c.tif", "c.tif"),
    ]
    (tmp_path / "a.jpeg").write_bytes(b"")
    with pytest.raises(DataError, match="several scans have the same name"):
        find_scans([tmp_path], 1)


def test_colour_pictures_with_numbers_in_their_names_are_scans_of_their_own(tmp_path: Path) -> None:
    for number in (0, 1):
        save(tmp_path / f"frame_{number:04d}.png", colours())
        save(tmp_path / f"grey_{number:04d}.png", grey())
    found = find_scans([tmp_path / "frame_0000.png", tmp_path / "frame_0001.png"], 3)
    assert [scan.name for scan in found] == ["frame_0000.png", "frame_0001.png"]
    (scan,) = find_scans(sorted(tmp_path.glob("grey_*.png")), 2)
    assert (scan.name, [path.name for path in scan.images]) == ("grey.png", ["grey_0000.png", "grey_0001.png"])


def test_answers_never_replace_what_lies_beside_a_picture(tmp_path: Path) -> None:
    scan = Scan("a.png", (tmp_path / "a.jpg",))
    refuse_overwriting_inputs([scan], tmp_path)
    save(tmp_path / "a.png", mask())  # its mask, perhaps
    with pytest.raises(DataError, match="overwrite"):
        refuse_overwriting_inputs([scan], tmp_path)
    refuse_overwriting_inputs([scan], tmp_path / "out")
    with pytest.raises(DataError, match="overwrite"):
        refuse_overwriting_inputs([Scan("a.png", (tmp_path / "a.png",))], tmp_path)


# datasets


def of_folder(root: Path, images: str, label: str | None = None, *negatives: str, **options: Any) -> Dataset:
    return read_dataset(
        root,
        folders_images=[images],
        folders_label=label,
        folders_negatives=negatives,
        labels=LABELS,
        channels=options.pop("channels", ["grey"]),
        **options,
    )


@pytest.mark.parametrize(
    ("images", "label", "names"),
    [
        ("CXR_png/{case}.png", "masks/{case}_mask.png", ["NAME-1", "b"]),
        ("patients/imgs/patient_{case}.png", "patients/labels/segmentation_{case}.png", ["000", "001"]),
        ("image/{case}.png", "label/{case}.png", ["0", "1", "10", "2"]),
        ("all/{case}.png", "all/{case}_mask.png", ["a", "b"]),
    ],
    ids=["suffixed", "prefixed", "digits", "one folder"],
)
def test_pairs_are_found_by_patterns(tmp_path: Path, images: str, label: str, names: list[str]) -> None:
    for number, case in enumerate(names):
        save(tmp_path / images.replace("{case}", case), grey() + np.uint8(number))
        save(tmp_path / label.replace("{case}", case), mask())
    dataset = of_folder(tmp_path, images, label)
    assert [case.case_id for case in dataset.cases] == names
    assert [case.label for case in dataset.cases] == [tmp_path / label.replace("{case}", name) for name in names]
    assert find_faults(dataset) == []


def patients_and_controls(root: Path) -> Dataset:
    for number in range(3):
        image = np.dstack([grey() + np.uint8(number)] * 3 + [np.full_like(grey(), 255)])
        save(root / "patients" / "imgs" / f"patient_{number:03d}.png", image)
        save(root / "patients" / "labels" / f"segmentation_{number:03d}.png", np.dstack([mask()] * 3))
        save(root / "controls" / "imgs" / f"control_{number:03d}.png", grey() + np.uint8(50 + number))
    pairs = ("patients/imgs/patient_{case}.png", "patients/labels/segmentation_{case}.png")
    return of_folder(root, *pairs, "controls/imgs/{case}.png")


def test_negatives_need_no_label_map_and_alpha_is_told_once(tmp_path: Path) -> None:
    dataset = patients_and_controls(tmp_path)
    assert [(case.case_id, case.negative, case.labelled) for case in dataset.cases] == [
        *((f"00{n}", False, True) for n in range(3)),
        *((f"control_00{n}", True, True) for n in range(3)),
    ]
    (note,) = find_faults(dataset)
    assert (note.kind, note.note, note.got.split(",")[0]) == ("alpha_dropped", True, "3 pictures")


def test_negatives_among_the_images_keep_their_names(tmp_path: Path) -> None:
    for name in ("p1", "c1"):
        save(tmp_path / "imgs" / f"{name}.png", grey() + np.uint8(ord(name[0])))
    save(tmp_path / "masks" / "p1.png", mask())
    dataset = of_folder(tmp_path, "imgs/{case}.png", "masks/{case}.png", "imgs/c{case}.png")
    assert [(case.case_id, case.negative) for case in dataset.cases] == [("c1", True), ("p1", False)]
    assert find_faults(dataset) == []
    (fault,) = of_folder(tmp_path, "imgs/{case}.png", "masks/{case}.png", "imgs/{case}.png").faults
    assert (fault.where, fault.kind) == ("p1", "negative_with_label")


def test_what_is_wrong_with_patterns_of_negatives_is_told(tmp_path: Path) -> None:
    patients_and_controls(tmp_path)
    pairs = ("patients/imgs/patient_{case}.png", "patients/labels/segmentation_{case}.png")
    same = of_folder(tmp_path, *pairs, "controls/imgs/control_{case}.png").faults
    assert [(fault.where, fault.kind) for fault in same] == [(f"00{n}", "duplicate_case") for n in range(3)]
    assert all("patient_" in fault.got and "control_" in fault.got for fault in same)
    (none,) = of_folder(tmp_path, *pairs, "controls/{case}.png").faults
    assert (none.kind, none.got) == ("no_cases", "controls/{case}.png")


def faulty_pictures(root: Path) -> None:
    """A picture for each thing that can be wrong."""

    def pair(case: str, image: np.ndarray | None = None, label: np.ndarray | None = None, **options: Any) -> None:
        save(root / "image" / f"{case}.png", grey() + np.uint8(hash_of(case)) if image is None else image)
        save(root / "label" / f"{case}.png", mask() if label is None else label, **options)

    pair("sound")
    pair("size", label=np.zeros((HEIGHT, WIDTH + 1), np.uint8) + np.uint8(255))
    smooth = mask()
    smooth[1, 2:4] = (37, 99)
    pair("levels", label=smooth)
    pair("coloured", image=colours())
    pair("coloured_mask", label=np.dstack([mask(), mask(0), mask(0)]))
    pair("empty", label=mask(0))
    pair("truncated")
    path = root / "image" / "truncated.png"
    path.write_bytes(path.read_bytes()[:-20])
    pair("palette")
    Image.fromarray(grey()).convert("P").save(root / "image" / "palette.png")
    pair("animated")
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint8)) for value in (10, 200)]
    frames[0].save(root / "image" / "animated.png", save_all=True, append_images=frames[1:])
    pair("maskless")
    (root / "label" / "maskless.png").unlink()
    pair("imageless")
    (root / "image" / "imageless.png").unlink()
    pair("jpeg_mask")
    Image.fromarray(mask()).save(root / "label" / "jpeg_mask.png", format="JPEG")
    pair("turned")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey() + np.uint8(77)).save(root / "image" / "turned.png", exif=exif)


def hash_of(case: str) -> int:
    return zlib.crc32(case.encode()) % 200


def test_all_faults_of_pictures_are_listed_at_once(tmp_path: Path) -> None:
    faulty_pictures(tmp_path)
    found = find_faults(of_folder(tmp_path, "image/{case}.png", "label/{case}.png"))
    kinds = {(fault.where.split()[0], fault.kind, fault.note) for fault in found}
    assert kinds == {
        ("size", "shape_mismatch", False),
        ("levels", "undeclared_label", False),
        ("coloured", "channels", False),
        ("coloured_mask", "unreadable", False),
        ("empty", "no_foreground", True),
        ("truncated", "unreadable", False),
        ("palette", "unreadable", False),
        ("animated", "unreadable", False),
        ("maskless", "no_label", True),
        ("imageless", "missing_file", False),
        ("jpeg_mask", "unreadable", False),
        ("turned", "shown_turned", True),
    }
    (size,) = (str(fault) for fault in found if fault.kind == "shape_mismatch")
    assert "(8, 5, 1)" in size
    assert "(7, 5, 1)" in size
    (levels,) = (fault for fault in found if fault.kind == "undeclared_label")
    assert levels.got == "37 (1 pixel), 99 (1 pixel), 255 (6 pixels)"


def test_images_of_several_sizes_make_one_dataset(tmp_path: Path) -> None:
    for size in (4, 6):
        save(tmp_path / "image" / f"{size}.png", np.full((size, 9), size, np.uint8))
        save(tmp_path / "label" / f"{size}.png", np.full((size, 9), 255, np.uint8))
    assert find_faults(of_folder(tmp_path, "image/{case}.png", "label/{case}.png")) == []


def test_colour_datasets_have_three_channels_and_nnunets_lie_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": LABELS, "file_ending": ".png"})
    )
    save(tmp_path / "imagesTr" / "a_0000.png", colours())
    save(tmp_path / "labelsTr" / "a.png", mask(1))
    (case,) = read_dataset(tmp_path).cases
    assert [path.name for path in case.images] == ["a_0000.png"]
    assert find_faults(read_dataset(tmp_path)) == []
    save(tmp_path / "imagesTr" / "b_0000.png", grey())
    save(tmp_path / "labelsTr" / "b.png", mask(1))
    assert [(f.where.split()[0], f.kind) for f in find_faults(read_dataset(tmp_path))] == [("b", "channels")]


def test_nnunet_and_decathlon_datasets_of_pictures_are_read(tmp_path: Path) -> None:
    save(tmp_path / "imagesTr" / "a_0000.tif", grey(np.uint16))
    save(tmp_path / "labelsTr" / "a.tif", mask(1))
    content: dict[str, Any] = {"channel_names": {"0": "X-ray"}, "labels": LABELS, "file_ending": ".tif"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert find_faults(read_dataset(tmp_path)) == []
    entry = {"image": "./imagesTr/a_0000.tif", "label": "./labelsTr/a.tif"}
    content = {"modality": {"0": "X-ray"}, "labels": {"0": "background", "1": "lung"}, "training": [entry]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert find_faults(read_dataset(tmp_path)) == []


CONFIG = """
name: pictures
output_dir: {root}/runs
data:
  source: {root}
  store: {root}/store
  folders:
    images: ["patients/imgs/patient_{{case}}.png"]
    label: "patients/labels/segmentation_{{case}}.png"
    negatives: ["controls/imgs/{{case}}.png"]
  channels: [PET]
  labels: {{background: 0, tumour: 1}}
prepare:
  workers: 1
"""


def config_file(root: Path) -> Path:
    patients_and_controls(root)
    (root / "pictures.yaml").write_text(CONFIG.format(root=root))
    return root / "pictures.yaml"


def test_negatives_are_prepared_as_all_background(tmp_path: Path) -> None:
    config = config_file(tmp_path)
    assert [fault for fault in check(config) if not fault.note] == []
    store = prepare(config, progress=False)
    assert len(store.labelled) == 6
    assert store.infos["control_001"].class_counts == {0: HEIGHT * WIDTH, 1: 0}
    assert store.infos["001"].class_counts == {0: HEIGHT * WIDTH - 8, 1: 8}
    assert store.infos["001"].grid.shape == (WIDTH, HEIGHT, 1)
    np.testing.assert_array_equal(StoredVolume(store.infos["001"]).label[:, :, 0], mask(1).T)


def test_pictures_that_viewers_show_turned_are_told_when_they_are_prepared(tmp_path: Path) -> None:
    config, lines = config_file(tmp_path), list[str]()
    prepare(config, progress=False, tell=lines.append)
    assert lines == []
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, which leaves its size
    path = tmp_path / "controls" / "imgs" / "control_001.png"
    Image.open(path).save(path, exif=exif)
    prepare(config, progress=False, tell=lines.append)
    assert f"1 of 1 files, the first {path}" in lines[-1]


def test_a_case_that_was_prepared_without_label_is_prepared_again_once_it_is_declared_negative(tmp_path: Path) -> None:
    config = config_file(tmp_path)
    controls = "data.folders={images: ['controls/imgs/{case}.png']}"
    assert len(prepare(config, [controls], progress=False).labelled) == 0
    assert len(prepare(config, progress=False).labelled) == 6


def test_pictures_of_equal_colours_are_prepared_again_for_another_number_of_channels(tmp_path: Path) -> None:
    config = config_file(tmp_path)
    patients = "data.folders={images: ['patients/imgs/patient_{case}.png']}"
    assert prepare(config, [patients], progress=False).infos["000"].channels == 1
    assert prepare(config, [patients, "data.channels=[r, g, b]"], progress=False).infos["000"].channels == 3


def test_masks_with_grey_levels_are_not_prepared(tmp_path: Path) -> None:
    config = config_file(tmp_path)
    smooth = mask()
    smooth[1, 2:4] = (37, 99)
    save(tmp_path / "patients" / "labels" / "segmentation_001.png", smooth)
    with pytest.raises(FaultsError, match=r"37 \(1 pixel\), 99 \(1 pixel\), 255 \(6 pixels\)") as error:
        prepare(config, progress=False)
    assert [fault.where for fault in error.value.faults] == ["001"]
    assert not (tmp_path / "store" / "001.h5").exists()
    assert (tmp_path / "store" / "002.h5").exists()


def test_pictures_are_cropped_and_resampled_by_pixels(tmp_path: Path) -> None:
    rows = np.zeros((20, 30), np.uint8)
    rows[4:12, 6:26] = 200
    volume = read_volume(save(tmp_path / "a.png", rows))
    crop = Crop(ForegroundCrop(threshold=10, margin_mm=0))
    prepared = prepare_image([volume], Recipe(crop, (2.0, 2.0, 1.0), (Normalisation("divide", by=200),)))
    assert prepared.image.shape == (1, 10, 4, 1)
    np.testing.assert_allclose(prepared.image, 1.0, atol=1e-3)
    found = predictor(recipe=Recipe(crop, (2.0, 2.0, 1.0), (Normalisation("divide", by=200),))).predict([volume])
    np.testing.assert_array_equal(found.label[:, :, 0], (rows > 0).T)


def scored(config: Path, root: Path, predictions: dict[str, np.ndarray]) -> dict[str, Any]:
    for case, rows in predictions.items():
        save(root / "found" / f"{case}.png", rows)
    return evaluate(root / "found", config, root / "summary.json")


def test_pictures_and_negatives_are_scored(tmp_path: Path) -> None:
    config = config_file(tmp_path)
    wrong = mask(0)
    wrong[0, 0] = 255
    found = (
        {f"00{n}": mask() for n in range(3)} | {f"control_00{n}": mask(0) for n in range(2)} | {"control_002": wrong}
    )
    summary = scored(config, tmp_path, found)
    rows = {row["case"]: row for row in summary["metric_per_case"]}
    assert rows["000"]["metrics"]["1"]["Dice"] == 1.0
    assert rows["control_000"]["metrics"]["1"]["Dice"] is None
    assert rows["control_002"]["metrics"]["1"]["FP"] == 1
    assert rows["control_002"]["reference_file"] is None
    assert rows["000"]["reference_file"].endswith("segmentation_000.png")
    save(tmp_path / "found" / "control_002.png", np.zeros((HEIGHT, WIDTH + 1), np.uint8))
    with pytest.raises(FaultsError, match="different grids"):
        evaluate(tmp_path / "found", config, tmp_path / "summary.json")


def test_predictions_with_grey_levels_are_not_scored(tmp_path: Path) -> None:
    config = config_file(tmp_path)
    smooth = mask()
    smooth[1, 2] = 37
    save(tmp_path / "found" / "000.png", smooth)
    with pytest.raises(FaultsError, match=r"37 \(1 pixel\), 255 \(7 pixels\)"):
        evaluate(tmp_path / "found", config, tmp_path / "summary.json", subset=True)


def test_white_predictions_stay_label_1_where_255_is_the_ignored_label(tmp_path: Path) -> None:
    config = config_file(tmp_path)
    config.write_text(config.read_text().replace("labels: {", "ignore_label: 255\n  labels: {"))
    for number in range(3):
        save(tmp_path / "patients" / "labels" / f"segmentation_{number:03d}.png", mask(1))
    reference = mask(1)
    reference[4, :] = 255
    save(tmp_path / "patients" / "labels" / "segmentation_000.png", reference)
    save(tmp_path / "found" / "000.png", mask())
    summary = evaluate(tmp_path / "found", config, tmp_path / "summary.json", subset=True)
    assert summary["metric_per_case"][0]["metrics"]["1"]["Dice"] == 1.0
    assert prepare(config, progress=False).infos["000"].class_counts[1] == 8


def test_two_references_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("labels/a.png", "labels/a.tif", "found/a.png"):
        save(tmp_path / name, mask())
    with pytest.raises(DataError, match="two label maps have one name"):
        evaluate(tmp_path / "found", tmp_path / "labels", tmp_path / "s.json")


def test_the_stem_of_a_picture_is_its_name_without_suffix() -> None:
    assert [image_stem(Path(name)) for name in ("a.b.png", "a.tiff", "a.JPG", "a.jpeg")] == ["a.b", "a", "a", "a"]


REAL = {
    "cxr_lungs": (["CXR_png/{case}.png"], "masks/{case}_mask.png", [], 36),
    "mip_pet": (
        ["patients/imgs/patient_{case}.png"],
        "patients/labels/segmentation_{case}.png",
        ["controls/imgs/{case}.png"],
        486,
    ),
    "isbi2012_em": (["image/{case}.png"], "label/{case}.png", [], 24),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_pictures_have_no_fault(real_data: Callable[[str], Path], name: str) -> None:
    images, label, negatives, count = REAL[name]
    dataset = read_dataset(
        real_data(name),
        folders_images=images,
        folders_label=label,
        folders_negatives=negatives,
        channels=["grey"],
        labels=LABELS,
    )
    assert len(dataset.cases) == count
    faults = find_faults(dataset)
    assert [fault for fault in faults if not fault.note] == []
    assert {fault.kind for fault in faults} <= {"alpha_dropped", "same_image", "no_foreground"}
    assert sum(fault.kind == "alpha_dropped" for fault in faults) == (name == "mip_pet")
