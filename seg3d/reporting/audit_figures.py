"""Figures of an audit: scores by set-up, spread of weights by layer, where the runs' label maps disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from seg3d.atomic import atomic_path
from seg3d.keyed import keyed
from seg3d.reporting.figures import save_png
from seg3d.reporting.panels import OKABE_ITO, cut, draw_slice, planes_of, window_of
from seg3d.volume import Spacing

# fixed by name, so that a set-up has its colour in every report
COLOURS = {"random": OKABE_ITO[5], "seeded": OKABE_ITO[1], "deterministic": OKABE_ITO[2]}
_ABREAST, _BLOCKS = 6, 4  # panels of labels beside each other, and below each other
_SIDES = {"R": "; patient right on the left", "A": "; patient front on the left"}


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """``stem.png`` and ``stem.svg``, holding the figure."""
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    save_png(figure, png)
    FigureCanvasAgg(figure)
    with atomic_path(svg) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return [png, svg]


def score_figure(found: Mapping[str, Any]) -> Figure:
    """Dice and IoU of each label or region by set-up: a box for each set-up and a point for each run.

    Each mean is over the cases that have a score in every run of the audit; where these are not all, the titles tell.
    Of many labels those are drawn whose Dice spreads most over the runs of a set-up.

    Args:
        found: What :func:`seg3d.auditing.gather.gather` collected.
    """
    labels, cases = found["labels"], len(found["test_cases"])
    shown = _widest(found)
    whole = all(found["scored_cases"][label] == cases for label in shown)
    columns, blocks = min(_ABREAST, len(shown)), -(-len(shown) // _ABREAST)
    figure = Figure(figsize=(2.6 * columns + 2.2, 6.2 * blocks), layout="constrained")
    panels = figure.subplots(2 * blocks, columns, squeeze=False)
    for unused in panels.flat:
        unused.set_axis_off()
    over = f"{cases} test cases" if whole else "cases with a score in every run"
    for number, label in enumerate(shown):
        block, column = divmod(number, _ABREAST)
        for axes, score in zip(panels[2 * block : 2 * block + 2, column], ("Dice", "IoU"), strict=True):
            axes.set_axis_on()
            _draw_boxes(axes, {setup: of["scores"][label][score]["values"] for setup, of in found["setups"].items()})
            counted = "" if whole else f"\n{found['scored_cases'][label]} of {cases} cases"
            axes.set_title(f"{labels[label]}: {score}{counted}", fontsize=10, parse_math=False)
            if not column:
                axes.set_ylabel(f"{score}, mean over {over}")
    if len(shown) < len(labels):
        figure.suptitle(f"The {len(shown)} of {len(labels)} {found['scored']}s whose Dice spreads most over the runs")
    return figure


def _widest(found: Mapping[str, Any]) -> list[str]:
    """Labels to be drawn, in their order: all, or of too many those with the largest SD of Dice in any set-up."""

    def spread(label: str) -> float:
        return max(of["scores"][label]["Dice"]["sd"] or 0.0 for of in found["setups"].values())

    labels = list(found["labels"])
    chosen = set(sorted(labels, key=spread, reverse=True)[: _ABREAST * _BLOCKS])
    return [label for label in labels if label in chosen]


def layer_figure(found: Mapping[str, Any]) -> Figure:
    """Mean standard deviation of the weights of each layer over the runs of a set-up, as share of their mean size."""
    setups = found["setups"]
    names = [layer["layer"] for layer in next(iter(setups.values()))["layers"]]
    figure = Figure(figsize=(8.0, 0.9 + 0.17 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    for number, (setup, of) in enumerate(setups.items()):
        shares = [100 * _share(layer) for layer in of["layers"]]
        height = 0.8 / len(setups)
        middle = places + (number - (len(setups) - 1) / 2) * height
        # a set-up without spread has no bars, which should not look like something forgotten
        label = setup if any(shares) else f"{setup} (0 in every layer)"
        axes.barh(middle, shares, height, color=COLOURS[setup], label=label)
    axes.set_yticks(places, names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("SD over runs, % of the mean size of the layer's values after training")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(setups), frameon=False)
    return figure


def disagreement_figure(
    image: NDArray[Any],
    shares: Mapping[str, NDArray[np.float32]],
    spacing_mm: Spacing,
    case: str,
    window: tuple[float, float] | None = None,
    picture: bool = False,
) -> Figure:
    """The slice on which most voxels are in dispute, for each set-up: share of runs that differ from most.

    It is axial, unless the volume is a single slice or a plain picture; without any dispute it is the middle one.

    Args:
        image: ``(x, y, z)`` in RAS+ order.
        shares: By set-up, share of runs that do not say what most say, ``(x, y, z)``.
        spacing_mm: Of the voxels.
        case: Its name.
        window: Grey values drawn black and white.
        picture: It is a plain picture, drawn as it is stored.
    """
    plane = planes_of(image.shape, picture)[0]
    sides = tuple(axis for axis in range(3) if axis != plane.normal)
    disputed = np.sum([np.count_nonzero(share, axis=sides) for share in shares.values()], axis=0)
    index = int(np.argmax(disputed)) if disputed.any() else len(disputed) // 2
    top = max(0.5, *(float(share.max()) for share in shares.values()))  # of three labels two may be outvoted
    figure = Figure(figsize=(3.4 * len(shares) + 0.9, 4.0), layout="constrained")
    panels = figure.subplots(1, len(shares), squeeze=False)[0]
    for axes, (setup, share) in zip(panels, shares.items(), strict=True):
        draw_slice(axes, plane, index, image, spacing_mm, window or window_of(image))
        shown = cut(share, plane, index)
        width, height = (image.shape[axis] * spacing_mm[axis] for axis in (plane.across, plane.up))
        axes.imshow(
            np.ma.masked_equal(shown, 0), cmap="inferno", vmin=0, vmax=top, origin="lower",
            extent=(0, width, 0, height), interpolation="nearest",
        )  # fmt: skip
        counts = [np.count_nonzero(part) for part in (shown, share)]
        words = f"{counts[1]} pixels" if picture else f"{counts[0]} voxels, {counts[1]} in the case"
        axes.set_title(f"{setup}: {words}", fontsize=9)
    figure.colorbar(panels[0].images[-1], ax=list(panels), shrink=0.8, label="share of runs that differ from most")
    place = "" if picture else f", {plane.name} slice {index + 1} of {image.shape[plane.normal]}{_SIDES[plane.left]}"
    figure.suptitle(f"{case}{place}", fontsize=9, parse_math=False)
    return figure


def _draw_boxes(axes: Axes, values: Mapping[str, Sequence[float | None]]) -> None:
    for place, (setup, of) in enumerate(values.items()):
        known = [value for value in of if value is not None]
        axes.boxplot([known], positions=[place], widths=0.55, showfliers=False, medianprops={"color": "0.2"})
        jitter = keyed(0, "jitter", setup).uniform(-0.14, 0.14, len(known))
        axes.scatter(place + jitter, known, s=22, color=COLOURS[setup], edgecolors="0.2", linewidths=0.5, zorder=3)
    axes.set_xticks(range(len(values)), [f"{setup}\n(n={len(of)})" for setup, of in values.items()], fontsize=8)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    low, high = axes.get_ylim()
    if high - low < 0.01:  # identical runs would be drawn on an axis of rounding errors
        middle = (high + low) / 2
        axes.set_ylim(middle - 0.005, middle + 0.005)
    axes.ticklabel_format(axis="y", useOffset=False)


def _share(layer: Mapping[str, Any]) -> float:
    return float(layer["mean_sd"] / layer["mean_size"]) if layer["mean_size"] and layer["mean_sd"] else 0.0
