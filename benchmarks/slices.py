"""Axial 256x256 slices a second, image and label as float32 tensors: from one stored volume, or a file per slice.

    python -m benchmarks.slices [--seconds 1] [--repeats 7]

Two-dimensional projects often write every slice of image and label to a .npy file of its own, as float64. Every row
reads all slices of the same phantom chest CT in random order, page cache warm, in one process and thread. The rows take
turns, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.table import describe_machine, rates
from seg3d.keyed import keyed
from seg3d.phantom import PhantomSpec, make_phantom
from seg3d.store import StoredInfo, StoredVolume, read_info, write_stored
from seg3d.training.memory import keep_freed_memory
from seg3d.volume import Grid

SHAPE = (256, 256, 128)
LARGEST_HU = 3071
Read = Callable[[int], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Row:
    """A way to read slice ``z`` as image and label ``(row, column)``, the files it needs, slices a second so far."""

    name: str
    read: Read
    files: list[Path]
    rates: list[float] = field(default_factory=list)

    @property
    def disk_mib(self) -> float:
        """What the files take on the disk."""
        return sum(path.stat().st_blocks * 512 for path in self.files) / 2**20


def make_scan() -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Image in shares of the largest HU and label, (x, y, z)."""
    spec = PhantomSpec(cases=1, shape=SHAPE, orientations=("RAS",), tumour_free_share=0.0)
    image, label, _ = make_phantom(spec, 0)
    return image.data[0] / LARGEST_HU, label.data[0]


def store_scan(folder: Path, image: NDArray[np.float64], label: NDArray[np.uint8]) -> StoredInfo:
    path = folder / "case.h5"
    write_stored(
        path,
        case_id="case",
        image=image.astype(np.float16)[None],
        label=label,
        grid=Grid(SHAPE, np.eye(4)),
        way_back={},
        recipe_sha256="",
        source_sha256={},
        labels={"background": 0, "tumour": 1},
        ignore_label=None,
    )
    return read_info(path)


def tensors(image: NDArray[Any], label: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(image).to(torch.float32, copy=True), torch.from_numpy(label).to(torch.float32, copy=True)


def mapped(info: StoredInfo) -> Row:
    volume = StoredVolume(info)

    def read(z: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert volume.label is not None
        return tensors(volume.image[0, :, :, z].T, volume.label[:, :, z].T)

    return Row("seg3d, one HDF5 volume, memory map (float16 + uint8)", read, [info.path])


def mapped_anew(info: StoredInfo) -> Row:
    def read(z: int) -> tuple[torch.Tensor, torch.Tensor]:
        return mapped(info).read(z)

    return Row("the same, mapped anew for every slice", read, [info.path])


def through_hdf5(info: StoredInfo) -> Row:
    file = h5py.File(info.path, "r")

    def read(z: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors(file["image"][0, z], file["label"][z])

    return Row("the same file through h5py", read, [info.path])


def npy(folder: Path, image: NDArray[Any], label: NDArray[Any], name: str) -> Row:
    for kind, array in (("data", image), ("masks", label)):
        (folder / kind).mkdir(parents=True)
        for z in range(SHAPE[2]):
            np.save(folder / kind / f"{z}.npy", np.ascontiguousarray(array[:, :, z].T))

    def read(z: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors(np.load(folder / "data" / f"{z}.npy"), np.load(folder / "masks" / f"{z}.npy"))

    return Row(name, read, sorted(folder.rglob("*.npy")))


def make_rows(folder: Path) -> list[Row]:
    image, label = make_scan()
    info = store_scan(folder, image, label)
    rows = [mapped(info), mapped_anew(info), through_hdf5(info)]
    for kind in (np.float64, np.float32):
        name = np.dtype(kind).name
        rows.append(npy(folder / name, image.astype(kind), label.astype(kind), f".npy per slice, {name} + {name}"))
    rows.append(npy(folder / "float16", image.astype(np.float16), label, ".npy per slice, float16 + uint8"))
    return rows


def check(rows: list[Row], slices: int) -> None:
    """Fail where two rows do not read the same."""
    for z in range(0, slices, 9):
        image, label = rows[0].read(z)
        for row in rows[1:]:
            found = row.read(z)
            torch.testing.assert_close(found[0], image, atol=1e-3, rtol=0)
            torch.testing.assert_close(found[1], label, atol=0, rtol=0)


def epochs(row: Row) -> Callable[[], int]:
    """Every slice once, in an order that is new each time."""
    numbers = iter(range(10**9))

    def work() -> int:
        order = keyed(0, "benchmark", "slices", next(numbers)).permutation(SHAPE[2]).tolist()
        for z in order:
            row.read(z)
        return len(order)

    return work


def measure(rows: list[Row], seconds: float, repeats: int) -> None:
    works = [epochs(row) for row in rows]
    for row in rows:
        row.rates.clear()
    for _ in range(repeats):
        for row, work in zip(rows, works, strict=True):
            row.rates += rates(work, seconds, 1)


def print_rows(title: str, rows: list[Row]) -> None:
    first = statistics.median(rows[0].rates)
    print(f"\n#### {title}\n\n| | median slices/s | min..max | first row is | MiB on disk |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        median = statistics.median(row.rates)
        spread = f"{min(row.rates):,.0f}..{max(row.rates):,.0f}"
        print(f"| {row.name} | {median:,.0f} | {spread} | {first / median:.1f}x | {row.disk_mib:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder))
        check(rows, SHAPE[2])
        print(f"\n### Axial slices of a 256x256x128 CT\n\n{describe_machine(['torch', 'numpy', 'h5py'])}")
        measure(rows, chosen.seconds, chosen.repeats)
        print_rows("Memory allocation as it is", rows)
        # as every run of seg3d does; it helps the others too
        keep_freed_memory()
        measure(rows, chosen.seconds, chosen.repeats)
        print_rows("Freed memory kept, as in every run of seg3d", rows)


if __name__ == "__main__":
    main()
