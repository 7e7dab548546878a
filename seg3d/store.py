"""The HDF5 volume: one file per case, written whole or not at all, read by memory map.

On disk the axes are ``(channel, z, y, x)``, so that an axial slice and every row of a patch lie in one piece; in memory
everything is a view ``(channel, x, y, z)``. Image and label are contiguous datasets: their place in the file is
known once it is written, and a patch is copied from a memory map without passing through HDF5.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seg3d.atomic import atomic_path, told_late
from seg3d.errors import StoreError
from seg3d.label_index import BLOCK, CutOff, class_boxes, count_blocks, count_slices, find_lesions
from seg3d.volume import Grid, Shape

SCHEMA_VERSION = 3  # 2 did not say which file gave which channel, nor what was cut off
SUFFIX = ".h5"
_LAYOUT: dict[str, Any] = {"libver": "v110", "alignment_threshold": 256, "alignment_interval": 64}  # for memory maps
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]*")
Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Lesion:
    """A connected component (26 neighbours) of one class.

    Attributes:
        number: Its value in the component map, from 1.
        class_value: Label value.
        size: Voxels.
        start: First voxel (x, y, z) of its box.
        stop: One past the last voxel of its box.
    """

    number: int
    class_value: int
    size: int
    start: Shape
    stop: Shape


@dataclass(frozen=True, eq=False)
class StoredInfo:
    """What a stored volume says of itself, without its voxels.

    Attributes:
        minimum: Each channel's smallest value.
        source_sha256: SHA-256 of each source file by name.
        roles: Name of the source file by what it gave: ``"image 0"``, ``"image 1"`` and so on, ``"label"``.
        cut_off: Classes of which cropping left nothing of a lesion.
        stamp: Inode, bytes and time of change of the file that was read. It is never stored: a store that is copied or
            moved is another file with the same content.
    """

    path: Path
    case_id: str
    channels: int
    minimum: tuple[float, ...]
    grid: Grid
    way_back: dict[str, Any]
    labels: dict[str, int]
    ignore_label: int | None
    class_counts: dict[int, int]
    lesions: tuple[Lesion, ...]
    recipe_sha256: str
    source_sha256: dict[str, str]
    roles: dict[str, str]
    cut_off: tuple[CutOff, ...]
    content_sha256: str
    stamp: Stamp
    image_offset: int
    label_offset: int | None
    blocks_offset: int | None
    weights_offset: int | None
    label_dtype: str

    def slice_counts(self, axis: int) -> dict[int, NDArray[Any]]:
        """Voxels of each class in each slice across an axis (0, 1, 2); read from the index, not from the voxels."""
        with _opened(self) as file:
            counts: NDArray[Any] = file["slices"]["xyz"[axis]][()]
        return dict(zip(self.class_counts, counts, strict=True))


def stored_path(store: Path, case_id: str) -> Path:
    """The file of a case in a store folder.

    Raises:
        StoreError: The case name cannot be a file name.
    """
    if not _SAFE_NAME.fullmatch(case_id):
        raise StoreError(
            "the case name cannot be a file name",
            where=case_id,
            expected="letters, digits and . _ + = @ -, the first a letter or digit",
            fix="Rename the case.",
        )
    return store / f"{case_id}{SUFFIX}"


def write_stored(
    path: Path,
    *,
    case_id: str,
    image: NDArray[np.float16],
    label: NDArray[Any] | None,
    grid: Grid,
    way_back: Mapping[str, Any],
    recipe_sha256: str,
    source_sha256: Mapping[str, str],
    labels: Mapping[str, int],
    ignore_label: int | None,
    roles: Mapping[str, str] | None = None,
    cut_off: Sequence[CutOff] = (),
    weights: NDArray[np.float16] | None = None,
) -> None:
    """Write one prepared case, atomically.

    Args:
        path: The file.
        case_id: Name of the case.
        image: ``(channel, x, y, z)``, float16, normalised.
        label: ``(x, y, z)``, uint8 or uint16, or ``None`` for a case without one.
        grid: The prepared grid.
        way_back: JSON of the way back to the source grid.
        recipe_sha256: Digest of the recipe that prepared it.
        source_sha256: SHA-256 of each source file by name.
        labels: Label values by name.
        ignore_label: Label value that counts nowhere; it gets no block counts.
        roles: Name of the source file by what it gave: ``"image 0"``, ``"label"``.
        cut_off: Classes of which cropping left nothing of a lesion.
        weights: ``(x, y, z)``, float16: what each voxel weighs in the loss, or ``None`` where all are alike.

    Raises:
        StoreError: The disk is full or the file cannot be written; nothing is left behind.
    """
    _refuse_misfits(image, label, weights, grid)
    attributes = {
        "schema_version": SCHEMA_VERSION,
        "case_id": case_id,
        "axes": "czyx",
        "affine": grid.affine,
        "minimum": image.min(axis=(1, 2, 3)).astype(np.float32),
        "way_back": json.dumps(dict(way_back), sort_keys=True),
        "recipe_sha256": recipe_sha256,
        "source_sha256": json.dumps(dict(source_sha256), sort_keys=True),
        "roles": json.dumps(dict(roles or {}), sort_keys=True),
        "cut_off": json.dumps([astuple(each) for each in cut_off]),
        "labels": json.dumps(dict(labels)),
        "ignore_label": -1 if ignore_label is None else ignore_label,
    }
    try:
        _require_space(path, sum(array.nbytes for array in (image, label, weights) if array is not None))
        with atomic_path(path) as temporary, told_late(temporary) as raw, h5py.File(raw, "w", **_LAYOUT) as file:
            _write_voxels(file, image, label, weights)
            if label is not None:
                _write_index(file, label, sorted(set(labels.values()) - {ignore_label}))
            attributes["content_sha256"] = content_sha256(image, label, grid, weights)
            file.attrs.update(attributes)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            "the disk is full" if full else "the volume cannot be written",
            where=path,
            got=None if full else error,
            fix="Free some space and prepare again: finished cases are kept." if full else None,
        ) from error


def _refuse_misfits(image: NDArray[Any], label: NDArray[Any] | None, weights: NDArray[Any] | None, grid: Grid) -> None:
    if image.dtype != np.float16 or image.shape[1:] != grid.shape:
        raise ValueError(f"image is float16 (channel, *{grid.shape}), got {image.dtype} {image.shape}")
    if label is not None and (label.shape != grid.shape or label.dtype not in (np.uint8, np.uint16)):
        raise ValueError(f"label is uint8 or uint16 {grid.shape}, got {label.dtype} {label.shape}")
    if weights is not None and (label is None or weights.shape != grid.shape or weights.dtype != np.float16):
        raise ValueError(f"weights are float16 {grid.shape} of a label, got {weights.dtype} {weights.shape}")


def content_sha256(
    image: NDArray[Any], label: NDArray[Any] | None, grid: Grid, weights: NDArray[Any] | None = None
) -> str:
    """SHA-256 over voxels (in file order) and affine, rounded to 1e-9 mm."""
    digest = hashlib.sha256()
    for array in (image.transpose(0, 3, 2, 1), *(None if map_ is None else map_.T for map_ in (label, weights))):
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            for plane in array:
                digest.update(np.ascontiguousarray(plane).data)
    digest.update(np.round(grid.affine, 9).astype("<f8").tobytes())
    return digest.hexdigest()


def read_info(path: Path) -> StoredInfo:
    """What a stored volume says of itself; no voxel is read.

    Raises:
        StoreError: Missing, unreadable, or of another schema version.
    """
    with _told_damage(path), h5py.File(path, "r") as file:
        # of the open file: by its name another one could be there already
        return _info(path, file, _stamp(file.id.get_vfd_handle()))


@contextmanager
def _told_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, LookupError, ValueError, TypeError, RuntimeError) as error:  # whatever a wrong byte comes to
        raise StoreError(
            "this is not a complete stored volume", where=path, got=error, fix="Delete it and run 'seg3d prepare'."
        ) from error


def _missing(path: Path) -> StoreError:
    return StoreError("the stored volume is missing", where=path, fix="Run 'seg3d prepare'.")


def _stamp(handle: int) -> Stamp:
    """What tells an open file from one that took its name: a store is replaced file by file."""
    status = os.fstat(handle)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _refuse_replaced(info: StoredInfo, handle: int) -> None:
    if _stamp(handle) != info.stamp:
        raise StoreError(
            "the stored volume was replaced while it was in use",
            where=info.path,
            expected=f"the file of content {info.content_sha256[:12]}, as it was when this process first read it",
            fix="Was the dataset prepared with other settings meanwhile? Give each study with other prepare.* settings "
            "a data.store of its own; then resume the run.",
        )


@contextmanager
def _opened(info: StoredInfo) -> Iterator[h5py.File]:
    """The HDF5 file of which ``info`` tells."""
    with _told_damage(info.path), h5py.File(info.path, "r") as file:
        _refuse_replaced(info, file.id.get_vfd_handle())
        yield file


class StoredVolume:
    """The voxels of a stored volume as views on a memory map; nothing is read before it is touched.

    What is mapped stays as it is, even if another file takes the name; a map that is opened later would be of that one.

    Attributes:
        image: ``(channel, x, y, z)`` float16, x fastest in memory.
        label: ``(x, y, z)``, or ``None``.
        weights: ``(x, y, z)`` float16, or ``None``.
        blocks: ``(class, block x, block y, block z)`` uint32 voxel counts in the order of ``info.class_counts``.

    Raises:
        StoreError: The file is missing, or is not the one of which ``info`` tells.
    """

    def __init__(self, info: StoredInfo) -> None:
        self.info = info
        x, y, z = info.grid.shape
        try:
            file = info.path.open("rb")
        except FileNotFoundError as error:
            raise _missing(info.path) from error
        with file:
            _refuse_replaced(info, file.fileno())
            # private instead of read-only, of which torch would warn; nobody writes
            raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

        def view(offset: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
            return np.frombuffer(raw, dtype, int(np.prod(shape)), offset).reshape(shape)

        self.image = view(info.image_offset, "<f2", (info.channels, z, y, x)).transpose(0, 3, 2, 1)
        self.label = None if info.label_offset is None else view(info.label_offset, info.label_dtype, (z, y, x)).T
        self.weights = None if info.weights_offset is None else view(info.weights_offset, "<f2", (z, y, x)).T
        if info.blocks_offset is not None:
            shape = (len(info.class_counts), *(-(-n // BLOCK) for n in (z, y, x)))
            self.blocks = view(info.blocks_offset, "<u4", shape).transpose(0, 3, 2, 1)

    def components(self, start: Shape, stop: Shape) -> NDArray[Any]:
        """Component numbers ``(x, y, z)`` in a box; 0 is background."""
        (x0, y0, z0), (x1, y1, z1) = start, stop
        with _opened(self.info) as file:
            box: NDArray[Any] = file["components"][z0:z1, y0:y1, x0:x1]
        return box.T

    def verify(self) -> None:
        """Compare the voxels with the content digest.

        Raises:
            StoreError: They differ: the file was damaged or changed by hand.
        """
        found = content_sha256(self.image, self.label, self.info.grid, self.weights)
        if found != self.info.content_sha256:
            raise StoreError(
                "the voxels do not fit their digest",
                where=self.info.path,
                got=found,
                expected=self.info.content_sha256,
                fix="Delete the file and run 'seg3d prepare'.",
            )


def _require_space(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{size} bytes needed, {free} free")


def _write_voxels(
    file: h5py.File, image: NDArray[Any], label: NDArray[Any] | None, weights: NDArray[Any] | None
) -> None:
    file.create_dataset("image", data=image.transpose(0, 3, 2, 1), dtype="<f2")
    if label is not None:
        file.create_dataset("label", data=label.T, dtype=label.dtype.newbyteorder("<"))
    if weights is not None:
        file.create_dataset("weights", data=weights.T, dtype="<f2")


def _write_index(file: h5py.File, label: NDArray[Any], classes: list[int]) -> None:
    """What sampling asks for: counts of each class in each block and slice, and its connected components."""
    boxes = class_boxes(label)
    blocks = np.stack([count_blocks(label, value, boxes) for value in classes])
    file.create_dataset("blocks", data=blocks.transpose(0, 3, 2, 1), dtype="<u4")
    file["blocks"].attrs["classes"] = np.array(classes, dtype=np.int64)
    file["blocks"].attrs["counts"] = blocks.sum(axis=(1, 2, 3), dtype=np.int64)
    for axis, name in enumerate("xyz"):
        in_slices = np.stack([count_slices(label, value, boxes, axis) for value in classes])
        file.create_dataset(f"slices/{name}", data=in_slices, dtype="<u4")
    box, numbers, rows = find_lesions(label, classes, boxes)
    shape = label.T.shape
    # mostly zero, and blocks that are not written are: compressed by block, one block is one read
    chunks = tuple(min(BLOCK, n) for n in shape)
    components = file.create_dataset("components", shape, "u4", chunks=chunks, compression="gzip", compression_opts=1)
    if numbers.size:
        components[box[::-1]] = numbers.T
    file.create_dataset("lesions", data=np.array(rows, dtype="<i8").reshape(-1, 9))


def _info(path: Path, file: h5py.File, stamp: Stamp) -> StoredInfo:
    version = int(file.attrs["schema_version"])
    if version != SCHEMA_VERSION:
        raise StoreError(
            "the stored volume is of another schema version",
            where=path,
            got=version,
            expected=SCHEMA_VERSION,
            fix="Prepare the dataset again into a new store.",
        )
    channels, z, y, x = file["image"].shape
    label = file.get("label")
    blocks = file.get("blocks")
    weights = file.get("weights")
    counts = {} if blocks is None else zip(blocks.attrs["classes"], blocks.attrs["counts"], strict=True)
    rows = file["lesions"][()].tolist() if "lesions" in file else []
    ignore = int(file.attrs["ignore_label"])
    return StoredInfo(
        path=path,
        case_id=str(file.attrs["case_id"]),
        channels=channels,
        minimum=tuple(file.attrs["minimum"].tolist()),
        grid=Grid((x, y, z), file.attrs["affine"]),
        way_back=json.loads(file.attrs["way_back"]),
        labels=json.loads(file.attrs["labels"]),
        ignore_label=None if ignore < 0 else ignore,
        class_counts={int(value): int(count) for value, count in counts},
        lesions=tuple(Lesion(r[0], r[1], r[2], tuple(r[3:6]), tuple(r[6:9])) for r in rows),
        recipe_sha256=str(file.attrs["recipe_sha256"]),
        source_sha256=json.loads(file.attrs["source_sha256"]),
        roles=json.loads(file.attrs["roles"]),
        cut_off=tuple(CutOff(*row) for row in json.loads(file.attrs["cut_off"])),
        content_sha256=str(file.attrs["content_sha256"]),
        stamp=stamp,
        image_offset=file["image"].id.get_offset(),
        label_offset=None if label is None else label.id.get_offset(),
        blocks_offset=None if blocks is None else blocks.id.get_offset(),
        weights_offset=None if weights is None else weights.id.get_offset(),
        label_dtype="|u1" if label is None else label.dtype.str,
    )
