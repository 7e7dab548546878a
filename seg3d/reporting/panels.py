"""One slice of one case: grey image, contours, sides of the patient, scale bar; in physical proportions.

Images are drawn as a radiologist sees them: patient right on the left of an axial or coronal picture, patient
front at the top of an axial and on the left of a sagittal one. A plain picture is drawn as it is stored: first row at
the top, first column on the left, no sides and no millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from numpy.typing import NDArray

from seg3d.volume import Spacing

# colours that the colour-blind can tell apart, brightest on grey first
# Source: M. Okabe, K. Ito, Color Universal Design (2008)
OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
SCALE_BAR_MM = 50.0
_OUTLINE: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=2.2, foreground="black")]


@dataclass(frozen=True)
class Plane:
    """A way to cut a RAS volume.

    Attributes:
        name: What the cut is called.
        normal: Volume axis the cut is perpendicular to.
        across, up: Volume axes along the picture's width and height.
        left, right, bottom, top: Sides of the patient at the picture's edges; empty where nothing is known of them.
    """

    name: str
    normal: int
    across: int
    up: int
    left: str
    right: str
    bottom: str
    top: str

    @property
    def is_picture(self) -> bool:
        """Whether no patient is known to be in it: drawn as stored, in pixels."""
        return self.left == ""


# right (+x) and anterior (+y) are drawn on the left, so the horizontal axis runs backwards in all three
PLANES = (
    Plane("axial", normal=2, across=0, up=1, left="R", right="L", bottom="P", top="A"),
    Plane("coronal", normal=1, across=0, up=2, left="R", right="L", bottom="I", top="S"),
    Plane("sagittal", normal=0, across=1, up=2, left="A", right="P", bottom="I", top="S"),
)
PICTURE = Plane("picture", normal=2, across=0, up=1, left="", right="", bottom="", top="")


def planes_of(shape: tuple[int, ...], picture: bool) -> tuple[Plane, ...]:
    """The planes in which a volume of ``shape`` ``(x, y, z)`` has something to show.

    A volume of one slice has one plane; a plain picture is drawn as it is.
    """
    if picture:
        return (PICTURE,)
    thin = tuple(plane for plane in PLANES if shape[plane.normal] == 1)
    return thin[:1] if thin else PLANES


def colour_of(value: int) -> str:
    """Colour of a label value, the same in every figure; colours repeat after seven labels."""
    return OKABE_ITO[(value - 1) % len(OKABE_ITO)]


def best_slice(plane: Plane, reference: NDArray[Any] | None, prediction: NDArray[Any] | None, shown: str) -> int | None:
    """Index of the slice to show, ``None`` where neither map has foreground.

    Args:
        plane: How the volume is cut.
        reference: Label map ``(x, y, z)``.
        prediction: Label map ``(x, y, z)``.
        shown: ``"foreground"``: the slice with most reference foreground (most predicted where the reference
            has none). ``"disagreement"``: the slice with most voxels that differ, if any do.
    """
    sides = tuple(axis for axis in range(3) if axis != plane.normal)
    maps = [m for m in (reference, prediction) if m is not None]
    counts = [np.count_nonzero(m, axis=sides) for m in maps]
    if shown == "disagreement" and reference is not None and prediction is not None:
        counts.insert(0, np.count_nonzero(reference != prediction, axis=sides))
    for count in counts:
        if count.any():
            # of equal slices the middle one, so that a long even structure is cut at its centre
            equal = np.flatnonzero(count == count.max())
            return int(equal[len(equal) // 2])
    return None


def draw_slice(
    axes: Axes, plane: Plane, index: int, image: NDArray[Any], spacing_mm: Spacing, window: tuple[float, float]
) -> None:
    """Draw one grey slice of ``image`` ``(x, y, z)`` with its sides and a scale bar, in millimetres.

    A plain picture has neither.
    """
    picture = cut(image, plane, index)
    width, height = _size_mm(image.shape, plane, spacing_mm)
    axes.imshow(
        picture,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        origin="lower",
        extent=(0, width, 0, height),
        aspect="equal",
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("black")
    if plane.is_picture:
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_xlabel(f"{picture.shape[1]} x {picture.shape[0]} pixels", fontsize=8)
        return
    axes.set_xlim(width, 0)
    axes.set_ylim(0, height)
    _mark_sides(axes, plane)
    _mark_scale(axes, width, height)
    axes.set_xlabel(f"{plane.name}, slice {index + 1} of {image.shape[plane.normal]}", fontsize=8)


def draw_contours(
    axes: Axes,
    plane: Plane,
    index: int,
    labels: NDArray[Any],
    spacing_mm: Spacing,
    label_names: Mapping[int, str],
    dashed: bool,
) -> None:
    """Draw the outlines of the labels of one slice of a label map ``(x, y, z)``."""
    picture = np.pad(cut(labels, plane, index), 1)  # so that a label at the edge still has a closed outline
    steps = (spacing_mm[plane.across], spacing_mm[plane.up])
    x, y = ((np.arange(n) - 0.5) * step for n, step in zip(picture.shape[::-1], steps, strict=True))
    for value in sorted(label_names):
        mask = picture == value
        if not mask.any():
            continue
        lines = axes.contour(
            x,
            y,
            mask.astype(np.float32),
            levels=[0.5],
            colors=[colour_of(value)],
            linewidths=1.3 if dashed else 1.6,
            linestyles=[(0, (2.2, 1.4))] if dashed else ["solid"],
        )
        if dashed:
            # the dark outline shows the dashes where they lie on the reference
            lines.set_path_effects(_OUTLINE)


def window_of(image: NDArray[Any]) -> tuple[float, float]:
    """Grey-value range from the 0.5th to the 99.5th percentile of the finite voxels; never empty."""
    # every n-th voxel is enough for a percentile and keeps a large CT fast
    sample = image.reshape(-1)[:: max(1, image.size // 1_000_000)]
    finite = sample[np.isfinite(sample)].astype(np.float64)
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (0.5, 99.5)).tolist()
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def cut(volume: NDArray[Any], plane: Plane, index: int) -> NDArray[Any]:
    """One slice of a volume ``(x, y, z)``: rows along the plane's ``up`` axis, columns along its ``across`` axis."""
    # a view: np.take copies a volume that is not in C order, for each slice
    flat: NDArray[Any] = np.moveaxis(volume, plane.normal, 0)[index]
    return flat.T if plane.across < plane.up else flat


