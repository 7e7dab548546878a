"""What ``seg3d evaluate`` tells beside scores, what it refuses, and what it never overwrites."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from study import make_study

import seg3d
from seg3d.cases import Region
from seg3d.digest import sha256_file
from seg3d.errors import ConfigError, DataError, RunError
from seg3d.metrics import format_summary
from seg3d.training.run_folder import RunFolder
from seg3d.verbs.manifest import MANIFEST
from seg3d.verbs.region_scores import as_shown

PREDICTED = {"labels": {"background": 0, "liver": 1, "tumour": 2}, "ignore_label": None}


def write_map(path: Path, value: int = 1, other: int = 0) -> Path:
    """A cube of ``value`` and one voxel of ``other``."""
    data = np.zeros((8, 8, 8), np.uint8)
    data[2:5, 2:5, 2:5] = value
    data[7, 7, 7] = other
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of predictions and of references of two cases."""
    for case in ("a", "b"):
        write_map(tmp_path / "predictions" / f"{case}.nii.gz")
        write_map(tmp_path / "labels" / f"{case}.nii.gz")
    return tmp_path / "predictions", tmp_path / "labels"


def write_dataset(folder: Path, labels: dict[str, int], groups: dict[str, str] | None = None) -> Path:
    """A table and a description of the references of ``a`` and ``b``; the images are label maps, which nobody reads."""
    rows = ["case,image,label,group"]
    rows += [f"{case},labels/{case}.nii.gz,labels/{case}.nii.gz,{(groups or {}).get(case, '')}" for case in ("a", "b")]
    (folder / "study.csv").write_text("\n".join(rows) + "\n")
    (folder / "study.yaml").write_text(
        json.dumps({"name": "s", "data": {"source": str(folder / "study.csv"), "store": "s", "labels": labels}})
    )
    return folder / "study.yaml"


def kinds(summary: dict[str, Any]) -> list[str]:
    return [warning["kind"] for warning in summary["warnings"]]


# --- who predicted, and what the cases were to it


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def runs(study: Path) -> list[Path]:
    return [seg3d.train(study, [f"seed={seed}", "data.split.seed=0", "train.max_epochs=1"]) for seed in (0, 1)]


def scored(predictions: Path, study: Path) -> dict[str, Any]:
    return seg3d.evaluate(predictions, study, predictions.with_suffix(".json"), subset=True, report=False)


def scans_of(study: Path) -> list[Path]:
    return sorted((study.parent / "data" / "imagesTr").iterdir())


def test_cases_that_were_trained_on_are_told_of_also_under_another_name(
    study: Path, runs: list[Path], tmp_path: Path
) -> None:
    splits = json.loads((runs[0] / "splits.json").read_text())
    seg3d.predict(runs[0], output=tmp_path / "test", split="test")
    assert kinds(scored(tmp_path / "test", study)) == []
    seg3d.predict(runs[0], output=tmp_path / "seen", split="train")
    found = scored(tmp_path / "seen", study)
    assert kinds(found) == ["trained_on"]
    assert "WARNING: 3 of 3 cases were trained on" in format_summary(found)

    renamed, case = tmp_path / "scans" / "fresh.nii.gz", splits["train"][0]
    renamed.parent.mkdir()
    shutil.copy(next(scan for scan in scans_of(study) if scan.name.startswith(case)), renamed)
    seg3d.predict(runs[0], [renamed], tmp_path / "new")
    shutil.copytree(study.parent / "data" / "labelsTr", tmp_path / "labels")
    (tmp_path / "labels" / f"{case}.nii.gz").rename(tmp_path / "labels" / "fresh.nii.gz")
    found = seg3d.evaluate(tmp_path / "new", tmp_path / "labels", tmp_path / "new.json", subset=True, report=False)
    assert kinds(found) == ["trained_on"]


def test_answers_of_another_model_in_the_folder_are_told_of(study: Path, runs: list[Path], tmp_path: Path) -> None:
    first, second, third, *_ = scans_of(study)
    target = tmp_path / "out"

    def told() -> list[str]:
        return [kind for kind in kinds(scored(target, study)) if not kind.endswith("_on")]

    seg3d.predict(runs[0], [first, second], target)
    seg3d.predict(runs[0], [third], target)  # the folder is filled in parts
    assert told() == []
    seg3d.predict(runs[1], [second], target)
    assert told() == ["several_models"]
    earlier = json.loads((target / MANIFEST).read_text())["earlier"]
    assert [answers["scans"] for answers in earlier] == [[third.name], [first.name]]
    seg3d.predict(runs[1], [first, second, third], target)
    assert told() == []
    fourth = scans_of(study)[3].name
    shutil.copy(study.parent / "data" / "labelsTr" / fourth, target / fourth)
    assert told() == ["unknown_maker"]


