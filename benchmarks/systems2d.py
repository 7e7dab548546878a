"""The four 2D systems on held-out data: ``python -m benchmarks.systems2d [SYSTEM ...] [path=value ...]``.

Systems: cxr, mip, isbi, lung, lung_phantom.

Every case is predicted by a network that was neither trained nor chosen on it, and what is printed is the mean over
cases of scores of thresholded masks. The figures by which the original systems are known (pixel accuracy, a Dice pooled
over all slices of soft probabilities) are printed beside it under their own names.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import seg3d
from benchmarks.table import describe_machine
from seg3d.config import Config, load_config, to_yaml
from seg3d.io import read_label_map, read_volume
from seg3d.metrics import dice_per_label, format_summary
from seg3d.phantom import PhantomSpec, write_phantom_dataset

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SYSTEMS = ("cxr", "mip", "isbi", "lung", "lung_phantom")
# several pictures of one patient, by what their names share
SAME_PATIENT = r"^(.+?)(?:-day-?\d+.*|-admission.*|-\d+-(?:days|hours)|-g\d+-l-a|(?<=-3)-\d)?$"
UPTAKE = 50  # grey value below which the contest's baseline calls a pixel tumour
# the width that a processor can train in minutes; the configs hold the originals' widths
NARROW = ["model.features=[16, 32, 64, 128]"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", nargs="*", metavar="system|path=value", help="default: every system")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("runs/systems2d"))
    options = parser.parse_intermixed_args()
    overrides = [argument for argument in options.arguments if "=" in argument]
    systems = [argument for argument in options.arguments if "=" not in argument] or list(SYSTEMS)
    unknown = sorted(set(systems) - set(SYSTEMS))
    if unknown:
        parser.error(f"no such system: {', '.join(unknown)}")
    print(describe_machine(["torch", "torchio"]))
    for system in systems:
        globals()[f"run_{system}"](options.data, options.output / system, overrides)


def run_cxr(data: Path, output: Path, overrides: list[str]) -> None:
    """Lungs in chest X-rays, 5 folds, pictures of one patient in one fold."""
    settings = [f"data.source={data / 'cxr_lungs'}", f"data.group_pattern='{SAME_PATIENT}'", *overrides]
    cross_validate("cxr2d", output, settings, range(5))


def run_mip(data: Path, output: Path, overrides: list[str]) -> None:
    """Tumours in MIP-PET, 5 folds of patients and healthy controls."""
    summary = cross_validate("mip_pet2d", output, [f"data.source={data / 'mip_pet'}", *overrides], range(5))
    patients = [row for row in summary["metric_per_case"] if row["metrics"]["1"]["n_ref"]]
    dice = [row["metrics"]["1"]["Dice"] for row in patients]
    low, high = np.percentile(
        np.random.Generator(np.random.Philox(0)).choice(dice, (2000, len(dice))).mean(1), (2.5, 97.5)
    )
    resampled = np.random.Generator(np.random.Philox(0)).choice(dice, (2000, len(dice))).mean(axis=1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    interval = f"[{low:.3f}, {high:.3f}]"
    print(f"patients alone: Dice {np.mean(dice):.3f} {interval}, median {np.median(dice):.3f}, n {len(dice)}")
    print(f"img < {UPTAKE} on the same patients: mean Dice {np.mean([uptake_dice(row) for row in patients]):.3f}")


def uptake_dice(row: dict[str, Any]) -> float:
    """Dice of the contest's baseline: everything dark is tumour."""
    reference = Path(row["reference_file"])
    name = reference.name.replace("segmentation", "patient")
    image = read_volume(reference.parents[1] / "imgs" / name).data[0]
    return dice_per_label((image < UPTAKE).astype(np.uint8), read_label_map(reference).data[0], [1])[1]


