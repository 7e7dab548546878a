"""What a viewer page shows: everything on one grid, small enough for a browser."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.errors import DataError
from seg3d.io import count_labels
from seg3d.preparation.resample import resample_label, resample_probability, resampled_grid
from seg3d.reporting.figures import canonical
from seg3d.reporting.loading import one_channel
from seg3d.reporting.outcome import outcome_of
from seg3d.reporting.panels import window_of
from seg3d.reporting.viewer.grey import Grey, is_ct, quantise
from seg3d.reporting.viewer.place import Placed, place
from seg3d.volume import Grid, Shape, Volume, bounding_box

LARGE = 4_000_000  # voxels from which on an image is cropped to its content
_MARGIN_MM = 5.0
_CT_AIR = -500.0
_FAINT = 0.05  # of the window: below is background


@dataclass(frozen=True, eq=False)
class Heat:
    """A map of real numbers in 8 bits: value = ``code * top / 255``."""

    codes: NDArray[np.uint8]
    top: float


@dataclass(frozen=True, eq=False)
class Scene:
    """A case on the grid of its page; arrays ``(x, y, z)``, of a picture with its first row at the highest y.

    Attributes:
        grid: Of the page, in RAS+ order.
        grey: The image.
        maps: Label maps by ``"reference"``, ``"prediction"`` and ``"errors"`` (see :mod:`seg3d.reporting.outcome`);
            labels are numbered as in ``values``.
        values: Label value of each number, the first of which is 1.
        heats: ``"uncertainty"`` and ``"probability"``.
        placed: Label maps on the whole grid of the image, for scores.
        image_grid: That grid, in RAS+ order.
        picture: Whether it is a plain picture, which has neither sides nor millimetres.
        notes: What a reader has to know of how it came to the page.
    """

    grid: Grid
    grey: Grey
    maps: Mapping[str, NDArray[Any]]
    values: tuple[int, ...]
    heats: Mapping[str, Heat]
    placed: Mapping[str, NDArray[Any]]
    image_grid: Grid
    picture: bool
    notes: tuple[str, ...]


def make_scene(
    image: Volume,
    labels: Mapping[str, Volume],
    heats: Mapping[str, Volume],
    *,
    picture: bool,
    ignore_label: int | None,
    max_voxels: int,
    numbered: Collection[int] = (),
) -> Scene:
    """The scene of a case.

    Args:
        image: ``(channel, x, y, z)``; of several channels the first is shown, of red, green and blue their brightness.
        labels: ``"reference"`` and ``"prediction"``, what there is of them, on any grid that overlaps.
        heats: ``"uncertainty"`` and ``"probability"``, what there is of them.
        picture: Whether these are plain pictures.
        ignore_label: Value of the reference that counts nowhere.
        max_voxels: More are shown at a lower resolution.
        numbered: Label values that have a number even where no map holds them.

    Raises:
        DataError: An overlay does not fit the image.
    """
    turned, turn = canonical(Volume(one_channel(image.data, picture), image.grid))
    placed = {name: place(v, turned.grid, name, nearest=True, picture=picture) for name, v in labels.items()}
    hot = {name: place(v, turned.grid, name, nearest=False, picture=picture) for name, v in heats.items()}
    whole = {name: _whole_numbers(one, name) for name, one in placed.items()}
    ct = not picture and is_ct(turned.data[0])
    frame = _frame(turned, list(whole.values()), ct, picture, max_voxels)
    grey = quantise(_shrunk(turned.data[0], frame), ct)
    values = tuple(sorted({*numbered, *(value for m in whole.values() for value in count_labels(m))} - {0}))
    small = {name: resample_label(np.ascontiguousarray(m[frame.cut]), frame.shape) for name, m in whole.items()}
    maps = {name: _numbered(m, values) for name, m in small.items()}
    if len(small) == 2:
        maps["errors"] = outcome_of(small["prediction"], small["reference"], ignore_label)
    heat_maps = {name: _heat(_shrunk(one.data, frame), name) for name, one in hot.items()}
    notes = [
        *_image_notes(image, turn, picture),
        *(note for one in (*placed.values(), *hot.values()) for note in one.notes),
        *frame.notes,
        *_grey_notes(grey),
    ]
    grid = resampled_grid(frame.grid, frame.shape)
    scene = Scene(grid, grey, maps, values, heat_maps, whole, turned.grid, picture, tuple(notes))
    return _upright(scene) if picture else scene


@dataclass(frozen=True, eq=False)
class _Frame:
    """Which part of an image a page shows, and with how many voxels."""

    cut: tuple[slice, ...]
    grid: Grid
    shape: Shape
    notes: tuple[str, ...]


def _frame(image: Volume, maps: list[NDArray[Any]], ct: bool, picture: bool, max_voxels: int) -> _Frame:
    large = image.data[0].size > LARGE and not picture
    box = _content(image.data[0], maps, image.grid, ct) if large else None
    notes, grid = [], image.grid
    if box is not None:
        grid = grid.cropped([part.start for part in box], [part.stop - part.start for part in box])
        notes.append(f"Cropped to its content: {_size(grid.shape)} of {_size(image.grid.shape)} voxels.")
    shape = _reduced_shape(grid, max_voxels)
    if shape != grid.shape:
        notes.append(f"Shown at a lower resolution: {_size(shape)} of {_size(grid.shape)} voxels.")
    return _Frame(box or (slice(None),) * 3, grid, shape, tuple(notes))


def _image_notes(image: Volume, turn: str, picture: bool) -> list[str]:
    channels = image.data.shape[0]
    notes = []
    if channels > 1:
        brightness = picture and channels == 3
        notes.append("Brightness of red, green and blue is shown." if brightness else f"Channel 1 of {channels}.")
    if not picture:
        axes = image.grid.affine[:3, :3] / np.array(image.grid.spacing_mm)
        tilt = float(np.degrees(np.arccos(np.clip(np.abs(axes).max(axis=0).min(), 0, 1))))
        notes.append(f"Axes turned from {turn} for display." if not turn.startswith("RAS") else "Axes in RAS order.")
        if tilt > 1:
            notes.append(f"The scan is tilted: its slices lie up to {tilt:.0f}° off the patient's planes.")
    return notes


def _grey_notes(grey: Grey) -> list[str]:
    notes = []
    if not grey.exact:
        high, unit = grey.low + 255 * grey.step, f" {grey.unit}" if grey.unit else ""
        notes.append(
            f"Grey values in 8 bits: {grey.low:.6g} to {high:.6g}{unit} in steps of {grey.step:.3g}; "
            "what lies beyond is drawn as the end of that range."
        )
    if grey.broken:
        notes.append(f"{grey.broken} voxels of the image are not finite and are drawn black.")
    return notes


def _whole_numbers(placed: Placed, name: str) -> NDArray[Any]:
    data = placed.data
    if data.dtype.kind == "f" and (not np.isfinite(data).all() or np.any(data != np.floor(data))):
        raise DataError(f"the {name} is no label map", got="values that are not whole numbers")
    if data.size and (data.min() < 0 or data.max() > np.iinfo(np.uint16).max):
        raise DataError(f"the {name} is no label map", got=f"{data.min()} to {data.max()}", expected="0 to 65535")
    return data.astype(np.uint16 if data.max() > 255 else np.uint8)


def _content(data: NDArray[Any], maps: list[NDArray[Any]], grid: Grid, ct: bool) -> tuple[slice, ...] | None:
    """The box around what is not background, ``None`` where it would leave out next to nothing."""
    if ct:
        mask = data > _CT_AIR
    else:
        low, high = window_of(data[::4, ::4, ::4])
        mask = data > low + _FAINT * (high - low)
    for labels in maps:
        mask |= labels > 0
    content = bounding_box(mask)
    if content is None:
        return None
    margins = [int(np.ceil(_MARGIN_MM / mm)) for mm in grid.spacing_mm]
    box = tuple(
        slice(max(0, part.start - margin), min(n, part.stop + margin))
        for part, margin, n in zip(content, margins, data.shape, strict=True)
    )
    kept = float(np.prod([part.stop - part.start for part in box]))
    return box if kept < 0.95 * data.size else None


def _reduced_shape(grid: Grid, max_voxels: int) -> Shape:
    """Voxels of at most ``max_voxels``: the finest axes give way first, until voxels are cubes."""
    shape, target = grid.shape, min(grid.spacing_mm)
    while shape[0] * shape[1] * shape[2] > max_voxels:
        target *= 1.02
        x, y, z = (max(1, int(n * min(1.0, mm / target))) for n, mm in zip(grid.shape, grid.spacing_mm, strict=True))
        shape = (x, y, z)
    return shape


def _shrunk(data: NDArray[Any], frame: _Frame) -> NDArray[Any]:
    part = data[frame.cut]
    return part if part.shape == frame.shape else resample_probability(part.astype(np.float32), frame.shape)


def _heat(data: NDArray[Any], name: str) -> Heat:
    values = np.nan_to_num(data.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if values.size and values.min() < 0:
        raise DataError(f"the {name} has negative values", got=float(values.min()), expected="0 or more")
    top = 1.0 if name == "probability" else float(values.max()) or 1.0
    return Heat(np.clip(np.round(values * (255 / top)), 0, 255).astype(np.uint8), top)


def _numbered(labels: NDArray[Any], values: tuple[int, ...]) -> NDArray[Any]:
    """The label map with values 1, 2, ... in place of its own."""
    kind = np.uint8 if len(values) < 256 else np.uint16
    table = np.zeros(int(max(values, default=0)) + 1, kind)
    for number, value in enumerate(values, start=1):
        table[value] = number
    numbered: NDArray[Any] = table[labels]
    return numbered


def _upright(scene: Scene) -> Scene:
    """A picture's rows run down; on the page, as in a scan, y runs up."""
    grey = replace(scene.grey, codes=scene.grey.codes[:, ::-1])
    maps = {name: m[:, ::-1] for name, m in scene.maps.items()}
    heats = {name: Heat(heat.codes[:, ::-1], heat.top) for name, heat in scene.heats.items()}
    return replace(scene, grey=grey, maps=maps, heats=heats)


def _size(shape: Shape) -> str:
    return " × ".join(str(n) for n in shape)
