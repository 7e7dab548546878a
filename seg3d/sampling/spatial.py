"""Affine, elastic and mirrored patches in one resampling, straight from the stored volume.

Tensors are in file order ``(channel, z, y, x)``. Every output voxel is computed by itself, so the bits depend neither
on the number of threads nor on the process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample, interpolate

from seg3d.preparation.resample import resample_image
from seg3d.sampling.layers import labels, layers, outside
from seg3d.store import StoredVolume
from seg3d.volume import Border, Shape, Spacing

_SLABS = 8  # grid_sample runs in parallel over the batch alone, so the output is cut along z into a batch
_FINER = 4  # points of the smooth field per control point; between them linear interpolation is enough


@dataclass(frozen=True, eq=False)
class Resampling:
    """Where each voxel of a patch is read: ``matrix @ p + shift_mm + displacement(p)`` about the patch's centre.

    Attributes:
        matrix: 3x3, from an offset (x, y, z) in mm in the patch to one in the volume.
        shift_mm: Added to it.
        displacement_mm: ``(3, x, y, z)`` on a coarse grid that fills the patch, or ``None``.
    """

    matrix: NDArray[np.float64]
    shift_mm: NDArray[np.float64]
    displacement_mm: NDArray[np.float32] | None


def resample_patch(
    volume: StoredVolume, start: Shape, size: Shape, resampling: Resampling, border: Border = "constant"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image ``(channel, z, y, x)`` float32 and label ``(z, y, x)`` of a resampled patch.

    The image is interpolated linearly, the label is that of the nearest voxel; a case's weights are one channel more.
    Beyond the volume the image is the channel's minimum and the label 0, or both are mirrored; beyond the patch the
    volume's own voxels are read.

    Args:
        volume: A case with a label.
        start: First voxel (x, y, z) of the patch; may be negative.
        size: Voxels of the patch (x, y, z).
        resampling: Where to read.
        border: ``"constant"`` or ``"mirror"``.
    """
    terms = _index_terms(volume.info.grid.spacing_mm, start, size, resampling)
    field = _smooth_field(resampling, volume.info.grid.spacing_mm, size)
    first, stop = _bounds(terms, field, volume.info.grid.shape, border)
    box = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
    grid = _grid(terms, field, first, stop, size)
    # grid_sample reads 0 outside, so that 0 is made to mean the minimum
    beyond = outside(volume)
    found = _sample(layers(volume, box).float().sub_(beyond), grid, "bilinear", border).add_(beyond)
    label = labels(volume, box)
    values = _sample(label.float()[None], grid, "nearest", border)[0]
    return found, values.to(label.dtype)


def _index_terms(
    spacing: Spacing, start: Shape, size: Shape, resampling: Resampling
) -> list[list[NDArray[np.float32]]]:
    """Volume index (x, y, z) of the affine part, each as a sum of three terms that depend on one patch axis."""
    step = np.diag(1 / np.array(spacing)) @ resampling.matrix @ np.diag(spacing)
    centre = (np.array(size) - 1) / 2
    offset = np.array(start) + centre + resampling.shift_mm / spacing
    terms = []
    for target in range(3):
        parts = [step[target, axis] * (np.arange(size[axis]) - centre[axis]) for axis in range(3)]
        parts[2] = parts[2] + offset[target]
        terms.append([part.astype(np.float32) for part in parts])
    return terms


def _smooth_field(resampling: Resampling, spacing: Spacing, size: Shape) -> NDArray[np.float32] | None:
    """Displacement in voxels ``(3, x, y, z)`` on a grid fine enough for linear interpolation."""
    if resampling.displacement_mm is None:
        return None
    nx, ny, nz = (min(s, _FINER * n) for s, n in zip(size, resampling.displacement_mm.shape[1:], strict=True))
    parts = zip(resampling.displacement_mm, spacing, strict=True)
    return np.stack([resample_image(part / np.float32(mm), (nx, ny, nz)) for part, mm in parts])


def _bounds(
    terms: list[list[NDArray[np.float32]]], field: NDArray[np.float32] | None, shape: Shape, border: Border
) -> tuple[list[int], list[int]]:
    """The box of the volume that is read, at least one voxel along each axis."""
    first, stop = [], []
    for target, size in enumerate(shape):
        low = sum(float(part.min()) for part in terms[target])
        high = sum(float(part.max()) for part in terms[target])
        if field is not None:
            low, high = low + float(field[target].min()), high + float(field[target].max())
        if border == "mirror" and (low < 0 or high > size - 1):
            low, high = 0, size - 1  # grid_sample mirrors at the faces of what it is given
        # one voxel more on both sides, for rounding and for the neighbours of the interpolation
        first.append(min(max(int(np.floor(low)) - 1, 0), size - 1))
        stop.append(max(min(int(np.ceil(high)) + 2, size), first[-1] + 1))
    return first, stop


def _grid(
    terms: list[list[NDArray[np.float32]]],
    field: NDArray[np.float32] | None,
    first: list[int],
    stop: list[int],
    size: Shape,
) -> torch.Tensor:
    """Places ``(z, y, x, 3)`` in the box for grid_sample: -1 and 1 are its outer faces (one voxel has a size)."""
    scale = [2.0 / (b - a) for a, b in zip(first, stop, strict=True)]
    if field is None:
        places = torch.zeros((3, *size[::-1]))
    else:
        scaled = np.ascontiguousarray((field * np.array(scale, np.float32).reshape(3, 1, 1, 1)).transpose(0, 3, 2, 1))
        places = interpolate(torch.from_numpy(scaled)[None], size=size[::-1], mode="trilinear")[0]
    for target in range(3):
        x, y, z = (torch.from_numpy(part * np.float32(scale[target])) for part in terms[target])
        z = z + (scale[target] * (0.5 - first[target]) - 1.0)
        places[target] += (z[:, None] + y[None, :])[:, :, None]
        places[target] += x
    return places.permute(1, 2, 3, 0)


def _sample(values: torch.Tensor, grid: torch.Tensor, mode: str, border: Border) -> torch.Tensor:
    """Values ``(channel, z, y, x)`` at the places of a grid."""
    depth = grid.shape[0]
    slabs = next(n for n in range(min(_SLABS, depth), 0, -1) if depth % n == 0)
    source = values[None].expand(slabs, -1, -1, -1, -1)
    places = grid.reshape(slabs, depth // slabs, *grid.shape[1:])
    padding = "reflection" if border == "mirror" else "zeros"
    found = grid_sample(source, places, mode=mode, padding_mode=padding, align_corners=False)
    return found.transpose(0, 1).flatten(1, 2)
