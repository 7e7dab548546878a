"""Patches read straight from the memory map: a pure function of seed, epoch, case and draw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from seg3d.keyed import keyed
from seg3d.sampling.augment import Augmentation, apply_intensity
from seg3d.sampling.augment import draw as draw_parameters
from seg3d.sampling.layers import read_box
from seg3d.sampling.locations import draw_centre, draw_in_slice, place_patch
from seg3d.sampling.plan import Draw, Visit
from seg3d.sampling.spatial import resample_patch
from seg3d.store import StoredInfo, StoredVolume
from seg3d.volume import Border, Shape


@dataclass(frozen=True, eq=False)
class Patch:
    """One training patch.

    Attributes:
        image: ``(channel, x, y, z)`` float32, a view whose x axis is the fastest in memory; larger than the label by
            the margin that the network loses.
        label: ``(x, y, z)`` uint8 or int32 in the same memory order.
        weights: ``(x, y, z)`` float32: what each voxel weighs in the loss, or ``None`` where all are alike.
        case_id: The case.
        centre: The drawn voxel (x, y, z) in the stored volume.
        start: First voxel of the patch; negative where the volume is smaller than the patch.
        draw: What was asked for.
        moved_out: Augmentation left no voxel of the drawn class in the patch.
        sha256: Digest of image, label and weights; empty unless it was asked for.
    """

    image: torch.Tensor
    label: torch.Tensor
    case_id: str
    centre: Shape
    start: Shape
    draw: Draw
    moved_out: bool = False
    sha256: str = ""
    weights: torch.Tensor | None = None

    def with_digest(self) -> Patch:
        """The patch with the SHA-256 of its image, label and weights, in their memory order."""
        digest = hashlib.sha256(_contiguous(self.image))
        digest.update(_contiguous(self.label))
        if self.weights is not None:
            digest.update(_contiguous(self.weights))
        return replace(self, sha256=digest.hexdigest())


class PatchReader:
    """Reads the patches of a visit.

    Args:
        cases: The training cases, in the order that :class:`Draw` counts them.
        patch_size: Voxels along x, y, z of the label.
        augmentation: What is done to a patch, or ``None``.
        seed: The run's seed.
        margin: Voxels along x, y, z by which the image is larger than the label, on each side.
        border: What lies beyond the volume: the channel's minimum and label 0, or the volume mirrored at its faces.
        fixed: Axes (0, 1, 2) along which nothing moves: the one that slices lie across.
    """

    def __init__(
        self,
        cases: tuple[StoredInfo, ...],
        patch_size: Shape,
        augmentation: Augmentation | None,
        seed: int,
        *,
        margin: Shape = (0, 0, 0),
        border: Border = "constant",
        fixed: tuple[int, ...] = (),
    ) -> None:
        self.cases = cases
        self.patch_size = patch_size
        self.augmentation = augmentation
        self.seed = seed
        self.margin = margin
        self.border = border
        self.fixed = fixed

    def read(self, epoch: int, visit: Visit) -> list[Patch]:
        """The patches of a visit, in the order of its draws.

        The memory map lives as long as the visit, so that resident memory does not grow with the number of cases.
        """
        volume = StoredVolume(self.cases[visit.case])
        return [self._read_patch(volume, epoch, draw) for draw in visit.draws]

    def _read_patch(self, volume: StoredVolume, epoch: int, draw: Draw) -> Patch:
        info = volume.info
        key = (epoch, info.case_id, draw.number)
        centre = _draw(volume, draw, keyed(self.seed, "centre", *key))
        start = place_patch(centre, self.patch_size, info.grid.shape)
        x, y, z = (a - m for a, m in zip(start, self.margin, strict=True))
        i, j, k = (n + 2 * m for n, m in zip(self.patch_size, self.margin, strict=True))
        found, label = read_augmented(
            volume,
            (x, y, z),
            (i, j, k),
            self.augmentation,
            keyed(self.seed, "augment", *key),
            border=self.border,
            fixed=self.fixed,
        )
        inside = tuple(slice(m, m + n) for m, n in zip(self.margin, self.patch_size, strict=True))
        weights = found[-1][inside] if volume.weights is not None else None
        image, label = found[: info.channels], label[inside]
        # without augmentation the centre itself is there
        moved_out = self.augmentation is not None and not bool((label.numpy() == draw.class_value).any())
        return Patch(image, label, info.case_id, centre, start, draw, moved_out, weights=weights)


def _draw(volume: StoredVolume, draw: Draw, rng: np.random.Generator) -> Shape:
    if draw.slice is not None:
        return draw_in_slice(volume, draw.class_value, *draw.slice, rng)
    return draw_centre(volume, draw.class_value, draw.lesion, rng)


def read_augmented(
    volume: StoredVolume,
    start: Shape,
    size: Shape,
    augmentation: Augmentation | None,
    rng: np.random.Generator,
    *,
    border: Border = "constant",
    fixed: tuple[int, ...] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label of a patch as :func:`read_patch` gives them, augmented.

    Args:
        volume: A case with a label.
        start: First voxel; may be negative.
        size: Voxels along x, y, z.
        augmentation: What is done to it, or ``None``.
        rng: Where the parameters come from.
        border: What lies beyond the volume.
        fixed: Axes along which nothing moves.
    """
    if augmentation is None:
        return read_patch(volume, start, size, border)
    info = volume.info
    spacing = info.grid.spacing_mm
    drawn = draw_parameters(augmentation, info.channels, size, spacing, rng, fixed)
    if drawn.resampling is not None:
        image, label = resample_patch(volume, start, size, drawn.resampling, border)
    else:
        plain, whole = read_box(volume, start, size, border)
        axes = [3 - axis for axis, mirrored in enumerate(drawn.mirrored) if mirrored]
        image = turn(plain.flip(axes), drawn.turned)
        label = turn(whole.flip([axis - 1 for axis in axes]), drawn.turned)
    apply_intensity(image.numpy()[: info.channels], drawn, spacing, fixed)
    return _as_xyz(image), _as_xyz(label)


def turn(values: torch.Tensor, turned: tuple[int, int]) -> torch.Tensor:
    """Values ``(…, z, y, x)`` after ``turned[1]`` quarter turns about axis ``turned[0]`` (x, y, z)."""
    axis, quarters = turned
    if not quarters:
        return values
    one, other = ((axis + 1) % 3, (axis + 2) % 3)
    return values.rot90(quarters, (-1 - other, -1 - one)).contiguous()


def read_patch(
    volume: StoredVolume, start: Shape, size: Shape, border: Border = "constant"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image ``(channel, x, y, z)`` float32 and label ``(x, y, z)`` of a box; a case's weights are one channel more.

    Args:
        volume: A case with a label.
        start: First voxel; may be negative.
        size: Voxels along x, y, z.
        border: What lies beyond the volume: the channel's minimum and label 0, or the volume mirrored at its faces.
    """
    image, label = read_box(volume, start, size, border)
    return _as_xyz(image), _as_xyz(label)


def _contiguous(tensor: torch.Tensor) -> memoryview:
    return _as_xyz(tensor).contiguous().numpy().data  # the same reversal of axes leads back to file order


def _as_xyz(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(0, 3, 2, 1) if tensor.ndim == 4 else tensor.permute(2, 1, 0)
