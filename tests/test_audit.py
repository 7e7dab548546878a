"""Audits: idempotent runs, honest spreads, a verdict that can be bad."""

from __future__ import annotations

import copy
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import nibabel as nib
import numpy as np
import pytest
import torch
from study import make_study
from typer.testing import CliRunner

import seg3d
from seg3d.auditing.gather import disagreement_of, first_parting, weight_spread
from seg3d.auditing.plan import AuditFolder, Cell, make_plan, parse_shard
from seg3d.auditing.spread import spread_of
from seg3d.auditing.verdict import is_reproducible
from seg3d.cli import app
from seg3d.errors import ConfigError, RunError
from seg3d.phantom import PhantomSpec, write_phantom_dataset
from seg3d.verbs.audit import run_cell
from seg3d.verbs.audit_collect import collect

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"
SETUPS = ["random", "seeded", "deterministic"]
SETTINGS = ["reproducibility.threads=1", "train.max_epochs=1", "data.split.val_share=0"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlruns') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def tracked(database: str) -> list[str]:
    """Settings of the audit that most tests look at."""
    return [*SETTINGS, "tracking.enabled=true", f"tracking.uri={database}"]


@pytest.fixture(scope="module")
def audited(config: Path, tracked: list[str]) -> Path:
    """An audit whose random runs and first deterministic one were made in this process, and the second in a new one."""
    plan = {"runs": 2, "setups": ["random", "deterministic"], "jobs": 2}
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        for shard in ("1/2", "2/4"):
            seg3d.audit(config, tracked, shard=shard, **plan)
    return seg3d.audit(config, tracked, **plan)


class Here:
    """Stands for submitit's executor and jobs: calls in this process, as a new one costs more than a run."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def update_parameters(self, **_: Any) -> None: ...

    def submit(self, function: Callable[..., str | None], *arguments: Any) -> Here:
        job = Here()
        job.answer = function(*arguments)
        return job

    def done(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def result(self) -> str | None:
        return self.answer


def run_here(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("submitit.AutoExecutor", Here)
    patch.setattr("seg3d.verbs.audit._POLL_SECONDS", 0)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


def found(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "audit.json").read_text())
    return content


def test_deterministic_runs_are_one_and_random_runs_are_several(audited: Path) -> None:
    setups = found(audited)["setups"]
    assert setups["deterministic"]["distinct_weights"] == setups["deterministic"]["distinct_predictions"] == 1
    assert setups["deterministic"]["scores"]["mean"]["Dice"]["sd"] == 0
    assert setups["deterministic"]["parts_at"] is None
    assert all(layer["largest_sd"] == 0 for layer in setups["deterministic"]["layers"])
    assert setups["random"]["distinct_weights"] == 2
    assert setups["random"]["parts_at"] == {"epoch": 0, "batch": 0}
    assert any(layer["largest_sd"] > 0 for layer in setups["random"]["layers"])
    assert found(audited)["reproducible"] is True
    assert "2 deterministic runs gave the same bits" in found(audited)["verdict"]


def test_all_runs_are_scored_on_the_same_test_cases(audited: Path) -> None:
    with (audited / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    cases = {row["cell"]: row["case"] for row in rows}
    assert len(cases) == 4
    assert len(set(cases.values())) == 1
    with (audited / "runs.csv").open() as file:
        assert [row["cell"] for row in csv.DictReader(file)] == [
            "random-01",
            "deterministic-01",
            "random-02",
            "deterministic-02",
        ]


def test_the_table_of_cases_is_that_of_evaluate_for_every_run(audited: Path) -> None:
    with (audited / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    for cell in AuditFolder(audited).read_plan().cells:
        with (audited / "cells" / cell.name / "test" / "summary.csv").open() as file:
            expected = [{"cell": cell.name, "setup": cell.setup, **row} for row in csv.DictReader(file)]
        assert [row for row in rows if row["cell"] == cell.name] == expected
    assert {"label", "name", "Lesions_f1"} <= set(rows[0])


def change_summaries(folder: Path, change: Callable[[str, dict[str, Any]], None]) -> None:
    """Change what the runs of a copied audit scored, and collect it again without MLflow."""
    (folder / "tracking.json").unlink()
    for path in sorted(folder.glob("cells/*/test/summary.json")):
        summary = json.loads(path.read_text())
        change(path.parents[1].name, summary)
        path.write_text(json.dumps(summary))
    collect(AuditFolder(folder))


def test_what_is_left_out_of_the_means_is_told(audited: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(audited, tmp_path / "audit"))

    def undefine(cell: str, summary: dict[str, Any]) -> None:
        if cell == "random-02":
            for metrics in summary["metric_per_case"][0]["metrics"].values():
                metrics |= {"Dice": None, "IoU": None}

    change_summaries(folder, undefine)
    content = found(folder)
    (case,) = content["test_cases"]
    assert content["left_out"] == {case: "undefined in 1 of 2 runs of random"}
    assert set(content["scored_cases"].values()) == {0}
    assert content["setups"]["deterministic"]["scores"]["mean"]["Dice"]["mean"] is None
    assert "over the 0 of 1 test cases with a score in every run" in content["verdict"]
    page = (folder / "report.html").read_text()
    assert "1 of 1 test cases left out of the means of all runs" in page
    assert f"{case}: undefined in 1 of 2 runs of random" in page


def test_what_evaluate_warned_of_is_on_the_page(audited: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(audited, tmp_path / "audit"))

    def warn(cell: str, summary: dict[str, Any]) -> None:
        summary["warnings"] = [{"kind": "trained_on", "text": "1 of 1 cases were trained on"}]
        if cell == "random-02":
            summary["warnings"].append({"kind": "sheared", "text": "its axes are <not> square"})

    change_summaries(folder, warn)
    assert [len(warning["runs"]) for warning in found(folder)["warnings"]] == [4, 1]
    page = (folder / "report.html").read_text()
    assert "<strong>Warning</strong> (all runs): 1 of 1 cases were trained on." in page
    assert "(random-02): its axes are &lt;not&gt; square." in page


def test_an_audit_of_regions_is_about_regions(audited: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(audited, tmp_path / "audit"))

    def add_regions(_: str, summary: dict[str, Any]) -> None:
        regions = copy.deepcopy({key: summary[key] for key in ("metric_per_case", "per_label")})
        for label, entry in regions["per_label"].items():
            entry |= {"name": f"region {label}", "values": [int(label), 9]}
        for metrics in regions["metric_per_case"][0]["metrics"].values():
            metrics["Dice"] = 0.125
        summary["regions"] = regions

    change_summaries(folder, add_regions)
    content = found(folder)
    assert content["scored"] == "region"
    assert set(content["labels"].values()) == {f"region {label}" for label in content["labels"]}
    assert {run["scores"]["mean"]["Dice"] for run in content["runs"]} == {0.125}
    assert "region Dice 0.1250" in content["verdict"]
    assert "<th>region</th>" in (folder / "report.html").read_text()
    with (folder / "cases.csv").open() as file:
        assert {row["label"] for row in csv.DictReader(file)} >= {*content["labels"], "1 9"}


def test_the_report_is_one_file_without_links(audited: Path) -> None:
    page = (audited / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/png;base64,") == 3
    assert found(audited)["verdict"] in page
    kinds = {path.name for path in (audited / "figures").iterdir()}
    assert kinds == {f"{name}.{kind}" for name in ("scores", "layers", "disagreement") for kind in ("png", "svg")}


def test_runs_made_side_by_side_are_mirrored_in_mlflow(audited: Path, database: str) -> None:
    client = mlflow.MlflowClient(database)
    parent = json.loads((audited / "tracking.json").read_text())["run_id"]
    folder = AuditFolder(audited)
    for cell in folder.read_plan().cells:
        record = client.get_run(json.loads(folder.run(cell).tracking.read_text())["run_id"])
        assert record.info.status == "FINISHED"
        assert record.data.tags["mlflow.parentRunId"] == parent
        assert (record.data.tags["setup"], record.data.tags["run"]) == (cell.setup, str(cell.number))
        assert record.data.tags["run_folder"] == cell.name


@pytest.mark.usefixtures("in_process")
def test_a_second_call_does_only_what_is_missing(
    config: Path, audited: Path, tracked: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "audit"
    shutil.copytree(audited, folder)
    shutil.rmtree(folder / "cells" / "random-02")
    (folder / "cells" / "deterministic-02" / "test" / "summary.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("result.json")}
    told: list[str] = []
    again = seg3d.audit(
        config, tracked, runs=2, setups=["random", "deterministic"], jobs=2, output=folder, tell=told.append
    )
    assert again == folder
    assert told[0] == "2 of 4 runs are done already"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    before, after = found(audited), found(folder)
    assert after["runs"][1] == before["runs"][1]
    assert after["runs"][2]["weights_sha256"] != before["runs"][2]["weights_sha256"]  # random, so another one


@pytest.mark.usefixtures("in_process")
def test_shards_share_the_runs_and_the_last_one_collects(config: Path, tmp_path: Path) -> None:
    calls: list[list[str]] = [[], []]
    for index in (1, 2):
        seg3d.audit(
            config,
            SETTINGS,
            runs=2,
            setups=["seeded"],
            shard=f"{index}/2",
            output=tmp_path / "audit",
            tell=calls[index - 1].append,
        )
        assert (tmp_path / "audit" / "audit.json").exists() == (index == 2)
    assert calls[0][-1] == "1 runs of other shards are not done yet: seeded-02"
    assert found(tmp_path / "audit")["setups"]["seeded"]["distinct_weights"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_seeds_can_vary_instead_while_the_cases_stay(config: Path, tmp_path: Path) -> None:
    folder = seg3d.audit(
        config, SETTINGS, runs=2, setups=["deterministic"], vary="seed", jobs=2, output=tmp_path / "audit"
    )
    content = found(folder)
    assert content["setups"]["deterministic"]["distinct_weights"] == 2
    assert len({run["seed"] for run in content["runs"]}) == 2
    assert content["reproducible"] is True  # other seeds are meant to differ
    splits = {path.read_text() for path in folder.rglob("splits.json")}
    assert len(splits) == 1


@pytest.mark.usefixtures("in_process")
def test_an_audit_killed_at_any_moment_loses_nothing_and_does_nothing_twice(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    command = [sys.executable, "-m", "seg3d.cli", "audit", str(config), *SETTINGS, "--runs", "2"]
    command += ["--setups", "deterministic", "--output", str(folder)]
    seed = int.from_bytes(os.urandom(4), "little")
    done: dict[Path, int] = {}
    for kill in range(1):
        delay = random.Random(seed + kill).uniform(4, 12)
        print(f"seed {seed + kill}: SIGKILL after {delay:.2f} s")
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for path, stamp in done.items():
            assert path.stat().st_mtime_ns == stamp
        done = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    seg3d.audit(config, SETTINGS, runs=2, setups=["deterministic"], output=folder)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert found(folder)["setups"]["deterministic"]["distinct_weights"] == 1


@pytest.mark.usefixtures("in_process")
def test_runs_of_other_data_are_not_compared(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    folder = tmp_path / "audit"
    seg3d.audit(study, SETTINGS, runs=2, setups=["seeded"], shard="1/2", output=folder)
    for image in sorted((tmp_path / "data" / "imagesTr").iterdir()):
        scan = nib.load(image)
        nib.save(nib.Nifti1Image(np.asanyarray(scan.dataobj)[::-1], scan.affine, scan.header), image)
    with pytest.raises(RunError, match="made from other data"):
        seg3d.audit(study, SETTINGS, runs=2, setups=["seeded"], output=folder)


def test_label_maps_that_are_gone_do_not_count_as_the_same(audited: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(audited, tmp_path / "audit"))
    for path in folder.glob("cells/*/test/*.nii.gz"):
        path.unlink()
    with pytest.raises(RunError, match="label maps of a run are not those"):
        collect(AuditFolder(folder))


def test_local_runs_see_the_gpus_that_the_audit_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """submitit hides all GPUs from a local job that asks for none."""
    seen: list[str | None] = []
    monkeypatch.setattr("seg3d.verbs.audit._make_run", lambda *_: seen.append(os.environ.get("CUDA_VISIBLE_DEVICES")))
    for devices in ("0,1", "all", None):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert run_cell(tmp_path, Cell("seeded", 1, 0), devices) is None
    assert seen == ["0,1", None, ""]


def test_an_audit_without_test_cases_is_refused_before_anything_is_trained(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs test cases"):
        seg3d.audit(config, [*SETTINGS, "data.split.test_share=0"], runs=2, output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_another_number_of_jobs_is_the_same_audit(config: Path, audited: Path, tracked: list[str]) -> None:
    threads = AuditFolder(audited).read_plan().config["reproducibility"]["threads"]
    assert threads == 1
    without = [setting for setting in tracked if "threads" not in setting]
    told: list[str] = []
    seg3d.audit(config, without, runs=2, setups=["random", "deterministic"], jobs=1, output=audited, tell=told.append)
    assert told[0] == "4 of 4 runs are done already"


@pytest.mark.usefixtures("in_process")
def test_a_run_that_fails_is_named_and_the_others_are_made(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    blocker = folder / "cells" / "seeded-01"
    blocker.mkdir(parents=True)
    (blocker / "in the way").touch()
    with pytest.raises(Exception, match=r"1 of 2 runs failed; seeded-01: .*there already"):
        seg3d.audit(config, SETTINGS, runs=2, setups=["seeded"], output=folder)
    assert (folder / "cells" / "seeded-02" / "result.json").exists()
    shutil.rmtree(blocker)
    seg3d.audit(config, SETTINGS, runs=2, setups=["seeded"], output=folder)
    assert found(folder)["setups"]["seeded"]["distinct_weights"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "1"], "at least two runs"),
        (["--setups", "lucky"], "unknown set-up"),
        (["--setups", "seeded,seeded"], "set-ups are named once each"),
        (["--shard", "3/2"], "a shard is i/n"),
        (["--executor", "moon"], "unknown executor"),
        (["--vary", "weather"], "unknown choice"),
        (["--jobs", "0"], "at least one run"),
    ],
)
def test_bad_requests_are_one_clear_message(config: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    output = tmp_path / "none"
    done = CliRunner().invoke(app, ["audit", str(config), *arguments, "--output", str(output)])
    assert message in str(done.exception)
    assert isinstance(done.exception, ConfigError)
    assert not output.exists()


def test_slurm_is_refused_where_it_does_not_exist(config: Path, tmp_path: Path) -> None:
    if shutil.which("srun"):
        pytest.skip("there is Slurm")
    with pytest.raises(ConfigError, match="executor cannot be used here"):
        seg3d.audit(config, SETTINGS, runs=2, setups=["seeded"], executor="slurm", output=tmp_path / "audit")


def test_a_folder_keeps_its_plan(audited: Path, config: Path, tracked: list[str]) -> None:
    with pytest.raises(RunError, match="another plan"):
        seg3d.audit(config, [*tracked, "seed=5"], runs=2, setups=["seeded"], output=audited)
    folder = AuditFolder(audited)
    assert folder.read_plan().digest == json.loads(folder.plan_file.read_text())["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("runs", [2, pytest.param(3, id="3 side by side")])
def test_the_demo_is_audited_in_three_set_ups_and_mirrored_in_mlflow(
    tmp_path: Path, runs: int, request: pytest.FixtureRequest
) -> None:
    if runs == 2:
        request.getfixturevalue("in_process")
    write_phantom_dataset(tmp_path / "data", PhantomSpec(cases=8, shape=(64, 48, 24)))
    uri = f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}"
    settings = [f"data.source={tmp_path / 'data'}", f"data.store={tmp_path / 'store'}", f"tracking.uri={uri}"]
    small = ["data.num_workers=0", "model.features=[4,8]", "sampling.patches_per_epoch=8", "train.max_epochs=1"]
    small += ["predict.tile_size=[64,48,32]"]
    arguments = ["--runs", str(runs), "--jobs", "2", "--output", str(tmp_path / "a")]
    done = CliRunner().invoke(app, ["audit", str(DEMO), *settings, *small, *arguments])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "a" / "report.html")
    assert found(tmp_path / "a")["setups"]["deterministic"]["distinct_weights"] == 1
    client = mlflow.MlflowClient(uri)
    records = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    (parent,) = [record for record in records if "mlflow.parentRunId" not in record.data.tags]
    children = [record for record in records if record.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(child.data.tags["setup"] for child in children) == sorted(SETUPS * runs)
    assert "report.html" in {item.path for item in client.list_artifacts(parent.info.run_id)}


def test_shards_are_a_partition() -> None:
    plan = make_plan({}, ("random", "seeded"), 5, "nothing", 3)
    parts = [plan.shard(index, 3) for index in (1, 2, 3)]
    assert sorted(cell.name for part in parts for cell in part) == sorted(cell.name for cell in plan.cells)
    assert parse_shard("2/5") == (2, 5)
    assert parse_shard(None) == (1, 1)
    for bad in ("0/2", "3/2", "2", "a/b", "1/0"):
        with pytest.raises(ConfigError):
            parse_shard(bad)


def test_a_spread_has_the_chi_square_interval() -> None:
    found = spread_of([1.0, 2.0, 3.0, 4.0, 5.0, None])
    assert found.mean == 3
    assert found.sd == pytest.approx(1.5811, abs=1e-4)
    # by the table: chi-square with 4 degrees of freedom has quantiles 0.4844 and 11.1433
    assert (found.sd_low, found.sd_high) == pytest.approx((0.9473, 4.5435), abs=1e-3)
    assert (spread_of([0.1] * 3).sd, spread_of([0.1] * 3).mean) == (0, 0.1)
    assert spread_of([None]).mean is None
    assert spread_of([2.0]).sd is None


def test_disagreement_is_the_share_of_runs_that_differ_from_most(tmp_path: Path) -> None:
    maps = [[0, 1, 2, 0], [0, 1, 1, 0], [0, 2, 0, 1]]
    paths = []
    for number, values in enumerate(maps):
        path = tmp_path / f"{number}.nii.gz"
        nib.save(nib.Nifti1Image(np.array(values, dtype=np.uint8).reshape(4, 1, 1), np.eye(4)), path)
        paths.append(path)
    assert disagreement_of(paths).ravel() == pytest.approx([0, 1 / 3, 2 / 3, 1 / 3])


def test_weights_spread_by_layer() -> None:
    runs = [
        {"a": torch.tensor([1.0, 5.0]), "n": torch.tensor(3)},
        {"a": torch.tensor([3.0, 5.0]), "n": torch.tensor(4)},
    ]
    (layer,) = weight_spread(runs)
    assert layer["largest_sd"] == pytest.approx(2**0.5)
    assert layer["mean_sd"] == pytest.approx(2**0.5 / 2)


def test_the_earliest_parting_counts() -> None:
    def trace(hashes: str) -> list[dict[str, Any]]:
        return [{"epoch": 0, "batch": i, "hash": text, "loss": text} for i, text in enumerate(hashes)]

    assert first_parting([trace("abcd"), trace("abcx"), trace("abyz")]) == {"epoch": 0, "batch": 2}
    assert first_parting([trace("ab"), trace("ab")]) is None


def test_deterministic_runs_that_differ_are_not_reproducible() -> None:
    def of(weights: int, vary: str) -> dict[str, Any]:
        setup = {"distinct_weights": weights, "distinct_predictions": 1, "parts_at": None}
        return {"setups": {"deterministic": setup}, "vary": vary}

    assert is_reproducible(of(1, "nothing"))
    assert not is_reproducible(of(2, "nothing"))
    assert is_reproducible(of(2, "seed"))
    parted = of(1, "nothing")  # whose validation differed, say, and nothing else
    parted["setups"]["deterministic"]["parts_at"] = {"epoch": 3, "batch": None}
    assert not is_reproducible(parted)
