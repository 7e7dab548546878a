"""Viewer pages: one file that shows in a browser what is in the volumes, and says what it changed for display."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from browser import NO_WEBGL2, chromium, opened
from PIL import Image
from scans import ORIENTATIONS, oriented_affine, write_nifti
from typer.testing import CliRunner

from seg3d.cli import app
from seg3d.errors import ConfigError, DataError, Seg3dError
from seg3d.phantom import PhantomSpec, make_phantom
from seg3d.reporting.outcome import CORRECT, MISSED, WRONG
from seg3d.reporting.panels import OKABE_ITO
from seg3d.reporting.viewer import fetch, viewer_page
from seg3d.reporting.viewer.grey import is_ct, quantise
from seg3d.reporting.viewer.niivue import niivue_script
from seg3d.verbs.view import parse_names, view
from seg3d.volume import Grid, Volume

SHAPE = (12, 10, 8)
# voxels of one label: reference 60, prediction 75, both 45
REFERENCE = np.zeros(SHAPE, np.uint8)
REFERENCE[2:6, 2:5, 1:6] = 1
PREDICTION = np.zeros(SHAPE, np.uint8)
PREDICTION[3:8, 2:5, 1:6] = 1
GREYS = np.random.default_rng(3).integers(0, 200, SHAPE).astype(np.int16)


def volume(data: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1), origin: float = 0.0) -> Volume:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return Volume(data[np.newaxis], Grid(data.shape, affine))


def page_of(**how: Any) -> str:
    given = {"labels": volume(REFERENCE), "prediction": volume(PREDICTION), "niivue": False, **how}
    return viewer_page(given.pop("name", "case"), given.pop("image", volume(GREYS)), **given)


def voxels_in(page: str, name: str) -> np.ndarray:
    """A volume of a page, ``(x, y, z)``."""
    found = re.search(rf'id="volume-{name}">([^<]*)<', page)
    assert found, f"the page holds {name}"
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(found[1]))).dataobj)


def facts_of(page: str) -> dict[str, Any]:
    return json.loads(re.search(r'id="facts">(.*?)</script>', page, re.DOTALL)[1])


def notes_of(page: str) -> str:
    return html.unescape(re.search(r'<ul id="notes">(.*?)</ul>', page, re.DOTALL)[1])


def rows_of(page: str) -> list[list[str]]:
    """Cells of the table of labels."""
    rows = re.findall(r"<tr data-value.*?</tr>", page, re.DOTALL)
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[dh].*?</t[dh]>", row)] for row in rows]


# what a page holds


def test_the_page_holds_the_voxels_it_was_given() -> None:
    page = page_of()
    facts = facts_of(page)
    assert np.array_equal(voxels_in(page, "image") * facts["step"] + facts["low"], GREYS)
    assert np.array_equal(voxels_in(page, "reference"), REFERENCE)
    assert np.array_equal(voxels_in(page, "prediction"), PREDICTION)


def test_errors_are_true_positives_false_positives_and_false_negatives() -> None:
    errors = voxels_in(page_of(), "errors")
    assert [np.count_nonzero(errors == value) for value in (CORRECT, WRONG, MISSED)] == [45, 30, 15]


def test_volumes_and_scores_are_those_known_by_hand() -> None:
    spacing = (2.0, 2.0, 5.0)  # a voxel is 0.02 mL
    page = page_of(
        image=volume(GREYS, spacing), labels=volume(REFERENCE, spacing), prediction=volume(PREDICTION, spacing)
    )
    _, name, reference, prediction, dice, iou, distance = rows_of(page)[0]
    assert (name, reference, prediction) == ("label 1", "1.2", "1.5")
    assert (dice, iou) == ("0.667", "0.500")  # 2 * 45 / 135, 45 / 90
    assert distance == "4.0"  # the prediction reaches two voxels of 2 mm further


def test_an_empty_label_has_no_score_and_one_in_one_map_alone_is_infinitely_far() -> None:
    page = page_of(prediction=volume(np.zeros_like(PREDICTION)), names={1: "tumour", 2: "vessel"})
    tumour, vessel = rows_of(page)
    assert tumour[1:] == ["tumour", "0.06", "0", "0.000", "0.000", "∞"]
    assert vessel[1:] == ["vessel", "0", "0", "–", "–", "–"]


def test_labels_have_the_colours_of_all_figures_and_keep_their_values() -> None:
    labels = REFERENCE * 7
    labels[0, 0, 0] = 3
    page = page_of(labels=volume(labels), prediction=None, names={7: "cord"})
    assert np.unique(voxels_in(page, "reference")).tolist() == [0, 1, 2]  # numbered
    assert [label["colour"] for label in facts_of(page)["labels"]] == [OKABE_ITO[2], OKABE_ITO[6]]
    assert [row[1] for row in rows_of(page)] == ["label 3 (not declared)", "cord"]


def test_a_label_that_is_lost_on_the_grid_of_the_image_is_counted_all_the_same() -> None:
    fine = np.repeat(np.repeat(np.repeat(REFERENCE, 3, 0), 3, 1), 3, 2)
    fine[0, 0, 0] = 9  # no voxel centre of the image lies in it
    grid = volume(fine, (1 / 3, 1 / 3, 1 / 3), origin=-1 / 3)
    assert [row[:3] for row in rows_of(page_of(labels=grid, prediction=None))] == [
        ["", "label 1", "0.06"],
        ["", "label 9", "0.000037"],
    ]


def test_the_label_of_a_probability_is_there_where_nothing_was_predicted() -> None:
    nothing = volume(np.zeros_like(PREDICTION))
    page = page_of(labels=None, prediction=nothing, probability=nothing, names={2: "tumour"})
    assert [label["name"] for label in facts_of(page)["labels"]] == ["tumour"]  # a lower threshold may find it
    assert facts_of(page)["first"] == 1


def test_an_ignored_label_is_neither_right_nor_wrong() -> None:
    labels = REFERENCE.copy()
    labels[6:8] = 9
    page = page_of(labels=volume(labels), names={1: "tumour"}, ignore_label=9)
    errors = voxels_in(page, "errors")
    assert [np.count_nonzero(errors == value) for value in (CORRECT, WRONG, MISSED)] == [45, 0, 15]
    assert [row[1] for row in rows_of(page)] == ["tumour", "ignored"]
    assert rows_of(page)[1][4:] == ["–", "–", "–"]


def test_the_page_begins_where_most_is_marked_that_counts() -> None:
    labels = REFERENCE.copy()
    labels[8:, 5:, 6:] = 9  # more than is marked in any slice
    page = page_of(labels=volume(labels), prediction=None, names={1: "tumour"}, ignore_label=9)
    x, y, z = facts_of(page)["start"]
    assert labels[x, y, z] == 1


@pytest.mark.parametrize("codes", ORIENTATIONS[::7])
def test_every_orientation_is_shown_the_same(codes: str) -> None:
    shape = (9, 7, 5)
    affine = oriented_affine(codes, shape, (1, 1, 1))
    data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) % 251
    page = page_of(image=Volume(data[None], Grid(shape, affine)), labels=None, prediction=None)
    shown, facts = voxels_in(page, "image"), facts_of(page)
    # each voxel lies on the page where its own affine puts it
    at = np.argwhere(np.ones(shape, bool))
    world = at @ affine[:3, :3].T + affine[:3, 3]
    on_page = np.linalg.inv(np.array(facts["affine"]))
    places = np.round(world @ on_page[:3, :3].T + on_page[:3, 3]).astype(int)
    assert np.array_equal(shown[tuple(places.T)] + facts["low"], data[tuple(at.T)])
    assert (np.diag(facts["affine"])[:3] > 0).all()  # to the right, front and head


def test_the_same_case_gives_the_same_bytes() -> None:
    assert page_of() == page_of()


def test_names_and_notes_cannot_break_out_of_the_page() -> None:
    evil = '</script><script>alert("x")</script>'
    page = page_of(name=evil, names={1: evil}, notes=[evil])
    assert "<script>alert" not in page


def test_the_page_asks_nothing_of_the_network() -> None:
    page = page_of(niivue=True)
    shell = re.sub(r'<script type="text/plain".*?</script>|<details>.*?</details>', "", page, flags=re.DOTALL)
    assert "default-src 'none'" in shell
    assert not re.findall(r'(?:src|href)="(?!data:)', shell)
    assert "http" not in re.sub(r"http-equiv", "", shell)


# grey values


def test_ct_is_known_by_its_values() -> None:
    image, _, _ = make_phantom(PhantomSpec(kind="chest_ct", shape=(32, 32, 16)), 0)
    assert is_ct(image.data[0])
    assert not is_ct(GREYS)
    assert not is_ct(image.data[0].astype(np.float32) / 7)


def test_ct_has_windows_and_steps_of_ten_hounsfield_units() -> None:
    image = np.full((8, 8, 8), 40, np.int16)
    image[0], image[1] = -1000, 900
    grey = quantise(image, ct=True)
    assert (grey.low, grey.step, grey.unit) == (-1024, 10, "HU")
    assert np.abs(grey.codes * grey.step + grey.low - image).max() <= 5
    assert grey.presets["lung"] == (-1350, 150)


def test_an_outlier_does_not_cost_the_other_values_their_steps() -> None:
    image = np.random.default_rng(1).normal(100, 10, (40, 40, 40)).astype(np.float32)
    image[0, 0, 0] = 1e6
    grey = quantise(image, ct=False)
    assert grey.step < 1
    assert not grey.exact
    assert grey.codes[0, 0, 0] == 255


def test_voxels_that_are_not_finite_are_black_and_told() -> None:
    image = GREYS.astype(np.float32)
    image[0, 0, :3] = (np.nan, np.inf, -np.inf)
    page = page_of(image=volume(image))
    assert "3 voxels of the image are not finite" in notes_of(page)
    assert "NaN" not in json.dumps(facts_of(page))
    everywhere = page_of(image=volume(np.full(SHAPE, np.nan, np.float32)))
    assert not voxels_in(everywhere, "image").any()


# other grids


def test_an_overlay_on_another_grid_is_resampled_and_the_page_says_so() -> None:
    fine = volume(np.repeat(np.repeat(np.repeat(PREDICTION, 2, 0), 2, 1), 2, 2), (0.5, 0.5, 0.5), origin=-0.25)
    page = page_of(prediction=fine)
    assert np.array_equal(voxels_in(page, "prediction"), PREDICTION)
    assert "The prediction lies on another grid (24 × 20 × 16 voxels of 0.5 × 0.5 × 0.5 mm)" in notes_of(page)
    assert "different grids" in notes_of(page)
    assert rows_of(page)[0][2:6] == ["0.06", "0.075", "0.667", "0.500"]  # volume on its own grid, scores on the image's


def test_an_overlay_that_covers_a_part_says_how_much() -> None:
    page = page_of(prediction=volume(PREDICTION, origin=6.0))
    notes = notes_of(page)
    assert re.search(r"covers \d+% of the image", notes)
    assert "foreground beyond the image" in notes
    assert np.array_equal(voxels_in(page, "prediction")[6:, 6:, 6:], PREDICTION[:6, :4, :2])


def test_an_overlay_that_lies_elsewhere_is_refused() -> None:
    with pytest.raises(DataError, match=r"prediction does not overlap the image .*500.*Do they belong"):
        page_of(prediction=volume(PREDICTION, origin=500.0))


def test_a_picture_of_another_size_is_refused() -> None:
    flat = volume(GREYS[:, :, :1])
    with pytest.raises(DataError, match="another size"):
        page_of(image=flat, labels=volume(REFERENCE[:-1, :, :1]), prediction=None, picture=True)


@pytest.mark.parametrize(
    ("bad", "message"),
    [(PREDICTION * 0.5, "no label map"), (PREDICTION.astype(np.int32) - 1, "no label map")],
)
def test_what_is_no_label_map_is_refused(bad: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        page_of(prediction=volume(bad))


def test_negative_uncertainty_is_refused() -> None:
    with pytest.raises(DataError, match="negative"):
        page_of(uncertainty=volume(np.full(SHAPE, -0.1, np.float32)))


def test_uncertainty_keeps_its_scale() -> None:
    values = np.linspace(0, 0.7, GREYS.size, dtype=np.float32).reshape(SHAPE)
    page = page_of(uncertainty=volume(values))
    top = facts_of(page)["tops"]["uncertainty"]
    assert np.abs(voxels_in(page, "uncertainty") * top / 255 - values).max() <= 0.5 * 0.7 / 255 + 1e-6


# large volumes


def test_a_large_volume_is_cropped_to_its_content_and_reduced() -> None:
    image = np.zeros((200, 180, 140), np.uint8)
    image[60:140, 60:120, 40:100] = np.random.default_rng(0).integers(50, 250, (80, 60, 60))
    labels = np.zeros(image.shape, np.uint8)
    labels[30:34, 70:74, 50:54] = 1  # foreground is kept wherever it lies
    page = page_of(image=volume(image), labels=volume(labels), prediction=None, max_voxels=150_000)
    notes, facts = notes_of(page), facts_of(page)
    assert "Cropped to its content: 120 × 70 × 70 of 200 × 180 × 140 voxels" in notes
    assert "lower resolution" in notes
    shape = facts["shape"]
    assert 100_000 < np.prod(shape) <= 150_000
    assert len(set(np.round(facts["spacing"], 1))) == 1
    # the label lies where it was, in millimetres
    found = np.argwhere(voxels_in(page, "reference")).mean(axis=0)
    world = np.array(facts["affine"])[:3, :3] @ found + np.array(facts["affine"])[:3, 3]
    assert np.abs(world - (31.5, 71.5, 51.5)).max() < 0.5 * max(facts["spacing"])
    assert rows_of(page)[0][2] == "0.064"  # of the whole map


# files


def test_the_verb_writes_one_file_and_names_come_from_the_prediction(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "scan.nii.gz", GREYS)
    labels = write_nifti(tmp_path / "labels.nii.gz", REFERENCE)
    prediction = write_nifti(tmp_path / "answers" / "scan.nii.gz", PREDICTION)
    manifest = {"labels": {"background": 0, "tumour": 1}, "ignore_label": None}
    (tmp_path / "answers" / "predictions.json").write_text(json.dumps(manifest))
    arguments = ["view", str(image), "--labels", str(labels), "--prediction", str(prediction)]
    done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "case.html")])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "case.html")
    page = (tmp_path / "case.html").read_text(encoding="utf-8")
    assert [row[1] for row in rows_of(page)] == ["tumour"]


def test_nothing_is_written_when_files_do_not_fit(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "scan.nii.gz", GREYS)
    far = np.eye(4)
    far[:3, 3] = 900
    prediction = write_nifti(tmp_path / "far.nii.gz", PREDICTION, far)
    with pytest.raises(DataError, match="does not overlap"):
        view(image, tmp_path / "case.html", prediction=prediction)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far.nii.gz", "scan.nii.gz"]


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "scan.nii.gz", GREYS)
    before = image.read_bytes()
    with pytest.raises(ConfigError, match="HTML"):
        view(image, image)
    assert image.read_bytes() == before


def test_a_picture_and_a_scan_do_not_go_together(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "scan.nii.gz", GREYS)
    Image.fromarray(REFERENCE[:, :, 2]).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="the image is a scan and the reference a picture"):
        view(image, tmp_path / "case.html", labels=tmp_path / "mask.png")


def test_a_picture_that_viewers_show_turned_says_so(tmp_path: Path) -> None:
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        Image.fromarray(REFERENCE[:, :, 2]).save(tmp_path / "a.png", exif=exif)
        page = view(tmp_path / "a.png", tmp_path / "a.html").read_text(encoding="utf-8")
        assert ("told to show this picture turned" in page) == (orientation != 1)


@pytest.mark.parametrize("names", [{1: "tumour"}, None])
def test_white_is_the_ignored_label_of_a_reference_and_label_1_of_a_prediction(
    tmp_path: Path, names: dict[int, str] | None
) -> None:
    reference = np.zeros((20, 30), np.uint8)
    reference[:5], reference[15:] = 1, 255
    prediction = np.where(reference == 1, 255, 0).astype(np.uint8)  # as a picture of black and white is written
    for name, data in (("image", 0 * reference), ("reference", reference), ("prediction", prediction)):
        Image.fromarray(data).save(tmp_path / f"{name}.png")
    image, labels, predicted = (tmp_path / f"{name}.png" for name in ("image", "reference", "prediction"))
    page = view(image, tmp_path / "a.html", labels=labels, prediction=predicted, names=names, ignore_label=255)
    label, ignored = rows_of(page.read_text(encoding="utf-8"))
    assert label[2:5] == ["150", "150", "1.000"]
    assert ignored[1:4] == ["ignored", "150", "0"]


def test_labels_that_a_network_of_regions_does_not_tell_apart_are_one(tmp_path: Path) -> None:
    reference = REFERENCE.copy()
    reference[2:4] *= 2
    files = [
        write_nifti(tmp_path / f"{name}.nii.gz", data)
        for name, data in (("scan", GREYS), ("reference", reference), ("prediction", REFERENCE))
    ]
    labels = {"background": 0, "edema": 1, "core": 2, "bone": 3}
    manifest = {"labels": labels, "ignore_label": None, "regions": [{"name": "all", "values": [1, 2], "label": 1}]}
    (tmp_path / "predictions.json").write_text(json.dumps(manifest))
    page = view(files[0], tmp_path / "a.html", labels=files[1], prediction=files[2]).read_text(encoding="utf-8")
    (row,) = rows_of(page)
    assert row[1:5] == ["edema + core", "0.06", "0.06", "1.000"]
    assert "Not shown, as in no region: bone" in notes_of(page)


def test_names_of_labels_are_read() -> None:
    assert parse_names(["1=liver", "2=a tumour"]) == {1: "liver", 2: "a tumour"}
    assert parse_names([]) is None
    for words, told in ((["liver"], "1=liver"), (["²=liver"], "1=liver"), (["0=air"], "background"),
                        (["1=liver", "1=lung"], "two names")):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            parse_names(words)


# getting NiiVue


def test_a_changed_viewer_is_refused(tmp_path: Path) -> None:
    changed = tmp_path / "niivue.umd.js"
    changed.write_text("alert(1)")
    with pytest.raises(Seg3dError, match="SHA-256"):
        niivue_script(changed)
    assert niivue_script(tmp_path / "absent.js") is None


def test_without_npm_nothing_is_fetched_and_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "niivue_script", lambda: None)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    assert fetch.main() == 1
    assert "npm is not installed" in capsys.readouterr().err


def test_fetching_is_a_command_that_warns_of_nothing() -> None:
    command = [sys.executable, "-m", "seg3d.reporting.viewer.fetch"]
    done = subprocess.run(command, env={**os.environ, "PATH": ""}, capture_output=True, text=True, check=False)
    assert "NiiVue" in done.stdout + done.stderr  # it is there, or there is no npm
    assert "Warning" not in done.stderr


def test_the_licence_of_niivue_is_part_of_a_page_that_holds_it() -> None:
    if niivue_script() is None:
        pytest.skip("NiiVue has not been fetched (make viewer)")
    page = page_of(niivue=True)
    assert "BSD 2-Clause License" in page
    assert "Copyright (c) 2021, Niivue" in page
    assert "make viewer" in page_of(niivue=False)


# in a browser


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a phantom, with NiiVue and without."""
    folder = tmp_path_factory.mktemp("pages")
    image, label, _ = make_phantom(PhantomSpec(kind="chest_ct", shape=(48, 44, 32)), 0)
    moved = Volume(np.roll(label.data, 2, axis=1), label.grid)
    unsure = Volume((label.data != moved.data).astype(np.float32) * 0.5, label.grid)
    overlays = {"labels": label, "prediction": moved, "uncertainty": unsure, "names": {1: "tumour"}}
    for name, niivue in (("niivue", True), ("slices", False)):
        page = viewer_page("phantom", image, **overlays, niivue=niivue)
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    frame = (folder / "niivue.html").read_text(encoding="utf-8")
    shell = f'<iframe id="f" sandbox="allow-scripts" style="width:960px;height:600px" srcdoc="{html.escape(frame)}">'
    (folder / "frame.html").write_text(f"<!DOCTYPE html><body>{shell}</iframe></body>", encoding="utf-8")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def need_niivue() -> None:
    if niivue_script() is None:
        pytest.skip("NiiVue has not been fetched (make viewer)")