def run_isbi(data: Path, output: Path, overrides: list[str]) -> None:
    """Membranes: the same network with and without the weight map, on the same held-out blocks of slices."""
    settings = [
        f"data.source={data / 'isbi2012_em'}",
        *NARROW,
        "sampling.patch_size=[268, 268, 1]",
        "predict.tile_size=[516, 516, 1]",
    ]
    for name, more in (("with the weight map", []), ("without it", ["prepare.separation=null"])):
        print(f"\n# isbi2d {name}")
        cross_validate("isbi2d", output / name.replace(" ", "_"), [*settings, *more, *overrides], [None], cells="cell")


def run_lung(data: Path, output: Path, overrides: list[str]) -> None:
    """Lung tumours in the four real CTs, each predicted by a network trained on the others: BCE against Dice."""
    output.mkdir(parents=True, exist_ok=True)
    folder = (data / "ct_lung_tumour").resolve()
    rows = [f"{scan.name[:-10]},{scan},{str(scan)[:-10]}_seg.nii.gz" for scan in sorted(folder.glob("*_ct.nii.gz"))]
    table = output / "cases.csv"
    table.write_text("case,CT,label\n" + "\n".join(rows) + "\n")
    settings = [
        f"data.source={table}",
        "data.labels={background: 0, left lung: 1, right lung: 2, cord: 3, cancer: 4}",
        "data.split={kind: kfold, folds: 4, val_share: 0}",
        "prepare.crop.inferior_slices=0",  # three of the four are cut out around the tumour
        "prepare.size=null",
        "prepare.spacing_mm=[1.953125, 1.953125, 3.0]",
        *NARROW,
        *overrides,
    ]
    bce_against_dice(output, settings, range(4))


def run_lung_phantom(_data: Path, output: Path, overrides: list[str]) -> None:
    """The same on made-up chests."""
    write_phantom_dataset(output / "data", PhantomSpec(cases=24, labels=("cancer",), shape=(128, 96, 64)))
    settings = [
        f"data.source={output / 'data'}",
        "data.split={kind: share, val_share: 0.12, test_share: 0.25}",
        "prepare.crop={inferior_slices: 4}",
        "prepare.size=[128, 128, null]",
        "sampling.patch_size=[128, 128, 1]",
        *NARROW,
        *overrides,
    ]
    bce_against_dice(output, settings, [None])


def bce_against_dice(output: Path, settings: list[str], folds: Sequence[int | None]) -> None:
    """The reference system's two losses on the same slices."""
    for loss, terms in (("BCE", "[{kind: cross_entropy}]"), ("Dice", "[{kind: dice, batch: true}]")):
        print(f"\n# lung2d with {loss}")
        cross_validate("lung2d", output / loss, [*settings, f"loss.terms={terms}"], folds)


def cross_validate(
    name: str, output: Path, settings: Sequence[str], folds: Sequence[int | None], cells: str | None = None
) -> dict[str, Any]:
    """The summary over all test cases of the folds; ``None`` stands for the only part of a split that has no folds."""
    places = [f"data.store={output / 'store'}", f"output_dir={output / 'runs'}", "tracking.enabled=false"]
    predictions, training, predicting, scans = output / "predictions", 0.0, 0.0, 0
    for fold in folds:
        chosen = [] if fold is None else [f"data.split.fold={fold}"]
        config = load_config(CONFIGS / f"{name}.yaml", [*settings, *places, *chosen])
        started = time.perf_counter()
        run = seg3d.train(config)
        trained = time.perf_counter()
        scans += len(seg3d.predict(run, output=predictions, split="test"))
        training, predicting = training + trained - started, predicting + time.perf_counter() - trained
    summary = seg3d.evaluate(
        predictions, resolved(config, output), output / "summary.json", subset=True, cells=cells,
        tolerance_mm=config.evaluate.tolerance_mm,
    )  # fmt: skip
    minutes, seconds = training / len(folds) / 60, predicting / scans
    print(f"\n## {name}: {len(folds)} x {minutes:.1f} minutes of training, {seconds:.2f} s a scan")
    print(format_summary(summary), flush=True)
    return summary


def resolved(config: Config, output: Path) -> Path:
    """The config as a file, by which the evaluation finds its references."""
    path = output / "config.yaml"
    path.write_text(to_yaml(config))
    return path


if __name__ == "__main__":
    main()
