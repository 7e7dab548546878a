"""Trained networks together with everything needed to answer on the grid of a scan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seg3d.cases import Region, assemble_regions
from seg3d.errors import DataError
from seg3d.inference.assemble import Assembler, Derive, Key
from seg3d.inference.attention import attention_maps
from seg3d.inference.budget import available_bytes
from seg3d.inference.cleanup import clean_up
from seg3d.inference.ensemble import (
    McDropout,
    SpreadOfScan,
    add_members,
    binary_entropy,
    entropy,
    sampling_dropout,
)
from seg3d.inference.held import held_maps
from seg3d.inference.precision import PrecisionChoice, check_precision, label_maps
from seg3d.inference.sliding import Choice, SlidingWindow, evaluating, ran_out_of_memory, slab_axis
from seg3d.inference.uncertainty import REMOVED, derived, stacked
from seg3d.preparation import Prepared, Recipe, prepare_image, restore_probability
from seg3d.volume import Volume

_FEW_PLANES = 16
_PROBABILITY, _UNCERTAINTY = "probability", "uncertainty"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was predicted for one scan, on the scan's own grid.

    Attributes:
        label: ``(x, y, z)`` label map, smallest unsigned integer type.
        probabilities: By label value, or by name of the region, ``(x, y, z)`` float32; empty unless asked for.
        uncertainty: ``"entropy"``, ``"mutual_information"`` (both of the class, or summed over regions, in nats) and
            ``"sd"`` (of the probability of the label or region that the label map shows, population SD over the
            members; where it shows none of the regions, the largest of theirs), each ``(x, y, z)`` float32; 0 outside
            the crop; empty where there is but one answer. See :mod:`seg3d.inference.ensemble`.
        attention: Coefficients of each gate of the first network, the finest first, ``(x, y, z)`` float32; empty unless
            asked for.
        precision: Where bfloat16 was checked against float32 on this scan: which of the two this is, and why.
    """

    label: NDArray[Any]
    probabilities: Mapping[int | str, NDArray[np.float32]]
    uncertainty: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    attention: tuple[NDArray[np.float32], ...] = ()
    precision: PrecisionChoice | None = None


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts scans with one network, or with the mean probabilities of several answers.

    Attributes:
        network: Gives logits.
        window: How a volume is tiled.
        recipe: The preparation that the network was trained with.
        channels: Names of the channels that it was trained with.
        labels: Label value of each output, background first; with regions the labels that there are.
        device: Where it is computed.
        keep_largest: Labels of which only the largest component is kept.
        min_size_ml: Smallest volume of a component by label.
        others: Further members of the ensemble, each with how it tiles a volume; they have the first one's channels,
            labels and preparation.
        mc_dropout: Sample the dropout of each network instead of leaving it out.
        regions: What each output is where it is no label; the window then has sigmoid probabilities.
        attention: Also give the attention coefficients of the first network.
        scratch: Folder for what several answers are added up in where it does not fit the memory; ``None``: the
            system's folder for temporary files.
    """

    network: nn.Module
    window: SlidingWindow
    recipe: Recipe
    channels: tuple[str, ...]
    labels: tuple[int, ...]
    device: torch.device
    keep_largest: tuple[int, ...] = ()
    min_size_ml: Mapping[int, float] = field(default_factory=dict)
    others: tuple[tuple[nn.Module, SlidingWindow], ...] = ()
    mc_dropout: McDropout | None = None
    regions: tuple[Region, ...] = ()
    attention: bool = False
    scratch: Path | None = None

    @property
    def choice(self) -> Choice:
        """How the first network's scans are tiled, and why.

        Raises:
            ConfigError: Exact tiles are asked for, and the network does not allow them.
        """
        return self.window.choose(self.network, evaluating if self.mc_dropout is None else sampling_dropout)

    @property
    def precision(self) -> str:
        """What networks are computed in; several answers on a processor in float32: the check of bf16 is of one."""
        on_processor = self.window.precision == "bf16" and self.device.type == "cpu"
        return "fp32" if self._several and on_processor else self.window.precision

    @property
    def _several(self) -> bool:
        """Whether several answers are averaged."""
        return bool(self.others) or self.mc_dropout is not None

    def predict(self, volumes: Sequence[Volume], *, probabilities: bool = False, name: str = "") -> Prediction:
        """The label map of a scan; nothing is taken from a label.

        Args:
            volumes: One volume per channel, or one with all channels, on one grid.
            probabilities: Also give the probabilities of foreground labels or regions; zero outside the crop.
            name: Name of the scan; Monte-Carlo dropout is keyed by it.

        Raises:
            DataError: The scan has another number of channels, or cannot be prepared.
        """
        return self.answer(self.prepare(volumes), probabilities=probabilities, name=name)

    def prepare(self, volumes: Sequence[Volume]) -> Prepared:
        """A scan as the network takes it.

        Args:
            volumes: As :meth:`predict`.

        Raises:
            DataError: As :meth:`predict`.
        """
        given = sum(volume.data.shape[0] for volume in volumes)
        if given != len(self.channels):
            raise DataError(
                "the scan has the wrong number of channels for this model",
                got=given,
                expected=f"{len(self.channels)} ({', '.join(self.channels)})",
                fix="Give one file per channel, in this order.",
            )
        return prepare_image(volumes, self.recipe)

    def answer(self, prepared: Prepared, *, probabilities: bool = False, name: str = "") -> Prediction:
        """The label map of a prepared scan, on the grid of its source.

        Args:
            prepared: The scan.
            probabilities: As :meth:`predict`.
            name: As :meth:`predict`.

        Raises:
            DataError: The networks' answer is no number, or memory runs out whatever the tiles.
        """
        try:
            return self._answer(prepared, probabilities, name)
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            fix = "Leave predict.probabilities out, or give the machine more memory."
            raise DataError("memory ran out, whatever the size of tiles", got=error, fix=fix) from error

    def _answer(self, prepared: Prepared, probabilities: bool, name: str) -> Prediction:
        whole, precision = self._assembled(prepared, name, self._kept(probabilities))
        label = clean_up(
            whole.label,
            prepared.way_back.source.voxel_volume_ml,
            keep_largest=self.keep_largest,
            min_size_ml=self.min_size_ml,
        )
        maps: dict[str, dict[Any, NDArray[np.float32]]] = {_PROBABILITY: {}, _UNCERTAINTY: {}}
        for (kind, called), values in whole.maps.items():
            maps[kind][called] = values
        uncertainty = maps[_UNCERTAINTY]
        if REMOVED in uncertainty:
            np.copyto(uncertainty["sd"], uncertainty.pop(REMOVED), where=label != whole.label)
        attention = self._attention(prepared) if self.attention else ()
        return Prediction(label, maps[_PROBABILITY], uncertainty, attention, precision)

    def _kept(self, probabilities: bool) -> dict[Key, Derive]:
        """The maps to be made beside the label map."""
        kept: dict[Key, Derive] = {}
        for output, called in enumerate(self._names):
            if probabilities and called != 0:
                kept[_PROBABILITY, called] = partial(_output, output)
        if self._several:
            values = [region.label for region in self.regions] or self.labels
            for kind, derive in derived(values, regions=bool(self.regions)).items():
                if kind != REMOVED or self.keep_largest or self.min_size_ml:
                    kept[_UNCERTAINTY, kind] = derive
        return kept

    def _assembled(
        self, prepared: Prepared, name: str, kept: Mapping[Key, Derive]
    ) -> tuple[Assembler, PrecisionChoice | None]:
        """The label map and the probabilities on the grid of the source; where bfloat16 was checked, how that went."""
        if self.precision != self.window.precision:
            return self._in_float32._assembled(prepared, name, kept)
        checked = self.precision == "bf16" and self.device.type == "cpu"
        axis = slab_axis(self.network)
        whole = Assembler(prepared.way_back, axis, self._decide, self._dtype, kept)
        seen: list[torch.Tensor] = []
        for planes in self._answers(prepared, name, len(kept)):
            self._refuse_no_numbers(planes)
            for few in planes.split(_FEW_PLANES, dim=1):  # where they are resampled, they grow
                whole.add(few.cpu().numpy())
            if checked:
                seen.append(label_maps(planes, self.window.activation))
        if not checked:
            return whole, None
        label = torch.cat(seen, dim=1).movedim(1, axis + 1)
        choice = check_precision(self.window, self.network, *self._input(prepared), label)
        if choice.precision == "fp32":
            whole, _ = self._in_float32._assembled(prepared, name, kept)
        return whole, choice

    @property
    def _in_float32(self) -> Predictor:
        (_, window), *others = [(network, replace(window, precision="fp32")) for network, window in self._members]
        return replace(self, window=window, others=tuple(others))

    @property
    def _members(self) -> list[tuple[nn.Module, SlidingWindow]]:
        """All networks with their windows."""
        return [(self.network, self.window), *self.others]

    def _refuse_no_numbers(self, planes: torch.Tensor) -> None:
        """Refuse probabilities that are no numbers, whose most probable class would be the background."""
        if not bool(torch.isfinite(planes.sum())):
            raise DataError(
                "the network answers with values that are no numbers",
                got=f"computed in {self.precision}",
                fix="Predict in float32 (train.precision=fp32); if it answers so there, too, the training has failed.",
            )

    @property
    def _names(self) -> tuple[int | str, ...]:
        """What each output is called: a label by its value, a region by its name."""
        return tuple(region.name for region in self.regions) or self.labels

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.min_scalar_type(max(self.labels))

    def _answers(self, prepared: Prepared, name: str, kept: int) -> Iterator[torch.Tensor]:
        """Probabilities in slabs, the slab axis first; of several answers as :func:`stacked` tells."""
        image, outside = self._input(prepared)
        limit = self._beside_answer(prepared, kept)
        if not self._several:
            window = _limited(self.window, limit)
            for _, planes in window.slabs(self.network, image, outside, device=self.device):
                yield planes
            return
        axis, outputs = slab_axis(self.network), len(self._names)
        x, y, z = np.moveaxis(prepared.image[0], axis, 0).shape
        members = [(network, _limited(window, limit)) for network, window in self._members]
        room = available_bytes(self.device, limit)
        with held_maps(2 * outputs + 1, (x, y, z), self.device, room, self.scratch) as maps:
            memory = available_bytes(self.device, limit)
            spread = SpreadOfScan(maps, x, binary_entropy if self.regions else entropy)
            add_members(spread, members, image, outside, self.device, self.mc_dropout, name, memory)
            yield from map(stacked, spread.slabs(_FEW_PLANES))

    def _beside_answer(self, prepared: Prepared, kept: int) -> int | None:
        """The limit of memory for tiles, beside a label map and ``kept`` further maps on the scan's own grid."""
        limit, voxels = self.window.memory_bytes, math.prod(prepared.way_back.source.shape)
        if limit is None or self.device.type != "cpu":
            return limit
        return limit - voxels * (self._dtype.itemsize + 4 * kept)

    def _input(self, prepared: Prepared) -> tuple[torch.Tensor, list[float]]:
        """The image, and what each channel is beyond it."""
        outside: list[float] = prepared.image.min(axis=(1, 2, 3)).astype(np.float32).tolist()
        return torch.from_numpy(np.ascontiguousarray(prepared.image)), outside

    def _attention(self, prepared: Prepared) -> tuple[NDArray[np.float32], ...]:
        image, outside = self._input(prepared)
        maps = attention_maps(self.network, self.window, image.to(self.device), outside).cpu().numpy()
        return tuple(restore_probability(found, prepared.way_back, outside=0.0) for found in maps)

    def _decide(self, found: NDArray[np.float32]) -> NDArray[Any]:
        """The most probable label, or the regions that are there; the first maps are each output's probability."""
        found = found[: len(self._names)]
        if self.regions:
            return assemble_regions(found, self.regions)
        chosen: NDArray[Any] = np.array(self.labels, dtype=self._dtype)[found.argmax(axis=0)]
        return chosen


def _output(number: int, found: NDArray[np.float32], _: NDArray[Any]) -> NDArray[np.float32]:
    """One of the maps that come in."""
    chosen: NDArray[np.float32] = found[number]
    return chosen


def _limited(window: SlidingWindow, limit: int | None) -> SlidingWindow:
    return window if limit is None else replace(window, memory_bytes=limit)
