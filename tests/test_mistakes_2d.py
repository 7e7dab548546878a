"""Mistakes with pictures and slices: what ``check`` tells beforehand, and what is never scored by a guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scans import write_nifti

from seg3d.errors import ConfigError, DataError, Fault, FaultsError
from seg3d.metrics import format_summary
from seg3d.verbs.check import check
from seg3d.verbs.evaluate import evaluate
from seg3d.verbs.prepare import prepare

CONFIG = """
name: mistakes
data:
  source: {root}
  store: {root}/store
  layout: folders
  folders: {{images: ["image/{{case}}.png"], label: "label/{{case}}.png", negatives: ["well/{{case}}.png"]}}
  channels: [grey]
  labels: {{background: 0, lung: 1}}
  split: {{kind: share, val_share: 0.2, test_share: 0.2}}
model: {{dims: 2}}
sampling: {{patch_size: [8, 8, 1]}}
"""


def save(path: Path, rows: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rows).save(path)
    return path


def square(value: int = 255, shift: int = 0) -> np.ndarray:
    """Rows and columns with 16 pixels of foreground."""
    rows = np.zeros((10, 12), np.uint8)
    rows[2:6, 3 + shift : 7 + shift] = value
    return rows


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (10, 12), dtype=np.uint8)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Three pairs and a healthy one, without a fault."""
    for number, name in enumerate("abcd"):
        save(tmp_path / ("well" if name == "d" else "image") / f"{name}.png", noise(number))
        if name != "d":
            save(tmp_path / "label" / f"{name}.png", square())
    path = tmp_path / "mistakes.yaml"
    path.write_text(CONFIG.format(root=tmp_path))
    return path


def told(config: Path, *overrides: str) -> dict[str, Fault]:
    return {fault.kind: fault for fault in check(config, overrides)}


# check


def test_a_sound_set_of_pictures_has_no_fault(config: Path) -> None:
    assert told(config) == {}


def test_check_tells_names_that_cannot_be_files(config: Path, tmp_path: Path) -> None:
    for part in ("image", "label"):
        (tmp_path / part / "a.png").rename(tmp_path / part / "ä b.png")
    fault = told(config)["case_name"]
    assert (fault.where, fault.note) == ("ä b", False)
    assert "letters" in fault.expected


def test_check_tells_labels_that_nothing_declares(config: Path) -> None:
    fault = told(config, "data.labels=null")["unusable_setting"]
    assert "label values" in fault.what
    assert not fault.note


def test_a_pattern_of_label_maps_that_fits_nothing_is_a_fault(config: Path) -> None:
    fault = told(config, 'data.folders.label="masks/{case}.png"')["no_cases"]
    assert (fault.where, fault.got, fault.note) == ("data.folders.label", "masks/{case}.png", False)


def test_check_says_how_many_there_were_even_if_none(config: Path) -> None:
    settings = ("data.folders.label=null", "data.folders.negatives=[]", "data.split.kind=kfold")
    (fault,) = (fault for fault in check(config, settings) if fault.kind == "unusable_setting")
    assert fault.got == "0"


def test_pictures_of_several_bit_depths_are_told_with_one_of_each(config: Path, tmp_path: Path) -> None:
    save(tmp_path / "image" / "b.png", noise(1).astype(np.uint16) * 257)
    note = told(config)["bit_depths"]
    assert note.note
    assert "8 bits in" in note.got
    assert f"16 bits in {tmp_path / 'image' / 'b.png'}" in note.got


def turned(degrees: float) -> np.ndarray:
    """Axes turned about the patient's left-right axis."""
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return affine


@pytest.mark.parametrize(
    ("degrees", "patch", "oblique"), [(44, "8, 8, 1", True), (44, "1, 8, 8", False), (30, "8, 8, 1", False)]
)
def test_check_lists_scans_whose_slices_cannot_be_told(
    tmp_path: Path, degrees: float, patch: str, oblique: bool
) -> None:
    label = np.zeros((8, 8, 8), np.uint8)
    label[2:5, 2:5, 2:5] = 1
    for name, affine in (("straight", np.eye(4)), ("tilted", turned(degrees)), ("third", np.eye(4))):
        write_nifti(
            tmp_path / "image" / f"{name}.nii.gz", noise(len(name))[:8, :8, None] + np.arange(8, dtype=np.uint8), affine
        )
        write_nifti(tmp_path / "label" / f"{name}.nii.gz", label, affine)
    text = CONFIG.format(root=tmp_path).replace(".png", ".nii.gz").replace(', negatives: ["well/{case}.nii.gz"]', "")
    (tmp_path / "slices.yaml").write_text(text)
    found = told(tmp_path / "slices.yaml", f"sampling.patch_size=[{patch}]")
    assert set(found) == ({"oblique_slices"} if oblique else set())
    if oblique:
        assert found["oblique_slices"].where.startswith("tilted ")
        assert "44 degrees" in found["oblique_slices"].got
        volumes = ("model.dims=3", "sampling.patch_size=[8, 8, 8]", "model.features=[4, 8]")
        assert told(tmp_path / "slices.yaml", *volumes) == {}


def test_pictures_that_the_patch_cuts_into_lines_are_refused(config: Path, tmp_path: Path) -> None:
    wrong = "sampling.patch_size=[1, 8, 8]"  # as if the channel came first
    fault = told(config, wrong)["line_slices"]
    assert (fault.got, fault.note) == ("(12, 10, 1)", False)
    assert "across x are lines" in fault.what
    with pytest.raises(FaultsError, match="across x are lines"):
        prepare(config, [wrong], progress=False)
    save(tmp_path / "image" / "a.png", noise(0)[:, :1])  # a picture one pixel wide has one slice, too
    save(tmp_path / "label" / "a.png", square()[:, 3:4])
    assert told(config) == {}
    prepare(config, progress=False)


