"""How large tiles may be: what a pass needs, counted, against what there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import nn

from seg3d.errors import ConfigError
from seg3d.inference.exact import ExactTiles, Range, aligned_ranges, input_range
from seg3d.inference.forward import Forward
from seg3d.inference.live import pass_bytes
from seg3d.inference.reach import Geometry
from seg3d.models import fitting_size
from seg3d.models.planar import Planar
from seg3d.volume import Shape

KEY = "predict.memory_gib"
# for scratch space of the kernels and holes in the heap, which the count does not see; some networks need more
_SLACK = 1.4
_LARGEST_CHUNK = 16
_PART_VOXELS = 1 << 20  # of the input: enough work for a call, and more does not help
# compiled kernels, their buffers and modules that are loaded for a first pass: 23 to 44 MiB, by the processor
_KERNELS = 48 << 20
# by architecture: it is asked about for many volumes, and by every member of an ensemble
_COUNTED: dict[tuple[object, ...], tuple[float, int]] = {}
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def available_bytes(device: torch.device, limit: int | None) -> int:
    """Memory for tiles and their answers.

    Args:
        device: Where they are.
        limit: What the process, or all that is on a GPU, may hold in all; ``None``: half of what is free.
    """
    if device.type == "cuda":
        free, total = _free_memory_of_gpu(device), torch.cuda.mem_get_info(device)[1]
        return int(free * 0.8) if limit is None else limit - (total - free)
    if limit is None:
        return _free_memory() // 2
    return limit - int(psutil.Process().memory_info().rss) - _KERNELS


def _free_memory_of_gpu(device: torch.device) -> int:
    free = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _free_memory() -> int:
    free = int(psutil.virtual_memory().available)
    if _GROUP_LIMIT.exists() and (text := _GROUP_LIMIT.read_text().strip()).isdigit():
        free = min(free, max(0, int(text) - psutil.Process().memory_info().rss))
    return free


@dataclass(frozen=True, eq=False)
class Job:
    """A volume that is to be cut up for a network; all axes with the slab axis first.

    Attributes:
        network: The network.
        forward: How it is applied.
        geometry: How far it looks.
        margin: Voxels by which its input is larger than its answer.
        size: Voxels of the volume.
        channels: Channels of the image.
        views: How many views of the volume are averaged.
    """

    network: nn.Module
    forward: Forward
    geometry: Geometry
    margin: Shape
    size: Shape
    channels: int
    views: int


def plan_exact(job: Job, tile: Shape | None, memory: int) -> ExactTiles:
    """The tiles that fit with the least work.

    Args:
        job: The volume and the network.
        tile: Voxels of a tile at most, where the user has said so.
        memory: Bytes for a pass and its answer.

    Raises:
        ConfigError: Not even the smallest tile fits; it says what would do.
    """
    cost = _PlaneCost(job)
    best: tuple[float, ExactTiles] | None = None
    least = math.inf
    for chunk, cut in itertools.product(_chunks(job), _cuts(job, tile)):
        needed = cost.bytes(cut, chunk)
        pieces = math.prod(map(len, cut)) * job.views
        plane = 0 if pieces == 1 else 4 * cost.outputs * job.size[1] * job.size[2]
        slab = _slab(job, tile, plane, memory - needed)
        least = min(least, needed + plane * min(2 * job.geometry.stride[0], job.size[0]))
        if slab:
            ranges = aligned_ranges(job.size[0], slab, job.geometry.stride[0])
            work = _work(job, 0, ranges) * _work(job, 1, cut[0]) * _work(job, 2, cut[1]) * (1 + 0.5 / chunk)
            if best is None or work < best[0]:
                best = work, ExactTiles((ranges, *cut), chunk, int(needed))
        if best is not None and best[1].whole_planes and len(best[1].ranges[0]) == 1:
            break  # nothing needs less work
    if best is None:
        raise too_little(least, memory)
    return best[1]


def _slab(job: Job, tile: Shape | None, plane: int, memory: float) -> int:
    """Planes whose answer is held at once, where ``plane`` bytes are needed for each; 0: none fits."""
    stride = job.geometry.stride[0]
    wanted = job.size[0] if tile is None else max(tile[0], stride)
    if memory < 0:
        return 0
    if not plane or (wanted >= job.size[0] and job.size[0] * plane <= memory):
        return wanted
    # the slab that was handed on before is still held by whoever took it
    return min(wanted, int(memory / (2 * plane)) // stride * stride)


def fit_blended(
    network: nn.Module,
    forward: Forward,
    tile: Shape,
    batch_size: int,
    margin: Shape,
    size: Shape,
    channels: int,
    memory: int,
) -> tuple[Shape, int]:
    """Size and number of the blended tiles that are computed at once.

    As asked for if that fits; else one at a time; else smaller ones.

    Raises:
        ConfigError: The network takes no tiles of that size, or not even the smallest tile fits; it says what would do.
    """
    stride = _stride(network)
    if not stride:
        return tile, batch_size  # a network of a user's own, whose forward may not be for trying out
    _refuse_unfit(network, tile, margin, stride)
    while True:
        held, sums = _blended_bytes(forward, tile, margin, size, channels)
        for batch in range(batch_size, 0, -1):
            needed = int(held * _SLACK) * batch + sums
            if needed <= memory:
                return tile, batch
        smaller = _smaller(tile, margin, stride)
        if smaller is None:
            raise too_little(needed, memory)
        tile = smaller


def _refuse_unfit(network: nn.Module, tile: Shape, margin: Shape, stride: int) -> None:
    inner = network.network if isinstance(network, Planar) else network
    lost = getattr(inner, "margin", 0)
    for axis in range(3) if inner is network else (1, 2):
        given = tile[axis] + 2 * margin[axis]
        if given != fitting_size(given, stride, lost):
            raise ConfigError(
                "the network takes no tiles of this size",
                where="predict.tile_size, sampling.patch_size",
                got=tile[axis],
                expected=f"{fitting_size(given, stride, lost) - 2 * margin[axis]}, or less by multiples of {stride}",
                fix="In an ensemble a tile size has to fit every network.",
            )


def refuse_small_memory(
    network: nn.Module,
    forward: Forward,
    tile: Shape,
    batch_size: int,
    margin: Shape,
    size: Shape,
    channels: int,
    device: torch.device,
    limit: int | None,
) -> None:
    """Raise where blended tiles do not fit as they are asked for: the limit, or without one all memory that is free.

    Raises:
        ConfigError: They do not; it says what would do.
    """
    if not _stride(network):
        return
    held, sums = _blended_bytes(forward, tile, margin, size, channels)
    if limit is None:  # what the count does not see may be little: no more is refused than what cannot be
        free = _free_memory_of_gpu(device) if device.type == "cuda" else _free_memory()
        needed = held * batch_size + sums
    else:
        free, needed = available_bytes(device, limit), int(held * _SLACK) * batch_size + sums
    if needed > free:
        raise tiles_do_not_fit(f"{max(0, free) / 2**30:.3f} GiB", f"{needed / 2**30:.3f} GiB")


def _stride(network: nn.Module) -> int:
    """Input voxels per coarsest voxel; 0 for a network that is none of ours."""
    found = getattr(network.network if isinstance(network, Planar) else network, "stride", 0)
    return found if isinstance(found, int) else 0  # a convolution has a stride for each axis


def _blended_bytes(forward: Forward, tile: Shape, margin: Shape, size: Shape, channels: int) -> tuple[int, int]:
    """Bytes of a pass over one tile, and of what the answers of all tiles are added up in."""
    given = [n + 2 * m for n, m in zip(tile, margin, strict=True)]
    held, outputs = pass_bytes(forward.without_values(), (channels, given[0], given[1], given[2]), None)
    # sums of probabilities and weights, and a copy while they move on
    return held, 2 * 4 * (outputs + 1) * min(size[0], 2 * tile[0]) * size[1] * size[2]


def _smaller(tile: Shape, margin: Shape, stride: int) -> Shape | None:
    """A tile of about half the voxels that the network still takes."""
    axis = max(range(3), key=lambda a: tile[a])
    if not stride or tile[axis] < 4 * stride:
        return None
    lost = margin[axis]
    sizes = list(tile)
    sizes[axis] = fitting_size(tile[axis] // 2 + 2 * lost, stride, lost) - 2 * lost
    return (sizes[0], sizes[1], sizes[2]) if sizes[axis] < tile[axis] else None


def too_little(least: float, memory: int) -> ConfigError:
    """The error that not even the smallest tile fits."""
    short = (least - memory) / 2**30
    return ConfigError(
        "the memory is too small for the smallest tile",
        where=KEY,
        got=f"{max(0, memory) / 2**30:.3f} GiB",
        expected=f"{least / 2**30:.3f} GiB",
        fix=f"Allow {short + 0.0005:.3f} GiB more.",
    )


def tiles_do_not_fit(got: object, expected: object = None) -> ConfigError:
    """The error that blended tiles do not fit as they are asked for, where smaller ones would give another answer."""
    return ConfigError(
        "the memory is too small for the blended tiles that are asked for, and smaller ones would score otherwise",
        where=KEY,
        got=got,
        expected=expected,
        fix="Free memory or allow more of it, or choose a smaller predict.tile_size or predict.batch_size.",
    )


def _chunks(job: Job) -> list[int]:
    """Numbers of planes to try, the largest first; all are multiples of the stride."""
    stride = job.geometry.stride[0]
    plane = job.size[1] * job.size[2]
    most = min(_LARGEST_CHUNK, max(1, _PART_VOXELS // plane), job.size[0])
    found = [max(stride, most // stride * stride)]
    while found[-1] >= 2 * stride:
        found.append(found[-1] // 2 // stride * stride)
    return found


def _cuts(job: Job, tile: Shape | None) -> list[tuple[tuple[Range, ...], tuple[Range, ...]]]:
    """Ways to cut planes into columns, the fewest first."""
    if tile is not None:
        return [(_ranges(job, 1, tile[1]), _ranges(job, 2, tile[2]))]
    axes = []
    for axis in (1, 2):
        size, stride = job.size[axis], job.geometry.stride[axis]
        counts = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}
        sizes = {max(stride, -(-size // (count * stride)) * stride) for count in counts}
        axes.append([_ranges(job, axis, n) for n in sorted(sizes, reverse=True)])
    return [(y, z) for y, z in itertools.product(*axes)]


def _ranges(job: Job, axis: int, tile: int) -> tuple[Range, ...]:
    stride = job.geometry.stride[axis]
    return aligned_ranges(job.size[axis], max(tile, stride), stride)


def _work(job: Job, axis: int, ranges: Sequence[Range]) -> int:
    """Voxels of all parts of an axis with their surroundings."""
    return sum(_needed(job, axis, ranges))


def _needed(job: Job, axis: int, ranges: Sequence[Range]) -> list[int]:
    taken = (input_range(axis, part, job.size[axis], job.geometry, job.margin) for part in ranges)
    return [b - a for a, b in taken]


class _PlaneCost:
    """Bytes of a pass, which grow with the area of the planes that it is given; counted on small planes."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.outputs = 0
        # what memory depends on: modules with their settings, the shapes of their weights, how far they look
        shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in job.network.state_dict().items())
        self._architecture = (str(job.network), shapes, job.geometry)

    def bytes(self, cut: Sequence[Sequence[Range]], chunk: int) -> float:
        """Bytes for the largest column of a cut."""
        per_voxel, self.outputs = self._of(chunk)
        area = math.prod(max(_needed(self._job, axis, ranges)) for axis, ranges in enumerate(cut, start=1))
        return area * per_voxel * _SLACK

    def _of(self, chunk: int) -> tuple[float, int]:
        """Bytes for each voxel of a plane, and the number of outputs."""
        job = self._job
        key = (*self._architecture, job.channels, chunk, job.margin, job.forward.planar)
        if key not in _COUNTED:
            along, y, z = (self._size(axis, 4 * chunk if axis == 0 else 32) for axis in range(3))
            held, outputs = pass_bytes(job.forward.without_values(), (job.channels, along, y, z), chunk)
            _COUNTED[key] = held / (y * z), outputs
        return _COUNTED[key]

    def _size(self, axis: int, middle: int) -> int:
        """Voxels of an input whose middle sees no face."""
        job = self._job
        stride, halo, lost = job.geometry.stride[axis], job.geometry.halo[axis], job.margin[axis]
        if not job.geometry.padded and job.geometry.reach[axis]:
            return fitting_size(middle + 2 * lost, stride, lost)
        return -(-(middle + 2 * halo) // stride) * stride + 2 * lost
