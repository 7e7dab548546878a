"""Reading ahead, memory given back, and how an optimiser steps: none of it changes a bit."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from study import losses_of, make_study

import seg3d
from seg3d.config import load_config
from seg3d.errors import ConfigError, Seg3dError
from seg3d.models import ReducedUNet
from seg3d.sampling.prefetch import HEAVY_SECONDS, AheadLoader, choose_prefetch, in_order, use_one_thread
from seg3d.training.memory import describe_allocator
from seg3d.training.schedule import build_optimizer


def test_results_come_in_order_whoever_is_faster() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number

    assert list(in_order(slow_first, range(20), threads=3, ahead=5)) == list(range(20))


def test_no_more_is_read_ahead_than_asked_for() -> None:
    begun: list[int] = []
    results = in_order(lambda n: begun.append(n), range(100), threads=2, ahead=3)
    next(results)
    results.close()  # a generator
    assert len(begun) <= 4


def test_an_error_in_a_thread_is_raised_in_its_turn() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("the third")
        return number

    results = in_order(work, range(5), threads=2, ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def test_a_reading_thread_computes_alone_and_leaves_the_others_their_threads() -> None:
    before, inside = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        thread = threading.Thread(target=lambda: (use_one_thread(), inside.append(torch.get_num_threads())))
        thread.start()
        thread.join()
        assert (inside, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


class Slow:
    """A loader of three batches, each of which takes a while."""

    dataset: Any = None
    sampler: Any = None

    def __iter__(self) -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    def __len__(self) -> int:
        return 5  # as an epoch that was interrupted: more than are left


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_loader_ahead_gives_the_same_batches_and_counts_the_wait(ahead: int) -> None:
    loader = AheadLoader(Slow(), ahead)
    assert list(loader) == [0, 1, 2]
    assert loader.waited >= 0.14
    assert list(loader) == [0, 1, 2]  # and once more in the next epoch


def test_a_slow_step_waits_only_for_the_first_batch_made_ahead() -> None:
    loader = AheadLoader(Slow(), 2)
    for _ in loader:
        time.sleep(0.12)
    assert loader.waited < 0.15  # what all three take


@pytest.mark.parametrize(
    ("wanted", "workers", "seconds", "chosen"),
    [
        ("auto", 2, 2 * HEAVY_SECONDS, "processes"),
        ("auto", 2, HEAVY_SECONDS / 2, "threads"),
        ("auto", 0, 2 * HEAVY_SECONDS, "threads"),
        ("none", 2, 2 * HEAVY_SECONDS, "none"),
        ("threads", 0, 2 * HEAVY_SECONDS, "threads"),
    ],
)
def test_processes_are_chosen_where_a_patch_takes_long(wanted: Any, workers: int, seconds: float, chosen: str) -> None:
    assert choose_prefetch(wanted, workers, lambda: seconds) == chosen


def test_processes_are_refused_where_their_sockets_would_have_too_long_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training would wait for its first patch for ever."""
    monkeypatch.setattr(tempfile, "tempdir", f"/{'x' * 75}")
    assert choose_prefetch("auto", 2, lambda: 2 * HEAVY_SECONDS) == "threads"
    assert choose_prefetch("processes", 0, lambda: 0.0) == "processes"  # without workers there are no sockets
    with pytest.raises(ConfigError, match="TMPDIR"):
        choose_prefetch("processes", 2, lambda: 0.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def reference(study: Path) -> Path:
    return seg3d.train(study, ["train.max_epochs=1", "data.prefetch=none"], tell=lambda _: None)


@pytest.mark.parametrize("settings", [["data.prefetch=threads", "data.num_workers=2"], ["data.prefetch=auto"]])
def test_every_way_of_reading_ahead_gives_the_same_trace(study: Path, reference: Path, settings: list[str]) -> None:
    run = seg3d.train(study, ["train.max_epochs=1", *settings], tell=lambda _: None)
    assert (run / "trace.jsonl").read_text() == (reference / "trace.jsonl").read_text()


def test_processes_give_the_same_trace_and_the_choice_is_recorded(study: Path, reference: Path) -> None:
    run = seg3d.train(
        study, ["train.max_epochs=1", "data.prefetch=processes", "data.num_workers=1"], tell=lambda _: None
    )
    assert (run / "trace.jsonl").read_text() == (reference / "trace.jsonl").read_text()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["prefetch"] == {"mode": "processes", "workers": 1}
    assert environment["allocator"] == describe_allocator(True)


def test_a_run_tells_how_long_it_waited_for_data(reference: Path) -> None:
    header, row = (line.split(",") for line in (reference / "metrics.csv").read_text().splitlines())
    assert 0 < float(row[header.index("data_wait_share")]) < 1


def test_the_allocator_is_told_as_it_is_chosen() -> None:
    assert describe_allocator(False) == {"keeps_freed_memory": False}


HOLD = """
import sys, psutil, torch
from seg3d.training.memory import kept_memory
def resident(): return psutil.Process().memory_info().rss / 2**20
def job():
    blocks = [torch.ones(2**18) for _ in range(200)]  # 200 MiB in blocks of 1 MiB, above glibc's own threshold
    blocks[:-1] = []
    return blocks  # the last one, at the top, keeps the others from being trimmed
before = resident()
with kept_memory(sys.argv[1] == "keep"):
    top = job()
    inside = resident()
print(before, inside, resident())
"""


@pytest.mark.skipif(not describe_allocator(True)["keeps_freed_memory"], reason="only glibc can be asked")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept_in_a_job_and_given_back_after_it(keep: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLD, "keep" if keep else "off"], capture_output=True, text=True, check=True
    )
    before, inside, after = map(float, done.stdout.split())
    assert after - before < 30
    assert (inside - before > 150) is keep


def stepped(kind: str, implementation: str) -> torch.Tensor:
    torch.manual_seed(0)
    network = ReducedUNet(1, 2, features=(4, 8))
    optimizer = build_optimizer(
        network,
        kind=kind,
        learning_rate=1e-2,
        weight_decay=1e-2,
        momentum=0.9,
        nesterov=True,
        implementation=implementation,
    )
    draws = torch.Generator().manual_seed(1)
    for _ in range(5):
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draws)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_stepping_all_weights_together_gives_the_same_bits_and_fused_nearly_so(kind: str) -> None:
    reference = stepped(kind, "auto")
    assert torch.equal(stepped(kind, "loop"), reference)
    assert torch.equal(stepped(kind, "foreach"), reference)
    torch.testing.assert_close(stepped(kind, "fused"), reference, rtol=1e-5, atol=1e-6)


def test_a_fused_step_that_could_not_be_clipped_is_refused(study: Path) -> None:
    with pytest.raises(Seg3dError, match="none could be clipped"):
        load_config(study, ["train.optimizer.implementation=fused", "train.precision=fp16"])


@pytest.mark.slow
def test_a_fused_step_trains(study: Path, reference: Path) -> None:
    run = seg3d.train(study, ["train.max_epochs=1", "train.optimizer.implementation=fused"], tell=lambda _: None)
    found, expected = ([float.fromhex(loss) for loss in losses_of(r)] for r in (run, reference))
    assert found == pytest.approx(expected, rel=1e-4)
