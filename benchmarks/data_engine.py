"""What supplying patches costs, and what of it the training step pays: ``python -m benchmarks.data_engine``.

For the hippocampus study (its patch, its augmentation, and none) on made-up cases of its size, each way of reading
ahead is run in turn, A B C A B C. CPU time of all that reads is told apart from that of the thread that trains, because
only the second holds up a step; both mean something on a machine that has other work to do, unlike patches a second.
With ``--steps`` the study's own network is trained and the share of the time that its steps wait for data is told.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.table import describe_machine
from seg3d.build import training as build
from seg3d.config import Config, load_config
from seg3d.forecast.made_up import make_up_case
from seg3d.store import StoredInfo
from seg3d.training.memory import keep_freed_memory
from seg3d.volume import Grid

CONFIG = Path("configs/hippocampus3d.yaml")
LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}
SIZE = (36, 50, 35)  # median of the set
WAYS = (("none", 0), ("threads", 0), ("threads", 2), ("processes", 2))


def study(settings: Sequence[str], patches: int) -> Config:
    once = ["train.max_epochs=1", f"sampling.patches_per_epoch={patches}", "train.progress=false"]
    return build.resolve(load_config(CONFIG, [*settings, *once]))


def without_augmentation() -> list[str]:
    config = load_config(CONFIG, [])
    return [f"augment.{name}=null" for name, part in config.augment if part is not None]


def supply(config: Config, cases: Sequence[StoredInfo], way: str, workers: int) -> tuple[float, float]:
    """CPU ms a patch of everything that reads, and of the thread that asks for batches."""
    data = config.data.model_copy(update={"prefetch": way, "num_workers": workers})
    module = build.build_data(config.model_copy(update={"data": data}), cases, (), LABELS)
    loader = module.train_dataloader()
    patches = [0, 0]
    for epoch in range(2):  # processes start and everything is touched in the first
        loader.sampler.set_epoch(epoch)
        of_all, of_one = cpu_seconds(), time.thread_time()
        patches[epoch] = sum(len(batch["case_id"]) for batch in loader)
    return 1e3 * (cpu_seconds() - of_all) / patches[1], 1e3 * (time.thread_time() - of_one) / patches[1]


def cpu_seconds() -> float:
    """CPU time of this process and its workers."""
    process = psutil.Process()
    times = [member.cpu_times() for member in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def wait_share(config: Config, cases: Sequence[StoredInfo], way: str, workers: int) -> float:
    """Share of the time of an epoch's steps that waits for data, the filling of the queue included."""
    from benchmarks.training_step import Steps
    from seg3d.training.fit import fit

    data = config.data.model_copy(update={"prefetch": way, "num_workers": workers})
    config = config.model_copy(update={"data": data})
    module = build.build_module(config, 1, LABELS, None, 8, seed=0)
    started = time.perf_counter()
    trainer = fit(module, build.build_data(config, cases, (), LABELS), build.build_fit_settings(config), [Steps()])
    return float(getattr(trainer.train_dataloader, "waited", 0.0)) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch's; more spin while they wait for a busy core")
    chosen = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(chosen.threads)
    print(describe_machine(["torch"]), f"load {os.getloadavg()[0]:.0f}")
    with tempfile.TemporaryDirectory() as folder:
        grid = Grid(SIZE, np.eye(4))
        cases = [make_up_case(Path(folder), n, grid, 1, LABELS, weighted=False) for n in range(12)]
        for title, settings in (("raw", without_augmentation()), ("augmented", [])):
            print_supply(title, study(settings, chosen.patches), cases, chosen.rounds)
        if chosen.steps:
            config = study([], chosen.steps * 2)
            for way, workers in WAYS:
                share = wait_share(config, cases, way, workers)
                print(f"{way}, {workers} workers: waits {100 * share:.2f} % of {chosen.steps} steps")


def print_supply(title: str, config: Config, cases: Sequence[StoredInfo], rounds: int) -> None:
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for way in WAYS:
            found.setdefault(way, []).append(supply(config, cases, *way))
    print(f"\n### {title}\n\n| | CPU ms a patch | of them in the training thread |\n| --- | ---: | ---: |")
    for (way, workers), values in found.items():
        of_all, of_one = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"| {way}, {workers} workers | {of_all:.2f} | {of_one:.2f} |")


if __name__ == "__main__":
    main()
