"""Changes of grey values of a patch, in place, in float32 and in a fixed memory order.

numpy is used wherever a function is more than one rounding, because its bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from seg3d.preparation.resample import resample_probability
from seg3d.volume import Spacing

Channels = NDArray[np.float32]  # (channel, z, y, x)


def add_noise(image: Channels, sd: float, seed: int) -> None:
    """Add Gaussian noise of standard deviation ``sd``."""
    # torch's generator is twice as fast as numpy's; it has a state of its own here
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).numpy()
    noise *= np.float32(sd)
    image += noise


def blur(image: Channels, sd_mm: float, spacing_mm: Spacing) -> None:
    """Smooth with a Gaussian of standard deviation ``sd_mm``, cut off at three of them."""
    sd = [sd_mm / s for s in spacing_mm[::-1]]
    for channel in image:
        ndimage.gaussian_filter(channel, sd, output=channel, truncate=3.0, mode="nearest")


def change_brightness(image: Channels, factors: NDArray[np.float64]) -> None:
    """Multiply each channel by its factor."""
    image *= factors.astype(np.float32).reshape(-1, 1, 1, 1)


def change_contrast(image: Channels, factors: NDArray[np.float64]) -> None:
    """Stretch each channel about its mean, within its old range."""
    for number, factor in enumerate(factors):
        channel = image[number]
        low, high, mean = channel.min(), channel.max(), channel.mean(dtype=np.float64)
        channel -= np.float32(mean)
        channel *= np.float32(factor)
        channel += np.float32(mean)
        np.clip(channel, low, high, out=channel)


def lower_resolution(image: Channels, factor: float, spacing_mm: Spacing, fixed: Sequence[int] = ()) -> None:
    """Resample to voxels of ``factor`` times the finest spacing and back, along the axes that are finer than that.

    Axes ``fixed`` (0, 1, 2 for x, y, z) are left alone and their spacing, that between slices, does not count.
    """
    coarse = factor * min(mm for axis, mm in enumerate(spacing_mm) if axis not in fixed)
    old = image.shape[:0:-1]
    x, y, z = (
        n if axis in fixed else max(1, round(n * min(1.0, mm / coarse)))
        for axis, (n, mm) in enumerate(zip(old, spacing_mm, strict=True))
    )
    for channel in image:
        channel[:] = resample_probability(resample_probability(channel, (z, y, x)), (old[2], old[1], old[0]))


def change_gamma(image: Channels, gammas: NDArray[np.float64]) -> None:
    """Each channel scaled to 0..1, raised to its power and scaled back.

    ``low + (high - low) * ((v - low) / (high - low)) ** gamma`` with the channel's range in the patch: negative values
    are no trouble, the range stays, mean and standard deviation do not. A constant channel stays as it is.
    """
    for number, gamma in enumerate(gammas):
        channel = image[number]
        low = channel.min()
        extent = channel.max() - low
        if extent > 0 and gamma != 1:
            channel -= low
            channel /= extent
            np.power(channel, np.float32(gamma), out=channel)
            channel *= extent
            channel += low
