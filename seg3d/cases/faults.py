"""Every fault of a dataset at once."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.cases.case import Case, Dataset
from seg3d.errors import DataError, Fault
from seg3d.io import ImageHeader, read_header, read_label_map, read_volume
from seg3d.volume import Volume


def find_faults(dataset: Dataset) -> list[Fault]:
    """All faults and notes, sorted by case; every voxel is read once, a few cases at a time.

    Notes are allowed but told: a case without label map or without foreground, two cases with the same image.
    """
    faults = list(dataset.faults)
    if not dataset.cases:
        faults.append(Fault(str(dataset.source), "no_cases", "the dataset has no cases"))
    images: dict[str, list[str]] = defaultdict(list)
    # decompression releases the interpreter, so threads are enough
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for case, (found, digest) in zip(
            dataset.cases, pool.map(lambda c: _check(c, dataset), dataset.cases), strict=True
        ):
            faults += found
            if digest:
                images[digest].append(case.case_id)
    groups = {case.case_id: case.group for case in dataset.cases}
    faults += [
        Fault(", ".join(same), "same_image", "these cases have the same image", fix="Give them one group.", note=True)
        for same in images.values()
        if len(same) > 1 and len({groups[case] for case in same}) > 1
    ]
    return sorted(faults)


def _check(case: Case, dataset: Dataset) -> tuple[list[Fault], str]:
    """Faults of a case, and the digest of its image where that could be read."""
    faults: list[Fault] = []
    headers = [_attempt(case, path, read_header, faults) for path in case.images]
    known = [header for header in headers if header is not None]
    digest = hashlib.sha256()
    if len(known) == len(headers):
        faults += _channel_faults(case, known, dataset)
    for header in known:
        volume = _attempt(case, header.path, read_volume, faults)
        if volume is not None:
            faults += _voxel_faults(case, header.path, volume)
            digest.update(np.ascontiguousarray(volume.data.T).data)
    if case.label is None:
        faults.append(Fault(case.case_id, "no_label", "the case has no label map", note=True))
    else:
        reference = known[0] if known else None
        faults += _label_faults(case, case.label, reference, dataset)
    return faults, digest.hexdigest() if known else ""


def _attempt(case: Case, path: Path, read: Any, faults: list[Fault]) -> Any:
    """What ``read`` gives, or ``None`` and one more fault."""
    try:
        return read(path)
    except DataError as error:
        kind = "unreadable" if path.is_file() else "missing_file"
        got, expected = ("" if v is None else str(v) for v in (error.got, error.expected))
        faults.append(Fault(f"{case.case_id} {path}", kind, error.what, got, expected, error.fix or ""))
        return None


def _channel_faults(case: Case, headers: list[ImageHeader], dataset: Dataset) -> Iterator[Fault]:
    found, wanted = sum(header.channels for header in headers), len(dataset.channels)
    if found != wanted:
        what = "the image is 4D where 3D is meant" if wanted == 1 else "wrong number of channels"
        expected = f"{wanted} ({', '.join(dataset.channels)})"
        yield Fault(case.case_id, "channels", what, f"{found} channels", expected)
    for header in headers[1:]:
        yield from _grid_faults(case, header, headers[0])


def _grid_faults(case: Case, header: ImageHeader, reference: ImageHeader) -> Iterator[Fault]:
    where = f"{case.case_id} {header.path}"
    if header.grid.shape != reference.grid.shape:
        got, expected = str(header.grid.shape), f"{reference.grid.shape} of {reference.path.name}"
        yield Fault(where, "shape_mismatch", "another shape than the image", got, expected)
    elif not header.grid.same_as(reference.grid):
        got = str(header.grid.affine.round(3).tolist())
        expected = f"{reference.grid.affine.round(3).tolist()} of {reference.path.name}"
        yield Fault(where, "affine_mismatch", "another affine than the image", got, expected)


def _voxel_faults(case: Case, path: Path, volume: Volume) -> Iterator[Fault]:
    if volume.data.dtype.kind == "f":
        count = int(np.count_nonzero(~np.isfinite(volume.data)))
        if count:
            what = "voxels are not finite"
            yield Fault(
                f"{case.case_id} {path}", "non_finite", what, f"{count} voxels", fix="Replace NaN and infinity."
            )


def _label_faults(case: Case, path: Path, image: ImageHeader | None, dataset: Dataset) -> list[Fault]:
    faults: list[Fault] = []
    header = _attempt(case, path, read_header, faults)
    if header is None:
        return faults
    if image is not None:
        faults += _grid_faults(case, header, image)
    label = _attempt(case, path, read_label_map, faults)
    if label is None:
        return faults
    values = set(np.flatnonzero(np.bincount(label.data.ravel(order="K"))).tolist())
    unknown = sorted(values - {0, *dataset.labels.values(), dataset.ignore_label})
    if unknown and dataset.labels:
        what = "label values that are not declared"
        faults.append(Fault(f"{case.case_id} {path}", "undeclared_label", what, str(unknown), str(dataset.labels)))
    if not values - {0, dataset.ignore_label}:
        faults.append(Fault(f"{case.case_id} {path}", "no_foreground", "the case has no foreground", note=True))
    return faults
