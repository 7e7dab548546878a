"""The figures of a run's page, as bytes of PNG files."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from seg3d.reporting.cases import load_worst_median_best
from seg3d.reporting.curves import Row, curves
from seg3d.reporting.figures import DPI, rows_figure, worst_median_best_rows
from seg3d.reporting.panels import OKABE_ITO
from seg3d.reporting.run_report.pieces import Pieces
from seg3d.reporting.run_report.scores import Evaluation

_SIZE = (5.6, 5.2)  # inches: narrow, so that its words are legible on a phone
_STEPS_DRAWN, _FEW_STEPS = 5000, 60
_PREFIX = "val_dice_"
# of the labels that have a line of their own; without that of their mean
_LINES = (*OKABE_ITO[1:5], OKABE_ITO[6], OKABE_ITO[0])


@dataclass(frozen=True)
class Sheet:
    """A contact sheet.

    Attributes:
        png: The picture.
        inches: How wide it was drawn; its panels are three inches wide or more.
        roles: ``(role, case)`` of its rows.
    """

    png: bytes
    inches: float
    roles: list[tuple[str, str]]


def curves_png(pieces: Pieces) -> bytes | None:
    """Loss of each step and epoch above, validation Dice below; ``None`` where no step was recorded."""
    if not pieces.rows and not pieces.losses:
        return None
    # people count epochs from 1, as the training's lines do
    rows: list[Row] = [{**row, "epoch": epoch + 1} for row in pieces.rows if (epoch := row.get("epoch")) is not None]
    figure = curves(rows, "train_loss", "val_dice")
    figure.set_size_inches(*_SIZE)
    above, below = figure.axes
    _draw_steps(above, pieces.losses)
    _draw_labels(below, rows)
    if pieces.epochs_planned is not None and not pieces.ended:
        below.set_xlim(0.5, pieces.epochs_planned + 0.5)  # how far it came of what was planned
    return png_bytes(figure)


def sheet_png(
    pieces: Pieces, evaluation: Evaluation, find_image: Callable[[str], Path], find_map: Callable[[str], Path]
) -> Sheet:
    """The worst, median and best case with contours.

    Args:
        pieces: The run.
        evaluation: Its scores.
        find_image: The scan of a case.
        find_map: Where a label map that the summary names lies now.

    Raises:
        DataError: A scan or label map is not there, or does not fit.
    """
    ignored = pieces.model.get("ignore_label")
    cases = load_worst_median_best(
        evaluation.summary,
        dict(evaluation.ranking),
        find_image,
        _names(pieces, evaluation),
        ignore_label=ignored,
        find_map=find_map,
    )
    rows = worst_median_best_rows(cases)
    figure = rows_figure(rows)
    return Sheet(png_bytes(figure), float(figure.get_size_inches()[0]), [(role, case.name) for role, case in rows])


def png_bytes(figure: Figure) -> bytes:
    """The same figure gives the same bytes (no date, no software name)."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _names(pieces: Pieces, evaluation: Evaluation) -> dict[int, str]:
    """As the run declares them: of regions, references hold labels that no prediction shows."""
    declared: Mapping[str, int] = pieces.model.get("labels", {})
    names = {value: name for name, value in declared.items() if value not in (0, pieces.model.get("ignore_label"))}
    return names or {int(value): str(entry["name"]) for value, entry in evaluation.summary["per_label"].items()}


def _draw_steps(axes: Axes, losses: Sequence[tuple[int, int, float]]) -> None:
    """Faint dots behind the epochs' means: the steps of an epoch spread over its width."""
    batches: dict[int, int] = defaultdict(int)
    for epoch, batch, _ in losses:
        batches[epoch] = max(batches[epoch], batch + 1)
    # an epoch that was stopped is as wide as the others
    full = max(batches.values(), default=1)
    drawn = losses[:: max(1, len(losses) // _STEPS_DRAWN)]
    places = [epoch + 0.5 + (batch + 0.5) / full for epoch, batch, _ in drawn]
    for text in axes.texts if drawn else ():
        text.remove()  # "not measured", where no epoch has ended
    size, grey = (3.0, "0.75") if len(drawn) > _FEW_STEPS else (6.0, "0.6")
    axes.plot(places, [loss for *_, loss in drawn], ".", color=grey, markersize=size, zorder=1, label="steps")
    axes.set_ylabel("training loss (dots: steps)")


def _draw_labels(axes: Axes, rows: Sequence[Row]) -> None:
    """A thin line for each label beneath their mean, where there are several."""
    keys = [key for key in (rows[0] if rows else {}) if key.startswith(_PREFIX)]
    if len(keys) < 2:
        return
    for key, colour in zip(keys, _LINES, strict=False):
        points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
        name = key.removeprefix(_PREFIX)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.9, marker=".", zorder=1, label=_plain(name))
    if axes.lines:  # a training without any validation has none
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower right")


def _plain(name: str) -> str:
    """Without matplotlib's mathematics and its mark for lines that have no name."""
    return name.replace("$", r"\$").lstrip("_")[:24]
