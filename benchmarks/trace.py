"""What the trace costs of a training step: ``python -m benchmarks.trace``.

The step: forward, backward and AdamW of the default network on two 96^3 patches. The trace: digests of both patches
(made where they are read: in the main process without workers, in the workers otherwise), a line for the step, and this
step's share of an epoch's end (digests of weights, optimiser and generator, a durable write), at 100 steps an epoch.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.table import describe_machine
from seg3d.digest import sha256_tensors
from seg3d.models import ReducedUNet
from seg3d.sampling.patches import Patch
from seg3d.sampling.plan import Draw
from seg3d.training.callbacks import generator_sha256, optimizer_sha256
from seg3d.training.environment import has_fast_bf16
from seg3d.training.memory import keep_freed_memory
from seg3d.training.trace import TraceWriter, exact

SIZE, BATCH, STEPS = 96, 2, 100


def main() -> None:
    keep_freed_memory()
    network = ReducedUNet(1, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    image = torch.zeros(BATCH, 1, SIZE, SIZE, SIZE)
    patches = [_patch() for _ in range(BATCH)]

    def step() -> None:
        with torch.autocast("cpu", enabled=has_fast_bf16("cpu")):
            loss = network(image).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with tempfile.TemporaryDirectory() as folder:
        writer = TraceWriter(Path(folder) / "trace.jsonl")

        def line() -> None:
            writer.add({"epoch": 0, "batch": 0, "learning_rate": exact(1e-3), "batch_sha256": "0" * 64})

        def epoch_end() -> None:
            weights = sha256_tensors(network.state_dict())
            states = {"optimizer_sha256": optimizer_sha256(optimizer), "generator_sha256": generator_sha256()}
            writer.add({"epoch": 0, "weights_sha256": weights, **states})
            writer.flush()

        seconds = {
            "step": _median(step, 5),
            "patch digests": _median(lambda: [patch.with_digest() for patch in patches], 20),
            "line of the step": _median(line, 200),
            "share of the epoch's end": _median(epoch_end, 10) / STEPS,
        }
    print(describe_machine(["torch"]))
    print("\n| | ms | % of the step |\n| --- | ---: | ---: |")
    for name, value in seconds.items():
        print(f"| {name} | {1e3 * value:.3f} | {100 * value / seconds['step']:.3f} |")
    whole = sum(seconds.values()) - seconds["step"]
    print(f"\nwithout workers {100 * whole / seconds['step']:.2f} % of a step")
    print(f"with workers {100 * (whole - seconds['patch digests']) / seconds['step']:.2f} %")


def _patch() -> Patch:
    # in the memory order of patches that are read: x is the fastest
    image = torch.rand(1, SIZE, SIZE, SIZE, generator=torch.Generator()).permute(0, 3, 2, 1)
    label = torch.zeros(SIZE, SIZE, SIZE, dtype=torch.uint8).permute(2, 1, 0)
    return Patch(image, label, "case", (0, 0, 0), (0, 0, 0), Draw(0, 0, 0))


def _median(work: Callable[[], object], repeats: int) -> float:
    work()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


if __name__ == "__main__":
    main()
