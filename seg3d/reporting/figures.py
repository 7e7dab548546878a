"""Figures of cases: image, reference and prediction in three planes, and a prediction on its own grid.

A plain picture, or a volume of one slice, is one panel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.atomic import atomic_path
from seg3d.reporting.panels import Plane, best_slice, colour_of, draw_contours, draw_slice, planes_of, window_of
from seg3d.reporting.raster import font
from seg3d.volume import Grid, Spacing, Volume

DPI = 130
PANEL_INCHES = 3.1
SINGLE_INCHES = 4.4  # of cases that have one panel each
_ABOVE_PANEL, _BELOW_PANEL = 0.28, 0.27  # inches for title and place
_KEY_POINTS, _KEY_LETTERS = 8, 40  # of the names in a legend: size, and letters at most
CONVENTION = "radiological view: patient right is on the left of axial and coronal pictures"


@dataclass(frozen=True, eq=False)
class FigureCase:
    """What a figure needs to know of one case; all arrays ``(x, y, z)`` in canonical RAS+ orientation.

    Attributes:
        name: Case id.
        image: Grey values of one channel.
        reference: True label map, ``None`` where there is none.
        prediction: Predicted label map, ``None`` where there is none.
        spacing_mm: Voxel spacing.
        label_names: Label value -> name, without background.
        score: Dice shown in the title and ranked by; ``None`` or NaN where it is undefined.
        window: Grey values drawn black and white; percentiles of the image where ``None``.
        shown: Which slice is drawn, see :func:`seg3d.reporting.panels.best_slice`.
        picture: Whether it is a plain picture ``(column, row, 1)`` with the first row at the top, not a scan.
        ignore_label: Value of the reference that is neither right nor wrong, or ``None``.
    """

    name: str
    image: NDArray[Any]
    reference: NDArray[Any] | None
    prediction: NDArray[Any] | None
    spacing_mm: Spacing
    label_names: Mapping[int, str]
    score: float | None = None
    window: tuple[float, float] | None = None
    shown: str = field(default="foreground")
    picture: bool = False
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        for name, labels in (("reference", self.reference), ("prediction", self.prediction)):
            if labels is not None and labels.shape != self.image.shape:
                raise ValueError(f"{name} of {self.name} is {self.image.shape} like its image, got {labels.shape}")
        if self.image.ndim != 3 or not self.image.size:
            raise ValueError(f"image of {self.name} is (x, y, z) with voxels, got {self.image.shape}")
        if self.shown not in ("foreground", "disagreement"):
            raise ValueError(f"shown is 'foreground' or 'disagreement', got {self.shown!r}")

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes in which the case has something to show."""
        return planes_of(self.image.shape, self.picture)

    @cached_property
    def grey(self) -> tuple[float, float]:
        """Grey values drawn black and white."""
        return self.window or window_of(self.image)

    @cached_property
    def _counted(self) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Reference and prediction without what is ignored."""
        if self.reference is None or self.ignore_label is None:
            return self.reference, self.prediction
        counts = self.reference != self.ignore_label
        return self.reference * counts, None if self.prediction is None else self.prediction * counts

    @property
    def marked_by(self) -> str:
        """Which map says where foreground is: the reference, or the prediction where that has none."""
        maps = zip(("reference", "prediction"), self._counted, strict=True)
        return next((name for name, labels in maps if labels is not None and labels.any()), "neither map")

    def slice_of(self, plane: Plane, shown: str | None = None) -> int:
        """Index of the slice to show along the plane's normal; the middle one where nothing is marked."""
        index = best_slice(plane, *self._counted, shown or self.shown)
        return self.image.shape[plane.normal] // 2 if index is None else index


