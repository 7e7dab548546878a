"""The command line, called in-process, and bad input: a clear message, the right exit code, nothing half written."""

from __future__ import annotations

import collections
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import typer
from full_disk import room_for
from rich.text import Text
from scans import write_nifti
from study import make_study
from typer.testing import CliRunner, Result

import seg3d
from seg3d.cli import app, main
from seg3d.errors import ConfigError, Seg3dError
from seg3d.verbs.check import check


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return make_study(tmp_path)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def message_of(*arguments: object) -> str:
    """The user's mistake that a command ends with."""
    result = call(*arguments)
    assert isinstance(result.exception, Seg3dError), result.output
    return str(result.exception)


def test_a_mistake_is_one_message_and_exit_code_2(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["seg3d", "train", str(config), "train.max_epoch=3"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "max_epochs" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("place", "room", "told"),
    [("scan.nii.gz/page.html", None, "cannot be used (got File exists)"), ("page.html", 100, "finds no room")],
)
def test_a_file_that_the_system_refuses_is_one_message_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    room: int,
    told: str,
) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz", np.zeros((4, 5, 6), np.int16))
    monkeypatch.setattr("sys.argv", ["seg3d", "view", str(scan), "--output", str(tmp_path / place)])
    with room_for(resource.RLIM_INFINITY if room is None else room), pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"seg3d: {(tmp_path / place).parent if room is None else tmp_path / place}: ")
    assert told in error
    assert list(tmp_path.iterdir()) == [scan]


def test_names_that_a_terminal_cannot_show_are_told_all_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seg3d.cli", "check", str(tmp_path / "sé\udce9")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert "s\\xe9\\udce9: the dataset does not exist" in done.stdout


def test_misspelt_keys_are_told_all_at_once_with_suggestions(config: Path) -> None:
    text = message_of("train", config, "train.max_epoch=3", "smapling.balance=case", "seed=banana")
    for word in ("train.max_epoch", "max_epochs", "smapling", "sampling", "seed"):
        assert word in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_epochs=five", ["train.max_epochs"]),
        ("sampling.patch_size=[17,16,16]", ["sampling.patch_size", "16"]),
        ("prepare.normalise=[{kind: divide}]", ["by"]),
        ("train.max_epochs", ["train.max_epochs", "=value"]),
        ("sampling.class_weights={tumour:1}", ["sampling.class_weights", "tumour: 1"]),
    ],
)
def test_a_setting_that_cannot_be_used_is_told(config: Path, override: str, words: list[str]) -> None:
    text = message_of("config", "show", config, override)
    assert all(word in text for word in words)


@pytest.mark.parametrize("verb", ["predict", "serve", "evaluate", "train"])
def test_help_shows_examples_as_they_are_typed(verb: str) -> None:
    for parameter in typer.main.get_command(app).commands[verb].params:
        text = getattr(parameter, "help", None) or ""
        assert Text.from_markup(text).plain == text  # the terminal takes [x] for a style


@pytest.mark.parametrize(("given", "told"), [("train.max_epochs=5", "config comes first"), (".", "data.source")])
def test_what_is_given_in_place_of_a_config_is_told(given: str, told: str) -> None:
    assert told in message_of("train", given)


def test_settings_for_a_dataset_that_is_no_config_are_refused(config: Path) -> None:
    text = message_of("check", config.parent / "data", "data.split.folds=3")
    assert "data.split.folds=3" in text
    assert "config" in text


def test_a_file_that_describes_no_dataset_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "cases.xlsx").write_bytes(b"PK\3\4\xff")
    (fault,) = check(tmp_path / "cases.xlsx")
    assert "no dataset of a known layout" in fault.what


def test_check_lists_faults_and_exits_with_1(config: Path) -> None:
    images = config.parent / "data" / "imagesTr"
    one, two = sorted(images.iterdir())[:2]
    one.write_bytes(one.read_bytes()[:200])
    two.unlink()
    for source in (config, config.parent / "data"):
        result = call("check", source)
        assert result.exit_code == 1
        assert one.name in result.output
        assert two.name in result.output
        assert "2 faults" in result.output
    found = json.loads(call("check", config, "--json").output)
    assert {fault["kind"] for fault in found} == {"unreadable", "missing_file"}


