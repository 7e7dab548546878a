"""Figures: right cases, right slices, the same bytes for the same input."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scans import oblique_affine

from seg3d.reporting.curves import curves
from seg3d.reporting.figures import FigureCase, case_figure, geometry_figure, rows_figure, save_png, worst_median_best
from seg3d.reporting.panels import PLANES, best_slice, window_of
from seg3d.reporting.run_report.figures import curves_png
from seg3d.volume import Grid, Volume


def case(name: str = "a", score: float | None = 0.5) -> FigureCase:
    image = np.random.default_rng(0).normal(size=(20, 24, 16))
    label = np.zeros(image.shape, np.uint8)
    label[5:9, 10:15, 7:10] = 1
    return FigureCase(name, image, label, np.roll(label, 1, axis=0), (1.0, 1.0, 2.5), {1: "tumour"}, score)


def test_worst_median_and_best_by_score_and_name() -> None:
    scores = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.5, "e": None, "f": math.nan}
    assert worst_median_best(scores) == [("worst", "b"), ("median", "c"), ("best", "a")]
    assert worst_median_best({"a": 0.5, "b": 0.2}) == [("worst", "b"), ("best", "a")]
    assert worst_median_best({"a": None}) == []


def test_the_slice_with_most_foreground_is_shown() -> None:
    label = np.zeros((10, 10, 10), np.uint8)
    label[2, 2, 3] = label[2:6, 2:6, 7] = 1
    axial = next(plane for plane in PLANES if plane.normal == 2)
    assert best_slice(axial, label, None, "foreground") == 7


def test_the_same_figure_has_the_same_bytes(tmp_path: Path) -> None:
    one, two = (case_figure(case(), tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert one == two
    assert one.startswith(b"\x89PNG")


def test_a_figure_says_sides_planes_scale_and_score() -> None:
    texts = [text.get_text() for axes in rows_figure([("worst", case())]).axes for text in axes.texts]
    assert {"R", "L", "A", "P", "S", "I"} <= set(texts)
    assert any(text.endswith(" mm") for text in texts)
    titles = [axes.get_title(loc="left") for axes in rows_figure([("worst", case())]).axes]
    assert any("worst: a" in title and "0.500" in title for title in titles)


@pytest.mark.parametrize(("axis", "words"), [(0, "front"), (1, "right"), (2, "right")])
def test_a_single_slice_says_which_side_is_on_its_left(axis: int, words: str) -> None:
    image = np.zeros([1 if a == axis else 9 for a in range(3)])
    figure = rows_figure([("", FigureCase("a", image, None, None, (1.0, 1.0, 1.0), {}))])
    assert figure.get_suptitle() == f"patient {words} is on the left"


@pytest.mark.parametrize("shape", [(40, 40, 12), (40, 40, 1)])
@pytest.mark.parametrize("labels", [1, 4, 24])
def test_every_name_of_the_legend_is_within_the_picture(shape: tuple[int, int, int], labels: int) -> None:
    label = np.arange(math.prod(shape)).reshape(shape).astype(np.uint8) % (labels + 1)
    names = {value: f"inferior vena cava {value}" for value in range(1, labels + 1)} | {1: "a" * 90}
    figure = rows_figure([("", FigureCase("a", 1.0 * label, label, label, (1.0, 1.0, 1.0), names))])
    FigureCanvasAgg(figure).draw()
    texts = figure.legends[0].get_texts()
    assert len(texts) == labels + 2
    boxes = [text.get_window_extent() for text in texts]
    assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    lowest = min(axes.xaxis.label.get_window_extent().y0 for axes in figure.axes)
    assert all(box.y1 <= lowest for box in boxes)


def test_dollar_signs_in_names_are_no_formula(tmp_path: Path) -> None:
    label = np.ones((8, 8, 8), np.uint8)
    named = FigureCase("$^$", 1.0 * label, label, None, (1.0, 1.0, 1.0), {1: "$_$"})
    assert case_figure(named, tmp_path / "a.png").is_file()


def test_a_prediction_on_another_grid_is_drawn_out_of_place_and_told(tmp_path: Path) -> None:
    image = Volume(np.zeros((1, 12, 12, 12), np.int16), Grid((12, 12, 12), oblique_affine()))
    label = np.ones((1, 12, 12, 12), np.uint8)
    same = geometry_figure(image, Volume(label, image.grid), tmp_path / "same.png").read_bytes()
    moved = oblique_affine()
    moved[0, 3] += 20
    other = geometry_figure(image, Volume(label, Grid((12, 12, 12), moved)), tmp_path / "other.png").read_bytes()
    assert same != other


def test_a_curve_without_rows_is_still_a_figure(tmp_path: Path) -> None:
    path = save_png(curves([], "train_loss", "val_dice"), tmp_path / "curve.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_epochs_of_the_learning_curve_are_counted_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("seg3d.reporting.run_report.figures.png_bytes", lambda figure: drawn.append(figure) or b"")
    rows = [{"epoch": float(n), "train_loss": 1.0, "val_dice": dice} for n, dice in enumerate((0.1, 0.7, 0.3))]
    curves_png(SimpleNamespace(rows=rows, losses=[], epochs_planned=3, ended=True))
    assert drawn[0].axes[1].get_title(loc="right") == "best 0.700 at epoch 2"  # metrics.csv counts from 0


def test_the_grey_window_is_never_empty() -> None:
    assert window_of(np.full((4, 4, 4), 7.0)) == (6.5, 7.5)
    assert window_of(np.full((4, 4, 4), np.nan)) == (0.0, 1.0)


def test_maps_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="like its image"):
        FigureCase("a", np.zeros((3, 3, 3)), np.zeros((3, 3, 4)), None, (1.0, 1.0, 1.0), {})
