"""Dataset and recipe of a config; torch is not needed for these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from seg3d.cases import Dataset, DeclaredRegion, Region, Split, read_dataset, split_cases
from seg3d.config import Config
from seg3d.errors import ConfigError
from seg3d.preparation import Crop, ForegroundCrop, Normalisation, Recipe, Separation


def build_dataset(config: Config) -> Dataset:
    """The dataset that the config names, read in place."""
    chosen = config.data
    return read_dataset(
        Path(chosen.source),
        layout=chosen.layout,
        folders_images=() if chosen.folders is None else tuple(chosen.folders.images),
        folders_label=None if chosen.folders is None else chosen.folders.label,
        folders_negatives=() if chosen.folders is None else chosen.folders.negatives,
        channels=chosen.channels,
        labels=chosen.labels,
        ignore_label=chosen.ignore_label,
        group_pattern=chosen.group_pattern,
        groups=chosen.groups,
        regions=None if chosen.regions is None else [DeclaredRegion(**r.model_dump()) for r in chosen.regions],
    )


def build_recipe(config: Config, channels: int) -> Recipe:
    """How a scan is prepared.

    Raises:
        ConfigError: The number of normalisations fits neither one for all channels nor one for each.
    """
    chosen = config.prepare
    if len(chosen.normalise) not in (1, channels):
        raise ConfigError(
            "one normalisation for all channels or one for each",
            where="prepare.normalise",
            got=len(chosen.normalise),
            expected="1" if channels == 1 else f"1 or {channels}",
        )
    crop = chosen.crop
    return Recipe(
        crop=Crop(
            foreground=None if crop.foreground is None else ForegroundCrop(**crop.foreground.model_dump()),
            **crop.model_dump(exclude={"foreground"}),
        ),
        spacing_mm=chosen.spacing_mm,
        size=chosen.size,
        separation=None if chosen.separation is None else Separation(**chosen.separation.model_dump()),
        slice_axis=config.sampling.thin_axes[0] if config.model.dims == 2 else None,
        normalise=tuple(Normalisation(**step.model_dump()) for step in chosen.normalise),
    )


def split_members(config: Config, members: Sequence[tuple[str, str, bool]]) -> Split:
    """The split that the config asks for.

    Args:
        config: The config.
        members: Case, group, and whether the case holds the rare label.
    """
    chosen = config.data.split
    return split_cases(
        members,
        kind=chosen.kind,
        folds=chosen.folds,
        fold=chosen.fold,
        val_share=chosen.val_share,
        test_share=chosen.test_share,
        file=None if chosen.file is None else Path(chosen.file),
        seed=config.seed if chosen.seed is None else chosen.seed,
    )


def foreground(labels: Mapping[str, int], ignore_label: int | None) -> dict[str, int]:
    """The labels that are predicted and scored, without background and the ignored one."""
    return {name: value for name, value in labels.items() if value not in (0, ignore_label)}


def classes(labels: Mapping[str, int], ignore_label: int | None) -> tuple[int, ...]:
    """Label value of each output of the network, background first."""
    return tuple(sorted({0, *foreground(labels, ignore_label).values()}))


def outputs(labels: Mapping[str, int], ignore_label: int | None, regions: Sequence[Region]) -> int:
    """Outputs of the network: one for each region, without any one for each label with the background."""
    return len(regions) or len(classes(labels, ignore_label))


def scored(labels: Mapping[str, int], ignore_label: int | None, regions: Sequence[Region]) -> dict[int, str]:
    """Names of what is scored in training, by label value: regions by the one they are shown as, else labels."""
    if regions:
        return {region.label: region.name for region in regions}
    return {value: name for name, value in foreground(labels, ignore_label).items()}


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