def test_check_lists_the_faults_of_the_config_beside_those_of_the_data(config: Path) -> None:
    scan = sorted((config.parent / "data" / "imagesTr").iterdir())[0]
    scan.unlink()
    result = call("check", config, "train.max_epoch=3", "sampling.patch_size=[17,16,16]")
    assert result.exit_code == 1
    for word in ("train.max_epoch", "sampling.patch_size", scan.name):
        assert word in result.output


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        (["train.max_epoch=3", "data.source=nowhere"], ["nowhere", "train.max_epoch"]),
        (["train.max_epoch=3", "data.layout=folders"], ["data.folders", "train.max_epoch"]),
        # that there are no patterns comes from the one that is at fault
        (
            ["train.max_epoch=3", "data.layout=folders", "data.folders.images=[x.nii]"],
            ["data.folders.images.0", "train"],
        ),
    ],
)
def test_check_lists_the_faults_of_the_config_beside_a_dataset_that_cannot_be_read(
    config: Path, settings: list[str], places: list[str]
) -> None:
    faults = sorted(fault.where for fault in check(config, settings))
    assert len(faults) == len(places)
    assert all(fault.startswith(place) for fault, place in zip(faults, places, strict=True))


def test_check_of_a_good_dataset_exits_with_0(config: Path) -> None:
    result = call("check", config)
    assert result.exit_code == 0
    assert "0 faults" in result.output


def test_config_schema_names_every_key(config: Path) -> None:
    text = call("config", "schema").output
    for key in ("seed", "data.source", "data.num_workers", "train.precision", "reproducibility.mode", "tracking.uri"):
        assert key in text
    assert json.loads(call("config", "schema", config, "--json").output)["properties"]


def test_the_whole_path_by_command(config: Path, tmp_path: Path) -> None:
    assert call("prepare", config).exit_code == 0
    trained = call("train", config, "train.max_epochs=1")
    run = Path(trained.output.strip().splitlines()[-1])
    assert (run / "result.json").exists()
    assert call("predict", run, "--split", "test", "--output", tmp_path / "answers").exit_code == 0
    scores = tmp_path / "scores.json"
    evaluated = call("evaluate", tmp_path / "answers", tmp_path / "data", "--output", scores, "--subset")
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(scores.read_text())["rules"]["both_empty"]


def test_json_is_json_and_nothing_else(config: Path, tmp_path: Path) -> None:
    prepared = json.loads(call("prepare", config, "--json").stdout)
    assert len(prepared["cases"]) == 5
    trained = json.loads(call("train", config, "train.max_epochs=1", "--json").stdout)
    assert trained["weights_sha256"]
    answers = tmp_path / "answers"
    predicted = json.loads(call("predict", trained["run"], "--split", "test", "--output", answers, "--json").stdout)
    assert [Path(path).parent for path in predicted] == [answers]
    arguments = ("evaluate", answers, tmp_path / "data", "--output", tmp_path / "s.json", "--subset", "--json")
    assert json.loads(call(*arguments).stdout)["cases"] == 1


