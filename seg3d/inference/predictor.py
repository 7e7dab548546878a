"""A trained network together with everything needed to answer on the grid of a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seg3d.errors import DataError
from seg3d.inference.cleanup import clean_up
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
    """

    label: NDArray[Any]
    probabilities: Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts scans with one network.

    Attributes:
        network: Gives logits.
        window: How a volume is tiled.
        recipe: The preparation that the network was trained with.
        channels: Names of the channels that it was trained with.
        labels: Label value of each output, background first.
        device: Where it is computed.
        keep_largest: Labels of which only the largest component is kept.
        min_size_ml: Smallest volume of a component by label.
    """

    network: nn.Module
    window: SlidingWindow
    recipe: Recipe
    channels: tuple[str, ...]
    labels: tuple[int, ...]
    device: torch.device
    keep_largest: tuple[int, ...] = ()
    min_size_ml: Mapping[int, float] = field(default_factory=dict)

    def predict(self, volumes: Sequence[Volume], *, probabilities: bool = False) -> Prediction:
        """The label map of a scan; nothing is taken from a label.

        Args:
            volumes: One volume per channel, or one with all channels, on one grid.
            probabilities: Also give the foreground labels' probabilities; zero outside the crop.

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
        found = self._probabilities(prepared)
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
        return Prediction(label, maps)

    def _probabilities(self, prepared: Prepared) -> NDArray[np.float32]:
        outside = prepared.image.min(axis=(1, 2, 3)).astype(np.float32).tolist()
        image = torch.from_numpy(np.ascontiguousarray(prepared.image)).to(self.device)
        found = self.window.probabilities(self.network, image, outside)
        array: NDArray[np.float32] = found.cpu().numpy()
        return array

    def _label(self, found: NDArray[np.float32], prepared: Prepared) -> NDArray[Any]:
        """Label map on the source grid: the argmax is taken there when the recipe resamples."""
        values = np.array(self.labels, dtype=np.min_scalar_type(max(self.labels)))
        if self.recipe.spacing_mm is None:
            return restore_label(values[found.argmax(axis=0)], prepared.way_back)
        chosen: NDArray[Any] = values[restore_class_probabilities(found, prepared.way_back)]
        return chosen
