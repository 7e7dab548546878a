"""A training step beside the plain loop: ``python -m benchmarks.training_step [CONFIG] [--steps 6] [--rounds 3]``.

Floor: network, loss, backward, clipping and optimiser step on batches that lie in memory. Ours: the same network in
:func:`seg3d.training.fit.fit`, as ``seg3d train`` runs it: batches drawn, read, augmented, digested, traced. Both are
run in turn, A B A B, and compared by CPU time as well as by the clock. On a GPU deterministic is also set against
fastest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from benchmarks.table import describe_machine
from seg3d.build import training as build
from seg3d.build.prediction import build_reproducibility, device_type
from seg3d.config import Config, load_config
from seg3d.forecast.made_up import make_up_case
from seg3d.forecast.usage import Seconds, now, timed
from seg3d.sampling.certificate import Certifier
from seg3d.store import StoredInfo
from seg3d.training.callbacks import Recorder
from seg3d.training.fit import fit
from seg3d.training.run_folder import RunFolder
from seg3d.volume import Grid

LABELS = {"background": 0, "one": 1, "two": 2}


class Steps(pl.Callback):
    """Ends of the steps."""

    def __init__(self) -> None:
        self.ends: list[Seconds] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_a: Any, **_k: Any) -> None:
        """Note the clocks, on a GPU when the step is really done."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(now())


def make_cases(folder: Path, config: Config) -> list[StoredInfo]:
    size = [max(2, n) if n > 1 else 4 for n in config.sampling.patch_size]
    grid = Grid((size[0], size[1], size[2]), np.eye(4))
    return [make_up_case(folder, n, grid, 1, LABELS, weighted=False) for n in range(4)]


def ours(config: Config, cases: list[StoredInfo], folder: Path, steps: int, recorded: bool) -> tuple[Seconds, float]:
    """Mean step of a real fit without its first two, and the share of its time that waited for data."""
    data = build.build_data(config, cases, (), LABELS)
    module = build.build_module(config, 1, LABELS, None, steps, seed=0)
    watch = Steps()
    callbacks: list[pl.Callback] = [watch]
    if recorded:
        folder.mkdir()
        certifier = Certifier(data.plan, {value: name for name, value in LABELS.items()})
        options: dict[str, Any] = {"patience": None, "checkpoint_steps": None, "stop_after": None}
        recorder = Recorder(RunFolder(folder), certifier, {1: "one", 2: "two"}, tell=lambda _: None, **options)
        callbacks.insert(0, recorder)
    trainer = fit(module, data, build.build_fit_settings(config), callbacks)
    waited = float(getattr(trainer.train_dataloader, "waited", 0.0))
    counted = watch.ends[1:]
    mean = (counted[-1] - counted[0]) * (1 / (len(counted) - 1))
    return mean, waited / (watch.ends[-1] - watch.ends[0]).wall


def plain(config: Config, cases: list[StoredInfo], steps: int) -> Seconds:
    """Mean step of the plain loop on the same patches, which lie in memory, without its first two."""
    device = torch.device(device_type(config))
    batches = [
        {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
        for batch in build.build_data(config, cases, (), LABELS).train_dataloader()
    ]
    torch.manual_seed(0)
    module = build.build_module(config, 1, LABELS, None, steps, seed=0).to(device)
    network, loss = module.network, module.loss
    chosen = module.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    reduced = config.train.precision == "bf16"

    def step(batch: dict[str, Any]) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced):
            value = loss(network(batch["image"]), batch["label"], None)
        value.backward()
        if config.train.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.gradient_clip)
        optimizer.step()
        schedule.step()
        if module.ema is not None:
            module.ema.update(network)
        if device.type == "cuda":
            torch.cuda.synchronize()

    for batch in batches[:2]:
        step(batch)
    return timed(lambda: [step(batch) for batch in batches[2:]]) * (1 / (len(batches) - 2))


def compare(config: Config, steps: int, rounds: int) -> dict[str, list[tuple[Seconds, float]]]:
    """Each variant's steps, interleaved."""
    found: dict[str, list[tuple[Seconds, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(Path(folder), config)
        work: dict[str, Callable[[int], tuple[Seconds, float]]] = {
            "plain loop, patches in memory": lambda _: (plain(config, cases, steps), 0.0),
            "seg3d, patches read and traced": lambda n: ours(config, cases, Path(folder) / f"run{n}", steps, True),
            "seg3d without the records": lambda n: ours(config, cases, Path(folder) / f"bare{n}", steps, False),
        }
        for number in range(rounds):
            for name, measure in work.items():
                found.setdefault(name, []).append(measure(number))
    return found


def print_steps(title: str, found: dict[str, list[tuple[Seconds, float]]]) -> None:
    floor = next(iter(found.values()))
    print(f"\n### {title}\n\n| | ms wall | ms CPU | wall / plain | CPU / plain | waits for data |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, values in found.items():
        # a round is compared with the round of the plain loop beside it: the load of the machine changes
        wall = statistics.median(a.wall / b.wall for (a, _), (b, _) in zip(values, floor, strict=True))
        cpu = statistics.median(a.cpu / b.cpu for (a, _), (b, _) in zip(values, floor, strict=True))
        mid = [statistics.median(x) for x in zip(*((s.wall, s.cpu, w) for s, w in values), strict=True)]
        print(f"| {name} | {1e3 * mid[0]:.1f} | {1e3 * mid[1]:.1f} | {wall:.3f} | {cpu:.3f} | {100 * mid[2]:.2f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/hippocampus3d.yaml")
    parser.add_argument("settings", nargs="*", help="path=value")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    config = load_config(Path(chosen.config), chosen.settings)
    patches = (chosen.steps + 2) * config.train.batch_size
    once = ["train.max_epochs=1", "train.accumulate=1", f"sampling.patches_per_epoch={patches}", "train.progress=false"]
    config = build.resolve(load_config(Path(chosen.config), [*chosen.settings, *once]))
    print(describe_machine(["torch", "pytorch-lightning"]))
    modes = ("deterministic", "seeded") if device_type(config) == "cuda" else (config.reproducibility.mode,)
    for mode in modes:
        how = config.reproducibility.model_copy(update={"mode": mode})
        chosen_config = config.model_copy(update={"reproducibility": how})
        build_reproducibility(chosen_config).apply(0)
        title = f"{config.name}, {config.train.precision}, {mode}, {config.data.num_workers} workers"
        print_steps(title, compare(chosen_config, chosen.steps, chosen.rounds))


if __name__ == "__main__":
    main()
