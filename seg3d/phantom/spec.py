"""What a phantom dataset holds, and what is known to be true of each case."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from seg3d.keyed import keyed
from seg3d.volume import Shape, Spacing

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Kind:
    """What a kind of phantom looks like unless the spec says otherwise.

    Attributes:
        shape: Voxels along right, anterior, superior.
        spacing_mm: Lowest and highest voxel spacing; the two in-plane axes share one draw.
        channels: Names of the channels.
        labels: Names of the labels 1, 2, ...
        orientations: Axis codes that the cases take in turn.
        size_jitter: Largest relative change of the number of voxels from case to case.
        heights: For a kind of pictures: heights as shares of the width, at even steps from the lowest to the highest;
            ``size_jitter`` is then that of the width.
    """

    shape: Shape
    spacing_mm: tuple[Spacing, Spacing]
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    orientations: tuple[str, ...]
    size_jitter: float = 0.08
    heights: tuple[float, ...] = ()

    @property
    def is_picture(self) -> bool:
        """Whether the cases are pictures: x is the column, y the row from the top, z one thin axis."""
        return bool(self.heights)


def _fixed(x: float, y: float, z: float) -> tuple[Spacing, Spacing]:
    return (x, y, z), (x, y, z)


def _pictures(width: int, channel: str, label: str, heights: tuple[float, ...], jitter: float = 0.0) -> Kind:
    return Kind((width, width, 1), _fixed(1, 1, 1), (channel,), (label,), ("RAS",), jitter, heights)


# the last two chest orientations exchange array axes, which readers that only flip get wrong
_MIXED = ("LPS", "RAS", "LAS", "RPI", "PSR", "SAL")

KINDS: dict[str, Kind] = {
    "chest_ct": Kind((112, 96, 64), ((1.6, 1.6, 2.5), (2.2, 2.2, 4.0)), ("CT",), ("tumour",), _MIXED),
    "hippocampus": Kind((35, 50, 36), _fixed(1, 1, 1), ("MRI",), ("Anterior", "Posterior"), ("RAS",)),
    "sarcoma": Kind((49, 46, 53), _fixed(4.7, 4.7, 3.3), ("PET", "CT", "MR"), ("tumour",), ("LPS",)),
    "heart": Kind((64, 64, 48), _fixed(2.5, 2.5, 2.74), ("MRI",), ("left atrium",), ("RAS",)),
    "liver": Kind((64, 64, 48), _fixed(4, 4, 5), ("CT",), ("liver", "tumour"), ("RAS", "LPS")),
    # sizes of the pictures as in the sets they are modelled on, at a quarter of their width
    "xray": _pictures(128, "grey", "lung", (0.72, 0.82, 0.86, 0.92, 0.98, 1.05, 1.2), 0.25),
    "mip": _pictures(100, "PET", "tumour", (1.06, 1.06, 1.07, 1.2, 1.22, 1.22, 1.22, 1.24, 1.4, 2.4)),
    "cells": _pictures(128, "grey", "cell", (1.0,)),
    "blobs": Kind((32, 32, 32), _fixed(1, 1, 1), ("MRI",), ("blob",), ("RAS",), 0.0),
}


@dataclass(frozen=True)
class PhantomSpec:
    """A phantom dataset. ``None`` stands for what :data:`KINDS` says of the kind.

    A case depends on the spec and its index alone, not on how many cases there are.

    Attributes:
        cases: Number of cases, at least 1.
        kind: A key of :data:`KINDS`.
        seed: Another seed gives other cases.
        shape: Voxels along right, anterior, superior, the same in every case; at least 16 each. Of pictures: columns
            and rows, at least 32 each, and 1.
        spacing_mm: Voxel spacing along right, anterior, superior, the same in every case.
        tumour_free_share: Share of cases without a tumour, exact to one case (``chest_ct`` and ``liver``).
        channels: Number of channels; more than the kind has only for ``blobs``.
        labels: Names of the labels 1, 2, ...; a number other than the kind's only for ``blobs``.
        orientations: Axis codes such as ``"LPS"`` that the cases take in turn.
        negatives: Number of controls, cases without a label map that follow the others (``mip``).
        scale: Pictures: factor on the kind's size; 4 is about the size of the sets they are modelled on.

    Raises:
        ValueError: A value is out of range.
    """

    cases: int = 20
    kind: str = "chest_ct"
    seed: int = 0
    shape: Shape | None = None
    spacing_mm: Spacing | None = None
    tumour_free_share: float = 0.1
    channels: int | None = None
    labels: tuple[str, ...] | None = None
    orientations: tuple[str, ...] | None = None
    negatives: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(sorted(KINDS))}, got {self.kind!r}")
        if self.cases < 1 or not 0 <= self.tumour_free_share <= 1:
            raise ValueError(f"cases is at least 1 and tumour_free_share within 0..1, got {self}")
        if self.is_picture:
            self._check_picture()
        elif self.shape is not None and min(self.shape) < 16:
            raise ValueError(f"shape is at least 16 along each axis, got {self.shape}")
        elif self.scale != 1:
            raise ValueError(f"scale is for pictures; give a shape, got {self.scale}")
        if self.negatives < 0 or (self.negatives and self.kind != "mip"):
            raise ValueError(f"negatives is at least 0, and 0 for {self.kind}, got {self.negatives}")
        self._check_world()
        self._check_names()

    def _check_picture(self) -> None:
        if self.spacing_mm is not None or self.orientations is not None:
            raise ValueError(f"pictures have neither spacing_mm nor orientations, got {self}")
        if self.shape is not None and (min(self.shape[:2]) < 32 or self.shape[2] != 1):
            raise ValueError(f"shape is (columns, rows, 1), columns and rows at least 32, got {self.shape}")
        if not 0.5 <= self.scale <= 16:
            raise ValueError(f"scale is within 0.5..16, got {self.scale}")

    def _check_world(self) -> None:
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm is positive, got {self.spacing_mm}")
        if not self.axis_codes or any(not _is_orientation(codes) for codes in self.axis_codes):
            raise ValueError(f"orientations are axis codes such as 'LPS', got {self.orientations}")

    def _check_names(self) -> None:
        kind = KINDS[self.kind]
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels is at least 1, got {self.channels}")
        if self.kind != "blobs" and self.channels not in (None, len(kind.channels)):
            raise ValueError(f"{self.kind} has {len(kind.channels)} channels, got {self.channels}")
        if self.kind != "blobs" and self.labels is not None and len(self.labels) != len(kind.labels):
            raise ValueError(f"{self.kind} has {len(kind.labels)} labels, got {self.labels}")
        if not self.label_names or len(set(self.label_names)) != len(self.label_names):
            raise ValueError(f"labels are different names, got {self.labels}")

    @property
    def is_picture(self) -> bool:
        """Whether the cases are pictures."""
        return KINDS[self.kind].is_picture

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels."""
        names = KINDS[self.kind].channels
        if self.channels in (None, len(names)):
            return names
        return tuple(f"channel{number}" for number in range(self.channels or 0))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels 1, 2, ..."""
        return KINDS[self.kind].labels if self.labels is None else self.labels

    @property
    def axis_codes(self) -> tuple[str, ...]:
        """The orientations that the cases take in turn."""
        return KINDS[self.kind].orientations if self.orientations is None else self.orientations

    def grid_of(self, index: int) -> tuple[Shape, Spacing]:
        """Shape and spacing of a case along right, anterior, superior, before it is turned; of a picture its pixels."""
        kind = KINDS[self.kind]
        if kind.is_picture:
            return self.shape or self._picture_shape(index), kind.spacing_mm[0]
        rng = keyed(self.seed, "phantom", self.kind, "grid", index)
        size = 1 + kind.size_jitter * rng.uniform(-1, 1, 3)
        low, high = kind.spacing_mm
        share = rng.random(2)[[0, 0, 1]]
        nx, ny, nz = (max(16, round(n * float(factor))) for n, factor in zip(kind.shape, size, strict=True))
        x, y, z = (round(a + (b - a) * float(t), 3) for a, b, t in zip(low, high, share, strict=True))
        return self.shape or (nx, ny, nz), self.spacing_mm or (x, y, z)

    def _picture_shape(self, index: int) -> Shape:
        kind = KINDS[self.kind]
        # controls have keys of their own: they do not change with the number of the other cases
        key = ("control", index - self.cases) if index >= self.cases else ("grid", index)
        rng = keyed(self.seed, "phantom", self.kind, *key)
        width = round(self.scale * kind.shape[0] * (1 + kind.size_jitter * rng.uniform(-1, 1)))
        share = np.interp(rng.random(), np.linspace(0, 1, len(kind.heights)), kind.heights)
        return width, round(width * float(share)), 1

    def is_tumour_free(self, index: int) -> bool:
        """Whether the case has no tumour; these cases are spread evenly over the indices."""
        phase = float(keyed(self.seed, "phantom", self.kind, "tumour-free").random())
        share = self.tumour_free_share
        return math.floor((index + 1) * share + phase) > math.floor(index * share + phase)


@dataclass(frozen=True)
class Tumour:
    """One tumour as it was made.

    Attributes:
        centre_mm: Centre in RAS+ world millimetres; in a picture column, row and 0.
        radius_mm: Radius of the sphere of the same volume, before the tumour is clipped to the lung; in a picture that
            of the disc of the same area in pixels.
        place: ``"parenchyma"`` (lies free in the lung), ``"pleura"``, ``"mediastinum"`` or ``"vessel"``; in a picture
            the region of the body.
    """

    centre_mm: Vector
    radius_mm: float
    place: str


@dataclass(frozen=True)
class Truth:
    """What is known of a phantom by construction.

    Attributes:
        case_id: Name of the case.
        orientation: Axis codes in which it is stored.
        tumours: The tumours of ``chest_ct`` and ``mip``; other kinds do not say.
        cells: Number of cells of ``cells``; 0 of other kinds.
    """

    case_id: str
    orientation: str
    tumours: tuple[Tumour, ...] = field(default=())
    cells: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        return asdict(self)


def _is_orientation(codes: str) -> bool:
    return len(codes) == 3 and all(len(set(codes) & set(pair)) == 1 for pair in ("LR", "PA", "IS"))
