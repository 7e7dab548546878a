"""All cases on one sheet, worst first: a small outcome map of each with its name and Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg3d.reporting.figures import FigureCase
from seg3d.reporting.outcome import CORRECT, MISSED, WRONG, number, tally_case
from seg3d.reporting.outcome_figure import COLOURS, outcome_pixels
from seg3d.reporting.panels import Plane, colour_of
from seg3d.reporting.raster import (
    FAINT,
    Pixels,
    canvas,
    draw_key,
    fit_text,
    fitted,
    font,
    rgb,
    size_mm,
    upright,
    write_text,
    zoomed_labels,
)

PER_PAGE, COLUMNS = 40, 8
THUMBNAIL = 168
_GAP, _WORDS, _HEAD = 10, 53, 62
_CONTEXT = 0.6  # of the size of what is marked, shown on each side of it
_LEAST = 0.25  # of the slice that is shown at least
_UNPREDICTED = (FAINT, "no reference: prediction in the colours of its labels")


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A case on a contact sheet.

    Attributes:
        name: Its name.
        score: Mean Dice over its labels, ``None`` where it is undefined or there is no reference.
        compared: Whether there is a reference.
        view: How it is cut, in words.
        pixels: ``(row, column, 3)``, at most :data:`THUMBNAIL` high and wide.
    """

    name: str
    score: float | None
    compared: bool
    view: str
    pixels: Pixels


def thumbnail_of(case: FigureCase, plane: Plane, score: float | None = None) -> Thumbnail:
    """The slice of a case with most reference, cut out around what is marked in it.

    Args:
        case: The case.
        plane: How it is cut.
        score: Its mean Dice if it is known already.
    """
    index = case.slice_of(plane, "foreground")
    box = _box(case, plane, index)
    small = _cropped(case, plane, index, box)
    compared = case.reference is not None and case.prediction is not None
    if score is None and compared:
        tally = tally_case(case)
        score = None if tally is None else tally.mean_dice
    size = fitted(size_mm(small.image.shape, small.spacing_mm, plane), THUMBNAIL)
    pixels = outcome_pixels(small, plane, 0, size)
    if not compared:
        _paint(pixels, small, plane)
    sides = {"R": ", patient right on the left", "A": ", patient front on the left"}.get(plane.left, "")
    return Thumbnail(case.name, score, compared, f"{plane.name}{sides}; " if sides else "", pixels)


def ranked(thumbnails: Sequence[Thumbnail]) -> list[Thumbnail]:
    """Worst first, those without a score last; of equal scores the name decides."""
    return sorted(thumbnails, key=lambda one: (one.score is None, one.score or 0.0, one.name))


def contact_sheets(thumbnails: Sequence[Thumbnail], words: Mapping[int, str]) -> list[Image.Image]:
    """Pages of :data:`PER_PAGE` cases, worst first.

    Args:
        thumbnails: The cases, in any order.
        words: What the outcomes are called.
    """
    order = ranked(thumbnails)
    pages = [order[start : start + PER_PAGE] for start in range(0, len(order), PER_PAGE)]
    return [_page(page, number_of, len(pages), len(order), words) for number_of, page in enumerate(pages)]


