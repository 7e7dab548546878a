"""How scans are prepared: values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from seg3d.digest import sha256_json
from seg3d.volume import Spacing

_VERSION = 1  # part of the digest: a change of the computation prepares everything anew


@dataclass(frozen=True)
class ForegroundCrop:
    """Crop to the box of voxels above a threshold; a scan without such voxels is left whole.

    Attributes:
        threshold: Value in the scan's own units, or ``None``.
        percentile: Instead: percentile (0..100) of the channel's values.
        channel: The channel that is looked at.
        margin_mm: Added on every side.
    """

    threshold: float | None = None
    percentile: float | None = None
    channel: int = 0
    margin_mm: float = 0.0


@dataclass(frozen=True)
class Crop:
    """What is cut off; inferior and superior are the patient's, by the affine, whatever the array's order.

    Attributes:
        foreground: Crop to the foreground, after the slices are dropped.
        inferior_slices: Slices dropped at the inferior end.
        inferior_mm: Millimetres dropped at the inferior end, rounded to slices, on top of ``inferior_slices``.
        superior_slices: Slices dropped at the superior end.
        superior_mm: Millimetres dropped at the superior end.
    """

    foreground: ForegroundCrop | None = None
    inferior_slices: int = 0
    inferior_mm: float = 0.0
    superior_slices: int = 0
    superior_mm: float = 0.0


@dataclass(frozen=True)
class Normalisation:
    """How grey values are normalised.

    ``none``; ``divide`` by ``by``; ``window``: clip to ``lower``..``upper`` and scale to 0..1; ``zscore``: subtract the
    mean and divide by the standard deviation; ``minmax``: scale to 0..1; ``percentile``: clip to the percentiles
    ``lower``..``upper`` and scale to 0..1. Statistics are those of the whole cropped volume, or with ``foreground`` of
    its voxels other than 0. A channel of one value becomes 0 where its spread would divide.
    """

    kind: str = "zscore"
    by: float | None = None
    lower: float | None = None
    upper: float | None = None
    foreground: bool = False


@dataclass(frozen=True)
class Separation:
    """Loss weights that part touching objects; see :func:`seg3d.preparation.separation.separation_weights`.

    Attributes:
        w0: Height of the separation term.
        sigma: Its width in voxels.
        class_balance: Weigh the classes of a scan evenly.
    """

    w0: float = 10.0
    sigma: float = 5.0
    class_balance: bool = True


@dataclass(frozen=True)
class Recipe:
    """How a scan is prepared.

    Attributes:
        crop: What is cut off.
        spacing_mm: Voxel spacing to resample to, or ``None`` to keep the scan's own.
        normalise: One for all channels or one for each.
        size: Instead of a spacing: voxels to resample to, ``None`` along an axis that keeps its own.
        separation: Weights of voxels in the loss, or ``None`` where all are alike.
        slice_axis: Axis (0 sagittal, 1 coronal, 2 axial) across which slices are taken, or ``None``: scans whose affine
            does not tell it are refused.
    """

    crop: Crop = field(default_factory=Crop)
    spacing_mm: Spacing | None = None
    normalise: tuple[Normalisation, ...] = (Normalisation(),)
    size: tuple[int | None, int | None, int | None] | None = None
    separation: Separation | None = None
    slice_axis: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON of the recipe; what is not used is left out, so that a new setting leaves old digests as they are."""
        spacing = None if self.spacing_mm is None else [float(s) for s in self.spacing_mm]
        found = {**asdict(self), "spacing_mm": spacing, "normalise": [asdict(step) for step in self.normalise]}
        return {key: value for key, value in found.items() if value is not None or key == "spacing_mm"}

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe."""
        return sha256_json({"version": _VERSION, **self.as_dict()})