def test_a_scan_that_does_not_say_how_the_patient_lies_is_told(tmp_path: Path) -> None:
    label = np.ones((8, 8, 8), np.uint8)
    for name, codes in (("a", {"sform": 0, "qform": 0}), ("b", {"sform": 0}), ("c", {"qform": 0})):
        write_nifti(tmp_path / "image" / f"{name}.nii.gz", noise(ord(name))[:8, :8, None].repeat(8, 2), **codes)
        write_nifti(tmp_path / "label" / f"{name}.nii.gz", label, **codes)
    rows = "".join(f"{name},image/{name}.nii.gz,label/{name}.nii.gz\n" for name in "abc")
    (tmp_path / "scans.csv").write_text(f"case,scan,label\n{rows}")
    (note,) = check(tmp_path / "scans.csv")
    assert (note.kind, note.note, note.where.split()[0]) == ("no_orientation", True, "a")


# evaluate


def dice_of(summary: dict[str, Any], label: str = "1") -> float | None:
    value: float | None = summary["per_label"][label]["Dice"]["mean"]
    return value


def test_a_single_prediction_is_scored_against_its_case_of_a_config(config: Path, tmp_path: Path) -> None:
    found = save(tmp_path / "found" / "b.png", square(shift=1))
    summary = evaluate(found, config, tmp_path / "s.json", subset=True)
    assert [row["case"] for row in summary["metric_per_case"]] == ["b"]
    assert dice_of(summary) == 24 / 32
    with pytest.raises(FaultsError, match="a: the case was not predicted"):
        evaluate(found, config, tmp_path / "s.json")


def test_labels_of_a_single_prediction_are_those_written_beside_it(tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "predictions.json").write_text(
        '{"labels": {"background": 0, "lung": 1}, "ignore_label": null}'
    )
    found = save(tmp_path / "found" / "b.png", square())
    summary = evaluate(found, save(tmp_path / "truth.png", square()), tmp_path / "s.json")
    assert summary["per_label"]["1"]["name"] == "lung"


@pytest.mark.parametrize("name", ["s.csv", "found"])
def test_an_output_that_cannot_be_the_summary_is_refused_and_nothing_is_written(
    config: Path, tmp_path: Path, name: str
) -> None:
    save(tmp_path / "found" / "b.png", square())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="--output"):
        evaluate(tmp_path / "found", config, tmp_path / name, subset=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_black_and_white_is_label_1_whatever_other_cases_hold(tmp_path: Path) -> None:
    for part in ("found", "truth"):
        save(tmp_path / part / "a.png", square(255 if part == "found" else 1))
        indices = Image.fromarray(square())
        indices.putpalette([0, 0, 0] * 255 + [255, 0, 0])  # which makes it a palette: label 255
        indices.save(tmp_path / part / "b.png")
    summary = evaluate(tmp_path / "found", tmp_path / "truth", tmp_path / "s.json")
    assert {label: dice_of(summary, label) for label in summary["per_label"]} == {"1": 1.0, "255": 1.0}


def test_grey_levels_that_nothing_declares_are_not_scored_as_labels(config: Path, tmp_path: Path) -> None:
    smooth = square()
    smooth[6, 3:7] = 120
    save(tmp_path / "truth" / "a.png", smooth)
    save(tmp_path / "found" / "a.png", square())
    with pytest.raises(DataError, match=r"120 \(4 pixels\), 255 \(16 pixels\)"):
        evaluate(tmp_path / "found", tmp_path / "truth", tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()


def test_the_dice_of_patients_is_told_apart_from_the_false_alarms_of_controls(config: Path, tmp_path: Path) -> None:
    for name, shift in (("a", 0), ("b", 1), ("c", 2)):
        save(tmp_path / "found" / f"{name}.png", square(shift=shift))
    save(tmp_path / "found" / "d.png", square())
    summary = evaluate(tmp_path / "found", config, tmp_path / "s.json")
    assert dice_of(summary) == pytest.approx((1 + 0.75 + 0.5 + 0) / 4)
    positives = summary["positives"]["1"]
    assert (positives["cases"], positives["Dice"]["mean"]) == (3, pytest.approx(0.75))
    text = format_summary(summary)
    assert "positives: lung Dice 0.750" in text
    assert "over the 3 cases with it" in text
    assert "wrongly found in 1 of 1 cases" in text


def test_distances_of_pictures_are_in_pixels_on_the_terminal(config: Path, tmp_path: Path) -> None:
    save(tmp_path / "found" / "a.png", square(shift=1))
    assert "HD95 px" in format_summary(evaluate(tmp_path / "found", config, tmp_path / "s.json", subset=True))
    for name, shift in (("found", 1), ("truth", 0)):  # one slice of a scan has millimetres
        write_nifti(tmp_path / name / "e.nii.gz", square(1, shift)[:, :, np.newaxis])
    found = evaluate(tmp_path / "found" / "e.nii.gz", tmp_path / "truth" / "e.nii.gz", tmp_path / "e.json")
    assert "HD95 mm" in format_summary(found)


def test_a_label_that_every_case_has_needs_no_line_of_its_own(config: Path, tmp_path: Path) -> None:
    save(tmp_path / "found" / "a.png", square())
    summary = evaluate(tmp_path / "found", config, tmp_path / "s.json", subset=True)
    assert summary["positives"] == {}
    assert "positives:" not in format_summary(summary)
