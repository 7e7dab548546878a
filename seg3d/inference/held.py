"""Maps of a whole scan that answers are added up in: in memory where they fit, else in a file."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from seg3d.errors import DataError
from seg3d.volume import Shape


class HeldMaps(Protocol):
    """Maps ``(map, planes, y, z)``, float32, all 0 at first."""

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Planes of all maps, which are not to be changed."""
        ...

    def changing(self, start: int, stop: int) -> AbstractContextManager[torch.Tensor]:
        """Planes of all maps; what is changed in them inside the block stays."""
        ...


@contextmanager
def held_maps(maps: int, shape: Shape, device: torch.device, memory: int, folder: Path | None) -> Iterator[HeldMaps]:
    """Maps in memory if they take at most half of it, so that tiles have the rest; else in a file.

    Args:
        maps: Their number.
        shape: Voxels of each, the axis first along which they come in slabs.
        device: Where slabs of them are used, and where they are held in memory.
        memory: Bytes there are.
        folder: Where the file would be, which no one sees and nothing leaves behind; ``None``: the system's folder for
            temporary files.

    Raises:
        DataError: The disk has no room for them.
    """
    size = 4 * maps * math.prod(shape)
    if size <= memory // 2:
        yield _InMemory(torch.zeros((maps, *shape), device=device))
        return
    folder = folder or Path(tempfile.gettempdir())
    _refuse_full_disk(folder, size)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(size)
        yield _InFile(file, (maps, *shape[1:]), device)


def _refuse_full_disk(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DataError(
            "the disk has no room for the maps that several answers are added up in",
            where=folder,
            got=f"{free / 2**30:.1f} GiB free",
            expected=f"{size / 2**30:.1f} GiB",
            fix="Make room there, or allow more memory.",
        )


class _InMemory:
    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self._values[:, start:stop]

    @contextmanager
    def changing(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        yield self._values[:, start:stop]


class _InFile:
    """Planes lie one behind the other, so that a slab is one piece of the file."""

    def __init__(self, file: BufferedRandom, plane: tuple[int, ...], device: torch.device) -> None:
        self._file = file
        self._plane = plane
        self._device = device

    def read(self, start: int, stop: int) -> torch.Tensor:
        planes = np.empty((stop - start, *self._plane), np.float32)
        self._file.seek(self._offset(start))
        self._file.readinto(planes.data)
        return torch.from_numpy(planes).movedim(0, 1).to(self._device)

    @contextmanager
    def changing(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        found = self.read(start, stop)
        yield found
        self._file.seek(self._offset(start))
        self._file.write(found.movedim(1, 0).contiguous().cpu().numpy().data)

    def _offset(self, plane: int) -> int:
        return 4 * math.prod(self._plane) * plane
