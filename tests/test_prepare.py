"""Preparing a dataset: what is stored is what the config says now, and nobody is handed another's voxels."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import yaml
from scans import write_nifti
from study import make_study

from seg3d.atomic import exclusive
from seg3d.errors import FaultsError, Seg3dError, StoreError
from seg3d.store import StoredVolume
from seg3d.verbs import prepare_cases
from seg3d.verbs.prepare import Store, prepare

SHAPE = (8, 9, 10)
IMAGES = {"ct": 100, "pet": 5}  # grey value of each channel


def label() -> np.ndarray:
    data = np.zeros(SHAPE, np.uint8)
    data[2:4, 2:4, 2:4] = 1
    return data


def make_source(folder: Path, cases: int = 2) -> Path:
    """Cases ``p0``, ``p1`` and so on, each with a CT, a PET and a label map."""
    for number in range(cases):
        for name, value in IMAGES.items():
            write_nifti(folder / f"p{number}" / f"{name}.nii.gz", np.full(SHAPE, value, np.int16))
        write_nifti(folder / f"p{number}" / "seg.nii.gz", label())
    return folder


def write_config(folder: Path, channels: list[str], **data: Any) -> Path:
    content = {
        "name": "study",
        "data": {
            "source": str(folder / "source"),
            "store": str(folder / "store"),
            "layout": "folders",
            "folders": {
                "images": [f"{{case}}/{channel}.nii.gz" for channel in channels],
                "label": "{case}/seg.nii.gz",
            },
            "channels": channels,
            "labels": {"background": 0, "tumour": 1},
        }
        | data,
        "prepare": {"normalise": [{"kind": "none"}], "workers": 1},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    make_source(tmp_path / "source")
    return write_config(tmp_path, ["ct", "pet"])


def first_values(store: Store) -> list[float]:
    image = StoredVolume(store.infos["p0"]).image
    return [float(channel[0, 0, 0]) for channel in image]


def test_another_order_of_the_channels_is_prepared_anew(config: Path, tmp_path: Path) -> None:
    told: list[str] = []
    assert first_values(prepare(config, progress=False)) == [100, 5]
    swapped = write_config(tmp_path, ["pet", "ct"])
    assert first_values(prepare(swapped, progress=False, tell=told.append)) == [5, 100]
    assert told == ["NOTE: prepared anew, 2 of 2 cases: the source files have other places among channels and label"]
    assert prepare(swapped, progress=False, tell=told.append)
    assert len(told) == 1


def test_another_order_of_the_columns_of_a_table_is_prepared_anew(config: Path, tmp_path: Path) -> None:
    table = tmp_path / "source" / "cases.csv"
    settings = [f"data.source={table}", "data.layout=table", "data.folders=null", "data.channels=null"]
    for channels in (["ct", "pet"], ["pet", "ct"]):
        row = ["p0", *(f"p0/{channel}.nii.gz" for channel in channels), "p0/seg.nii.gz"]
        table.write_text(f"case,{','.join(channels)},label\n{','.join(row)}\n")
        assert first_values(prepare(config, settings, progress=False)) == [IMAGES[channel] for channel in channels]


def test_volumes_of_an_earlier_schema_are_prepared_anew_and_told(config: Path) -> None:
    store = prepare(config, progress=False)
    before = {case: info.content_sha256 for case, info in store.infos.items()}
    with h5py.File(store.infos["p0"].path, "a") as file:
        file.attrs["schema_version"] = 2
        del file.attrs["roles"]
    told: list[str] = []
    again = prepare(config, progress=False, tell=told.append)
    assert told == ["NOTE: prepared anew, 1 of 2 cases: the stored volume is of another schema version"]
    assert {case: info.content_sha256 for case, info in again.infos.items()} == before


@pytest.mark.parametrize("setting", ["prepare.normalise=[{kind: minmax}]", "prepare.spacing_mm=[0.8,0.8,0.8]"])
def test_a_store_replaced_under_a_run_is_refused_not_read(config: Path, setting: str) -> None:
    info = prepare(config, progress=False).infos["p0"]
    held = StoredVolume(info)
    prepare(config, [setting], progress=False, tell=lambda _: None)
    assert float(held.image[0, 0, 0, 0]) == 100  # what is mapped stays
    for read in (
        lambda: StoredVolume(info),
        lambda: held.components((0, 0, 0), (1, 1, 1)),
        lambda: info.slice_counts(2),
    ):
        with pytest.raises(StoreError, match=r"replaced while it was in use.*data\.store of its own"):
            read()


def test_a_worker_process_opens_what_the_run_read(config: Path) -> None:
    info = prepare(config, progress=False).infos["p0"]
    sent = pickle.loads(pickle.dumps(info))
    assert float(StoredVolume(sent).image[0, 0, 0, 0]) == 100


def test_a_store_that_was_copied_is_as_good(config: Path, tmp_path: Path) -> None:
    store = prepare(config, progress=False)
    shutil.copytree(store.path, tmp_path / "copy")
    shutil.rmtree(store.path)
    copy = prepare(config, [f"data.store={tmp_path / 'copy'}"], progress=False, tell=pytest.fail)
    assert first_values(copy) == [100, 5]


def test_a_volume_that_vanished_under_a_run_is_told(config: Path) -> None:
    info = prepare(config, progress=False).infos["p0"]
    info.path.unlink()
    with pytest.raises(StoreError, match="missing"):
        StoredVolume(info)


def test_a_store_does_not_mix_recipes(config: Path) -> None:
    first = prepare(config, progress=False)
    late = Store(**{name: getattr(first, name) for name in first.__dataclass_fields__})
    prepare(config, ["prepare.normalise=[{kind: minmax}]"], progress=False, tell=lambda _: None)
    with pytest.raises(StoreError, match="another recipe"):
        _ = late.infos


def test_one_process_at_a_time_prepares_into_a_store(config: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    waiting, found = threading.Event(), []
    other = threading.Thread(
        target=lambda: found.append(prepare(config, progress=False, tell=lambda _: waiting.set())), daemon=True
    )
    with exclusive(tmp_path / "store"):
        other.start()
        assert waiting.wait(10)
        assert not list((tmp_path / "store").glob("*.h5"))
    other.join(30)
    assert first_values(found[0]) == [100, 5]


def test_lesions_that_the_crop_cuts_off_are_told_each_time(config: Path, tmp_path: Path) -> None:
    far = label()
    far[5:7, 5:7, 8:10] = 1
    write_nifti(tmp_path / "source" / "p0" / "seg.nii.gz", far)
    told: list[str] = []
    prepare(config, progress=False, tell=told.append)
    assert told == []
    for _ in range(2):  # also of a store that is there already
        prepare(config, ["prepare.crop.superior_slices=2"], progress=False, tell=told.append)
        assert told[-2:] == [
            "NOTE: prepare.crop cuts off whole lesions:",
            "  p0: 1 of 2 lesions of 'tumour', 8 of 16 voxels",
        ]
    prepare(config, ["prepare.crop.inferior_slices=5"], progress=False, tell=told.append)
    assert told[-1].endswith("  p1: 1 of 1 lesions of 'tumour', 8 of 8 voxels, all that there was")
    cases = json.loads((tmp_path / "store" / "store.json").read_text())["cases"]
    assert [cut["voxels"] for cut in cases["p1"]["cut_off"]] == [8]


def test_a_lesion_that_the_crop_cuts_through_is_not_lost(config: Path) -> None:
    prepare(config, ["prepare.crop.inferior_slices=3"], progress=False, tell=pytest.fail)


def test_files_with_other_channels_than_are_declared_are_refused(config: Path, tmp_path: Path) -> None:
    write_nifti(tmp_path / "source" / "p0" / "ct.nii.gz", np.ones((*SHAPE, 2), np.int16))
    for settings in ([], ["prepare.normalise=[{kind: none}, {kind: zscore}]"]):
        with pytest.raises(FaultsError, match=r"p0(?s:.)*another number of channels.*got 3, expected 2 \(ct, pet\)"):
            prepare(config, settings, progress=False, tell=lambda _: None)
    assert (tmp_path / "store" / "p1.h5").exists()


def test_a_group_of_no_case_stops_the_preparation(config: Path) -> None:
    with pytest.raises(FaultsError, match=r"data\.groups\.P0.*mean p0\?"):
        prepare(config, ["data.groups={P0: anna}"], progress=False)


def die(_job: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told_with_its_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source(tmp_path / "source", cases=3)
    config = write_config(tmp_path, ["ct", "pet"])
    monkeypatch.setattr(prepare_cases, "prepare_case", die)
    with pytest.raises(FaultsError) as error:
        prepare(config, ["prepare.workers=2"], progress=False)
    assert [fault.where for fault in error.value.faults] == ["p0", "p1"]
    assert "2 of 3 cases could not be prepared, 1 were not begun" in str(error.value)
    assert "Lower prepare.workers (now 2)" in str(error.value)


@pytest.mark.parametrize("damage", ["", "[]", "5", '{"a": 5}'])
def test_damaged_notes_on_source_files_cost_time_and_nothing_else(config: Path, damage: str) -> None:
    store = prepare(config, progress=False)
    notes = (store.path / "sources.json").read_text()
    (store.path / "sources.json").write_text(damage.replace('"a"', json.dumps(next(iter(json.loads(notes))))))
    assert prepare(config, progress=False).infos.keys() == store.infos.keys()
    assert (store.path / "sources.json").read_text() == notes


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_preparation_that_is_killed(tmp_path: Path, sign: signal.Signals) -> None:
    config = make_study(tmp_path)
    command = [sys.executable, "-m", "seg3d.cli", "prepare", str(config), "prepare.workers=2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        started: list[psutil.Process] = []
        while process.poll() is None and len(started) < 3:  # two workers, and who looks after their semaphores
            started = psutil.Process(process.pid).children()
            time.sleep(0.01)
        process.send_signal(sign)
    assert len(started) == 3
    _, left = psutil.wait_procs(started, timeout=60)
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []


def test_faults_of_other_cases_are_told_beside_a_killed_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source(tmp_path / "source", cases=4)
    config = write_config(tmp_path, ["ct", "pet"])
    monkeypatch.setattr(prepare_cases, "prepare_case", fail_then_die)
    with pytest.raises(FaultsError) as error:
        prepare(config, ["prepare.workers=2"], progress=False)
    assert "no good" in str(error.value)
    assert "killed" in str(error.value)


def fail_then_die(job: prepare_cases.PrepareJob) -> Seg3dError | None:
    if job.case.case_id != "p0":
        time.sleep(1.0)
        die(job)
    return Seg3dError("no good")


def test_memory_that_runs_out_is_told_with_the_case(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(prepare_cases, "prepare_image", exhaust)
    with pytest.raises(FaultsError, match=r"p0: .*ct.nii.gz: the case does not fit(?s:.)*p1.*Lower prepare\.workers"):
        prepare(config, progress=False)


def test_a_source_file_that_cannot_be_read_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("seg3d.digest.sha256_file", refuse)  # who tests may be root, who may read all
    with pytest.raises(FaultsError, match=r"ct\.nii\.gz: the file cannot be read \(got Permission denied\)"):
        prepare(config, progress=False)


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every file system read-only; a mode would not stop root."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def begin() -> None:
        monkeypatch.setattr("seg3d.atomic.temporary_name", refuse)
        monkeypatch.setattr("seg3d.verbs.prepare.exclusive", refuse)

    return begin


def test_a_complete_store_may_be_read_only(config: Path, tmp_path: Path, read_only: Callable[[], None]) -> None:
    prepare(config, progress=False)
    read_only()
    assert first_values(prepare(config, progress=False, tell=pytest.fail)) == [100, 5]
    os.utime(tmp_path / "source" / "p0" / "ct.nii.gz", (1, 1))  # digested again, which cannot be noted down
    assert first_values(prepare(config, progress=False, tell=pytest.fail)) == [100, 5]


@pytest.mark.parametrize("setting", ["prepare.normalise=[{kind: minmax}]", "data.groups={p0: anna, p1: anna}"])
def test_a_read_only_store_that_lacks_something_is_told(
    config: Path, read_only: Callable[[], None], setting: str
) -> None:
    prepare(config, progress=False)
    read_only()
    with pytest.raises(StoreError, match=r"cannot be written to, and lacks something.*Read-only"):
        prepare(config, [setting], progress=False)


def test_by_default_there_are_as_many_workers_as_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert prepare_cases.usable_cores() == 3