def wait(frame: Any, viewer: str) -> None:
    frame.wait_for_selector(f"html[data-ready][data-viewer={viewer}]", state="attached")


def pixels(element: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)


def coloured(picture: np.ndarray) -> int:
    """Pixels that are no grey and not the red of the crosshair, however it is mixed with grey."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    crosshair = (red > green) & (np.abs(green - blue) < 30)
    return int(((picture.max(-1) - picture.min(-1) > 40) & ~crosshair).sum())


def check_toggles(frame: Any, canvas: Any) -> None:
    """Each control changes what is drawn, and back."""
    seen = {}
    for choice in ("none", "reference", "prediction", "errors"):
        frame.check(f"input[name=map][value={choice}]")
        seen[choice] = pixels(canvas)
    assert seen["none"].std() > 20  # not blank
    assert coloured(seen["none"]) < 20 < coloured(seen["prediction"])
    for one, other in (("none", "reference"), ("reference", "prediction"), ("prediction", "errors")):
        assert (np.abs(seen[one] - seen[other]).max(-1) > 10).sum() > 20
    frame.check("input[name=map][value=prediction]")
    frame.check("#outline")
    assert 20 < coloured(pixels(canvas)) < coloured(seen["prediction"])
    frame.uncheck("#outline")
    frame.uncheck("#labels input[data-number='1']")
    assert (np.abs(pixels(canvas) - seen["none"]).max(-1) > 10).sum() < 20
    frame.check("#labels input[data-number='1']")
    frame.check("input[name=map][value=none]")
    frame.check("input[name=heat][value=uncertainty]")
    assert coloured(pixels(canvas)) > 20
    assert frame.is_visible("#heat-scale")
    frame.check("input[name=heat][value=none]")
    frame.select_option("#preset", "lung")
    assert (np.abs(pixels(canvas) - seen["none"]).max(-1) > 10).mean() > 0.02


def test_the_page_shows_niivue_from_a_file(browser: Any, chest: dict[str, Path]) -> None:
    need_niivue()
    with opened(browser, chest["niivue"]) as page:
        wait(page, "niivue")
        check_toggles(page, page.locator("#gl"))
        assert "radiological convention" in page.inner_text("#convention").lower()
        assert page.inner_text("#at-prediction") in ("tumour", "background")


def test_outlines_are_lines_where_a_plane_runs_along_a_surface(browser: Any, tmp_path: Path) -> None:
    need_niivue()
    flat = np.zeros(SHAPE, np.uint8)
    flat[2:9, 2:8, 4] = 1
    (tmp_path / "a.html").write_text(page_of(labels=volume(flat), prediction=None, niivue=True), encoding="utf-8")
    with opened(browser, tmp_path / "a.html") as page:
        wait(page, "niivue")
        page.select_option("#layout", "0")
        page.check("input[name=map][value=reference]")
        canvas = page.locator("#gl")
        area = coloured(pixels(canvas))
        page.check("#outline")
        assert 20 < coloured(pixels(canvas)) < area / 4
        page.select_option("#layout", "4")  # a rendering shows the surface
        assert coloured(pixels(canvas)) > 100


def test_the_page_works_in_a_sandboxed_frame(browser: Any, chest: dict[str, Path]) -> None:
    need_niivue()
    with opened(browser, chest["frame"]) as page:
        frame = page.query_selector("#f").content_frame()
        wait(frame, "niivue")
        canvas = frame.locator("#gl")
        frame.check("input[name=map][value=none]")
        without = pixels(canvas)
        frame.check("input[name=map][value=reference]")
        assert without.std() > 20
        assert coloured(pixels(canvas)) > 20 > coloured(without)


def test_the_crosshair_tells_position_and_values(browser: Any, chest: dict[str, Path]) -> None:
    need_niivue()
    facts = facts_of(chest["niivue"].read_text(encoding="utf-8"))
    with opened(browser, chest["niivue"]) as page:
        wait(page, "niivue")
        # where the phantom's tumour is, and so its colour
        assert page.inner_text("#at-reference") == "tumour"
        mm = np.array(facts["affine"])[:3] @ [*facts["start"], 1]
        sides = [("R", "L"), ("A", "P"), ("S", "I")]
        words = [f"{pair[int(v < 0)]} {abs(v):.1f}" for pair, v in zip(sides, mm, strict=True)]
        assert page.inner_text("#at-place") == f"{', '.join(words)} mm"
        page.select_option("#layout", "0")  # one plane fills the canvas
        page.locator("#gl").click()  # in its middle
        assert page.inner_text("#at-place") != f"{', '.join(words)} mm"


@pytest.mark.parametrize(("page_name", "script", "message"), [
    ("slices", "", "make viewer"), ("niivue", NO_WEBGL2, "no WebGL2"),
])  # fmt: skip
def test_slices_are_browsed_without_niivue_or_webgl2(
    page_name: str, script: str, message: str, browser: Any, chest: dict[str, Path]
) -> None:
    if page_name == "niivue":
        need_niivue()
    with opened(browser, chest[page_name], script=script) as page:
        wait(page, "slices")
        assert message in page.inner_text("#message")
        check_toggles(page, page.locator("#slices figure[data-plane=axial] canvas"))
        before = page.inner_text("#at-place")
        page.locator("figure[data-plane=axial] input").press("ArrowRight")
        assert page.inner_text("#at-place") != before


def middle(picture: np.ndarray) -> tuple[float, float]:
    """Where colour lies, as shares of the picture's width and height."""
    spread = picture.max(-1) - picture.min(-1)
    rows, columns = np.nonzero((spread > 40) & (picture[..., 1] > picture[..., 2] + 30))  # not the red crosshair
    assert len(rows) > 50
    return float(columns.mean() / picture.shape[1]), float(rows.mean() / picture.shape[0])


