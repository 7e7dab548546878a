"""Grey values of a page: what is CT, which windows are offered, and how values become 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.reporting.panels import window_of

# steps of 10 HU from air to dense bone; noise of a CT is larger than a step
CT_LOW, CT_HIGH = -1024.0, 1526.0
# level and width in HU, as consoles offer them
# Source: Radiopaedia, Windowing (CT); the same numbers stand in textbooks of CT
CT_PRESETS = {
    "soft tissue": (40, 400),
    "lung": (-600, 1500),
    "bone": (400, 1800),
    "mediastinum": (50, 350),
    "liver": (30, 150),
    "brain": (40, 80),
}
_SAMPLE = 1_000_000


@dataclass(frozen=True, eq=False)
class Grey:
    """Grey values in 8 bits.

    Attributes:
        codes: ``(x, y, z)`` uint8; value = ``low + code * step``.
        low: Value of code 0.
        step: Between neighbouring codes.
        exact: Whether no value was changed.
        window: Values drawn black and white at first.
        presets: Windows to choose from, by name; those of CT where it looks like CT.
        unit: ``"HU"`` or nothing.
        broken: Voxels that are NaN or infinite, drawn as ``low``.
    """

    codes: NDArray[np.uint8]
    low: float
    step: float
    exact: bool
    window: tuple[float, float]
    presets: dict[str, tuple[float, float]]
    unit: str
    broken: int


def is_ct(image: NDArray[Any]) -> bool:
    """Whether values look like Hounsfield units: whole numbers from far below 0 up, a part of them soft tissue."""
    sample = _sample(image)
    if not sample.size or np.any(sample != np.round(sample)):
        return False
    low, high = float(sample.min()), float(sample.max())
    soft = float(np.mean((sample > -160) & (sample < 300)))
    return -4096 <= low <= -150 and 100 <= high <= 32767 and soft >= 0.02


def quantise(image: NDArray[Any], ct: bool) -> Grey:
    """An image ``(x, y, z)`` in 8 bits.

    Whole numbers that span at most 256 are kept; CT takes steps of 10 HU; else the range is that of the values, without
    outliers far beyond the range of nearly all.
    """
    broken = 0
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        broken = int(image.size - np.count_nonzero(finite))
        image = np.where(finite, image, np.nan) if broken else image
    low, step, exact = _range(image, ct)
    # NaN must not reach the cast to integers
    scaled = np.nan_to_num((image.astype(np.float32) - low) / step, nan=0.0)
    codes = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    presets = {name: (level - width / 2, level + width / 2) for name, (level, width) in CT_PRESETS.items()}
    window = presets["soft tissue"] if ct else window_of(image)
    shown = presets if ct else {"contrast": window, "full range": (low, low + 255 * step)}
    return Grey(codes, low, step, exact and not broken, window, shown, "HU" if ct else "", broken)


def _range(image: NDArray[Any], ct: bool) -> tuple[float, float, bool]:
    """Value of code 0, step, and whether nothing is lost."""
    if image.dtype == np.uint8:
        return 0.0, 1.0, True
    if ct:
        return CT_LOW, (CT_HIGH - CT_LOW) / 255, False
    low, high = (float(np.fmin.reduce(image, axis=None)), float(np.fmax.reduce(image, axis=None)))
    if not np.isfinite(low):
        return 0.0, 1.0, False
    if image.dtype.kind in "iub" and high - low <= 255:
        return low, 1.0, True
    inner, outer = np.percentile(_sample(image), (0.1, 99.9)).tolist()
    spread = outer - inner
    if spread > 0:
        low, high = max(low, inner - spread), min(high, outer + spread)
    return low, (high - low) / 255 or 1.0, high == low


def _sample(image: NDArray[Any]) -> NDArray[np.float64]:
    # every n-th voxel along each axis: a flat view of a turned volume would be a copy
    step = max(1, round((image.size / _SAMPLE) ** (1 / 3)))
    some = image[::step, ::step, ::step].astype(np.float64)
    finite: NDArray[np.float64] = some[np.isfinite(some)]
    return finite
