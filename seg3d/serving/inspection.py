"""Is an upload a scan that the model can answer? Asked in the order of what the answers cost."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seg3d.errors import Seg3dError
from seg3d.io import answer_name, image_stem, is_picture, read_image
from seg3d.io.header import ImageHeader
from seg3d.preparation import Recipe, turn_to_ras
from seg3d.preparation.resample import resampled_shape
from seg3d.serving.contents import checked_header, suffix_of
from seg3d.serving.refusals import Refusal, told
from seg3d.volume import Grid, Shape, Volume

# what readers raise over nonsense in a header that they do not check
_NONSENSE = (ValueError, OverflowError, TypeError, KeyError, IndexError, EOFError, OSError, MemoryError, struct.error)


@dataclass(frozen=True)
class Wanted:
    """What a model can answer.

    Attributes:
        channels: Names of its channels.
        recipe: How scans are prepared for it.
        pictures: Whether it has learnt from pictures alone; else from volumes, whose grey values a picture does not
            have.
    """

    channels: tuple[str, ...]
    recipe: Recipe
    pictures: bool


@dataclass(frozen=True, eq=False)
class Scan:
    """An upload that can be predicted.

    Attributes:
        images: One file for each channel, or one with all, under the suffixes of their formats.
        header: Of the first one.
    """

    images: tuple[Path, ...]
    header: ImageHeader

    def answer_suffix(self, *, real: bool) -> str:
        """Suffix of the answer's format: a label map, or a map of real numbers."""
        name = answer_name(self.images[0], real=real)
        return name[len(image_stem(Path(name))) :]


def inspect(files: Sequence[Path], wanted: Wanted, most_voxels: int) -> Scan:
    """The scan in uploaded files, all of which are read once in full.

    The files get the suffixes of their formats.

    Args:
        files: In one folder of their own, in the order of the channels.
        wanted: What the model can answer.
        most_voxels: Values (voxels times channels) of the upload, and of what is prepared from it.

    Raises:
        Refusal: It cannot be predicted; 400, 413, 415 or 422.
    """
    folder = files[0].parent
    try:
        images = tuple(_renamed(file) for file in files)
        headers = [checked_header(image, most_voxels) for image in images]
        _refuse_other_kind(headers, wanted)
        _refuse_other_channels(headers, wanted)
        _refuse_large_prepared(headers[0].grid, wanted, most_voxels)
        _check_voxels(read_image(images, len(wanted.channels)), wanted)
    except Seg3dError as error:
        raise Refusal(422, told(error, folder)) from error
    except _NONSENSE as error:
        raise Refusal(422, "the file cannot be read", got=type(error).__name__, fix="Export it again.") from error
    return Scan(images, headers[0])


def prepared_shape(grid: Grid, recipe: Recipe) -> Shape:
    """Voxels along x, y, z (in RAS+ order) that the network sees of a scan if nothing is cropped off.

    Args:
        grid: The scan's own.
        recipe: How it is prepared.
    """
    _, turned = turn_to_ras(grid)
    if recipe.size is not None:
        x, y, z = (own if fixed is None else fixed for own, fixed in zip(turned.shape, recipe.size, strict=True))
        return x, y, z
    return turned.shape if recipe.spacing_mm is None else resampled_shape(turned, recipe.spacing_mm)


def _renamed(file: Path) -> Path:
    return file.rename(file.with_name(file.name + suffix_of(file)))


def _refuse_other_kind(headers: Sequence[ImageHeader], wanted: Wanted) -> None:
    if any(is_picture(header.path) for header in headers) and not wanted.pictures:
        names = ", ".join(name or "grey" for name in wanted.channels)
        raise Refusal(
            422,
            "a picture does not hold the grey values that this model has learnt from",
            got="PNG or JPEG",
            expected=f"a volume ({names}) as NIfTI or NRRD",
            fix="Upload the scan itself, not a picture of it.",
        )
    if wanted.pictures and not all(is_picture(header.path) for header in headers):
        raise Refusal(
            422,
            "a volume is turned to the patient's axes, which the pictures that this model has learnt from do not have",
            got="NIfTI or NRRD",
            expected="PNG or JPEG",
            fix="Export it as the pictures were.",
        )


def _refuse_other_channels(headers: Sequence[ImageHeader], wanted: Wanted) -> None:
    given, expected = sum(header.channels for header in headers), len(wanted.channels)
    # one coloured-looking picture may be grey: its pixels tell
    if given == expected or (is_picture(headers[0].path) and len(headers) == expected):
        return
    series = len(headers) == 1 and given > expected
    raise Refusal(
        422,
        "the scan has the wrong number of channels for this model",
        got=f"{given}" + (", a series of volumes?" if series and headers[0].format != "picture" else ""),
        expected=f"{expected} ({', '.join(name or 'grey' for name in wanted.channels)})",
        fix="Upload one volume of the series." if series else "Upload one file for each channel, in this order.",
    )


def _refuse_large_prepared(grid: Grid, wanted: Wanted, most: int) -> None:
    """Refuse what would be large at the model's spacing: thick voxels make it so however small the file is."""
    shape = prepared_shape(grid, wanted.recipe)
    if math.prod(shape) * len(wanted.channels) > most:
        raise Refusal(
            413,
            "the scan would have too many voxels at the spacing that the model works at",
            got="x".join(map(str, shape)),
            expected=f"at most {most} voxels of all channels",
            fix="Check the voxel spacing in its header, or crop it.",
        )


def _check_voxels(volumes: Sequence[Volume], wanted: Wanted) -> None:
    for number, volume in enumerate(volumes):
        if not volume.grid.same_as(volumes[0].grid):
            raise Refusal(
                422,
                "the channels lie on different grids",
                got=f"{volume.grid.shape}, channel {number}",
                expected=f"{volumes[0].grid.shape} and the same affine",
                fix="Resample them onto one grid.",
            )
        for channel in volume.data:
            _refuse_infinite(channel)
    if sum(len(volume.data) for volume in volumes) != len(wanted.channels):
        raise Refusal(422, "the scan has the wrong number of channels for this model", expected=len(wanted.channels))


def _refuse_infinite(channel: np.ndarray) -> None:
    if channel.dtype.kind != "f":
        return
    wrong = channel.size - int(np.count_nonzero(np.isfinite(channel)))
    if wrong:
        raise Refusal(
            422, "voxels are not finite", got=f"{wrong} of {channel.size}", fix="Replace NaN and infinite values."
        )
