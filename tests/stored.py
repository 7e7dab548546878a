"""Small stored cases for tests of sampling and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seg3d.keyed import keyed
from seg3d.store import StoredInfo, read_info, write_stored
from seg3d.volume import Grid

LABELS = {"background": 0, "organ": 1, "tumour": 2}


def make_store(folder: Path, cases: int = 4, shape: tuple[int, int, int] = (70, 50, 40)) -> tuple[StoredInfo, ...]:
    """Cases of one organ and, but for the last case, three tumours of very different size; image = label + noise."""
    infos = []
    for number in range(cases):
        rng = keyed(7, "stored", number)
        label = np.zeros(shape, np.uint8)
        organ = tuple(slice(n // 6, n - n // 6) for n in shape)
        label[organ] = 1
        if number < cases - 1 or cases == 1:
            label[12:30, 10:30, 8:30] = 2
            label[35:37, 12:14, 10:12] = 2
            label[45, 20, 20] = 2
        image = (label + 0.1 * rng.standard_normal(shape)).astype(np.float16)[None]
        path = folder / f"case_{number}.h5"
        write_stored(
            path,
            case_id=f"case_{number}",
            image=image,
            label=label,
            grid=Grid(shape, np.diag([1.0, 1.0, 2.0, 1.0])),
            way_back={},
            recipe_sha256="r",
            source_sha256={},
            labels=LABELS,
            ignore_label=None,
        )
        infos.append(read_info(path))
    return tuple(infos)