@pytest.mark.parametrize("niivue", [True, False])
def test_right_front_and_head_are_left_and_up(niivue: bool, browser: Any, tmp_path: Path) -> None:
    if niivue:
        need_niivue()
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[22:28, 22:28, 22:28] = 1  # right, front, head of the patient
    turned = oriented_affine("LPI", labels.shape, (1, 1, 1))
    given = Volume(labels[None, ::-1, ::-1, ::-1].copy(), Grid(labels.shape, turned))
    grey = Volume(np.full((1, *labels.shape), 90, np.uint8), given.grid)
    path = tmp_path / "case.html"
    path.write_text(viewer_page("sides", grey, labels=given, niivue=niivue), encoding="utf-8")
    with opened(browser, path) as page:
        wait(page, "niivue" if niivue else "slices")
        page.check("input[name=map][value=reference]")
        for number, plane in enumerate(("axial", "coronal", "sagittal")):
            if niivue:
                page.select_option("#layout", str(number))
            shown = page.locator("#gl" if niivue else f"figure[data-plane={plane}] canvas")
            across, down = middle(pixels(shown))
            assert across < 0.45, plane
            assert down < 0.35, plane


@pytest.mark.parametrize("niivue", [True, False])
def test_a_picture_is_drawn_as_it_is_stored(niivue: bool, browser: Any, tmp_path: Path) -> None:
    if niivue:
        need_niivue()
    rows = np.full((40, 50), 90, np.uint8)
    mask = np.zeros((40, 50), np.uint8)
    mask[3:12, 35:48] = 255  # at the top on the right
    Image.fromarray(rows).save(tmp_path / "picture.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    path = tmp_path / "case.html"
    if niivue:
        view(tmp_path / "picture.png", path, labels=tmp_path / "mask.png")
    else:
        grid = Grid((50, 40, 1), np.eye(4))
        volumes = [Volume(data.T[None, :, :, None], grid) for data in (rows, mask // 255)]
        path.write_text(viewer_page("picture", volumes[0], labels=volumes[1], picture=True, niivue=False))
    with opened(browser, path) as page:
        wait(page, "niivue" if niivue else "slices")
        across, down = middle(pixels(page.locator("#gl" if niivue else "#slices canvas")))
        assert across > 0.6
        assert down < 0.35
        assert page.inner_text("#at-place") == "column 42, row 8"
        assert page.inner_text("#at-reference") == "label 1"
        assert page.inner_text("#labels tbody td:last-child") == "117"
        assert "nothing is known" in page.inner_text("#convention")


def test_the_threshold_moves_the_prediction(browser: Any, tmp_path: Path) -> None:
    probability = np.where(PREDICTION == 1, 0.8, np.where(REFERENCE == 1, 0.3, 0.0)).astype(np.float32)
    path = tmp_path / "case.html"
    path.write_text(page_of(probability=volume(probability)), encoding="utf-8")
    with opened(browser, path) as page:
        wait(page, "slices")
        found = {}
        for percent in (25, 50):
            page.locator("#threshold").fill(str(percent))
            found[percent] = page.inner_text("#threshold-found")
    # both maps together have 90 voxels, the prediction 75 of which 45 are right, of 60
    assert found[25] == "At 0.25 on this page's grid: 0.0900 mL, Dice 0.800."
    assert found[50] == "At 0.50 on this page's grid: 0.0750 mL, Dice 0.667."


def test_without_scripts_a_still_picture_is_left() -> None:
    found = re.search(r'<img id="still"[^>]*base64,([^"]*)"', page_of())
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")).astype(int)
    assert picture.std() > 20
    assert coloured(picture) > 100  # contours of the labels
