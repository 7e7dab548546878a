"""Settings that the labels of a dataset decide upon; torch is not needed, so that ``check`` can tell what is wrong.

What ``train`` builds is built of these, so that both refuse the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from seg3d.build.dataset import class_weights, classes, foreground
from seg3d.cases import Region
from seg3d.config import Config
from seg3d.errors import ConfigError, Fault

_SIDES = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])")
_OPPOSITE = {"left": "right", "right": "left", "l": "r", "r": "l"}


def attempts(
    config: Config, labels: Mapping[str, int], ignore_label: int | None, regions: Sequence[Region]
) -> dict[str, Callable[[], object]]:
    """By key of the config: what raises :class:`~seg3d.errors.ConfigError` where it does not fit the labels.

    Args:
        config: The config.
        labels: Label values by name.
        ignore_label: Label value that counts nowhere.
        regions: Sets of labels that are predicted instead of single labels.
    """
    counted = counted_labels(labels, ignore_label)
    return {
        "sampling.patches_per_epoch": partial(steps_per_epoch, config),
        "sampling.class_weights": partial(centre_weights, config, counted),
        "loss": partial(loss_weights, config, counted, ignore_label, regions),
        "predict": partial(build_clean_up, config, labels),
        "data.split.stratify": partial(chosen_stratum, config, foreground(labels, ignore_label)),
    }


def counted_labels(labels: Mapping[str, int], ignore_label: int | None) -> dict[str, int]:
    """Label values by name, without the ignored one."""
    return {name: value for name, value in labels.items() if value != ignore_label}


def steps_per_epoch(config: Config) -> int:
    """Optimiser steps of an epoch.

    Raises:
        ConfigError: The patches of an epoch do not fill whole batches on every device.
    """
    chosen = config.train
    batch = chosen.batch_size * chosen.devices
    patches = config.sampling.patches_per_epoch
    if patches % batch:
        raise ConfigError(
            "the patches of an epoch do not fill whole batches",
            where="sampling.patches_per_epoch",
            got=patches,
            expected=f"a multiple of batch_size x devices = {batch}",
            fix=f"The nearest is {max(batch, round(patches / batch) * batch)}.",
        )
    return -(-patches // (batch * chosen.accumulate))


def centre_weights(config: Config, labels: Mapping[str, int]) -> dict[int, float]:
    """Weight of each label value at the centre of a patch.

    Args:
        config: The config.
        labels: Label values by name, without the ignored one.

    Raises:
        ConfigError: A name is not a label of the dataset.
    """
    wanted = config.sampling.class_weights
    return class_weights(wanted, labels, "sampling.class_weights", {} if wanted else _even_weights(labels))


def loss_weights(
    config: Config, labels: Mapping[str, int], ignore_label: int | None, regions: Sequence[Region]
) -> list[float] | None:
    """Weight of each output of the network in the loss; ``None`` where all are alike.

    Args:
        config: The config.
        labels: Label values by name, without the ignored one.
        ignore_label: Label value that counts nowhere.
        regions: Sets of labels that are predicted instead of single labels.

    Raises:
        ConfigError: The loss does not fit the labels or regions.
    """
    if config.model.prior is not None and not regions:
        fix = "Give data.regions, or leave it out."
        raise ConfigError("softmax over labels knows no prior", where="model.prior", got=config.model.prior, fix=fix)
    for number, term in enumerate(config.loss.terms):
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
    return None if weights is None else given


def build_clean_up(config: Config, labels: Mapping[str, int]) -> tuple[tuple[int, ...], dict[int, float]]:
    """Labels of which only the largest component is kept, and the smallest volume of a component by label.

    Raises:
        ConfigError: A name is not a label of the dataset.
    """
    chosen = config.predict
    largest = class_weights(dict.fromkeys(chosen.keep_largest, 1.0), labels, "predict.keep_largest", {})
    return tuple(largest), class_weights(chosen.min_size_ml, labels, "predict.min_size_ml", {})


def chosen_stratum(config: Config, labels: Mapping[str, int]) -> int | None:
    """The label whose presence the config spreads evenly over the parts; ``None``: it leaves the choice.

    Args:
        config: The config.
        labels: Foreground label values by name.

    Raises:
        ConfigError: It is not a foreground label of the dataset.
    """
    name = config.data.split.stratify
    if name is None:
        return None
    return class_weights({name: 1.0}, labels, "data.split.stratify", {}).popitem()[0]


def swapped_sides(config: Config, labels: Mapping[str, int], regions: Sequence[Region]) -> Fault | None:
    """A note where scans are mirrored along x though names of what is predicted say left and right; else ``None``.

    Args:
        config: The config.
        labels: Label values by name.
        regions: Sets of labels that are predicted instead of single labels.
    """
    names = {name.lower(): name for name in ([region.name for region in regions] or labels)}
    opposite = {name: _SIDES.sub(lambda side: _OPPOSITE[side[0]], name) for name in names}
    sided = [names[name] for name, other in opposite.items() if other != name and other in names]
    flip = config.augment.flip
    mirroring = {"augment.flip.axes": flip.axes if flip and flip.p else (), "predict.mirror": config.predict.mirror}
    keys = [key for key, axes in mirroring.items() if "x" in axes]
    if not sided or not keys:
        return None
    what = "left and right are exchanged where scans are mirrored along x, but the labels keep their names"
    fix = "Leave x out, unless more than the side tells them apart."
    return Fault(", ".join(keys), "sides_swapped", what, ", ".join(sided), fix=fix, note=True)


def _even_weights(labels: Mapping[str, int]) -> dict[int, float]:
    """Half background, the other half shared by the foreground labels."""
    others = [value for value in labels.values() if value != 0]
    return {0: 0.5} | {value: 0.5 / len(others) for value in others}
