"""nnU-Net."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from benchmarks.peers.tools.nnunet_project import (
    CONFIGURATION,
    managers,
    plan,
    predict_part,
    prepare_training,
    train_for,
    use_folders,
)
from seg3d.volume import Shape, Spacing

__all__ = [
    "plan_preparing",
    "predict_command",
    "predict_part",
    "predictor",
    "prepare_training",
    "preparer",
    "supply",
    "train_for",
    "train_steps",
]

Pairs = list[tuple[str, str]]  # scan and label map


def predictor(network: nn.Module, tile: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Label map ``(x, y, z)`` of an image by its sliding window: half overlap, Gaussian weights, no mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    found = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    found.network = network
    found.configuration_manager = SimpleNamespace(patch_size=(tile,) * 3)
    found.label_manager = SimpleNamespace(num_segmentation_heads=network.head.out_channels)

    def predict(image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return found.predict_sliding_window_return_logits(image).argmax(0).to(torch.uint8)

    return predict


def write_for_supply(cases: list[str], patch: Shape) -> None:
    """Its own files of HDF5 volumes, as its preprocessing writes them, in a folder ``nnunet`` beside them."""
    import numpy as np
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    from seg3d.store import StoredVolume, read_info

    for case in cases:
        volume = StoredVolume(read_info(Path(case + ".h5")))
        image = np.ascontiguousarray(volume.image, dtype=np.float32)
        label = np.ascontiguousarray(volume.label, dtype=np.int16)[None]
        places = DefaultPreprocessor._sample_foreground_locations(label, [1])
        (blocks, chunks), (blocks_seg, chunks_seg) = (
            comp_blosc2_params(array.shape, patch, array.itemsize) for array in (image, label)
        )
        folder = Path(case).parent / "nnunet"
        folder.mkdir(exist_ok=True)
        target = str(folder / Path(case).name)
        more = {"chunks": chunks, "blocks": blocks, "chunks_seg": chunks_seg, "blocks_seg": blocks_seg}
        nnUNetDatasetBlosc2.save_case(image, label, {"class_locations": places}, target, **more)


def supply(cases: list[str], workers: int, visits: int, augment: str) -> Callable[[], int]:
    """As many patches each call as the others' epochs have: its loader and its transforms, every one on every patch."""
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
    from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from benchmarks.sampling import BATCH, PATCH

    folder = str(Path(cases[0]).parent / "nnunet")
    dataset = nnUNetDatasetBlosc2(folder, [Path(case).name for case in cases])
    angle = math.radians(15)
    first = PATCH if augment == "none" else tuple(get_patch_size(PATCH, angle, angle, angle, (0.85, 1.25)))
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    loader = nnUNetDataLoader(dataset, BATCH, first, PATCH, labels, 0.5, transforms=_transforms(augment, PATCH))
    if workers:
        cached = max(6, workers // 2)  # as its trainer chooses
        source = NonDetMultiThreadedAugmenter(loader, None, workers, num_cached=cached, wait_time=0.002)
    else:
        source = SingleThreadedAugmenter(loader, None)

    def work() -> int:
        return sum(len(next(source)["data"]) for _ in range(8 * visits // BATCH))

    return work


def _transforms(augment: str, patch: Shape) -> object:
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    if augment == "none":
        return None
    angle = math.radians(15)
    spatial = SpatialTransform(
        patch,
        0,
        False,
        p_elastic_deform=float(augment == "all"),
        p_rotation=1,
        rotation=(-angle, angle),
        p_scaling=1,
        scaling=(0.85, 1.15),
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    noise = GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True)
    gamma = GammaTransform((0.7, 1.5), p_invert_image=0, synchronize_channels=False, p_per_channel=1, p_retain_stats=1)
    return ComposeTransforms([spatial, noise, gamma] if augment == "all" else [spatial])


def train_steps(steps: int, mark: Callable[[], None], dataset: Path, folder: Path) -> None:
    """Training steps of its trainer, loss and optimiser on the same network and a batch in memory, in three rounds."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from benchmarks.peers.tools.plain import CLASSES, make_batch
    from seg3d.models import ReducedUNet

    trainer = object.__new__(nnUNetTrainer)  # what is around a step needs a whole prepared data set
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    trainer.network = ReducedUNet(1, CLASSES)
    trainer.optimizer = torch.optim.SGD(
        trainer.network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True
    )
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    trainer.loss = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    image, label = make_batch()
    for _ in range(3):
        for _ in range(steps):
            trainer.train_step({"data": image, "target": label[:, None].short()})
        mark()


def plan_preparing(project: str, pairs: Pairs, spacing: Spacing | None) -> None:
    """What it does once for all scans, before it prepares any."""
    plan(Path(project), pairs, spacing)


def preparer(folder: Path, project: Path, spacing_mm: Spacing | None) -> Callable[[Path, Path], None]:
    """Reads, preprocesses and saves a scan with its label map, by the plan of a project."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    plans, configuration, dataset = managers(project)
    preprocessor = DefaultPreprocessor(verbose=False)

    def prepare(scan: Path, label: Path) -> None:
        target = str(folder / scan.name.removesuffix(".nii.gz"))
        preprocessor.run_case_save(target, [str(scan)], str(label), plans, configuration, dataset)

    return prepare


def make_model(dataset: Path, model: Path) -> None:
    """A model folder of its own planner and network, with fresh weights."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    labels = sorted((dataset / "labelsTr").iterdir())
    pairs = [(str(dataset / "imagesTr" / label.name), str(label)) for label in labels]
    plans, configuration, description = plan(model.parent / "nnunet_project", pairs, None)
    heads = plans.get_label_manager(description).num_segmentation_heads
    network = nnUNetTrainer.build_network_architecture(plans, configuration, 1, heads, False)
    (model / "fold_0").mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans.plans))
    (model / "dataset.json").write_text(json.dumps(description))
    checkpoint = {
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": None,
        "network_weights": network.state_dict(),
    }
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")


def predict_command(dataset: Path, model: Path, folder: Path) -> list[str]:
    """Predicts the first scan into ``folder / "answers"``: no mirroring, one process beside the main one."""
    use_folders(folder)
    scan = min((dataset / "imagesTr").iterdir())
    (folder / "scans").mkdir()
    (folder / "scans" / f"{scan.name.removesuffix('.nii.gz').removesuffix('_0000')}_0000.nii.gz").symlink_to(scan)
    options = ["-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta", "--disable_progress_bar"]
    files = ["-i", str(folder / "scans"), "-o", str(folder / "answers"), "-m", str(model)]
    return ["nnUNetv2_predict_from_modelfolder", *files, *options]
