"""``seg3d figure``: what pictures show is what the numbers say, and the patient's right is on the left."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scans import ORIENTATIONS, oriented_affine, write_nifti
from skimage.color import rgb2lab
from typer.testing import CliRunner

from seg3d.cli import app
from seg3d.errors import ConfigError, Seg3dError
from seg3d.reporting.contact_sheet import contact_sheets, ranked, thumbnail_of
from seg3d.reporting.figures import FigureCase, rows_figure, shortened
from seg3d.reporting.loading import CaseFiles, load_case, undeclared
from seg3d.reporting.outcome import CORRECT, MISSED, ONE_LABEL, WRONG, claims_of, outcome_of, tally_case
from seg3d.reporting.outcome_figure import COLOURS, outcome_figure, outcome_pixels, panel_size
from seg3d.reporting.panels import OKABE_ITO, PICTURE, PLANES, planes_of
from seg3d.reporting.raster import outline, rgb, zoomed, zoomed_labels
from seg3d.reporting.sweep import frames_per_second, sweep_frames
from seg3d.verbs.evaluate import evaluate
from seg3d.verbs.figure import figure

AXIAL, CORONAL, SAGITTAL = PLANES
NAMES = {1: "tumour"}


def case(
    reference: np.ndarray | None,
    prediction: np.ndarray | None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    **more: object,
) -> FigureCase:
    shape = next(m.shape for m in (reference, prediction) if m is not None)
    image = np.random.default_rng(1).normal(size=shape)
    names = more.pop("names", NAMES)
    return FigureCase("a", image, reference, prediction, spacing, names, **more)


def random_maps(shape: tuple[int, int, int] = (20, 18, 6), labels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(7)
    one, two = (draw.integers(0, labels + 2, shape).astype(np.uint8) for _ in range(2))
    one[one > labels] = two[two > labels] = 0
    return one, two


def pixels_of(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int(np.all(picture == colour, axis=-1).sum())


def middle_of(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Row and column of the middle of a colour, as shares of the picture."""
    places = np.argwhere(np.all(picture[..., :3] == colour, axis=-1))
    assert len(places), "the colour is in the picture"
    return tuple(places.mean(axis=0) / picture.shape[:2])


def write_case(folder: Path, name: str, reference: np.ndarray, prediction: np.ndarray, **how: object) -> None:
    """A case as files: ``images``, ``labels``, ``predictions``."""
    image = np.random.default_rng(len(name)).normal(100, 20, reference.shape).astype(np.float32)
    for part, data in (("images", image), ("labels", reference), ("predictions", prediction)):
        write_nifti(folder / part / f"{name}.nii.gz", data, **how)
    manifest = {"labels": {"background": 0, "tumour": 1}, "ignore_label": None}
    (folder / "predictions" / "predictions.json").write_text(json.dumps(manifest))


def draw(folder: Path, **options: object) -> list[Path]:
    parts = [folder / part for part in ("predictions", "images", "labels")]
    return figure(*parts, folder / "figures", **{"movie": "none", **options})


def claims(folder: Path) -> dict[str, dict]:
    found = json.loads((folder / "figures" / "figures.json").read_text())
    return {one["case"]: one for one in found["cases"]}


def blob(start: tuple[int, int, int] = (4, 5, 3), shape: tuple[int, int, int] = (20, 20, 10)) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(s, s + 5) for s in start)] = 1
    return label


# what is shown is what is counted


@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_pixels_of_each_colour_are_the_voxels_of_each_outcome(plane: object) -> None:
    reference, prediction = random_maps()
    shown = case(reference, prediction)
    for index in range(3):
        r, p = (np.take(m, index, axis=plane.normal) == 1 for m in (reference, prediction))
        picture = outcome_pixels(shown, plane, index)
        assert pixels_of(picture, COLOURS[CORRECT]) == (r & p).sum() > 0
        assert pixels_of(picture, COLOURS[WRONG]) == (~r & p).sum() > 0
        assert pixels_of(picture, COLOURS[MISSED]) == (r & ~p).sum() > 0


