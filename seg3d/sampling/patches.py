"""Patches read straight from the memory map: a pure function of seed, epoch, case and draw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seg3d.keyed import keyed
from seg3d.sampling.augment import Augmentation, apply_intensity
from seg3d.sampling.augment import draw as draw_parameters
from seg3d.sampling.locations import draw_centre, place_patch
from seg3d.sampling.plan import Draw, Visit
from seg3d.sampling.spatial import resample_patch
from seg3d.store import StoredInfo, StoredVolume
from seg3d.volume import Shape


@dataclass(frozen=True, eq=False)
class Patch:
    """One training patch.

    Attributes:
        image: ``(channel, x, y, z)`` float32, a view whose x axis is the fastest in memory.
        label: ``(x, y, z)`` uint8 or uint16 in the same memory order.
        case_id: The case.
        centre: The drawn voxel (x, y, z) in the stored volume.
        start: First voxel of the patch; negative where the volume is smaller than the patch.
        draw: What was asked for.
        sha256: Digest of image and label; empty unless it was asked for.
    """

    image: torch.Tensor
    label: torch.Tensor
    case_id: str
    centre: Shape
    start: Shape
    draw: Draw
    sha256: str = ""

    def with_digest(self) -> Patch:
        """The patch with the SHA-256 of its image and label, in their memory order."""
        digest = hashlib.sha256(_contiguous(self.image))
        digest.update(_contiguous(self.label))
        return replace(self, sha256=digest.hexdigest())


class PatchReader:
    """Reads the patches of a visit.

    Args:
        cases: The training cases, in the order that :class:`Draw` counts them.
        patch_size: Voxels along x, y, z.
        augmentation: What is done to a patch, or ``None``.
        seed: The run's seed.
    """

    def __init__(
        self, cases: tuple[StoredInfo, ...], patch_size: Shape, augmentation: Augmentation | None, seed: int
    ) -> None:
        self.cases = cases
        self.patch_size = patch_size
        self.augmentation = augmentation
        self.seed = seed

    def read(self, epoch: int, visit: Visit) -> list[Patch]:
        """The patches of a visit, in the order of its draws.

        The memory map lives as long as the visit, so that resident memory does not grow with the number of cases.
        """
        volume = StoredVolume(self.cases[visit.case])
        return [self._read_patch(volume, epoch, draw) for draw in visit.draws]

    def _read_patch(self, volume: StoredVolume, epoch: int, draw: Draw) -> Patch:
        info = volume.info
        key = (epoch, info.case_id, draw.number)
        centre = draw_centre(volume, draw.class_value, draw.lesion, keyed(self.seed, "centre", *key))
        start = place_patch(centre, self.patch_size, info.grid.shape)
        rng = keyed(self.seed, "augment", *key)
        image, label = read_augmented(volume, start, self.patch_size, self.augmentation, rng)
        return Patch(image, label, info.case_id, centre, start, draw)


def read_augmented(
    volume: StoredVolume, start: Shape, size: Shape, augmentation: Augmentation | None, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label of a patch as :func:`read_patch` gives them, augmented.

    Args:
        volume: A case with a label.
        start: First voxel; may be negative.
        size: Voxels along x, y, z.
        augmentation: What is done to it, or ``None``.
        rng: Where the parameters come from.
    """
    if augmentation is None:
        return read_patch(volume, start, size)
    spacing = volume.info.grid.spacing_mm
    drawn = draw_parameters(augmentation, volume.info.channels, size, spacing, rng)
    if drawn.resampling is not None:
        image, label = resample_patch(volume, start, size, drawn.resampling)
    else:
        plain, whole = read_patch(volume, start, size)
        axes = [3 - axis for axis, mirrored in enumerate(drawn.mirrored) if mirrored]
        image = plain.permute(0, 3, 2, 1).flip(axes)
        label = whole.permute(2, 1, 0).flip([axis - 1 for axis in axes])
    apply_intensity(image.numpy(), drawn, spacing)
    return _as_xyz(image), _as_xyz(label)


def read_patch(volume: StoredVolume, start: Shape, size: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label of a box; what lies outside the volume is the channel's minimum and label 0.

    Args:
        volume: A case with a label.
        start: First voxel; may be negative.
        size: Voxels along x, y, z.
    """
    shape = volume.info.grid.shape
    inside = tuple(slice(max(a, 0), min(a + n, s)) for a, n, s in zip(start, size, shape, strict=True))
    image = _file_order(volume.image, (slice(None), *inside))
    label = _file_order(volume.label, inside)
    if all(a >= 0 and a + n <= s for a, n, s in zip(start, size, shape, strict=True)):
        return _as_xyz(image.float()), _as_xyz(label.clone())
    place = tuple(slice(max(-a, 0), max(-a, 0) + s.stop - s.start) for a, s in zip(start, inside, strict=True))[::-1]
    whole = torch.empty((image.shape[0], *size[::-1]))
    whole[:] = torch.tensor(volume.info.minimum).reshape(-1, 1, 1, 1)
    whole[(slice(None), *place)] = image.float()
    padded = torch.zeros(size[::-1], dtype=label.dtype)
    padded[place] = label
    return _as_xyz(whole), _as_xyz(padded)


def _file_order(array: NDArray[Any] | None, box: tuple[slice, ...]) -> torch.Tensor:
    """A box of a mapped array as a tensor in file order; torch converts float16 six times faster than numpy."""
    assert array is not None
    view = array[box]
    flipped = view.transpose(0, 3, 2, 1) if view.ndim == 4 else view.T
    return torch.from_numpy(flipped)


def _contiguous(tensor: torch.Tensor) -> memoryview:
    return _as_xyz(tensor).contiguous().numpy().data  # the same reversal of axes leads back to file order


def _as_xyz(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(0, 3, 2, 1) if tensor.ndim == 4 else tensor.permute(2, 1, 0)
