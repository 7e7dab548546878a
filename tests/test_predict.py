"""Predicting many scans: in memory, one after the other, stopped and taken up again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from study import make_study

import seg3d
from seg3d.atomic import temporary_name
from seg3d.build.prediction import prediction_settings
from seg3d.config import Config, as_config
from seg3d.digest import sha256_file
from seg3d.errors import DataError, FaultsError, RunError
from seg3d.inference.pipeline import overlapped
from seg3d.io import read_volume
from seg3d.training.checkpoints import list_checkpoints, save_checkpoint
from seg3d.verbs.manifest import MANIFEST
from seg3d.verbs.scans import PROGRESS


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    return seg3d.train(config, ["model.norm=batch", "train.max_epochs=1"])


@pytest.fixture(scope="module")
def scans(config: Path) -> list[Path]:
    return sorted((config.parent / "data" / "imagesTr").iterdir())[:3]


@pytest.fixture(scope="module")
def answers(run: Path, scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    target = tmp_path_factory.mktemp("answers")
    seg3d.predict(run, scans, target)
    return voxels_in(target)


def voxels_in(folder: Path) -> dict[str, bytes]:
    return {path.name: np.asanyarray(nib.load(path).dataobj).tobytes() for path in sorted(folder.glob("*.nii.gz"))}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_volume_in_memory_gets_the_label_map_that_its_file_gets(
    run: Path, scans: list[Path], answers: dict[str, bytes]
) -> None:
    label = seg3d.predict(run, read_volume(scans[0]))
    assert label.tobytes() == answers[scans[0].name]


def test_ctrl_c_leaves_whole_answers_only_and_the_next_call_makes_the_others(
    run: Path, scans: list[Path], answers: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seg3d.inference.predictor import Predictor

    answer, seen = Predictor.answer, []

    def interrupted(self: Predictor, *args: Any, **settings: Any) -> Any:
        seen.append(settings["name"])
        if len(seen) == 3:
            raise KeyboardInterrupt
        return answer(self, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            seg3d.predict(run, scans, tmp_path)
    assert names_in(tmp_path) <= {scans[0].name, scans[1].name, PROGRESS}
    assert voxels_in(tmp_path).items() <= answers.items()
    told: list[str] = []
    seg3d.predict(run, scans, tmp_path, tell=told.append)
    assert f"1/3 {scans[0].name}: answered to before" in told
    assert voxels_in(tmp_path) == answers
    assert PROGRESS not in names_in(tmp_path)


def test_a_prediction_that_was_killed_goes_on_where_it_stopped(
    run: Path, scans: list[Path], answers: dict[str, bytes], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    command = [sys.executable, "-m", "seg3d.cli", "predict", str(run), *map(str, scans), "--output", str(target)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number rounds differently
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | threads)
    while process.poll() is None and not (target / PROGRESS).exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seg3d.predict(run, scans, target)
    assert voxels_in(target) == answers


def test_what_a_killed_prediction_was_writing_is_removed(
    run: Path, scans: list[Path], answers: dict[str, bytes], tmp_path: Path
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for folder in (tmp_path, tmp_path / "probabilities"):
        folder.mkdir(exist_ok=True)
        draft = temporary_name(folder / "a.nii.gz")
        (folder / draft.name.replace(str(os.getpid()), str(dead.pid))).write_bytes(b"torn")
    seg3d.predict(run, scans[:1], tmp_path)
    assert voxels_in(tmp_path) == {scans[0].name: answers[scans[0].name]}
    assert names_in(tmp_path / "probabilities") == set()


def test_an_answer_that_another_process_replaces_meanwhile_is_told(
    run: Path, scans: list[Path], tmp_path: Path
) -> None:
    def replace(line: str) -> None:
        if line.startswith("2/3"):
            (tmp_path / scans[0].name).write_bytes(b"another answer")

    with pytest.raises(FaultsError, match=f"{scans[0].name}: another process has replaced the answer"):
        seg3d.predict(run, scans, tmp_path, tell=replace)
    assert json.loads((tmp_path / MANIFEST).read_text())["scans"] == [scan.name for scan in scans[1:]]


def test_a_link_that_leads_nowhere_is_named_and_the_others_go_on(run: Path, scans: list[Path], tmp_path: Path) -> None:
    lost = tmp_path / "lost.nii.gz"
    lost.symlink_to(tmp_path / "nowhere.nii.gz")
    folder = tmp_path / "in"
    folder.mkdir()
    for scan in (scans[0], lost):
        shutil.copy(scan, folder, follow_symlinks=False)
    with pytest.raises(FaultsError, match=r"lost\.nii\.gz: the file is missing"):
        seg3d.predict(run, [folder], tmp_path / "out")
    assert (tmp_path / "out" / scans[0].name).is_file()


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"made_by": 1}', '{"made_by": '])
def test_a_damaged_record_of_progress_is_as_none(
    run: Path, scans: list[Path], answers: dict[str, bytes], tmp_path: Path, damage: str
) -> None:
    (tmp_path / PROGRESS).write_text(damage)
    seg3d.predict(run, scans, tmp_path)
    assert voxels_in(tmp_path) == answers
    assert PROGRESS not in names_in(tmp_path)


def test_a_finished_prediction_is_made_anew_and_so_is_one_with_other_settings(
    run: Path, scans: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(scans[0].read_bytes()[:100])
    target = tmp_path / "out"
    for settings, before in (([], 0), ([], 1), (["predict.mirror=[x]"], 0), (["sampling.border=mirror"], 0)):
        told: list[str] = []
        with pytest.raises(FaultsError):
            seg3d.predict(run, [scans[0], broken], target, overrides=settings, tell=told.append)
        assert sum(line.endswith("answered to before") for line in told) == before
    for _ in range(2):
        told = []
        seg3d.predict(run, scans[:1], target, tell=told.append)
        assert not any(line.endswith("answered to before") for line in told)


def test_the_record_names_the_weights_that_predicted_though_the_run_has_others_by_then(
    run: Path, scans: list[Path], tmp_path: Path
) -> None:
    training = shutil.copytree(run, tmp_path / "run")
    (best,) = list_checkpoints(training / "checkpoints", "best")
    predicted_with = sha256_file(best.path)

    def train_on(line: str) -> None:
        if "tiles:" in line:  # the weights are loaded
            save_checkpoint(training / "checkpoints", "best", best.step + 1, lambda draft: _altered(best.path, draft))

    seg3d.predict(training, scans[:1], tmp_path / "out", tell=train_on)
    assert not best.path.exists()
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["weights"] == predicted_with


def _altered(checkpoint: Path, target: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"epoch": -1}, target)


def test_a_scan_with_nan_is_named_and_the_others_go_on(run: Path, scans: list[Path], tmp_path: Path) -> None:
    scan = nib.load(scans[0])
    values = scan.get_fdata(dtype=np.float32)
    values[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(values, scan.affine), tmp_path / "holes.nii.gz")
    with pytest.raises(FaultsError, match=r"holes.nii.gz.*not finite"):
        seg3d.predict(run, [tmp_path / "holes.nii.gz", scans[1]], tmp_path / "out")
    assert set(voxels_in(tmp_path / "out")) == {scans[1].name}


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 2), (3, 5, 40)])
def test_scans_thinner_than_a_tile_are_answered_to(run: Path, tmp_path: Path, shape: tuple[int, int, int]) -> None:
    nib.save(nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4)), tmp_path / "thin.nii.gz")
    (answer,) = seg3d.predict(run, [tmp_path / "thin.nii.gz"], tmp_path / "out")
    assert nib.load(answer).shape == shape


def test_the_way_of_tiling_is_told_and_exact_is_refused_for_instance_norm(
    run: Path, scans: list[Path], tmp_path: Path
) -> None:
    told: list[str] = []
    seg3d.predict(run, scans[:1], tmp_path, tell=told.append)
    assert told[0].startswith("exact tiles: an answer depends on")
    with pytest.raises(FaultsError, match="instance norm looks at all of a tile"):
        seg3d.predict(run, scans[:1], tmp_path, overrides=["predict.tiling=exact", "model.norm=instance"])


@pytest.mark.parametrize("ahead", [True, False])
def test_items_come_back_in_order_and_no_more_than_one_is_read_ahead(ahead: bool) -> None:
    done: list[str] = []

    def load(item: int) -> int:
        done.append(f"read {item}")
        return item

    def make(item: int, loaded: int) -> int:
        done.append(f"make {item}")
        return loaded

    def store(item: int, _: int) -> None:
        done.append(f"write {item}")

    found = list(overlapped(range(4), load, make, store, ahead=ahead))
    assert found == [(item, None) for item in range(4)]
    for item in range(4):
        assert done.index(f"read {item}") < done.index(f"make {item}") < done.index(f"write {item}")
        if item < 2:
            assert done.index(f"make {item}") < done.index(f"read {item + 2}")
        if item < 3 and not ahead:
            assert done.index(f"write {item}") < done.index(f"read {item + 1}")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_another_engine_gives_the_labels_that_torch_gives(
    run: Path, scans: list[Path], tmp_path: Path, backend: str
) -> None:
    pytest.importorskip(backend)
    blended = ["predict.tiling=blended"]
    seg3d.predict(run, scans[:1], tmp_path / "torch", overrides=blended)
    seg3d.predict(run, scans[:1], tmp_path / backend, overrides=[*blended, f"predict.backend={backend}"])
    (expected,), (found,) = (voxels_in(tmp_path / name).values() for name in ("torch", backend))
    assert np.mean(np.frombuffer(found, np.uint8) == np.frombuffer(expected, np.uint8)) > 0.999
    records = {name: json.loads((tmp_path / name / MANIFEST).read_text()) for name in ("torch", backend)}
    assert "engines" not in records["torch"]
    assert {engine["backend"] for engine in records[backend]["engines"]} == {backend}
    assert all(engine["version"] and engine["difference"] < 1e-4 for engine in records[backend]["engines"])
    with pytest.raises(FaultsError, match="takes tiles as a whole"):
        seg3d.predict(run, scans[:1], overrides=[f"predict.backend={backend}", "predict.tiling=exact"])


def test_a_prediction_loads_only_what_it_needs(run: Path, scans: list[Path], tmp_path: Path) -> None:
    names = ("pytorch_lightning", "torchio", "mlflow", "matplotlib", "pandas", "scipy.stats", "torch._dynamo", "sympy")
    code = f"""
