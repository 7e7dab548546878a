"""Subject 1: whole volumes predicted by the same network with the same weights."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.harness import Job, Settings, with_and_without
from benchmarks.peers.meter import Measures, Meter
from benchmarks.peers.networks import STRIDE, load_network, made_up_volume, one_pass, write_weights

NAME = "1 prediction"
SCAN = Path("ct_lung_tumour/LUNG1-001_ct.nii.gz")
NORMS = {"batch norm": "batch", "instance norm": "instance"}
TOOLS = {  # name in the table, adapter, distribution, settings
    "MONAI, 1 tile at once": ("monai", "monai", {"batch": 1}),
    "MONAI, 2 tiles at once": ("monai", "monai", {"batch": 2}),
    "TorchIO": ("torchio", "torchio", {"batch": 2}),
    "nnU-Net": ("nnunet", "nnunetv2", {}),
}


def jobs(settings: Settings) -> list[Job]:
    """Both volumes with both norms; the whole CT takes long and is measured once."""
    volumes = {"64 x 64 x 32": None} if settings.quick else {"256 x 256 x 128": None}
    if not settings.quick and (settings.data / SCAN).exists():
        volumes["LUNG1-001"] = settings.data / SCAN
    found: list[Job] = []
    for name, scan in volumes.items():
        for norm in NORMS:
            found += _jobs_of(name, scan, norm, settings)
    return with_and_without(found)


def _jobs_of(name: str, scan: Path | None, norm: str, settings: Settings) -> list[Job]:
    stem = str(settings.folder / f"{name}-{NORMS[norm]}".replace(" ", ""))
    shape = [int(n) for n in name.split(" x ")] if scan is None else []
    made = {"stem": stem, "norm": NORMS[norm], "quick": settings.quick}
    source = {"scan": str(scan or ""), "shape": shape}
    inputs = Job(name, "inputs", "", f"{__name__}:make_inputs", {**made, **source}, tuned=True)
    tile = 32 if settings.quick else 96
    way = "exact" if norm == "batch norm" else "blended"
    tools = {f"seg3d, {way}": ("ours", "seg3d", {"way": way}), **TOOLS}
    return [
        Job(
            f"{name}, {norm}",
            tool,
            package,
            f"{__name__}:measure",
            {**made, "tool": adapter, "tile": tile, "options": options},
            most=1 if scan else 99,
            inputs=inputs,
        )
        for tool, (adapter, package, options) in tools.items()
    ]


def make_inputs(stem: str, norm: str, quick: bool, scan: str, shape: list[int]) -> None:
    """Write the volume, the weights and, where there is one, the label map of one pass over the whole volume."""
    image = read_scan(Path(scan)) if scan else made_up_volume(tuple(shape))
    np.save(f"{stem}.npy", image.numpy())
    write_weights(Path(f"{stem}.pt"), norm, image, quick)
    if norm == "batch":
        np.save(f"{stem}-reference.npy", one_pass(load_network(f"{stem}.pt", norm, quick), image))


def read_scan(path: Path) -> torch.Tensor:
    """A CT ``(1, x, y, z)``, -1000..400 HU as 0..1, cut to a multiple of the network's stride.

    What surrounds another size is each tool's own affair, and moves the grid of the coarse features: with random
    weights that changes half of the labels, and there are several answers of one pass.
    """
    from seg3d.io import read_volume

    data = read_volume(path).data
    x, y, z = (slice(0, n // STRIDE * STRIDE) for n in data.shape[1:])
    return torch.from_numpy((np.clip(data[:, x, y, z].astype(np.float32), -1000, 400) + 1000) / 1400)


def measure(stem: str, norm: str, quick: bool, tool: str, tile: int, options: dict[str, Any]) -> Measures:
    """From the image in memory to the label map in memory."""
    image = torch.from_numpy(np.load(f"{stem}.npy"))
    network = load_network(f"{stem}.pt", norm, quick)
    predict = import_module(f"benchmarks.peers.tools.{tool}").predictor(network, tile, **options)
    with Meter() as meter:
        labels = predict(image)
    assert labels.shape == image.shape[1:], (labels.shape, image.shape)
    return meter.measures | agreement(np.asarray(labels), Path(f"{stem}-reference.npy"))


def agreement(labels: np.ndarray[Any, Any], path: Path) -> Measures:
    """Share of voxels with the label of one pass: of all, and of those beside a border between its labels."""
    if not path.exists():
        return {}  # with instance norm every tile has statistics of its own: there is no answer of one pass
    reference = np.load(path)
    same = labels == reference
    border = np.zeros(reference.shape, bool)
    for axis in range(3):
        differs = np.diff(reference, axis=axis) != 0
        ahead = [slice(None)] * 3
        behind = [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        border[tuple(ahead)] |= differs
        border[tuple(behind)] |= differs
    return {"agreement": 100 * float(same.mean()), "agreement at borders": 100 * float(same[border].mean())}