def test_answers_of_a_prediction_that_was_stopped_are_not_put_down_to_the_one_before(
    study: Path, runs: list[Path], tmp_path: Path
) -> None:
    scans = scans_of(study)[:3]
    seg3d.predict(runs[0], scans, tmp_path)

    def stop(line: str) -> None:
        if line.startswith("2/3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seg3d.predict(runs[1], scans, tmp_path, tell=stop)
    (doubt,) = [d for d in scored(tmp_path, study)["warnings"] if d["kind"] == "unknown_maker"]
    assert all(scan.name in doubt["text"] for scan in scans[:2])
    seg3d.predict(runs[1], scans, tmp_path)
    assert not {"unknown_maker", "several_models"} & set(kinds(scored(tmp_path, study)))


def test_scores_of_several_models_are_of_none_of_them(study: Path, runs: list[Path], tmp_path: Path) -> None:
    """As the folds of a cross-validation, whose scores are of cases that the last run has learnt from, too."""
    first, second, *_ = scans_of(study)
    seg3d.predict(runs[0], [first], tmp_path / "out")
    seg3d.predict(runs[1], [second], tmp_path / "out")
    before = [RunFolder(run).evaluations.exists() for run in runs]
    lines: list[str] = []
    seg3d.evaluate(tmp_path / "out", study, tmp_path / "out.json", subset=True, tell=lines.append)
    assert lines == ["no run's report is made: several models made these predictions"]
    assert [RunFolder(run).evaluations.exists() for run in runs] == before


def predict_until(answers: int, run: Path, scans: list[Path], target: Path) -> None:
    """A prediction that is stopped when so many answers are written."""
    import seg3d.verbs.predict as verb

    write, written = verb.write_answer, []

    def counted(*arguments: Any) -> Path:
        written.append(write(*arguments))
        if len(written) == answers:
            raise KeyboardInterrupt
        return written[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "write_answer", counted)
        with pytest.raises(KeyboardInterrupt):
            seg3d.predict(run, scans, target)


def test_answers_that_a_stopped_prediction_has_replaced_are_not_the_former_models(
    study: Path, runs: list[Path], tmp_path: Path
) -> None:
    scans, target = scans_of(study)[:3], tmp_path / "out"
    seg3d.predict(runs[0], scans, target)
    before = RunFolder(runs[0]).evaluations.exists()
    predict_until(2, runs[1], scans, target)
    lines: list[str] = []
    found = seg3d.evaluate(target, study, tmp_path / "out.json", subset=True, tell=lines.append)
    texts = {warning["kind"]: warning["text"] for warning in found["warnings"]}
    assert f"2 of 3 predictions are not told of in {MANIFEST}: {scans[0].name}" in texts["unknown_maker"]
    assert lines == ["no run's report is made: it is not known which model made these predictions"]
    assert RunFolder(runs[0]).evaluations.exists() == before
    seg3d.predict(runs[1], scans, target)
    assert not {"unknown_maker", "several_models"} & set(kinds(scored(target, study)))


def test_a_stopped_prediction_does_not_go_on_with_the_answers_of_another_one(
    study: Path, runs: list[Path], tmp_path: Path
) -> None:
    scans, target = scans_of(study)[:3], tmp_path / "out"
    predict_until(3, runs[0], scans, target)
    predict_until(1, runs[1], scans, target)
    seg3d.predict(runs[0], scans, target)
    seg3d.predict(runs[0], scans, tmp_path / "undisturbed")
    for scan in scans:
        assert (target / scan.name).read_bytes() == (tmp_path / "undisturbed" / scan.name).read_bytes()


def test_probabilities_that_a_former_prediction_left_are_not_scored(
    study: Path, runs: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    seg3d.predict(runs[0], output=target, split="test", overrides=["predict.probabilities=true"])
    assert "pooled_soft_dice" in scored(target, study)
    seg3d.predict(runs[1], output=target, split="test")
    assert (target / "probabilities").is_dir()
    assert "pooled_soft_dice" not in scored(target, study)


# --- what label values mean


def test_values_that_nothing_declares_are_told_of(pair: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, labels = pair
    config = write_dataset(tmp_path, {"background": 0, "tumour": 1})
    write_map(predictions / "a.nii.gz", value=4)
    write_map(labels / "b.nii.gz", other=7)
    found = seg3d.evaluate(predictions, config, tmp_path / "scores.json")
    texts = {warning["kind"]: warning["text"] for warning in found["warnings"]}
    assert "a: 4 (27 voxels)" in texts["undeclared_prediction"]
    assert "b: 7 (1 voxel)" in texts["undeclared_reference"]


def test_axes_that_are_not_at_right_angles_are_told_of(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.5
    data = np.zeros((8, 8, 8), np.uint8)
    data[2:5, 2:5, 2:5] = 1
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "a.nii.gz")
    found = seg3d.evaluate(tmp_path / "a.nii.gz", tmp_path / "a.nii.gz", tmp_path / "scores.json")
    assert kinds(found) == ["sheared"]


def test_labels_that_contradict_each_other_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (pair[0] / MANIFEST).write_text(json.dumps(PREDICTED))
    config = write_dataset(tmp_path, {"background": 0, "tumour": 1, "liver": 2})
    with pytest.raises(DataError, match="different values"):
        seg3d.evaluate(pair[0], config, tmp_path / "scores.json")
    assert not (tmp_path / "scores.json").exists()


def test_labels_of_other_names_are_told_of(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (pair[0] / MANIFEST).write_text(json.dumps(PREDICTED))
    config = write_dataset(tmp_path, {"background": 0, "hepar": 1, "tumour": 2})
    found = seg3d.evaluate(pair[0], config, tmp_path / "scores.json")
    assert kinds(found) == ["other_names"]
    assert "1 is liver there and hepar here" in found["warnings"][0]["text"]


@pytest.mark.parametrize("content", [[], {"images": [], "annotations": []}, {"labels": {"a": "b"}}])
def test_a_record_of_another_program_is_refused(pair: tuple[Path, Path], tmp_path: Path, content: Any) -> None:
    (pair[0] / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(RunError, match="no record of predictions"):
        seg3d.evaluate(*pair, tmp_path / "scores.json")


def test_a_region_may_be_shown_as_a_value_that_the_map_cannot_hold() -> None:
    shown = as_shown(np.array([0, 1, 2], np.uint8), [Region("whole", (1, 2), 300)])
    assert shown.tolist() == [0, 300, 300]


# --- cases, groups, files


def test_cases_are_described_and_patients_count_once(pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = write_dataset(tmp_path, {"background": 0, "tumour": 1}, {"a": "anna", "b": "anna"})
    found = seg3d.evaluate(pair[0], config, tmp_path / "scores.json")
    assert [row["group"] for row in found["metric_per_case"]] == ["anna", "anna"]
    digest = sha256_file(pair[1] / "a.nii.gz")
    assert found["metric_per_case"][0]["reference_sha256"] == digest
    assert found["foreground_dice"]["groups"] == 1
    assert found["foreground_dice"]["ci95"] is None


def test_the_tolerance_is_that_of_the_config_unless_another_is_given(pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = write_dataset(tmp_path, {"background": 0, "tumour": 1})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"evaluate": {"tolerance_mm": 3.5}}))
    for labels, given, expected in ((config, None, "3.5"), (config, 1.0, "1"), (pair[1], None, "2")):
        found = seg3d.evaluate(pair[0], labels, tmp_path / "scores.json", tolerance_mm=given)
        assert f"at a tolerance of {expected} mm" in found["rules"]["surface"]


def test_nothing_but_scores_is_overwritten(pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = write_dataset(tmp_path, {"background": 0, "tumour": 1})
    (tmp_path / "dataset.json").write_text("{}")
    before = (tmp_path / "study.csv").read_text()
    for name in ("study.json", "dataset.json", "fold.1", "scores"):
        with pytest.raises(ConfigError, match="--output"):
            seg3d.evaluate(pair[0], config, tmp_path / name)
    assert (tmp_path / "study.csv").read_text() == before
    assert (tmp_path / "dataset.json").read_text() == "{}"
    for _ in range(2):
        seg3d.evaluate(pair[0], config, tmp_path / "scores.json")
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"scores\.csv"):
        seg3d.evaluate(pair[0], config, tmp_path / "scores.json")


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_distance_is_refused(pair: tuple[Path, Path], tmp_path: Path, tolerance: float) -> None:
    with pytest.raises(ConfigError, match="tolerance"):
        seg3d.evaluate(*pair, tmp_path / "scores.json", tolerance_mm=tolerance)
