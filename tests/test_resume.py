"""Exact resume: a run killed anywhere and continued has the bits of one that was never stopped."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from full_disk import room_for
from study import make_study, result_of

import seg3d
from seg3d.atomic import exclusive
from seg3d.digest import sha256_tensors
from seg3d.errors import RunError
from seg3d.training.checkpoints import chosen_checkpoint, list_checkpoints
from seg3d.training.environment import describe_code
from seg3d.training.module import mean_dice
from seg3d.training.outcome import read_weights
from seg3d.training.run_folder import open_run_folder

DIGESTS = ("weights_sha256", "optimizer_sha256", "trace_sha256", "best_score", "identity_sha256", "epochs", "steps")
OFTEN = ["train.checkpoint_steps=1", "train.max_epochs=3", "train.ema_decay=0.9", "data.num_workers=0"]
KILLS = [seed if seed < 3 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(20)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> Path:
    return seg3d.train(config, OFTEN)


def digests(run: Path) -> dict[str, Any]:
    found = result_of(run)
    chosen = chosen_checkpoint(open_run_folder(run))  # that predictions are made with
    weights = sha256_tensors(read_weights(open_run_folder(run)))
    return {key: found[key] for key in DIGESTS} | {"best_step": chosen.step, "best_weights": weights}


def server() -> Any:
    """Processes that start with everything imported, none of torch's threads, and no state of this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seg3d.verbs.train", "seg3d.verbs.resume", "mlflow"])
    return context


def train_in_process(config: Path, folder: Path, overrides: list[str]) -> None:
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        seg3d.train(config, [*OFTEN, *overrides], folder=folder)


def as_usual(method: str, target: Callable[..., None], *arguments: Any) -> None:
    """Call with data workers that start as those of ``seg3d train`` do, not from a server of their own.

    Such a server imports everything once more for each worker, and workers whose run was killed would never end.
    """
    multiprocessing.set_start_method(method, force=True)
    target(*arguments)


def start(target: Callable[..., None], *arguments: Any) -> Any:
    process = server().Process(target=as_usual, args=(multiprocessing.get_start_method(), target, *arguments))
    process.start()
    return process


