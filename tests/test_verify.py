"""Verify and diff: identical means every bit, and otherwise the first difference is found and named."""

from __future__ import annotations

import csv
import getpass
import io
import json
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from study import make_study
from typer.testing import CliRunner

import seg3d
from seg3d.auditing.differences import changed_files, compare_tensors, differences, first_difference
from seg3d.cli import app
from seg3d.errors import RunError, StoreError
from seg3d.store import read_info
from seg3d.training.checkpoints import copy_as_best, list_checkpoints, save_checkpoint
from seg3d.training.environment import describe_environment
from seg3d.training.outcome import load_plain
from seg3d.training.trace import TraceWriter, read_trace
from seg3d.verbs.verify import format_difference


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("verify"))


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    return seg3d.train(config)


def test_a_deterministic_run_is_verified(run: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(run)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().splitlines()[-1].startswith("identical: 2 epochs, 8 steps")


def test_the_first_epochs_alone_can_be_verified(run: Path) -> None:
    found = seg3d.verify(run, epochs=1)
    assert found.identical
    assert (found.epochs, found.steps) == (1, 4)
    # of the first epochs of a long run no checkpoint is kept any more; the trace has the digests of their weights
    assert format_difference(replace(found, layers_at=None)) == "identical: 1 epochs, 4 steps, to the last bit"


def test_a_run_that_is_not_what_it_recorded_is_not_verified(run: Path, tmp_path: Path) -> None:
    torn, lying = tmp_path / "torn", tmp_path / "lying"
    shutil.copytree(run, torn)
    checkpoint = min((torn / "checkpoints").iterdir())
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(RunError, match="checkpoints are damaged"):
        seg3d.verify(torn)
    found = seg3d.diff(run, torn)  # nobody knows which weights it held
    assert not found.identical
    assert found.records == [f"{checkpoint}: damaged, not compared"]
    shutil.copytree(run, lying)
    result = json.loads((lying / "result.json").read_text())
    (lying / "result.json").write_text(json.dumps(result | {"best_score": 0.99}))
    with pytest.raises(RunError, match=r"does not say what the run gave.*best_score"):
        seg3d.verify(lying)


def test_damaged_voxels_of_a_prepared_case_are_told(tmp_path: Path) -> None:
    run = seg3d.train(make_study(tmp_path), ["train.max_epochs=1"])
    volume = min((tmp_path / "store").glob("*.h5"))
    with volume.open("r+b") as file:
        file.seek(read_info(volume).image_offset + 100)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(StoreError, match=f"(?s)digest.*{volume.name}|{volume.name}.*digest"):
        seg3d.verify(run)


def test_a_run_is_verified_from_within_its_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    assert seg3d.verify(".", epochs=1).identical


def test_the_trace_holds_the_learning_rate_of_each_step(run: Path) -> None:
    rates = [float.fromhex(line["learning_rate"]) for line in read_trace(run / "trace.jsonl") if "loss" in line]
    assert rates == pytest.approx([1e-3 * (1 - step / 8) ** 0.9 for step in range(8)])


def test_a_split_file_that_changed_does_not_change_what_is_verified(config: Path, tmp_path: Path) -> None:
    parts = json.loads((seg3d.train(config, ["train.max_epochs=1"]) / "splits.json").read_text())
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(parts))
    run = seg3d.train(config, ["train.max_epochs=1", "data.split.kind=file", f"data.split.file={file}"])
    file.write_text(json.dumps(parts | {"val": parts["test"], "test": parts["val"]}))
    assert seg3d.verify(run).identical


def test_weights_that_are_not_numbers_equal_themselves() -> None:
    bad = torch.tensor([1.0, float("nan")])
    assert compare_tensors({"a": bad}, {"a": bad.clone()}) == []
    (layer,) = compare_tensors({"a": bad}, {"a": torch.ones(2)})
    assert layer.largest is None


def test_a_random_run_is_found_to_differ_with_its_first_step(config: Path) -> None:
    run = seg3d.train(config, ["reproducibility.mode=random"])
    found = seg3d.verify(run)
    assert not found.identical
    assert found.first is not None
    assert (found.first["epoch"], found.first["batch"]) == (0, 0)
    assert {layer.name for layer in found.layers} >= {"head.weight", "head.bias"}
    assert "seed" in found.config


def test_diff_names_the_first_step_and_what_differs(config: Path, run: Path) -> None:
    other = seg3d.train(config, ["train.optimizer.learning_rate=0.002"])
    done = CliRunner().invoke(app, ["diff", str(run), str(other)])
    assert done.exit_code == 1
    assert "NOT identical: the runs part in epoch 1 at batch 1: learning_rate" in done.stdout
    assert "config train.optimizer.learning_rate: 0.001 | 0.002" in done.stdout
    assert "head.bias" in done.stdout
    as_json = json.loads(CliRunner().invoke(app, ["diff", str(run), str(other), "--json"]).stdout)
    assert as_json["identical"] is False
    same = CliRunner().invoke(app, ["diff", str(run), str(run)])
    assert same.exit_code == 0


