"""Is the forecast right? ``python -m benchmarks.forecast [STUDY ...]`` beside short truths on the real scans.

Each study is planned, then prepared whole and trained for some steps on the real cases, and its largest case is
predicted as a validation does, the second time. Times are compared in CPU seconds, which other work on the machine
changes less than the clock; an epoch is a known number of the steps compared.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.table import describe_machine

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STUDIES: dict[str, Any] = {
    "hippocampus3d": "hippocampus",
    "heart3d": "heart_left_atrium",
    "sarcoma3d": "sarcoma_pet_ct_mr",
    "mip_pet2d": "mip_pet",
    "cxr2d": "cxr_lungs",
    "isbi2d": "isbi2012_em",
    # phantoms, made here
    "demo": {"cases": 6, "kind": "chest_ct", "shape": (96, 96, 64)},
    "lits3d": {
        "cases": 6,
        "kind": "liver",
        "labels": ("liver", "cancer"),
        "shape": (200, 200, 120),
        "spacing_mm": (1.5, 1.5, 2.0),
    },
    "lung3d": {
        "cases": 6,
        "kind": "chest_ct",
        "labels": ("cancer",),
        "shape": (240, 200, 120),
        "spacing_mm": (1.0, 1.0, 1.5),
    },
    "lung2d": {"cases": 6, "kind": "chest_ct", "labels": ("cancer",), "shape": (256, 256, 80)},
}
STEPS = 6  # of the truth; two before them are not counted


def truth(config: str, settings: list[str]) -> dict[str, float]:
    """What really happens, in this process: bytes of the store, CPU seconds and peak memory of training steps."""
    import torch

    from benchmarks.training_step import Steps
    from seg3d.build import training as build
    from seg3d.build.prediction import build_reproducibility
    from seg3d.build.settings import counted_labels
    from seg3d.config import load_config
    from seg3d.forecast import usage
    from seg3d.training.fit import fit
    from seg3d.verbs.prepare import prepare

    plain = load_config(Path(config), settings)
    store = prepare(plain, progress=False)
    split = build.build_split(plain, store.labelled, store.groups)
    patches = plain.train.batch_size * (STEPS + 2)
    short = [*settings, "train.max_epochs=1", "train.accumulate=1", "train.progress=false"]
    chosen = build.resolve(load_config(Path(config), [*short, f"sampling.patches_per_epoch={patches}"]))
    build_reproducibility(chosen).apply(chosen.seed)
    labels = counted_labels(store.labels, store.ignore_label)
    data = build.build_data(chosen, store.select(split.train), (), labels)
    module = build.build_module(
        chosen, len(store.channels), labels, store.ignore_label, 8, seed=0, regions=store.regions
    )
    watch = Steps()
    fit(module, data, build.build_fit_settings(chosen), [watch])
    mean = (watch.ends[-1] - watch.ends[1]) * (1 / (len(watch.ends) - 2))
    peak = usage.peak_bytes()
    largest = max(store.infos.values(), key=lambda info: torch.Size(info.grid.shape).numel())
    module.on_validation_epoch_start()
    module.validation_step(largest, 0)  # the first one makes kernels and touches pages, once for all cases
    started = usage.now()
    module.validation_step(largest, 1)
    return {
        "store": float(sum(info.path.stat().st_size for info in store.infos.values())),
        "step": mean.cpu,
        "memory": float(peak),
        "case": (usage.now() - started).cpu,
    }


def forecast(config: str, settings: list[str]) -> dict[str, float]:
    """The same figures as ``seg3d plan`` tells them."""
    import seg3d

    found: dict[str, Any] = seg3d.plan(config, settings, budget_seconds=60)
    training, prediction = found["training"], found["prediction"]
    return {
        "store": float(found["store"]["bytes"]),
        "step": training["seconds_per_batch"]["cpu"],
        "memory": float(training["peak_bytes"]),
        "case": prediction["network_seconds"]["cpu"],
    }


def in_process(what: str, config: str, settings: list[str]) -> dict[str, float]:
    """One of the two in a process of its own, for its own peak of memory."""
    import json

    code = f"import json, benchmarks.forecast as f; print(json.dumps(f.{what}({config!r}, {settings!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def source_of(study: str, folder: Path) -> Path | None:
    """The scans of a study; phantoms are made, an absent set gives ``None``."""
    chosen = STUDIES[study]
    if isinstance(chosen, str):
        return DATA / chosen if (DATA / chosen).exists() else None
    from seg3d.phantom import PhantomSpec, write_phantom_dataset

    return write_phantom_dataset(folder / "data", PhantomSpec(**chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="torch's; more spin while they wait for a busy core")
    parser.add_argument("studies", nargs="*", default=list(STUDIES), choices=[*STUDIES, []], metavar="STUDY")
    chosen = parser.parse_args()
    print(describe_machine(["torch"]), f"load {os.getloadavg()[0]:.0f}")
    print("\n| study | what | forecast | truth | forecast / truth |\n| --- | --- | ---: | ---: | ---: |")
    for study in chosen.studies:
        with tempfile.TemporaryDirectory() as name:
            source = source_of(study, Path(name))
            if source is None:
                print(f"| {study} | no data at hand | | | |")
                continue
            settings = [f"data.source={source}", f"data.store={name}/store", "data.num_workers=0"]
            settings.append(f"reproducibility.threads={chosen.threads}")
            expected = in_process("forecast", f"configs/{study}.yaml", settings)
            found = in_process("truth", f"configs/{study}.yaml", settings)
            shutil.rmtree(f"{name}/store")
            print_rows(study, expected, found)


def print_rows(study: str, expected: dict[str, float], found: dict[str, float]) -> None:
    names = {
        "store": ("store, MiB", 2**20),
        "step": ("training step, CPU s", 1),
        "memory": ("training, peak MiB", 2**20),
        "case": ("network on the largest case, CPU s", 1),
    }
    for key, (what, unit) in names.items():
        a, b = expected[key] / unit, found[key] / unit
        print(f"| {study} | {what} | {a:.3g} | {b:.3g} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
