"""Made-up prepared cases: noise of the right size with a block of each label, on which steps are measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.keyed import keyed
from seg3d.store import StoredInfo, read_info, stored_path, write_stored
from seg3d.volume import Grid


def make_up_case(
    folder: Path,
    number: int,
    grid: Grid,
    channels: int,
    labels: dict[str, int],
    *,
    weighted: bool,
    empty: bool = False,
) -> StoredInfo:
    """A stored case whose middle third along each axis holds a block of every label; it is written to ``folder``.

    Args:
        folder: Where it is stored.
        number: Which one; each is different.
        grid: Its grid.
        channels: Channels of the image.
        labels: Label values by name, background among them.
        weighted: Whether it has a map of voxel weights, too.
        empty: Whether it is all background instead.
    """
    rng = keyed(0, "made up", number)
    image = rng.standard_normal((channels, *grid.shape), dtype=np.float32).astype(np.float16)
    label = np.zeros(grid.shape, np.min_scalar_type(max(labels.values())))
    foreground = [value for value in sorted(labels.values()) if value != 0]
    if not empty:
        _fill(label, foreground)
    path = stored_path(folder, f"made_up_{number}")
    write_stored(
        path,
        case_id=path.stem,
        image=image,
        label=label,
        weights=np.ones(grid.shape, np.float16) if weighted else None,
        grid=grid,
        way_back={},
        recipe_sha256="",
        source_sha256={},
        labels=labels,
        ignore_label=None,
    )
    return read_info(path)


def _fill(label: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]], values: Sequence[int]) -> None:
    """Equal shares of the labels, side by side along the longest axis, in the middle third of the volume.

    Where that has too few voxels for all of them, in the whole volume but for one voxel.
    """
    box = tuple(slice(n // 3, max(n // 3 + 1, 2 * n // 3)) for n in label.shape)
    inner: np.ndarray[Any, np.dtype[np.uint8]] = label[box]
    if inner.size < len(values):
        inner = label.reshape(-1)[1:]
    inner = np.moveaxis(inner, int(np.argmax(inner.shape)), 0)
    shares = np.arange(inner.size) * len(values) // max(1, inner.size)
    inner[...] = np.array(values)[shares].reshape(inner.shape)
