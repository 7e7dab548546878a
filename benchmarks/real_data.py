"""Held-out scores on real scans: ``python -m benchmarks.real_data [STUDY ...] [path=value ...]``.

Studies: hippocampus, sarcoma, heart, lung1.

Each study trains with its config on one fold's training cases, chooses the checkpoint on validation cases, and is
scored on test cases that had no part in either. ``lung1`` has one case and therefore no score: it shows that a whole CT
goes through and comes back onto its own grid.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import seg3d
from benchmarks.table import describe_machine
from seg3d.config import load_config, to_yaml
from seg3d.io import read_header, read_label_map, read_volume
from seg3d.metrics import dice_per_label, format_summary

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FOLDERS = {"hippocampus": "hippocampus", "sarcoma": "sarcoma_pet_ct_mr", "heart": "heart_left_atrium"}
SUV_THRESHOLD = 2.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", nargs="*", metavar="study|path=value", help="default: every study, as configured")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("runs/real_data"))
    options = parser.parse_args()
    overrides = [argument for argument in options.arguments if "=" in argument]
    studies = [argument for argument in options.arguments if "=" not in argument] or [*FOLDERS, "lung1"]
    unknown = sorted(set(studies) - {*FOLDERS, "lung1"})
    if unknown:
        parser.error(f"no such study: {', '.join(unknown)}")
    print(describe_machine(["torch", "torchio"]))
    for study in studies:
        if study == "lung1":
            whole_ct(options.data / "ct_lung_tumour", options.output / study)
        else:
            held_out(study, options.data / FOLDERS[study], options.output / study, overrides)


def held_out(study: str, data: Path, output: Path, overrides: list[str]) -> None:
    """Train on one fold, predict and score its test cases."""
    settings = [f"data.source={data}", f"data.store={output / 'store'}", f"output_dir={output / 'runs'}", *overrides]
    config = load_config(CONFIGS / f"{study}3d.yaml", settings)
    run = seg3d.train(config)
    predictions = output / f"predictions_{run.name}"
    seg3d.predict(run, output=predictions, split="test")
    resolved = output / "config.yaml"
    resolved.write_text(to_yaml(config))
    tolerance = config.evaluate.tolerance_mm
    summary = seg3d.evaluate(predictions, resolved, output / f"{run.name}.json", tolerance_mm=tolerance, subset=True)
    result = json.loads((run / "result.json").read_text())
    print(f"\n## {study}: {summary['cases']} test cases, {result['steps']} steps, {result['seconds'] / 60:.1f} minutes")
    print(format_summary(summary))
    if study == "sarcoma":
        print(f"SUV > {SUV_THRESHOLD} on the same cases: Dice {threshold_dice(summary):.3f}")


def threshold_dice(summary: dict[str, Any]) -> float:
    """Mean Dice of the threshold on the same test cases: what any network has to beat."""
    found = []
    for row in summary["metric_per_case"]:
        reference = Path(row["reference_file"])
        image = read_volume(reference.with_name("PET_image.nii.gz")).data[0]
        mask = (image > SUV_THRESHOLD).astype(np.uint8)
        found.append(dice_per_label(mask, read_label_map(reference).data[0], [1])[1])
    return float(np.mean(found))


def whole_ct(data: Path, output: Path) -> None:
    """Prepare a whole CT, train a few steps on it, predict it back onto its own grid, and draw both."""
    from seg3d.reporting.figures import geometry_figure

    output.mkdir(parents=True, exist_ok=True)
    scan, reference = (data / f"LUNG1-001_{kind}.nii.gz" for kind in ("ct", "seg"))
    table = output / "cases.csv"
    table.write_text(f"case,CT,label\nLUNG1-001,{scan.resolve()},{reference.resolve()}\n")
    settings = [
        f"data.source={table}",
        f"data.store={output / 'store'}",
        f"output_dir={output / 'runs'}",
        "data.labels={background: 0, left lung: 1, right lung: 2, cord: 3, tumour: 4}",
        "data.split={kind: share, val_share: 0, test_share: 0}",
        "data.num_workers=0",
        "prepare.spacing_mm=[2, 2, 3]",
        "sampling.class_weights={background: 2, left lung: 1, right lung: 1, cord: 1, tumour: 1}",
        "sampling.balance=class",
        "sampling.patch_size=[64, 64, 48]",
        "sampling.patches_per_epoch=100",
        "model.features=[16, 32, 64]",
        "train.max_epochs=2",
        "train.schedule.warmup_steps=5",
        "predict.tile_size=[128, 128, 64]",
        "predict.min_size_ml={}",
        "tracking.enabled=false",
    ]
    started = time.perf_counter()
    run = seg3d.train(CONFIGS / "lung3d.yaml", settings)
    trained = time.perf_counter()
    (answer,) = seg3d.predict(run, [scan], output / "predictions")
    seconds = time.perf_counter() - trained
    before, after = read_header(scan), read_header(answer)
    print(f"\n## LUNG1-001: prepared and trained in {trained - started:.0f} s, predicted in {seconds:.0f} s")
    print(f"shape {before.grid.shape} -> {after.grid.shape}; same grid: {before.grid.same_as(after.grid)}")
    names = {1: "left lung", 2: "right lung", 3: "cord", 4: "tumour"}
    volumes = read_volume(scan), read_label_map(answer), read_label_map(reference)
    image, prediction, truth = volumes
    figure = output / "geometry.png"
    geometry_figure(
        image, prediction, figure, reference=truth, label_names=names, name="LUNG1-001 (it was trained on)",
        window=(-1000, 400),
    )  # fmt: skip
    print(figure)


if __name__ == "__main__":
    main()
