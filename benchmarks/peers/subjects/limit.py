"""The distance to the limit: what the network asks of this processor, and what the processor can do."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.harness import Job, Settings
from benchmarks.peers.meter import Measures
from benchmarks.peers.networks import make_network

NAME = "7 limit"
VOXELS = "network, 1 million voxels"


def jobs(settings: Settings) -> list[Job]:
    """Rate of a matrix product, bandwidth of a copy, and the operations of the network per million voxels."""
    shared = {"quick": settings.quick}
    return [
        Job("processor", "torch", "torch", f"{__name__}:measure_processor", shared, True),
        Job(VOXELS, "torch", "torch", f"{__name__}:count_operations", shared, most=1),
    ]


def measure_processor(quick: bool) -> Measures:
    """Best of several: a float32 matrix product of 4096 x 4096, and a copy of 512 MiB, read and written."""
    size, megabytes = (512, 16) if quick else (4096, 512)
    a, b = torch.randn(size, size), torch.randn(size, size)
    product = torch.empty(size, size)
    source = torch.ones(megabytes << 18)
    target = torch.empty_like(source)
    return {
        "matrix product": 2 * size**3 / _best(lambda: torch.mm(a, b, out=product)) / 1e9,
        "bandwidth": 2 * 4 * source.numel() / _best(lambda: target.copy_(source)) / 1e9,
        "threads": float(torch.get_num_threads()),
    }


def count_operations(quick: bool) -> Measures:
    """Floating point operations of one pass of the network of subject 1, in 10^9 per 10^6 voxels."""
    network = make_network("batch", quick)
    image = torch.zeros(1, 1, 32, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(image)
    return {"network": counter.get_total_flops() / image.numel() / 1e3}


def _best(work: Callable[[], object], repeats: int = 5) -> float:
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)