def kill(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.fixture(scope="module")
def duration(config: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds of a whole run in a process of its own, the preparation apart."""
    folder = tmp_path_factory.mktemp("timed")
    start(train_in_process, config, folder / "first", []).join()  # prepares, and starts the server
    begun = time.perf_counter()
    process = start(train_in_process, config, folder / "run", [])
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - begun


@pytest.mark.parametrize("seed", KILLS)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(
    config: Path, undisturbed: Path, duration: float, tmp_path: Path, seed: int
) -> None:
    delay = random.Random(seed).uniform(0.1, 1.0) * duration
    print(f"seed {seed}: SIGKILL after {delay:.3f} of {duration:.3f} s")
    run = tmp_path / undisturbed.name
    process = start(train_in_process, config, run, [f"data.num_workers={seed % 3}"])
    process.join(delay)
    kill(process)
    if not (run / "run.json").exists():  # killed before there was a run: nothing half written, so it can just be begun
        assert not run.exists()
        train_in_process(config, run, [])
    seg3d.resume(run)
    assert digests(run) == digests(undisturbed)


def die_in(function: str, call: int, config: Path, folder: Path) -> None:
    """Train until a function is called for the n-th time; die when it has done half of its work."""
    import seg3d.training.checkpoints as checkpoints

    calls = 0
    original = getattr(checkpoints, function)

    def lethal(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            if function == "publish":  # the file is there under its temporary name, torn
                arguments[0].write_bytes(arguments[0].read_bytes()[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(checkpoints, function, lethal)
    train_in_process(config, folder, [])


@pytest.mark.parametrize(
    ("function", "call"), [("publish", 1), ("publish", 4), ("publish", 9), ("list_checkpoints", 3)]
)
def test_a_run_killed_while_it_writes_a_checkpoint_ends_with_the_same_bits(
    config: Path, undisturbed: Path, tmp_path: Path, function: str, call: int
) -> None:
    run = tmp_path / undisturbed.name
    process = start(die_in, function, call, config, run)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    seg3d.resume(run)
    assert digests(run) == digests(undisturbed)
    assert not [path.name for path in run.rglob(".tmp-*")]


def stopped_run(config: Path, folder: Path, overrides: list[str], *, saves: int = 6) -> Path:
    """A run that died when it was about to write its n-th checkpoint."""

    def die() -> None:
        raise KeyboardInterrupt

    import seg3d.training.callbacks as callbacks

    original, calls = callbacks.save_checkpoint, 0

    def counted(*arguments: Any) -> Path:
        nonlocal calls
        calls += 1
        return die() if calls == saves else original(*arguments)

    callbacks.save_checkpoint = counted
    try:
        with pytest.raises(SystemExit):  # what Lightning makes of an interrupt
            seg3d.train(config, [*OFTEN, *overrides], folder=folder)
    finally:
        callbacks.save_checkpoint = original
    assert not (folder / "result.json").exists()
    return folder


@pytest.fixture(scope="module")
def stopped_once(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped_run(config, tmp_path_factory.mktemp("stopped") / "run", [])


@pytest.fixture
def stopped(stopped_once: Path, undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of a stopped run."""
    return Path(shutil.copytree(stopped_once, tmp_path / undisturbed.name))


@pytest.mark.parametrize(
    "override",
    [
        "train.accumulate=2",
        pytest.param("train.optimizer.kind=sgd", marks=pytest.mark.slow),
        pytest.param("train.precision=bf16", marks=pytest.mark.slow),
        pytest.param("sampling.balance=lesion", marks=pytest.mark.slow),
        pytest.param("reproducibility.mode=seeded", marks=pytest.mark.slow),
        pytest.param("train.early_stop_patience=1", marks=pytest.mark.slow),
        pytest.param("train.validate_every=2", marks=pytest.mark.slow),
    ],
)
def test_other_settings_resume_exactly_too(config: Path, tmp_path: Path, override: str) -> None:
    whole = seg3d.train(config, [*OFTEN, override], folder=tmp_path / "whole")
    run = seg3d.resume(stopped_run(config, tmp_path / "run", [override], saves=3))
    assert digests(run) == digests(whole)
    assert (run / "sampling.jsonl").read_text() == (whole / "sampling.jsonl").read_text()


def test_a_run_killed_before_its_best_checkpoint_was_copied_keeps_it(
    config: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_path: Path) -> None:
        raise KeyboardInterrupt

    last_epoch = chosen_checkpoint(open_run_folder(undisturbed)).step
    run = tmp_path / undisturbed.name
    with monkeypatch.context() as patch:
        patch.setattr("seg3d.training.callbacks.copy_as_best", lambda path: die(path))
        with pytest.raises(SystemExit):
            seg3d.train(config, OFTEN, folder=run)
    assert not list_checkpoints(run / "checkpoints", "best")
    seg3d.resume(run)
    assert chosen_checkpoint(open_run_folder(run)).step == last_epoch
    assert digests(run) == digests(undisturbed)


def test_a_run_that_is_told_to_end_does_not_end_as_if_it_were_done(
    config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    def end_me(line: str) -> None:
        if line.startswith("epoch 2/"):
            os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / undisturbed.name
    with pytest.raises(SystemExit) as end:
        seg3d.train(config, OFTEN, folder=run, tell=end_me)
    assert end.value.code == 128 + signal.SIGTERM
    assert not (run / "result.json").exists()
    seg3d.resume(run)
    assert digests(run) == digests(undisturbed)


@pytest.mark.parametrize("room", [20_000, 100_000])
def test_a_full_disk_stops_a_run_that_goes_on_once_there_is_room(
    config: Path, undisturbed: Path, tmp_path: Path, room: int
) -> None:
    run = tmp_path / undisturbed.name
    with room_for(room), pytest.raises(OSError, match="too large"):
        seg3d.train(config, OFTEN, folder=run)
    assert not [path.name for path in run.rglob(".tmp-*")]
    seg3d.resume(run)
    assert digests(run) == digests(undisturbed)


def test_checkpoints_need_no_room_in_the_temporary_folder(
    config: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way through it stays there when the training is killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    run = seg3d.train(config, OFTEN, folder=tmp_path / undisturbed.name)
    assert digests(run) == digests(undisturbed)


def test_a_run_is_trained_by_one_process_at_a_time(stopped: Path) -> None:
    with exclusive(stopped), pytest.raises(RunError, match="another process is working"):
        seg3d.resume(stopped)
    seg3d.resume(stopped)


def tell_and_sleep(told: Any) -> None:
    told.set()
    time.sleep(60)


def test_data_workers_that_outlive_a_killed_run_do_not_keep_it_locked(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    told = context.Event()
    with exclusive(tmp_path):
        child = context.Process(target=tell_and_sleep, args=(told,))
        child.start()
        assert told.wait(30)
        with pytest.raises(RunError, match="another process is working"), exclusive(tmp_path):
            pass
    with exclusive(tmp_path):
        assert child.is_alive()
    kill(child)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("metrics.csv", lambda path: path.unlink(), "missing or shorter"),
        ("metrics.csv", lambda path: path.write_text(""), "missing or shorter"),
        ("sampling.jsonl", lambda path: path.write_text(""), "missing or shorter"),
        ("sampling.jsonl", lambda path: path.write_text("{\n"), "damaged"),
        ("trace.jsonl", lambda path: path.unlink(), "missing or damaged"),
        ("trace.jsonl", lambda path: path.write_bytes(b"\xff\xfe"), "missing or damaged"),
        ("trace.jsonl", lambda path: path.write_text("3\n"), "damaged"),
    ],
)
def test_a_damaged_record_is_told_and_left_as_it_is(
    stopped: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    record = stopped / name
    damage(record)
    before = record.read_bytes() if record.exists() else None
    with pytest.raises(RunError, match=message):
        seg3d.resume(stopped)
    assert (record.read_bytes() if record.exists() else None) == before


def test_a_torn_checkpoint_is_noticed_and_the_earlier_one_is_used(stopped: Path, undisturbed: Path) -> None:
    newest = list_checkpoints(stopped / "checkpoints", "last")[-1].path
    newest.write_bytes(newest.read_bytes()[:1000])
    told: list[str] = []
    seg3d.resume(stopped, tell=told.append)
    assert any("damaged, not used" in line and newest.name in line for line in told)
    assert digests(stopped) == digests(undisturbed)


def test_a_run_without_a_checkpoint_starts_again(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = stopped_run(config, tmp_path / undisturbed.name, [], saves=1)
    seg3d.resume(run)
    assert digests(run) == digests(undisturbed)


@pytest.mark.parametrize("stops_early", [False, True])
def test_a_run_killed_between_its_last_checkpoint_and_its_result_trains_no_further(
    config: Path, tmp_path: Path, stops_early: bool
) -> None:
    still = ["train.max_epochs=6", "train.early_stop_patience=1", "train.optimizer.learning_rate=1e-12"]
    early = [*still, "model.norm=none", "train.ema_decay=null"]
    run = seg3d.train(config, [*OFTEN, *(early if stops_early else [])], folder=tmp_path / "run")
    before = digests(run)
    assert before["epochs"] == 3
    (run / "result.json").unlink()
    seg3d.resume(run)
    assert digests(run) == before


def test_a_finished_run_is_left_as_it_is(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    told: list[str] = []
    seg3d.resume(undisturbed, tell=told.append)
    assert told == ["the run has ended already"]
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_a_random_run_goes_on_with_the_seed_that_it_drew(config: Path, tmp_path: Path) -> None:
    run = stopped_run(config, tmp_path / "run", ["reproducibility.mode=random"])
    seed = open_run_folder(run).identity["seed"]
    seg3d.resume(run)
    assert result_of(run)["seed"] == seed


def prepare_in_process(config: Path) -> None:
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
        seg3d.prepare(config)


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_preparation_loses_nothing_and_does_nothing_twice(tmp_path: Path, seed: int) -> None:
    config = make_study(tmp_path, cases=6)
    delay = random.Random(seed).uniform(0.0, 0.5)
    print(f"seed {seed}: SIGKILL after {delay:.3f} s")
    process = start(prepare_in_process, config)
    process.join(delay)
    kill(process)
    store = tmp_path / "store"
    before = {path: path.stat().st_mtime_ns for path in store.glob("[!.]*.h5")}
    prepared = seg3d.prepare(config)
    assert len(prepared.labelled) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(store.glob(".tmp-*"))


def test_a_killed_preparation_does_not_leave_its_draft_for_ever(tmp_path: Path) -> None:
    config = make_study(tmp_path)
    process = start(die_while_writing, config)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (draft,) = (tmp_path / "store").glob(".tmp-*.h5")
    seg3d.prepare(config)
    assert not draft.exists()


def die_while_writing(config: Path) -> None:
    """Prepare until the first volume is there under its temporary name."""
    import seg3d.atomic as atomic

    original = atomic.publish

    def lethal(draft: Path, path: Path) -> None:
        if path.suffix == ".h5":
            os.kill(os.getpid(), signal.SIGKILL)
        original(draft, path)

    atomic.publish = lethal
    seg3d.prepare(config)


def test_a_changed_config_is_told_and_refused_unless_allowed(stopped: Path) -> None:
    text = (stopped / "config.yaml").read_text()
    (stopped / "config.yaml").write_text(text.replace("max_epochs: 3", "max_epochs: 4"))
    with pytest.raises(RunError, match=r"config train.max_epochs: 3 -> 4(?s:.)*--allow-changed"):
        seg3d.resume(stopped)
    seg3d.resume(stopped, allow_changed=True)
    assert result_of(stopped)["epochs"] == 4
    assert result_of(stopped)["changed"] == ["config train.max_epochs: 3 -> 4"]
    assert "max_epochs" in (stopped / "resumed.jsonl").read_text()


def test_changed_data_are_told_by_file(tmp_path: Path) -> None:
    config = make_study(tmp_path)
    run = stopped_run(config, tmp_path / "run", [])
    image = sorted((tmp_path / "data" / "imagesTr").iterdir())[1]
    scan = nib.load(image)
    nib.save(nib.Nifti1Image(np.asanyarray(scan.dataobj)[::-1], scan.affine, scan.header), image)
    with pytest.raises(RunError, match=rf"data .*{image.name} changed"):
        seg3d.resume(run)


def test_changed_code_is_told(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg3d.verbs.resume.describe_code", lambda: {"version": "9.9"})
    with pytest.raises(RunError, match=r"code version: .* -> 9.9"):
        seg3d.resume(stopped)


def test_a_commit_that_leaves_the_package_as_it_was_is_no_change(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = describe_code()
    monkeypatch.setattr("seg3d.verbs.resume.describe_code", lambda: code | {"commit": "another"})
    seg3d.resume(stopped)


@pytest.mark.parametrize("name", ["splits.json", "run.json", "data.json"])
def test_a_damaged_document_is_told(stopped: Path, name: str) -> None:
    text = (stopped / name).read_text()
    (stopped / name).write_text(text.replace("0", "1", 1))
    with pytest.raises(RunError, match=f"changed or damaged.*{name}|another schema version"):
        seg3d.resume(stopped, allow_changed=True)


def test_a_changed_trace_is_told(stopped: Path) -> None:
    lines = (stopped / "trace.jsonl").read_text().splitlines()
    (stopped / "trace.jsonl").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    with pytest.raises(RunError, match="hash chain"):
        seg3d.resume(stopped)


@pytest.mark.slow
def test_a_run_on_two_devices_goes_on_within_an_epoch_with_the_patches_of_both(config: Path, tmp_path: Path) -> None:
    overrides = ["train.devices=2", "sampling.patches_per_epoch=16", "train.max_epochs=2"]
    run = seg3d.train(config, [*OFTEN, *overrides], folder=tmp_path / "run")
    before, certificates = digests(run), (run / "sampling.jsonl").read_text()
    (run / "result.json").unlink()
    within, at_end = list_checkpoints(run / "checkpoints", "last")
    assert (within.step, at_end.step) == (7, 8)
    at_end.path.unlink()
    seg3d.resume(run)
    assert (run / "sampling.jsonl").read_text() == certificates
    assert digests(run) == before


def test_a_best_checkpoint_of_an_epoch_that_is_computed_again_does_not_stay(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = seg3d.train(config, ["train.checkpoint_steps=null", "train.max_epochs=3"], folder=tmp_path / "run")
    assert chosen_checkpoint(open_run_folder(run)).step == 12  # the last epoch is the best
    (run / "result.json").unlink()
    before, last = list_checkpoints(run / "checkpoints", "last")
    last.path.write_bytes(last.path.read_bytes()[:100])
    # stands for another machine, on which the last epoch is not the best
    monkeypatch.setattr("seg3d.training.callbacks.mean_dice", lambda scores: mean_dice(scores) / 10)
    seg3d.resume(run)
    found = result_of(run)
    assert found["best_epoch"] == 1
    assert chosen_checkpoint(open_run_folder(run)).step == before.step == 8
