"""Network, loss, data and training of a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from seg3d.build.dataset import classes, foreground, outputs, split_members
from seg3d.cases import Region, Split
from seg3d.config import Config
from seg3d.errors import ConfigError
from seg3d.inference.sliding import SlidingWindow
from seg3d.keyed import derived_seed
from seg3d.losses import LossTerm, WeightedLoss, build_loss
from seg3d.models import AttentionUNet, ReducedUNet, UNet, expect_little, take_channels_last
from seg3d.models.planar import Planar
from seg3d.sampling.augment import Augmentation
from seg3d.sampling.certificate import Certifier
from seg3d.sampling.patches import PatchReader
from seg3d.sampling.plan import SamplingPlan
from seg3d.store import StoredInfo
from seg3d.training.data import PatchDataModule
from seg3d.training.environment import has_fast_bf16
from seg3d.training.fit import FitSettings
from seg3d.training.module import SegmentationModule
from seg3d.training.reproducibility import Reproducibility, chance_seed
from seg3d.training.schedule import build_optimizer, factor
from seg3d.volume import Shape

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "reduced_unet": ReducedUNet,
    "unet": UNet,
    "attention_unet": AttentionUNet,
}


def resolve(config: Config) -> Config:
    """The config with what it leaves to chance or to the machine written down, so that it can be repeated as it is."""
    config = fix_split(config)
    chosen = config.reproducibility
    threads = chosen.threads
    if threads is None and chosen.mode == "deterministic":
        threads = torch.get_num_threads()
    update: dict[str, Any] = {
        "train": config.train.model_copy(update={"precision": resolve_precision(config)}),
        "reproducibility": chosen.model_copy(update={"threads": threads}),
    }
    if chosen.mode == "random":
        update["seed"] = chance_seed()
    return config.model_copy(update=update)


def fix_split(config: Config) -> Config:
    """The config with the seed of its split written down: another seed of a run then holds out the same cases."""
    split = config.data.split
    seeded = split.model_copy(update={"seed": config.seed if split.seed is None else split.seed})
    return config.model_copy(update={"data": config.data.model_copy(update={"split": seeded})})


def resolve_precision(config: Config) -> str:
    """``train.precision`` with ``auto`` settled for this machine."""
    chosen = config.train.precision
    if chosen != "auto":
        return chosen
    return "bf16" if has_fast_bf16(device_type(config)) else "fp32"


def device_type(config: Config) -> str:
    """``"cuda"`` or ``"cpu"``: where this machine computes for a config."""
    return "cuda" if config.train.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def build_split(config: Config, cases: Sequence[StoredInfo], groups: Mapping[str, str]) -> Split:
    """Train, validation and test cases, stratified by the rarest label or the one that the config names."""
    rare = _stratum(config, cases)
    return split_members(config, [(c.case_id, groups[c.case_id], c.class_counts.get(rare, 0) > 0) for c in cases])


def build_network(config: Config, channels: int, outputs: int) -> nn.Module:
    """The network with fresh weights, drawn from torch's generator."""
    chosen = config.model
    settings: dict[str, Any] = {
        "dims": chosen.dims,
        "features": tuple(chosen.features),
        "norm": chosen.norm,
        "dropout": chosen.dropout,
        "activation": chosen.activation,
    }
    if chosen.kind == "unet":
        settings |= {"padding": chosen.padding, "upsampling": chosen.upsampling}
    slices = 1 + 2 * config.sampling.neighbours
    network = _NETWORKS[chosen.kind](channels * slices, outputs, **settings)
    if chosen.prior is not None:
        expect_little(network, chosen.prior)
    if config.train.memory_format == "channels_last":
        take_channels_last(network)
    return Planar(network, *_slice_axes(config)) if chosen.dims == 2 else network


def build_margin(config: Config) -> Shape:
    """Voxels along x, y, z by which the input of the network is larger than its answer, on each side."""
    thin = _slice_axes(config)
    x, y, z = (config.sampling.neighbours if axis in thin else config.model.margin for axis in range(3))
    return x, y, z


def _slice_axes(config: Config) -> tuple[int, ...]:
    """The axis that slices lie across; none where volumes are cut into patches, however thin."""
    return config.sampling.thin_axes if config.model.dims == 2 else ()