def test_the_saved_outcome_map_can_be_counted(tmp_path: Path) -> None:
    reference, prediction = random_maps((20, 20, 6))
    write_case(tmp_path, "a", reference, prediction)
    draw(tmp_path)
    picture = np.asarray(Image.open(tmp_path / "figures" / "outcome" / "a.png"))
    zoom = 560 // 20
    slices = claims(tmp_path)["a"]["slices"]
    for number, claim in enumerate(slices):
        top = 40 + number * (20 * zoom + 46)
        panels = picture[top : top + 20 * zoom]
        r, p = (m[:, :, claim["slice"] - 1] == 1 for m in (reference, prediction))
        counts = {CORRECT: (r & p).sum(), WRONG: (~r & p).sum(), MISSED: (r & ~p).sum()}
        assert [claim[key] for key in ("correct", "wrong", "missed")] == [counts[key] for key in (1, 2, 3)]
        for value, count in counts.items():
            covered = pixels_of(panels, COLOURS[value])
            # letters of the sides and the scale bar cover a little
            assert 0.97 * count * zoom**2 <= covered <= count * zoom**2


def test_numbers_of_the_whole_case_are_those_of_evaluate(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        reference, prediction = random_maps((9, 8, 7))
        write_case(tmp_path, name, np.roll(reference, seed, 0), prediction)
    draw(tmp_path)
    summary = evaluate(tmp_path / "predictions", tmp_path / "labels", tmp_path / "summary.json")
    for row in summary["metric_per_case"]:
        found = claims(tmp_path)[row["case"]]["whole_case"]
        metrics = row["metrics"]["1"]
        assert found["mean_dice"] == pytest.approx(metrics["Dice"], abs=1e-12)
        assert [found["correct"], found["wrong"], found["missed"]] == [metrics[key] for key in ("TP", "FP", "FN")]


def test_labels_that_a_network_of_regions_does_not_tell_apart_are_one_as_in_evaluate(tmp_path: Path) -> None:
    reference = blob()
    reference[4:6] *= 2
    reference[15:18, 15:18] = 3  # in no region
    write_case(tmp_path, "a", reference, blob((5, 5, 3)))
    labels = {"background": 0, "edema": 1, "core": 2, "bone": 3}
    manifest = {"labels": labels, "ignore_label": None, "regions": [{"name": "all", "values": [1, 2], "label": 1}]}
    (tmp_path / "predictions" / "predictions.json").write_text(json.dumps(manifest))
    told: list[str] = []
    draw(tmp_path, tell=told.append)
    assert told[0] == "NOTE: bone is not drawn, because it is in no region"
    summary = evaluate(tmp_path / "predictions", tmp_path / "labels", tmp_path / "summary.json")
    found = claims(tmp_path)["a"]["whole_case"]
    assert found["dice"] == {"edema + core": pytest.approx(summary["foreground_dice"]["mean"])}
    assert (found["correct"], found["wrong"], found["missed"]) == (100, 25, 25)


def test_another_label_is_wrong_and_an_ignored_voxel_is_neither_right_nor_wrong() -> None:
    reference = np.array([0, 0, 1, 1, 1, 9, 9], np.uint8)
    prediction = np.array([0, 2, 1, 2, 0, 1, 0], np.uint8)
    assert outcome_of(prediction, reference, 9).tolist() == [0, WRONG, CORRECT, WRONG, MISSED, 0, 0]


def test_the_mean_dice_is_over_labels_that_are_somewhere() -> None:
    reference, prediction = np.zeros((2, 3, 4, 1), np.uint8)
    reference[0], prediction[0, :2], prediction[1, :1] = 1, 1, 2
    found = tally_case(case(reference, prediction, names={1: "one", 2: "two", 3: "three"}))
    assert found is not None
    assert dict(found.dice) == {"one": pytest.approx(4 / 6), "two": 0.0, "three": None}
    assert found.mean_dice == pytest.approx(1 / 3)
    assert (found.correct, found.wrong, found.missed) == (2, 1, 2)


def test_slices_with_most_reference_and_most_differences_are_shown() -> None:
    reference, prediction = blob(), blob()
    reference[:, :, 5] = 0
    reference[4:10, 4:10, 5] = prediction[4:10, 4:10, 5] = 1
    prediction[12:19, 12:19, 8] = 1
    found = [(claim.index, claim.why) for claim in claims_of(case(reference, prediction), AXIAL)]
    assert found == [(5, "most reference"), (8, "most differences")]


def test_ignored_voxels_choose_no_slice_and_the_reason_is_the_true_one() -> None:
    reference, prediction = blob(), blob()
    reference[:, :, 9] = 255  # a slice full of what counts nowhere
    (claim,) = claims_of(case(reference, prediction, ignore_label=255), AXIAL)
    assert (claim.index, claim.why) == (5, "most reference")
    (claim,) = claims_of(case(0 * reference, prediction), AXIAL)
    assert (claim.index, claim.why) == (5, "most prediction")
    (claim,) = claims_of(case(0 * reference, 0 * prediction), AXIAL)
    assert claim.why == "nothing is marked"


@pytest.mark.parametrize("kind", ["protanopia", "deuteranopia", "tritanopia", "all"])
def test_outcomes_can_be_told_apart_by_the_colour_blind(kind: str) -> None:
    # Source: Machado, Oliveira, Fernandes, A physiologically-based model for simulation of color vision deficiency
    # (2009), severity 1.0
    seen = {
        "protanopia": [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
        "deuteranopia": [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881],
        "tritanopia": [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900],
        "all": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    }[kind]

    def lab(colour: tuple[int, int, int]) -> np.ndarray:
        share = np.array(colour) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        mixed = np.clip(np.reshape(seen, (3, 3)) @ linear, 0, 1)
        shown = np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)
        return np.asarray(rgb2lab(shown.reshape(1, 1, 3))[0, 0])

    greys = [(grey, grey, grey) for grey in (0, 64, 128, 192, 255)]
    for one, two in itertools.combinations(COLOURS.values(), 2):
        assert np.linalg.norm(lab(one) - lab(two)) > 30
    for one, grey in itertools.product(COLOURS.values(), greys):
        assert np.linalg.norm(lab(one) - lab(grey)) > 20


# where it is shown


def corner_case(tmp_path: Path, codes: str) -> FigureCase:
    """A block in the patient's right, front, upper corner, in an array whose axes point towards ``codes``."""
    sizes = {"R": 24, "L": 24, "A": 20, "P": 20, "S": 16, "I": 16}
    shape = tuple(sizes[code] for code in codes)
    affine = oriented_affine(codes, shape, (1.0, 1.0, 1.0))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    low, high = world.min(axis=(0, 1, 2)), world.max(axis=(0, 1, 2))
    # x grows to the patient's right, y to the front, z to the head
    label = np.all(world > low + 0.7 * (high - low), axis=-1).astype(np.uint8)
    write_nifti(tmp_path / "image.nii.gz", world[..., 0].astype(np.float32), affine)
    write_nifti(tmp_path / "label.nii.gz", label, affine)
    files = CaseFiles("a", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", tmp_path / "label.nii.gz")
    return load_case(files, NAMES)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_right_is_on_the_left_and_head_and_front_are_above(tmp_path: Path, codes: str) -> None:
    found = corner_case(tmp_path, codes)
    for plane in PLANES:  # sagittal: the front is on the left
        picture = outcome_pixels(found, plane, found.slice_of(plane))
        row, column = middle_of(picture, COLOURS[CORRECT])
        assert row < 0.3
        assert column < 0.3
    # the image is turned with its label: it grows brighter to the patient's right
    picture = outcome_pixels(found, AXIAL, 0)
    assert picture[-1, 0, 0] > picture[-1, -1, 0]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRP", "IAL"])
def test_contours_and_movies_agree_with_the_outcome_map(tmp_path: Path, codes: str) -> None:
    found = corner_case(tmp_path, codes)
    drawn = rows_figure([("", found)])
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    page = np.asarray(canvas.buffer_rgba())[..., :3]
    height = page.shape[0]
    for axes in drawn.axes:
        box = axes.get_window_extent()
        panel = page[height - int(box.y1) : height - int(box.y0), int(box.x0) : int(box.x1)]
        row, column = middle_of(panel, rgb(OKABE_ITO[0]))
        assert row < 0.3
        assert column < 0.3
        letters = {text.get_text(): text.get_position() for text in axes.texts}
        left, right = ("A", "P") if "sagittal" in axes.get_xlabel() else ("R", "L")
        assert letters[left][0] < 0.5 < letters[right][0]
    frames = list(sweep_frames(found, AXIAL, 240))
    row, column = middle_of(frames[-1][:200], rgb(OKABE_ITO[0]))
    assert row < 0.3
    assert column < 0.35  # the slice stands in the middle of a wider frame


def test_a_label_map_of_the_size_of_the_image_that_lies_elsewhere_is_not_drawn(tmp_path: Path) -> None:
    write_case(tmp_path, "a", blob(), blob())
    files = CaseFiles("a", *(tmp_path / part / "a.nii.gz" for part in ("images", "predictions", "labels")))
    assert load_case(files, NAMES).reference is not None
    moved = np.diag([1.0, 1.0, 1.0, 1.0])
    moved[0, 3] = 5
    write_nifti(tmp_path / "images" / "a.nii.gz", np.zeros(blob().shape, np.int16), moved)  # of another patient
    with pytest.raises(Seg3dError, match="lies elsewhere"):
        load_case(files, NAMES)


@pytest.mark.real_data
def test_the_left_lung_of_a_real_patient_is_on_the_right(real_data: Callable[[str], Path]) -> None:
    folder = real_data("ct_lung_tumour")
    label = folder / "LUNG1-001_seg.nii.gz"
    names = {1: "left lung", 2: "right lung", 3: "cord", 4: "tumour"}
    found = load_case(CaseFiles("a", folder / "LUNG1-001_ct.nii.gz", label, label), names)
    for value, wanted in ((1, (0.5, 1.0)), (2, (0.0, 0.5))):
        one = FigureCase("a", found.image, None, None, found.spacing_mm, names)
        lung = (found.reference == value).astype(np.uint8)
        one = FigureCase("a", found.image, lung, lung, found.spacing_mm, {1: names[value]})
        _, column = middle_of(outcome_pixels(one, AXIAL, one.slice_of(AXIAL)), COLOURS[CORRECT])
        assert wanted[0] < column < wanted[1]


def test_voxels_have_their_physical_proportions() -> None:
    label = np.zeros((30, 30, 10), np.uint8)
    label[6:18, 6:18, 3:7] = 1  # 12 x 12 x 12 mm
    one = case(label, label, (1.0, 1.0, 3.0))
    for plane in PLANES:
        size = panel_size(one, plane)
        assert size[0] == size[1]  # 30 mm each way
        inside = np.all(outcome_pixels(one, plane, one.slice_of(plane), size) == COLOURS[CORRECT], axis=-1)
        height, width = (inside.any(axis=axis).sum() for axis in (1, 0))
        assert height == width == round(0.4 * size[0])


def test_a_single_voxel_survives_where_pixels_are_fewer() -> None:
    label = np.zeros((97, 130), np.uint8)
    label[50, 77] = 3
    assert zoomed_labels(label, (20, 20)).max() == 3
    assert np.unique(zoomed_labels(label, (970, 1300)), return_counts=True)[1][1] == 100


def test_grey_values_that_share_a_pixel_are_averaged() -> None:
    picture = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert zoomed(picture, (2, 3)).tolist() == [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]
    assert np.array_equal(zoomed(picture, (8, 12)), np.kron(picture, np.ones((2, 2))))


def test_an_outline_lies_inside_its_label_and_is_closed_at_the_border() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[0:6, 0:6] = 1
    edge = outline(labels, 2)
    assert edge.sum() == 36 - 4
    assert not edge[labels == 0].any()
    assert not edge[2:4, 2:4].any()


# pictures


def write_pictures(folder: Path, names: tuple[str, ...] = ("a", "b")) -> None:
    for name in names:
        image = np.tile(np.arange(30, dtype=np.uint8) * 8, (20, 1))
        mask = np.zeros((20, 30), np.uint8)
        mask[0:3, 0:4] = 255  # first rows, first columns
        moved = np.roll(mask, ord(name[0]) - ord("a"), axis=1)
        for part, data in (("images", image), ("labels", mask), ("predictions", moved)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(data).save(folder / part / f"{name}.png")


def test_a_picture_is_drawn_as_it_is_stored_without_sides_or_movie(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    written = draw(tmp_path, movie="both")
    assert {path.parent.name for path in written} == {"figures", "overlay", "outcome"}
    parts = (tmp_path / part / "b.png" for part in ("images", "predictions", "labels"))
    found = load_case(CaseFiles("b", *parts), None)
    assert found.picture
    assert found.planes == (PICTURE,)
    picture = outcome_pixels(found, PICTURE, 0)
    assert picture.shape == (20, 30, 3)
    outcome = np.zeros((20, 30), int)
    outcome[:3, 0], outcome[:3, 1:4], outcome[:3, 4] = MISSED, CORRECT, WRONG
    for value, colour in COLOURS.items():
        assert np.array_equal(np.all(picture == colour, axis=-1), outcome == value)
    axes = rows_figure([("", found)]).axes
    assert len(axes) == 1
    assert [text.get_text() for text in axes[0].texts] == []
    assert axes[0].get_ylim() == (20, 0)
    assert axes[0].get_xlim() == (0, 30)
    assert claims(tmp_path)["b"]["whole_case"]["mean_dice"] == pytest.approx(0.75)


def test_colours_of_a_picture_are_shown_as_their_brightness(tmp_path: Path) -> None:
    colours = np.zeros((4, 5, 3), np.uint8)
    colours[0] = (255, 0, 0)
    colours[1] = (0, 255, 0)
    for name in ("image", "label"):
        Image.fromarray(colours if name == "image" else colours[..., 0]).save(tmp_path / f"{name}.png")
    image = load_case(CaseFiles("a", tmp_path / "image.png", tmp_path / "label.png", None), None).image
    assert image[0, :3, 0].tolist() == pytest.approx([0.299 * 255, 0.587 * 255, 0])


def test_a_volume_of_one_slice_has_one_panel_with_its_sides() -> None:
    one = case(blob()[:, :1], blob()[:, :1])
    assert one.planes == (CORONAL,)
    axes = rows_figure([("", one)]).axes
    assert len(axes) == 1
    assert {"R", "L", "S", "I"} <= {text.get_text() for text in axes[0].texts}
    assert planes_of((5, 5, 5), picture=False) == PLANES


# movies


def test_a_sweep_has_a_frame_of_each_slice_and_the_prediction_in_its_own(tmp_path: Path) -> None:
    reference, prediction = blob((4, 5, 2)), blob((4, 5, 3))
    write_case(tmp_path, "a", reference, prediction)
    draw(tmp_path, movie="both")
    with Image.open(tmp_path / "figures" / "sweep" / "a.gif") as gif:
        assert gif.n_frames == 10
        assert gif.info["loop"] == 0
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "figures" / "sweep" / "a.mp4"))
    facts = next(reader)
    assert sum(1 for _ in reader) == 10
    assert facts["codec"] == "h264"
    assert facts["pix_fmt"].startswith("yuv420p")
    assert all(n % 2 == 0 and 300 < n < 900 for n in facts["size"])
    shown = case(None, prediction)
    coloured = [
        bool((np.ptp(frame[:380].astype(int), axis=-1) > 20).any()) for frame in sweep_frames(shown, AXIAL, 400)
    ]
    assert coloured == [3 <= index < 8 for index in range(10)]


def test_the_same_case_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_case(tmp_path / name, "a", blob(), blob((5, 5, 3)))
        write_case(tmp_path / name, "b", blob(), blob((6, 5, 3)))
        draw(tmp_path / name, movie="both")
    one, two = (
        {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in (tmp_path / name / "figures").rglob("*")
            if p.is_file()
        }
        for name in ("one", "two")
    )
    assert len(one) == 11
    assert one == two


def test_a_sweep_is_neither_hasty_nor_endless() -> None:
    assert [frames_per_second(n) for n in (2, 35, 140, 1000)] == [5, 5, 10, 25]


# sheets


def test_all_cases_are_on_sheets_worst_first() -> None:
    reference = blob()
    shift = [case(reference, np.roll(reference, n % 7, 0)) for n in range(41)]
    small = [thumbnail_of(FigureCase(**{**vars(c), "name": f"case_{n}"}), AXIAL) for n, c in enumerate(shift)]
    order = ranked(small)
    assert [one.score for one in order] == sorted(one.score for one in small if one.score is not None)
    assert order[0].name == "case_12"
    pages = contact_sheets(small, ONE_LABEL)
    assert len(pages) == 2
    assert all(page.width <= 1500 and page.height <= 1400 for page in pages)
    assert pages[1].height < pages[0].height


def test_a_thumbnail_shows_a_small_tumour_large() -> None:
    label = np.zeros((200, 200, 3), np.uint8)
    label[150:156, 20:26, 1] = 1
    small = thumbnail_of(case(label, label), AXIAL)
    assert pixels_of(small.pixels, COLOURS[CORRECT]) > 400  # 6 x 6 voxels of the whole slice would be 25 pixels
    assert small.score == 1.0


def test_one_case_needs_no_sheet_and_old_pages_go(tmp_path: Path) -> None:
    for name in "abc":
        write_case(tmp_path, name, blob(), blob((5, 5, 3)))
    assert {"cases.png", "worst_median_best.png"} <= {path.name for path in draw(tmp_path)}
    kept = {"cases_mine.png", "2.png", "_1.png"}
    for name in kept:
        (tmp_path / "figures" / name).write_bytes(b"somebody else's")
    written = {path.name for path in draw(tmp_path, cases=["b"])}
    assert written == {"figures.json", "b.png"}
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == kept


def test_figures_of_an_earlier_call_are_not_left_among_the_new_ones(tmp_path: Path) -> None:
    for name in "ab":
        write_case(tmp_path, name, blob(), blob((5, 5, 3)))
    draw(tmp_path, movie="gif")
    mine = tmp_path / "figures" / "outcome" / "mine.png"
    mine.write_bytes(b"somebody else's")
    # now without a reference and a movie, and of one case: outcomes of before would belong to other predictions
    written = figure(
        tmp_path / "predictions", tmp_path / "images", output=tmp_path / "figures", cases=["b"], movie="none"
    )
    assert {path for path in (tmp_path / "figures").rglob("*") if path.is_file()} == {*written, mine}


def test_long_names_keep_their_ends() -> None:
    assert shortened("covid-19-pneumonia-rapidly-progressive-3-days", 21) == "covid-19-…sive-3-days"
    assert shortened("short", 21) == "short"


# awkward cases


@pytest.mark.parametrize(("reference", "prediction", "dice"), [(0, 1, 0.0), (1, 0, 0.0), (0, 0, None)])
def test_empty_maps_are_drawn(tmp_path: Path, reference: int, prediction: int, dice: float | None) -> None:
    write_case(tmp_path, "a", blob() * np.uint8(reference), blob() * np.uint8(prediction))
    written = draw(tmp_path, movie="both")
    assert all(path.stat().st_size > 0 for path in written)
    found = claims(tmp_path)["a"]["whole_case"]
    assert found["mean_dice"] == dice
    assert [found["correct"], found["wrong"], found["missed"]] == [0, 125 * prediction, 125 * reference]


def test_a_prediction_without_reference_is_drawn_alone(tmp_path: Path) -> None:
    write_case(tmp_path, "a", blob(), blob())
    write_case(tmp_path, "b", blob(), blob())
    written = figure(tmp_path / "predictions", tmp_path / "images", output=tmp_path / "figures", movie="gif")
    names = {path.relative_to(tmp_path / "figures").as_posix() for path in written}
    assert names == {
        "cases.png", "figures.json", "overlay/a.png", "overlay/b.png", "sweep/a.gif", "sweep/b.gif",
    }  # fmt: skip
    assert claims(tmp_path)["a"]["whole_case"] is None
    with pytest.raises(ValueError, match="lacks one"):
        outcome_figure(case(None, blob()), AXIAL)


def test_files_of_nnunet_and_a_dataset_are_accepted(tmp_path: Path) -> None:
    write_case(tmp_path, "a", blob(), blob())
    dataset = tmp_path / "dataset"
    for part, name, folder in (("images", "a_0000", "imagesTr"), ("labels", "a", "labelsTr")):
        (dataset / folder).mkdir(parents=True)
        (tmp_path / part / "a.nii.gz").rename(dataset / folder / f"{name}.nii.gz")
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (dataset / "dataset.json").write_text(json.dumps(content | {"numTraining": 1}))
    folders = (dataset / "imagesTr", dataset / "labelsTr")
    for sources, notes in ((folders, 0), ((dataset, dataset), 1)):
        told: list[str] = []
        figure(tmp_path / "predictions", *sources, tmp_path / "figures", movie="none", tell=told.append)
        assert len([line for line in told if "1 is tumour in the predictions' record and lesion" in line]) == notes
        assert claims(tmp_path)["a"]["whole_case"]["mean_dice"] == 1.0
    assert list(claims(tmp_path)["a"]["whole_case"]["dice"]) == ["lesion"]
    swapped = {"labels": {"background": 0, "bone": 1, "lesion": 2}, "ignore_label": None}
    (tmp_path / "predictions" / "predictions.json").write_text(json.dumps(swapped))
    with pytest.raises(Seg3dError, match="a label different values"):
        figure(tmp_path / "predictions", dataset, dataset, tmp_path / "figures", movie="none")


def test_a_case_that_is_declared_negative_has_only_false_positives(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "labels" / "b.png").unlink()
    (tmp_path / "controls").mkdir()
    (tmp_path / "images" / "b.png").rename(tmp_path / "controls" / "b.png")
    settings = {
        "name": "pictures",
        "data": {
            "source": str(tmp_path),
            "store": str(tmp_path / "store"),
            "layout": "folders",
            "folders": {
                "images": ["images/{case}.png"],
                "label": "labels/{case}.png",
                "negatives": ["controls/{case}.png"],
            },
            "channels": ["grey"],
            "labels": {"background": 0, "tumour": 1},
        },
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    config = tmp_path / "study.yaml"
    figure(tmp_path / "predictions", config, config, tmp_path / "figures")
    found = claims(tmp_path)["b"]["whole_case"]
    assert [found["correct"], found["wrong"], found["missed"]] == [0, 12, 0]
    assert claims(tmp_path)["a"]["whole_case"]["mean_dice"] == 1.0


def test_white_of_a_prediction_is_label_1_where_255_is_the_ignored_label(tmp_path: Path) -> None:
    write_pictures(tmp_path, ("a",))
    reference = np.zeros((20, 30), np.uint8)
    reference[0:3, 0:4], reference[10:] = 1, 255
    Image.fromarray(reference).save(tmp_path / "labels" / "a.png")
    parts = [tmp_path / part / "a.png" for part in ("images", "predictions", "labels")]
    found = load_case(CaseFiles("a", *parts), NAMES, ignore_label=255)
    assert undeclared(found) == []
    tally = tally_case(found)
    assert tally is not None
    assert (tally.correct, tally.wrong, tally.missed, tally.mean_dice) == (12, 0, 0, 1.0)
    Image.fromarray(np.where(reference == 1, 7, reference).astype(np.uint8)).save(tmp_path / "labels" / "a.png")
    assert undeclared(load_case(CaseFiles("a", *parts), NAMES, ignore_label=255)) == [7]


def test_grey_levels_that_nothing_declares_are_not_drawn_as_labels(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    rows = np.asarray(Image.open(tmp_path / "labels" / "b.png")).copy()
    rows[3, 0:4] = 120
    Image.fromarray(rows).save(tmp_path / "labels" / "b.png")
    with pytest.raises(Seg3dError, match=r"120 \(4 pixels\), 255 \(12 pixels\)"):
        draw(tmp_path)
    assert not (tmp_path / "figures").exists()


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    Image.open(tmp_path / "images" / "a.png").save(tmp_path / "images" / "a.jpg")
    with pytest.raises(Seg3dError, match=r"one name.*a\.jpg"):
        draw(tmp_path)


def test_a_single_file_is_compared_with_a_file_of_any_name(tmp_path: Path) -> None:
    write_case(tmp_path, "a", blob(), blob())
    (tmp_path / "labels" / "a.nii.gz").rename(tmp_path / "truth.nii.gz")
    prediction, image = (tmp_path / part / "a.nii.gz" for part in ("predictions", "images"))
    figure(prediction, image, tmp_path / "truth.nii.gz", tmp_path / "figures", movie="none")
    assert claims(tmp_path)["a"]["whole_case"]["mean_dice"] == 1.0


# faults: told, and nothing is written


def spoil(folder: Path, fault: str) -> dict[str, object]:
    """Break one thing of cases ``a`` and ``b``; the options with which it shows."""
    moved = np.diag([1.0, 1.0, 1.0, 1.0])
    moved[0, 3] = 5
    if fault == "no image":
        (folder / "images" / "b.nii.gz").unlink()
    elif fault == "no reference":
        (folder / "labels" / "b.nii.gz").unlink()
    elif fault == "moved":
        write_nifti(folder / "labels" / "b.nii.gz", blob(), moved)
    elif fault == "larger":
        write_nifti(folder / "images" / "b.nii.gz", np.zeros((20, 20, 11), np.int16))
    elif fault == "undeclared":
        write_nifti(folder / "labels" / "b.nii.gz", blob() * np.uint8(4))
    elif fault == "truncated":
        path = folder / "images" / "b.nii.gz"
        path.write_bytes(path.read_bytes()[:4000])
    elif fault == "unknown case":
        return {"cases": ["c"]}
    elif fault == "empty":
        for path in (folder / "predictions").iterdir():
            path.unlink()
    return {}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no image", ["b", "no image"]),
        ("no reference", ["b", "no reference"]),
        ("moved", ["b", "grid", "5.0"]),
        ("larger", ["b", "grid", "(20, 20, 11)"]),
        ("undeclared", ["b", "4", "tumour"]),
        ("truncated", ["b.nii.gz"]),
        ("unknown case", ["--case", "c", "a, b"]),
        ("empty", ["nothing to draw"]),
    ],
)
def test_faults_are_told_and_leave_nothing(tmp_path: Path, fault: str, words: list[str]) -> None:
    for name in ("a", "b"):
        write_case(tmp_path, name, blob(), blob())
    options = spoil(tmp_path, fault)
    with pytest.raises(Seg3dError) as told:
        draw(tmp_path, **options)
    assert all(word in str(told.value) for word in words)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "labels", "predictions"}


def test_figures_are_not_put_among_their_inputs(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for part in ("predictions", "images", "labels"):
        with pytest.raises(Seg3dError, match="folder of its own"):
            figure(*(tmp_path / p for p in ("predictions", "images", "labels")), tmp_path / part)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("options", [{"plane": "oblique"}, {"movie": "avi"}])
def test_unknown_choices_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="unknown choice"):
        draw(tmp_path, **options)


def test_the_command_prints_what_the_figures_claim(tmp_path: Path) -> None:
    write_case(tmp_path, "a", blob(), blob((5, 5, 3)))
    parts = ["--images", tmp_path / "images", "--labels", tmp_path / "labels", "--output", tmp_path / "figures"]
    arguments = ["figure", tmp_path / "predictions", *parts, "--movie", "none", "--plane", "coronal"]
    plain = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert plain.exit_code == 0, plain.output
    assert "a: Dice 0.8000; 100 true positive, 25 false positive, 25 false negative" in plain.output
    found = json.loads(CliRunner().invoke(app, [str(argument) for argument in [*arguments, "--json"]]).stdout)
    assert [Path(path).name for path in found["files"]] == ["figures.json", "a.png", "a.png"]
    assert found["cases"][0]["slices"][0]["plane"] == "coronal"
