"""Sizes of prepared cases, told from the headers of their source files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from seg3d.cases import Case, Dataset
from seg3d.errors import Fault, FaultsError, Seg3dError
from seg3d.forecast.usage import Seconds
from seg3d.io import read_header
from seg3d.label_index import BLOCK
from seg3d.preparation import Recipe, prepared_shape, turn_to_ras
from seg3d.preparation.crop import find_crop
from seg3d.volume import Grid, Shape

Shares = tuple[float, float, float]
WHOLE: Shares = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class CaseSize:
    """A case as its header tells it.

    Attributes:
        case: The case.
        grid: Its grid in RAS+ order, without the slices that the recipe drops.
        voxels: Voxels of the source.
    """

    case: Case
    grid: Grid
    voxels: int

    def shape(self, recipe: Recipe, kept: Shares = WHOLE) -> Shape:
        """Voxels of the prepared case, where a crop to the foreground keeps these shares of x, y and z."""
        x, y, z = (max(1, round(n * share)) for n, share in zip(self.grid.shape, kept, strict=True))
        return prepared_shape(Grid((x, y, z), self.grid.affine), recipe)


@dataclass(frozen=True)
class Sampled:
    """A case that was prepared for the forecast, and deleted again.

    Attributes:
        case_id: The case.
        kept: Shares of x, y and z that the crop to the foreground kept.
        shape: Prepared voxels.
        file_bytes: Its stored volume.
        seconds: Reading, preparing and storing it.
        restore: Bringing one map back to the source grid.
        rest_bytes: Peak resident memory of its process before the first case.
        peak_bytes: That after this case.
    """

    case_id: str
    kept: Shares
    shape: Shape
    file_bytes: int
    seconds: Seconds
    restore: Seconds
    rest_bytes: int
    peak_bytes: int


def case_sizes(dataset: Dataset, recipe: Recipe) -> list[CaseSize]:
    """Every case of a dataset, from its first image's header alone.

    Raises:
        FaultsError: Files are missing, or headers cannot be read or used; all of them are told.
    """
    found, faults = [], []
    for case in dataset.cases:
        files = [*case.images, *([] if case.label is None else [case.label])]
        faults += [Fault(str(f), "missing_file", "the file is missing") for f in files if not f.is_file()]
        if all(file.is_file() for file in files):
            try:
                found.append(_size(case, recipe))
            except Seg3dError as error:
                faults.append(Fault(case.case_id, "unusable", str(error)))
    if faults:
        raise FaultsError(f"the dataset {dataset.source} cannot be used", faults)
    return found


def _size(case: Case, recipe: Recipe) -> CaseSize:
    grid = turn_to_ras(read_header(case.images[0]).grid)[1]
    start, shape = find_crop([], grid, replace(recipe.crop, foreground=None))
    return CaseSize(case, grid.cropped(start, shape), math.prod(grid.shape))


def pick_sample(sizes: Sequence[CaseSize], count: int = 3) -> list[CaseSize]:
    """The largest case and others evenly spread over the sizes, by voxels; labelled ones where there are any."""
    labelled = [size for size in sizes if size.case.labelled] or list(sizes)
    ordered = sorted(labelled, key=lambda size: (size.voxels, size.case.case_id))
    places = np.linspace(len(ordered) - 1, 0, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def stored_bytes(shape: Shape, channels: int, labels: Sequence[int], *, labelled: bool, weighted: bool) -> int:
    """Bytes of a stored case: float16 image, label map, weights, block counts; small things are left out.

    Args:
        shape: Prepared voxels.
        channels: Channels of the image.
        labels: Label values.
        labelled: Whether it has a label map.
        weighted: Whether it has a map of voxel weights, too.
    """
    voxels = math.prod(shape)
    if not labelled:
        return 2 * channels * voxels
    of_label = 1 if max(labels, default=0) < 256 else 2
    blocks = math.prod(-(-n // BLOCK) for n in shape) * len(labels) * 4
    return (2 * channels + of_label + 2 * weighted) * voxels + blocks
