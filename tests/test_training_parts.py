"""Optimiser, schedule and running mean."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException

from seg3d.errors import DataError, RunError, told_in
from seg3d.training.ema import Ema
from seg3d.training.ranks import told_by_ranks
from seg3d.training.schedule import build_optimizer, factor


@pytest.mark.parametrize(
    ("kind", "expected"), [("polynomial", [1, 0.5**0.9, 0]), ("cosine", [1, 0.5, 0]), ("constant", [1, 1, 1])]
)
def test_schedules_by_hand(kind: str, expected: list[float]) -> None:
    found = [factor(s, total_steps=110, kind=kind, warmup_steps=10, power=0.9) for s in (10, 60, 110)]
    assert found == pytest.approx(expected)


def test_warm_up_rises_linearly_and_never_starts_at_zero() -> None:
    found = [factor(s, total_steps=100, kind="cosine", warmup_steps=4, power=0.9) for s in range(5)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_normalisation_and_biases_do_not_decay(kind: str) -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))
    optimizer = build_optimizer(network, kind=kind, learning_rate=0.1, weight_decay=0.5, momentum=0.9, nesterov=True)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decay[id(p)] for p in network.parameters()] == [0.5, 0, 0, 0]


def test_the_running_mean_follows_and_swaps() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    ema = Ema(network, decay=0.9)
    with torch.no_grad():
        network.weight.fill_(1.0)
    ema.update(network)
    assert float(ema.shadow["weight"]) == pytest.approx(0.9)  # the ramp: (1 + 0) / (10 + 0) of the past
    with ema.swap(network):
        assert network.weight.item() == pytest.approx(0.9)
    assert network.weight.item() == 1.0


def test_the_running_mean_survives_a_checkpoint() -> None:
    network = nn.BatchNorm3d(2)
    ema = Ema(network, decay=0.9)
    ema.update(network)
    again = Ema(nn.BatchNorm3d(2), decay=0.9)
    again.load_state_dict(ema.state_dict())
    assert again.steps == 1
    assert all(torch.equal(again.shadow[name], ema.shadow[name]) for name in ema.shadow)


def fail_as(rank: int, error: Exception) -> None:
    raise error


@pytest.mark.slow
def test_a_mistake_that_a_spawned_process_finds_is_told_without_its_traceback() -> None:
    mistake = DataError("the volume\nhas changed", where="a.h5", fix="Prepare it again.")
    with pytest.raises(RunError) as told, told_by_ranks():
        torch.multiprocessing.spawn(fail_as, (mistake,), nprocs=1)
    assert str(told.value) == str(mistake)
    with pytest.raises(ProcessRaisedException, match="out of range"), told_by_ranks():
        raise ProcessRaisedException("Traceback:\nIndexError: out of range", 0, 1)


def fail_after(rank: int) -> None:
    try:
        raise DataError("the mistake that was found first")
    except DataError as error:
        raise RunError("the volume\nhas changed") from error


def be_killed(rank: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_only_the_last_mistake_of_a_spawned_process_is_told() -> None:
    with pytest.raises(RunError) as told, told_by_ranks():
        torch.multiprocessing.spawn(fail_after, nprocs=1)
    assert str(told.value) == "the volume\nhas changed"
    later = "Traceback:\nseg3d.errors.DataError: a.h5: gone\n\nDuring handling of the above exception, another\nIt: b"
    assert told_in(later) == "a.h5: gone"


def test_a_spawned_process_that_was_killed_is_told() -> None:
    with pytest.raises(RunError, match=r"process of the training was killed.*SIGKILL.*seg3d resume"), told_by_ranks():
        torch.multiprocessing.spawn(be_killed, nprocs=1)
