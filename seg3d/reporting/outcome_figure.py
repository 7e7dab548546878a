"""Outcome maps: true positives, false positives and false negatives in colour on the grey image."""

from __future__ import annotations

from PIL import Image

from seg3d.reporting.figures import FigureCase
from seg3d.reporting.outcome import (
    CORRECT,
    MISSED,
    WRONG,
    SliceClaim,
    Tally,
    claims_of,
    number,
    outcome_of,
    outcome_words,
    tally_case,
    where,
)
from seg3d.reporting.panels import OKABE_ITO, Plane
from seg3d.reporting.raster import (
    FAINT,
    Pixels,
    Size,
    canvas,
    draw_key,
    fit_text,
    fitted,
    grey_pixels,
    mark,
    rgb,
    size_mm,
    upright,
    write_text,
    zoomed,
    zoomed_labels,
)

# sky blue, vermillion, yellow: of all triples of the palette furthest apart in normal vision and under protanopia,
# deuteranopia and tritanopia, and away from all greys
COLOURS = {CORRECT: rgb(OKABE_ITO[1]), WRONG: rgb(OKABE_ITO[5]), MISSED: rgb(OKABE_ITO[3])}
_LONGEST, _NARROWEST, _MARGIN = 560, 330, 14
_LISTED = 8  # labels whose Dice is written out


def outcome_pixels(case: FigureCase, plane: Plane, index: int, size: Size | None = None) -> Pixels:
    """A slice of a case with both maps as ``(row, column, 3)``: its outcomes in their colours on the grey image.

    Args:
        case: The case; without reference or prediction the image alone is drawn.
        plane: How it is cut.
        index: Which slice.
        size: Rows and columns of the picture; one pixel a voxel where ``None``.
    """
    image = upright(case.image, plane, index)
    size = size or (image.shape[0], image.shape[1])
    pixels = grey_pixels(zoomed(image, size), case.grey)
    if case.reference is None or case.prediction is None:
        return pixels
    maps = [upright(labels, plane, index) for labels in (case.prediction, case.reference)]
    outcome = zoomed_labels(outcome_of(maps[0], maps[1], case.ignore_label), size)
    for value, colour in COLOURS.items():
        pixels[outcome == value] = colour
    return pixels


def outcome_figure(case: FigureCase, plane: Plane) -> Image.Image:
    """The image beside its outcome map for each slice of :func:`claims_of`, with legend and numbers.

    Raises:
        ValueError: The case lacks its reference or its prediction.
    """
    whole, claims = tally_case(case), claims_of(case, plane)
    if whole is None:
        raise ValueError(f"an outcome needs reference and prediction, {case.name} lacks one")
    size = panel_size(case, plane)
    panel = max(size[1], _NARROWEST)
    width = 2 * panel + 3 * _MARGIN
    image = canvas(width, 40 + len(claims) * (size[0] + 46) + 100 + 20 * (5 + min(len(case.label_names), _LISTED)))
    title = f"{case.name}   Dice {number(whole.mean_dice)}"
    write_text(image, (_MARGIN, 10), fit_text(title, width - 2 * _MARGIN, 17, bold=True), 17, bold=True)
    y = 40
    for claim in claims:
        _draw_claim(image, case, claim, size, panel, y)
        y += size[0] + 46
    entries = [(COLOURS[value], words) for value, words in outcome_words(case).items()]
    y += draw_key(image, (_MARGIN, y), entries, width - 2 * _MARGIN) + 8
    y += _draw_table(image, case, claims, whole, (_MARGIN, y)) + _MARGIN
    return image.crop((0, 0, width, y))


def panel_size(case: FigureCase, plane: Plane) -> Size:
    """Pixels of a slice in the outcome figure: at least one a voxel, within reason."""
    extent = size_mm(case.image.shape, case.spacing_mm, plane)
    needed = max(
        case.image.shape[axis] * max(extent) / mm for axis, mm in zip((plane.up, plane.across), extent, strict=True)
    )
    # a whole number of pixels a voxel where the voxels are square
    zoom = max(1, int(_LONGEST // needed))
    return fitted(extent, min(round(zoom * needed), 1400))


def _draw_claim(image: Image.Image, case: FigureCase, claim: SliceClaim, size: Size, panel: int, y: int) -> None:
    plane, index = claim.plane, claim.index
    bare = grey_pixels(zoomed(upright(case.image, plane, index), size), case.grey)
    for column, pixels in enumerate((bare, outcome_pixels(case, plane, index, size))):
        corner = (_MARGIN + column * (panel + _MARGIN) + (panel - size[1]) // 2, y)
        image.paste(Image.fromarray(pixels), corner)
        mark(image, corner, size, plane, size_mm(case.image.shape, case.spacing_mm, plane)[1])
    write_text(image, (_MARGIN, y + size[0] + 6), where(case, plane, index), 13, colour=(90, 90, 90))
    tally, words = claim.tally, ("TP", "FP", "FN") if len(case.label_names) == 1 else ("right", "wrong", "missed")
    counts = zip(words, (tally.correct, tally.wrong, tally.missed), strict=True)
    text = ", ".join(f"{word} {count:,}" for word, count in counts) + f", Dice {number(tally.mean_dice)}"
    write_text(image, (2 * _MARGIN + panel, y + size[0] + 6), fit_text(text, panel, 13), 13)
    write_text(image, (_MARGIN, y + size[0] + 23), claim.why, 12, colour=FAINT)


def _draw_table(
    image: Image.Image, case: FigureCase, claims: list[SliceClaim], whole: Tally, corner: tuple[int, int]
) -> int:
    """Numbers of the slices and of the whole case below each other; the height of the table in pixels."""
    left, top = corner
    tallies = [claim.tally for claim in claims] + ([whole] if case.image.shape[claims[0].plane.normal] > 1 else [])
    heads = [f"slice {claim.index + 1}" for claim in claims] + ["whole case"]
    words = outcome_words(case)
    unit = "pixels" if claims[0].plane.is_picture else "voxels"
    lines = [["", *heads[: len(tallies)]]] if len(tallies) > 1 else []
    for value, field in ((CORRECT, "correct"), (WRONG, "wrong"), (MISSED, "missed")):
        lines.append([f"{words[value].partition(' (')[0]}, {unit}", *(f"{getattr(t, field):,}" for t in tallies)])
    if len(whole.dice) > 1:
        lines += [
            [f"Dice of {name}", *(number(tally.dice[name]) for tally in tallies)] for name in list(whole.dice)[:_LISTED]
        ]
    name = f"mean Dice of {len(whole.dice)} labels" if len(whole.dice) > 1 else "Dice"
    lines.append([name, *(number(tally.mean_dice) for tally in tallies)])
    for number_of_line, (head, *cells) in enumerate(lines):
        y = top + 20 * number_of_line
        write_text(image, (left, y), fit_text(head, 260, 13), 13)
        for column, cell in enumerate(cells):
            write_text(image, (left + 370 + 100 * column, y), cell, 13, anchor="ra")
    return 20 * len(lines)