def worst_median_best(scores: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """``(role, case)`` of the worst, median and best case; fewer where there are fewer than three cases.

    Cases without a score are left out; of equal scores the name decides. The median of an even number is the lower.
    """
    ranked = sorted((score, name) for name, score in scores.items() if score is not None and not math.isnan(score))
    names = [name for _, name in ranked]
    if len(names) < 3:
        return list(zip(("worst", "best") if len(names) == 2 else ("only",), names, strict=False))
    return [("worst", names[0]), ("median", names[(len(names) - 1) // 2]), ("best", names[-1])]


def case_figure(case: FigureCase, path: Path) -> Path:
    """The PNG written at ``path``: one case in axial, coronal and sagittal slices."""
    return _rows_figure([("", case)], path)


def worst_median_best_figure(cases: Sequence[FigureCase], path: Path) -> Path:
    """The PNG written at ``path``: worst, median and best case by score, a row each.

    Cases without a score are left out, unless none has one: then the first three are shown.

    Raises:
        ValueError: No cases, or two of the same name.
    """
    return _rows_figure(worst_median_best_rows(cases), path)


def worst_median_best_rows(cases: Sequence[FigureCase]) -> list[tuple[str, FigureCase]]:
    """``(role, case)`` of :func:`worst_median_best_figure`, for :func:`rows_figure`.

    Raises:
        ValueError: No cases, or two of the same name.
    """
    by_name = {case.name: case for case in cases}
    if not cases or len(by_name) != len(cases):
        raise ValueError(f"cases are at least one and differ in name, got {[case.name for case in cases]}")
    chosen = worst_median_best({case.name: case.score for case in cases})
    return [(role, by_name[name]) for role, name in chosen] or [("", case) for case in cases[:3]]


def geometry_figure(
    image: Volume,
    prediction: Volume,
    path: Path,
    *,
    reference: Volume | None = None,
    label_names: Mapping[int, str] | None = None,
    name: str = "",
    window: tuple[float, float] | None = None,
) -> Path:
    """The PNG written at ``path``: a prediction over its source image by their own affines, and both grids in words.

    Prediction and reference are placed by *their* affine, not by array index, so a prediction whose header is wrong
    is seen out of place.
    """
    turned, turn = canonical(image)
    maps = [None if v is None else _onto(turned.grid, v) for v in (reference, prediction)]
    values = sorted({int(v) for m in maps if m is not None for v in np.unique(m)} - {0})
    names = dict(label_names) if label_names else {value: f"label {value}" for value in values}
    case = FigureCase(name, turned.data[0], maps[0], maps[1], turned.grid.spacing_mm, names, None, window)
    same = "the same grid" if image.grid.same_as(prediction.grid) else "DIFFERENT GRIDS"
    lines = [f"image       {_in_words(image.grid)}", f"prediction  {_in_words(prediction.grid)}"]
    if reference is not None:
        lines.append(f"reference   {_in_words(reference.grid)}")
    lines.append(f"image and prediction lie on {same}; drawn in RAS+ (axes turned by {turn})")
    return _rows_figure([("", case)], path, footer="\n".join(lines))


def save_png(figure: Figure, path: Path) -> Path:
    """``path``, holding the figure as PNG; the same figure gives the same bytes (no date, no software name)."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    return path


def _rows_figure(rows: Sequence[tuple[str, FigureCase]], path: Path, footer: str = "") -> Path:
    return save_png(rows_figure(rows, footer), path)


def rows_figure(rows: Sequence[tuple[str, FigureCase]], footer: str = "") -> Figure:
    """A figure with a row for each ``(role, case)`` and a column for each plane, not yet saved.

    Cases that all have one panel stand side by side.
    """
    cells = [[(role, case, plane) for plane in case.planes] for role, case in rows]
    single = all(len(row) == 1 for row in cells)
    if single:
        cells = [[cell for row in cells for cell in row]]
    columns, width = max(map(len, cells)), SINGLE_INCHES if single else PANEL_INCHES
    heights = [_panel_height(row, width, 2.0 if single else 1.15) for row in cells]
    across = width * columns + 0.3
    keys = _legend_keys(rows)
    abreast = _keys_abreast([str(key.get_label()) for key in keys], across)
    lines = max(1, math.ceil(len(keys) / abreast))
    below = 0.55 + 0.17 * (lines - 1 + len(footer.splitlines()))
    total = sum(heights) + _ABOVE_PANEL * len(cells) + _BELOW_PANEL * len(cells) + 0.3 + below
    figure = Figure(figsize=(across, total), layout=None)
    top = total - 0.3
    for row, height in zip(cells, heights, strict=True):
        top -= _ABOVE_PANEL
        for column, (role, case, plane) in enumerate(row):
            left = 0.15 + column * width
            place = (left / across, (top - height) / total, (width - 0.1) / across, height / total)
            axes = figure.add_axes(place)
            _draw_panel(axes, case, plane)
            axes.set_anchor("NW" if single else "N")
            if column == 0 or single:
                title = _title(role, case, 34 if single else 60)
                axes.set_title(title, loc="left", fontsize=10, fontweight="bold", parse_math=False)
        top -= height + _BELOW_PANEL
    if not all(case.picture for _, case in rows):
        # beside one panel there is no room for the whole sentence
        sides = {"R": "right", "A": "front"}
        words = CONVENTION if columns > 1 else f"patient {sides[cells[0][0][2].left]} is on the left"
        figure.suptitle(words, fontsize=9, x=0.985, y=1 - 0.08 / total, ha="right", va="top", color="0.35")
    if footer:
        figure.text(0.015, 0.08 / total, footer, family="monospace", fontsize=7.5, va="bottom")
    if keys:
        legend = figure.legend(
            handles=keys, loc="upper center", bbox_to_anchor=(0.5, (below - 0.12) / total), ncols=abreast,
            fontsize=_KEY_POINTS, frameon=False, borderaxespad=0,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name with dollar signs is no formula
    return figure


def shortened(name: str, length: int) -> str:
    """The name, its middle left out where it is longer than ``length``: beginnings and ends tell cases apart."""
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length - length // 2) :]}"


def _draw_panel(axes: Axes, case: FigureCase, plane: Plane) -> None:
    index = case.slice_of(plane)
    draw_slice(axes, plane, index, case.image, case.spacing_mm, case.grey)
    for labels, dashed in ((case.reference, False), (case.prediction, True)):
        if labels is not None:
            draw_contours(axes, plane, index, labels, case.spacing_mm, case.label_names, dashed)


def _panel_height(row: Sequence[tuple[str, FigureCase, Plane]], width: float, limit: float) -> float:
    # the tallest panel of the row when each is as wide as its column, within limits
    tallest = 0.35
    for _, case, plane in row:
        extent = [n * mm for n, mm in zip(case.image.shape, case.spacing_mm, strict=True)]
        tallest = max(tallest, extent[plane.up] / extent[plane.across])
    return width * min(tallest, limit)


def _title(role: str, case: FigureCase, length: int) -> str:
    score = "undefined" if case.score is None or math.isnan(case.score) else f"{case.score:.3f}"
    compared = case.reference is not None and case.prediction is not None
    known = f"   Dice {score}" if compared and not (case.score is None and not role) else ""
    missing = "" if case.reference is not None else "   no reference"
    return f"{role + ': ' if role else ''}{shortened(case.name, length - len(role))}{known}{missing}"


def _legend_keys(rows: Sequence[tuple[str, FigureCase]]) -> list[Line2D]:
    names = {value: name for _, case in rows for value, name in case.label_names.items()}
    keys = [
        Line2D([], [], color=colour_of(value), linewidth=5, label=shortened(names[value], _KEY_LETTERS))
        for value in sorted(names)
    ]
    if any(case.reference is not None for _, case in rows):
        keys.append(Line2D([], [], color="0.3", linewidth=1.6, label="reference (solid)"))
    if any(case.prediction is not None for _, case in rows):
        keys.append(Line2D([], [], color="0.3", linewidth=1.4, linestyle=(0, (2.2, 1.4)), label="prediction (dashed)"))
    return keys


def _keys_abreast(names: Sequence[str], across: float) -> int:
    """How many keys of a legend fit beside each other into a figure of that many inches, six at most."""
    widest = max((font(10 * _KEY_POINTS).getlength(name) / 720 for name in names), default=0.0)
    # matplotlib draws a handle of 2 letters' height, a pad of 0.8 to its words and 2 to the next column
    handle, gap = 2.8 * _KEY_POINTS / 72, 2 * _KEY_POINTS / 72
    return max(1, min(6, len(names), int((across - 0.2 + gap) / (handle + widest + gap))))


def canonical(volume: Volume) -> tuple[Volume, str]:
    """The volume in the nearest RAS+ order, and in words how its axes were turned."""
    turn = nib.orientations.io_orientation(volume.grid.affine)
    data = np.stack([nib.orientations.apply_orientation(channel, turn) for channel in volume.data])
    affine = volume.grid.affine @ nib.orientations.inv_ornt_aff(turn, volume.grid.shape)
    x, y, z = data.shape[1:]
    codes = "".join(nib.orientations.aff2axcodes(volume.grid.affine))
    return Volume(data, Grid((x, y, z), affine)), f"{codes} to RAS"


def _onto(grid: Grid, labels: Volume) -> NDArray[Any]:
    # the label at each voxel centre of `grid`, 0 outside: exact where the grids are the same
    own, _ = canonical(labels)
    data: NDArray[Any] = own.data[0]
    if own.grid.same_as(grid):
        return data
    to_own = np.linalg.inv(own.grid.affine) @ grid.affine
    placed: NDArray[Any] = ndimage.affine_transform(
        data, to_own[:3, :3], to_own[:3, 3], output_shape=grid.shape, order=0, mode="constant", cval=0
    )
    return placed


def _in_words(grid: Grid) -> str:
    codes = "".join(nib.orientations.aff2axcodes(grid.affine))
    shape = " x ".join(str(n) for n in grid.shape)
    spacing = " x ".join(f"{mm:.4g}" for mm in grid.spacing_mm)
    origin = ", ".join(f"{mm:.1f}" for mm in grid.affine[:3, 3])
    return f"{shape} voxels, {spacing} mm, axes {codes}, first voxel at ({origin}) mm"