def _page(page: Sequence[Thumbnail], number_of: int, pages: int, cases: int, words: Mapping[int, str]) -> Image.Image:
    columns = min(COLUMNS, max(3, len(page)))
    cell = (THUMBNAIL + _GAP, THUMBNAIL + _WORDS + _GAP)
    rows = -(-len(page) // columns)
    image = canvas(columns * cell[0] + _GAP, _HEAD + 20 + rows * cell[1])
    width = image.width - 2 * _GAP
    first = number_of * PER_PAGE + 1
    span = f"{cases} cases" if pages == 1 else f"cases {first} to {first + len(page) - 1} of {cases}"
    title = f"{span} by Dice, worst first" if any(one.compared for one in page) else span
    write_text(image, (_GAP, 10), fit_text(title, width, 16, bold=True), 16, bold=True)
    used = font(16, bold=True).getlength(title) + 20
    one_view = len({one.view for one in page}) == 1  # not where a single slice lies in another plane
    view = fit_text(f"{page[0].view if one_view else ''}around what is marked", int(width - used), 12)
    write_text(image, (image.width - _GAP, 13), view, 12, anchor="ra", colour=FAINT)
    entries = [(COLOURS[value], words[value]) for value in (CORRECT, WRONG, MISSED)]
    if not all(one.compared for one in page):
        entries = entries if any(one.compared for one in page) else []
        entries.append(_UNPREDICTED)
    key = draw_key(image, (_GAP, 36), entries, width)
    top = max(_HEAD, 36 + key + 6)
    for place, one in enumerate(page):
        corner = (_GAP + place % columns * cell[0], top + place // columns * cell[1])
        _draw_cell(image, one, corner, f"{first + place}")
    return image.crop((0, 0, image.width, top + rows * cell[1]))


def _draw_cell(image: Image.Image, one: Thumbnail, corner: tuple[int, int], rank: str) -> None:
    left, top = corner
    height, width = one.pixels.shape[:2]
    # below each other the words of a row stand on one line, so a flat picture stands at the bottom of its cell
    image.paste(Image.fromarray(one.pixels), (left + (THUMBNAIL - width) // 2, top + THUMBNAIL - height))
    for line, words in enumerate(_two_lines(one.name)):
        write_text(image, (left, top + THUMBNAIL + 4 + 15 * line), words, 12)
    score = number(one.score) if one.compared else "no reference"
    write_text(image, (left, top + THUMBNAIL + 35), score, 12, bold=True)
    write_text(image, (left + THUMBNAIL, top + THUMBNAIL + 35), rank, 12, anchor="ra", colour=FAINT)


def _two_lines(name: str) -> tuple[str, str]:
    # long names of cases often differ in the middle
    kept = len(name)
    while font(12).getlength(name[:kept]) > THUMBNAIL:
        kept -= 1
    return name[:kept], fit_text(name[kept:], THUMBNAIL, 12)


def _box(case: FigureCase, plane: Plane, index: int) -> tuple[slice, slice, slice]:
    """What of a slice is shown: a square in millimetres around what is marked, or all where nothing is."""
    maps = [np.moveaxis(m, plane.normal, 0)[index] for m in (case.reference, case.prediction) if m is not None]
    marked = np.zeros(np.delete(np.array(case.image.shape), plane.normal), bool)
    for labels in maps:
        marked |= labels > 0
    if case.ignore_label is not None and case.reference is not None:
        marked &= maps[0] != case.ignore_label
    box = [slice(0, n) for n in case.image.shape]
    box[plane.normal] = slice(index, index + 1)
    places = np.argwhere(marked)
    axes = [axis for axis in range(3) if axis != plane.normal]
    if not len(places):
        return box[0], box[1], box[2]
    extents = [case.image.shape[axis] * case.spacing_mm[axis] for axis in axes]
    low, high = places.min(axis=0), places.max(axis=0) + 1
    spans = [(b - a) * case.spacing_mm[axis] for a, b, axis in zip(low, high, axes, strict=True)]
    side = max((1 + 2 * _CONTEXT) * max(spans), _LEAST * max(extents))
    for axis, a, b in zip(axes, low, high, strict=True):
        box[axis] = _span((a + b) / 2, side / case.spacing_mm[axis], case.image.shape[axis])
    return box[0], box[1], box[2]


def _span(middle: float, length: float, size: int) -> slice:
    # moved inwards at the border, so that the size stays
    wanted = min(size, max(1, round(length)))
    start = min(max(0, round(middle - wanted / 2)), size - wanted)
    return slice(start, start + wanted)


def _cropped(case: FigureCase, plane: Plane, index: int, box: tuple[slice, slice, slice]) -> FigureCase:
    reference, prediction = (None if m is None else m[box] for m in (case.reference, case.prediction))
    # the grey values of the whole image, or a part of it would look unlike the other figures
    return FigureCase(
        case.name, case.image[box], reference, prediction, case.spacing_mm, case.label_names,
        window=case.grey, picture=case.picture, ignore_label=case.ignore_label,
    )  # fmt: skip


def _paint(pixels: Pixels, case: FigureCase, plane: Plane) -> None:
    labels = case.prediction if case.prediction is not None else case.reference
    if labels is None:
        return
    shown: NDArray[np.uint8] = zoomed_labels(upright(labels, plane, 0), (pixels.shape[0], pixels.shape[1]))
    for value in np.unique(shown[shown > 0]).tolist():
        pixels[shown == value] = rgb(colour_of(value))