def test_a_shorter_run_is_not_identical(config: Path, run: Path) -> None:
    shorter = seg3d.train(config, ["train.max_epochs=1", "train.schedule.kind=constant"])
    longer = seg3d.train(config, ["train.max_epochs=2", "train.schedule.kind=constant"])
    found = seg3d.diff(shorter, longer)
    assert not found.identical
    assert found.first == {"epoch": 1, "batch": 0, "only_in": "second"}


def test_verify_tells_changed_data_and_refuses(tmp_path: Path) -> None:
    config = make_study(tmp_path)
    run = seg3d.train(config, ["train.max_epochs=1"])
    data = json.loads((tmp_path / "data" / "dataset.json").read_text())
    data["training"] = data["training"][:-1]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match="no longer there"):
        seg3d.verify(run)


def test_a_run_whose_data_differ_from_the_last_one_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_study(tmp_path)
    seg3d.train(config, ["train.max_epochs=1"])
    assert "NOTE" not in capsys.readouterr().out
    path = tmp_path / "data" / "dataset.json"
    data = json.loads(path.read_text())
    gone = Path(data["training"].pop()["image"]).name.removesuffix(".nii.gz")
    path.write_text(json.dumps(data))
    run = seg3d.train(config, ["train.max_epochs=1"])
    out = capsys.readouterr().out
    assert "NOTE: the data differ from those of the last run" in out
    assert f"{gone}: no longer there" in out
    assert json.loads((run / "data.json").read_text())["changed_files"] == [f"{gone}: no longer there"]


def traces(path: Path, length: int, changed: int | None) -> list[dict[str, object]]:
    writer = TraceWriter(path)
    for i in range(length):
        writer.add({"epoch": i // 5, "batch": i % 5, "loss": float(i + (i == changed)).hex()})
    writer.flush()
    return read_trace(path)


@pytest.mark.parametrize("changed", [0, 1, 7, 18, 19])
def test_the_first_difference_of_two_traces_is_found_wherever_it_is(tmp_path: Path, changed: int) -> None:
    one, other = traces(tmp_path / "a", 20, None), traces(tmp_path / "b", 20, changed)
    found = first_difference(one, other)
    assert found is not None
    assert found["epoch"] * 5 + found["batch"] == changed
    assert found["loss"] == [float(changed).hex(), float(changed + 1).hex()]
    assert first_difference(one, one) is None


def test_layers_are_compared_by_value_and_shape() -> None:
    left = {"a": torch.zeros(4), "b": torch.ones(2), "c": torch.ones(1)}
    right = {"a": torch.tensor([0.0, 0.5, 0.0, -1.0]), "b": torch.ones(2), "d": torch.ones(3)}
    found = {layer.name: (layer.values, layer.largest) for layer in compare_tensors(left, right)}
    assert found == {"a": (2, 1.0), "c": (1, None), "d": (3, None)}


def test_documents_are_compared_by_path() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}) == {"a.c": (2, 4), "d": (3, None)}


def test_changed_files_are_named() -> None:
    def record(**cases: dict[str, str]) -> dict[str, object]:
        return {"cases": {name: {"sources": files, "content_sha256": str(files)} for name, files in cases.items()}}

    before = record(a={"a.nii": "1"}, b={"b.nii": "1"}, c={"c.nii": "1"})
    after = record(a={"a.nii": "2"}, b={"b.nii": "1"}, d={"d.nii": "1"})
    assert changed_files(before, after) == ["a: a.nii changed", "c: no longer there", "d: new"]


def test_the_environment_record_is_not_empty_and_names_nobody() -> None:
    found = describe_environment()
    assert found["packages"]["torch"]
    assert found["torch"]["version"] == torch.__version__
    assert found["cpu"]["model"]
    assert found["cpu"]["instructions"]
    assert found["blas"]
    assert found["determinism"].keys() >= {"deterministic_algorithms", "cudnn_benchmark", "onednn"}
    text = json.dumps(found)
    assert platform.node() not in text
    # torch's build string names folders of the machine that built it, which may end like this one's home
    assert not re.search(rf"(?<![\w.-]){re.escape(str(Path.home()))}/", text)
    assert f'"{getpass.getuser()}"' not in text