import sys
from seg3d.cli import app
for tiling in ("exact", "blended"):
    files = [{str(run)!r}, {str(scans[0])!r}, "--output", {str(tmp_path)!r} + "/" + tiling]
    app(["predict", *files, "--set", f"predict.tiling={{tiling}}"], standalone_mode=False)
print("loaded", *[name for name in ({names!r} + ("sklearn", "onnx", "openvino")) if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["loaded"], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "was", "changed", "told"),
    [
        ("model.json", '"blob": 1', '"blob": 3', "changed or damaged"),
        ("model.json", "{", "[{", "changed or damaged"),
        ("config.yaml", "kind: zscore", "kind: minmax", r"config prepare\.normalise"),
        ("config.yaml", "border: constant", "border: mirror", r"config sampling\.border: constant -> mirror"),
    ],
)
def test_a_run_that_is_not_what_was_trained_is_refused(
    run: Path, scans: list[Path], tmp_path: Path, name: str, was: str, changed: str, told: str
) -> None:
    """Its answers would have other labels, or be those to scans that were prepared in another way."""
    other = shutil.copytree(run, tmp_path / "run")
    text = (other / name).read_text()
    assert was in text
    (other / name).write_text(text.replace(was, changed, 1))
    with pytest.raises(RunError, match=told):
        seg3d.predict(other, scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_predicts_elsewhere_with_other_settings_of_the_prediction(
    run: Path, scans: list[Path], answers: dict[str, bytes], tmp_path: Path
) -> None:
    other = shutil.copytree(run, tmp_path / "run")
    for name in ("splits.json", "data.json", "environment.json", "metrics.csv"):
        (other / name).unlink()
    text = (other / "config.yaml").read_text()
    assert "memory_gib: null" in text
    (other / "config.yaml").write_text(text.replace("memory_gib: null", "memory_gib: 4"))
    seg3d.predict(other, scans, tmp_path / "out")
    assert voxels_in(tmp_path / "out") == answers


def test_scans_and_a_part_of_the_split_are_not_given_together(run: Path, scans: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not both"):
        seg3d.predict(run, scans, tmp_path / "out", split="test")
    assert not (tmp_path / "out").exists()


def test_answers_need_a_folder(run: Path, scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="need a folder"):
        seg3d.predict(run, scans, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_prediction_computes_with_the_algorithms_of_its_run_and_leaves_the_process_as_it_was(
    run: Path, scans: list[Path], tmp_path: Path
) -> None:
    def state() -> dict[str, Any]:
        return {
            "threads": torch.get_num_threads(),
            "portable": not torch.backends.mkldnn.enabled,
            "tf32": torch.backends.cudnn.allow_tf32,
            "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        }

    before = state()
    seen: list[dict[str, Any]] = []
    given = ["reproducibility.portable=true", "reproducibility.threads=1"]
    torch.backends.cudnn.allow_tf32 = True
    try:
        outside = state()
        for settings in ([], given):
            seg3d.predict(run, scans[:1], tmp_path / "out", overrides=settings, tell=lambda _: seen.append(state()))
        assert state() == outside
    finally:
        torch.backends.cudnn.allow_tf32 = before["tf32"]
    expected = {"threads": outside["threads"], "portable": False, "tf32": False}
    assert expected | {"cudnn": (True, False)} in seen
    assert expected | {"cudnn": (True, False), "threads": 1, "portable": True} in seen


@pytest.mark.parametrize("given", ["reproducibility.threads=3", "reproducibility={threads: 3}"])
def test_threads_are_those_given_in_any_way_and_never_the_runs_own(given: str) -> None:
    data = {"source": "a", "store": "b"}
    config = Config.model_validate({"name": "a", "data": data, "reproducibility": {"threads": 5}})
    assert prediction_settings(config).threads is None
    assert prediction_settings(as_config(config, [given]), [given]).threads == 3