def build_window(config: Config, regions: Sequence[Region] = ()) -> SlidingWindow:
    """How whole volumes are predicted; regions have a sigmoid each, labels softmax together."""
    chosen = config.predict
    return SlidingWindow(
        patch_size=config.sampling.patch_size,
        tile_size=chosen.tile_size,
        tiling=chosen.tiling,
        step=chosen.step,
        batch_size=chosen.batch_size,
        mirror=tuple(sorted("xyz".index(axis) for axis in chosen.mirror)),
        precision=_window_precision(config),
        activation="sigmoid" if regions else "softmax",
        margin=build_margin(config),
        border=config.sampling.border,
        memory_bytes=None if chosen.memory_gib is None else int(chosen.memory_gib * 2**30),
    )


def _window_precision(config: Config) -> str:
    """As trained, but float32 where bf16 would be emulated: whoever predicts may have another machine."""
    trained = resolve_precision(config)
    return "fp32" if trained == "bf16" and not has_fast_bf16(device_type(config)) else trained


def build_augmentation(config: Config) -> Augmentation | None:
    """What is done to patches, or ``None`` when every transform is off."""
    from seg3d.sampling import augment

    parts: dict[str, Any] = {}
    for name in type(config.augment).model_fields:
        chosen = getattr(config.augment, name)
        if chosen is not None and chosen.p > 0:
            kind = getattr(augment, "".join(word.capitalize() for word in name.split("_")))
            parts[name] = kind(**chosen.model_dump())
    return Augmentation(**parts) if parts else None


def build_data(
    config: Config,
    train: Sequence[StoredInfo],
    val: Sequence[StoredInfo],
    labels: Mapping[str, int],
    begun: tuple[int, int] = (0, 0),
) -> PatchDataModule:
    """Patches of the training cases and the whole validation cases.

    Args:
        config: The config.
        train: Training cases.
        val: Validation cases.
        labels: Label values by name, without the ignored one.
        begun: An epoch that was interrupted, and how many of its batches are done.
    """
    chosen = config.sampling
    weights = class_weights(chosen.class_weights, labels, "sampling.class_weights", _even_weights(labels))
    plan = SamplingPlan(
        train,
        weights,
        patches_per_epoch=chosen.patches_per_epoch,
        patches_per_visit=chosen.patches_per_visit,
        balance=chosen.balance,
        seed=config.seed,
        slice_axis=next(iter(_slice_axes(config)), 2),
    )
    reader = PatchReader(
        plan.cases,
        chosen.patch_size,
        build_augmentation(config),
        config.seed,
        margin=build_margin(config),
        border=chosen.border,
        fixed=_slice_axes(config),
    )
    return PatchDataModule(
        plan,
        reader,
        val,
        queue_length=chosen.queue_length,
        batch_size=config.train.batch_size,
        num_workers=config.data.num_workers,
        prefetch=config.data.prefetch,
        begun=begun,
    )


def build_module(
    config: Config,
    channels: int,
    labels: Mapping[str, int],
    ignore_label: int | None,
    steps: int,
    seed: int | None,
    regions: Sequence[Region] = (),
) -> SegmentationModule:
    """The training module.

    Args:
        config: The config.
        channels: Channels of the images.
        labels: Label values by name, without the ignored one.
        ignore_label: Label value that counts nowhere.
        steps: Optimiser steps of the whole training.
        seed: Seed of dropout, or ``None`` where nothing is seeded.
        regions: Sets of labels that are predicted instead of single labels.

    Raises:
        ConfigError: The loss does not fit the labels or regions.
    """
    values = classes(labels, ignore_label)
    optimizer, schedule = config.train.optimizer, config.train.schedule
    return SegmentationModule(
        build_network(config, channels, outputs(labels, ignore_label, regions)),
        build_weighted_loss(config, labels, ignore_label, regions),
        partial(build_optimizer, **optimizer.model_dump()),
        partial(factor, total_steps=steps, **schedule.model_dump()),
        build_window(config, regions).probabilities,
        labels=[value for value in values if value != 0],
        regions=regions,
        ignore_label=ignore_label,
        seed=None if seed is None else derived_seed(seed, "dropout"),
        ema_decay=config.train.ema_decay,
    )


