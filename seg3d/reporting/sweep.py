"""A sweep through the slices of a volume as GIF or MP4: prediction filled, reference outlined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from seg3d.atomic import atomic_path
from seg3d.errors import Seg3dError
from seg3d.reporting.figures import FigureCase
from seg3d.reporting.panels import Plane, colour_of
from seg3d.reporting.raster import (
    Pixels,
    Size,
    canvas,
    draw_key,
    fit_text,
    fitted,
    grey_pixels,
    mark,
    outline,
    rgb,
    size_mm,
    upright,
    write_text,
    zoomed,
    zoomed_labels,
)

KINDS = ("gif", "mp4")
_LONGEST = {"gif": 400, "mp4": 640}  # pixels of the slice: a GIF is large, because it is hardly compressed
_NARROWEST = 340
_FILL = 0.45  # share of the colour in a predicted voxel
_SECONDS = 14.0  # that a sweep should last
_PALE, _DIM = (235, 235, 235), (70, 70, 70)
_BAR_LEFT = 92


@dataclass(frozen=True, eq=False)
class _Stage:
    """What is the same in all frames of a sweep."""

    case: FigureCase
    plane: Plane
    size: Size
    corner: tuple[int, int]
    base: Image.Image
    bar: tuple[int, int, int]  # left, right, top


def has_sweep(case: FigureCase, plane: Plane) -> bool:
    """Whether there is more than one slice to go through."""
    return bool(case.image.shape[plane.normal] > 1)


def sweep_frames(case: FigureCase, plane: Plane, longest: int) -> Iterator[Pixels]:
    """A picture ``(row, column, 3)`` of each slice, all of one even height and width.

    The bar below shows in which slices reference and prediction have foreground, and where the sweep is.

    Args:
        case: The case; either map may be missing.
        plane: How it is cut; slices come in RAS+ order: from the left, from behind or from the feet.
        longest: Pixels of the longer side of a slice.
    """
    stage = _stage(case, plane, longest)
    for index in range(case.image.shape[plane.normal]):
        yield _frame(stage, index)


def frames_per_second(slices: int) -> int:
    """So many that a sweep takes about 14 s, within what can be followed."""
    return int(min(25, max(5, round(slices / _SECONDS))))


def save_gif(case: FigureCase, plane: Plane, path: Path) -> Path:
    """The GIF written at ``path``, repeating for ever; the same case gives the same bytes."""
    palette = _palette(case)
    frames = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in sweep_frames(case, plane, _LONGEST["gif"])
    )
    # GIF counts in hundredths of a second
    duration = 10 * round(100 / frames_per_second(case.image.shape[plane.normal]))
    with atomic_path(path) as temporary:
        next(frames).save(
            temporary, format="GIF", save_all=True, append_images=frames, duration=duration, loop=0, optimize=False
        )
    return path


def save_mp4(case: FigureCase, plane: Plane, path: Path) -> Path:
    """The MP4 (H.264, yuv420p) written at ``path``; the same case gives the same bytes with the same encoder.

    Raises:
        Seg3dError: The encoder failed.
    """
    frames = sweep_frames(case, plane, _LONGEST["mp4"])
    first = next(frames)
    # one thread and no version in the file: x264 divides its work otherwise on another machine
    exact = ["-crf", "20", "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"]
    with atomic_path(path) as temporary:
        try:
            writer = imageio_ffmpeg.write_frames(
                str(temporary), (first.shape[1], first.shape[0]), fps=frames_per_second(case.image.shape[plane.normal]),
                codec="libx264", quality=None, macro_block_size=2, ffmpeg_log_level="error", output_params=exact,
            )  # fmt: skip
            writer.send(None)
            writer.send(np.ascontiguousarray(first))
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
            writer.close()
        except (OSError, RuntimeError) as error:
            raise Seg3dError("the movie could not be encoded", where=path, got=error, fix="Try --movie gif.") from error
    return path


def _stage(case: FigureCase, plane: Plane, longest: int) -> _Stage:
    extent = size_mm(case.image.shape, case.spacing_mm, plane)
    size = fitted(extent, longest)
    width = max(size[1], _NARROWEST)
    width += width % 2
    key = [(rgb(colour_of(value)), name) for value, name in sorted(case.label_names.items())]
    base = canvas(width, size[0] + 60 + 20 * (len(key) + 3), (0, 0, 0))
    y = size[0] + 30
    bar = (_BAR_LEFT, width - 10, y)
    for labels, word in ((case.reference, "reference"), (case.prediction, "prediction")):
        if labels is not None:
            write_text(base, (8, y + 5), word, 12, anchor="lm", colour=_PALE)
            _draw_bar(base, _marked(labels, plane, case.ignore_label), (bar[0], bar[1], y))
            y += 15
    y += 6
    y += draw_key(base, (8, y), key, width - 16, _PALE)
    both = case.reference is not None and case.prediction is not None
    words = (
        "outline: reference, filled: prediction" if both else "outline: reference" if case.prediction is None else ""
    )
    if words:
        write_text(base, (8, y), fit_text(words, width - 16, 12), 12, colour=_PALE)
        y += 20
    base = base.crop((0, 0, width, y + 4 + y % 2))
    write_text(base, (8, size[0] + 8), fit_text(case.name, width - 170, 13, bold=True), 13, colour=_PALE, bold=True)
    return _Stage(case, plane, size, ((width - size[1]) // 2, 0), base, bar)


def _frame(stage: _Stage, index: int) -> Pixels:
    case, plane, size = stage.case, stage.plane, stage.size
    frame = stage.base.copy()
    pixels = grey_pixels(zoomed(upright(case.image, plane, index), size), case.grey)
    if case.prediction is not None:
        _fill(pixels, zoomed_labels(upright(case.prediction, plane, index), size), case)
    if case.reference is not None:
        _outline(pixels, zoomed_labels(upright(case.reference, plane, index), size), case)
    frame.paste(Image.fromarray(pixels), stage.corner)
    mark(frame, stage.corner, size, plane, size_mm(case.image.shape, case.spacing_mm, plane)[1])
    slices = case.image.shape[plane.normal]
    place = f"{plane.name} {index + 1} of {slices}"
    write_text(frame, (frame.width - 8, size[0] + 8), place, 13, anchor="ra", colour=_PALE)
    left, right, top = stage.bar
    x = left + (index + 0.5) * (right - left) / slices
    bottom = top + 15 * sum(labels is not None for labels in (case.reference, case.prediction))
    ImageDraw.Draw(frame).rectangle((round(x) - 1, top - 3, round(x) + 1, bottom), fill=(255, 255, 255))
    return np.asarray(frame)


def _fill(pixels: Pixels, labels: NDArray[np.uint8], case: FigureCase) -> None:
    for value in case.label_names:
        inside = labels == value
        mixed = (1 - _FILL) * pixels[inside] + _FILL * np.array(rgb(colour_of(value)))
        pixels[inside] = mixed.astype(np.uint8)


def _outline(pixels: Pixels, labels: NDArray[np.uint8], case: FigureCase) -> None:
    # a dark line inside parts the outline from a prediction of the same colour
    pixels[outline(labels, 3)] = 0
    edge = outline(labels, 2)
    for value in case.label_names:
        pixels[edge & (labels == value)] = rgb(colour_of(value))


def _marked(labels: NDArray[np.uint8], plane: Plane, ignore_label: int | None) -> NDArray[np.bool_]:
    """Slices with foreground."""
    sides = tuple(axis for axis in range(3) if axis != plane.normal)
    found: NDArray[np.bool_] = np.any(labels > 0, axis=sides)
    if ignore_label is not None:
        found = np.any((labels > 0) & (labels != ignore_label), axis=sides)
    return found


def _draw_bar(image: Image.Image, marked: Sequence[bool] | NDArray[np.bool_], place: tuple[int, int, int]) -> None:
    left, right, top = place
    drawing = ImageDraw.Draw(image)
    drawing.rectangle((left, top, right, top + 9), fill=_DIM)
    step = (right - left) / len(marked)
    for index in np.flatnonzero(marked).tolist():
        drawing.rectangle((left + index * step, top, max(left + (index + 1) * step - 1, left + index * step), top + 9),
                          fill=(200, 200, 200))  # fmt: skip


def _palette(case: FigureCase) -> Image.Image:
    """256 colours that are the same in all frames: greys, the labels' colours, and these mixed with grey."""
    colours = list(dict.fromkeys(rgb(colour_of(value)) for value in sorted(case.label_names)))
    shades = min(16, 140 // max(1, len(colours)))
    entries = [tuple(colour) for colour in colours]
    for colour in colours:
        for grey in np.linspace(0, 255, shades):
            mixed = (1 - _FILL) * grey + _FILL * np.array(colour)
            entries.append(tuple(int(part) for part in mixed))
    for grey in np.linspace(0, 255, 256 - len(entries)).astype(int).tolist():
        entries.append((grey, grey, grey))
    image = Image.new("P", (1, 1))
    image.putpalette([part for entry in entries for part in entry])
    return image
