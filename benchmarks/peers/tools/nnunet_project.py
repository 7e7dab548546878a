"""An nnU-Net project made from scans: its folders, its fingerprint, its plan."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.peers.meter import Measures, cpu_seconds
from seg3d.volume import Spacing

DATASET, PLANS, CONFIGURATION = "Dataset001_Benchmark", "nnUNetPlans", "3d_fullres"


def use_folders(root: Path) -> dict[str, str]:
    """Set nnU-Net's folders, which are made; the variables are given back."""
    folders = {f"nnUNet_{kind}": str(root / f"nnUNet_{kind}") for kind in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    os.environ.update(folders)
    return folders


def plan(root: Path, pairs: list[tuple[str, str]], spacing_mm: Spacing | None) -> tuple[Any, Any, dict[str, Any]]:
    """Managers of plan and configuration, and the description, for scans with label maps.

    The plan is that of its default planner; a spacing (x, y, z) replaces the one it found.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
    )

    use_folders(root)
    _write_raw(root, pairs)
    extract_fingerprint_dataset(1, num_processes=2, show_progress_bar=False, verbose=False)
    plan_experiment_dataset(1)
    path = root / "nnUNet_preprocessed" / DATASET / f"{PLANS}.json"
    plans = json.loads(path.read_text())
    if spacing_mm is not None:
        plans["configurations"][CONFIGURATION]["spacing"] = list(reversed(spacing_mm))
        path.write_text(json.dumps(plans))
    return managers(root)


def managers(root: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Managers of plan and configuration, and the description, of a project that is planned."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(str(root / "nnUNet_preprocessed" / DATASET / f"{PLANS}.json"))
    description = json.loads((root / "nnUNet_raw" / DATASET / "dataset.json").read_text())
    return manager, manager.get_configuration(CONFIGURATION), description


def _write_raw(root: Path, pairs: list[tuple[str, str]]) -> None:
    import nibabel
    import numpy as np

    raw = root / "nnUNet_raw" / DATASET
    for kind in ("imagesTr", "labelsTr"):
        (raw / kind).mkdir(parents=True, exist_ok=True)
    largest = 0
    for scan, label in pairs:
        name = Path(scan).name.removesuffix(".nii.gz")
        (raw / "imagesTr" / f"{name}_0000.nii.gz").symlink_to(Path(scan).resolve())
        (raw / "labelsTr" / f"{name}.nii.gz").symlink_to(Path(label).resolve())
        largest = max(largest, int(np.asarray(nibabel.load(label).dataobj).max()))
    description = {
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, **{f"label {value}": value for value in range(1, largest + 1)}},
        "numTraining": len(pairs),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))


def prepare_training(data: Path, folder: Path) -> None:
    """Plan and preprocess the training and validation cases of ``split.json``, with that split as its only fold."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    split = json.loads((folder / "split.json").read_text())
    names = [*split["train"], *split["val"]]
    pairs = [(str(data / "imagesTr" / f"{n}.nii.gz"), str(data / "labelsTr" / f"{n}.nii.gz")) for n in names]
    root = folder / "nnunet"
    plan(root, pairs, None)
    preprocess_dataset(1, PLANS, (CONFIGURATION,), [2], show_progress_bar=False)
    fold = [{"train": split["train"], "val": split["val"]}]
    (root / "nnUNet_preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(fold))


def train_for(folder: Path, seconds: float) -> Measures:
    """Iterations of its trainer, as it comes, until the CPU time is used up; its augmentation is part of it."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    use_folders(folder / "nnunet")
    os.environ.update(nnUNet_n_proc_DA="0")  # waiting workers would use up CPU time
    trainer = get_trainer_from_args(DATASET, CONFIGURATION, 0, device=torch.device("cpu"))
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    batches, _ = trainer.get_dataloaders()
    trainer.network.train()
    started, iterations = cpu_seconds(), 0
    while cpu_seconds() - started < seconds:
        trainer.lr_scheduler.step(iterations // trainer.num_iterations_per_epoch)
        trainer.train_step(next(batches))
        iterations += 1
    torch.save(trainer.network.state_dict(), folder / "nnunet.pt")
    return {"CPU": cpu_seconds() - started, "steps": float(iterations)}


def predict_part(folder: Path, part: str, answers: Path) -> None:
    """Label maps of a part of the cases by the network that was trained last, no mirroring."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(DATASET, CONFIGURATION, 0, device=torch.device("cpu"))
    trainer.initialize()
    trainer.network.load_state_dict(torch.load(folder / "nnunet.pt", weights_only=True))
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        "nnUNetTrainer",
        None,
    )
    split = json.loads((folder / "split.json").read_text())
    answers.mkdir()
    scans = [[str(Path(split["data"]) / "imagesTr" / f"{name}.nii.gz")] for name in split[part]]
    predictor.predict_from_files_sequential(scans, [str(answers / name) for name in split[part]])
