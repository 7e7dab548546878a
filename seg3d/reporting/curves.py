"""Learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seg3d.reporting.figures import save_png
from seg3d.reporting.panels import OKABE_ITO

_LOSS_COLOUR, _SCORE_COLOUR = OKABE_ITO[6], OKABE_ITO[5]
Row = Mapping[str, float | None]


def learning_curve_figure(
    rows: Sequence[Row], path: Path, *, loss: str = "train_loss", score: str = "val_dice", title: str = ""
) -> Path:
    """The PNG written at ``path``: loss above, validation Dice below, over epochs.

    Args:
        rows: One mapping per epoch with ``"epoch"`` (from 0; it is drawn from 1, as the training's lines count),
            ``loss`` and ``score``. A value that is absent, ``None`` or not finite is left out, as in an epoch without
            validation. No rows give an empty figure that says so.
        path: Where the figure goes.
        loss: Key of the training loss.
        score: Key of the validation score, 0..1.
        title: Shown on top.
    """
    return save_png(curves(counted_from_one(rows), loss, score, title), path)


def counted_from_one(rows: Sequence[Row]) -> list[Row]:
    """The rows with their epochs as people count them; rows without an epoch are left out."""
    return [{**row, "epoch": epoch + 1} for row in rows if (epoch := row.get("epoch")) is not None]


def curves(rows: Sequence[Row], loss: str, score: str, title: str) -> Figure:
    """The figure of :func:`learning_curve_figure`, not yet saved; epochs are drawn as they are."""
    figure = Figure(figsize=(7.0, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _draw(above, _points(rows, loss), _LOSS_COLOUR, "training loss")
    best = _draw(below, _points(rows, score), _SCORE_COLOUR, "validation Dice")
    below.set_ylim(0, 1)
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if best is not None:
        epoch, value = best
        below.plot([epoch], [value], marker="o", markersize=8, markerfacecolor="none", color="black", linestyle="none")
        below.set_title(f"best {value:.3f} at epoch {epoch:g}", fontsize=9, loc="right")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _points(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    points = []
    for row in rows:
        epoch, value = row.get("epoch"), row.get(key)
        if epoch is not None and value is not None and math.isfinite(value):
            points.append((float(epoch), float(value)))
    return sorted(points)


def _draw(axes: Axes, points: list[tuple[float, float]], colour: str, name: str) -> tuple[float, float] | None:
    """Draw one curve; its highest point, the first of equals."""
    axes.set_ylabel(name)
    axes.grid(color="0.9", linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if not points:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color="0.4")
        return None
    epochs, values = zip(*points, strict=True)
    # a single epoch is a dot, not an invisible line
    axes.plot(epochs, values, color=colour, linewidth=1.6, marker="o" if len(points) < 40 else None, markersize=3.5)
    return max(points, key=lambda point: (point[1], -point[0]))
