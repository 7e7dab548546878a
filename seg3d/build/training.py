"""Split, loss, data and training of a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from seg3d.build.dataset import classes, foreground, outputs, split_members
from seg3d.build.prediction import build_margin, build_network, build_window, resolve_precision, slice_axes
from seg3d.build.settings import centre_weights, chosen_stratum, loss_weights
from seg3d.cases import Region, Split
from seg3d.config import Config
from seg3d.keyed import derived_seed
from seg3d.losses import LossTerm, WeightedLoss, build_loss
from seg3d.sampling.augment import Augmentation
from seg3d.sampling.certificate import Certifier
from seg3d.sampling.patches import PatchReader
from seg3d.sampling.plan import SamplingPlan
from seg3d.store import StoredInfo
from seg3d.training.data import PatchDataModule
from seg3d.training.fit import FitSettings
from seg3d.training.module import SegmentationModule
from seg3d.training.reproducibility import chance_seed
from seg3d.training.schedule import build_optimizer, factor


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


def build_split(config: Config, cases: Sequence[StoredInfo], groups: Mapping[str, str]) -> Split:
    """Train, validation and test cases, stratified by the rarest label or the one that the config names."""
    rare = _stratum(config, cases)
    return split_members(config, [(c.case_id, groups[c.case_id], c.class_counts.get(rare, 0) > 0) for c in cases])


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
    plan = SamplingPlan(
        train,
        centre_weights(config, labels),
        patches_per_epoch=chosen.patches_per_epoch,
        patches_per_visit=chosen.patches_per_visit,
        balance=chosen.balance,
        seed=config.seed,
        slice_axis=next(iter(slice_axes(config)), 2),
    )
    reader = PatchReader(
        plan.cases,
        chosen.patch_size,
        build_augmentation(config),
        config.seed,
        margin=build_margin(config),
        border=chosen.border,
        fixed=slice_axes(config),
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
    initial: Callable[[nn.Module], Mapping[str, torch.Tensor]] | None = None,
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
        initial: Gives what of a network's state it begins with instead of random weights.

    Raises:
        ConfigError: The loss does not fit the labels or regions.
    """
    values = classes(labels, ignore_label)
    network = build_network(config, channels, outputs(labels, ignore_label, regions))
    if initial is not None:
        network.load_state_dict(network.state_dict() | dict(initial(network)))
    optimizer, schedule = config.train.optimizer, config.train.schedule
    return SegmentationModule(
        network,
        build_weighted_loss(config, labels, ignore_label, regions),
        partial(build_optimizer, **optimizer.model_dump()),
        partial(factor, total_steps=steps, **schedule.model_dump()),
        # scores, and with them the weights that are kept, must not go by how much memory happens to be free
        replace(build_window(config, regions), as_asked=True).probabilities,
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
    weights = loss_weights(config, labels, ignore_label, regions)
    terms = [LossTerm(**term.model_dump()) for term in config.loss.terms]
    values = () if regions else classes(labels, ignore_label)
    return build_loss(
        terms,
        class_weights=weights,
        ignore_label=ignore_label,
        values=values,
        regions=[region.values for region in regions],
    )


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


def _stratum(config: Config, cases: Sequence[StoredInfo]) -> int:
    """The label whose presence is spread evenly over the parts: the configured one, or that of the fewest cases."""
    labels = foreground(cases[0].labels, cases[0].ignore_label)
    if (chosen := chosen_stratum(config, labels)) is not None:
        return chosen
    held = {v: sum(c.class_counts.get(v, 0) > 0 for c in cases) for v in labels.values()}
    return min(sorted(held), key=lambda value: held[value])
