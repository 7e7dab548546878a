"""Trained networks together with everything needed to answer on the grid of a scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seg3d.errors import DataError
from seg3d.inference.cleanup import clean_up
from seg3d.inference.ensemble import McDropout, Spread, member_probabilities
from seg3d.inference.sliding import SlidingWindow
from seg3d.preparation import (
    Prepared,
    Recipe,
    prepare_image,
    restore_class_probabilities,
    restore_label,
    restore_probability,
)
from seg3d.volume import Volume


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was predicted for one scan, on the scan's own grid.

    Attributes:
        label: ``(x, y, z)`` label map, smallest unsigned integer type.
        probabilities: By label value, ``(x, y, z)`` float32; empty unless asked for.
        uncertainty: ``"entropy"``, ``"mutual_information"`` (both of the class, in nats) and ``"sd"`` (of the
            probability of the label that the label map shows, population SD over the members), each ``(x, y, z)``
            float32; 0 outside the crop; empty where there is but one answer. See :mod:`seg3d.inference.ensemble`.
    """

    label: NDArray[Any]
    probabilities: Mapping[int, NDArray[np.float32]]
    uncertainty: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts scans with one network, or with the mean probabilities of several answers.

    Attributes:
        network: Gives logits.
        window: How a volume is tiled.
        recipe: The preparation that the network was trained with.
        channels: Names of the channels that it was trained with.
        labels: Label value of each output, background first.
        device: Where it is computed.
        keep_largest: Labels of which only the largest component is kept.
        min_size_ml: Smallest volume of a component by label.
        others: Further members of the ensemble; they have the first one's channels, labels and preparation.
        mc_dropout: Sample the dropout of each network instead of leaving it out.
    """

    network: nn.Module
    window: SlidingWindow
    recipe: Recipe
    channels: tuple[str, ...]
    labels: tuple[int, ...]
    device: torch.device
    keep_largest: tuple[int, ...] = ()
    min_size_ml: Mapping[int, float] = field(default_factory=dict)
    others: tuple[nn.Module, ...] = ()
    mc_dropout: McDropout | None = None

    def predict(self, volumes: Sequence[Volume], *, probabilities: bool = False, name: str = "") -> Prediction:
        """The label map of a scan; nothing is taken from a label.

        Args:
            volumes: One volume per channel, or one with all channels, on one grid.
            probabilities: Also give the foreground labels' probabilities; zero outside the crop.
            name: Name of the scan; Monte-Carlo dropout is keyed by it.

        Raises:
            DataError: The scan has another number of channels, or cannot be prepared.
        """
        given = sum(volume.data.shape[0] for volume in volumes)
        if given != len(self.channels):
            raise DataError(
                "the scan has the wrong number of channels for this model",
                got=given,
                expected=f"{len(self.channels)} ({', '.join(self.channels)})",
                fix="Give one file per channel, in this order.",
            )
        prepared = prepare_image(volumes, self.recipe)
        members = self._members(prepared, name)
        spread = Spread() if self.others or self.mc_dropout else None
        found = _mean(members, spread)
        label = clean_up(
            self._label(found, prepared),
            volumes[0].grid.voxel_volume_ml,
            keep_largest=self.keep_largest,
            min_size_ml=self.min_size_ml,
        )
        maps = {
            value: restore_probability(found[i], prepared.way_back, outside=0.0)
            for i, value in enumerate(self.labels)
            if probabilities and value != 0
        }
        return Prediction(label, maps, {} if spread is None else self._uncertainty(spread, label, prepared))

    def _members(self, prepared: Prepared, name: str) -> Iterator[torch.Tensor]:
        outside = prepared.image.min(axis=(1, 2, 3)).astype(np.float32).tolist()
        image = torch.from_numpy(np.ascontiguousarray(prepared.image)).to(self.device)
        networks = (self.network, *self.others)
        return member_probabilities(networks, self.window, image, outside, self.mc_dropout, name)

    def _label(self, found: NDArray[np.float32], prepared: Prepared) -> NDArray[Any]:
        """Label map on the source grid: the argmax is taken there when the recipe resamples."""
        values = np.array(self.labels, dtype=np.min_scalar_type(max(self.labels)))
        if self.recipe.spacing_mm is None:
            return restore_label(values[found.argmax(axis=0)], prepared.way_back)
        chosen: NDArray[Any] = values[restore_class_probabilities(found, prepared.way_back)]
        return chosen

    def _uncertainty(self, spread: Spread, label: NDArray[Any], prepared: Prepared) -> dict[str, NDArray[np.float32]]:
        """The maps on the source grid; with a recipe that resamples they are interpolated as probabilities are."""

        def restore(values: torch.Tensor) -> NDArray[np.float32]:
            return restore_probability(values.cpu().numpy(), prepared.way_back, outside=0.0)

        sd = np.zeros(label.shape, np.float32)
        for output, value in enumerate(self.labels):
            chosen = label == value
            if chosen.any():
                sd[chosen] = restore(spread.sd(output))[chosen]
        return {
            "entropy": restore(spread.entropy),
            "mutual_information": restore(spread.mutual_information),
            "sd": sd,
        }


def _mean(members: Iterator[torch.Tensor], spread: Spread | None) -> NDArray[np.float32]:
    """Mean probabilities ``(class, x, y, z)`` of the members, or the answer of the only one, untouched."""
    if spread is None:
        (found,) = members
    else:
        for member in members:
            spread.add(member)
            del member  # not held while the next one is computed
        found = spread.mean
    array: NDArray[np.float32] = found.cpu().numpy()
    return array
