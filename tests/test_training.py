"""Training: the same bits for the same settings, and a run folder that holds what it should."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import nibabel as nib
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from study import losses_of, make_study, result_of

import seg3d
from seg3d.atomic import append_line
from seg3d.build.prediction import build_network, build_reproducibility
from seg3d.config import load_config
from seg3d.digest import sha256_tensors
from seg3d.errors import ConfigError, FaultsError, RunError
from seg3d.training.fit import fit
from seg3d.training.module import SegmentationModule
from seg3d.training.outcome import read_weights
from seg3d.training.run_folder import RunFolder, new_run_folder, open_run_folder
from seg3d.training.tracking import fit_name, fit_names


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def reference(config: Path) -> Path:
    return seg3d.train(config)


DIGESTS = (
    "weights_sha256",
    "optimizer_sha256",
    "trace_sha256",
    "config_sha256",
    "data_sha256",
    "best_score",
    "identity_sha256",
)


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_run_is_the_same_to_the_last_bit_for_any_number_of_workers(
    config: Path, reference: Path, workers: int
) -> None:
    torch.manual_seed(workers)  # what the process did before must not matter
    again = result_of(seg3d.train(config, [f"data.num_workers={workers}"]))
    assert {key: again[key] for key in DIGESTS} == {key: result_of(reference)[key] for key in DIGESTS}


def test_another_process_with_another_hash_seed_gives_the_same_bits(
    config: Path, reference: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "seg3d.cli", "train", str(config), f"output_dir={tmp_path}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    run = Path(done.stdout.strip().splitlines()[-1])
    assert {key: result_of(run)[key] for key in DIGESTS} == {key: result_of(reference)[key] for key in DIGESTS}


def test_validating_less_often_does_not_change_the_training(config: Path, reference: Path) -> None:
    assert losses_of(seg3d.train(config, ["train.validate_every=2"])) == losses_of(reference)


@pytest.mark.parametrize(
    "override", ["seed=1", "sampling.balance=class", "augment.noise.sd=[0.2,0.3]", "model.dropout=0.3"]
)
def test_what_should_change_the_training_does(config: Path, reference: Path, override: str) -> None:
    assert losses_of(seg3d.train(config, [override])) != losses_of(reference)


def test_a_run_without_a_seed_differs_and_writes_its_seed_down(config: Path) -> None:
    runs = [seg3d.train(config, ["reproducibility.mode=random", "train.max_epochs=1"]) for _ in range(2)]
    assert losses_of(runs[0]) != losses_of(runs[1])
    assert result_of(runs[0])["seed"] != result_of(runs[1])["seed"]


def test_the_run_folder_holds_what_it_should(reference: Path) -> None:
    names = {path.name for path in reference.iterdir()}
    documents = {
        "config.yaml",
        "splits.json",
        "environment.json",
        "data.json",
        "metrics.csv",
        "trace.jsonl",
        "result.json",
    }
    assert documents | {"checkpoints", "figures", "sampling.jsonl", "model.json"} <= names
    kinds = sorted(path.name.split("-")[0] for path in (reference / "checkpoints").iterdir())
    assert kinds == ["best", "last", "last"]
    with (reference / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(0 <= float(row["val_dice"]) <= 1 for row in rows)
    text = (reference / "environment.json").read_text()
    assert str(Path.home()) not in text.replace('"/root"', "") or str(Path.home()) == "/root"


def test_the_certificate_compares_what_was_asked_with_what_was_drawn(reference: Path) -> None:
    lines = [json.loads(line) for line in (reference / "sampling.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    for line in lines:
        shares = line["classes"].values()
        assert sum(entry["expected"] for entry in shares) == pytest.approx(1)
        assert all(entry["realised"] == pytest.approx(entry["expected"]) for entry in shares)
        assert all(entry["drawn_but_moved_out"] >= 0 for entry in shares)


def test_weights_are_loaded_without_unpickling_objects(reference: Path) -> None:
    weights = read_weights(open_run_folder(reference))
    assert all(isinstance(value, torch.Tensor) for value in weights.values())


def test_a_damaged_checkpoint_is_told(config: Path) -> None:
    run = seg3d.train(config, ["train.max_epochs=1"])
    (best,) = (run / "checkpoints").glob("best-*.ckpt")
    best.write_bytes(best.read_bytes()[:-1])
    with pytest.raises(RunError, match="checkpoint is damaged"):
        seg3d.predict(run, [], run / "answers", split="test")


def test_a_run_of_another_schema_version_is_told(config: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema_version": 999}')
    with pytest.raises(RunError, match="another schema version"):
        seg3d.predict(tmp_path, [], tmp_path / "answers", split="test")


def test_predictions_do_not_depend_on_the_batch_of_tiles_or_on_a_label(
    config: Path, reference: Path, tmp_path: Path
) -> None:
    """Kernels may round differently for another batch, which moves a probability by far less than it matters."""
    scan = sorted((config.parent / "data" / "imagesTr").iterdir())[0]
    maps = []
    for size in (1, 4):
        folder = tmp_path / str(size)
        overrides = [f"predict.batch_size={size}", "predict.probabilities=true", "data.source=nowhere"]
        (answer,) = seg3d.predict(reference, [scan], folder, overrides=overrides)
        assert answer.name == scan.name
        maps.append(nib.load(next((folder / "probabilities").iterdir())).get_fdata())
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-5)


def test_probability_maps_agree_with_the_label_map(config: Path, reference: Path, tmp_path: Path) -> None:
    scan = sorted((config.parent / "data" / "imagesTr").iterdir())[0]
    (answer,) = seg3d.predict(reference, [scan], tmp_path, overrides=["predict.probabilities=true"])
    label = np.asanyarray(nib.load(answer).dataobj)
    (file,) = (tmp_path / "probabilities").iterdir()
    probability = nib.load(file).get_fdata()
    np.testing.assert_array_equal(label == 1, probability > 0.5)


def test_a_scan_that_fails_is_named_and_the_others_are_predicted(config: Path, reference: Path, tmp_path: Path) -> None:
    scans = sorted((config.parent / "data" / "imagesTr").iterdir())[:2]
    broken = tmp_path / "in" / "broken.nii.gz"
    broken.parent.mkdir()
    broken.write_bytes(scans[0].read_bytes()[:100])
    with pytest.raises(FaultsError, match=r"1 of 2 scans.*\n.*broken.nii.gz"):
        seg3d.predict(reference, [scans[1], broken], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        scans[1].name,
        "predictions.json",
        "predictions.unfinished.json",  # called again, it tries the broken one only
    }


def test_the_wrong_number_of_channels_is_told(reference: Path, config: Path, tmp_path: Path) -> None:
    scan = nib.load(sorted((config.parent / "data" / "imagesTr").iterdir())[0])
    data = np.asanyarray(scan.dataobj)
    nib.save(nib.Nifti1Image(np.stack([data, data], axis=-1), scan.affine), tmp_path / "two.nii.gz")
    with pytest.raises(FaultsError, match="wrong number of channels"):
        seg3d.predict(reference, [tmp_path / "two.nii.gz"], tmp_path / "out")


def test_answers_never_overwrite_the_scans(config: Path, reference: Path) -> None:
    images = config.parent / "data" / "imagesTr"
    with pytest.raises(seg3d_error(), match="overwrite"):
        seg3d.predict(reference, [images], images)


def seg3d_error() -> type[Exception]:
    from seg3d.errors import Seg3dError

    return Seg3dError


def test_patches_that_do_not_fill_a_batch_are_refused_with_the_nearest_number(config: Path) -> None:
    with pytest.raises(ConfigError, match="nearest is 8"):
        seg3d.train(config, ["sampling.patches_per_epoch=9"])


@pytest.mark.parametrize("override", ["train.accelerator=gpu", "train.precision=fp16"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_the_machine_lacks_is_told(config: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="cannot train with these settings"):
        seg3d.train(config, [override, f"output_dir={config.parent / 'none'}"])
    assert not (config.parent / "none").exists()


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("sampling.class_weights={blobs: 1}", "sampling.class_weights"),
        ("loss.class_weights={blobs: 1}", "loss.class_weights"),
        ("predict.keep_largest=[blobs]", "predict.keep_largest"),
        ("predict.min_size_ml={blobs: 1}", "predict.min_size_ml"),
    ],
)
def test_names_that_the_data_lack_are_told_before_there_is_a_run(config: Path, override: str, where: str) -> None:
    runs = config.parent / "runs"
    before = set(runs.glob("*"))
    with pytest.raises(ConfigError, match=where):
        seg3d.train(config, [override])
    assert set(runs.glob("*")) == before


def test_scans_are_not_prepared_in_another_way_than_the_runs(reference: Path, tmp_path: Path) -> None:
    for override in ("prepare.spacing_mm=[2, 2, 2]", "prepare.normalise=[{kind: minmax}]"):
        with pytest.raises(RunError, match=override.partition(".")[2].partition("=")[0]):
            seg3d.predict(reference, output=tmp_path / "answers", split="test", overrides=[override])
    assert not (tmp_path / "answers").exists()


def test_two_trainings_that_begin_together_have_a_folder_each(
    config: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import seg3d.verbs.train as verb

    chosen: list[Path] = []

    def taken_meanwhile(output_dir: Path, name: str) -> RunFolder:
        folder = new_run_folder(output_dir, name)
        chosen.append(folder.path)
        if len(chosen) == 1:
            shutil.copytree(reference, folder.path)
        return folder

    monkeypatch.setattr(verb, "new_run_folder", taken_meanwhile)
    run = seg3d.train(config, [f"output_dir={tmp_path}", "train.max_epochs=1"])
    assert [path.name for path in chosen] == [run.name.removesuffix("-2"), run.name]
    assert result_of(run)["epochs"] == 1
    assert result_of(chosen[0]) == result_of(reference)


def test_a_process_without_standard_output_trains(config: Path, tmp_path: Path) -> None:
    settings = ["train.max_epochs=1", "train.progress=true", f"output_dir={tmp_path}"]
    command = [sys.executable, "-m", "seg3d.cli", "train", str(config), *settings]
    done = subprocess.run(["bash", "-c", f"{shlex.join(command)} >&-"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [result_of(run)["epochs"] for run in tmp_path.iterdir()] == [1]


def test_early_stop_and_running_mean(config: Path) -> None:
    overrides = [
        "train.max_epochs=6",
        "train.early_stop_patience=1",
        "train.optimizer.learning_rate=1e-12",
        "model.norm=none",
    ]
    stopped = result_of(seg3d.train(config, overrides))
    assert stopped["epochs"] == 3  # the first score is the best; one may be no better, the second stops
    averaged = seg3d.train(config, ["train.ema_decay=0.9"])
    folder = open_run_folder(averaged)
    shadow, own = (read_weights(folder, "last", averaged=choice) for choice in (True, False))
    assert any(not torch.equal(shadow[name], own[name]) for name in own)


def test_two_devices_train_as_one_run_and_give_a_score(config: Path) -> None:
    run = seg3d.train(config, ["train.devices=2", "train.max_epochs=1"])
    assert result_of(run)["steps"] == 2  # 8 patches in batches of 2 on 2 devices
    assert result_of(run)["best_score"] is not None


def test_mlflow_mirrors_the_run(config: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    terms = f"loss.terms=[{', '.join(5 * ['{kind: dice}'])}]"  # a long setting
    run = seg3d.train(config, ["tracking.enabled=true", f"tracking.uri={uri}", "train.max_epochs=2", terms])
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    (record,) = client.search_runs([experiment.experiment_id])
    assert record.info.status == "FINISHED"
    assert record.data.params["sampling.patches_per_epoch"] == "8"
    assert record.data.params["loss.terms"] == str(
        load_config(run / "config.yaml").model_dump(mode="json")["loss"]["terms"]
    )
    history = client.get_metric_history(record.info.run_id, "val_dice")
    assert [point.step for point in history] == [0, 1]
    artifacts = {item.path for item in client.list_artifacts(record.info.run_id)}
    assert {"config.yaml", "splits.json", "result.json", "figures"} <= artifacts
    assert record.data.tags["data_sha256"] == result_of(run)["data_sha256"]


@pytest.mark.parametrize("uri", ["sqlite:////proc/nowhere/mlflow.db", "moon://server"])
def test_a_tracking_server_that_is_not_there_is_told_and_leaves_no_run(config: Path, uri: str) -> None:
    output = config.parent / "untracked"
    with pytest.raises(RunError, match="cannot be used"):
        seg3d.train(config, ["tracking.enabled=true", f"tracking.uri={uri}", f"output_dir={output}"])
    assert list(output.iterdir()) == []


def test_a_failed_run_is_marked_as_failed(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setattr("seg3d.verbs.train.fit", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("stop")))
    with pytest.raises(RuntimeError, match="stop"):
        seg3d.train(config, ["tracking.enabled=true", f"tracking.uri={uri}"])
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert client.search_runs([experiment.experiment_id])[0].info.status == "FAILED"


@pytest.mark.parametrize(
    "override",
    [
        "train.optimizer.kind=sgd",
        "train.precision=bf16",
        "train.accumulate=2",
        "loss.terms.1.kind=generalised_dice",
        "model.norm=instance",
    ],
)
def test_other_settings_train_too(config: Path, override: str) -> None:
    assert result_of(seg3d.train(config, [override, "train.max_epochs=1"]))["steps"] in (2, 4)


def relabelled_study(folder: Path, value: int) -> Path:
    """The tiny study with a second label, which every other case lacks."""
    study = make_study(folder)
    for path in sorted((folder / "data" / "labelsTr").glob("*.nii.gz"))[::2]:
        label = nib.load(path)
        values = np.asarray(label.dataobj).astype(np.uint16)
        values[::2][values[::2] > 0] = value
        nib.save(nib.Nifti1Image(values, label.affine), path)
    return study


@pytest.mark.parametrize("border", ["constant", "mirror"])
def test_label_values_above_a_byte_train_as_small_ones_do(tmp_path: Path, border: str) -> None:
    """Volumes whose values need two bytes and such whose values do not are in one batch, as FreeSurfer's may be."""
    found = []
    for value in (2, 2035):
        study = relabelled_study(tmp_path / str(value), value)
        labels = f"data.labels={{background: 0, blob: 1, part: {value}}}"
        settings = [labels, f"sampling.border={border}", "sampling.patch_size=[32,16,16]", "data.split.val_share=0.4"]
        run = seg3d.train(study, [*settings, "augment.affine.p=0.3", "augment.elastic=null", "train.max_epochs=1"])
        found.append((losses_of(run), result_of(run)["best_score"]))
    assert found[0] == found[1]


