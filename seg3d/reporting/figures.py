"""Figures of cases: image, reference and prediction in three planes, and a prediction on its own grid."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.atomic import atomic_path
from seg3d.reporting.panels import PLANES, best_slice, colour_of, draw_contours, draw_slice, window_of
from seg3d.volume import Grid, Spacing, Volume

DPI = 130
PANEL_INCHES = 3.1
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

    def __post_init__(self) -> None:
        for name, labels in (("reference", self.reference), ("prediction", self.prediction)):
            if labels is not None and labels.shape != self.image.shape:
                raise ValueError(f"{name} of {self.name} is {self.image.shape} like its image, got {labels.shape}")
        if self.image.ndim != 3 or not self.image.size:
            raise ValueError(f"image of {self.name} is (x, y, z) with voxels, got {self.image.shape}")
        if self.shown not in ("foreground", "disagreement"):
            raise ValueError(f"shown is 'foreground' or 'disagreement', got {self.shown!r}")


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
    by_name = {case.name: case for case in cases}
    if not cases or len(by_name) != len(cases):
        raise ValueError(f"cases are at least one and differ in name, got {[case.name for case in cases]}")
    chosen = worst_median_best({case.name: case.score for case in cases})
    rows = [(role, by_name[name]) for role, name in chosen] or [("", case) for case in cases[:3]]
    return _rows_figure(rows, path)


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
    """A figure with a row for each ``(role, case)`` and a column for each plane, not yet saved."""
    heights = [_row_height(case) for _, case in rows]
    below = 0.55 + 0.17 * len(footer.splitlines())
    total = sum(heights) + 0.55 + below
    figure = Figure(figsize=(PANEL_INCHES * len(PLANES) + 0.3, total), layout=None)
    grid = figure.add_gridspec(
        len(rows), len(PLANES), height_ratios=heights, left=0.015, right=0.985, wspace=0.04, hspace=0.0,
        top=1 - 0.5 / total, bottom=below / total,
    )  # fmt: skip
    for number, (role, case) in enumerate(rows):
        panels = [figure.add_subplot(grid[number, column]) for column in range(len(PLANES))]
        _draw_case(panels, case)
        panels[0].set_title(_title(role, case), loc="left", fontsize=10, fontweight="bold")
    figure.suptitle(CONVENTION, fontsize=9, x=0.985, y=1 - 0.08 / total, ha="right", va="top", color="0.35")
    if footer:
        figure.text(0.015, 0.08 / total, footer, family="monospace", fontsize=7.5, va="bottom")
    _legend(figure, rows, (below - 0.12) / total)
    return figure


def _draw_case(panels: Sequence[Any], case: FigureCase) -> None:
    window = case.window or window_of(case.image)
    for axes, plane in zip(panels, PLANES, strict=True):
        index = best_slice(plane, case.reference, case.prediction, case.shown)
        index = case.image.shape[plane.normal] // 2 if index is None else index
        draw_slice(axes, plane, index, case.image, case.spacing_mm, window)
        for labels, dashed in ((case.reference, False), (case.prediction, True)):
            if labels is not None:
                draw_contours(axes, plane, index, labels, case.spacing_mm, case.label_names, dashed)


def _row_height(case: FigureCase) -> float:
    # the tallest panel of the row when each is as wide as its column, within limits
    extent = [n * mm for n, mm in zip(case.image.shape, case.spacing_mm, strict=True)]
    tallest: float = max(extent[plane.up] / extent[plane.across] for plane in PLANES)
    return PANEL_INCHES * min(max(tallest, 0.35), 1.15) + 0.55


def _title(role: str, case: FigureCase) -> str:
    score = "undefined" if case.score is None or math.isnan(case.score) else f"{case.score:.3f}"
    compared = case.reference is not None and case.prediction is not None
    known = f"   Dice {score}" if compared and not (case.score is None and not role) else ""
    missing = "" if case.reference is not None else "   no reference"
    return f"{role + ': ' if role else ''}{textwrap.shorten(case.name, 60)}{known}{missing}"


def _legend(figure: Figure, rows: Sequence[tuple[str, FigureCase]], y: float) -> None:
    names = {value: name for _, case in rows for value, name in case.label_names.items()}
    handles = [Line2D([], [], color=colour_of(value), linewidth=5, label=names[value]) for value in sorted(names)]
    if any(case.reference is not None for _, case in rows):
        handles.append(Line2D([], [], color="0.3", linewidth=1.6, label="reference (solid)"))
    if any(case.prediction is not None for _, case in rows):
        handles.append(
            Line2D([], [], color="0.3", linewidth=1.4, linestyle=(0, (2.2, 1.4)), label="prediction (dashed)")
        )
    if handles:
        figure.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, y), ncols=min(6, len(handles)),
            fontsize=8, frameon=False, borderaxespad=0,
        )  # fmt: skip


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
