"""Every fault of a dataset at once."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg3d.cases.case import Case, Dataset
from seg3d.cases.placement import placement_notes
from seg3d.errors import DataError, Fault
from seg3d.io import (
    ImageHeader,
    count_labels,
    describe_undeclared,
    fit_channels,
    is_picture,
    read_header,
    read_label_map,
    read_volume,
)
from seg3d.volume import Volume

_WHITE = {255, 65535}  # of 8 and of 16 bits


@dataclass
class _Findings:
    """What was found in a case.

    Attributes:
        faults: What is wrong.
        digest: Of its image, where that could be read.
        alpha: Files whose alpha channel is dropped.
        bits: A picture of each bit depth.
    """

    faults: list[Fault] = field(default_factory=list)
    digest: str = ""
    alpha: list[Path] = field(default_factory=list)
    bits: dict[int, Path] = field(default_factory=dict)


def find_faults(dataset: Dataset) -> list[Fault]:
    """All faults and notes, sorted by case; every voxel is read once, a few cases at a time.

    Notes are allowed but told: a case without label map or without foreground, two cases with the same image, pictures
    whose alpha channel is dropped, that viewers show turned, or that are not all of one bit depth, and what
    :func:`~seg3d.cases.placement.placement_notes` tells of scans.
    """
    faults = list(dataset.faults)
    if not dataset.cases:
        faults.append(Fault(str(dataset.source), "no_cases", "the dataset has no cases"))
    images: dict[str, list[str]] = defaultdict(list)
    alpha: list[Path] = []
    bits: dict[int, Path] = {}
    # decompression releases the interpreter, so threads are enough
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for case, found in zip(dataset.cases, pool.map(lambda c: _check(c, dataset), dataset.cases), strict=True):
            faults += found.faults
            alpha += found.alpha
            bits = found.bits | bits
            if found.digest:
                images[found.digest].append(case.case_id)
    groups = {case.case_id: case.group for case in dataset.cases}
    faults += [
        Fault(", ".join(same), "same_image", "these cases have the same image", fix="Give them one group.", note=True)
        for same in images.values()
        if len(same) > 1 and len({groups[case] for case in same}) > 1
    ]
    if alpha:
        files = f"{len(alpha)} picture{'s' * (len(alpha) > 1)}, the first {alpha[0]}"
        faults.append(Fault(str(dataset.source), "alpha_dropped", "alpha channels are not read", files, note=True))
    if len(bits) > 1:
        files = ", ".join(f"{depth} bits in {path}" for depth, path in sorted(bits.items()))
        fix = "Grey values are read as they stand: normalise each image by itself (zscore, minmax, percentile)."
        faults.append(
            Fault(str(dataset.source), "bit_depths", "pictures differ in bit depth", files, fix=fix, note=True)
        )
    return sorted(faults)


def _check(case: Case, dataset: Dataset) -> _Findings:
    found = _Findings()
    faults = found.faults
    headers = [_attempt(case, path, read_header, faults) for path in case.images]
    known = [header for header in headers if header is not None]
    digest, read = hashlib.sha256(), 0
    if len(known) == len(headers):
        faults += _channel_faults(case, known, dataset)
    if known:  # the others lie where the first does, or that is told
        faults += placement_notes(case.case_id, known[0])
    for header in known:
        volume = _image(case, header, dataset, found)
        if volume is not None:
            read += 1
            faults += _voxel_faults(case, header.path, volume)
            digest.update(str(volume.data.shape).encode())
            digest.update(np.ascontiguousarray(volume.data.T).data)
    if case.label is not None:
        _check_label(case, case.label, known[0] if known else None, dataset, found)
    elif not case.negative:
        faults.append(Fault(case.case_id, "no_label", "the case has no label map", note=True))
    found.digest = digest.hexdigest() if read == len(case.images) else ""
    return found


def _image(case: Case, header: ImageHeader, dataset: Dataset, found: _Findings) -> Volume | None:
    """The voxels of a file; of a picture, those of the channels that are wanted."""
    if header.format == "picture":
        _note_picture(case, header, found)
    volume: Volume | None = _attempt(case, header.path, read_volume, found.faults)
    if volume is None or header.format != "picture":
        return volume
    found.bits.setdefault(max(8, header.native.bits), header.path)  # fewer are spread over 8
    wanted = len(dataset.channels) if len(case.images) == 1 else 1
    fitted: Volume | None = _attempt(
        case, header.path, partial(fit_channels, volume, wanted), found.faults, kind="channels"
    )
    return fitted


def _note_picture(case: Case, header: ImageHeader, found: _Findings) -> None:
    if header.native.alpha:
        found.alpha.append(header.path)
    if header.shown_turned:
        where = f"{case.case_id} {header.path}"
        what = "viewers are told to show the picture turned; its pixels are read as they are stored"
        fix = "Check that image and label map agree."
        found.faults.append(Fault(where, "shown_turned", what, fix=fix, note=True))


def _attempt(case: Case, path: Path, read: Any, faults: list[Fault], kind: str = "unreadable") -> Any:
    """What ``read`` gives, or ``None`` and one more fault."""
    try:
        return read(path)
    except DataError as error:
        kind = kind if path.is_file() else "missing_file"
        got, expected = ("" if v is None else str(v) for v in (error.got, error.expected))
        faults.append(Fault(f"{case.case_id} {path}", kind, error.what, got, expected, error.fix or ""))
        return None


def _channel_faults(case: Case, headers: list[ImageHeader], dataset: Dataset) -> Iterator[Fault]:
    wanted = len(dataset.channels)
    each = wanted if len(headers) == 1 else 1  # of a picture, whose colours are looked at once they are read
    found = sum(each if header.format == "picture" else header.channels for header in headers)
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


def _check_label(case: Case, path: Path, image: ImageHeader | None, dataset: Dataset, found: _Findings) -> None:
    header = _attempt(case, path, read_header, found.faults)
    if header is None:
        return
    if header.format == "picture":
        _note_picture(case, header, found)
    if image is not None:
        found.faults += _grid_faults(case, header, image)
    declared = {0, *dataset.labels.values(), dataset.ignore_label}
    label = _attempt(case, path, partial(read_label_map, declared=declared), found.faults)
    if label is not None:
        found.faults += _value_faults(f"{case.case_id} {path}", path, count_labels(label.data), dataset)


def _value_faults(where: str, path: Path, counts: Mapping[int, int], dataset: Dataset) -> Iterator[Fault]:
    declared = {0, *dataset.labels.values(), dataset.ignore_label}
    unknown = describe_undeclared(counts, declared, _unit(path)) if dataset.labels else ""
    if unknown:
        what = "label values that are not declared"
        yield Fault(where, "undeclared_label", what, unknown, str(dataset.labels), _undeclared_fix(path))
    if not set(counts) - {0, dataset.ignore_label}:
        yield Fault(where, "no_foreground", "the case has no foreground", note=True)


def refuse_undeclared(label: NDArray[Any], path: Path, declared: Collection[int | None]) -> None:
    """Refuse a label map with values that are neither 0 nor declared.

    Args:
        label: Its voxels, unsigned integers.
        path: Its file.
        declared: Values that may stand in it; ``None`` among them counts for nothing.

    Raises:
        DataError: It holds others; the message says which and how many voxels.
    """
    unknown = describe_undeclared(count_labels(label), declared, _unit(path))
    if unknown:
        raise DataError(
            "the label map holds values that are not declared",
            where=path,
            got=unknown,
            expected=", ".join(str(value) for value in sorted(value for value in declared if value is not None)),
            fix=_undeclared_fix(path),
        )


def refuse_grey_levels(label: NDArray[Any], path: Path) -> None:
    """Refuse a picture's label map that nothing declares and that is neither black and white nor plain indices.

    White beside other values is the end of a scale of greys, or a label of its own that only a declaration can tell.

    Args:
        label: Its voxels, unsigned integers, black and white being 0 and 1.
        path: Its file; anything but a picture is let pass.

    Raises:
        DataError: It holds white and other values; the message says which and how many pixels.
    """
    counts = count_labels(label) if is_picture(path) else {}
    if len(set(counts) - {0}) > 1 and _WHITE & set(counts):
        raise DataError(
            "white stands beside other values, and nothing declares what they mean",
            where=path,
            got=describe_undeclared(counts, {0}, "pixel"),
            expected="0 and 255, or indices",
            fix="Give a config that declares the labels; grey levels come from interpolation or JPEG: mask it anew.",
        )


def _unit(path: Path) -> str:
    return "pixel" if is_picture(path) else "voxel"


def _undeclared_fix(path: Path) -> str:
    if is_picture(path):
        return "Declare them as labels; grey levels between them come from interpolation or JPEG: mask it anew."
    return "Declare them in the dataset's labels, or correct the file."
