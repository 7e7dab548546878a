"""Trainings that begin with the weights of another run: the same bits again, and nothing flattered."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from study import losses_of, make_study, result_of

import seg3d
from seg3d.config import load_config
from seg3d.errors import ConfigError, RunError
from seg3d.training.outcome import read_weights
from seg3d.training.run_folder import open_run_folder
from seg3d.training.start import read_start
from seg3d.verbs.evaluate import evaluate
from seg3d.verbs.initial_weights import refuse_other_network

STILL = ["train.optimizer.learning_rate=1e-30", "train.max_epochs=1"]  # so that weights stay what they were


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def first(config: Path) -> Path:
    return seg3d.train(config, ["data.split.seed=0", "train.max_epochs=1"])


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return read_weights(open_run_folder(run), "last", averaged=False)


def moved(a: Path, b: Path) -> set[str]:
    """Parameters that differ; statistics of batches always do."""
    one, other = weights_of(a), weights_of(b)
    kept = [name for name in one if "running" not in name and "num_batches" not in name]
    return {name for name in kept if one[name].shape != other[name].shape or not torch.equal(one[name], other[name])}


def test_a_training_begins_with_the_weights_of_the_run(config: Path, first: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    settings = ["data.split.seed=0", *STILL, f"train.initial_weights={first}"]
    run = seg3d.train(config, [*settings, "seed=7"], folder=tmp_path / "run", tell=lines.append)
    assert moved(first, run) == set()
    assert f"initial weights: those of {first.name}" in lines
    assert not any("initial weights know" in line for line in lines)  # the same split
    identity = open_run_folder(run).identity
    assert (
        identity["initial_weights_sha256"] == json.loads((run / "data.json").read_text())["initial_weights"]["sha256"]
    )
    plain = seg3d.train(config, ["data.split.seed=0", *STILL, "seed=7"], folder=tmp_path / "plain")
    assert moved(first, plain) != set()
    assert open_run_folder(plain).identity["config_sha256"] == identity["config_sha256"]
    assert open_run_folder(plain).identity["identity_sha256"] != identity["identity_sha256"]


@pytest.mark.slow
def test_it_is_the_same_to_the_bit_again_and_after_a_stop(config: Path, first: Path, tmp_path: Path) -> None:
    start = Path(shutil.copytree(first, tmp_path / "start"))
    settings = ["data.split.seed=0", f"train.initial_weights={start}", "train.ema_decay=0.9", "train.max_epochs=3"]
    run = seg3d.train(config, settings, folder=tmp_path / "run")
    assert seg3d.verify(run).identical

    def stop(line: str) -> None:
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises((SystemExit, KeyboardInterrupt)):
        seg3d.train(config, settings, folder=tmp_path / "stopped", tell=stop)
    shutil.rmtree(start)  # what goes on from a checkpoint needs it no more
    again = seg3d.resume(tmp_path / "stopped")
    assert losses_of(again) == losses_of(run)
    assert result_of(again)["weights_sha256"] == result_of(run)["weights_sha256"]
    with pytest.raises(RunError, match=r"start"):
        seg3d.verify(run)
    shutil.copytree(seg3d.train(config, ["seed=9", "train.max_epochs=1"], folder=tmp_path / "other"), start)
    with pytest.raises(RunError, match="initial weights: "):
        seg3d.verify(run)


def test_other_channels_are_told(config: Path, first: Path) -> None:
    """Two in another order would fit, and nothing would be as it was learnt."""
    asked, store, start = load_config(config), seg3d.prepare(config), read_start(first)
    lines: list[str] = []
    refuse_other_network(asked, store, start, lines.append)
    assert lines == [f"initial weights: those of {first.name}"]
    refuse_other_network(asked, replace(store, channels=("CT",)), start, lines.append)
    assert lines[2:] == ["NOTE: they have learnt from the channels MRI; here: CT"]


def test_the_last_layer_is_new_where_labels_differ(config: Path, first: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    settings = [*STILL, "data.split.seed=0", f"train.initial_weights={first}", "data.labels={background: 0, cyst: 1}"]
    settings.append(f"data.store={tmp_path / 'store'}")
    run = seg3d.train(config, settings, folder=tmp_path / "run", tell=lines.append)
    assert moved(first, run) == {"head.weight", "head.bias"}
    assert any("the last layer is random, for other labels" in line for line in lines)


def test_weights_of_another_network_are_refused_before_a_folder_is_made(
    config: Path, first: Path, tmp_path: Path
) -> None:
    settings = [f"train.initial_weights={first}", "model.features=[4,6]"]
    with pytest.raises(ConfigError, match=r"another network.*got .*expected .*Choose model and channels"):
        seg3d.train(config, settings, folder=tmp_path / "run")
    with pytest.raises(RunError, match="gone"):
        seg3d.train(config, [f"train.initial_weights={tmp_path / 'gone'}"], folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def splits_of(run: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((run / "splits.json").read_text())
    return found


def test_test_cases_that_the_weights_know_are_told_and_their_scores_doubted(
    config: Path, first: Path, tmp_path: Path
) -> None:
    """Also two runs later, and under another name."""
    known = splits_of(first)
    fold = {"train": known["test"], "val": known["train"]}  # nnU-Net's val is the test part
    (tmp_path / "folds.json").write_text(json.dumps([fold]))
    turned = ["data.split={kind: file, fold: 0, val_share: 0, file: " + str(tmp_path / "folds.json") + "}", *STILL]
    lines: list[str] = []
    run = seg3d.train(config, [*turned, f"train.initial_weights={first}"], folder=tmp_path / "a", tell=lines.append)
    (note,) = [line for line in lines if "initial weights know" in line]
    assert f"know {len(known['train'])} of the test cases" in note
    again = seg3d.train(config, [*turned, f"train.initial_weights={run}", "seed=3"], folder=tmp_path / "b")
    (tmp_path / "scans").mkdir()
    (tmp_path / "labels").mkdir()
    data, case = config.parent / "data", known["train"][0]
    shutil.copy(data / "imagesTr" / f"{case}.nii.gz", tmp_path / "scans" / "fresh.nii.gz")
    shutil.copy(data / "labelsTr" / f"{case}.nii.gz", tmp_path / "labels" / "fresh.nii.gz")
    seg3d.predict(again, [tmp_path / "scans"], tmp_path / "out")
    found = evaluate(tmp_path / "out", tmp_path / "labels", tmp_path / "out.json", report=False)
    assert [doubt["kind"] for doubt in found["warnings"]] == ["trained_on"]