def test_scores_do_not_go_by_the_memory_that_happens_to_be_free(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["model.norm=instance", "train.optimizer.learning_rate=0.02"]
    runs = []
    for free in (8 << 30, 1 << 20):  # the second would do for smaller tiles, with a margin
        monkeypatch.setattr("seg3d.inference.budget._free_memory", lambda free=free: free)
        runs.append(result_of(seg3d.train(config, settings)))
    assert {key: runs[0][key] for key in DIGESTS} == {key: runs[1][key] for key in DIGESTS}
    monkeypatch.setattr("seg3d.inference.budget._free_memory", lambda: 1 << 16)
    with pytest.raises(ConfigError, match="too small for the blended tiles that are asked for"):
        seg3d.train(config, settings)


def note_settings(path: Path, line: str) -> None:
    """Append what the process that tells a line is set up with; it can be pickled."""
    found = [
        torch.get_num_threads(),
        torch.backends.mkldnn.enabled,
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.allow_tf32,
        torch.utils.deterministic.fill_uninitialized_memory,
    ]
    if line.startswith("epoch"):
        append_line(path, json.dumps(found))


@pytest.mark.slow
def test_every_rank_computes_with_the_settings_that_the_run_recorded(config: Path, tmp_path: Path) -> None:
    told, threads = tmp_path / "told", torch.get_num_threads()
    overrides = ["reproducibility.portable=true", "reproducibility.threads=2", "train.devices=2", "train.max_epochs=1"]
    try:
        seg3d.train(config, overrides, tell=partial(note_settings, told))
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.set_flags(True)
    assert json.loads(told.read_text()) == [2, False, True, True, False, False]


class KeptMean(pl.Callback):
    """Writes down each rank's running mean while it is validated, and whether other processes could change it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_validation_batch_start(self, trainer: pl.Trainer, module: SegmentationModule, *_: object) -> None:
        assert module.ema is not None
        shared = any(value.is_shared() for value in module.ema.shadow.values())
        record = {"rank": trainer.global_rank, "mean": sha256_tensors(module.ema.shadow), "shared": shared}
        append_line(self._folder / f"{trainer.global_rank}.jsonl", json.dumps(record))


@pytest.mark.slow
def test_ranks_have_a_running_mean_each_and_validate_with_the_one_that_is_kept(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(*arguments: Any) -> pl.Trainer:
        arguments[3].append(KeptMean(tmp_path))
        return fit(*arguments)

    monkeypatch.setattr("seg3d.verbs.train.fit", watched)
    settings = ["train.ema_decay=0.9", "train.devices=2", "train.max_epochs=1", "data.split.val_share=0.4"]
    run = seg3d.train(config, settings)
    found = [json.loads(line) for path in sorted(tmp_path.iterdir()) for line in path.read_text().splitlines()]
    assert {record["rank"] for record in found} == {0, 1}
    assert not any(record["shared"] for record in found)
    assert {record["mean"] for record in found} == {
        sha256_tensors(read_weights(open_run_folder(run), "last", averaged=True))
    }


@pytest.mark.slow
def test_several_devices_average_the_weights_as_often_as_one(config: Path) -> None:
    kept = {}
    for devices in (1, 2):
        patches = 2 * devices
        settings = [f"train.devices={devices}", f"sampling.patches_per_epoch={patches}", "sampling.queue_length=2"]
        run = open_run_folder(
            seg3d.train(config, [*settings, "train.ema_decay=0.9", "train.max_epochs=1", "model.norm=none"])
        )
        resolved = load_config(run.config)
        build_reproducibility(resolved).apply(resolved.seed)
        first = build_network(resolved, 1, 2).state_dict()
        mean, last = (read_weights(run, "last", averaged=choice) for choice in (True, False))
        moved = torch.cat([(first[name] - last[name]).flatten() for name in first])
        behind = torch.cat([(mean[name] - last[name]).flatten() for name in first])
        kept[devices] = float(behind @ moved / (moved @ moved))
    assert kept == pytest.approx({1: 0.1, 2: 0.1}, abs=0.01)  # (1 + 0) / (10 + 0) of the first weights after a step


def test_the_recorded_loss_is_that_of_the_batch_however_many_make_a_step(config: Path) -> None:
    still = ["train.optimizer.learning_rate=1e-12", "model.norm=none", "train.max_epochs=1"]
    one, three = (losses_of(seg3d.train(config, [*still, f"train.accumulate={n}"])) for n in (1, 3))
    found, expected = ([float.fromhex(loss) for loss in losses] for losses in (three, one))
    assert found == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_make_the_step_of_one_large_batch(config: Path) -> None:
    sgd = "train.optimizer={kind: sgd, learning_rate: 0.1, momentum: 0, nesterov: false, weight_decay: 0}"
    plain = [
        sgd,
        "train.gradient_clip=null",
        "loss.terms=[{kind: cross_entropy}]",
        "model.norm=none",
        "model.dropout=0",
    ]
    settings = [*plain, "train.max_epochs=1"]
    accumulated, large = (
        read_weights(open_run_folder(seg3d.train(config, [*settings, *how])), "last")
        for how in (["train.accumulate=4"], ["train.batch_size=8"])
    )
    for name, values in large.items():
        torch.testing.assert_close(accumulated[name], values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_whose_loss_is_no_number_stops_and_says_where(config: Path, devices: int) -> None:
    sgd = ["train.optimizer.kind=sgd", "train.optimizer.learning_rate=1e25"]
    settings = [*sgd, f"train.devices={devices}", "train.max_epochs=4"]
    folder = config.parent / f"diverged-{devices}"
    with pytest.raises(RunError, match=r"has diverged.*epoch 1, batch \d+: loss (nan|inf)"):
        seg3d.train(
            config, [*settings, "train.optimizer.learning_rate=1e38", "train.gradient_clip=null"], folder=folder
        )
    assert len((folder / "metrics.csv").read_text().splitlines()) == 2  # one epoch
    assert not (folder / "result.json").exists()
    assert list((folder / "checkpoints").iterdir()) == []
    with pytest.raises(RunError, match="has diverged"):
        seg3d.resume(folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("val_dice_tumour (core)", "val_dice_tumour _core_"), ("a/b", "a/b"), ("a//b", "a__b"), ("Größe: 1", "Größe: 1")],
)
def test_names_are_such_as_mlflow_takes(name: str, expected: str) -> None:
    assert fit_name(name) == expected


def test_names_that_mlflow_would_take_for_one_stay_two() -> None:
    long = "x" * 300
    found = fit_names(["dice_a(b)", "dice_a[b]", "dice_c", f"{long}1", f"{long}2"])
    assert list(found.values())[:3] == ["dice_a_b_", "dice_a_b__2", "dice_c"]
    assert len({*found.values()}) == 5
    assert max(map(len, found.values())) == 250


def test_labels_are_mirrored_whatever_they_are_called(tmp_path: Path) -> None:
    config = make_study(tmp_path)
    dataset = tmp_path / "data" / "dataset.json"
    content = json.loads(dataset.read_text())
    dataset.write_text(json.dumps(content | {"labels": {"0": "background", "1": "tumour (core)"}}))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    weights = "loss.class_weights={tumour (core): 2}"
    seg3d.train(config, ["tracking.enabled=true", f"tracking.uri={uri}", "train.max_epochs=1", weights])
    client = mlflow.MlflowClient(uri)
    (record,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert "val_dice_tumour _core_" in record.data.metrics
    assert "loss.class_weights.tumour _core_" in record.data.params


@pytest.mark.parametrize("resumed", [False, True])
def test_a_mirror_that_fails_is_told_once_and_stops_nothing(config: Path, tmp_path: Path, resumed: bool) -> None:
    database, told = tmp_path / "mlflow.db", []

    def tell(line: str) -> None:
        told.append(line)
        if line.startswith("epoch 1/"):
            database.unlink(missing_ok=True)

    settings = ["tracking.enabled=true", f"tracking.uri=sqlite:///{database}", "train.max_epochs=3"]
    run = seg3d.train(config, settings, tell=tell)
    if resumed:
        before = result_of(run)["trace_sha256"]
        (run / "result.json").unlink()
        told.clear()
        seg3d.resume(run, tell=tell)
        assert result_of(run)["trace_sha256"] == before
    assert result_of(run)["epochs"] == 3
    assert len([line for line in told if "no longer mirrored in MLflow" in line]) == 1


def test_one_scan_under_two_names_is_told_where_it_is_in_two_parts_of_the_split(tmp_path: Path) -> None:
    config = make_study(tmp_path)
    parts = json.loads((seg3d.train(config, ["train.max_epochs=1"]) / "splits.json").read_text())
    told: list[str] = []
    for folder in (tmp_path / "data" / "imagesTr", tmp_path / "data" / "labelsTr"):
        shutil.copyfile(folder / f"{parts['train'][0]}.nii.gz", folder / f"{parts['test'][0]}.nii.gz")
    run = seg3d.train(config, ["train.max_epochs=1"], tell=told.append)
    text = "\n".join(told)
    assert "NOTE: the same image is in different parts of the split" in text
    pair = sorted([f"{parts['train'][0]} (train)", f"{parts['test'][0]} (test)"])
    assert " and ".join(pair) in text
    assert json.loads((run / "data.json").read_text())["shared_images"] == [" and ".join(pair)]
    told.clear()
    group = f"data.groups={{{parts['train'][0]}: a, {parts['test'][0]}: a}}"
    seg3d.train(config, ["train.max_epochs=1", group], tell=told.append)
    assert "same image" not in "\n".join(told)


def test_a_training_that_validates_nothing_says_so(config: Path) -> None:
    for override in ("data.split.val_share=0", "train.validate_every=2"):
        told: list[str] = []
        seg3d.train(config, ["train.max_epochs=1", override, "train.schedule.warmup_steps=5"], tell=told.append)
        assert "NOTE: nothing is validated: the run predicts with its last weights" in told
        assert any("never gets as high as asked: it rises for 5 steps, of 4" in line for line in told)


def test_epochs_after_the_last_validation_are_told(config: Path) -> None:
    told: list[str] = []
    run = seg3d.train(config, ["train.max_epochs=3", "train.validate_every=2"], tell=told.append)
    assert [line for line in told if "the last epoch is not validated" in line and line.startswith("NOTE: ")]
    folder = open_run_folder(run)
    predicting, last = (sha256_tensors(read_weights(folder, which)) for which in ("best", "last"))
    assert predicting != last
    told.clear()
    seg3d.train(config, ["train.max_epochs=2", "train.validate_every=2"], tell=told.append)
    assert not [line for line in told if "not validated" in line]


def test_the_validation_score_is_what_evaluate_gives_where_nothing_is_resampled(config: Path, tmp_path: Path) -> None:
    settings = ["data.split.val_share=0.4", "train.ema_decay=0.9", "predict.mirror=[x]"]
    run = seg3d.train(config, settings)
    threads = ["reproducibility.threads=1"]
    seg3d.predict(run, output=tmp_path / "answers", split="val", overrides=threads)
    summary = seg3d.evaluate(tmp_path / "answers", config, tmp_path / "scores.json", subset=True)
    assert summary["cases"] == 2
    assert summary["foreground_dice"]["mean"] == result_of(run)["best_score"]