def build_weighted_loss(
    config: Config, labels: Mapping[str, int], ignore_label: int | None, regions: Sequence[Region]
) -> WeightedLoss:
    """The loss of labels, or of regions, whose weights have their names.

    Args:
        config: The config.
        labels: Label values by name, without the ignored one.
        ignore_label: Label value that counts nowhere.
        regions: Sets of labels that are predicted instead of single labels.

    Raises:
        ConfigError: It does not fit the labels or regions.
    """
    if config.model.prior is not None and not regions:
        fix = "Give data.regions, or leave it out."
        raise ConfigError("softmax over labels knows no prior", where="model.prior", got=config.model.prior, fix=fix)
    terms = [LossTerm(**term.model_dump()) for term in config.loss.terms]
    for number, term in enumerate(terms):
        if regions and term.include_background:
            where, fix = f"loss.terms.{number}.include_background", "Leave it out."
            raise ConfigError("has no effect with regions, which have no background", where=where, fix=fix)
    names = {region.name: number for number, region in enumerate(regions)} or labels
    numbers = tuple(range(len(regions))) or classes(labels, ignore_label)
    wanted = config.loss.class_weights
    weights = None if wanted is None else class_weights(wanted, names, "loss.class_weights", {})
    given = [1.0 if weights is None else weights.get(number, 1.0) for number in numbers]
    if not any(given if regions else given[1:]):
        raise ConfigError("nothing that is to be found has a weight", where="loss.class_weights", got=wanted)
    return build_loss(
        terms,
        class_weights=None if weights is None else given,
        ignore_label=ignore_label,
        values=() if regions else numbers,
        regions=[region.values for region in regions],
    )


def build_clean_up(config: Config, labels: Mapping[str, int]) -> tuple[tuple[int, ...], dict[int, float]]:
    """Labels of which only the largest component is kept, and the smallest volume of a component by label.

    Raises:
        ConfigError: A name is not a label of the dataset.
    """
    chosen = config.predict
    largest = class_weights(dict.fromkeys(chosen.keep_largest, 1.0), labels, "predict.keep_largest", {})
    return tuple(largest), class_weights(chosen.min_size_ml, labels, "predict.min_size_ml", {})


def build_certifier(data: PatchDataModule, labels: Mapping[str, int]) -> Certifier:
    """Makes the sampling certificates of a data module."""
    return Certifier(data.plan, {value: name for name, value in labels.items()})


def build_fit_settings(config: Config) -> FitSettings:
    """How long and on what to train."""
    chosen = config.train
    return FitSettings(
        max_epochs=chosen.max_epochs,
        precision=resolve_precision(config),
        accelerator=chosen.accelerator,
        devices=chosen.devices,
        gradient_clip=chosen.gradient_clip,
        accumulate=chosen.accumulate,
        validate_every=chosen.validate_every,
        deterministic=config.reproducibility.mode == "deterministic",
        progress=chosen.progress,
    )


def build_reproducibility(config: Config) -> Reproducibility:
    """How the process is set up."""
    return Reproducibility(**config.reproducibility.model_dump())


def class_weights(
    wanted: Mapping[str, float] | None, labels: Mapping[str, int], key: str, default: Mapping[int, float]
) -> dict[int, float]:
    """Weights by label value from weights by name.

    Raises:
        ConfigError: A name is not a label of the dataset.
    """
    if wanted is None:
        return dict(default)
    unknown = sorted(set(wanted) - set(labels))
    if unknown:
        raise ConfigError("unknown labels", where=key, got=", ".join(unknown), expected=", ".join(labels))
    return {labels[name]: weight for name, weight in wanted.items()}


def _even_weights(labels: Mapping[str, int]) -> dict[int, float]:
    """Half background, the other half shared by the foreground labels."""
    others = [value for value in labels.values() if value != 0]
    return {0: 0.5} | {value: 0.5 / len(others) for value in others}


def _stratum(config: Config, cases: Sequence[StoredInfo]) -> int:
    """The label whose presence is spread evenly over the parts: the configured one, or that of the fewest cases."""
    labels = foreground(cases[0].labels, cases[0].ignore_label)
    name = config.data.split.stratify
    if name is not None:
        return class_weights({name: 1.0}, labels, "data.split.stratify", {}).popitem()[0]
    held = {v: sum(c.class_counts.get(v, 0) > 0 for c in cases) for v in labels.values()}
    return min(sorted(held), key=lambda value: held[value])