def forge(run: Path, kind: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a run's newest checkpoint of a kind, and name it by the digest that it then has."""
    (*_, kept) = list_checkpoints(run / "checkpoints", kind)
    content = load_plain(kept.path)
    change(content)
    kept.path.unlink()
    save_checkpoint(run / "checkpoints", kind, kept.step, lambda path: torch.save(content, path))


def zero(tensors: dict[str, torch.Tensor]) -> None:
    for value in tensors.values():
        value.zero_()


@pytest.fixture(scope="module")
def averaged(config: Path) -> Path:
    """A run with a running mean, whose checkpoints do not all stand for the end of an epoch."""
    return seg3d.train(config, ["train.ema_decay=0.9", "train.checkpoint_steps=3"])


@pytest.mark.parametrize("kind", ["best", "last"])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        (lambda content: content["state_dict"], "weights_sha256"),
        (lambda content: content["ema"]["shadow"], "averaged_sha256"),
    ],
)
def test_weights_that_are_not_those_of_the_trace_are_told_though_named_by_their_digest(
    averaged: Path, tmp_path: Path, kind: str, part: Callable[[dict[str, Any]], dict[str, torch.Tensor]], name: str
) -> None:
    forged = Path(shutil.copytree(averaged, tmp_path / "run"))
    forge(forged, kind, lambda content: zero(part(content)))
    with pytest.raises(RunError, match=f"(?s)not those of the trace.*{kind}-.*{name}"):
        seg3d.verify(forged)


def test_a_running_mean_that_was_taken_out_is_told(averaged: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(averaged, tmp_path / "run"))
    forge(forged, "best", lambda content: content.pop("ema"))
    with pytest.raises(RunError, match="averaged_sha256"):
        seg3d.verify(forged)


def test_a_best_checkpoint_of_another_epoch_is_told(run: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(run, tmp_path / "run"))
    (best,) = list_checkpoints(forged / "checkpoints", "best")
    other = next(c for c in list_checkpoints(forged / "checkpoints", "last") if c.step != best.step)
    best.path.unlink()
    with pytest.raises(RunError, match="no checkpoint is kept as the best"):
        seg3d.verify(forged)
    copy_as_best(other.path)
    with pytest.raises(RunError, match=f"best score is that after {best.step} steps"):
        seg3d.verify(forged)


def test_weights_within_an_epoch_are_compared_with_the_repetition(averaged: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(averaged, tmp_path / averaged.name))
    earlier, latest = list_checkpoints(forged / "checkpoints", "last")
    latest.path.rename(tmp_path / latest.path.name)
    forge(forged, "last", lambda content: zero(content["state_dict"]))
    (tmp_path / latest.path.name).rename(latest.path)
    found = seg3d.verify(forged)
    assert not found.identical
    assert found.layers_at == earlier.step == 6
    assert found.first is None


@pytest.mark.parametrize("column", ["train_loss", "val_dice", "step", "learning_rate"])
def test_metrics_that_the_trace_does_not_know_are_told(run: Path, tmp_path: Path, column: str) -> None:
    forged = Path(shutil.copytree(run, tmp_path / "run"))
    change_metrics(forged, column)
    with pytest.raises(RunError, match=rf"(?s)metrics.csv, epoch 1: {column} is 0\.99"):
        seg3d.verify(forged)


def change_metrics(run: Path, column: str) -> None:
    """Write 0.99 into a column of every row."""
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {column: "0.99"} for row in rows)
    (run / "metrics.csv").write_text(text.getvalue())


@pytest.mark.parametrize(("name", "damage"), [("metrics.csv", "epoch,step\nx,1\n"), ("resumed.jsonl", '{"changed"')])
def test_a_record_that_cannot_be_read_is_named(run: Path, tmp_path: Path, name: str, damage: str) -> None:
    other = shutil.copytree(run, tmp_path / "run")
    (other / name).write_text(damage)
    with pytest.raises(RunError, match=name):
        seg3d.verify(other)


def test_scores_of_labels_and_certificates_are_compared_with_the_repetition(run: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(run, tmp_path / run.name))
    change_metrics(forged, "val_dice_blob")
    lines = (forged / "sampling.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"lesions_never_drawn": [], "patches": 999})
    (forged / "sampling.jsonl").write_text("\n".join(lines) + "\n")
    found = seg3d.verify(forged)
    assert not found.identical
    assert found.records[:2] == [f"metrics.csv, epoch {n}: val_dice_blob" for n in (1, 2)]
    assert "sampling.jsonl, epoch 2" in found.records[2]
    assert "NOT identical: the same 2 epochs, 8 steps, but other records" in format_difference(found)


@pytest.mark.parametrize("key", ["best_epoch", "data_sha256", "seed"])
def test_a_result_that_was_made_up_is_told(run: Path, tmp_path: Path, key: str) -> None:
    forged = Path(shutil.copytree(run, tmp_path / "run"))
    result = json.loads((forged / "result.json").read_text())
    (forged / "result.json").write_text(json.dumps(result | {key: 77}))
    with pytest.raises(RunError, match=rf"does not say what the run gave.*{key}"):
        seg3d.verify(forged)


def test_an_interrupted_run_is_verified_as_far_as_it_came(run: Path, tmp_path: Path) -> None:
    stopped = Path(shutil.copytree(run, tmp_path / run.name))
    (stopped / "result.json").unlink()
    for best in list_checkpoints(stopped / "checkpoints", "best"):
        best.path.unlink()
    assert seg3d.verify(stopped, epochs=1).identical
