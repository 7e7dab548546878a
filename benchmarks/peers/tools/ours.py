"""seg3d."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.peers.meter import Measures, cpu_seconds
from benchmarks.sampling import make_loader
from seg3d.inference.sliding import SlidingWindow
from seg3d.sampling.augment import Augmentation
from seg3d.store import read_info
from seg3d.volume import Spacing

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def predictor(network: nn.Module, tile: int, way: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Label map ``(x, y, z)`` of an image; ``way`` is ``exact`` or ``blended``.

    Blended tiles have the peers' size; exact ones are chosen by the free memory. Labels are taken slab by slab, as
    ``seg3d predict`` takes them.
    """
    window = SlidingWindow(patch_size=(tile, tile, tile), tiling="exact" if way == "exact" else "blended")

    def predict(image: torch.Tensor) -> torch.Tensor:
        labels = torch.empty(image.shape[1:], dtype=torch.uint8)
        for start, values in window.slabs(network, image, [float(image.min())]):
            labels[start : start + values.shape[1]] = values.argmax(0)
        return labels

    return predict


def supply(cases: list[str], workers: int, visits: int, augment: str) -> Callable[[], int]:
    """An epoch of patches each call: its queue over HDF5 volumes; how many they were."""
    from benchmarks.augmentation import AFFINE, ALL

    infos = tuple(read_info(Path(case + ".h5")) for case in cases)
    augmentation = {"none": None, "affine": Augmentation(affine=AFFINE), "all": ALL}[augment]
    loader, epochs = make_loader(infos, workers, 8 * visits, augmentation), iter(range(10**9))

    def work() -> int:
        loader.dataset.set_epoch(next(epochs))  # type: ignore[attr-defined]
        return sum(len(batch["case_id"]) for batch in loader)  # type: ignore[arg-type]

    return work


def preparer(folder: Path, project: Path, spacing_mm: Spacing | None) -> Callable[[Path, Path], None]:
    """Reads, prepares and stores a scan with its label map."""
    from benchmarks.preparation import prepare_case
    from seg3d.preparation import Crop, Normalisation, Recipe

    recipe = Recipe(Crop(), spacing_mm, (Normalisation("zscore"),))

    def prepare(scan: Path, label: Path) -> None:
        prepare_case(scan, label, recipe, folder / f"{scan.name.removesuffix('.nii.gz')}.h5")

    return prepare


def train_steps(steps: int, mark: Callable[[], None], dataset: Path, folder: Path) -> None:
    """``seg3d train`` with all that it records; ``mark`` is called after each epoch of ``steps`` steps."""
    import seg3d

    seg3d.train(
        CONFIGS / "hippocampus3d.yaml",
        [
            f"data.source={dataset}",
            f"data.store={folder / 'store'}",
            f"output_dir={folder / 'runs'}",
            "data.num_workers=0",
            "data.split={kind: share, val_share: 0, test_share: 0}",
            f"sampling.patches_per_epoch={2 * steps}",
            "sampling.patches_per_visit=4",
            "augment={}",
            "train.max_epochs=3",
            "train.validate_every=3",
            "train.ema_decay=null",
            "train.schedule.warmup_steps=1",
            "train.precision=fp32",
            "tracking.enabled=false",
        ],
        tell=_at_epochs(mark),
    )


def make_model(dataset: Path, model: Path) -> None:
    """A run of two steps."""
    import seg3d

    seg3d.train(
        CONFIGS / "hippocampus3d.yaml",
        [
            f"data.source={dataset}",
            f"data.store={model.parent / 'store'}",
            f"output_dir={model.parent / 'runs'}",
            "data.num_workers=0",
            "data.split={kind: share, val_share: 0, test_share: 0}",
            "sampling.patches_per_epoch=4",
            "train.max_epochs=1",
            "train.schedule.warmup_steps=1",
            "train.precision=fp32",
            "predict.mirror=[]",
            "tracking.enabled=false",
        ],
        folder=model,
    )


def predict_command(dataset: Path, model: Path, folder: Path) -> list[str]:
    """Predicts the first scan into ``folder / "answers"``."""
    scan = min((dataset / "imagesTr").iterdir())
    return ["seg3d", "predict", str(model), str(scan), "--output", str(folder / "answers")]


