"""Network of a config, and how whole volumes are predicted with it; nothing that only training needs is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from seg3d.cases import Region
from seg3d.config import Config
from seg3d.inference.sliding import SlidingWindow
from seg3d.models import AttentionUNet, ReducedUNet, UNet, expect_little, take_channels_last
from seg3d.models.planar import Planar
from seg3d.training.environment import has_fast_bf16
from seg3d.training.reproducibility import Reproducibility
from seg3d.volume import Shape

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "reduced_unet": ReducedUNet,
    "unet": UNet,
    "attention_unet": AttentionUNet,
}


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
    return Planar(network, *slice_axes(config)) if chosen.dims == 2 else network


def build_margin(config: Config) -> Shape:
    """Voxels along x, y, z by which the input of the network is larger than its answer, on each side."""
    thin = slice_axes(config)
    x, y, z = (config.sampling.neighbours if axis in thin else config.model.margin for axis in range(3))
    return x, y, z


def slice_axes(config: Config) -> tuple[int, ...]:
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


def resolve_precision(config: Config) -> str:
    """``train.precision`` with ``auto`` settled for this machine."""
    chosen = config.train.precision
    if chosen != "auto":
        return chosen
    return "bf16" if has_fast_bf16(device_type(config)) else "fp32"


def device_type(config: Config) -> str:
    """``"cuda"`` or ``"cpu"``: where this machine computes for a config."""
    return "cuda" if config.train.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def build_reproducibility(config: Config) -> Reproducibility:
    """How the process is set up."""
    return Reproducibility(**config.reproducibility.model_dump())


def prediction_settings(config: Config, overrides: Sequence[str] = ()) -> Reproducibility:
    """How a process that predicts is set up: with the algorithms of the run, but with the threads of this machine.

    The run's config holds the threads of the machine that trained. Who wants those gives them anew.

    Args:
        config: With the overrides.
        overrides: ``path=value`` settings that were given.
    """
    given = {setting.split("=")[0].strip() for setting in overrides}
    chosen = given & {"reproducibility.threads", "reproducibility"}
    found = build_reproducibility(config)
    return replace(found, keep_memory=False, threads=found.threads if chosen else None)  # memory: as long as it lasts