def test_a_truncated_scan_leaves_no_volume_and_the_others_are_done(config: Path) -> None:
    scan = sorted((config.parent / "data" / "imagesTr").iterdir())[1]
    good = scan.read_bytes()
    scan.write_bytes(good[: len(good) // 2])
    assert scan.name in message_of("prepare", config)
    store = config.parent / "store"
    assert sorted(path.name for path in store.glob("*.h5")) == [f"blobs_00{i}.h5" for i in (0, 2, 3, 4)]
    assert [path for path in store.rglob("*") if path.name.startswith(".tmp")] == []
    before = {path.name: path.stat().st_mtime_ns for path in store.glob("*.h5")}
    scan.write_bytes(good)
    assert call("prepare", config).exit_code == 0
    after = {path.name: path.stat().st_mtime_ns for path in store.glob("*.h5")}
    assert before.items() <= after.items()  # what was done is left as it was
    assert len(after) == 5


def test_a_full_disk_leaves_the_store_intact(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("prepare", config).exit_code == 0
    store = config.parent / "store"
    before = {path.name: path.read_bytes() for path in store.glob("*.h5")}
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 0))
    text = message_of("prepare", config, "prepare.normalise=[{kind: minmax}]")
    assert "disk is full" in text
    assert {path.name: path.read_bytes() for path in store.glob("*.h5")} == before
    assert [path for path in store.rglob("*") if path.name.startswith(".tmp")] == []


def test_duplicate_cases_are_refused_before_anything_is_written(config: Path, tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    scan = sorted((tmp_path / "data" / "imagesTr").iterdir())[0]
    label = tmp_path / "data" / "labelsTr" / scan.name
    table.write_text("case,MRI,label\n" + f"a,{scan},{label}\n" * 2)
    text = message_of("prepare", config, f"data.source={table}", "data.labels={background: 0, blob: 1}")
    assert "several cases have the same name" in text
    assert not (tmp_path / "store").exists()


def test_a_label_on_another_grid_is_refused(config: Path) -> None:
    label = sorted((config.parent / "data" / "labelsTr").iterdir())[0]
    write_nifti(label, np.zeros((24, 24, 23), np.uint8))
    assert "different grids" in message_of("prepare", config)


def test_a_leaking_split_file_is_refused(config: Path, tmp_path: Path) -> None:
    split = tmp_path / "splits_final.json"
    split.write_text(json.dumps([{"train": ["blobs_000", "blobs_001"], "val": ["blobs_001"]}]))
    text = message_of("train", config, f"data.split={{kind: file, file: {split}}}")
    assert "in several parts" in text
    assert not (tmp_path / "runs").exists()


def evaluate_case(tmp_path: Path, name: str, prediction: np.ndarray, affine: np.ndarray | None = None) -> str:
    write_nifti(tmp_path / "labels" / "a.nii.gz", np.ones((5, 5, 5), np.uint8))
    write_nifti(tmp_path / "predictions" / name, prediction, affine)
    return message_of("evaluate", tmp_path / "predictions", tmp_path / "labels", "--output", tmp_path / "s.json")


@pytest.mark.parametrize(
    ("name", "prediction", "affine", "words"),
    [
        ("b.nii.gz", np.ones((5, 5, 5), np.uint8), None, "no reference"),
        ("a.nii.gz", np.ones((5, 5, 4), np.uint8), None, "different grids"),
        ("a.nii.gz", np.ones((5, 5, 5), np.uint8), np.diag([1, 1, 2, 1.0]), "different grids"),
        ("a.nii.gz", np.full((5, 5, 5), 0.5, np.float32), None, "not whole numbers"),
    ],
)
def test_what_cannot_be_scored_is_told_and_nothing_is_written(
    tmp_path: Path, name: str, prediction: np.ndarray, affine: np.ndarray | None, words: str
) -> None:
    assert words in evaluate_case(tmp_path, name, prediction, affine)
    assert not (tmp_path / "s.json").exists()
    assert not (tmp_path / "s.csv").exists()


def test_a_case_that_was_not_predicted_is_told_unless_a_subset_is_meant(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / "labels" / name, np.ones((5, 5, 5), np.uint8))
    write_nifti(tmp_path / "predictions" / "a.nii.gz", np.ones((5, 5, 5), np.uint8))
    arguments = ("evaluate", tmp_path / "predictions", tmp_path / "labels", "--output", tmp_path / "s.json")
    assert "not predicted" in message_of(*arguments)
    assert call(*arguments, "--subset").exit_code == 0
    assert json.loads((tmp_path / "s.json").read_text())["per_label"]["1"]["Dice"]["mean"] == 1.0


def test_two_files_are_scored_whatever_their_names(tmp_path: Path) -> None:
    one = write_nifti(tmp_path / "mine.nii.gz", np.ones((5, 5, 5), np.uint8))
    two = write_nifti(tmp_path / "theirs.nii.gz", np.ones((5, 5, 5), np.uint8))
    assert call("evaluate", one, two, "--output", tmp_path / "s.json").exit_code == 0


@pytest.mark.real_data
def test_predictions_lie_where_simpleitk_sees_the_scan(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    """A real PET, written back by our writer: label centroids agree with SimpleITK's within 0.1 mm."""

    from seg3d.io import read_header, read_label_map, write_like

    path = real_data("sarcoma_pet_ct_mr") / "STS_001" / "PET_mask.nii.gz"
    write_like(tmp_path / "answer.nii.gz", read_label_map(path).data[0], read_header(path))
    centres = []
    for file in (path, tmp_path / "answer.nii.gz"):
        statistics = sitk.LabelShapeStatisticsImageFilter()
        statistics.Execute(sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkUInt8))
        centres.append(statistics.GetCentroid(1))
    np.testing.assert_allclose(centres[0], centres[1], atol=0.1)
    assert nib.load(path).header["qform_code"] == nib.load(tmp_path / "answer.nii.gz").header["qform_code"]


def test_settings_for_a_dataset_without_config_are_refused(config: Path) -> None:
    assert "settings are for a config" in message_of("check", config.parent / "data", "data.layout=table")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.patches_per_epoch=7", "sampling.patches_per_epoch: .*do not fill whole batches.*nearest is 8"),
        ("sampling.class_weights={blub: 1}", "sampling.class_weights: unknown labels"),
        ("loss.class_weights={blub: 1}", "loss.class_weights: unknown labels"),
        ("loss.class_weights={blob: 0}", "loss.class_weights: nothing that is to be found has a weight"),
        ("predict.keep_largest=[blub]", "predict.keep_largest: unknown labels"),
        ("predict.min_size_ml={blub: 1}", "predict.min_size_ml: unknown labels"),
        ("data.split.stratify=blub", "data.split.stratify: unknown labels"),
        ("model.prior=0.1", "model.prior: .*knows no prior"),
    ],
)
def test_check_tells_what_train_would_refuse_and_train_refuses_it_before_it_prepares(
    config: Path, tmp_path: Path, override: str, message: str
) -> None:
    done = call("check", config, override)
    assert done.exit_code == 1
    assert re.search(message, done.output), done.output
    with pytest.raises(ConfigError, match=message):
        seg3d.train(config, [override, f"data.store={tmp_path / 'store'}"])
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("names", "settings", "told"),
    [
        (("lung_left", "lung_right"), [], "augment.flip.axes"),
        (("Kidney L", "kidney r"), ["predict.mirror=[x]"], "augment.flip.axes, predict.mirror"),
        (("right", "left"), ["augment.flip=null", "predict.mirror=[x, z]"], "predict.mirror"),
        (("right", "left"), ["augment.flip.axes=[y, z]"], None),
        (("right", "left"), ["augment.flip.p=0"], None),
        (("left atrium", "right ventricle"), [], None),
        (("right", "left"), ["data.regions={lungs: [left, right]}"], None),
    ],
)
def test_mirroring_that_exchanges_labels_of_two_sides_is_told(
    config: Path, names: tuple[str, str], settings: list[str], told: str | None
) -> None:
    labels = f"data.labels={{background: 0, {names[0]}: 1, {names[1]}: 2}}"
    weights = f"sampling.class_weights={{background: 1, {names[0]}: 1}}"
    done = call("check", config, labels, weights, *settings)
    assert done.exit_code == 0
    lines: list[str] = []
    seg3d.train(config, [labels, weights, "train.max_epochs=1", *settings], tell=lines.append)
    for text in (" ".join(done.output.split()), "\n".join(lines)):
        assert text.count("exchanged") == (told is not None)
        assert told is None or f" {told}: left and right are exchanged" in text