def _at_epochs(mark: Callable[[], None]) -> Callable[[str], None]:
    """What a run is to call with its lines, so that the end of each epoch is marked; it tells other things, too."""
    return lambda line: mark() if line.startswith("epoch ") else None


BUDGETS = {  # up to so many CPU-seconds; chosen on validation cases for the first alone, by a few short trials
    180: [
        "model.features=[8, 16, 32, 64]",
        "train.batch_size=1",
        "train.optimizer.learning_rate=1.0e-2",
        "train.ema_decay=0.9",
        "augment={}",
    ],
    420: ["model.features=[16, 32, 64]", "train.optimizer.learning_rate=5.0e-3", "train.ema_decay=0.97"],
    900: ["model.features=[16, 32, 64]", "train.optimizer.learning_rate=4.0e-3", "train.ema_decay=0.98"],
    1e9: ["model.features=[16, 32, 64]", "train.optimizer.learning_rate=3.0e-3", "train.ema_decay=0.99"],
}
PATCHES, TRIAL_PATCHES = 10, 16  # of an epoch; of one that is only timed
RESERVE = 0.08  # of the budget: for steps that take longer than those that were measured, and what is done once


def _hippocampus(data: Path, folder: Path) -> list[str]:
    return [
        f"data.source={data}",
        f"data.store={folder / 'store'}",
        f"output_dir={folder / 'runs'}",
        "data.num_workers=0",
        "train.precision=fp32",
        "tracking.enabled=false",
        f"sampling.patches_per_epoch={PATCHES}",
        "sampling.queue_length=16",
    ]


def prepare_training(data: Path, folder: Path) -> None:
    """The store, and the split for all tools: ``split.json``."""
    import seg3d
    from seg3d.build.training import build_split
    from seg3d.config import load_config

    config = load_config(CONFIGS / "hippocampus3d.yaml", _hippocampus(data, folder))
    store = seg3d.prepare(config, progress=False)
    split = build_split(config, store.labelled, store.groups)
    (folder / "split.json").write_text(json.dumps(split.as_dict() | {"data": str(data)}))


def train_for(folder: Path, seconds: float, overrides: Sequence[str] = ()) -> Measures:
    """A run whose schedule ends where the CPU time is used up, by the time that some steps take before it.

    The last weights are taken, so that no CPU time goes into validation.
    """
    import seg3d

    data = Path(json.loads((folder / "split.json").read_text())["data"])
    chosen = next(settings for most, settings in BUDGETS.items() if seconds <= most)
    settings = [*_hippocampus(data, folder), *chosen, *overrides]
    warm = "train.schedule.warmup_steps=1"
    few = f"sampling.patches_per_epoch={TRIAL_PATCHES}"
    trial = [f"output_dir={folder / 'trial'}", few, "train.max_epochs=4", "train.validate_every=5", warm]
    marks: list[float] = []
    note = _at_epochs(lambda: marks.append(cpu_seconds()))
    seg3d.train(CONFIGS / "hippocampus3d.yaml", [*settings, *trial], tell=note)
    # the first epoch has what is done once; the least disturbed of the others counts
    epoch = min(b - a for a, b in itertools.pairwise(marks)) * PATCHES / TRIAL_PATCHES
    epochs = max(1, int((1 - RESERVE) * seconds / epoch))
    length = [f"train.max_epochs={epochs}", f"train.validate_every={epochs + 1}"]
    started = cpu_seconds()
    warm = f"train.schedule.warmup_steps={max(1, min(20, PATCHES * epochs // 20))}"
    run = seg3d.train(CONFIGS / "hippocampus3d.yaml", [*settings, *length, warm])
    used = cpu_seconds() - started
    (folder / "run.txt").write_text(str(run))
    return {"CPU": used, "steps": float(json.loads((run / "result.json").read_text())["steps"])}


def predict_part(folder: Path, part: str, answers: Path) -> None:
    """Label maps of a part of the cases by the run that was trained last, no mirroring."""
    import seg3d

    run = Path((folder / "run.txt").read_text())
    seg3d.predict(run, output=answers, split=part, overrides=["predict.mirror=[]"])
