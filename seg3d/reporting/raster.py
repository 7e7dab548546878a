"""Slices as pixels: each voxel is a block of pixels of exactly one colour, in physical proportions.

Figures by matplotlib resample what they draw; here nothing is interpolated, so pixels can be counted against voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from seg3d.atomic import atomic_path
from seg3d.reporting.panels import Plane, cut, scale_length
from seg3d.volume import Spacing

Pixels = NDArray[np.uint8]  # (row, column, 3), first row at the top
Size = tuple[int, int]  # rows, columns
BACKGROUND = (255, 255, 255)
INK = (30, 30, 30)
FAINT = (120, 120, 120)


def rgb(colour: str) -> tuple[int, int, int]:
    """``(red, green, blue)`` of ``"#rrggbb"``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def upright(volume: NDArray[Any], plane: Plane, index: int) -> NDArray[Any]:
    """One slice ``(row, column)`` as it is looked at: top of the picture first, patient right on the left."""
    flat = cut(volume, plane, index)
    return flat if plane.is_picture else flat[::-1, ::-1]


def size_mm(shape: tuple[int, ...], spacing_mm: Spacing, plane: Plane) -> tuple[float, float]:
    """Height and width of a slice of a volume of ``shape`` ``(x, y, z)``."""
    return shape[plane.up] * spacing_mm[plane.up], shape[plane.across] * spacing_mm[plane.across]


def fitted(extent: tuple[float, float], longest: int) -> Size:
    """Pixels of a picture of ``extent`` (height, width) whose longer side is ``longest``; never none."""
    scale = longest / max(extent)
    return max(1, round(extent[0] * scale)), max(1, round(extent[1] * scale))


def zoomed(picture: NDArray[Any], size: Size) -> NDArray[np.float32]:
    """Grey values ``(row, column)`` at another size: blocks where it grows, means of what falls together where not."""
    rows, columns = (_starts(n, wanted) for n, wanted in zip(picture.shape, size, strict=True))
    sums = np.add.reduceat(np.add.reduceat(picture.astype(np.float32), rows, axis=0), columns, axis=1)
    shares = [
        np.maximum(np.diff(starts, append=n), 1) for starts, n in zip((rows, columns), picture.shape, strict=True)
    ]
    means: NDArray[np.float32] = (sums / np.outer(*shares)).astype(np.float32)
    return means


def zoomed_labels(picture: NDArray[Any], size: Size) -> NDArray[Any]:
    """A label map ``(row, column)`` at another size; where voxels fall together the highest value is kept."""
    rows, columns = (_starts(n, wanted) for n, wanted in zip(picture.shape, size, strict=True))
    largest: NDArray[Any] = np.maximum.reduceat(np.maximum.reduceat(picture, rows, axis=0), columns, axis=1)
    return largest


def grey_pixels(picture: NDArray[Any], window: tuple[float, float]) -> Pixels:
    """``(row, column, 3)`` of grey values; NaN is black."""
    low, high = window
    share = np.clip((picture.astype(np.float32) - low) / (high - low), 0, 1)
    grey = np.nan_to_num(share * 255).astype(np.uint8)
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def outline(labels: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Pixels of the labels ``(row, column)`` that are nearer than ``width`` to another label or the border."""
    padded = np.pad(labels, width)
    edge = np.zeros(labels.shape, bool)
    for step in range(1, width + 1):
        for axis in (0, 1):
            for shift in (-step, step):
                edge |= np.roll(padded, shift, axis)[width:-width, width:-width] != labels
    return edge & (labels > 0)


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of matplotlib's figures, which is there wherever matplotlib is."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def canvas(width: int, height: int, colour: tuple[int, int, int] = BACKGROUND) -> Image.Image:
    """An empty picture."""
    return Image.new("RGB", (width, height), colour)


def fit_text(text: str, width: int, size: int, bold: bool = False) -> str:
    """The text, its middle left out where it is wider than ``width`` pixels."""
    measure = font(size, bold).getlength
    if measure(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and measure(f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}") > width:
        kept -= 1
    return f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"


def write_text(
    image: Image.Image,
    at: tuple[float, float],
    text: str,
    size: int,
    *,
    anchor: str = "la",
    colour: tuple[int, int, int] = INK,
    bold: bool = False,
    outlined: bool = False,
) -> None:
    """Write on a picture; ``anchor`` is Pillow's, ``outlined`` text can be read on any grey."""
    edge: dict[str, Any] = {"stroke_width": 2, "stroke_fill": (0, 0, 0)} if outlined else {}
    ImageDraw.Draw(image).text(at, text, fill=colour, font=font(size, bold), anchor=anchor, **edge)


def mark(image: Image.Image, corner: tuple[int, int], size: Size, plane: Plane, width_mm: float) -> None:
    """Write the sides of the patient and a scale bar on a slice that was pasted at ``corner`` (left, top).

    A plain picture gets neither.
    """
    if plane.is_picture:
        return
    (left, top), (height, width) = corner, size
    middle = (left + width / 2, top + height / 2)
    style: dict[str, Any] = {"colour": (255, 255, 255), "bold": True, "outlined": True}
    write_text(image, (left + 6, middle[1]), plane.left, 15, anchor="lm", **style)
    write_text(image, (left + width - 6, middle[1]), plane.right, 15, anchor="rm", **style)
    write_text(image, (middle[0], top + 5), plane.top, 15, anchor="ma", **style)
    write_text(image, (middle[0], top + height - 5), plane.bottom, 15, anchor="md", **style)
    length = scale_length(width_mm)
    bar = length / width_mm * width
    right, low = left + width - 12, top + height - 12
    drawing = ImageDraw.Draw(image)
    drawing.rectangle((right - bar - 1, low - 1, right + 1, low + 4), fill=(0, 0, 0))
    drawing.rectangle((right - bar, low, right, low + 3), fill=(255, 255, 255))
    style |= {"bold": False}
    write_text(image, (right - bar / 2, low - 4), f"{length:g} mm", 11, anchor="md", **style)


def draw_key(
    image: Image.Image,
    corner: tuple[int, int],
    entries: Sequence[tuple[tuple[int, int, int], str]],
    width: int,
    colour: tuple[int, int, int] = INK,
) -> int:
    """Draw a legend of ``(colour, words)`` in as many lines as ``width`` asks for; its height in pixels."""
    left, top = corner
    x, y = left, top
    drawing = ImageDraw.Draw(image)
    for swatch, name in entries:
        words = fit_text(name, width - 20, 13)
        needed = 20 + int(font(13).getlength(words)) + 16
        if x > left and x + needed - 16 > left + width:
            x, y = left, y + 20
        drawing.rectangle((x, y + 2, x + 13, y + 15), fill=swatch, outline=FAINT)
        write_text(image, (x + 20, y + 9), words, 13, anchor="lm", colour=colour)
        x += needed
    return y - top + 20 if entries else 0


def save_pixels(image: Image.Image, path: Path) -> Path:
    """``path``, holding the picture as PNG; the same picture gives the same bytes."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=False)
    return path


def _starts(n: int, wanted: int) -> NDArray[np.intp]:
    # first voxel of each pixel; `reduceat` takes the voxel alone where the next pixel begins with it, too
    return (np.arange(wanted, dtype=np.int64) * n) // wanted