def _size_mm(shape: tuple[int, ...], plane: Plane, spacing_mm: Spacing) -> tuple[float, float]:
    return shape[plane.across] * spacing_mm[plane.across], shape[plane.up] * spacing_mm[plane.up]


def _mark_sides(axes: Axes, plane: Plane) -> None:
    style: dict[str, Any] = {
        "transform": axes.transAxes,
        "color": "white",
        "fontsize": 9,
        "fontweight": "bold",
        "path_effects": _OUTLINE,
        "clip_on": False,
    }
    axes.text(0.02, 0.5, plane.left, ha="left", va="center", **style)
    axes.text(0.98, 0.5, plane.right, ha="right", va="center", **style)
    axes.text(0.5, 0.02, plane.bottom, ha="center", va="bottom", **style)
    axes.text(0.5, 0.98, plane.top, ha="center", va="top", **style)


def scale_length(width_mm: float) -> float:
    """Length of the scale bar of a picture: a round number of millimetres that fits, 50 where there is room."""
    return next((mm for mm in (SCALE_BAR_MM, 20.0, 10.0, 5.0, 1.0) if mm <= 0.4 * width_mm), 0.3 * width_mm)


def _mark_scale(axes: Axes, width_mm: float, height_mm: float) -> None:
    length = scale_length(width_mm)
    right, low = 0.04 * width_mm, 0.06 * height_mm
    axes.plot(
        [right, right + length],
        [low, low],
        color="white",
        linewidth=2.2,
        path_effects=[patheffects.withStroke(linewidth=3.6, foreground="black")],
        solid_capstyle="butt",
    )
    axes.annotate(
        f"{length:g} mm",
        (right + length / 2, low),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color="white",
        fontsize=7,
        path_effects=_OUTLINE,
    )
